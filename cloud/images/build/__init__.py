"""Build an image without a container engine: read `worker.py` first, then `layers.py`, and one module per kind of layer."""
