"""The registry: blobs and manifests of the OCI store, and the model versions that point to them."""
