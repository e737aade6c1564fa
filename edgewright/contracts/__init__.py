"""What the model side, the cloud and the devices agree on: names, packages, signatures, messages, topics."""
