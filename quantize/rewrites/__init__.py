"""Rewrites of a graph that keep its function: smaller files, faster layers, an operator set that every runtime takes."""
