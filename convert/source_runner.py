"""Run a source model in its own framework: `python -m convert.source_runner`, always a process of its own.

So a framework's memory, threads and crashes never meet ours. Reads a `.npz` of inputs (`input_0`, `input_1`, …), writes a `.npz`
of outputs (`output_0`, …); an error is one line on the error stream and exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from convert.ends import FOUND, Ends
from convert.identify import SourceKind
from edgewright.contracts.samples import read_npz, write_npz
from edgewright.errors import EdgewrightError

Arrays = list[npt.NDArray[Any]]

BATCH_SIZE = 32


def run_source(kind: SourceKind, source: Path, inputs: Arrays, ends: Ends = FOUND, *, trust: bool) -> Arrays:
    """Return the outputs of the source model, in its own order."""
    if kind is SourceKind.KERAS:
        return _run_keras(source, inputs, trust=trust)
    if kind in (SourceKind.SKLEARN, SourceKind.PICKLE):
        return _run_sklearn(source, inputs, pickled=kind is SourceKind.PICKLE, trust=trust)
    if kind in (SourceKind.LIGHTGBM, SourceKind.XGBOOST):
        return _run_boosting(kind, source, inputs)
    if kind in (SourceKind.SAVED_MODEL, SourceKind.FROZEN_GRAPH):
        from convert.from_tensorflow import run_tensorflow

        return run_tensorflow(kind, source, ends, inputs, trust=trust, batch_size=BATCH_SIZE)
    if kind is SourceKind.TORCH:
        from convert.from_torch import torch_outputs

        return torch_outputs(source, inputs, trust=trust, batch_size=BATCH_SIZE)
    return _run_onnx(source, inputs)


def _run_keras(source: Path, inputs: Arrays, *, trust: bool) -> Arrays:
    from convert.from_keras import load_keras

    model = load_keras(source, trust=trust)
    found = model.predict(inputs if len(inputs) > 1 else inputs[0], batch_size=BATCH_SIZE, verbose=0)
    if isinstance(found, dict):
        return [np.asarray(found[name], np.float32) for name in model.output_names]
    return [np.asarray(one, np.float32) for one in (found if isinstance(found, Sequence) else [found])]


def _run_sklearn(source: Path, inputs: Arrays, *, pickled: bool, trust: bool) -> Arrays:
    from convert.from_sklearn import load_estimator, source_outputs

    return [source_outputs(load_estimator(source, pickled=pickled, trust=trust), inputs[0])]


def _run_boosting(kind: SourceKind, source: Path, inputs: Arrays) -> Arrays:
    from convert.from_boosting import lightgbm_outputs, xgboost_outputs

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
@click.argument("inputs", type=click.Path(path_type=Path))
@click.argument("outputs", type=click.Path(path_type=Path))
@click.option("--input", "input_names", multiple=True)
@click.option("--output", "output_names", multiple=True)
@click.option("--trust", is_flag=True)
def main(
    kind: str,
    source: Path,
    inputs: Path,
    outputs: Path,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    trust: bool,
) -> None:
    """Run SOURCE on INPUTS and write OUTPUTS."""
    arrays = read_npz(inputs)
    ordered = [arrays[f"input_{place}"] for place in range(len(arrays))]
    try:
        found = run_source(SourceKind(kind), source, ordered, Ends(input_names, output_names), trust=trust)
    except EdgewrightError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    write_npz(outputs, {f"output_{place}": array for place, array in enumerate(found)})


if __name__ == "__main__":
    main()
