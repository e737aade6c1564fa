"""Run a source model in its own framework: `python -m convert.run_source`, always in a separate process.

A framework's memory use, threads and crashes stay in that process. It reads sets of inputs (each a `.npz` with `input_0`, …) and
writes a `.npz` of outputs for each (`output_0`, …), as its request states (`RunRequest`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.source.feed import Arrays, Feed, Runner
from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, RunRequest, SourceOptions
from edgewright.contracts import wire
from edgewright.contracts.samples import read_npz, write_npz
from edgewright.errors import EdgewrightError, OperationError, cause_of, one_line
from edgewright.worker_process import serve

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int | str, ...]]


def run_source(kind: SourceKind, source: Path, inputs: Arrays, options: SourceOptions = DEFAULT_OPTIONS) -> Arrays:
    """Return the outputs of the source model, in the model's own order."""
    return open_source(kind, source, options)(Feed(arrays=inputs))


def open_source(kind: SourceKind, source: Path, options: SourceOptions, shapes: Shapes | None = None) -> Runner:
    """Load the source model; return the function that runs it. `shapes` replace those of an ONNX file's inputs."""
    match kind:
        case SourceKind.KERAS:
            return _open_keras(source, options)
        case SourceKind.SAVED_MODEL | SourceKind.FROZEN_GRAPH:
            from convert.from_tensorflow.reader import open_tensorflow

            return open_tensorflow(kind, source, options)
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            from convert.from_sklearn.files import load_estimator
            from convert.from_sklearn.source import source_outputs

            estimator = load_estimator(source, pickled=kind is SourceKind.PICKLE, trust=options.trust)
            return lambda feed: source_outputs(estimator, feed.arrays)
        case SourceKind.LIGHTGBM | SourceKind.XGBOOST:
            from convert.from_trees.boosting import lightgbm_outputs, xgboost_outputs

            run = lightgbm_outputs if kind is SourceKind.LIGHTGBM else xgboost_outputs
            return lambda feed: [run(source, feed.arrays[0])]
        case SourceKind.CATBOOST:
            from convert.from_trees.catboost_trees import catboost_outputs

            return lambda feed: [catboost_outputs(source, feed.arrays[0])]
        case SourceKind.TORCH:
            from convert.from_torch.program import open_program

            return open_program(source, trust=options.trust)
        case SourceKind.TORCHSCRIPT:
            from convert.from_torch.script import open_script

            return open_script(source, trust=options.trust)
        case SourceKind.TFLITE:
            from convert.from_tflite.interpreter import tflite_outputs

            return lambda feed: tflite_outputs(source, feed.arrays)
        case SourceKind.ONNX:
            from convert.from_onnx import open_onnx

            return open_onnx(source, shapes or {})


def _open_keras(source: Path, options: SourceOptions) -> Runner:
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras

    model = load_keras(source, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    def run(feed: Feed) -> Arrays:
        outputs = model.predict(as_argument(model, feed.arrays), batch_size=feed.batch_size, verbose=0)
        return [_in_numpy_floats(np.asarray(output)) for output in keras.tree.flatten(outputs)]

    return run


def _in_numpy_floats(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats of any width as float32; integers, booleans and text stay as they are."""
    return output if output.dtype.kind in "iubUSO" else np.asarray(output, np.float32)


def handle(raw: bytes) -> bytes:
    """Answer one request: run the source on each set. A set after the first has no outputs if the source cannot run it."""
    request = wire.decode(raw, RunRequest, what="request")
    source = request.source
    try:
        run = open_source(source.kind, Path(source.path), source.options, request.shapes)
        _run_set(run, request, 0)
    except EdgewrightError:
        raise
    except Exception as error:  # frameworks raise errors of every kind
        raise OperationError(f"{source.path}: running it in its own framework failed: {cause_of(error)}") from error
    for number in range(1, len(request.batch_sizes)):
        try:
            _run_set(run, request, number)
        except Exception as error:  # noqa: BLE001  every framework refuses a shape in its own way
            log.info("the source cannot run set=%d reason=%r", number, one_line(error))
    return b""


def _run_set(run: Runner, request: RunRequest, number: int) -> None:
    folder = Path(request.folder)
    arrays = read_npz(folder / f"inputs-{number}.npz")
    feed = Feed(
        arrays=[arrays[f"input_{index}"] for index in range(len(arrays))],
        input_axes=request.input_axes,
        output_axes=request.output_axes,
        batch_size=request.batch_sizes[number],
    )
    write_npz(folder / f"outputs-{number}.npz", {f"output_{index}": array for index, array in enumerate(run(feed))})


if __name__ == "__main__":
    serve(handle)
