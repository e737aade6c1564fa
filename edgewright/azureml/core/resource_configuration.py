"""Names of azureml.core.resource_configuration."""

from edgewright.sdk import ResourceConfiguration

__all__ = ["ResourceConfiguration"]
