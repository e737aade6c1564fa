"""The provisioning service (DPS) of the hub: devices get their identity on first contact.

enrolments.py   individual enrolments and groups, with their keys or certificates
session.py      the registration of a device over MQTT
"""
