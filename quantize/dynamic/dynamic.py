"""int8-dynamic: the scheme for transformers and recurrent networks, without calibration.

products   MatMul and Gemm with a constant matrix multiply integers; each activation has its range of the moment (products.py)
smoothing  channels with large values move into the weights where that lowers the predicted noise (smoothing.py)
LSTM       by onnxruntime's kernel for integers (recurrent.py)
the rest   convolutions, GRU, embeddings: weights are stored as int8 and computed with in float32 (weight_only.py)

A range covers the whole batch, so the outputs of a sample depend on the others of its batch: the variant is marked, and runs its
samples one at a time. The samples of the caller only choose the smoothing, so generated ones do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import Samples
from edgewright.errors import ModelError
from edgewright.graphs.dead_code import remove_dead
from edgewright.progress import Progress, silent
from quantize.calibration.activations import ObservedGraph
from quantize.calibration.sqnr import evenly_spaced
from quantize.dynamic.products import Product, ProductWriter, integer_products
from quantize.dynamic.recurrent import integer_lstms, write_integer_lstm
from quantize.dynamic.smoothing import Channels, smoothing_factors
from quantize.scheme import FloatFallback, QuantizationResult, float_graph, read_float_graph, write_variant_graph
from quantize.weights.weight_only import store_as_int8

SMOOTHING_SAMPLES = 64

log = logging.getLogger(__name__)


def make_dynamic(build: BuildDirectory, samples: Samples, folder: Path, *, progress: Progress = silent) -> QuantizationResult:
    """Write the int8-dynamic variant of a build's graph into `folder`.

    Raises:
        ModelError: the graph has no weights that can be int8.
    """
    model = read_float_graph(build)
    products, lstms = list(integer_products(model.graph)), list(integer_lstms(model.graph))
    channels = _channels(ObservedGraph.open(float_graph(build), progress=progress), samples, products)
    smoothed = _write_products(model.graph, products, channels)
    for node in lstms:
        write_integer_lstm(model, node)
    float_layers = _float_layers(model.graph)
    stored = store_as_int8(model.graph)
    if not products and not lstms and not stored:
        operators = sorted({node.op_type for node in model.graph})
        raise ModelError(
            f"{build.path}: int8-dynamic needs layers with weights (MatMul, Gemm, LSTM, …), but the graph has {operators}"
        )
    log.info("quantized products=%d smoothed=%d lstms=%d stored_only=%d", len(products), smoothed, len(lstms), len(stored))
    remove_dead(model)
    write_variant_graph(build, model, folder)
    return QuantizationResult(float_layers, batch_ranges=bool(products or lstms))


def _channels(observed: ObservedGraph, samples: Samples, products: Sequence[Product]) -> dict[str, Channels]:
    """Return the ranges of the last axis of each activation that products read."""
    names = [name for name in dict.fromkeys(str(one.activation.name) for one in products) if name in observed.tensors]
    channels: dict[str, Channels] = {}
    counts = dict.fromkeys(names, 0)
    subset = evenly_spaced(samples, SMOOTHING_SAMPLES)
    for values in observed.values(subset, names, "ranges of channels") if names else ():
        for name, array in values.items():
            rows = array.reshape(-1, array.shape[-1]).astype(np.float32)
            if not rows.size:
                continue
            energy = np.square(rows, dtype=np.float64).sum(axis=0)
            one = Channels(rows.min(axis=0), rows.max(axis=0), energy)
            channels[name] = one if name not in channels else _joined(channels[name], one)
            counts[name] += len(rows)
    return {name: Channels(one.lowest, one.highest, one.energy / counts[name]) for name, one in channels.items()}


def _joined(first: Channels, second: Channels) -> Channels:
    return Channels(
        np.minimum(first.lowest, second.lowest), np.maximum(first.highest, second.highest), first.energy + second.energy
    )


def _write_products(graph: ir.Graph, products: Sequence[Product], channels: dict[str, Channels]) -> int:
    """Write all products; return the number of activations that are smoothed."""
    writer, smoothed = ProductWriter(graph), 0
    by_activation: dict[ir.Value, list[Product]] = {}
    for product in products:
        by_activation.setdefault(product.activation, []).append(product)
    for activation, together in by_activation.items():
        measured = channels.get(str(activation.name))
        factors = None
        if measured is not None and np.isfinite(measured.energy).all():
            factors = smoothing_factors(measured, np.concatenate([one.matrix() for one in together], axis=1))
        smoothed += factors is not None
        for product in together:
            writer.write(product, factors)
    return smoothed


def _float_layers(graph: ir.Graph) -> tuple[FloatFallback, ...]:
    """Return the layers without a fast kernel for integers."""
    return tuple(
        FloatFallback(
            node=str(node.name),
            operator=node.op_type,
            reason="without fixed ranges, integers gain no time here; its weights are stored as int8",
        )
        for node in graph
        if node.op_type in ("Conv", "ConvTranspose", "GRU", "RNN", "LSTM")
    )
