"""`edgewright iotedge`: deployment manifests of Azure IoT Edge, written, checked, pushed to a hub and run on one machine."""
