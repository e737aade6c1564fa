"""The five networks of MLPerf Tiny v1.3 on the NPU: operators, accuracy in every number format, RTL, cycles and transfers.

    python -P benchmarks/mlperf_tiny.py                     the three networks with stand-in weights and samples
    python -P benchmarks/mlperf_tiny.py --data FOLDER       also ResNet-8 and ToyCar, with MLPerf's weights
    python -P benchmarks/mlperf_tiny.py --network DS-CNN --rtl-samples 20

FOLDER holds resnet8_cifar10.h5, cifar10_calibration.npz, cifar10_eval.npz and ad01_toycar.h5. The other networks are trained here
for some epochs on digits (networks/mlperf_tiny.py): their accuracy shows what a number format loses, not what MLPerf measures.
ToyCar has MLPerf's weights but no recordings: `error` is the root mean square difference of its outputs over their deviation.

Samples of calibration and of training are never measured. `npu` is the functional model's accuracy, `equal` compares it with the
RTL bit for bit, `ms` is one run at the profile's clock by the cycle model, and `line ms` the transfers at its link speed.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from accel.backends.choose import load_session
from accel.comparison import run_all
from accel.evaluate import reference_outputs
from accel.npu.compiler.partition import compile_partitioned
from accel.npu.machines.host import Session
from accel.npu.machines.rtl_simulator import RtlSimulator
from accel.npu.model.functional_model import FunctionalModel
from accel.npu.model.report import estimate
from accel.npu.profile import find_profile
from benchmarks.networks.mlperf_tiny import HELD_OUT, NETWORKS, TinyNetwork, keras_network
from convert.conversion import ConvertOptions, convert_model
from convert.frameworks import import_keras
from edgewright.command_line import print_table
from edgewright.contracts.build_directory import BuildDirectory, write_record
from edgewright.contracts.samples import Samples, Tensors, load_samples, write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind
from quantize.npu.functional import PartitionedModel
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme

SCHEMES = (Scheme.FP16, Scheme.INT8, Scheme.MXINT8, Scheme.NPU_INT8)
COLUMNS = ("network", "weights", "operators", "fp32", "fp16", "int8", "mxint8", "npu", "equal", "MACs", "cycles", "ms", "line ms")
PROFILE = find_profile("ulx3s-85f")
WEIGHTED = ("Conv", "Gemm", "MatMul")
STAND_IN = "stand-in"


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MLPerf's weights and CIFAR-10 images")
    parser.add_argument("--network", action="append", help="only this network; may be repeated")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rtl-samples", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        for tiny in NETWORKS:
            if chosen.network is None or tiny.name in chosen.network:
                rows.append(measured(*trained(tiny, folder, chosen.epochs), tiny.name, STAND_IN, chosen.rtl_samples))
        for title, read in (("ResNet-8", resnet8), ("ToyCar", toycar)):
            if chosen.data is not None and (chosen.network is None or title in chosen.network):
                rows.append(measured(*read(chosen.data, folder), title, "MLPerf's", chosen.rtl_samples))
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
    print(f"{PROFILE.name}: {PROFILE.clock_mhz:g} MHz, simulated; {HELD_OUT} samples that no step before has seen")


def trained(tiny: TinyNetwork, folder: Path, epochs: int) -> tuple[BuildDirectory, Path, Samples]:
    """Train a network on its stand-in samples; return its build, the calibration samples and the held-out ones."""
    keras = import_keras()
    images, labels = tiny.samples()
    keras.utils.set_random_seed(0)
    model = keras_network(keras, tiny)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(images[:-HELD_OUT], labels[:-HELD_OUT], epochs=epochs, batch_size=32, verbose=0)
    source, calibration = folder / f"{model.name}.keras", folder / f"{model.name}.npz"
    model.save(source)
    write_npz(calibration, {"image": images[:200], "labels": labels[:200]})
    build = convert_model(source, folder / model.name, ConvertOptions(samples=calibration))
    return build, calibration, Samples({build.record.inputs[0].name: images[-HELD_OUT:]}, labels[-HELD_OUT:])


def resnet8(data: Path, folder: Path) -> tuple[BuildDirectory, Path, Samples]:
    """Return the image classifier with CIFAR-10's test images."""
    calibration = data / "cifar10_calibration.npz"
    build = convert_model(data / "resnet8_cifar10.h5", folder / "resnet8", ConvertOptions(samples=calibration))
    return build, calibration, load_samples(data / "cifar10_eval.npz", build.record.inputs)


