"""Devices and modules of the hub.

identities.py       names, keys, certificates, status
twins.py            desired and reported properties, tags
registry.py         all of them, in memory and in the store
certificates.py     uploaded certificates
authentication.py   the credential of a client
"""
