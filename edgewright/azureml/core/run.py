"""Names of azureml.core.run."""

from edgewright.sdk import Run

__all__ = ["Run"]
