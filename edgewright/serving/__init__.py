"""The scoring server: one loaded variant over HTTP.

Read `app.py` first: it lists the steps of a request and the module of each.
"""