def toycar(data: Path, folder: Path) -> tuple[BuildDirectory, Path, Samples]:
    """Return the autoencoder with smooth numbers in the range of log-mel energies."""
    calibration = folder / "toycar.npz"
    write_npz(calibration, {"input_1": smooth(1)})
    build = convert_model(data / "ad01_toycar.h5", folder / "toycar", ConvertOptions(samples=calibration))
    return build, calibration, Samples({build.record.inputs[0].name: smooth(2)})


def smooth(seed: int) -> Any:
    """Return five frames of 128 smooth bands each between -60 and 10."""
    generator, bands = np.random.default_rng(seed), np.linspace(0, 1, 128)
    bumps = sum(
        generator.normal(0, 12, (HELD_OUT, 5, 1)) * np.exp(-(((bands - generator.uniform(0, 1, (HELD_OUT, 1, 1))) / 0.1) ** 2))
        for _ in range(6)
    )
    return np.clip(bumps - 25, -60, 10).reshape(HELD_OUT, 640).astype(np.float32)


def measured(
    build: BuildDirectory, calibration: Path, held_out: Samples, title: str, weights: str, rtl_samples: int
) -> dict[str, Any]:
    """Quantize in every scheme, compile, and return one row of the table."""
    build = _without_head(build)
    for scheme in SCHEMES:
        quantize(build, QuantizeOptions(scheme=scheme, samples=calibration))
    reference = reference_outputs(build.variant(FLOAT_VARIANT), held_out)
    row: dict[str, Any] = {"network": title, "weights": weights}
    for name in ("fp32", "fp16", "int8", "mxint8"):
        row[name] = _score(run_all(load_session(build.variant(name), backend="onnxruntime"), held_out), reference, held_out)
    model = onnx.load(build.variant("npu-int8").file(LayerKind.GRAPH))
    row["npu"] = _score(PartitionedModel(model).run(held_out.inputs), reference, held_out)
    return row | _compiled(model, held_out.slice(0, rtl_samples))


def _without_head(build: BuildDirectory) -> BuildDirectory:
    """Give the last layer to the NPU too: these networks have no head that is trained separately."""
    write_record(build.path, replace(build.record, cut=None))
    return BuildDirectory.open(build.path)


def _score(outputs: Tensors, reference: Tensors, samples: Samples) -> str:
    """Return the accuracy in percent; without labels the error."""
    (found,), (expected,) = outputs.values(), reference.values()
    if samples.labels is None:
        return f"error {float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std()):.4f}"
    return f"{float(np.mean(found.argmax(axis=1) == samples.labels)):.2%}"


def _compiled(model: onnx.ModelProto, samples: Samples) -> dict[str, Any]:
    """Compile for the board, run the samples in the RTL and on the functional model; return the compiled columns."""
    compiled = compile_partitioned(model, PROFILE)
    rows = [row for row in compiled.coverage if row.operator in WEIGHTED]
    cost = estimate(compiled.program, PROFILE)
    equal = "-"
    if samples.count:
        simulator = RtlSimulator(PROFILE, plain=True)
        found, expected = (
            Session(machine, compiled.program).run(samples.inputs) for machine in (simulator, FunctionalModel(PROFILE))
        )
        exact = all(np.array_equal(found[name], expected[name]) for name in expected) and simulator.counters == cost.counters
        simulator.close()
        equal = f"{'yes' if exact else 'NO'} ({samples.count})"
    return {
        "operators": f"{sum(row.on_npu for row in rows)}/{len(rows)}",
        "equal": equal,
        "MACs": sum(segment.macs for segment in cost.segments),
        "cycles": cost.counters.cycles,
        "ms": f"{cost.compute_ms:.3f}",
        "line ms": f"{cost.crossing_ms:.1f}",
    }


if __name__ == "__main__":
    main()
