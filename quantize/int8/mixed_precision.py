"""Mixed precision: int8 for as many layers as the accuracy budget allows, float32 for the few most sensitive ones.

sensitivity   quantize one layer alone and measure the SQNR at the outputs; the lowest comes first
search        from all int8: keep the next layer in float until the accuracy is within the budget
reduce        return layers to int8 if the accuracy stays within the budget
journal       every measurement is stored at once, so an interrupted search continues

A measurement scores all samples with the variant as it would be shipped. The journal belongs to one graph, one set of samples and
one calibration; another `--max-drop` uses the same measurements.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from accel.backends.onnxruntime_cpu import load_graph
from accel.comparison import measure_outputs, quality, run_all
from accel.first_run import FirstRuns
from edgewright import __version__
from edgewright.contracts import wire
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.stored_arrays import digest_of_array
from edgewright.contracts.variant import LayerKind, Precision, TensorSpec
from edgewright.errors import ModelError, PackageError, ParityError
from edgewright.progress import Progress, silent
from edgewright.steps import step
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import tensor_sqnr
from quantize.int8.int8 import TABLES, CalibratedGraph, Int8Settings, int8_fallbacks, prepare, with_stored_weights, write_int8
from quantize.int8.qdq import layers
from quantize.scheme import FloatFallback, QuantizationResult

JOURNAL = "mixed-journal"
DEFAULT_MAX_DROP = 0.005

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Journal:
    """The measurements so far; stored after every one."""

    key: str
    """Digest of the graph, the samples and the calibration."""
    sqnr_db: dict[str, float] = field(default_factory=dict)
    """The SQNR at the outputs with only this layer quantized, by layer."""
    scores: dict[str, float] = field(default_factory=dict)
    """The share of correct labels, or of equal ones without true labels, by the names of the float layers joined with spaces."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search."""

    kept: tuple[str, ...]
    score: float


Measure = Callable[[Sequence[str]], float]


def make_mixed(
    build: BuildDirectory,
    samples: Samples,
    folder: Path,
    *,
    settings: Int8Settings,
    max_drop: float,
    reference: Tensors,
    first_runs: FirstRuns,
    progress: Progress = silent,
) -> QuantizationResult:
    """Write the mixed variant of a build's graph into `folder`.

    Raises:
        ModelError: no output holds floats, or no operator has an integer kernel.
        ParityError: the budget is exceeded even with all layers but one in float.
    """
    prepared = prepare(build, samples, settings, progress)
    journal = open_journal(build, samples, settings)
    sqnr_db = _sensitivities(build, prepared, samples, journal, progress)

    def score(quantized: onnx.ModelProto) -> float:
        with _written(quantized) as path:
            if (crash := first_runs.crash_of(path, precision=Precision.MIXED)) is not None:
                log.warning("onnxruntime crashes on a candidate: %s", crash)
                return 0.0
            outputs = run_all(load_graph(path, precision=Precision.MIXED), samples)
        return score_of(outputs, reference, samples, build.record.outputs)

    measure = _recorded(build, journal, lambda kept: score(prepared.quantized(kept, integer_biases=True)))
    required = score_of(reference, reference, samples, build.record.outputs) - max_drop
    order = sorted(sqnr_db, key=lambda name: sqnr_db[name])
    result = search(order, required, measure)
    write_int8(build, prepared.quantized(result.kept, integer_biases=True), folder, stored=TABLES)
    log.info("chose mixed precision kept_float=%d of=%d score=%.4f", len(result.kept), len(order), result.score)
    reasons = _reasons(prepared.model, result, order, sqnr_db, measure)
    return QuantizationResult((*reasons, *int8_fallbacks(prepared)), prepared.model)


@step("the search for layers to keep in float")
def search(order: Sequence[str], required: float, measure: Measure) -> SearchResult:
    """Return the layers to keep in float: the first of `order` until `measure` reaches `required`, without the unneeded ones.

    Raises:
        ParityError: `measure` does not reach `required` with all layers but one.
    """
    kept: list[str] = []
    while (score := measure(kept)) < required:
        if len(kept) >= len(order) - 1:
            raise ParityError(
                f"mixed must predict {required:.2%} correctly, but it reaches only {score:.2%} with all layers but one in float: "
                "allow more with --max-drop, or use fp16"
            )
        kept.append(order[len(kept)])
    for name in reversed(kept[:-1]):  # the search just measured that the last one is needed
        fewer = [other for other in kept if other != name]
        if measure(fewer) >= required:
            kept = fewer
    return SearchResult(tuple(kept), measure(kept))


