"""Read SavedModel directories, frozen graphs, and Keras models that contain code, with TensorFlow and tf2onnx.

    freeze              get one graph without variables or calls     } in a separate process,
    detach weights      move large weights to files                  } with limits of memory and time
    tf2onnx             convert the operators                        } (runner.py)
    attach weights      add the weights from the files

tf2onnx copies every weight dozens of times: it was measured to use 60 to 75 times the model's size. Without the large weights it
has little to copy. The passes remove the transposes that tf2onnx adds to weights.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from convert.frameworks import import_tensorflow
from convert.from_tensorflow.names import count_again
from convert.graph.emit import IR_VERSION, named_shape
from convert.operator_sets import at_supported_opset
from convert.source.feed import Runner
from convert.source.identify import SourceKind
from convert.source.options import DEFAULT_OPTIONS, SourceOptions, SourceRequest
from convert.source.resource_limits import Limits, run_limited
from edgewright.contracts import wire
from edgewright.contracts.names import nearest
from edgewright.errors import ModelError, NotFoundError, one_line
from edgewright.graphs.lazy_weights import LazyWeight

TF_OPSET = 18
"""The newest operator set that tf2onnx writes; `at_supported_opset` converts it to ours."""

_DETACHED_ELEMENTS = 1 << 16
_UNSAFE_OPERATORS = {
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
    """A graph without variables, with the tensors of its inputs and outputs by name."""

    graph_def: Any
    inputs: dict[str, str]
    outputs: dict[str, str]


def read_tensorflow(kind: SourceKind, path: Path, limits: Limits, options: SourceOptions = DEFAULT_OPTIONS) -> ir.Model:
    """Return the graph of a SavedModel, a frozen graph, or a trusted Keras model with code.

    Raises:
        ModelError: the source cannot be loaded, or has operators that ONNX lacks.
        NotFoundError: a requested input or output does not exist.
        OperationError: the process reached a limit.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-") as name:
        folder = Path(name)
        request = {"source": SourceRequest.of(kind, path, options), "folder": name}
        run_limited("convert.from_tensorflow.runner", wire.encode(request), limits, path)
        proto = at_supported_opset(onnx.load(folder / "graph.onnx"), path)
        count_again(proto)
        proto.ir_version = IR_VERSION
        proto.producer_name, proto.producer_version, proto.doc_string, proto.graph.name = "edgewright", "", "", "model"
        model = ir.from_proto(proto)
        _attach_weights(model.graph, folder)
    _name_axes(model.graph)
    return model


def open_tensorflow(kind: SourceKind, path: Path, options: SourceOptions) -> Runner:
    """Load the source with TensorFlow; its outputs are in the order of the graph's outputs."""
    tf = import_tensorflow()
    function = None
    if kind is SourceKind.SAVED_MODEL and not options.inputs:
        function = _signature_function(path, options)  # takes a quarter of the memory of freezing: variables are not copied
    called = function or _pruned(freeze(kind, path, options))
    return lambda feed: feed.run(lambda arrays: called(*map(tf.constant, arrays)))


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
    """Return a SavedModel's serving function, or None if its inputs and arguments have different names."""
    model, signature = _loaded(path, options)
    count = len(signature.inputs) - len(signature.captured_inputs)
    names = [tensor.name.split(":")[0] for tensor in signature.inputs[:count]]
    if set(names) != set(signature.structured_input_signature[1]):
        return None
    output_names = _chosen(options.outputs, {name: name for name in sorted(signature.structured_outputs)}, path)

    def function(*tensors: Any, _model: Any = model) -> Sequence[Any]:
        outputs = signature(**dict(zip(names, tensors, strict=True)))
        return [outputs[name] for name in output_names]

    return function


def freeze(kind: SourceKind, path: Path, options: SourceOptions) -> Frozen:
    """Return the graph of a source, with its variables as constants."""
    if kind is SourceKind.FROZEN_GRAPH:
        return _frozen_graph(path, options)
    if kind is SourceKind.SAVED_MODEL:
        return _frozen_saved_model(path, options)
    return _frozen_keras(path, options)


