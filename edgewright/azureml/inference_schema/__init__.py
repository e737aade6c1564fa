"""Names of the package inference-schema."""
