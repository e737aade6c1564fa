"""Read what only TensorFlow itself can read: SavedModel directories, frozen graphs, and Keras models with code in them.

    freeze       one graph without variables or calls           } in a process of its own,
    set aside    its large weights, which only wait in files    } under a limit of memory and time
    tf2onnx      the operators                                  } (`tensorflow_runner.py`)
    put back     the weights, straight from those files

tf2onnx copies every weight dozens of times on its way; 60 to 75 times the model's size was measured. Without the large ones it
has little to copy. The passes undo the transposes that it puts on them.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from convert.frameworks import import_tensorflow
from convert.from_onnx import lifted
from convert.graph.emit import IR_VERSION, named_shape
from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions
from convert.source.resource_limits import Limits, run_limited
from edgewright.contracts.names import nearest
from edgewright.errors import ModelError, NotFoundError, one_line
from edgewright.graphs.lazy_weights import LazyWeight

Arrays = list[npt.NDArray[Any]]

TF_OPSET = 18
"""The newest that tf2onnx writes; `from_onnx` lifts it to ours."""

_SET_ASIDE_ELEMENTS = 1 << 16
_TOUCHES_THE_MACHINE = {
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "Save",
    "SaveSlices",
    "DebugIdentity",
    "DebugIdentityV2",
}
_NO_OUTPUT = {"NoOp", "Assert", "Const", "Placeholder"}


@dataclass(frozen=True, slots=True)
class Frozen:
    """A graph without variables, and what its inputs and outputs are called (name to tensor)."""

    graph_def: Any
    inputs: dict[str, str]
    outputs: dict[str, str]


def read_tensorflow(kind: SourceKind, path: Path, limits: Limits, options: SourceOptions = DEFAULT_OPTIONS) -> ir.Model:
    """Return the graph of a SavedModel, a frozen graph, or a Keras model whose code the user trusts.

    Raises:
        ModelError: it cannot be loaded, or has operators that ONNX lacks.
        NotFoundError: an input or output that the user named does not exist.
        OperationError: a limit was reached; nothing was written.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        command = [
            sys.executable,
            "-m",
            "convert.from_tensorflow.runner",
            kind.value,
            str(path.resolve()),
            name,
            *options.arguments,
        ]
        run_limited(command, limits, path)
        proto = lifted(onnx.load(folder / "graph.onnx"), path)
        proto.ir_version = IR_VERSION
        proto.producer_name, proto.producer_version, proto.doc_string, proto.graph.name = "edgewright", "", "", "model"
        model = ir.from_proto(proto)
        _put_back(model.graph, folder)
    _name_axes(model.graph)
    return model


def run_tensorflow(kind: SourceKind, path: Path, inputs: Arrays, options: SourceOptions, *, batch_size: int) -> Arrays:
    """Return what TensorFlow itself says, in the order of the graph's outputs."""
    tf = import_tensorflow()
    function = None
    if kind is SourceKind.SAVED_MODEL and not options.inputs:
        function = _signature_function(path, options)  # its variables stay where they are: a quarter of the memory of freezing
    function = function or _pruned(freeze(kind, path, options))
    parts = [
        [np.asarray(one) for one in function(*(tf.constant(array[start : start + batch_size]) for array in inputs))]
        for start in range(0, len(inputs[0]), batch_size)
    ]
    return [np.concatenate(of_one_output) for of_one_output in zip(*parts, strict=True)]


def _pruned(frozen: Frozen) -> Callable[..., Sequence[Any]]:
    """Return a frozen graph as a function of its inputs."""
    tf = import_tensorflow()
    wrapped = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(frozen.graph_def, name=""), [])
    function: Callable[..., Sequence[Any]] = wrapped.prune(
        [wrapped.graph.as_graph_element(tensor) for tensor in frozen.inputs.values()],
        [wrapped.graph.as_graph_element(tensor) for tensor in frozen.outputs.values()],
    )
    return function


