"""Example inputs for modules that do not hold the shapes of their inputs: TorchScript archives and pickled modules.

Shapes come from the user's `--shape` texts, else from the samples; dtypes from the samples, else by trial: floats first, then
integers, then truth values. An example has two samples, because exporters take an axis of size 1 for a constant one; a module
that cannot run two gets one, and its graph has a fixed batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.graph.emit import BATCH_AXIS
from convert.graph.shapes import Shape, parsed_shape
from convert.source.options import SourceOptions
from edgewright.contracts.samples import LABELS, Tensors, read_npz
from edgewright.errors import ModelError, one_line

_FREE_SIZE = 16
"""Example size of a dynamic axis that does not count samples."""
_TRIALS = 32


@dataclass(frozen=True, slots=True)
class Example:
    """One input of a module."""

    name: str
    array: npt.NDArray[Any]
    free: Mapping[int, str]
    """Names of the dynamic axes."""
    dtypes: tuple[type[np.generic], ...]
    """Dtypes that the input may have, in the order in which they are tried."""


def examples_for(path: Path, parameters: Mapping[str, bool], options: SourceOptions) -> list[Example]:
    """Return an example for each input that the user describes, with two samples.

    Args:
        path: the module's file, for errors.
        parameters: names of the module's parameters in their order; False: the parameter may be omitted.
        options: their `shapes` and `samples` describe the inputs.

    Raises:
        ModelError: an input that the module needs is not described.
        BadInputError: a shape cannot be parsed.
        NotFoundError: a shape is for a parameter that the module lacks.
    """
    needed = [name for name, required in parameters.items() if required] or list(parameters)[:1]
    shapes = dict(parsed_shape(text, needed if "=" not in text else list(parameters)) for text in options.shapes)
    arrays = _sample_arrays(options.samples, needed)
    described = [name for name in parameters if name in needed or name in shapes or name in arrays]
    names = list(parameters)[: list(parameters).index(described[-1]) + 1] if described else []
    missing = [name for name in names if name not in shapes and name not in arrays]
    if missing or not names:
        raise ModelError(
            f"{path} does not hold the shapes of its inputs: give {' and '.join(missing) or 'them'} with --shape, as in "
            f"--shape {(missing or ['x'])[0]}=Nx3x224x224, or give --samples"
        )
    return [_example(name, shapes.get(name), arrays.get(name), counts=name not in options.other_ends) for name in names]


def runnable(path: Path, call: Callable[[Sequence[Any]], Any], examples: Sequence[Example]) -> list[Example]:
    """Return the examples in the first dtypes that the module runs, with two samples or, if it cannot run those, with one.

    Args:
        path: the module's file, for errors.
        call: runs the module on arrays.
        examples: as `examples_for` returns them.

    Raises:
        ModelError: the module runs none of them.
    """
    problem: Exception | None = None
    for sized in (list(examples), [_single(example) for example in examples]):
        for dtypes in itertools.islice(itertools.product(*(example.dtypes for example in sized)), _TRIALS):
            trial = [replace(example, array=example.array.astype(dtype)) for example, dtype in zip(sized, dtypes, strict=True)]
            try:
                call([example.array for example in trial])
            except Exception as error:  # noqa: BLE001  a module fails in its own way
                problem = problem or error
            else:
                return trial
    given = ", ".join(f"{example.name}[{', '.join(map(str, example.array.shape))}]" for example in examples)
    cause = "no trial" if problem is None else _last_line(problem)
    raise ModelError(f"{path}: the module cannot run inputs of the shapes {given}: {cause}") from problem


def _last_line(error: Exception) -> str:
    """Return the last line of an error: TorchScript's errors begin with the stack of the script."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(Exception(lines[-1])) if lines else one_line(error)


def _sample_arrays(samples: Path | None, needed: Sequence[str]) -> Tensors:
    if samples is None:
        return {}
    arrays = {name: array for name, array in read_npz(samples).items() if name != LABELS}
    return dict(zip(needed, arrays.values(), strict=True)) if len(arrays) == len(needed) == 1 else arrays


def _example(name: str, shape: Shape | None, given: npt.NDArray[Any] | None, *, counts: bool) -> Example:
    if shape is None:
        assert given is not None
        array = np.resize(given, (2, *given.shape[1:]))
        return Example(name, array, {0: BATCH_AXIS} if counts else {}, _dtypes(given.dtype))
    sizes = (BATCH_AXIS, *shape[1:]) if counts else shape
    numbers = [size if isinstance(size, int) else 2 if size == BATCH_AXIS else _FREE_SIZE for size in sizes]
    free = {axis: size for axis, size in enumerate(sizes) if isinstance(size, str)}
    array = np.random.default_rng(0).random(numbers)
    return Example(name, array, free, (np.float32, np.int64, np.bool_) if given is None else _dtypes(given.dtype))


def _dtypes(dtype: np.dtype[Any]) -> tuple[type[np.generic], ...]:
    """Return the dtypes of an input whose samples have `dtype`; images of bytes are cast to floats, and counts to int64."""
    if dtype.kind == "f":
        return (np.float32,)
    if dtype.kind == "b":
        return (np.bool_, np.float32)
    return (np.float32, np.int64, np.int32, np.uint8) if dtype == np.uint8 else (dtype.type, np.int64, np.float32)


def _single(example: Example) -> Example:
    """Return an example with one sample, whose batch is fixed."""
    batch = next((axis for axis, name in example.free.items() if name == BATCH_AXIS), None)
    if batch is None:
        return example
    free = {axis: name for axis, name in example.free.items() if axis != batch}
    return replace(example, array=np.take(example.array, [0], axis=batch), free=free)
