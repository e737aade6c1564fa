"""Names of azureml.core."""

from edgewright.sdk import Datastore, Experiment, Model, Run, Workspace

__all__ = ["Datastore", "Experiment", "Model", "Run", "Workspace"]
