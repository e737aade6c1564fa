"""Names of azureml.core.datastore."""

from edgewright.sdk import Datastore

__all__ = ["Datastore"]
