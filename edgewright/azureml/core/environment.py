"""Names of azureml.core.environment."""

from edgewright.sdk import CondaDependencies, Environment

__all__ = ["CondaDependencies", "Environment"]
