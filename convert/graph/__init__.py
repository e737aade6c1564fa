"""Helpers that build and complete graphs: emit nodes, fix shapes."""
