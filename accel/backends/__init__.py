"""Ways to run a variant: one module per backend, imported on use."""
