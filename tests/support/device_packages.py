"""Small packages for the agent's tests: a two-layer network with external weights, in one or several variants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory, BuildRecord, write_record
from edgewright.contracts.environments.file_layers import file_of, place_of
from edgewright.contracts.oci import Descriptor, OciLayout, Platform
from edgewright.contracts.package import Package, write_package
from edgewright.contracts.samples import write_npz
from edgewright.contracts.signing import PackageSignature, PrivateKey, sign_package
from edgewright.contracts.variant import Precision, TensorSpec, Tolerance, VariantConfig, VariantDirectory

MODEL = "digits"
INPUTS, HIDDEN, CLASSES = 16, 8192, 3
SLOW_NODES = 60
"""Additional nodes of a slow variant; each takes as long as a whole small network."""
TOLERANCE = Tolerance(max_relative_difference=1e-3, min_agreement=1.0)

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """Contents of one package."""

    head_seed: int = 1
    golden_is_wrong: bool = False
    graph: bytes | None = None
    """Bytes that replace the graph."""
    others: tuple[Precision, ...] = ()
    """Declared precisions of additional variants, which all compute in float32."""
    slow: tuple[str, ...] = ()
    """Variants that compute the same outputs much more slowly."""
    broken: tuple[str, ...] = ()
    """Variants with an invalid graph."""
    backend: str = "onnxruntime"


@dataclass(frozen=True)
class Built:
    """A package in its OCI layout, with samples and expected answers."""

    layout: OciLayout
    package: Package
    samples: Array
    answers: Array

    def files(self) -> list[Descriptor]:
        """Return everything that a device can pull: manifests, configs, and the files in the layers."""
        return [file_of(blob) for blob in self.package.blobs()]

    def read(self, file: Descriptor) -> bytes:
        """Return the bytes of a file in a layer."""
        blob, offset = place_of(file)
        return self.layout.blob_path(blob).read_bytes()[offset:][: file.size]

    def envelope(self, version: int, key: PrivateKey, *, name: str = MODEL, valid_s: float = 3600) -> bytes:
        """Sign the package as a version of a model."""
        expires_at = datetime.now(UTC) + timedelta(seconds=valid_s)
        signature = PackageSignature(index_digest=self.package.digest, model=name, version=version, expires_at=expires_at)
        return sign_package(signature, key)


@dataclass
class Network:
    """Weights of the network."""

    head_seed: int
    featurizer: Array = field(init=False)
    head: Array = field(init=False)

    def __post_init__(self) -> None:
        self.featurizer = np.random.default_rng(0).normal(size=(INPUTS, HIDDEN)).astype(np.float32)
        self.head = np.random.default_rng(self.head_seed).normal(size=(HIDDEN, CLASSES)).astype(np.float32)

    def answers(self, samples: Array) -> Array:
        answers: Array = np.maximum(samples @ self.featurizer, 0) @ self.head
        return answers


def build(folder: Path, recipe: Recipe = Recipe()) -> Built:
    """Build a package below `folder`."""
    network = Network(recipe.head_seed)
    samples = np.random.default_rng(7).normal(size=(8, INPUTS)).astype(np.float32)
    answers = network.answers(samples)
    spec_in = TensorSpec(name="x", dtype="float32", shape=("N", INPUTS))
    spec_out = TensorSpec(name="scores", dtype="float32", shape=("N", CLASSES))
    with BuildDirectory.creating(folder / "build") as staging:
        write_npz(staging / "graph" / "golden_inputs.npz", {"x": samples})
        write_npz(staging / "graph" / "golden_outputs.npz", {"scores": -answers if recipe.golden_is_wrong else answers})
        digest = wire.digest_of(network.head.tobytes())
        record = BuildRecord(
            source_kind="test", source_digest=digest, inputs=(spec_in,), outputs=(spec_out,), tolerance=TOLERANCE
        )
        write_record(staging, record)
    built = BuildDirectory.open(folder / "build")
    config = VariantConfig(
        variant="fp32",
        backend=recipe.backend,
        precision=Precision.FP32,
        inputs=(spec_in,),
        outputs=(spec_out,),
        tolerance=TOLERANCE,
        size_bytes=network.featurizer.nbytes + network.head.nbytes,
        labels=("zero", "one", "two"),
    )
    configs = [config, *(replace(config, variant=other.value, precision=other) for other in recipe.others)]
    for each in configs:
        with built.creating_variant(each.variant) as staging:
            (staging / "graph.onnx").write_bytes(_graph_bytes(network, recipe, each.variant))
            (staging / "featurizer.weights").write_bytes(network.featurizer.tobytes())
            (staging / "head.weights").write_bytes(network.head.tobytes())
            VariantDirectory.write(staging, each)
    layout = OciLayout.create(folder / "layout")
    package = write_package(
        built,
        layout,
        name=MODEL,
        profiles={each.variant: ("generic-x86-64",) for each in configs},
        platforms={each.variant: (Platform(os="linux", architecture="amd64"),) for each in configs},
    )
    return Built(layout, package, samples, answers)


def _graph_bytes(network: Network, recipe: Recipe, variant: str) -> bytes:
    if variant in recipe.broken:
        return f"no graph of {variant}".encode()
    return recipe.graph or _graph(network, SLOW_NODES if variant in recipe.slow else 0)


def _graph(network: Network, slow_nodes: int) -> bytes:
    """Return the graph; `slow_nodes` adds work without changing the outputs."""
    nodes = [
        helper.make_node("MatMul", ["x", "featurizer"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["plain" if slow_nodes else "scores"]),
    ]
    nodes += _slow(slow_nodes)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", INPUTS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", CLASSES])],
        [_outside("featurizer", network.featurizer), _outside("head", network.head)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    raw: bytes = model.SerializeToString()
    return raw


def _slow(count: int) -> list[NodeProto]:
    """Return a chain of cosines of the features, of which the answer gets only zeros."""
    if not count:
        return []
    nodes = [helper.make_node("Cos", ["features" if n == 0 else f"slow{n - 1}"], [f"slow{n}"]) for n in range(count)]
    nodes.append(helper.make_node("Sub", [f"slow{count - 1}", f"slow{count - 1}"], ["nothing"]))
    nodes.append(helper.make_node("MatMul", ["nothing", "head"], ["zeros"]))
    nodes.append(helper.make_node("Add", ["plain", "zeros"], ["scores"]))
    return nodes


def _outside(name: str, array: Array) -> TensorProto:
    """Return an initializer whose bytes are stored in `<name>.weights`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", f"{name}.weights"), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor
