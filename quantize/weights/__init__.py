"""Weights in a graph: editing.py adds nodes and constants, weight_only.py stores weights as int8."""
