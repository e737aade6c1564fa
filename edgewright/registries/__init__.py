"""A client of OCI registries: `references.py` reads names of images, `client.py` pulls and pushes, `login.py` authenticates."""
