"""Names of azureml.core.workspace."""

from edgewright.sdk import Workspace

__all__ = ["Workspace"]
