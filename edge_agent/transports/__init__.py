"""Ways to talk to the cloud: MQTT, and HTTPS where that cannot pass. The bodies are the same."""
