"""Images: `store.py` keeps the builds, `engine.py` runs a few of them at once in worker processes, `build/` makes the layers."""
