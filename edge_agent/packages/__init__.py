"""Fetch a package: choose a variant, pull its blobs, check and benchmark it.

Read fetch.py first, the worker process that calls the others in order. check.py is the worker that checks a slot, and
oci_client.py the client of the registry.
"""
