"""Read a Keras model by walking its layers.

    configuration of the file -> reject code and unknown layers before a framework is loaded
    keras.load_model          -> load the layers, in safe mode
    walk                      -> emit one or two ONNX nodes per layer, from its configuration and weights

Tracing with TensorFlow takes many times the time and memory (benchmarks/convert.py measures both), so it is used only for
Keras layers without a rule (read_source.py).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.frameworks import import_keras
from convert.from_keras.call import Call, Floats
from convert.from_keras.custom_layers import CustomLayers, registered_name
from convert.from_keras.keras_file import NO_CUSTOM_LAYERS, KerasFile
from convert.from_keras.layers import RULES
from convert.from_keras.layouts import Layouts, Tensor
from convert.from_keras.legacy import is_legacy, modernized
from convert.from_keras.masks import MASKING, USERS
from convert.from_keras.operations import OPERATIONS
from convert.from_keras.recurrent import RECURRENT
from convert.graph.emit import Emitter, graph_input, named_shape
from edgewright.errors import ModelError, cause_of

log = logging.getLogger(__name__)

_LAYER_RULES = {**RULES, **RECURRENT, **MASKING}


def read_keras(file: KerasFile, custom: CustomLayers = NO_CUSTOM_LAYERS) -> ir.Model:
    """Return the graph of a Keras file; its weights are fetched from Keras when they are written.

    Raises:
        UnsupportedLayerError: a layer has no rule.
        ModelError: the file cannot be loaded, or holds code.
    """
    file.reject_code(custom)
    return graph_of(load_keras(file.path, custom=custom), custom)


def load_keras(path: Path, *, trust: bool = False, custom: CustomLayers = NO_CUSTOM_LAYERS) -> Any:
    """Load a model; in safe mode, which runs no code from the file, unless its author is trusted.

    Raises:
        ModelError: Keras cannot load the file.
    """
    keras = import_keras()
    try:
        with modernized(path) if is_legacy(path) else contextlib.nullcontext(path) as readable:
            return keras.models.load_model(readable, dict(custom.objects), compile=False, safe_mode=not trust)
    except (ValueError, TypeError, KeyError, OSError, AttributeError) as error:
        reason = cause_of(error)
        hint = "; give the file that defines it with --converters FILE.py --trust" if "Could not locate" in reason else ""
        raise ModelError(f"{path}: Keras cannot load this model: {reason}{hint}") from error


def as_argument(model: Any, tensors: Sequence[Any]) -> Any:
    """Return `tensors`, in the order of `model.inputs`, in the structure of the model's argument (a tensor, list or dict)."""
    import keras

    function = getattr(model, "_functional", None) or model
    structure = getattr(function, "_inputs_struct", None)
    if structure is None:  # a subclassed model, which does not declare the structure
        return list(tensors) if len(tensors) > 1 else tensors[0]
    return keras.tree.pack_sequence_as(structure, list(tensors))


def names_of_outputs(model: Any) -> list[str]:
    """Return a name for each output: the name of its layer, with a number if that name is taken."""
    names = Emitter()
    for tensor in model.inputs:
        names.unique(tensor.name)
    return [names.unique(str(tensor._keras_history.operation.name)) for tensor in model.outputs]


