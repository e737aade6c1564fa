"""Run a source model in its own framework: `python -m convert.run_source`, always in a separate process.

A framework's memory use, threads and crashes stay in that process. It reads a `.npz` of inputs (`input_0`, `input_1`, …) and
writes a `.npz` of outputs (`output_0`, …). It reports an error as one line on standard error and its exit code.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions, with_source_options
from edgewright.contracts.samples import read_npz, write_npz
from edgewright.errors import EdgewrightError

Arrays = list[npt.NDArray[Any]]

BATCH_SIZE = 32


def run_source(
    kind: SourceKind, source: Path, inputs: Arrays, options: SourceOptions = DEFAULT_OPTIONS, *, batch_size: int = BATCH_SIZE
) -> Arrays:
    """Return the outputs of the source model, in the model's own order."""
    match kind:
        case SourceKind.KERAS:
            return _run_keras(source, inputs, options, batch_size)
        case SourceKind.SAVED_MODEL | SourceKind.FROZEN_GRAPH:
            from convert.from_tensorflow.reader import run_tensorflow

            return run_tensorflow(kind, source, inputs, options, batch_size=batch_size)
        case SourceKind.SKLEARN | SourceKind.PICKLE:
            from convert.from_trees.sklearn import load_estimator, source_outputs

            estimator = load_estimator(source, pickled=kind is SourceKind.PICKLE, trust=options.trust)
            return [source_outputs(estimator, inputs[0])]
        case SourceKind.LIGHTGBM | SourceKind.XGBOOST:
            from convert.from_trees.boosting import lightgbm_outputs, xgboost_outputs

            run = lightgbm_outputs if kind is SourceKind.LIGHTGBM else xgboost_outputs
            return [run(source, inputs[0])]
        case SourceKind.TORCH:
            from convert.from_torch import torch_outputs

            return torch_outputs(source, inputs, trust=options.trust, batch_size=batch_size)
        case SourceKind.TFLITE:
            from convert.from_tflite.interpreter import tflite_outputs

            return tflite_outputs(source, inputs)
        case SourceKind.ONNX:
            return _run_onnx(source, inputs, batch_size)


def _run_keras(source: Path, inputs: Arrays, options: SourceOptions, batch_size: int) -> Arrays:
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras

    model = load_keras(source, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    outputs = model.predict(as_argument(model, inputs), batch_size=batch_size, verbose=0)
    return [_in_numpy_floats(np.asarray(output)) for output in keras.tree.flatten(outputs)]


def _in_numpy_floats(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return floats of any width as float32; integers, booleans and text stay as they are."""
    return output if output.dtype.kind in "iubUSO" else np.asarray(output, np.float32)


def _run_onnx(source: Path, inputs: Arrays, batch_size: int) -> Arrays:
    from accel.backends.onnxruntime_cpu import load_graph

    session = load_graph(source)
    batches = [
        session.run({spec.name: array[start : start + batch_size] for spec, array in zip(session.inputs, inputs, strict=True)})
        for start in range(0, len(inputs[0]), batch_size)
    ]
    return [np.concatenate([batch[spec.name] for batch in batches]) for spec in session.outputs]


@click.command()
@click.argument("kind", type=click.Choice([str(kind) for kind in SourceKind]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("inputs_path", type=click.Path(path_type=Path))
@click.argument("outputs_path", type=click.Path(path_type=Path))
@click.option("--batch-size", type=int, default=BATCH_SIZE)
@with_source_options
def main(kind: str, source: Path, inputs_path: Path, outputs_path: Path, *, options: SourceOptions, batch_size: int) -> None:
    """Run SOURCE on the arrays in INPUTS_PATH and write its outputs to OUTPUTS_PATH."""
    arrays = read_npz(inputs_path)
    inputs = [arrays[f"input_{index}"] for index in range(len(arrays))]
    try:
        outputs = run_source(SourceKind(kind), source, inputs, options, batch_size=batch_size)
    except EdgewrightError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    write_npz(outputs_path, {f"output_{index}": array for index, array in enumerate(outputs)})


if __name__ == "__main__":
    main()
