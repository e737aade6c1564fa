"""Write variants as a model package of ONNX Runtime, in the order of their measured times.

    order     benchmark the variants side by side on ONNX Runtime's CPU execution provider
    copy      one directory per variant: the graph and its weights
    describe  manifest.json and component.json

ONNX Runtime (1.28 and later, an experimental interface) takes the variants of the session's first execution provider. Equal
scores, as all variants for the processor have, are decided by their order in `component.json`: onnxruntime/core/session/
model_package/README.md, "Variant selection". So a package that lists the fastest first makes it take that one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.backends.choose import backend_versions, find_backends, find_fastest
from edgewright.contracts.files import replace_directory, reporting_full_disk, staging_beside
from edgewright.contracts.variant import BackendName, LayerKind, VariantDirectory
from edgewright.errors import BadInputError, ConflictError
from hardware_profiles.detect import read_machine

COMPONENT = "model"
"""Name of the only component."""
_LAYERS = (LayerKind.GRAPH, LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtPackage:
    """A written model package."""

    path: str
    median_ms: dict[str, float]
    """Milliseconds for one sample, by variant, in the order of the package."""
    left_out: dict[str, str]
    """The reason for each variant that ONNX Runtime cannot run here."""


def write_ort_package(target: Path, variants: Sequence[VariantDirectory], *, threads: int | None = None) -> OrtPackage:
    """Benchmark `variants` on ONNX Runtime and write those that run to the directory `target`, the fastest first.

    Raises:
        BadInputError: there is no variant.
        ConflictError: `target` exists and is not an empty directory.
        OperationError: ONNX Runtime can run none of them on this machine.
        StorageFullError: the disk is full.
    """
    if not variants:
        raise BadInputError("a model package is made from a build directory or a package, but this is a single graph")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConflictError(f"{target} must be a new or an empty directory, but it has content: choose another, or remove it")
    backends = find_backends(BackendName.ONNXRUNTIME)
    fastest = find_fastest(variants, threads=threads, backends=backends)
    median_ms = dict(sorted(fastest.best_ms.items(), key=lambda each: (each[0] != fastest.variant, each[1], each[0])))
    paths = {each.config.variant: each for each in variants}
    with staging_beside(target) as staging, reporting_full_disk(target):
        for name in median_ms:
            _copy(paths[name], staging / COMPONENT / name)
        _write(staging / COMPONENT / "component.json", _component(median_ms, backend_versions(backends), threads))
        _write(staging / "manifest.json", {"schema_version": "1.0", "components": {COMPONENT: COMPONENT}})
        replace_directory(staging, target)
    return OrtPackage(path=str(target), median_ms=median_ms, left_out=fastest.failures)


def _copy(variant: VariantDirectory, folder: Path) -> None:
    folder.mkdir(parents=True)
    for kind in _LAYERS:
        if variant.file(kind).is_file():
            shutil.copyfile(variant.file(kind), folder / kind.file_name)


def _component(median_ms: dict[str, float], versions: dict[str, str], threads: int | None) -> dict[str, object]:
    machine = read_machine()
    measured = {
        "median_ms": median_ms,
        "machine": f"{machine.architecture} {machine.cpu_model or 'unknown'} x{machine.cpu_cores}",
        "versions": versions,
        "threads": threads,
    }
    return {"variants": {name: _variant(name) for name in median_ms}, "additional_metadata": {"edgewright": measured}}


def _variant(name: str) -> dict[str, object]:
    session = {"model_file": LayerKind.GRAPH.file_name}
    return {"variant_directory": name, "ep": "CPUExecutionProvider", "device": "cpu", "executor_info": {"ort": session}}


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")  # not `wire`, which sorts: the order is the choice
