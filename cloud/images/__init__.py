"""Images: `store.py` keeps the builds, `engine.py` runs them one at a time in worker processes, `build/` makes the layers."""
