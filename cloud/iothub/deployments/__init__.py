"""Queries over twins, and configurations that are applied to all devices that a condition names.

query.py           IoT Hub's query language, the part that conditions need
content.py         the effective content of several configurations
configurations.py  the configurations of a hub, applied when they or a twin change
"""
