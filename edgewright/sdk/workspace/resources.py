"""Resources that scoring with a model needs, and the frameworks of models under the names of Azure ML's SDK v1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgewright.contracts.models import registration
from edgewright.errors import BadInputError


@dataclass(frozen=True, slots=True)
class ResourceConfiguration:
    """Processors and memory that a service of the model gets by default."""

    cpu: float | None = None
    memory_in_gb: float | None = None
    gpu: int | None = None

    def __post_init__(self) -> None:
        for name in ("cpu", "memory_in_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e6:
                raise BadInputError(f"{name} must be a positive number, not {value!r}")
        if self.gpu is not None and self.gpu < 0:
            raise BadInputError(f"gpu must be 0 or more, not {self.gpu!r}")


class Framework:
    """Names of frameworks as Azure ML's SDK v1 writes them; a constant of `Model.Framework` or its text."""

    SCIKITLEARN: ClassVar[str] = "ScikitLearn"
    ONNX: ClassVar[str] = "Onnx"
    TENSORFLOW: ClassVar[str] = "TensorFlow"
    KERAS: ClassVar[str] = "Keras"
    PYTORCH: ClassVar[str] = "PyTorch"
    LIGHTGBM: ClassVar[str] = "LightGBM"
    XGBOOST: ClassVar[str] = "XGBoost"
    CUSTOM: ClassVar[str] = "Custom"


_NAMES: dict[str, registration.Framework] = {
    Framework.SCIKITLEARN: registration.Framework.SKLEARN,
    Framework.ONNX: registration.Framework.ONNX,
    Framework.TENSORFLOW: registration.Framework.TENSORFLOW,
    Framework.KERAS: registration.Framework.KERAS,
    Framework.PYTORCH: registration.Framework.PYTORCH,
    Framework.LIGHTGBM: registration.Framework.LIGHTGBM,
    Framework.XGBOOST: registration.Framework.XGBOOST,
    Framework.CUSTOM: registration.Framework.CUSTOM,
}


def framework_of(name: str | None) -> registration.Framework:
    """Return the framework of a name of Azure or of ours; without a name, CUSTOM."""
    if name is None:
        return registration.Framework.CUSTOM
    for azure, ours in _NAMES.items():
        if name.lower() in (azure.lower(), ours.value):
            return ours
    raise BadInputError(f"model_framework must be one of {', '.join(_NAMES)}, not {name!r}")


def azure_name(framework: registration.Framework) -> str:
    """Return Azure's name of a framework."""
    return next(name for name, ours in _NAMES.items() if ours is framework)
