"""Environments of scoring scripts: `store.py` keeps their numbered definitions."""
