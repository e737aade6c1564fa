"""Read a Keras model by walking its layers.

    config of the file -> refuse code and strangers before any framework is loaded
    keras.load_model   -> the layers, in safe mode
    walk               -> one or two ONNX nodes per layer, straight from its configuration and weights

Tracing a TensorFlow graph instead costs many times the time and memory (`benchmarks/convert.py --peer` shows both). What a layer
becomes is said in `keras_layers.py` and `keras_operations.py`, and for the user's own layers by the user (`custom_layers.py`);
layers that are in neither are refused by name, and traced after all where they are Keras's own (`conversion.py`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.frameworks import import_keras
from convert.from_keras.call import Call, Numbers
from convert.from_keras.custom_layers import CustomLayers, registered_name
from convert.from_keras.keras_file import NO_CUSTOM_LAYERS, KerasFile
from convert.from_keras.layers import RULES
from convert.from_keras.layouts import Layouts, Tensor
from convert.from_keras.legacy import is_legacy, modernized
from convert.from_keras.operations import OPERATIONS
from convert.from_keras.recurrent import RECURRENT
from convert.graph.emit import Emitter, graph_input, named_shape
from edgewright.errors import ModelError, first_line

log = logging.getLogger(__name__)

_LAYER_RULES = {**RULES, **RECURRENT}


def read_keras(file: KerasFile, custom: CustomLayers = NO_CUSTOM_LAYERS) -> ir.Model:
    """Return the graph of a Keras file; its weights are fetched from Keras when they are written.

    Raises:
        UnsupportedLayerError: a layer has no rule.
        ModelError: the file cannot be loaded, or holds code.
    """
    file.refuse_code(custom)
    return graph_of(load_keras(file.path, custom=custom), custom)


def load_keras(path: Path, *, trust: bool = False, custom: CustomLayers = NO_CUSTOM_LAYERS) -> Any:
    """Load a model, in safe mode (nothing in the file is executed) unless its author is trusted."""
    keras = import_keras()
    try:
        with modernized(path) if is_legacy(path) else contextlib.nullcontext(path) as readable:
            return keras.models.load_model(readable, dict(custom.objects), compile=False, safe_mode=not trust)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as wrong:
        reason = first_line(wrong)
        hint = "; give the file that defines it with --converters FILE.py --trust" if "Could not locate" in reason else ""
        raise ModelError(f"{path}: Keras cannot load this model: {reason}{hint}") from wrong


def as_argument(model: Any, tensors: Sequence[Any]) -> Any:
    """Return the inputs of a model, given in the order of `model.inputs`, as its call takes them: alone, or in lists or dicts."""
    import keras

    function = getattr(model, "_functional", None) or model
    structure = getattr(function, "_inputs_struct", None)
    if structure is None:  # a model in Python code, which says nothing of its inputs
        return list(tensors) if len(tensors) > 1 else tensors[0]
    return keras.tree.pack_sequence_as(structure, list(tensors))


def names_of_outputs(model: Any) -> list[str]:
    """Return the name of each output: that of the layer it comes from, with a number where that name is taken."""
    names = Emitter()
    for tensor in model.inputs:
        names.unique(tensor.name)
    return [names.unique(str(tensor._keras_history.operation.name)) for tensor in model.outputs]


def graph_of(model: Any, custom: CustomLayers = NO_CUSTOM_LAYERS) -> ir.Model:
    """Return the graph of a loaded (or just built) Keras model.

    Raises:
        ModelError: a layer has no rule and no converter in `custom`, or a converter fails.
    """
    function = getattr(model, "_functional", None) or model
    if not getattr(function, "_nodes_by_depth", None):
        raise ModelError(
            f"model {model.name!r} has no layer graph: it must be functional or a Sequential model with a known input shape; "
            "call it once on data and save it again, or export it to ONNX yourself"
        )
    emit = Emitter()
    layouts = Layouts(emit)
    inputs = [_input(emit, tensor) for tensor in function.inputs]
    names = [emit.unique(name) for name in names_of_outputs(function)]
    entries = [_as_float(emit, value, tensor.shape) for value, tensor in zip(inputs, function.inputs, strict=True)]
    results = _walk(function, entries, "", _Target(emit, layouts, custom))
    outputs = [_output(emit, layouts.native(result), name) for result, name in zip(results, names, strict=True)]
    return emit.model(inputs, outputs)


@dataclass(frozen=True, slots=True)
class _Target:
    """What a walk writes into, and what it knows of the user's own layers."""

    emit: Emitter
    layouts: Layouts
    custom: CustomLayers


