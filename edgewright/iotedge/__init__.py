"""Deployment manifests of Azure IoT Edge: build, check, combine and push them. No cloud of ours is needed."""
