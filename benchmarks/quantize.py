"""Measure the effect of quantization on accuracy, size and latency of real networks.

    python -P benchmarks/quantize.py DATA              ResNet-8 (CIFAR-10), the ToyCar autoencoder of MLPerf Tiny, detectors
    python -P benchmarks/quantize.py DATA --json       one JSON document
    python -P benchmarks/quantize.py DATA --calibration entropy --equalize
    python -P benchmarks/quantize.py DATA --profile generic-x86-64 --profile raspberry-pi-5

(`-P` keeps this folder off the import path, because its files have the names of our packages.)

DATA holds resnet8_cifar10.h5, ad01_toycar.h5, cifar10_calibration.npz and cifar10_eval.npz. Variants are calibrated on the first
set and measured on the second. ToyCar is calibrated on normally distributed numbers of one seed and measured on those of another,
and on smooth ones in the range of log-mel energies. Detectors is synthetic: of the 256 channels between two of its layers, the
first 32 rarely fire and have weights 32 times as large as the others; it is measured on its calibration samples.

`weights` is the share of the float weights' bytes, `size` that of weights and graph together. Times are medians of one sample on
this machine with onnxruntime. `npu` is the accuracy on the NPU's functional model, and `same` the share of labels that equal
onnxruntime's for the same graph.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from accel.backends.choose import load_session
from accel.comparison import run_all
from accel.evaluate import evaluate_variant, reference_outputs
from convert.conversion import ConvertOptions, convert_model
from edgewright.command_line import print_table
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, load_samples, write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, Precision, VariantDirectory
from hardware_profiles.catalog import load_profile
from hardware_profiles.detect import read_machine
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import tensor_sqnr
from quantize.calibration.thresholds import Calibration
from quantize.int8.int8 import Int8Settings
from quantize.npu.functional import evaluate_functional
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme

COLUMNS = ("network", "variant", "accuracy", "agreement", "sqnr_db", "snr_shaped_db", "npu", "same", "weights", "size", "p50_ms")
ON_NPU = (Precision.NPU_INT8, Precision.NPU_MXINT8)
TOYCAR_INPUTS = 640


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--calibration", default=Int8Settings().calibration.value, type=click.Choice([method.value for method in Calibration])
)
@click.option("--equalize", is_flag=True)
@click.option("--profile", "profiles", multiple=True, help="Also int8 in the integers of this hardware.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(data: Path, calibration: str, equalize: bool, profiles: tuple[str, ...], as_json: bool) -> None:
    """Measure quantization."""
    plain = Int8Settings(calibration=Calibration(calibration), equalize=equalize)
    types = [one for one in (load_profile(name).int8_types for name in profiles) if one is not None]
    settings = [plain, *(replace(plain, types=one) for one in dict.fromkeys(types) if one is not plain.types)]
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        networks = (
            resnet8(data, Path(folder), settings),
            toycar(data, Path(folder), settings),
            detectors(Path(folder), settings),
        )
        rows = [row for network in networks for row in network]
    machine = read_machine()
    versions = {name: metadata.version(name) for name in ("onnxruntime", "onnx", "numpy")}
    if as_json:
        about = {"cpu": machine.cpu_model, "cores": machine.cpu_cores, "versions": versions}
        click.echo(json.dumps({"machine": about, "calibration": calibration, "equalize": equalize, "rows": rows}, indent=2))
        return
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    click.echo(f"{machine.cpu_model}, {machine.cpu_cores} cores; {listed}; calibration {calibration}")


def resnet8(data: Path, folder: Path, settings: list[Int8Settings]) -> list[dict[str, Any]]:
    """Return a row per variant of the classifier, on images outside of the calibration set."""
    build = convert_model(
        data / "resnet8_cifar10.h5", folder / "resnet8", ConvertOptions(samples=data / "cifar10_calibration.npz")
    )
    make_all(build, data / "cifar10_calibration.npz", settings)
    held_out = load_samples(data / "cifar10_eval.npz", build.record.inputs)
    return [row("ResNet-8", build, variant, held_out, {"sqnr_db": held_out}) for variant in build.variants()]


def toycar(data: Path, folder: Path, settings: list[Int8Settings]) -> list[dict[str, Any]]:
    """Return a row per variant of the autoencoder, whose outputs are numbers instead of classes."""
    calibration = folder / "calibration.npz"
    random, shaped = (Samples({"input_1": values}) for values in (normal(1), smooth(2)))
    write_npz(calibration, {"input_1": np.concatenate([normal(3), smooth(4)])})
    build = convert_model(data / "ad01_toycar.h5", folder / "toycar", ConvertOptions(samples=calibration))
    make_all(build, calibration, settings)
    name = build.record.inputs[0].name
    random, shaped = (Samples({name: next(iter(one.inputs.values()))}) for one in (random, shaped))
    return [row("ToyCar", build, one, random, {"sqnr_db": random, "snr_shaped_db": shaped}) for one in build.variants()]


def detectors(folder: Path, settings: list[Int8Settings]) -> list[dict[str, Any]]:
    """Return a row per variant of a network with very different weights per block of 32 channels."""
    generator = np.random.default_rng(0)
    kernel, bias = generator.normal(0, 0.4, (256, 8, 1, 1)), generator.normal(0, 0.1, 256)
    reader = generator.normal(0, 0.03, (48, 256, 3, 3))
    bias[:32] -= 3.5
    reader[:, :32] *= 32
    weights = {"a": kernel, "b": bias, "c": reader, "d": generator.normal(0, 0.2, (48, 10))}
    nodes = [
        helper.make_node("Conv", ["x", "a", "b"], ["seen"], name="see"),
        helper.make_node("Relu", ["seen"], ["fired"], name="fire"),
        helper.make_node("Conv", ["fired", "c"], ["weighed"], name="weigh", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["weighed"], ["passed"], name="pass"),
        helper.make_node("GlobalAveragePool", ["passed"], ["average"], name="average"),
        helper.make_node("Flatten", ["average"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "d"], ["y"], name="classify"),
    ]
    ends: dict[str, list[str | int | None]] = {"x": ["N", 8, 6, 6], "y": ["N", 10]}
    source, target = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items())
    constants = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "detectors", [source], [target], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "detectors.onnx")
    samples = Samples({"x": generator.normal(size=(128, 8, 6, 6)).astype(np.float32)})
    write_npz(folder / "detectors.npz", samples.inputs)
    build = convert_model(folder / "detectors.onnx", folder / "detectors", ConvertOptions(samples=folder / "detectors.npz"))
    make_all(build, folder / "detectors.npz", settings)
    return [row("Detectors", build, variant, samples, {"sqnr_db": samples}) for variant in build.variants()]


def make_all(build: BuildDirectory, samples: Path, settings: list[Int8Settings]) -> None:
    """Make the variants of all schemes except mixed, whose result depends on a budget."""
    for scheme in Scheme:
        if scheme is not Scheme.MIXED:
            quantize(build, QuantizeOptions(scheme=scheme, samples=samples, int8=settings[0]))
    for other in settings[1:]:
        quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=samples, int8=other))


def row(
    network: str, build: BuildDirectory, variant: VariantDirectory, samples: Samples, noise: dict[str, Samples]
) -> dict[str, Any]:
    """Measure one variant."""
    before = build.variant(FLOAT_VARIANT)
    evaluation, _ = evaluate_variant(variant, samples, reference_outputs(before, samples), backend="onnxruntime")
    graphs = [ObservedGraph.open(one.file(LayerKind.GRAPH)) for one in (before, variant)]
    output = build.record.outputs[0].name
    ratios = {
        name: round(tensor_sqnr(graphs[0], graphs[1], samples_of_kind, [output])[output], 1)
        for name, samples_of_kind in noise.items()
        if variant.config.variant != FLOAT_VARIANT
    }
    return {
        "network": network,
        "variant": variant.config.variant,
        "accuracy": evaluation.accuracy,
        "agreement": evaluation.agreement,
        **ratios,
        **(on_npu(variant, samples, build) if variant.config.precision in ON_NPU else {}),
        "weights": f"1/{weight_bytes(before) / weight_bytes(variant):.2f}",
        "size": f"1/{before.config.size_bytes / variant.config.size_bytes:.2f}",
        "p50_ms": round(evaluation.latency_ms.p50, 4),
    }


def on_npu(variant: VariantDirectory, samples: Samples, build: BuildDirectory) -> dict[str, Any]:
    """Measure a variant on the functional model."""
    by_onnxruntime = run_all(load_session(variant, backend="onnxruntime"), samples)
    model = onnx.load(variant.file(LayerKind.GRAPH))
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    evaluation = evaluate_functional(variant, model, samples, reference, by_onnxruntime=by_onnxruntime)
    return {"npu": evaluation.accuracy, "same": evaluation.agreement_with_onnxruntime}


def weight_bytes(variant: VariantDirectory) -> int:
    """Return the bytes of a variant's weights."""
    kinds = (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)
    return sum(variant.file(kind).stat().st_size for kind in kinds if variant.file(kind).is_file())


def normal(seed: int) -> Any:
    """Return normally distributed numbers."""
    return np.random.default_rng(seed).normal(size=(300, TOYCAR_INPUTS)).astype(np.float32)


def smooth(seed: int) -> Any:
    """Return five frames of 128 smooth bands between -60 and 10, like log-mel energies of a machine."""
    generator = np.random.default_rng(seed)
    bands = np.linspace(0, 1, TOYCAR_INPUTS // 5)
    bumps = sum(
        generator.normal(0, 12, (300, 1)) * np.exp(-(((bands - generator.uniform(0, 1, (300, 1))) / 0.1) ** 2)) for _ in range(6)
    )
    frames = np.repeat((-15 - 20 * bands + bumps)[:, None], 5, axis=1) + generator.normal(0, 2, (300, 5, len(bands)))
    return np.clip(frames, -60, 10).reshape(300, -1).astype(np.float32)


if __name__ == "__main__":
    main()
