"""A variant: its interface, its measurements and its files.

The files have the same names in a build directory, in a package (one layer each) and on a device (one slot per variant).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import check_name
from edgewright.errors import PackageError

CONFIG_FILE = "variant.json"
FLOAT_VARIANT = "fp32"


class LayerKind(enum.Enum):
    """The kinds of layer: (media type, file name). Content that changes separately has a separate layer, so updates are small."""

    GRAPH = ("application/vnd.edgewright.graph.v1+onnx", "graph.onnx")
    FEATURIZER_WEIGHTS = ("application/vnd.edgewright.weights.featurizer.v1", "featurizer.weights")
    HEAD_WEIGHTS = ("application/vnd.edgewright.weights.head.v1", "head.weights")
    HEAD_GRAPH = ("application/vnd.edgewright.graph.head.v1+onnx", "head.onnx")
    HOST_PARTS = ("application/vnd.edgewright.graph.host-parts.v1+tar", "host_parts.tar")
    NPU_PROGRAM = ("application/vnd.edgewright.npu.program.v1", "npu.program")
    SCRIPT = ("application/vnd.edgewright.script.v1+tar", "script.tar")
    GOLDEN_INPUTS = ("application/vnd.edgewright.golden.inputs.v1+npz", "golden_inputs.npz")
    GOLDEN_OUTPUTS = ("application/vnd.edgewright.golden.outputs.v1+npz", "golden_outputs.npz")
    BASELINE = ("application/vnd.edgewright.baseline.v1+json", "baseline.json")

    @property
    def media_type(self) -> str:
        """The layer's media type in a manifest."""
        return self.value[0]

    @property
    def file_name(self) -> str:
        """The layer's file name in a build directory and in a device's slot."""
        return self.value[1]


class BackendName(enum.StrEnum):
    """Names of the backends that run variants; a package may also name one that this version does not have."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    NPU = "npu"


class Precision(enum.StrEnum):
    """Number formats of weights (and, for int8, activations)."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    MXINT8 = "mxint8"
    NPU_INT8 = "npu-int8"
    NPU_MXINT8 = "npu-mxint8"
    MIXED = "mixed"
    INT8_DYNAMIC = "int8-dynamic"


class Measure(enum.StrEnum):
    """The ways in which an output is compared with the source's."""

    CLASSES = "classes"
    """Scores of classes along one axis: the class per sample, position or pixel."""
    BINARY = "binary"
    """One probability each: whether it is above one half."""
    BOXES = "boxes"
    """Corners of boxes: the share of boxes that overlap by half or more."""
    VALUES = "values"
    """Numbers of a regression, features, pictures: by their error."""
    EXACT = "exact"
    """Integers, booleans, text: every element."""
    COPY = "copy"
    """A copy of an input, which predicts nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output: `dtype` is NumPy's name, a shape entry is a size or the name of a dynamic axis (`N`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: tuple[str, ...] = ()
    """The meaning of each axis (`batch height width channels`), if known."""
    batch_axis: int = 0
    """The axis that counts the samples in the source model; here it is always the first one."""
    measure: str = ""
    """Of an output: the `Measure` that the conversion found out; empty leaves it to the values."""

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Limits of the difference between a variant's outputs and the source model's, on the golden samples."""

    max_relative_difference: float
    """Largest difference of a channel from the source, over the channel's largest value; of integers and text, the share that
    differs."""
    min_agreement: float
    """Smallest share of predicted classes that equal the source's, in the worst output; 0 turns it off."""

    def __post_init__(self) -> None:
        if not (self.max_relative_difference > 0 and math.isfinite(self.max_relative_difference)):
            raise PackageError(f"max_relative_difference must be a positive number, not {self.max_relative_difference}")
        if not 0 <= self.min_agreement <= 1:
            raise PackageError(f"min_agreement must be between 0 and 1, not {self.min_agreement}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Preparation of an image for the graph: `(pixel * scale - mean) / std`, after resize and crop.

    `mean` and `std` have one entry per channel, in the graph's channel order.
    """

    resize_height: int | None = None
    resize_width: int | None = None
    crop_height: int | None = None
    crop_width: int | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color_order: str = "rgb"
    """`rgb` or `bgr`."""

    def __post_init__(self) -> None:
        if self.color_order not in ("rgb", "bgr"):
            raise PackageError(f"color_order must be rgb or bgr, not {self.color_order!r}")
        sizes = (self.resize_height, self.resize_width, self.crop_height, self.crop_width)
        if any(size is not None and size < 1 for size in sizes):
            raise PackageError(f"resize and crop must be 1 pixel or more, not {', '.join(map(str, sizes))}")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0 in self.std:
            raise PackageError("scale, mean and std must be finite, and std must not be 0")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise PackageError(f"mean and std must have one entry per channel each, not {len(self.mean)} and {len(self.std)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Deterministic measurements on the user's samples; latencies are in reports only (docs/adr/0004)."""

    sample_count: int
    agreement: float | None
    """Share of predicted classes that equal the source model's, in the worst output; None if no output predicts classes."""
    max_relative_difference: float
    accuracy: float | None = None
    """Share of predicted classes that are the given labels; None without labels."""
    error: float | None = None
    """Root mean square difference of predicted values, over their standard deviation; None without values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantConfig:
    """The config blob of a variant's manifest, and `variant.json` in a directory."""

    variant: str
    backend: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tolerance: Tolerance
    size_bytes: int
    """Graph and weights together."""
    profiles: tuple[str, ...] = ()
    """Names of the hardware profiles that it fits; empty until it is packed."""
    labels: tuple[str, ...] = ()
    class_values: tuple[str, ...] = ()
    """The classes' values in the source, if `labels` gives them other names."""
    preprocessing: Preprocessing | None = None
    measured: Measured | None = None
    independent_samples: bool = True
    """False if the outputs of a sample depend on the others of its batch: samples are then run one at a time."""
    properties: dict[str, str] = field(default_factory=dict)
    """Further facts for a backend, such as the hash of an NPU profile."""

    def __post_init__(self) -> None:
        check_name(self.variant, "variant")


@dataclass(frozen=True, slots=True)
class VariantDirectory:
    """A variant's files on disk: `variant.json` and one file per layer."""

    path: Path
    config: VariantConfig

    @classmethod
    def open(cls, path: Path) -> VariantDirectory:
        """Read `variant.json`; raise `PackageError` if it is missing or does not follow the contract."""
        config_path = path / CONFIG_FILE
        if not config_path.is_file():
            raise PackageError(f"{path} is not a variant: it must hold {CONFIG_FILE}")
        return cls(path, wire.decode(config_path.read_bytes(), VariantConfig, what=str(config_path), error=PackageError))

    @classmethod
    def write(cls, path: Path, config: VariantConfig) -> VariantDirectory:
        """Write `variant.json` beside the existing layer files."""
        write_atomically(path / CONFIG_FILE, wire.encode(config))
        return cls(path, config)

    def file(self, kind: LayerKind) -> Path:
        """Return the path of the layer of `kind`, existing or not."""
        return self.path / kind.file_name

    def layers(self) -> tuple[LayerKind, ...]:
        """Return the kinds of layer that are present, in the order of `LayerKind`."""
        return tuple(kind for kind in LayerKind if self.file(kind).is_file())


def size_of_weights_and_graph(path: Path) -> int:
    """Return the bytes of the graphs, the weights and the NPU program in a variant's directory."""
    counted = (
        LayerKind.GRAPH,
        LayerKind.FEATURIZER_WEIGHTS,
        LayerKind.HEAD_WEIGHTS,
        LayerKind.HEAD_GRAPH,
        LayerKind.HOST_PARTS,
        LayerKind.NPU_PROGRAM,
    )
    return sum((path / kind.file_name).stat().st_size for kind in counted if (path / kind.file_name).is_file())