def _walk(function: Any, inputs: list[Tensor], prefix: str, target: _Target) -> list[Tensor]:
    """Go through a functional model in the order in which Keras would run it."""
    known = {id(tensor): given for tensor, given in zip(function.inputs, inputs, strict=True)}
    steps = [node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]]
    steps = [node for node in steps if not node.is_input]
    for number, node in enumerate(steps, start=1):
        given = tuple(known[id(tensor)] for tensor in node.input_tensors)
        call = Call(
            layer=node.operation,
            path=f"{prefix}{node.operation.name}",
            position=f"layer {number} of {len(steps)}",
            inputs=given,
            operands=_operands(node, known),
            output_shape=tuple(node.outputs[0].shape),
            emit=target.emit,
            layouts=target.layouts,
            converters=target.custom.converters,
        )
        results = _apply(call, target)
        if len(results) != len(node.outputs):
            raise call.unsupported(f"it has {len(node.outputs)} outputs, but what it becomes has {len(results)}")
        known.update((id(tensor), result) for tensor, result in zip(node.outputs, results, strict=True))
    return [known[id(tensor)] for tensor in function.outputs]


def _apply(call: Call, target: _Target) -> list[Tensor]:
    kind = type(call.layer)
    if not kind.__module__.startswith("keras.src.") and registered_name(kind) in call.converters:
        return [_by_the_user(call, registered_name(kind))]
    inner = getattr(call.layer, "_functional", None) or call.layer
    if getattr(inner, "_nodes_by_depth", None):
        return _walk(inner, list(call.inputs), f"{call.path}/", target)
    rules = OPERATIONS if kind.__module__.startswith("keras.src.ops") else _LAYER_RULES
    if kind.__name__ not in rules or not kind.__module__.startswith("keras.src."):
        raise call.unsupported("there is no rule for this layer")
    log.debug("layer path=%s class=%s shape=%s", call.path, kind.__name__, call.output_shape)
    return [rules[kind.__name__](call)]


def _by_the_user(call: Call, name: str) -> Tensor:
    try:
        made = call.converters[name](call)
    except ModelError:
        raise
    except Exception as wrong:  # whatever the user's code raises
        log.info("converter of layer path=%s failed", call.path, exc_info=wrong)
        reason = f"{type(wrong).__name__}: {wrong}"
        raise ModelError(
            f"layer {call.path!r} ({name}, {call.position}): its converter failed (-v shows where): {reason}"
        ) from wrong
    if not isinstance(made, Tensor):
        raise ModelError(f"layer {call.path!r} ({name}): its converter must return a Tensor, not {type(made).__name__}")
    return made


def _operands(node: Any, known: dict[int, Tensor]) -> tuple[Tensor | Numbers, ...]:
    """Return the arguments of an operation that are tensors or numbers, in order."""
    arguments = [*node.arguments.args, *node.arguments.kwargs.values()]
    numeric = [one for one in arguments if id(one) in known or isinstance(one, int | float | np.ndarray)]
    return tuple(known[id(one)] if id(one) in known else np.asarray(one, np.float32) for one in numeric)


def _input(emit: Emitter, tensor: Any) -> ir.Value:
    """Return the graph input for one of Keras; every kind of float is given as float32."""
    if tensor.dtype == "string":
        raise ModelError(
            f"input {tensor.name!r} must hold numbers, but it holds text: turn text into numbers before the model, "
            "and save the layers behind TextVectorization or StringLookup"
        )
    dtype = ir.DataType.FLOAT if "float" in tensor.dtype else ir.DataType[tensor.dtype.upper()]
    return graph_input(emit.unique(tensor.name), dtype, tensor.shape)


def _as_float(emit: Emitter, value: ir.Value, shape: tuple[int | None, ...]) -> Tensor:
    """Keras computes in floats whatever the input is; so does the graph."""
    if value.dtype is not ir.DataType.FLOAT:
        value = emit.node("Cast", [value], where=str(value.name), to=int(ir.DataType.FLOAT))
    return Tensor(value, tuple(shape))


def _output(emit: Emitter, result: Tensor, name: str) -> ir.Value:
    """Return the value called `name`; one that is an input or an output already gets a node of its own."""
    value = result.value
    if value.producer() is None or value.name != value.producer().name:
        value = emit.node("Identity", [value], where=name)
    value.name = name
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), named_shape(name, result.shape)
    return value
