"""Names of azureml.core.model."""

from edgewright.sdk import InferenceConfig, Model, ModelPackage, ModelProfile

__all__ = ["InferenceConfig", "Model", "ModelPackage", "ModelProfile"]
