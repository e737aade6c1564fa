"""Measure variants on this machine, each in a process of its own, so that the memory is the variant's and nobody else's.

    subjects(path)       what there is to measure: an ONNX file, or the variants of a build or a package
    fastest(subjects)    which variant and backend `auto` takes here, measured in turns
    measure(subject)     have a worker process load and run it
    bench_worker.py      the worker

The times are those of `latency.py`; the machine is told with them, because a latency without its machine means nothing.
"""

from __future__ import annotations

import contextlib
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from platform import python_version

from accel.backends.choose import AUTO, Fastest, choose_backend, find_fastest
from accel.latency import Latency
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.build_directory import RECORD_FILE, BuildDirectory
from edgewright.contracts.names import nearest
from edgewright.contracts.package import opened, read_package, unpack_variant
from edgewright.contracts.variant import CONFIG_FILE, VariantDirectory
from edgewright.errors import BadInputError, NotFoundError, OperationError, PackageError
from edgewright.worker_process import WorkerProcess
from hardware_profiles.detect import read_machine

START_LIMIT_S = 120.0
"""How long a worker may take to start and load, beyond the time that it may measure."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing to measure: a variant, or an ONNX file that belongs to no variant."""

    name: str
    variant: VariantDirectory | None = None
    graph: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """How to measure."""

    backend: str = AUTO
    threads: int | None = None
    """None leaves their number to the backend."""
    batch: int = 1
    runs: int = 100
    time_limit_s: float = 60.0
    """When the timed runs end early."""

    def __post_init__(self) -> None:
        for name in ("batch", "runs"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise BadInputError(f"threads must be 1 or more, not {self.threads}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRequest:
    """The request to a worker process (`bench_worker.py`)."""

    path: str
    is_variant: bool
    backend: str
    threads: int | None
    batch: int
    runs: int
    time_limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMeasurement:
    """The result of a worker process."""

    backend: str
    load_ms: float
    latency: Latency
    runtime_mib: float
    """Resident memory before the variant was loaded."""
    peak_mib: float
    """The highest resident memory of the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What was measured on one variant."""

    variant: str
    backend: str
    precision: str | None
    size_bytes: int | None
    threads: int | None
    batch: int
    load_ms: float
    latency_ms: Latency
    throughput_per_s: float
    """Samples per second for one caller that asks again at once."""
    peak_memory_mib: float
    """Resident memory of the whole process at its highest."""
    variant_memory_mib: float
    """What of it came with the variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchMachine:
    """Where it was measured."""

    architecture: str
    cpu_model: str
    cpu_cores: int
    memory_mib: int
    board: str | None
    versions: dict[str, str]


@contextlib.contextmanager
def subjects(path: Path, variant: str | None = None) -> Iterator[tuple[Subject, ...]]:
    """Give what `path` holds to measure; variants of a package are unpacked for as long as the block lasts.

    Raises:
        NotFoundError: nothing is there, or it has no variant of that name.
        PackageError: a directory that is neither a build directory, a variant nor a package.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file; it must be an .onnx file, a build directory or a package")
    if (path / RECORD_FILE).is_file():
        build = BuildDirectory.open(path)
        yield _chosen([Subject(found.config.variant, found) for found in build.variants()], variant, path)
    elif (path / CONFIG_FILE).is_file():
        found = VariantDirectory.open(path)
        yield _chosen([Subject(found.config.variant, found)], variant, path)
    elif path.is_dir() or tarfile.is_tarfile(path):
        with _unpacked(path, variant) as found_subjects:
            yield found_subjects
    else:
        yield _chosen([Subject(path.stem, graph=path)], variant, path)


def fastest(found: Sequence[Subject], settings: BenchSettings) -> Fastest | None:
    """Return the fastest variant and backend on this machine; None where there is no choice, or the backend is given.

    Raises:
        OperationError: nothing here can run any of them.
    """
    variants = [subject.variant for subject in found if subject.variant is not None]
    if settings.backend != AUTO or len(variants) < 2:
        return None
    return find_fastest(variants, threads=settings.threads)


def measure(subject: Subject, settings: BenchSettings) -> BenchResult:
    """Measure one subject in a process of its own.

    Raises:
        ModelError: it cannot be loaded.
        OperationError: no backend can run it here, or the worker ended without an answer.
    """
    request = _request(subject, settings)
    with WorkerProcess("accel.bench_worker", subject=request.path) as worker:
        answer = worker.ask(wire.encode(request), limit_s=START_LIMIT_S + request.time_limit_s)
    measurement = wire.decode(answer, WorkerMeasurement, what="the measurement", error=OperationError)
    config = subject.variant.config if subject.variant else None
    return BenchResult(
        variant=subject.name,
        backend=measurement.backend,
        precision=config.precision.value if config else None,
        size_bytes=config.size_bytes if config else None,
        threads=settings.threads,
        batch=settings.batch,
        load_ms=measurement.load_ms,
        latency_ms=measurement.latency,
        throughput_per_s=1000 * settings.batch / measurement.latency.mean_ms,
        peak_memory_mib=measurement.peak_mib,
        variant_memory_mib=max(0.0, measurement.peak_mib - measurement.runtime_mib),
    )


def this_machine() -> BenchMachine:
    """Describe the machine and the software that a measurement is worth something with."""
    machine = read_machine()
    names = ("numpy", "onnxruntime")
    return BenchMachine(
        architecture=machine.architecture,
        cpu_model=machine.cpu_model,
        cpu_cores=machine.cpu_cores,
        memory_mib=machine.memory_mib,
        board=machine.board,
        versions={
            "edgewright": __version__,
            "python": python_version(),
            **{name: metadata.version(name) for name in names},
        },
    )


def _chosen(found: list[Subject], variant: str | None, path: Path) -> tuple[Subject, ...]:
    if not found:
        raise PackageError(f"{path} has no variant to measure; 'edgewright quantize' makes some")
    if variant is None:
        return tuple(found)
    named = {subject.name: subject for subject in found}
    if variant not in named:
        raise NotFoundError(f"{path} has no variant {variant!r}{nearest(variant, named)}")
    return (named[variant],)


@contextlib.contextmanager
def _unpacked(path: Path, variant: str | None) -> Iterator[tuple[Subject, ...]]:
    with opened(path) as layout, tempfile.TemporaryDirectory(prefix="edgewright-bench-") as place:
        package = read_package(layout)
        chosen = package.variants if variant is None else (package.variant(variant),)
        yield tuple(
            Subject(packaged.config.variant, unpack_variant(layout, packaged, Path(place) / packaged.config.variant))
            for packaged in chosen
        )


def _request(subject: Subject, settings: BenchSettings) -> WorkerRequest:
    """Settle the backend here, so that what `auto` tries does not count as the variant's memory."""
    backend = settings.backend
    if subject.variant is not None and backend == AUTO:
        backend = choose_backend(subject.variant, threads=settings.threads)
    place = subject.variant.path if subject.variant else subject.graph
    return WorkerRequest(
        path=str(place),
        is_variant=subject.variant is not None,
        backend=backend,
        threads=settings.threads,
        batch=settings.batch,
        runs=settings.runs,
        time_limit_s=settings.time_limit_s,
    )
