"""Names of azureml.core."""

from edgewright.sdk import Datastore, Environment, Experiment, Image, Model, Run, Webservice, Workspace

__all__ = ["Datastore", "Environment", "Experiment", "Image", "Model", "Run", "Webservice", "Workspace"]
