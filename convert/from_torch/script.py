"""Read TorchScript archives, written by `torch.jit.save` from traced or scripted modules.

examples    inputs that the module can run, from the user's shapes or samples (examples.py)
trace       a module that returns a flat tuple of tensors and calls the script, whose control flow is kept
translate   PyTorch's TorchScript exporter
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from convert.from_torch.examples import Example, examples_for, runnable
from convert.from_torch.framework import import_torch, leaves, quiet, tensors
from convert.from_torch.onnx_export import clean
from convert.graph.emit import OPSET
from convert.graph.shapes import infer_again
from convert.source.feed import Arrays, Feed, Runner
from convert.source.options import SourceOptions
from edgewright.errors import ModelError, one_line

_OPSET = 20
"""The newest operator set of PyTorch's TorchScript exporter."""
_MISSING = re.compile(r"Exporting the operator '([\w:]+)'")


def read_script(path: Path, options: SourceOptions) -> ir.Model:
    """Return the graph of a TorchScript archive.

    Raises:
        ModelError: the archive is not trusted, cannot be loaded, its inputs are not described or are not tensors, or it has an
            operator without counterpart in ONNX.
        BadInputError: PyTorch is not installed, or a shape cannot be parsed.
    """
    script = _loaded(path, trust=options.trust)
    examples = examples_for(path, _parameters(script, path), options)
    examples = runnable(path, lambda arrays: _run(script, arrays), examples)
    proto = _translated(script, examples, path)
    _keep_inputs(proto.graph, examples)
    model = ir.from_proto(proto)
    # Set 21 adds dtypes to the operators of set 20, and changes GroupNormalization, which the exporter does not write.
    model.graph.opset_imports[""] = OPSET
    infer_again(model)
    clean(model)
    return model


def open_script(path: Path, *, trust: bool) -> Runner:
    """Load the script. One that cannot run a batch gets one sample at a time."""
    script = _loaded(path, trust=trust)

    def run(feed: Feed) -> Arrays:
        try:
            return feed.run(lambda arrays: _run(script, arrays))
        except RuntimeError:  # of torch
            return feed.run(lambda arrays: _run(script, arrays), fixed_batch=1)

    return run


def _loaded(path: Path, *, trust: bool) -> Any:
    torch = import_torch(path, trust=trust, holds="a TorchScript archive, which holds code that runs when it is opened")
    try:
        with quiet():
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch's errors have no common base class
        raise ModelError(f"{path}: PyTorch cannot load this archive: {one_line(error)}") from error


def _parameters(script: Any, path: Path) -> dict[str, bool]:
    """Return the parameters that are tensors; False for those that may be omitted."""
    parameters = {}
    for argument in script.forward.schema.arguments[1:]:
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            parameters[argument.name] = kind == "Tensor" and not argument.has_default_value()
        elif not argument.has_default_value():
            raise ModelError(
                f"{path}: every input must be a tensor, but {argument.name} is of type {kind}: script a module that "
                "takes tensors and calls this one, and save that"
            )
        else:
            break
    return parameters


def _run(script: Any, arrays: Sequence[Any]) -> Arrays:
    import torch

    with torch.no_grad(), quiet():
        return [leaf.numpy() for leaf in leaves(script(*tensors(arrays)))]


def _translated(script: Any, examples: Sequence[Example], path: Path) -> onnx.ModelProto:
    import torch

    inputs = tuple(tensors([example.array for example in examples]))
    file = io.BytesIO()
    try:
        with quiet(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            traced = torch.jit.trace(_flat(script), inputs, check_trace=False)
            torch.onnx.export(
                traced,
                inputs,
                file,
                dynamo=False,
                opset_version=_OPSET,
                input_names=[example.name for example in examples],
                output_names=_output_names(len(leaves(script(*inputs))), {example.name for example in examples}),
                dynamic_axes={example.name: dict(example.free) for example in examples},
            )
    except Exception as error:  # torch's errors have no common base class
        missing = _MISSING.search(str(error))
        reason = f"operator {missing[1]} has no counterpart there" if missing else one_line(error)
        raise ModelError(f"{path} cannot be expressed in ONNX: {reason}") from error
    return onnx.load_model_from_string(file.getvalue())


def _flat(script: Any) -> Any:
    """Return a module that calls the script and returns the tensors in its result as one tuple."""
    import torch

    class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.script = script

        def forward(self, *inputs: Any) -> Any:
            return tuple(leaves(self.script(*inputs)))

    return Flat().eval()


def _output_names(count: int, taken: set[str]) -> list[str]:
    names = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    return [f"{name}_of_script" if name in taken else name for name in names]


def _keep_inputs(graph: onnx.GraphProto, examples: Sequence[Example]) -> None:
    """Put back the inputs that the exporter leaves out because nothing uses them: callers of the script give them."""
    present = {value.name: value for value in graph.input}
    ordered = [present.get(example.name) or _unused(example) for example in examples]
    del graph.input[:]
    graph.input.extend(ordered)


def _unused(example: Example) -> onnx.ValueInfoProto:
    sizes = [example.free.get(axis, size) for axis, size in enumerate(example.array.shape)]
    return onnx.helper.make_tensor_value_info(example.name, onnx.helper.np_dtype_to_tensor_dtype(example.array.dtype), sizes)
