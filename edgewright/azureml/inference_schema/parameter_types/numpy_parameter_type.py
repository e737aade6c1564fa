"""Arrays."""

from edgewright.serving.scripts.parameter_types import NumpyParameterType

__all__ = ["NumpyParameterType"]
