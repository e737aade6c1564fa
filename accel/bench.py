"""Measure variants on this machine, each in its own process, so that the memory of one does not include that of another.

    open_targets(path)   the targets in a path: an ONNX file, or the variants of a build or a package
    fastest(targets)     the variant and backend that `auto` takes here, from a benchmark of all
    measure(target)      load and run one target in a worker process
    bench_worker.py      the worker

The times are those of `latency.py`. Results name the machine, because a latency means nothing without it.
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
"""Time limit for a worker to start and load, in addition to its measuring time."""


@dataclass(frozen=True, slots=True)
class BenchTarget:
    """A variant, or an ONNX file outside of any variant."""

    name: str
    variant: VariantDirectory | None = None
    graph: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """The settings of a measurement."""

    backend: str = AUTO
    threads: int | None = None
    """None: the backend's default."""
    batch: int = 1
    runs: int = 100
    time_limit_s: float = 60.0
    """Time after which the timed runs end early."""

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
    """The measurements of one variant."""

    variant: str
    backend: str
    precision: str | None
    size_bytes: int | None
    threads: int | None
    batch: int
    load_ms: float
    latency_ms: Latency
    throughput_per_s: float
    """Samples per second for one caller without pauses."""
    peak_memory_mib: float
    """Highest resident memory of the whole process."""
    variant_memory_mib: float
    """The part of `peak_memory_mib` above the memory before the variant was loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchMachine:
    """The machine and software versions of a measurement."""

    architecture: str
    cpu_model: str
    cpu_cores: int
    memory_mib: int
    board: str | None
    versions: dict[str, str]


@contextlib.contextmanager
def open_targets(path: Path, variant: str | None = None) -> Iterator[tuple[BenchTarget, ...]]:
    """Yield the targets in `path`; the variants of a package are unpacked until the block ends.

    Raises:
        NotFoundError: the path does not exist, or has no variant of that name.
        PackageError: the path is a directory, but not a build directory, a variant or a package.
    """
    if not path.exists():
        raise NotFoundError(f"{path}: no such file; it must be an .onnx file, a build directory or a package")
    if (path / RECORD_FILE).is_file():
        build = BuildDirectory.open(path)
        yield _chosen([BenchTarget(one.config.variant, one) for one in build.variants()], variant, path)
    elif (path / CONFIG_FILE).is_file():
        opened_variant = VariantDirectory.open(path)
        yield _chosen([BenchTarget(opened_variant.config.variant, opened_variant)], variant, path)
    elif path.is_dir() or tarfile.is_tarfile(path):
        with _unpacked(path, variant) as targets:
            yield targets
    else:
        yield _chosen([BenchTarget(path.stem, graph=path)], variant, path)


def fastest(targets: Sequence[BenchTarget], settings: BenchSettings) -> Fastest | None:
    """Return the fastest variant and backend on this machine; None for a single variant, or if the backend is given.

    Raises:
        OperationError: no backend here can run any of them.
    """
    variants = [target.variant for target in targets if target.variant is not None]
    if settings.backend != AUTO or len(variants) < 2:
        return None
    return find_fastest(variants, threads=settings.threads)


def refusal(target: BenchTarget, settings: BenchSettings) -> str | None:
    """Return the reason why a variant cannot be measured in these batches, or None."""
    variant = target.variant
    dependent = variant is not None and not variant.config.independent_samples
    return dependent_samples(target.name, settings.batch) if dependent and settings.batch > 1 else None


def dependent_samples(name: str, batch: int) -> str:
    """Return the message for a graph whose samples depend on each other."""
    return (
        f"{name}: the outputs of a sample must not depend on the others of its batch, but here they do, so that a "
        f"batch of {batch} does not score {batch} samples: measure it with --batch 1"
    )


def measure(target: BenchTarget, settings: BenchSettings) -> BenchResult:
    """Measure one target in its own process.

    Raises:
        BadInputError: the outputs of a sample depend on the others of its batch.
        ModelError: it cannot be loaded.
        OperationError: no backend here can run it, or the worker ended without a result.
    """
    reason = refusal(target, settings)
    if reason is not None:
        raise BadInputError(reason)
    request = _request(target, settings)
    with WorkerProcess("accel.bench_worker", subject=request.path) as worker:
        answer = worker.ask(wire.encode(request), limit_s=START_LIMIT_S + request.time_limit_s)
    measurement = wire.decode(answer, WorkerMeasurement, what="the measurement", error=OperationError)
    config = target.variant.config if target.variant else None
    return BenchResult(
        variant=target.name,
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
    """Describe this machine and its software versions."""
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


def _chosen(targets: list[BenchTarget], variant: str | None, path: Path) -> tuple[BenchTarget, ...]:
    if not targets:
        raise PackageError(f"{path} has no variant to measure; 'edgewright quantize' adds some")
    if variant is None:
        return tuple(targets)
    named = {target.name: target for target in targets}
    if variant not in named:
        raise NotFoundError(f"{path} has no variant {variant!r}{nearest(variant, named)}")
    return (named[variant],)


@contextlib.contextmanager
def _unpacked(path: Path, variant: str | None) -> Iterator[tuple[BenchTarget, ...]]:
    with opened(path) as layout, tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        package = read_package(layout)
        chosen = package.variants if variant is None else (package.variant(variant),)
        yield tuple(
            BenchTarget(packaged.config.variant, unpack_variant(layout, packaged, Path(folder) / packaged.config.variant))
            for packaged in chosen
        )


def _request(target: BenchTarget, settings: BenchSettings) -> WorkerRequest:
    """Choose the backend here, so that the candidates of `auto` do not count as memory of the variant."""
    backend = settings.backend
    if target.variant is not None and backend == AUTO:
        backend = choose_backend(target.variant, threads=settings.threads)
    path = target.variant.path if target.variant else target.graph
    return WorkerRequest(
        path=str(path),
        is_variant=target.variant is not None,
        backend=backend,
        threads=settings.threads,
        batch=settings.batch,
        runs=settings.runs,
        time_limit_s=settings.time_limit_s,
    )
