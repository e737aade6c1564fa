"""Run a source model in its own framework: `python -m convert.run_source`, always in a separate process.

A framework's memory use, threads and crashes stay in that process. It reads sets of inputs (each a `.npz` with `input_0`, …) and
writes a `.npz` of outputs for each (`output_0`, …). It reports an error as one line on standard error and its exit code.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions, with_source_options
from edgewright.contracts.samples import read_npz, write_npz
from edgewright.errors import EdgewrightError, one_line

log = logging.getLogger(__name__)

Arrays = list[npt.NDArray[Any]]
Runner = Callable[[Arrays, int], Arrays]
"""Runs a loaded source on inputs, in batches of a size."""

BATCH_SIZE = 32


def run_source(
    kind: SourceKind, source: Path, inputs: Arrays, options: SourceOptions = DEFAULT_OPTIONS, *, batch_size: int = BATCH_SIZE
) -> Arrays:
    """Return the outputs of the source model, in the model's own order."""
    return open_source(kind, source, options)(inputs, batch_size)


def open_source(kind: SourceKind, source: Path, options: SourceOptions) -> Runner:
    """Load the source model; return the function that runs it on inputs, in batches of a size."""
    match kind:
        case SourceKind.KERAS:
            return _open_keras(source, options)
        case SourceKind.SAVED_MODEL | SourceKind.FROZEN_GRAPH:
            from convert.from_tensorflow.reader import open_tensorflow

            return open_tensorflow(kind, source, options)
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            from convert.from_trees.sklearn import load_estimator, source_outputs

            estimator = load_estimator(source, pickled=kind is SourceKind.PICKLE, trust=options.trust)
            return lambda inputs, _batch_size: [source_outputs(estimator, inputs[0])]
        case SourceKind.LIGHTGBM | SourceKind.XGBOOST:
            from convert.from_trees.boosting import lightgbm_outputs, xgboost_outputs

            run = lightgbm_outputs if kind is SourceKind.LIGHTGBM else xgboost_outputs
            return lambda inputs, _batch_size: [run(source, inputs[0])]
        case SourceKind.TORCH:
            from convert.from_torch import open_torch

            return open_torch(source, trust=options.trust)
        case SourceKind.TFLITE:
            from convert.from_tflite.interpreter import tflite_outputs

            return lambda inputs, _batch_size: tflite_outputs(source, inputs)
        case SourceKind.ONNX:
            return _open_onnx(source)


def _open_keras(source: Path, options: SourceOptions) -> Runner:
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras

    model = load_keras(source, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    def run(inputs: Arrays, batch_size: int) -> Arrays:
        outputs = model.predict(as_argument(model, inputs), batch_size=batch_size, verbose=0)
        return [_in_numpy_floats(np.asarray(output)) for output in keras.tree.flatten(outputs)]

    return run


def _in_numpy_floats(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats of any width as float32; integers, booleans and text stay as they are."""
    return output if output.dtype.kind in "iubUSO" else np.asarray(output, np.float32)


def _open_onnx(source: Path) -> Runner:
    from accel.backends.onnxruntime_cpu import load_graph
    from convert.from_onnx import with_tensor_outputs

    with with_tensor_outputs(source) as path:
        session = load_graph(path)

    def run(inputs: Arrays, batch_size: int) -> Arrays:
        named = {spec.name: array for spec, array in zip(session.inputs, inputs, strict=True)}
        starts = range(0, len(inputs[0]), batch_size)
        batches = [session.run({name: array[start : start + batch_size] for name, array in named.items()}) for start in starts]
        return [np.concatenate([batch[spec.name] for batch in batches]) for spec in session.outputs]

    return run


@click.command()
@click.argument("kind", type=click.Choice([str(kind) for kind in SourceKind]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--batch-size", "batch_sizes", type=int, multiple=True, required=True)
@with_source_options
def main(kind: str, source: Path, folder: Path, *, options: SourceOptions, batch_sizes: tuple[int, ...]) -> None:
    """Run SOURCE on each set of arrays in FOLDER, inputs-0.npz and so on, and write outputs-0.npz and so on.

    Each set has its batch size. A set after the first is left without outputs if the source cannot run it.
    """
    try:
        run = open_source(SourceKind(kind), source, options)
        _run_set(run, folder, 0, batch_sizes[0])
    except EdgewrightError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    for number, batch_size in enumerate(batch_sizes[1:], start=1):
        try:
            _run_set(run, folder, number, batch_size)
        except Exception as error:  # noqa: BLE001  every framework refuses a shape in its own way
            log.info("the source cannot run set=%d reason=%r", number, one_line(error))


def _run_set(run: Runner, folder: Path, number: int, batch_size: int) -> None:
    arrays = read_npz(folder / f"inputs-{number}.npz")
    outputs = run([arrays[f"input_{index}"] for index in range(len(arrays))], batch_size)
    write_npz(folder / f"outputs-{number}.npz", {f"output_{index}": array for index, array in enumerate(outputs)})


if __name__ == "__main__":
    main()
