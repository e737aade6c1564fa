"""Calibrate a network on many images, side by side with onnxruntime's own calibrator: time and memory.

    .venv/bin/python -P benchmarks/calibration.py [--network NAME] [--count N]… [--method minmax|percentile|entropy|mse] [--json]

Both find the range of every tensor with the same method on the same float graph and the same random images in an uncompressed
`.npz`; onnxruntime has no method for the mean squared error. Each measurement has its own process. The results are wall time,
processor time, and the peak of memory above the memory after loading the graph and the runtimes; pages of the mapped file count
too. onnxruntime's calibrator gets one image at a time from a reader, as in its documentation; for percentile and entropy it keeps
every inner tensor of every image.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring.fresh_process import WORKER_FLAG, ask, machine_line, memory_mib, reset_peak, worker_main
from edgewright.command_line import print_table
from edgewright.contracts.samples import write_npz

PACKAGES = ("edgewright", "onnxruntime", "numpy")
COLUMNS = ("contender", "images", "wall s", "processor s", "extra MiB", "tensors", "remark")
CONTENDERS = ("edgewright", "onnxruntime")
METHODS_OF_ONNXRUNTIME = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
TIME_LIMIT_S = 1800


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Calibrate side by side with onnxruntime: time and memory.")
    parser.add_argument("--network", default="mobilenet-v2", help="one of 'edgewright featurizers list'")
    parser.add_argument("--count", type=int, action="append", help="number of images; may be given several times")
    parser.add_argument("--method", default="minmax", choices=("minmax", "percentile", "entropy", "mse"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        prepared = ask(__file__, {"do": "prepare", "name": options.network, "folder": folder}, time_limit_s=TIME_LIMIT_S)
        if prepared.failure:
            sys.exit(f"{options.network} could not be prepared: {prepared.failure}")
        for count in options.count or [50, 200]:
            write_images(Path(folder) / "images.npz", prepared.values["input"], prepared.values["shape"], count)
            for contender in CONTENDERS if options.method in METHODS_OF_ONNXRUNTIME else CONTENDERS[:1]:
                asked = {"do": contender, "folder": folder, "method": options.method}
                outcome = ask(__file__, asked, time_limit_s=TIME_LIMIT_S)
                rows.append({"contender": contender, "images": count, **outcome.values, "remark": outcome.failure})
                print(f"measured {contender} on {count} images", file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {"machine": machine_line(PACKAGES), "network": options.network, "method": options.method, "results": rows},
                indent=2,
            )
        )
        return
    print(f"{options.network}, {options.method}; {machine_line(PACKAGES)}")
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])


def write_images(path: Path, name: str, shape: list[int], count: int) -> None:
    """Write random images, a few at a time, so that this process stays small."""
    generator = np.random.default_rng(0)
    stored = np.lib.format.open_memmap(path.with_suffix(".npy"), "w+", np.float32, (count, *shape))
    for start in range(0, count, 16):
        stored[start : start + 16] = generator.random((min(16, count - start), *shape), np.float32)
    stored.flush()
    write_npz(path, {name: stored})
    path.with_suffix(".npy").unlink()


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request in a worker."""
    folder = Path(request["folder"])
    if request["do"] == "prepare":
        return prepare(request["name"], folder)
    calls: dict[str, Callable[[Path, Path, str], Callable[[], int]]] = {"edgewright": ours, "onnxruntime": theirs}
    calibrate = calls[request["do"]](folder / "build" / "graph" / "graph.onnx", folder / "images.npz", request["method"])
    reset_peak()
    before, started, used = memory_mib("VmRSS"), time.perf_counter(), time.process_time()
    tensors = calibrate()
    return {
        "wall s": round(time.perf_counter() - started, 1),
        "processor s": round(time.process_time() - used, 1),
        "extra MiB": round(memory_mib("VmHWM") - before),
        "tensors": tensors,
    }


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Build and convert the network with random weights; return its input."""
    from convert.conversion import ConvertOptions, convert_model
    from convert.featurizers.networks import build_network
    from convert.featurizers.saving import save_network

    save_network(build_network(name), folder / "network.keras")
    build = convert_model(folder / "network.keras", folder / "build", ConvertOptions())
    spec = build.record.inputs[0]
    return {"input": spec.name, "shape": list(spec.shape[1:])}


def ours(graph: Path, images: Path, method: str) -> Callable[[], int]:
    """Return edgewright's calibration, ready to run."""
    import onnx

    from edgewright.contracts.build_directory import BuildDirectory
    from edgewright.contracts.samples import load_samples
    from quantize.calibration.activations import ObservedGraph
    from quantize.calibration.calibrate import tensor_ranges
    from quantize.calibration.thresholds import Calibration

    samples = load_samples(images, BuildDirectory.open(graph.parent.parent).record.inputs)
    watched = ObservedGraph(onnx.load(graph))
    return lambda: len(tensor_ranges(watched, samples, Calibration(method)))


def theirs(graph: Path, images: Path, method: str) -> Callable[[], int]:
    """Return onnxruntime's calibration by the same method, ready to run."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    from edgewright.contracts.build_directory import BuildDirectory
    from edgewright.contracts.samples import load_samples

    samples = load_samples(images, BuildDirectory.open(graph.parent.parent).record.inputs)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = samples.batches(1)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else dict(batch.inputs)

    calibrator = create_calibrator(
        graph,
        augmented_model_path=str(images.with_name("augmented.onnx")),
        calibrate_method=getattr(CalibrationMethod, METHODS_OF_ONNXRUNTIME[method]),
        use_external_data_format=True,
    )
    calibrator.set_execution_providers(["CPUExecutionProvider"])

    def run() -> int:
        calibrator.collect_data(Reader())
        return len(calibrator.compute_data().data)

    return run


if __name__ == "__main__":
    worker_main(work) if WORKER_FLAG in sys.argv else main()
