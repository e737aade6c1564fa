"""The decorators of `run`."""

from edgewright.serving.scripts.schema import input_schema, output_schema

__all__ = ["input_schema", "output_schema"]