def convert_frozen(frozen: Frozen, path: Path, folder: Path) -> None:
    """Write `graph.onnx`, the detached weights and their index `weights.json` into `folder`."""
    import tf2onnx

    # tf2onnx keeps nodes in sets. Hashed by their addresses, chance would decide which of two equal constants it keeps.
    tf2onnx.graph.Node.__hash__ = lambda node: hash(node.name)
    inputs, outputs = list(frozen.inputs.values()), list(frozen.outputs.values())
    detached = _detach_weights(frozen.graph_def, folder)
    proto, _ = tf2onnx.convert.from_graph_def(
        frozen.graph_def,
        input_names=inputs + [f"{name}:0" for name in detached],
        output_names=outputs,
        opset=TF_OPSET,
        tensors_to_rename={tensor: name for ends in (frozen.inputs, frozen.outputs) for name, tensor in ends.items()},
    )
    _reject_unknown_operators(proto, path)
    (folder / "graph.onnx").write_bytes(proto.SerializeToString())
    (folder / "weights.json").write_text(json.dumps({f"{name}:0": file for name, file in detached.items()}), "utf-8")


def _frozen_graph(path: Path, options: SourceOptions) -> Frozen:
    tf = import_tensorflow()
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
        with tf.Graph().as_default():
            tf.import_graph_def(graph_def, name="")
    except Exception as error:  # protobuf's and TensorFlow's errors have no common base class
        raise ModelError(f"{path} must be a complete frozen graph, but TensorFlow cannot load it: {one_line(error)}") from error
    _reject_code([graph_def], path, trust=options.trust)
    used = {name.split(":")[0].lstrip("^") for node in graph_def.node for name in node.input}
    placeholders = [node.name for node in graph_def.node if node.op == "Placeholder"]
    unused = [node.name for node in graph_def.node if node.name not in used and node.op not in _NO_OUTPUT]
    names = [node.name for node in graph_def.node]
    inputs = _tensors(options.inputs, names, path) or {name: f"{name}:0" for name in placeholders}
    outputs = _tensors(options.outputs, names, path) or {name: f"{name}:0" for name in unused}
    if not inputs or not outputs:
        raise ModelError(f"{path} must have inputs and outputs, but none were found: specify them with --inputs and --outputs")
    return Frozen(graph_def, inputs, outputs)


def _frozen_saved_model(path: Path, options: SourceOptions) -> Frozen:
    _model, signature = _loaded(path, options)
    frozen = _constant(signature)
    # A frozen function lists its inputs in the order of the signature's tensors, which are named like the arguments.
    inputs = {tensor.name.split(":")[0]: tensor.name for tensor in frozen.inputs}
    outputs = dict(zip(sorted(signature.structured_outputs), (tensor.name for tensor in frozen.outputs), strict=True))
    return Frozen(frozen.graph.as_graph_def(), _chosen(options.inputs, inputs, path), _chosen(options.outputs, outputs, path))


def _loaded(path: Path, options: SourceOptions) -> tuple[Any, Any]:
    """Return a SavedModel and its serving function; the caller must keep the model, which owns the function's variables."""
    import_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    try:
        content.ParseFromString((path / "saved_model.pb").read_bytes())
        _reject_code([meta.graph_def for meta in content.meta_graphs], path, trust=options.trust)
        loaded = _loaded_without_optimizer(content, path)
    except ModelError:
        raise
    except Exception as error:  # protobuf's and TensorFlow's errors have no common base class
        raise ModelError(f"{path} must be a complete SavedModel, but TensorFlow cannot load it: {one_line(error)}") from error
    signatures = {name: signature for name, signature in loaded.signatures.items() if not name.startswith("_")}
    if not signatures:
        raise ModelError(f"{path} must have a signature, but it has none: save it with signatures= or with model.export")
    return loaded, signatures.get("serving_default") or next(iter(signatures.values()))


def _loaded_without_optimizer(content: Any, path: Path) -> Any:
    """Load a SavedModel without the slot variables of its optimizer, which Keras 2 saved and Keras 3 cannot restore."""
    tf = import_tensorflow()
    nodes = [node for meta in content.meta_graphs for node in meta.object_graph_def.nodes if node.slot_variables]
    if not nodes:
        return tf.saved_model.load(str(path))
    for node in nodes:
        del node.slot_variables[:]
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        for part in path.resolve().iterdir():
            if part.name not in ("saved_model.pb", "fingerprint.pb"):
                (Path(folder) / part.name).symlink_to(part)
        (Path(folder) / "saved_model.pb").write_bytes(content.SerializeToString())
        return tf.saved_model.load(folder)


