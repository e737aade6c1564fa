"""The transport over an Azure IoT Hub, or over a hub that is compatible with it.

identity.py      the credential of the device or module, and its tokens
sources.py       where it comes from: a connection string, a certificate, provisioning (DPS), or the IoT Edge runtime
provisioning.py  the registration with DPS
edge.py          the workload API of IoT Edge
transport.py     the session: twin, telemetry, direct methods, messages to the device
"""