def graph_of(model: Any, custom: CustomLayers = NO_CUSTOM_LAYERS) -> ir.Model:
    """Return the graph of a Keras model.

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
    """Destination of a walk, and the converters of custom layers."""

    emit: Emitter
    layouts: Layouts
    custom: CustomLayers


def _walk(function: Any, inputs: list[Tensor], prefix: str, target: _Target) -> list[Tensor]:
    """Convert the layers of a functional model in the order in which Keras runs them; return its outputs."""
    tensors = {id(tensor): result for tensor, result in zip(function.inputs, inputs, strict=True)}
    steps = [node for depth in sorted(function._nodes_by_depth, reverse=True) for node in function._nodes_by_depth[depth]]
    steps = [node for node in steps if not node.is_input]
    for number, node in enumerate(steps, start=1):
        mask = node.arguments.kwargs.get("mask")
        call = Call(
            layer=node.operation,
            path=f"{prefix}{node.operation.name}",
            position=f"layer {number} of {len(steps)}",
            inputs=tuple(tensors[id(tensor)] for tensor in node.input_tensors if tensor is not mask),
            mask=None if id(mask) not in tensors else target.layouts.native(tensors[id(mask)]).value,
            operands=_operands(node, tensors),
            output_shape=tuple(node.outputs[0].shape),
            emit=target.emit,
            layouts=target.layouts,
            converters=target.custom.converters,
        )
        results = _apply(call, target)
        if len(results) != len(node.outputs):
            raise call.unsupported(f"it has {len(node.outputs)} outputs, but its converter returned {len(results)}")
        tensors.update((id(tensor), result) for tensor, result in zip(node.outputs, results, strict=True))
    return [tensors[id(tensor)] for tensor in function.outputs]


def _apply(call: Call, target: _Target) -> list[Tensor]:
    layer_class = type(call.layer)
    is_builtin = layer_class.__module__.startswith("keras.src.")
    if call.mask is not None and not (is_builtin and layer_class.__name__ in USERS):
        raise call.unsupported("it gets a mask")
    if is_builtin and layer_class.__name__ == "TimeDistributed":
        return [_time_distributed(call, target)]
    if not is_builtin and registered_name(layer_class) in call.converters:
        return [_run_converter(call, registered_name(layer_class))]
    inner = getattr(call.layer, "_functional", None) or call.layer
    if getattr(inner, "_nodes_by_depth", None):
        return _walk(inner, list(call.inputs), f"{call.path}/", target)
    rules = OPERATIONS if layer_class.__module__.startswith("keras.src.ops") else _LAYER_RULES
    if layer_class.__name__ not in rules or not is_builtin:
        raise call.unsupported("this layer is not supported")
    log.debug("layer path=%s class=%s shape=%s", call.path, layer_class.__name__, call.output_shape)
    return [rules[layer_class.__name__](call)]


def _time_distributed(call: Call, target: _Target) -> Tensor:
    """Convert the inner layer on all steps of all samples as one batch."""
    layer, x = call.layer.layer, call.native()
    sizes, output_sizes = ([size for size in shape[2:] if size is not None] for shape in (x.shape, call.output_shape))
    if len(sizes) + 2 < x.rank or len(output_sizes) + 2 < len(call.output_shape):
        raise call.unsupported("only the axes of batch and time may be dynamic")
    if call.mask is not None and layer._call_has_mask_arg and type(layer).__name__ != "BatchNormalization":
        raise call.unsupported("its layer gets a mask")
    steps = Tensor(call.node("Reshape", x.value, call.integers("steps", [-1, *sizes])), (None, *sizes))
    inner = replace(
        call,
        layer=layer,
        path=f"{call.path}/{layer.name}",
        inputs=(steps,),
        operands=(steps,),
        mask=None,
        output_shape=(None, *output_sizes),
    )
    results = _apply(inner, target)
    if len(results) != 1:
        raise call.unsupported("its layer has several outputs")
    start = call.node("Shape", x.value, start=0, end=2)
    shape = call.node("Concat", start, call.integers("sizes", output_sizes), axis=0)
    return call.result(call.node("Reshape", target.layouts.native(results[0]).value, shape))


def _run_converter(call: Call, name: str) -> Tensor:
    try:
        result = call.converters[name](call)
    except ModelError:
        raise
    except Exception as error:  # the user's code may raise anything
        log.info("converter of layer path=%s failed", call.path, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"layer {call.path!r} ({name}, {call.position}): its converter failed (-v shows where): {reason}"
        ) from error
    if not isinstance(result, Tensor):
        raise ModelError(f"layer {call.path!r} ({name}): its converter must return a Tensor, not {type(result).__name__}")
    return result


def _operands(node: Any, tensors: dict[int, Tensor]) -> tuple[Tensor | Floats, ...]:
    """Return the arguments of an operation that are tensors or numbers, in order."""
    arguments = [*node.arguments.args, *node.arguments.kwargs.values()]
    operands = [value for value in arguments if id(value) in tensors or isinstance(value, int | float | np.ndarray)]
    return tuple(tensors[id(value)] if id(value) in tensors else np.asarray(value, np.float32) for value in operands)


def _input(emit: Emitter, tensor: Any) -> ir.Value:
    """Return the graph input for a Keras input; all float dtypes become float32."""
    if tensor.dtype == "string":
        raise ModelError(
            f"input {tensor.name!r} must hold numbers, but it holds text: encode text as numbers before the model, "
            "and save the layers after TextVectorization or StringLookup"
        )
    dtype = ir.DataType.FLOAT if "float" in tensor.dtype else ir.DataType[tensor.dtype.upper()]
    return graph_input(emit.unique(tensor.name), dtype, tensor.shape)


def _as_float(emit: Emitter, value: ir.Value, shape: tuple[int | None, ...]) -> Tensor:
    """Return an input cast to float32, as Keras does with inputs of other dtypes."""
    if value.dtype is not ir.DataType.FLOAT:
        value = emit.node("Cast", [value], where=str(value.name), to=int(ir.DataType.FLOAT))
    return Tensor(value, tuple(shape))


def _output(emit: Emitter, result: Tensor, name: str) -> ir.Value:
    """Rename a result as the graph output `name`; an Identity is added if the value is an input or another output."""
    value = result.value
    if value.producer() is None or value.name != value.producer().name:
        value = emit.node("Identity", [value], where=name)
    value.name = name
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), named_shape(name, result.shape)
    return value
