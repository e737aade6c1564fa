"""Run a source model in its own framework: `python -m convert.run_source`, always a process of its own.

So a framework's memory, threads and crashes never meet ours. Reads a `.npz` of inputs (`input_0`, `input_1`, …), writes a `.npz`
of outputs (`output_0`, …); an error is one line on the error stream and its exit code.
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


def run_source(kind: SourceKind, source: Path, inputs: Arrays, options: SourceOptions = DEFAULT_OPTIONS) -> Arrays:
    """Return the outputs of the source model, in its own order."""
    if kind is SourceKind.KERAS:
        return _run_keras(source, inputs, options)
    if kind in (SourceKind.SKLEARN, SourceKind.PICKLE):
        return _run_sklearn(source, inputs, pickled=kind is SourceKind.PICKLE, trust=options.trust)
    if kind in (SourceKind.LIGHTGBM, SourceKind.XGBOOST):
        return _run_boosting(kind, source, inputs)
    if kind in (SourceKind.SAVED_MODEL, SourceKind.FROZEN_GRAPH):
        from convert.from_tensorflow.reader import run_tensorflow

        return run_tensorflow(kind, source, inputs, options, batch_size=BATCH_SIZE)
    if kind is SourceKind.TORCH:
        from convert.from_torch import torch_outputs

        return torch_outputs(source, inputs, trust=options.trust, batch_size=BATCH_SIZE)
    return _run_onnx(source, inputs)


def _run_keras(source: Path, inputs: Arrays, options: SourceOptions) -> Arrays:
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras

    model = load_keras(source, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    found = model.predict(as_argument(model, inputs), batch_size=BATCH_SIZE, verbose=0)
    return [np.asarray(one, np.float32) for one in keras.tree.flatten(found)]


def _run_sklearn(source: Path, inputs: Arrays, *, pickled: bool, trust: bool) -> Arrays:
    from convert.from_trees.sklearn import load_estimator, source_outputs

    return [source_outputs(load_estimator(source, pickled=pickled, trust=trust), inputs[0])]


def _run_boosting(kind: SourceKind, source: Path, inputs: Arrays) -> Arrays:
    from convert.from_trees.boosting import lightgbm_outputs, xgboost_outputs

    return [(lightgbm_outputs if kind is SourceKind.LIGHTGBM else xgboost_outputs)(source, inputs[0])]


def _run_onnx(source: Path, inputs: Arrays) -> Arrays:
    from accel.backends.onnxruntime_cpu import load_graph

    session = load_graph(source)
    parts = [
        session.run({spec.name: array[start : start + BATCH_SIZE] for spec, array in zip(session.inputs, inputs, strict=True)})
        for start in range(0, len(inputs[0]), BATCH_SIZE)
    ]
    return [np.concatenate([part[spec.name] for part in parts]) for spec in session.outputs]


@click.command()
@click.argument("kind", type=click.Choice([str(kind) for kind in SourceKind]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("given", type=click.Path(path_type=Path))
@click.argument("answer", type=click.Path(path_type=Path))
@with_source_options
def main(kind: str, source: Path, given: Path, answer: Path, options: SourceOptions) -> None:
    """Run SOURCE on the arrays in GIVEN and write ANSWER."""
    arrays = read_npz(given)
    ordered = [arrays[f"input_{place}"] for place in range(len(arrays))]
    try:
        found = run_source(SourceKind(kind), source, ordered, options)
    except EdgewrightError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    write_npz(answer, {f"output_{place}": array for place, array in enumerate(found)})


if __name__ == "__main__":
    main()
