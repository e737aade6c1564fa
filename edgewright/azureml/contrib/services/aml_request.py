"""The request that `run` gets with the decorator `rawhttp`."""

from edgewright.serving.scripts.raw import RawRequest as AMLRequest
from edgewright.serving.scripts.raw import rawhttp

__all__ = ["AMLRequest", "rawhttp"]
