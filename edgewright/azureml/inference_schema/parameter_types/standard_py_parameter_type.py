"""Numbers, texts, dates, lists and dictionaries."""

from edgewright.serving.scripts.parameter_types import StandardPythonParameterType

__all__ = ["StandardPythonParameterType"]
