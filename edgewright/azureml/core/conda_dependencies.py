"""Names of azureml.core.conda_dependencies."""

from edgewright.sdk import CondaDependencies

__all__ = ["CondaDependencies"]
