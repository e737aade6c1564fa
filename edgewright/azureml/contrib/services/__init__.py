"""Requests and responses of scripts that handle HTTP themselves, under their old names."""
