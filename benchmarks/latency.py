"""Measure latency side by side: TensorFlow, onnxruntime, OpenVINO, LiteRT if it is installed, and the choice of `auto`.

    .venv/bin/python benchmarks/latency.py [--network NAME]… [--threads N] [--rounds N] [--quick] [--json]

Each measurement has its own process, and the candidates alternate round by round, so that other load on the machine affects all
of them. The results are the median of the medians of all rounds, the spread between rounds, the processor time per run (least
sensitive to other load; it includes spinning threads) and the peak memory. int8 is calibrated on random images, which does not
affect its times; its accuracy would mean nothing and is not measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from accel.latency import measure_latency
from benchmarks.measuring.fresh_process import WORKER_FLAG, ask, machine_line, memory_mib, worker_main
from edgewright.command_line import print_table

NETWORKS = ("resnet50", "resnet152", "densenet121", "vgg16", "mobilenet-v2", "resnet8")
DEFAULT = ("resnet8",)
PACKAGES = ("edgewright", "tensorflow-cpu", "onnxruntime", "openvino", "nncf", "ai-edge-litert", "numpy")
COLUMNS = ("network", "contender", "median ms", "spread ms", "cpu ms", "peak MiB", "relative", "runs on")
CALIBRATION_COUNT = 16
TIME_LIMIT_S = 600

Run = tuple[Callable[[], object], str]
"""The timed candidates, with the runtime of each."""


def main() -> None:
    """Measure and print."""
    options = _options()
    results = []
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        for name in options.network or DEFAULT:
            results += _measure(name, Path(folder), options)
            print(f"measured {name}", file=sys.stderr)
    if options.json:
        print(json.dumps({"machine": machine_line(PACKAGES), "threads": options.threads, "results": results}, indent=2))
        return
    print(f"{machine_line(PACKAGES)}; batch 1, {options.threads} threads")
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in results])


def _measure(name: str, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    contenders = _contenders(options.quick)
    for step in _preparations(contenders):
        print(f"{name}: {step}", file=sys.stderr)
        prepared = ask(__file__, {"do": step, "name": name, "folder": str(folder)}, time_limit_s=TIME_LIMIT_S)
        if prepared.failure:
            return [{"network": name, "contender": step, "runs on": prepared.failure}]
    rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
    failures: dict[str, str] = {}
    for _ in range(1 if options.quick else options.rounds):
        for contender in contenders:
            asked = {"do": contender, "name": name, "folder": str(folder), "threads": options.threads, "runs": options.runs}
            outcome = ask(__file__, asked, time_limit_s=TIME_LIMIT_S)
            if outcome.failure:
                failures[contender] = outcome.failure
            else:
                rounds[contender].append(outcome.values)
    base = statistics.median(values["median_ms"] for values in rounds["tensorflow"]) if rounds.get("tensorflow") else None
    return [_row(name, contender, rounds[contender], failures.get(contender), base) for contender in contenders]


def _contenders(quick: bool) -> tuple[str, ...]:
    kinds = ["tensorflow", "onnxruntime fp32", "onnxruntime int8"]
    if find_spec("openvino"):
        kinds += ["openvino f32", "openvino bf16"]
    if find_spec("openvino") and find_spec("nncf"):
        kinds.append("openvino int8")
    if find_spec("ai_edge_litert"):
        kinds += ["litert fp32", "litert int8"]
    kinds.append("edgewright auto")
    return tuple(one for one in kinds if not (quick and one == "tensorflow"))


def _preparations(contenders: tuple[str, ...]) -> tuple[str, ...]:
    steps = ["prepare convert", "prepare int8"]
    if "openvino int8" in contenders:
        steps.append("prepare nncf")
    if "litert fp32" in contenders:
        steps.append("prepare litert")
    return tuple(steps)


def _row(name: str, contender: str, rounds: list[dict[str, Any]], failure: str | None, base: float | None) -> dict[str, Any]:
    if not rounds:
        return {"network": name, "contender": contender, "runs on": failure}
    medians = [values["median_ms"] for values in rounds]
    median = statistics.median(medians)
    return {
        "network": name,
        "contender": contender,
        "median ms": round(median, 3),
        "spread ms": round(max(medians) - min(medians), 3) if len(medians) > 1 else None,
        "cpu ms": round(statistics.median(values["cpu_ms"] for values in rounds), 3),
        "peak MiB": round(max(values["peak_mib"] for values in rounds)),
        "relative": round(median / base, 2) if base else None,
        "runs on": rounds[0]["runs_on"],
    }


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request in a worker."""
    folder, name = Path(request["folder"]), request["name"]
    preparations = {
        "prepare convert": _prepare_convert,
        "prepare int8": _prepare_int8,
        "prepare nncf": _prepare_nncf,
        "prepare litert": _prepare_litert,
    }
    if request["do"] in preparations:
        preparations[request["do"]](folder, name)
        return {}
    runtime, _, kind = request["do"].partition(" ")
    call, runs_on = _RUNTIMES[runtime](folder / name, kind, request["threads"])
    return {**_timed(call, request["runs"]), "runs_on": runs_on}


