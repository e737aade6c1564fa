"""MLflow's model folders: read `MLmodel` as a registration, and write one for a registered model.

Format: https://mlflow.org/docs/latest/ml/model (MLmodel is YAML; the signature in it is JSON). A folder of another flavor than
those of `Framework` is registered as `custom`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgewright.contracts.models.registration import Framework, Registration, check_relative
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import BadInputError, NotFoundError, first_line

MLMODEL = "MLmodel"
EXAMPLE = "input_example.json"
UNNAMED_INPUT = "input"
"""Name of a single input for which neither the model nor its sample gives a name."""
_ENVIRONMENTS = ("conda.yaml", "requirements.txt")
_PYFUNC = "python_function"
_MAX_BYTES = 1 << 20

_VERSION_KEYS = {
    Framework.SKLEARN: "sklearn_version",
    Framework.ONNX: "onnx_version",
    Framework.KERAS: "keras_version",
    Framework.TENSORFLOW: "tensorflow_version",
    Framework.LIGHTGBM: "lgb_version",
    Framework.XGBOOST: "xgb_version",
    Framework.PYTORCH: "pytorch_version",
}
_DATA_KEYS = ("pickled_model", "saved_model_dir", "model_data", "data")
_COLUMN_DTYPES = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
}
"""Other types of columns (string, binary, datetime) are Python objects."""
_COLUMN_TYPES = {dtype: name for name, dtype in _COLUMN_DTYPES.items()}
_DISTRIBUTIONS = {Framework.SKLEARN: "scikit-learn", Framework.PYTORCH: "torch"}


@dataclass(frozen=True, slots=True)
class MlflowFolder:
    """The facts of an MLflow model folder."""

    registration: Registration
    model: str
    """Path of the model in the folder; empty if its flavor does not name one."""
    example: str
    """Path of the input example in the folder; empty without one."""


def read_mlflow(folder: Path) -> MlflowFolder:
    """Read the `MLmodel` of a folder.

    Raises:
        NotFoundError: the folder has no MLmodel.
        BadInputError: MLmodel is damaged, or names a path outside the folder.
    """
    document = _document(folder / MLMODEL)
    flavors = _mapping(document.get("flavors"), "flavors", folder)
    framework = next((each for each in Framework if each.value in flavors), Framework.CUSTOM)
    flavor = _mapping(flavors.get(framework.value, {}), f"flavor {framework}", folder)
    signature = _mapping(document.get("signature") or {}, "signature", folder)
    environment = next((name for name in _ENVIRONMENTS if (folder / name).is_file()), "")
    facts = {
        "mlflow.version": document.get("mlflow_version"),
        "mlflow.model": document.get("model_uuid"),
        "environment": environment,
    }
    registration = Registration(
        framework=framework,
        framework_version=str(flavor.get(_VERSION_KEYS.get(framework, ""), "")),
        run=str(document.get("run_id") or ""),
        properties={name: str(value) for name, value in facts.items() if value},
        inputs=_specs(signature.get("inputs"), "input", folder),
        outputs=_specs(signature.get("outputs"), "output", folder),
    )
    example = _mapping(document.get("saved_input_example_info") or {}, "saved_input_example_info", folder)
    return MlflowFolder(
        registration,
        _path_in(folder, next((flavor[key] for key in _DATA_KEYS if flavor.get(key)), "")),
        _path_in(folder, example.get("artifact_path", "")),
    )


def mlmodel_of(registration: Registration, model: str, example: str, *, is_table: bool) -> dict[str, Any]:
    """Return the content of `MLmodel` for a registered model.

    Args:
        registration: the facts of the version.
        model: path of the model in the folder.
        example: path of the input example in the folder, or empty.
        is_table: the example is a table.

    Raises:
        BadInputError: MLflow has no flavor that loads this model.
    """
    document: dict[str, Any] = {
        "flavors": {
            registration.framework.value: _flavor(registration, model),
            _PYFUNC: {
                "loader_module": f"mlflow.{registration.framework}",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                **_pyfunc(registration.framework, model),
            },
        },
    }
    if registration.inputs:
        document["signature"] = {
            "inputs": json.dumps([_schema_of(spec) for spec in registration.inputs]),
            "outputs": json.dumps([_schema_of(spec) for spec in registration.outputs]) if registration.outputs else None,
            "params": None,
        }
    if example:
        kind = {"type": "dataframe", "pandas_orient": "split"} if is_table else {"type": "ndarray"}
        document["saved_input_example_info"] = {"artifact_path": example, **kind}
    return document


def environment_files(registration: Registration, python: str) -> Mapping[str, str]:
    """Return the files that describe the environment of an exported model, by name."""
    distribution = _DISTRIBUTIONS.get(registration.framework, registration.framework.value)
    version = f"=={registration.framework_version}" if registration.framework_version else ""
    requirements = ["mlflow", f"{distribution}{version}"]
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": requirements}],
    }
    build = {"python": python, "build_dependencies": ["pip", "setuptools", "wheel"], "dependencies": ["-r requirements.txt"]}
    return {
        "requirements.txt": "".join(f"{each}\n" for each in requirements),
        "conda.yaml": yaml.safe_dump(conda, sort_keys=False),
        "python_env.yaml": yaml.safe_dump(build, sort_keys=False),
    }


def place_of(framework: Framework, file: str) -> str:
    """Return the path of a model file in an exported folder: MLflow looks for a Keras file under this name."""
    return "data/model.keras" if framework is Framework.KERAS else file


def _flavor(registration: Registration, model: str) -> dict[str, Any]:
    version = {_VERSION_KEYS.get(registration.framework, "version"): registration.framework_version or None, "code": None}
    match registration.framework:
        case Framework.SKLEARN:
            serialization = "skops" if model.endswith(".skops") else "cloudpickle"
            return {"pickled_model": model, "serialization_format": serialization, "skops_trusted_types": None, **version}
        case Framework.ONNX:
            return {"data": model, "providers": ["CPUExecutionProvider"], "onnx_session_options": None, **version}
        case Framework.LIGHTGBM:
            return {"data": model, "model_class": "lightgbm.basic.Booster", **version}
        case Framework.XGBOOST:
            return {"data": model, "model_class": "xgboost.core.Booster", "model_format": Path(model).suffix[1:], **version}
        case Framework.KERAS:
            return {"data": "data", **version}
        case Framework.TENSORFLOW:
            return {"saved_model_dir": model, "meta_graph_tags": ["serve"], "signature_def_key": "serving_default", **version}
    raise BadInputError(
        f"MLflow must have a flavor that loads the model, but for the framework {registration.framework} it has none"
    )


def _pyfunc(framework: Framework, model: str) -> dict[str, Any]:
    match framework:
        case Framework.SKLEARN:
            return {"model_path": model, "predict_fn": "predict"}
        case Framework.KERAS | Framework.TENSORFLOW:
            return {}
    return {"data": model}


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"{path.parent} must be an MLflow model folder, but it has no file {MLMODEL}")
    if path.stat().st_size > _MAX_BYTES:
        raise BadInputError(f"{path} must have at most {_MAX_BYTES} bytes, not {path.stat().st_size}")
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInputError(f"{path} must be YAML: {first_line(error)}") from error
    return _mapping(document, "the document", path.parent)


def _mapping(value: Any, what: str, folder: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInputError(f"{folder / MLMODEL}: {what} must be a mapping, not {type(value).__name__}")
    return value


def _path_in(folder: Path, path: Any) -> str:
    if not path:
        return ""
    relative = check_relative(str(path))
    if not (folder / relative).exists():
        raise NotFoundError(f"{folder / MLMODEL} names {relative}, which the folder must hold, but it does not")
    return relative


def _specs(text: Any, unnamed: str, folder: Path) -> tuple[TensorSpec, ...]:
    if not text:
        return ()
    try:
        columns = json.loads(text)
        return tuple(_spec(column, unnamed if len(columns) == 1 else str(index)) for index, column in enumerate(columns))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(
            f"{folder / MLMODEL}: the signature must be a list of columns or tensors: {first_line(error)}"
        ) from error


def _spec(column: Mapping[str, Any], unnamed: str) -> TensorSpec:
    name = str(column.get("name") or unnamed)
    if column["type"] != "tensor":
        return TensorSpec(name=name, dtype=_COLUMN_DTYPES.get(column["type"], "object"), shape=("N",))
    tensor = column["tensor-spec"]
    dtype = "object" if tensor["dtype"] in ("str", "object") else str(tensor["dtype"])
    shape = tuple((f"axis{index}" if index else "N") if size == -1 else int(size) for index, size in enumerate(tensor["shape"]))
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _schema_of(spec: TensorSpec) -> dict[str, Any]:
    name = {} if spec.name in ("input", "output") else {"name": spec.name}
    if len(spec.shape) == 1 and name and spec.dtype in (*_COLUMN_TYPES, "object"):
        return {"type": _COLUMN_TYPES.get(spec.dtype, "string"), **name, "required": True}
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    dtype = "str" if spec.dtype == "object" else spec.dtype
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}, **name}


def is_table(specs: Sequence[TensorSpec]) -> bool:
    """Return True if inputs are the columns of a table."""
    return bool(specs) and all(len(spec.shape) == 1 and spec.name != "input" for spec in specs)
