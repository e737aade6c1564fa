"""Names of azureml.core.image."""

from edgewright.sdk import Image

__all__ = ["Image"]