def _timed(call: Callable[[], object], runs: int) -> dict[str, Any]:
    latency = measure_latency(call, runs=runs, time_limit_s=60)
    started, used = time.perf_counter(), time.process_time()
    count = 0
    while count < runs and time.perf_counter() - started < 20:
        call()
        count += 1
    cpu_ms = 1000 * (time.process_time() - used) / count
    return {"median_ms": latency.median_ms, "cpu_ms": cpu_ms, "peak_mib": memory_mib("VmHWM")}


def _prepare_convert(folder: Path, name: str) -> None:
    from convert.conversion import ConvertOptions, convert_model
    from convert.featurizers.networks import build_network
    from convert.featurizers.saving import save_network

    save_network(build_network(name), folder / f"{name}.keras")
    convert_model(folder / f"{name}.keras", folder / name, ConvertOptions())


def _prepare_int8(folder: Path, name: str) -> None:
    from edgewright.contracts.build_directory import BuildDirectory
    from quantize.quantization import QuantizeOptions, quantize
    from quantize.scheme import Scheme

    build = BuildDirectory.open(folder / name)
    samples = folder / f"{name}.npz"
    np.savez(samples, **{build.record.inputs[0].name: _images(build.record.inputs[0].shape, CALIBRATION_COUNT)})
    quantize(build, QuantizeOptions(scheme=Scheme.INT8, samples=samples))


def _prepare_nncf(folder: Path, name: str) -> None:
    from edgewright.contracts.build_directory import BuildDirectory
    from edgewright.contracts.samples import Samples
    from quantize.int8.openvino import quantize_with_nncf

    build = BuildDirectory.open(folder / name)
    spec = build.record.inputs[0]
    with build.creating_variant("int8-openvino") as target:
        quantize_with_nncf(build.variant("fp32"), Samples({spec.name: _images(spec.shape, CALIBRATION_COUNT)}), target)


def _prepare_litert(folder: Path, name: str) -> None:
    """Convert with `from_keras_model`: from a concrete function, a Keras 3 model silently loses its weights."""
    import tensorflow as tf

    from convert.from_keras.reader import load_keras

    model = load_keras(folder / f"{name}.keras")
    images = _images(("N", *model.inputs[0].shape[1:]), CALIBRATION_COUNT)
    for kind in ("fp32", "int8"):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if kind == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([images[place : place + 1]] for place in range(len(images)))
        (folder / name / f"{kind}.tflite").write_bytes(converter.convert())


def _tensorflow(build: Path, kind: str, threads: int) -> Run:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    model = keras.saving.load_model(build.with_suffix(".keras"), compile=False)
    image = tf.constant(_images(("N", *model.inputs[0].shape[1:]), 1))
    call = tf.function(model, reduce_retracing=True)
    return lambda: call(image).numpy(), "tf.function"


def _onnxruntime(build: Path, kind: str, threads: int) -> Run:
    return _session(build, kind, "onnxruntime", threads)


def _openvino(build: Path, kind: str, threads: int) -> Run:
    """Run OpenVINO directly, with the precision of `kind` and otherwise our settings."""
    if kind == "int8":
        return _session(build, "int8-openvino", "openvino", threads)
    if kind == "f32":
        return _session(build, "fp32", "openvino", threads)
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = openvino.Core().compile_model(build / "variants" / "fp32" / "graph.onnx", "CPU", settings)
    request = compiled.create_infer_request()
    image = _images(tuple("N" if size.is_dynamic else size.get_length() for size in compiled.input(0).partial_shape), 1)
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return lambda: request.infer({0: image}), f"by default {precision}"


def _litert(build: Path, kind: str, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(build / f"{kind}.tflite"), num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    image = _images(tuple(int(size) for size in source["shape"]), 1).astype(source["dtype"])

    def run() -> object:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run, "XNNPACK"


def _edgewright(build: Path, kind: str, threads: int) -> Run:
    """Run the variant and backend that `auto` chooses; every round benchmarks again, because its cache folder is new."""
    from accel.backends.choose import find_fastest
    from edgewright.contracts.build_directory import BuildDirectory

    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # what auto remembers of other days is not this run's
        best = find_fastest(BuildDirectory.open(build).variants(), threads=threads)
    return _session(build, best.variant, best.backend, threads)


def _session(build: Path, variant_name: str, backend: str, threads: int) -> Run:
    from accel.backends.choose import load_session
    from edgewright.contracts.build_directory import BuildDirectory

    variant = BuildDirectory.open(build).variant(variant_name)
    session = load_session(variant, backend=backend, threads=threads)
    spec = variant.config.inputs[0]
    inputs = {spec.name: _images(spec.shape, 1)}
    return lambda: session.run(inputs), f"{variant_name} on {backend}"


def _images(shape: tuple[int | str, ...], count: int) -> Any:
    """Return deterministic random images for the networks."""
    sizes = [count, *(int(size) for size in shape[1:])]
    return np.random.default_rng(0).uniform(0, 1, sizes).astype(np.float32)


_RUNTIMES: dict[str, Callable[[Path, str, int], Run]] = {
    "tensorflow": _tensorflow,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "litert": _litert,
    "edgewright": _edgewright,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", action="append", choices=NETWORKS, help=f"several times for several (default: {DEFAULT[0]})")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=40, help="timed runs per process")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contender")
    parser.add_argument("--quick", action="store_true", help="one round, and without TensorFlow")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    if WORKER_FLAG in sys.argv:
        worker_main(work)
    else:
        main()
