"""Names of azureml.core.model."""

from edgewright.sdk import Model

__all__ = ["Model"]
