"""Passes that make a graph smaller and simpler without changing what it computes. passes.py lists them in their order."""
