"""Helpers that build and complete graphs: emit nodes, fix shapes, turn named columns into one input."""
