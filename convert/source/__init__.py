"""The source model: identify its format, run it in a process with limits, and compare the graph with it."""
