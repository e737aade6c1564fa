"""Rewrites of a graph that make it quantize or run better, without changing what it computes."""
