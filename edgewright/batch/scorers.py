"""Score mini-batches: with a model's session, with a model of a framework, or with the `run` of a script."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edgewright.batch.job import BatchJob
from edgewright.batch.mini_batches import MiniBatch
from edgewright.batch.results import FILE, from_arrays, from_script
from edgewright.batch.tasks import Failure
from edgewright.contracts.samples import Tensors
from edgewright.contracts.variant import TensorSpec, VariantConfig
from edgewright.errors import EdgewrightError, SamplesError, one_line
from edgewright.serving.http.messages import HttpError
from edgewright.serving.nocode.identify import Framework, framework_of, model_in
from edgewright.serving.variants.images import ImageInput


@dataclass(frozen=True, slots=True)
class Scored:
    """The results of a mini-batch, and the items without one."""

    table: pa.Table
    failures: tuple[Failure, ...] = ()


class Scorer(Protocol):
    """A model or script that is ready to score."""

    def __call__(self, batch: MiniBatch) -> Scored:
        """Score a mini-batch; whatever it raises fails the mini-batch."""
        ...


@contextlib.contextmanager
def open_scorer(job: BatchJob, *, threads: int | None) -> Iterator[Scorer]:
    """Load the model, or import the script and call its `init`.

    Raises:
        BadInputError: the model or script cannot be used.
        OperationError: `init` failed.
    """
    if job.script is not None:
        yield _opened_script(job, Path(job.script))
        return
    path = model_in(Path(str(job.model)))
    framework = framework_of(path)
    if framework not in (None, Framework.ONNX):
        assert framework is not None
        yield _framework_scorer(job, path, framework)
        return
    from edgewright.serving.opening import open_session

    with open_session(path, variant=job.variant, backend=job.backend, threads=threads) as (session, config):
        images = ImageInput.of(config)
        run = session.run if config.independent_samples else _one_at_a_time(session.run)

        def score(batch: MiniBatch) -> Scored:
            if batch.table is None:
                return _score_images(batch, images, run, config)
            table, kept = _split(batch.table, job)
            outputs = run(_tensors(table, config.inputs))
            return Scored(_beside(kept, from_arrays(outputs, config.labels)))

        yield score


def _opened_script(job: BatchJob, path: Path) -> Scorer:
    from edgewright.serving.scripts.entry_script import EntryScript, failed_init

    sys.argv = [str(path), *job.arguments]
    script = EntryScript.load(path, None if job.model_dir is None else Path(job.model_dir))
    try:
        script.init()
    except (Exception, SystemExit) as error:
        raise failed_init(error, path) from error

    def score(batch: MiniBatch) -> Scored:
        given = list(batch.paths) if batch.table is None else _split(batch.table, job)[0].to_pandas()
        results = from_script(script.run(given))
        missing = batch.count - results.num_rows
        failures: tuple[Failure, ...] = ()
        if missing > 0:
            error = f"run() must return one result per input, but it returned {results.num_rows} for {batch.count}"
            failures = (Failure(item=batch.item, count=missing, error=error),)
        elif batch.table is not None and job.keep and missing == 0:
            results = _beside(batch.table.select(list(job.keep)), results)
        return Scored(results, failures)

    return score


def _framework_scorer(job: BatchJob, path: Path, framework: Framework) -> Scorer:
    from edgewright.serving.nocode.frameworks import load_model

    model = load_model(path, framework, trust=job.trust)
    predict = next(iter(model.methods.values()))

    def score(batch: MiniBatch) -> Scored:
        if batch.table is None:
            raise SamplesError(f"{path.name} takes rows of tables: give Parquet, CSV or Arrow files")
        table, kept = _split(batch.table, job)
        if model.is_table:
            frame = table.select(list(model.columns)) if model.columns else table
            values: Any = frame.to_pandas() if model.needs_frame else _matrix(frame)
        else:
            values = _tensors(table, model.inputs)
        return Scored(_beside(kept, from_arrays(predict(values))))

    return score


def _split(table: pa.Table, job: BatchJob) -> tuple[pa.Table, pa.Table]:
    """Return the columns that the model reads and those that are kept."""
    wanted = (*job.columns, *job.keep)
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        found = ", ".join(table.column_names[:10]) + (", …" if table.num_columns > 10 else "")
        raise SamplesError(f"the input must have the column {missing[0]}, but it has {found}")
    if not wanted:
        return table, table.select([])
    others = {*job.keep, *job.partition_keys} if not job.script else {*job.keep}
    read = job.columns or [name for name in table.column_names if name not in others]
    return table.select(list(read)), table.select(list(job.keep))


def _beside(kept: pa.Table, results: pa.Table) -> pa.Table:
    for place, name in enumerate(kept.column_names):
        results = results.add_column(place, name, kept.column(name))
    return results


def _tensors(table: pa.Table, inputs: tuple[TensorSpec, ...]) -> Tensors:
    """Return the inputs of a model: columns of their names, or all columns as the only input."""
    names = [spec.name for spec in inputs]
    if all(name in table.column_names for name in names):
        return {spec.name: _column(table.column(spec.name), spec) for spec in inputs}
    if len(inputs) > 1:
        missing = next(name for name in names if name not in table.column_names)
        raise SamplesError(f"the table must have a column for each input of the model, but {missing} is missing")
    spec = inputs[0]
    matrix = _matrix(table).astype(spec.dtype, copy=False)
    sizes = [size for size in spec.shape[1:] if isinstance(size, int)]
    if len(sizes) == len(spec.shape) - 1 > 1 and int(np.prod(sizes)) == matrix.shape[1]:
        matrix = matrix.reshape(len(matrix), *sizes)
    return {spec.name: matrix}


def _column(column: pa.ChunkedArray, spec: TensorSpec) -> npt.NDArray[Any]:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        flat = array.flatten().to_numpy(zero_copy_only=False).astype(spec.dtype, copy=False)
        sizes = [size if isinstance(size, int) else -1 for size in spec.shape[1:]] or [-1]
        try:
            shaped: npt.NDArray[Any] = flat.reshape(len(array), *sizes)
        except ValueError as error:
            raise SamplesError(f"column {spec.name} must hold lists of the shape of {spec}: {one_line(error)}") from error
        return shaped
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False).astype(spec.dtype, copy=False)
    return values if len(spec.shape) == 1 else values.reshape(len(values), *[1] * (len(spec.shape) - 1))


def _matrix(table: pa.Table) -> npt.NDArray[Any]:
    """Return a table of numbers as an array [rows, columns]; a missing value is NaN."""
    for field in table.schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)):
            text = f"the model reads numbers, but column {field.name} holds {field.type}"
            raise SamplesError(f"{text}: name the columns of the model with columns, or those to copy with keep")
    batches = table.combine_chunks().to_batches()
    if not batches:
        return np.zeros((0, table.num_columns), np.float32)
    if any(pa.types.is_boolean(field.type) for field in table.schema):
        columns = [column.to_numpy() for column in table.columns]
        return np.stack(columns, axis=1).astype(np.float64)
    matrix: npt.NDArray[Any] = batches[0].to_tensor(null_to_nan=True, row_major=True).to_numpy()
    return matrix


def _one_at_a_time(run: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """Return `run` for a model whose outputs of a sample depend on the other samples of its batch."""

    def each(inputs: Tensors) -> Tensors:
        count = len(next(iter(inputs.values())))
        outputs = [run({name: array[place : place + 1] for name, array in inputs.items()}) for place in range(count)]
        return {name: np.concatenate([one[name] for one in outputs]) for name in (outputs[0] if outputs else {})}

    return each


def _score_images(
    batch: MiniBatch, images: ImageInput | None, run: Callable[[Tensors], Tensors], config: VariantConfig
) -> Scored:
    """Score files as images; one that cannot be read or decoded fails alone."""
    if images is None:
        raise SamplesError("files other than tables must be images, but the model has no preprocessing for images")
    prepared: list[npt.NDArray[Any]] = []
    names: list[str] = []
    failures: list[Failure] = []
    for path in batch.paths:
        try:
            prepared.append(images.from_files([Path(path).read_bytes()]))
            names.append(path)
        except OSError as error:
            failures.append(Failure(item=path, count=1, error=f"cannot be read: {error.strerror}"))
        except (HttpError, EdgewrightError) as error:
            failures.append(Failure(item=path, count=1, error=one_line(error)))
    if not prepared:
        return Scored(pa.table({}), tuple(failures))
    outputs = run({images.spec.name: np.concatenate(prepared)})
    return Scored(_beside(pa.table({FILE: names}), from_arrays(outputs, config.labels)), tuple(failures))
