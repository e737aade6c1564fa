"""A response with a status and headers of its own."""

from edgewright.serving.scripts.raw import RawResponse as AMLResponse

__all__ = ["AMLResponse"]