def open_journal(build: BuildDirectory, samples: Samples, settings: Int8Settings) -> Journal:
    """Return the journal of an interrupted search with the same key, or an empty one."""
    key = _key(build, samples, settings)
    path = build.reports / f"{JOURNAL}.json"
    if path.is_file():
        journal = wire.decode(path.read_bytes(), Journal, what=str(path), error=PackageError)
        if journal.key == key:
            log.info("resumed layers=%d measurements=%d", len(journal.sqnr_db), len(journal.scores))
            return journal
    return Journal(key=key)


def score_of(outputs: Tensors, reference: Tensors, samples: Samples, specs: Sequence[TensorSpec] = ()) -> float:
    """Return the share of correct labels; without true labels, the share that equals the float model's."""
    return quality(measure_outputs(reference, outputs, samples.labels, specs))[1]


def _key(build: BuildDirectory, samples: Samples, settings: Int8Settings) -> str:
    kinds = (LayerKind.GRAPH, LayerKind.FEATURIZER_WEIGHTS, LayerKind.HEAD_WEIGHTS)
    files = [build.graph / kind.file_name for kind in kinds if (build.graph / kind.file_name).is_file()]
    arrays = [*samples.inputs.values(), *([] if samples.labels is None else [samples.labels])]
    digests = [wire.digest_of(path.read_bytes()) for path in files] + [digest_of_array(array) for array in arrays]
    return wire.digest_of(wire.encode([__version__, digests, settings]))


@step("the measurement of sensitivity of layers")
def _sensitivities(
    build: BuildDirectory, prepared: CalibratedGraph, samples: Samples, journal: Journal, progress: Progress
) -> dict[str, float]:
    """Return the SQNR at the outputs with one layer quantized, by layer; measure those that are not in the journal."""
    names = [node.name for node in layers(prepared.model)]
    observed = ObservedGraph(prepared.model)
    outputs = [value.name for value in prepared.model.graph.output if value.name in observed.tensors]
    if not outputs:
        raise ModelError(
            f"{build.path}: mixed measures the SQNR at the outputs, so one of them must hold floats, "
            "but none does: add the scores to the outputs"
        )
    missing = [name for name in names if name not in journal.sqnr_db]
    for name in progress(missing, "sensitivity of layers"):
        others = [other for other in names if other != name]
        alone = ObservedGraph(prepared.quantized(others))
        journal.sqnr_db[name] = min(tensor_sqnr(observed, alone, samples, outputs).values())
        build.write_report(JOURNAL, journal)
    return {name: journal.sqnr_db[name] for name in names}


def _recorded(build: BuildDirectory, journal: Journal, score: Measure) -> Measure:
    """Return `score` with every result stored in the journal."""

    def measure(kept: Sequence[str]) -> float:
        name = " ".join(sorted(kept))
        if name not in journal.scores:
            journal.scores[name] = score(kept)
            build.write_report(JOURNAL, journal)
            log.info("measured kept_float=%d score=%.4f", len(kept), journal.scores[name])
        return journal.scores[name]

    return measure


@contextlib.contextmanager
def _written(quantized: onnx.ModelProto) -> Iterator[Path]:
    """Yield the graph as a file that is removed after the block."""
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        shipped = ir.to_proto(with_stored_weights(quantized, TABLES))
        onnx.save_model(shipped, f"{folder}/graph.onnx", save_as_external_data=True)
        yield Path(folder) / "graph.onnx"


def _reasons(
    model: onnx.ModelProto, result: SearchResult, order: Sequence[str], sqnr_db: dict[str, float], measure: Measure
) -> list[FloatFallback]:
    operators = {node.name: node.op_type for node in model.graph.node}
    return [
        FloatFallback(
            node=name,
            operator=operators[name],
            reason=f"int8 in this layer alone gives an SQNR of {sqnr_db[name]:.1f} dB at the outputs, "
            f"the {_ordinal(order.index(name) + 1)} lowest of {len(order)} layers; "
            f"all int8 scores {measure([]):.2%}, with the float layers {result.score:.2%}",
        )
        for name in result.kept
    ]


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