def _signature_function(path: Path, options: SourceOptions) -> Callable[..., Sequence[Any]] | None:
    """Return a SavedModel's own function of its inputs, or None where they go by other names than its arguments."""
    model, signature = _loaded(path, options)
    count = len(signature.inputs) - len(signature.captured_inputs)
    names = [tensor.name.split(":")[0] for tensor in signature.inputs[:count]]
    if set(names) != set(signature.structured_input_signature[1]):
        return None
    outputs = _chosen(options.outputs, {name: name for name in sorted(signature.structured_outputs)}, path)

    def function(*tensors: Any, _alive: Any = model) -> Sequence[Any]:
        found = signature(**dict(zip(names, tensors, strict=True)))
        return [found[name] for name in outputs]

    return function


def freeze(kind: SourceKind, path: Path, options: SourceOptions) -> Frozen:
    """Return the graph of a source, its variables as constants."""
    if kind is SourceKind.FROZEN_GRAPH:
        return _frozen_graph(path, options)
    if kind is SourceKind.SAVED_MODEL:
        return _frozen_saved_model(path, options)
    return _frozen_keras(path, options)


def convert_frozen(frozen: Frozen, path: Path, folder: Path) -> None:
    """Write `graph.onnx` and the weights that were set aside into `folder`."""
    import tf2onnx

    inputs, outputs = list(frozen.inputs.values()), list(frozen.outputs.values())
    aside = _set_aside(frozen.graph_def, folder)
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph_def,
        input_names=inputs + [f"{name}:0" for name in aside],
        output_names=outputs,
        opset=TF_OPSET,
        tensors_to_rename={tensor: name for known in (frozen.inputs, frozen.outputs) for name, tensor in known.items()},
    )
    _refuse_unknown_operators(proto, path)
    (folder / "graph.onnx").write_bytes(proto.SerializeToString())
    (folder / "aside.json").write_text(json.dumps({f"{name}:0": file for name, file in aside.items()}), "utf-8")


def _frozen_graph(path: Path, options: SourceOptions) -> Frozen:
    tf = import_tensorflow()
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
        with tf.Graph().as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as wrong:  # protobuf's and TensorFlow's errors share no base
        raise ModelError(f"{path} must be a whole frozen graph, but TensorFlow cannot load it: {one_line(wrong)}") from wrong
    _refuse_code([graph_def], path, trust=options.trust)
    used = {name.split(":")[0].lstrip("^") for node in graph_def.node for name in node.input}
    found_inputs = [node.name for node in graph_def.node if node.op == "Placeholder"]
    found_outputs = [node.name for node in graph_def.node if node.name not in used and node.op not in _NO_OUTPUT]
    names = [node.name for node in graph_def.node]
    inputs = _tensors(options.inputs, names, path) or {name: f"{name}:0" for name in found_inputs}
    outputs = _tensors(options.outputs, names, path) or {name: f"{name}:0" for name in found_outputs}
    if not inputs or not outputs:
        raise ModelError(f"{path} must have inputs and outputs, but none were found: name them with --inputs and --outputs")
    return Frozen(graph_def, inputs, outputs)


def _frozen_saved_model(path: Path, options: SourceOptions) -> Frozen:
    _alive, signature = _loaded(path, options)
    frozen = _constant(signature)
    # A frozen function lists its inputs in the order of the signature's tensors, which carry the argument names.
    inputs = {tensor.name.split(":")[0]: tensor.name for tensor in frozen.inputs}
    outputs = dict(zip(sorted(signature.structured_outputs), (tensor.name for tensor in frozen.outputs), strict=True))
    return Frozen(frozen.graph.as_graph_def(), _chosen(options.inputs, inputs, path), _chosen(options.outputs, outputs, path))


def _loaded(path: Path, options: SourceOptions) -> tuple[Any, Any]:
    """Return a SavedModel and the function that it is served by, whose variables live as long as the model does."""
    tf = import_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString((path / "saved_model.pb").read_bytes())
        _refuse_code([meta.graph_def for meta in content.meta_graphs], path, trust=options.trust)
        loaded = tf.saved_model.load(str(path))
    except ModelError:
        raise
    except Exception as wrong:  # protobuf's and TensorFlow's errors share no base
        raise ModelError(f"{path} must be a whole SavedModel, but TensorFlow cannot load it: {one_line(wrong)}") from wrong
    signatures = {name: one for name, one in loaded.signatures.items() if not name.startswith("_")}
    if not signatures:
        raise ModelError(f"{path} must have a signature, but it has none: save it with signatures= or with model.export")
    return loaded, signatures.get("serving_default") or next(iter(signatures.values()))


