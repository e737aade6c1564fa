"""Parameter types of inference-schema, under their old module names."""
