"""Commands that use several packages, one module per group; `edgewright/cli.py` imports each on use."""
