"""Names of azureml.core.experiment."""

from edgewright.sdk import Experiment

__all__ = ["Experiment"]
