"""A batch job: a model or script, inputs, an output, and how failures are treated. The file of a job is YAML or JSON.

The names of the fields are those of Azure ML's ParallelRunConfig, with its defaults where it has some:
https://learn.microsoft.com/python/api/azureml-pipeline-steps/azureml.pipeline.steps.parallelrunconfig
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from edgewright.contracts import wire
from edgewright.errors import BadInputError

FILES_PER_MINI_BATCH = 10
ROWS_PER_MINI_BATCH = 4096
_BYTES_PER_MINI_BATCH = "1MB"
_SIZE = re.compile(r"([1-9]\d{0,11}) ?(b|kb|mb|gb)?", re.IGNORECASE)
_UNITS = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl", ".arrow", ".txt")
_EXECUTION_ONLY = frozenset(
    {
        *("workers", "engine", "address", "output", "run_max_try", "run_invocation_timeout", "init_timeout"),
        *("error_threshold", "allowed_failed_count", "allowed_failed_percent"),
    }
)
"""Fields that change how a job runs, and not its results: a job may continue with others."""


class OutputAction(enum.StrEnum):
    """Forms of the output."""

    APPEND_ROW = "append_row"
    """One file with all results, in the order of the inputs."""
    PARTS = "parts"
    """One Parquet file per task."""
    SUMMARY_ONLY = "summary_only"
    """No results: the script stores what it needs itself."""


class InputKind(enum.StrEnum):
    """Kinds of items that a mini-batch holds."""

    AUTO = "auto"
    TABLE = "table"
    FILES = "files"


class Engine(enum.StrEnum):
    """Places where tasks run."""

    EMBEDDED = "embedded"
    DASK = "dask"
    SPARK = "spark"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """The description of a job."""

    input: tuple[str, ...]
    """Files, folders, or URLs of them."""
    output: str
    """The folder of the output."""
    model: str | None = None
    """A package, a build directory, or a model file."""
    script: str | None = None
    """A Python file with `init()` and `run(mini_batch)`."""
    model_dir: str | None = None
    """The folder of the script's models (AZUREML_MODEL_DIR)."""
    arguments: tuple[str, ...] = ()
    """The command line of the script (`sys.argv[1:]`)."""
    variant: str | None = None
    """The variant of a package; the one that fits this machine best if absent."""
    backend: str = "auto"
    trust: bool = False
    """True if the model file may hold code, as a pickle does."""
    kind: InputKind = InputKind.AUTO
    """`table` for rows, `files` for paths; `auto`: by the suffixes of the files."""
    mini_batch: int | str | None = None
    """Rows or files of a mini-batch, or its size as in `1MB`."""
    columns: tuple[str, ...] = ()
    """The columns that the model reads; all of them if empty."""
    keep: tuple[str, ...] = ()
    """Columns that are copied from the input to the output, and are not read by the model."""
    partition_keys: tuple[str, ...] = ()
    """Columns whose values divide the rows: a mini-batch has all rows of one combination."""
    output_action: OutputAction = OutputAction.APPEND_ROW
    append_row_file_name: str = "predictions.parquet"
    """The output file of `append_row`: `.parquet`, `.csv`, `.jsonl`, `.arrow`, or `.txt` for one line per result."""
    run_max_try: int = 3
    """Times that a mini-batch is tried."""
    run_invocation_timeout: float = 60.0
    """Seconds that `run` may take for one mini-batch."""
    init_timeout: float = 300.0
    """Seconds that `init` may take."""
    error_threshold: int = -1
    """Failed rows or files at which the job continues; one more ends it. -1: any number."""
    allowed_failed_count: int | None = None
    """Failed mini-batches at which the job continues; one more ends it."""
    allowed_failed_percent: float | None = None
    """Failed mini-batches, in percent, at which the job counts as completed; checked at the end."""
    workers: int | None = None
    """Worker processes; one per processor if absent."""
    engine: Engine = Engine.EMBEDDED
    """`embedded` on this machine, `dask` or `spark` in a cluster."""
    address: str | None = None
    """The Dask scheduler or the Spark master."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.script is None):
            raise BadInputError("a batch job must have either a model or a script: give --model PACKAGE or --script score.py")
        if not self.input:
            raise BadInputError("a batch job must have at least one input file or folder: give --input PATH")
        size_of(self.mini_batch)
        self._check_output()
        self._check_limits()
        if self.partition_keys and self.mini_batch is not None:
            raise BadInputError("mini_batch must be absent with partition_keys: a mini-batch has all rows of one key")
        if self.partition_keys and self.kind is InputKind.FILES:
            raise BadInputError("partition_keys must be columns of tables, but the kind of the input is files")

    def _check_output(self) -> None:
        name = self.append_row_file_name
        if Path(name).name != name or name.startswith((".", "_")) or Path(name).suffix not in _TABLE_SUFFIXES:
            suffixes = ", ".join(_TABLE_SUFFIXES)
            raise BadInputError(f"append_row_file_name must be a file name that ends with {suffixes}, not {name!r}")

    def _check_limits(self) -> None:
        if self.run_max_try < 1 or (self.workers is not None and self.workers < 1):
            raise BadInputError(f"run_max_try and workers must be 1 or more, not {self.run_max_try} and {self.workers}")
        if self.run_invocation_timeout <= 0 or self.init_timeout <= 0:
            raise BadInputError("run_invocation_timeout and init_timeout must be positive numbers of seconds")
        if self.error_threshold < -1:
            raise BadInputError(f"error_threshold must be 0 or more, or -1 for any number, not {self.error_threshold}")
        if self.allowed_failed_count is not None and self.allowed_failed_count < 0:
            raise BadInputError(f"allowed_failed_count must be 0 or more, not {self.allowed_failed_count}")
        if self.allowed_failed_percent is not None and not 0 <= self.allowed_failed_percent <= 100:
            raise BadInputError(f"allowed_failed_percent must be between 0 and 100, not {self.allowed_failed_percent:g}")

    def fingerprint(self) -> str:
        """Return a digest of what determines the results: every field but those of the execution."""
        plain = {name: value for name, value in wire.to_plain(self).items() if name not in _EXECUTION_ONLY}
        return hashlib.sha256(wire.encode(plain)).hexdigest()


@dataclass(frozen=True, slots=True)
class MiniBatchSize:
    """The size of a mini-batch: a count, or bytes."""

    count: int | None = None
    size_bytes: int | None = None


def size_of(given: int | str | None) -> MiniBatchSize:
    """Return the size that a job states; without one, both are None.

    Raises:
        BadInputError: it is neither a positive number nor a number with a unit.
    """
    if given is None:
        return MiniBatchSize()
    match = _SIZE.fullmatch(str(given).strip()) if not isinstance(given, bool) else None
    if match is None:
        raise BadInputError(f"mini_batch must be a number of rows or files, or a size such as 1MB, not {given!r}")
    if match[2] is None:
        return MiniBatchSize(count=int(match[1]))
    return MiniBatchSize(size_bytes=int(match[1]) * _UNITS[match[2].lower()])


def mini_batch_size(job: BatchJob, kind: InputKind) -> MiniBatchSize:
    """Return the size of the mini-batches of a job, with the defaults for its kind of input."""
    if job.mini_batch is not None:
        return size_of(job.mini_batch)
    if kind is InputKind.FILES:
        return MiniBatchSize(count=FILES_PER_MINI_BATCH)
    return size_of(_BYTES_PER_MINI_BATCH) if job.script else MiniBatchSize(count=ROWS_PER_MINI_BATCH)


def read_job(path: Path | None, given: dict[str, Any]) -> BatchJob:
    """Return the job of a file, with the values that are given beside it; relative paths in a file start at its folder.

    Raises:
        BadInputError: the file cannot be read, or a field is unknown or has an impossible value.
    """
    values = {} if path is None else _read(path)
    values |= given
    if isinstance(values.get("input"), str):
        values["input"] = [values["input"]]
    for name in ("input", "output"):
        if not values.get(name):
            raise BadInputError(f"a batch job must have an {name}: give --{name} PATH, or {name} in the job file")
    return wire.convert(values, BatchJob, what=str(path or "the job"), error=BadInputError)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise BadInputError(f"{path} must be a job file, but it cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} must be YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BadInputError(f"{path} must hold the fields of a job, such as model, input and output")
    known = {field.name for field in fields(BatchJob)}
    unknown = [name for name in values if name not in known]
    if unknown:
        raise BadInputError(f"{path}: unknown field {unknown[0]}; a job has {', '.join(sorted(known))}")
    if isinstance(values.get("input"), str):
        values["input"] = [values["input"]]
    folder = path.parent
    for name in ("model", "script", "model_dir", "output"):
        if isinstance(values.get(name), str):
            values[name] = _beside(values[name], folder)
    if isinstance(values.get("input"), list):
        values["input"] = [_beside(each, folder) if isinstance(each, str) else each for each in values["input"]]
    return values


def _beside(text: str, folder: Path) -> str:
    """Return a relative path as it is seen from the working directory; a URL and a reference to a model stay."""
    return text if "://" in text or text.startswith("models:") else str(folder / text)


def with_model(job: BatchJob, model: Path) -> BatchJob:
    """Return the job with the model at a path, which a reference to the registry was provided at."""
    return replace(job, model=str(model))
