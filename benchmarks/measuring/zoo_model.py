"""Take one model of the zoo through the whole pipeline, beside onnxruntime's own quantization; this is the work of one worker.

convert   with real samples, for the profile of an NPU if the shapes allow it
parity    the source in its own framework against the graph in onnxruntime, on all samples
variants  each scheme on the first half of the samples, measured on the second half
peers     onnxruntime's quantization of the source (of our float graph, if the source is no ONNX file), on the same halves
latency   one sample, one thread; the candidates take turns call by call
package   pack, unpack each variant, and check it as the agent does
"""

from __future__ import annotations

import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from accel.backends.choose import load_session
from accel.first_run import FirstRuns
from benchmarks.measuring.zoo_compare import agreement, difference, matched, sqnr_db
from benchmarks.measuring.zoo_peers import PEERS, as_one_file, quantize_peer
from benchmarks.measuring.zoo_sources import Arrays, Run, dequantized_graph, onnx_graph, run_source, source_inputs, source_of
from benchmarks.networks.zoo_models import ZooModel
from convert.conversion import convert_model
from convert.options import ConvertOptions
from edge_agent.packages.check import check
from edge_agent.workers.requests import CheckRequest
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import read_package, unpack_variant
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import FLOAT_VARIANT, LayerKind, Precision, VariantDirectory
from edgewright.errors import EdgewrightError
from edgewright.packing import PackOptions, pack
from quantize.quantization import Baseline, QuantizeOptions, quantize, samples_for, score_float
from quantize.scheme import Scheme

NPU = "ulx3s-85f"
SCHEMES = ("fp16", "int8", "int8-dynamic", "mxint8")
LATENCY_BUDGET_S = 4.0
LATENCY_ROUNDS = 200

Values = dict[str, Any]


@dataclass
class Halves:
    """The samples: all, those that calibrate, and those that are measured, with the source's outputs for the last."""

    inputs: Arrays
    reference: Arrays = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    first_runs: FirstRuns | None = None
    """The process that runs new graphs first, and the float variant's scores on the first half: all schemes share both."""
    baseline: Baseline | None = None

    @property
    def middle(self) -> int:
        """Number of samples in the first half."""
        return len(next(iter(self.inputs.values()))) // 2

    @property
    def calibration(self) -> Arrays:
        """The first half."""
        return {name: array[: self.middle] for name, array in self.inputs.items()}

    @property
    def measured(self) -> Arrays:
        """The second half."""
        return {name: array[self.middle :] for name, array in self.inputs.items()}

    @property
    def expected(self) -> Arrays:
        """The source's outputs for the second half."""
        return {name: array[self.middle :] for name, array in self.reference.items()}


def measure_model(model: ZooModel, source: Path, folder: Path, save: Callable[[Values], object]) -> Values:
    """Return everything that the table shows of one model; what fails is stored as the reason instead.

    `save` gets what is known after each step, so that a model that reaches its time limit keeps the steps before.
    """
    halves = Halves(_samples(model, source), axes=model.axes)
    samples = folder / "calibration.npz"
    write_npz(samples, {name or "input": array for name, array in halves.calibration.items()})
    values: Values = {"source_bytes": _size(source)}
    started = time.perf_counter()
    build = attempt(values, "convert", lambda: _convert(model, source, folder / "build", samples, values))
    values["convert_s"] = round(time.perf_counter() - started, 1)
    if build is None:
        return values
    run = attempt(values, "source", lambda: source_of(source, _constants(model)))
    if run is not None:
        attempt(values, "parity", lambda: _parity(build, run, halves, values))
    if not halves.reference:
        halves.reference = _graph_outputs(build.variant(FLOAT_VARIANT), halves.inputs)
    calls = {FLOAT_VARIANT: _ours(build.variant(FLOAT_VARIANT), halves)}
    values["variants"] = {FLOAT_VARIANT: {"bytes": build.variant(FLOAT_VARIANT).config.size_bytes}}
    save(values)
    with FirstRuns() as halves.first_runs:
        for scheme in SCHEMES:
            row: Values = {}
            values["variants"][scheme] = row
            call = attempt(row, "refused", partial(_variant, model, build, scheme, samples, halves, row))
            if call is not None:
                calls[scheme] = call
            save(values)
    values["peers"] = _peers(model, source, build, folder, halves, calls)
    save(values)
    for name, median in _latencies(calls).items():
        kind = "peers" if name in values["peers"] else "variants"
        values[kind][name]["ms"] = median
    save(values)
    attempt(values, "packing", lambda: _package(build, folder, values))
    return values


def attempt(values: Values, step: str, work: Callable[[], Any]) -> Any:
    """Return the result of `work`; if it fails, store the reason under `step` and return None."""
    try:
        return work()
    except EdgewrightError as error:
        values[step] = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - a fault of the product must show in the table
        values[step] = f"traceback: {type(error).__name__}: {str(error)[:300]}"
        values.setdefault("tracebacks", []).append(traceback.format_exc()[-3000:])
    return None


def _samples(model: ZooModel, source: Path) -> Arrays:
    names = source_inputs(source)
    keys = [names[0] if not key and names else key for key in model.inputs]
    return {key: recipe(model.count) for key, recipe in zip(keys, model.inputs.values(), strict=True)}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def _constants(model: ZooModel) -> Arrays:
    return {
        name: np.asarray(value, np.int64 if isinstance(value, int) else np.float32) for name, value in model.constants.items()
    }