def _frozen_keras(path: Path, options: SourceOptions) -> Frozen:
    tf = import_tensorflow()
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras, names_of_outputs

    model = load_keras(path, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    specs = [tf.TensorSpec([None, *one.shape[1:]], one.dtype) for one in model.inputs]
    call = tf.function(lambda *tensors: keras.tree.flatten(model(as_argument(model, tensors), training=False)))
    frozen = _constant(call.get_concrete_function(*specs))
    inputs = {one.name: tensor.name for one, tensor in zip(model.inputs, frozen.inputs, strict=True)}
    outputs = {name: tensor.name for name, tensor in zip(names_of_outputs(model), frozen.outputs, strict=True)}
    return Frozen(frozen.graph.as_graph_def(), inputs, outputs)


def _constant(function: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def _tensors(wanted: Sequence[str], names: Sequence[str], path: Path) -> dict[str, str]:
    """Return the tensors of nodes that the user names, with or without the number of the output."""
    known = set(names)
    tensors = {}
    for name in wanted:
        node, _, place = name.partition(":")
        if node not in known:
            raise NotFoundError(f"{path} has no node {node!r}{nearest(node, names)}")
        tensors[node if place in ("", "0") else name.replace(":", "_")] = f"{node}:{place or 0}"
    return tensors


def _chosen(wanted: Sequence[str], known: dict[str, str], path: Path) -> dict[str, str]:
    for name in wanted:
        if name not in known:
            raise NotFoundError(f"{path} has no input or output {name!r}{nearest(name, known)}")
    return {name: known[name] for name in wanted} or known


def _refuse_code(graph_defs: Sequence[Any], path: Path, *, trust: bool) -> None:
    found = sorted(set(_operators(graph_defs)) & _TOUCHES_THE_MACHINE)
    if found and not trust:
        raise ModelError(
            f"{path} must only compute, but its operators {', '.join(found)} run code or touch files: add --trust if you made it"
        )


def _operators(graph_defs: Sequence[Any]) -> Iterator[str]:
    for graph_def in graph_defs:
        yield from (node.op for node in graph_def.node)
        yield from (node.op for function in graph_def.library.function for node in function.node_def)


def _set_aside(graph_def: Any, folder: Path) -> dict[str, str]:
    """Write large float constants to files and leave placeholders of their shape; return the file of each."""
    tf = import_tensorflow()
    aside: dict[str, str] = {}
    for node in graph_def.node:
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            continue
        shape = node.attr["value"].tensor.tensor_shape
        if int(np.prod([axis.size for axis in shape.dim])) <= _SET_ASIDE_ELEMENTS:
            continue
        aside[node.name] = f"{len(aside)}.npy"
        np.save(folder / aside[node.name], tf.make_ndarray(node.attr["value"].tensor))
        node.op = "Placeholder"
        node.attr["shape"].shape.CopyFrom(shape)
        del node.attr["value"]
    return aside


def _refuse_unknown_operators(proto: onnx.ModelProto, path: Path) -> None:
    strangers = sorted({node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if strangers:
        raise ModelError(
            f"{path} has TensorFlow operators that cannot be expressed in ONNX: {', '.join(strangers)}; "
            "replace them, or cut them off with --outputs"
        )


def _put_back(graph: ir.Graph, folder: Path) -> None:
    """Make weights of the inputs that stand for them; they are mapped, so nothing is copied before it is written."""
    files = json.loads((folder / "aside.json").read_text("utf-8"))
    for value in list(graph.inputs):
        if value.name not in files:
            continue
        numbers = np.load(folder / files[value.name], mmap_mode="r")
        graph.inputs.remove(value)
        value.const_value = LazyWeight(str(value.name), numbers.shape, functools.partial(np.asarray, numbers))
        value.shape, value.type = ir.Shape(numbers.shape), ir.TensorType(ir.DataType.FLOAT)
        graph.register_initializer(value)


def _name_axes(graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None:
            raise ModelError(f"{value.name} must have a known number of axes: save the model with input shapes")
        sizes = [size if isinstance(size, int) else None for size in value.shape.dims]
        value.shape = named_shape(str(value.name), tuple(sizes)) if sizes and sizes[0] is None else ir.Shape(sizes)
