"""The registry: blobs, manifests and tags, and the model versions that refer to them."""
