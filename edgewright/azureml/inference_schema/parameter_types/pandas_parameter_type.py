"""Tables."""

from edgewright.serving.scripts.parameter_types import PandasParameterType

__all__ = ["PandasParameterType"]
