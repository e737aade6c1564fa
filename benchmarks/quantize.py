"""What quantization costs in accuracy and gains in size and time, on real networks.

    python -P benchmarks/quantize.py DATA              ResNet-8 (CIFAR-10) and the ToyCar autoencoder of MLPerf Tiny
    python -P benchmarks/quantize.py DATA --json       one JSON document
    python -P benchmarks/quantize.py DATA --calibration entropy --equalize

(`-P` keeps this folder, whose files are named as our packages are, off the path of imports.)

DATA holds resnet8_cifar10.h5, ad01_toycar.h5, cifar10_calibration.npz and cifar10_eval.npz. Variants are calibrated on the first
set and measured on the second, which they never saw. ToyCar is calibrated on normal numbers of one seed and measured on those of
another, and on smooth ones in the range of log-mel energies. `weights` is the share of the float weights' bytes, `size` that of
weights and graph together. Times are medians of one sample on this machine, through onnxruntime.
"""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np

from convert.conversion import ConvertOptions, convert_model
from edgewright.command_line import print_table
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, load_samples, write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, VariantDirectory
from hardware_profiles.detect import read_machine
from quantize.activations import WatchedGraph
from quantize.evaluate import evaluate_variant, reference_outputs
from quantize.int8 import Int8Settings
from quantize.noise import tensor_noise
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from quantize.thresholds import Calibration

COLUMNS = ("network", "variant", "accuracy", "agreement", "snr_db", "snr_shaped_db", "weights", "size", "p50_ms")
TOYCAR_INPUTS = 640


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--calibration", default=Int8Settings().calibration.value, type=click.Choice([method.value for method in Calibration])
)
@click.option("--equalize", is_flag=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(data: Path, calibration: str, equalize: bool, as_json: bool) -> None:
    """Measure quantization."""
    settings = Int8Settings(calibration=Calibration(calibration), equalize=equalize)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        rows = [*resnet8(data, Path(folder), settings), *toycar(data, Path(folder), settings)]
    machine = read_machine()
    versions = {name: metadata.version(name) for name in ("onnxruntime", "onnx", "numpy")}
    if as_json:
        about = {"cpu": machine.cpu_model, "cores": machine.cpu_cores, "versions": versions}
        click.echo(json.dumps({"machine": about, "calibration": calibration, "equalize": equalize, "rows": rows}, indent=2))
        return
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    click.echo(f"{machine.cpu_model}, {machine.cpu_cores} cores; {listed}; calibration {calibration}")


def resnet8(data: Path, folder: Path, settings: Int8Settings) -> list[dict[str, Any]]:
    """Return a row per variant of the classifier, on images that calibration did not see."""
    build = convert_model(
        data / "resnet8_cifar10.h5", folder / "resnet8", ConvertOptions(samples=data / "cifar10_calibration.npz")
    )
    made_all(build, data / "cifar10_calibration.npz", settings)
    held_out = load_samples(data / "cifar10_eval.npz", build.record.inputs)
    return [row("ResNet-8", build, variant, held_out, {"snr_db": held_out}) for variant in build.variants()]


def toycar(data: Path, folder: Path, settings: Int8Settings) -> list[dict[str, Any]]:
    """Return a row per variant of the autoencoder, whose outputs are numbers and no classes."""
    calibration = folder / "calibration.npz"
    random, shaped = (Samples({"input_1": values}) for values in (normal(1), smooth(2)))
    write_npz(calibration, {"input_1": np.concatenate([normal(3), smooth(4)])})
    build = convert_model(data / "ad01_toycar.h5", folder / "toycar", ConvertOptions(samples=calibration))
    made_all(build, calibration, settings)
    name = build.record.inputs[0].name
    random, shaped = (Samples({name: next(iter(one.inputs.values()))}) for one in (random, shaped))
    return [row("ToyCar", build, one, random, {"snr_db": random, "snr_shaped_db": shaped}) for one in build.variants()]


def made_all(build: BuildDirectory, samples: Path, settings: Int8Settings) -> None:
    """Make every variant but the mixed one, which is a search for a budget and no fixed thing."""
    for scheme in Scheme:
        if scheme is not Scheme.MIXED:
            quantize(build, QuantizeOptions(scheme=scheme, samples=samples, int8=settings))


def row(
    network: str, build: BuildDirectory, variant: VariantDirectory, samples: Samples, noise: dict[str, Samples]
) -> dict[str, Any]:
    """Measure one variant."""
    before = build.variant(FLOAT_VARIANT)
    found = evaluate_variant(variant, samples, reference_outputs(before, samples), backend="onnxruntime")
    graphs = [WatchedGraph.open(one.file(LayerKind.GRAPH)) for one in (before, variant)]
    output = build.record.outputs[0].name
    ratios = {
        name: round(tensor_noise(graphs[0], graphs[1], given, [output])[output], 1)
        for name, given in noise.items()
        if variant.config.variant != FLOAT_VARIANT
    }
    return {
        "network": network,
        "variant": variant.config.variant,
        "accuracy": found.accuracy,
        "agreement": found.agreement,
        **ratios,
        "weights": f"1/{weight_bytes(before) / weight_bytes(variant):.2f}",
        "size": f"1/{before.config.size_bytes / variant.config.size_bytes:.2f}",
        "p50_ms": round(found.latency_ms.p50, 4),
    }


def weight_bytes(variant: VariantDirectory) -> int:
    """Return the bytes of a variant's weights."""
    kinds = (LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)
    return sum(variant.file(kind).stat().st_size for kind in kinds if variant.file(kind).is_file())


def normal(seed: int) -> Any:
    """Return normal numbers."""
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
