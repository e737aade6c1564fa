"""The base of all parameter types."""

from edgewright.serving.scripts.parameter_types import ParameterType as AbstractParameterType

__all__ = ["AbstractParameterType"]
