"""Documents about a served model in the form of the Open Inference Protocol and of Triton's extensions of it.

    metadata       https://github.com/kserve/open-inference-protocol (rest/inference_rest.yaml)
    configuration  extension_model_configuration.md and model_config.proto of triton-inference-server
    statistics     extension_statistics.md
    index          extension_model_repository.md

The documents are those of HTTP; the fields of gRPC's messages have the same names (grpc/open_inference.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright import __version__
from edgewright.contracts.variant import TensorSpec, VariantConfig
from edgewright.serving.statistics import Statistics
from edgewright.serving.variants.batching import MAX_SAMPLES_PER_RUN, Batcher
from edgewright.serving.variants.run_times import Duration

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "statistics")

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}
"""Datatypes of the protocol by NumPy's name of the type."""


def server_metadata() -> dict[str, Any]:
    """Describe the server."""
    return {"name": "edgewright", "version": __version__, "extensions": list(EXTENSIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """One version of a model, as it describes itself to clients."""

    model: str
    version: int
    config: VariantConfig
    merging: bool
    """True if requests can share a run."""

    def metadata(self) -> dict[str, Any]:
        """Describe the tensors; a free axis is -1."""
        return {
            "name": self.model,
            "versions": [str(self.version)],
            "platform": f"edgewright_{self.config.backend}",
            "inputs": tensor_metadata(self.config.inputs),
            "outputs": tensor_metadata(self.config.outputs),
        }

    def configuration(self) -> dict[str, Any]:
        """Describe the model in Triton's form: without the batch axis, if that is free."""
        document: dict[str, Any] = {
            "name": self.model,
            "platform": f"edgewright_{self.config.backend}",
            "backend": self.config.backend,
            "version_policy": {"specific": {"versions": [self.version]}},
            "max_batch_size": MAX_SAMPLES_PER_RUN if self._has_free_batch else 0,
            "input": [self._tensor_configuration(spec) for spec in self.config.inputs],
            "output": [self._tensor_configuration(spec) for spec in self.config.outputs],
            "instance_group": [{"name": self.model, "kind": "KIND_CPU", "count": 1}],
        }
        if self.merging:
            document["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
        return document

    def index(self) -> list[dict[str, Any]]:
        """List the models of the server: this one."""
        return [{"name": self.model, "version": str(self.version), "state": "READY", "reason": ""}]

    def statistics(self, counted: Statistics, batcher: Batcher) -> dict[str, Any]:
        """Return counts and times since the start; times are in nanoseconds, the last inference in Unix milliseconds."""
        times, scored = batcher.times, counted.scored_count
        model = {
            "name": self.model,
            "version": str(self.version),
            "last_inference": round(counted.last_scored_at_s * 1000),
            "inference_count": counted.sample_count,
            "execution_count": batcher.run_count,
            "inference_stats": {
                "success": _duration(Duration(scored, counted.scored_s)),
                "fail": _duration(times.failed),
                "queue": _duration(times.waited),
                "compute_input": _duration(Duration(scored, counted.decoding_s)),
                "compute_infer": _duration(times.ran),
                "compute_output": _duration(Duration(scored, counted.encoding_s)),
                "cache_hit": _duration(Duration()),
                "cache_miss": _duration(Duration()),
            },
            "batch_stats": [
                {
                    "batch_size": samples,
                    "compute_input": _duration(Duration(duration.count, 0.0)),
                    "compute_infer": _duration(duration),
                    "compute_output": _duration(Duration(duration.count, 0.0)),
                }
                for samples, duration in sorted(times.by_samples.items())
            ],
        }
        return {"model_stats": [model]}

    @property
    def _has_free_batch(self) -> bool:
        return all(spec.shape and isinstance(spec.shape[0], str) for spec in (*self.config.inputs, *self.config.outputs))

    def _tensor_configuration(self, spec: TensorSpec) -> dict[str, Any]:
        sizes = _sizes(spec)[1:] if self._has_free_batch else _sizes(spec)
        datatype = DATATYPES[np.dtype(spec.dtype).name]
        return {"name": spec.name, "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}", "dims": sizes}


def tensor_metadata(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
    """Describe tensors as the protocol does: a free axis is -1."""
    return [{"name": spec.name, "datatype": DATATYPES[np.dtype(spec.dtype).name], "shape": _sizes(spec)} for spec in specs]


def _sizes(spec: TensorSpec) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in spec.shape]


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": round(duration.seconds * 1e9)}