def _frozen_keras(path: Path, options: SourceOptions) -> Frozen:
    tf = import_tensorflow()
    from convert.from_keras.custom_layers import custom_layers
    from convert.from_keras.reader import as_argument, load_keras, names_of_outputs

    model = load_keras(path, trust=options.trust, custom=custom_layers(options.converters))
    import keras

    specs = [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in model.inputs]
    call = tf.function(lambda *tensors: keras.tree.flatten(model(as_argument(model, tensors), training=False)))
    frozen = _constant(call.get_concrete_function(*specs))
    inputs = {given.name: tensor.name for given, tensor in zip(model.inputs, frozen.inputs, strict=True)}
    outputs = {name: tensor.name for name, tensor in zip(names_of_outputs(model), frozen.outputs, strict=True)}
    return Frozen(frozen.graph.as_graph_def(), inputs, outputs)


def _constant(function: Any) -> Any:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function)


def _tensors(requested: Sequence[str], names: Sequence[str], path: Path) -> dict[str, str]:
    """Return the tensors of requested nodes; a request may end with an output number, as in `split:1`."""
    existing = set(names)
    tensors = {}
    for name in requested:
        node, _, output = name.partition(":")
        if node not in existing:
            raise NotFoundError(f"{path} has no node {node!r}{nearest(node, names)}")
        tensors[node if output in ("", "0") else name.replace(":", "_")] = f"{node}:{output or 0}"
    return tensors


def _chosen(requested: Sequence[str], tensors: dict[str, str], path: Path) -> dict[str, str]:
    for name in requested:
        if name not in tensors:
            raise NotFoundError(f"{path} has no input or output {name!r}{nearest(name, tensors)}")
    return {name: tensors[name] for name in requested} or tensors


def _reject_code(graph_defs: Sequence[Any], path: Path, *, trust: bool) -> None:
    unsafe = sorted(set(_operators(graph_defs)) & _UNSAFE_OPERATORS)
    if unsafe and not trust:
        raise ModelError(
            f"{path} must not run code or access files, but its operators {', '.join(unsafe)} do: add --trust if you made it"
        )


def _operators(graph_defs: Sequence[Any]) -> Iterator[str]:
    for graph_def in graph_defs:
        yield from (node.op for node in graph_def.node)
        yield from (node.op for function in graph_def.library.function for node in function.node_def)


def _detach_weights(graph_def: Any, folder: Path) -> dict[str, str]:
    """Write large float32 constants to files and replace them by placeholders; return the file name for each node."""
    tf = import_tensorflow()
    files: dict[str, str] = {}
    for node in graph_def.node:
        if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
            continue
        shape = node.attr["value"].tensor.tensor_shape
        if int(np.prod([axis.size for axis in shape.dim])) <= _DETACHED_ELEMENTS:
            continue
        files[node.name] = f"{len(files)}.npy"
        np.save(folder / files[node.name], tf.make_ndarray(node.attr["value"].tensor))
        node.op = "Placeholder"
        node.attr["shape"].shape.CopyFrom(shape)
        del node.attr["value"]
    return files


def _reject_unknown_operators(proto: onnx.ModelProto, path: Path) -> None:
    unknown = sorted({node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type, node.domain)})
    if unknown:
        raise ModelError(
            f"{path} has TensorFlow operators that cannot be expressed in ONNX: {', '.join(unknown)}; "
            "replace them, or cut them off with --outputs"
        )


def _attach_weights(graph: ir.Graph, folder: Path) -> None:
    """Replace the inputs for detached weights by the weights, memory-mapped so that they are not copied."""
    files = json.loads((folder / "weights.json").read_text("utf-8"))
    for value in list(graph.inputs):
        if value.name not in files:
            continue
        array = np.load(folder / files[value.name], mmap_mode="r")
        graph.inputs.remove(value)
        value.const_value = LazyWeight(str(value.name), array.shape, functools.partial(np.asarray, array))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        graph.register_initializer(value)


def _name_axes(graph: ir.Graph) -> None:
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None:
            raise ModelError(f"{value.name} must have a known number of axes: save the model with input shapes")
        sizes = [size if isinstance(size, int) else None for size in value.shape.dims]
        value.shape = named_shape(str(value.name), tuple(sizes)) if sizes and sizes[0] is None else ir.Shape(sizes)
