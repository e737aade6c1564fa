"""Get a package onto the device: choose a variant, pull its blobs, check and benchmark it.

fetch.py is the worker process that does all of this in order; read it first. oci_client.py speaks to the registry.
"""
