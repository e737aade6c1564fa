"""MQTT: the broker that the cloud runs, and the client that exchanges messages with devices."""
