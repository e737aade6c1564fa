"""Environments: `definition.py` is the type, `reading.py` reads conda, pip and Docker files."""
