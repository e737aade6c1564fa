"""Names of azureml.core.model."""

from edgewright.sdk import InferenceConfig, Model, ModelPackage

__all__ = ["InferenceConfig", "Model", "ModelPackage"]
