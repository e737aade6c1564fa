"""Routes of what serves a model: environments and images."""
