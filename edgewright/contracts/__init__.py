"""Contracts between the model tools, the cloud, the devices and their clients: names, packages, signatures, messages, topics."""
