"""Devices and modules of the hub.

sas.py              shared access signatures
identities.py       names, keys, certificates, status
twins.py            desired and reported properties, tags
registry.py         all of them, in memory and in the store
certificates.py     uploaded certificates
authentication.py   the credential of a client
"""
