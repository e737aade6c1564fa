"""A build directory: one graph and what was made of it, on its way to a package.

    BUILD/build.json            what the model is: interface, labels, cut, where it came from (by digest, never by path)
          graph/                graph.onnx, featurizer.weights, head.weights, golden_inputs.npz, golden_outputs.npz
          variants/<name>/      variant.json and the layers of one variant; `fp32` is the graph itself
          reports/              what was measured, as JSON; never packed

`convert` makes one, `quantize` and `compile` extend it, `packages build` packs it. A variant appears whole or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import replace_directory, staging_beside, write_atomically
from edgewright.contracts.names import Digest, check_digest, check_name, nearest
from edgewright.contracts.variant import Preprocessing, TensorSpec, Tolerance, VariantDirectory
from edgewright.errors import ConflictError, NotFoundError, PackageError

RECORD_FILE = "build.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where the graph is divided: the tensors that leave the featurizer and enter the head."""

    tensors: tuple[str, ...]
    featurizer_nodes: int
    head_nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """What a build directory holds a graph of."""

    source_kind: str
    """The reader that made it: `keras`, `sklearn`, `onnx`, …"""
    source_digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    """How far float variants may be from the source; other precisions carry their own."""
    labels: tuple[str, ...] = ()
    cut: Cut | None = None
    preprocessing: Preprocessing | None = None
    format: int = 1

    def __post_init__(self) -> None:
        check_digest(self.source_digest)


@dataclass(frozen=True, slots=True)
class BuildDirectory:
    """A build directory that exists and whose record was read."""

    path: Path
    record: BuildRecord

    @classmethod
    def open(cls, path: Path) -> BuildDirectory:
        """Open a build directory; raise `NotFoundError` or `PackageError` when it is none."""
        record_path = path / RECORD_FILE
        if not record_path.is_file():
            raise NotFoundError(f"{path} is no build directory: it must hold {RECORD_FILE}; 'edgewright convert' makes one")
        return cls(path, wire.decode(record_path.read_bytes(), BuildRecord, what=str(record_path), error=PackageError))

    @classmethod
    @contextlib.contextmanager
    def creating(cls, path: Path) -> Iterator[Path]:
        """Give an empty working directory that becomes the build directory `path` when the block ends well.

        The block must write `build.json` (see `write_record`). Raises `ConflictError` when `path` holds something else.
        """
        if path.exists() and not path.is_dir():
            raise ConflictError(f"{path} must be a directory, or not there yet, but it is a file: choose another output")
        if path.exists() and any(path.iterdir()) and not (path / RECORD_FILE).is_file():
            raise ConflictError(f"{path} exists and is no build directory: choose another output, or remove it yourself")
        with staging_beside(path) as staging:
            (staging / "graph").mkdir()
            (staging / "variants").mkdir()
            (staging / "reports").mkdir()
            yield staging
            replace_directory(staging, path)

    @property
    def graph(self) -> Path:
        """The directory of the float graph and the golden samples."""
        return self.path / "graph"

    @property
    def reports(self) -> Path:
        """The directory of reports."""
        return self.path / "reports"

    def source_digest(self) -> Digest:
        """Return the digest of the source model."""
        return check_digest(self.record.source_digest)

    def variants(self) -> tuple[VariantDirectory, ...]:
        """Return the finished variants, sorted by name."""
        folders = sorted(folder for folder in (self.path / "variants").iterdir() if not folder.name.startswith("."))
        return tuple(VariantDirectory.open(folder) for folder in folders)

    def variant(self, name: str) -> VariantDirectory:
        """Return the variant called `name`; raise `NotFoundError` offering the nearest names."""
        known = {variant.config.variant: variant for variant in self.variants()}
        if name not in known:
            raise NotFoundError(f"{self.path} has no variant {name!r}{nearest(name, known)}")
        return known[name]

    @contextlib.contextmanager
    def creating_variant(self, name: str) -> Iterator[Path]:
        """Give an empty directory that becomes `variants/<name>` when the block ends well, replacing an older one.

        The block must write the layers and `VariantDirectory.write` its config.
        """
        target = self.path / "variants" / check_name(name, "variant")
        with staging_beside(target) as staging:
            yield staging
            replace_directory(staging, target)

    def write_report(self, name: str, report: object) -> Path:
        """Write `reports/<name>.json`, readable by people, and return its path."""
        path = self.reports / f"{name}.json"
        write_atomically(path, wire.encode_readable(report))
        return path


def write_record(directory: Path, record: BuildRecord) -> None:
    """Write `build.json` into a directory given by `BuildDirectory.creating`."""
    write_atomically(directory / RECORD_FILE, wire.encode(record))
