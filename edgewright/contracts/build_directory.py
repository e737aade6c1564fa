"""A build directory: one graph and its variants, before they are packed.

    BUILD/build.json            description of the model: interface, labels, cut, digest of its source
          graph/                graph.onnx, featurizer.weights, head.weights, golden_inputs.npz, golden_outputs.npz
          variants/<name>/      variant.json and the layers of one variant; `fp32` is the graph itself
          reports/              measurements as JSON; never packed

`convert` makes one, `quantize` and `compile` extend it, `packages build` packs it. A variant appears whole or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import followed, replace_directory, staging_beside, write_atomically
from edgewright.contracts.names import Digest, check_digest, check_name, nearest
from edgewright.contracts.variant import Preprocessing, TensorSpec, Tolerance, VariantDirectory
from edgewright.errors import ConflictError, NotFoundError, PackageError

RECORD_FILE = "build.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The division of the graph: the tensors that leave the featurizer and enter the head."""

    tensors: tuple[str, ...]
    featurizer_nodes: int
    head_nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRecord:
    """Content of `build.json`: the description of the model."""

    source_kind: str
    """The reader of the source model: `keras`, `sklearn`, `onnx`, …"""
    source_digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    """Tolerance of float variants; variants of other precisions have their own."""
    labels: tuple[str, ...] = ()
    class_values: tuple[str, ...] = ()
    """The classes' values in the source, if `labels` gives them other names."""
    cut: Cut | None = None
    preprocessing: Preprocessing | None = None
    independent_samples: bool = True
    """False if the graph's outputs for a sample depend on the others of its batch."""
    format: int = 1

    def __post_init__(self) -> None:
        check_digest(self.source_digest)


@dataclass(frozen=True, slots=True)
class BuildDirectory:
    """An existing build directory and its record."""

    path: Path
    record: BuildRecord

    @classmethod
    def open(cls, path: Path) -> BuildDirectory:
        """Open a build directory.

        Raises:
            NotFoundError: there is no `build.json`.
            PackageError: `build.json` does not follow the contract.
        """
        record_path = path / RECORD_FILE
        if not record_path.is_file():
            raise NotFoundError(f"{path} is not a build directory: it must hold {RECORD_FILE}; 'edgewright convert' creates one")
        return cls(path, wire.decode(record_path.read_bytes(), BuildRecord, what=str(record_path), error=PackageError))

    @classmethod
    @contextlib.contextmanager
    def creating(cls, path: Path) -> Iterator[Path]:
        """Yield an empty working directory that becomes the build directory `path` when the block succeeds.

        The block must write `build.json` (see `write_record`).

        Raises:
            ConflictError: `path` exists and is not a build directory.
        """
        path = followed(path)
        if path.exists() and not path.is_dir():
            raise ConflictError(f"{path} must be a directory, or must not exist, but it is a file: choose another output")
        if path.exists() and any(path.iterdir()) and not (path / RECORD_FILE).is_file():
            raise ConflictError(f"{path} exists, but it is not a build directory: choose another output, or remove it")
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
        """Return the variant called `name`; raise `NotFoundError` with the nearest names."""
        variants = {variant.config.variant: variant for variant in self.variants()}
        if name not in variants:
            raise NotFoundError(f"{self.path} has no variant {name!r}{nearest(name, variants)}")
        return variants[name]

    @contextlib.contextmanager
    def creating_variant(self, name: str) -> Iterator[Path]:
        """Yield an empty directory that becomes `variants/<name>` when the block succeeds; it replaces an older one.

        The block must write the layers and `VariantDirectory.write` its config.
        """
        target = self.path / "variants" / check_name(name, "variant")
        with staging_beside(target) as staging:
            yield staging
            replace_directory(staging, target)

    def remove_variant(self, name: str) -> None:
        """Remove `variants/<name>`, at once and as a whole."""
        folder = self.variant(name).path
        with staging_beside(folder) as staging:
            folder.rename(staging / folder.name)

    def write_report(self, name: str, report: object) -> Path:
        """Write `reports/<name>.json`, human-readable, and return its path."""
        path = self.reports / f"{name}.json"
        write_atomically(path, wire.encode_readable(report))
        return path


def write_record(directory: Path, record: BuildRecord) -> None:
    """Write `build.json` into the directory that `BuildDirectory.creating` yields."""
    write_atomically(directory / RECORD_FILE, wire.encode(record))