def _convert(model: ZooModel, source: Path, build: Path, samples: Path, values: Values) -> BuildDirectory:
    options = ConvertOptions(
        samples=samples, trust=model.trust, shapes=model.shapes, constants=model.constants, batch_axes=model.axes, profiles=(NPU,)
    )
    try:
        built = convert_model(source, build, options)
        cut = built.record.cut
        values["npu"] = "none" if cut is None else f"{cut.featurizer_nodes} of {cut.featurizer_nodes + cut.head_nodes}"
    except EdgewrightError as error:
        values["npu"] = f"none: {error}"
        built = convert_model(source, build, replace(options, profiles=()))
    values["nodes"] = _nodes(built)
    values["kind"] = built.record.source_kind
    return built


def _nodes(build: BuildDirectory) -> int:
    import onnx

    return len(onnx.load(build.variant(FLOAT_VARIANT).file(LayerKind.GRAPH), load_external_data=False).graph.node)


def _parity(build: BuildDirectory, run: Run, halves: Halves, values: Values) -> None:
    halves.reference = run_source(run, halves.inputs, halves.axes)
    actual = matched(halves.reference, _graph_outputs(build.variant(FLOAT_VARIANT), halves.inputs))
    values["difference"] = difference(halves.reference, actual)


def _graph_outputs(variant: VariantDirectory, inputs: Arrays) -> Arrays:
    """Run the float graph in onnxruntime without our session."""
    return run_source(onnx_graph(variant.file(LayerKind.GRAPH)), _named(variant, inputs), {})


def _named(variant: VariantDirectory, inputs: Arrays) -> Arrays:
    specs = variant.config.inputs
    if len(specs) == 1 == len(inputs):
        return {specs[0].name: next(iter(inputs.values()))}
    return {spec.name: inputs[spec.name] for spec in specs}


def _ours(variant: VariantDirectory, halves: Halves) -> Callable[[], object]:
    """Return a call that runs one sample in onnxruntime directly, as the calls of the peers do."""
    opened = dequantized_graph if variant.config.precision is Precision.MXINT8 else onnx_graph
    run = opened(variant.file(LayerKind.GRAPH))
    one = {name: array[:1] for name, array in _named(variant, halves.measured).items()}
    return lambda: run(one)


def _variant(
    model: ZooModel, build: BuildDirectory, scheme: str, samples: Path, halves: Halves, row: Values
) -> Callable[[], object]:
    options = QuantizeOptions(scheme=Scheme(scheme), samples=samples)
    assert halves.first_runs is not None
    halves.baseline = halves.baseline or score_float(build, samples_for(build, options), halves.first_runs)
    variant = quantize(build, options, baseline=halves.baseline, first_runs=halves.first_runs).variant
    session = load_session(variant, backend="onnxruntime", threads=1)
    inputs = _named(variant, halves.measured)
    outputs = run_source(lambda one: dict(session.run(one)), inputs, {})
    session.close()
    row.update(_quality(model, halves, outputs), bytes=variant.config.size_bytes)
    return _ours(variant, halves)


def _quality(model: ZooModel, halves: Halves, outputs: Arrays) -> Values:
    actual = matched(halves.expected, outputs)
    ratio = sqnr_db(halves.expected, actual)
    return {
        "sqnr_db": None if ratio is None else round(ratio, 1),
        "agreement": agreement(halves.expected, actual, model.classes),
    }


def _peers(
    model: ZooModel, source: Path, build: BuildDirectory, folder: Path, halves: Halves, calls: dict[str, Callable[[], object]]
) -> Values:
    rows: Values = {}
    is_onnx = source.suffix == ".onnx" and not (model.constants or model.axes or model.shapes)
    inputs, axes = (halves.inputs, halves.axes) if is_onnx else (_named(build.variant(FLOAT_VARIANT), halves.inputs), {})
    original = source if is_onnx else as_one_file(build.variant(FLOAT_VARIANT).file(LayerKind.GRAPH), folder / "float.onnx")
    for kind in PEERS:
        row: Values = {}
        rows[kind] = row

        def quantized(kind: str = kind, row: Values = row) -> None:
            first = {name: array[: halves.middle] for name, array in inputs.items()}
            second = {name: array[halves.middle :] for name, array in inputs.items()}
            path = quantize_peer(kind, original, folder, first, axes)
            run = onnx_graph(path)
            row.update(_quality(model, halves, run_source(run, second, axes)), bytes=path.stat().st_size)
            one = {name: np.moveaxis(array[:1], 0, axes.get(name, 0)) for name, array in second.items()}
            calls[kind] = lambda: run(one)

        attempt(row, "refused", quantized)
    return rows


def _latencies(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each call in milliseconds; the calls take turns."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    ends_at = time.perf_counter() + LATENCY_BUDGET_S
    for done in range(LATENCY_ROUNDS):
        if done >= 3 and time.perf_counter() > ends_at:
            break
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(taken), 4) for name, taken in times.items()}


def _package(build: BuildDirectory, folder: Path, values: Values) -> None:
    pack(build, folder / "package", PackOptions(name="zoo"))
    layout = OciLayout.open(folder / "package")
    results: Values = {}
    values["golden"] = results
    for packaged in read_package(layout).variants:
        name = packaged.config.variant
        slot = folder / "slots" / name
        slot.mkdir(parents=True)
        unpack_variant(layout, packaged, slot)
        text = attempt(results, name, lambda: check(CheckRequest(slot=str(slot), backend="onnxruntime", threads=1)))  # noqa: B023 - called at once
        if text is not None:
            results[name] = text
