"""Import MLflow model folders as model versions, and export versions as MLflow model folders."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from edgewright.contracts.files import staging_beside
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.mlflow_folder import (
    EXAMPLE,
    MLMODEL,
    UNNAMED_INPUT,
    environment_files,
    is_table,
    mlmodel_of,
    place_of,
    read_mlflow,
)
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.contracts.models.sample_input import SampleInput, as_mapping
from edgewright.errors import BadInputError
from edgewright.sdk.connection import Connection
from edgewright.sdk.registering import download, golden_sample, register
from edgewright.sdk.transfer.uploads import Progress
from edgewright.sdk.trying import SampleOptions


def import_mlflow(
    connection: Connection, name: str, folder: Path, *, runs: bool, trust: bool, on_progress: Progress
) -> ModelVersion:
    """Register an MLflow model folder as the next version of a model, with the facts in its MLmodel.

    Args:
        connection: the cloud.
        name: the model's name.
        folder: the MLflow model folder.
        runs: run the model once on the input example of the folder, if it has one.
        trust: code in the model's file may run then.
        on_progress: called with the bytes sent and to send.

    Raises:
        NotFoundError: the folder has no MLmodel.
        BadInputError: MLmodel is damaged, or the model fails on its example.
    """
    found = read_mlflow(folder)
    sample = SampleOptions(folder / found.example, trust=trust) if runs and found.example else None
    return register(connection, name, [folder], found.registration, sample=sample, on_progress=on_progress)


def export_mlflow(connection: Connection, version: ModelVersion, target: Path, *, on_progress: Progress) -> Path:
    """Write a version as an MLflow model folder `target`; one that was imported comes back as it was.

    Raises:
        BadInputError: `target` exists, the version has several model files, or MLflow has no flavor that loads it.
    """
    if any(file.path == MLMODEL for file in version.files):
        return download(connection, version, target, on_progress=on_progress)
    registration = version.registration or Registration()
    if target.exists():
        raise BadInputError(f"{target} must not exist yet: choose another folder, or remove it")
    with staging_beside(target) as staging, tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        files = download(connection, version, Path(folder) / "files", on_progress=on_progress)
        model = _place_model(files, staging, version, registration.framework)
        if registration.framework is Framework.TENSORFLOW and any(spec.name == UNNAMED_INPUT for spec in registration.inputs):
            # MLflow gives a SavedModel its arrays by name only, and the sample of this version had no names.
            registration = replace(registration, inputs=(), outputs=())
        example = _write_example(connection, version, registration, staging)
        document = mlmodel_of(registration, model, example, is_table=is_table(registration.inputs))
        (staging / MLMODEL).write_text(yaml.safe_dump(document, sort_keys=True), "utf-8")
        for name, text in environment_files(registration, platform.python_version()).items():
            (staging / name).write_text(text, "utf-8")
        os.rename(staging, target)  # noqa: PTH104 - a folder that appears meanwhile is not replaced
    return target


def _place_model(files: Path, staging: Path, version: ModelVersion, framework: Framework) -> str:
    """Move the model into the folder; return its path there."""
    if framework is Framework.TENSORFLOW and (files / "saved_model.pb").is_file():
        shutil.move(files, staging / "tfmodel")
        return "tfmodel"
    if len(version.files) != 1:
        raise BadInputError(
            f"{version.model}:{version.version} must be one model file to be exported, but it has {len(version.files)} files"
        )
    model = place_of(framework, version.files[0].path)
    (staging / model).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(files / version.files[0].path, staging / model)
    return model


def _write_example(connection: Connection, version: ModelVersion, registration: Registration, staging: Path) -> str:
    """Write the golden sample as an input example; return its path, or an empty text without a sample."""
    sample = golden_sample(connection, version)
    if sample is None or not registration.inputs:
        return ""
    arrays = {spec.name: sample[0][spec.name] for spec in registration.inputs}
    table = is_table(registration.inputs)
    document = as_mapping(SampleInput(arrays, is_table=table))
    is_named = table or len(arrays) > 1 or registration.framework is Framework.TENSORFLOW
    (staging / EXAMPLE).write_text(json.dumps(document if is_named else next(iter(document.values()))), "utf-8")
    return EXAMPLE
