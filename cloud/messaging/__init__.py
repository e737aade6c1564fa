"""MQTT: the broker that the cloud starts, and the client with which it talks to devices."""
