"""The values of the templates for Java and C#: parameters, tensors and request bodies with the types of a model's columns."""

from __future__ import annotations

from edgewright.errors import BadInputError
from edgewright.export.model import Column, ExportedModel
from edgewright.export.tables import identifier

_TYPES = {
    "float32": ("float", "FloatBuffer", "FP32"),
    "float64": ("double", "DoubleBuffer", "FP64"),
    "int32": ("int", "IntBuffer", "INT32"),
    "int64": ("long", "LongBuffer", "INT64"),
}
"""Per type: that of Java and C#, Java's buffer, and the name in the Open Inference Protocol."""


def java_onnx(model: ExportedModel) -> dict[str, str]:
    """Return the values of `ScoreOnnx.java`."""
    buffers = sorted({_types(column)[1] for column in (*model.inputs, model.output)})
    wrap = "OnnxTensor {0}Tensor = OnnxTensor.createTensor(environment, {1}.wrap({0}), new long[] {{{2}}})"
    names = [_argument(column) for column in model.inputs]
    return {
        "name": model.name,
        "imports": "\n".join(f"import java.nio.{buffer};" for buffer in buffers),
        "parameters": _parameters(model),
        "tensors": ";\n                ".join(
            wrap.format(_argument(column), _types(column)[1], _shape(column)) for column in model.inputs
        ),
        "entries": ", ".join(f'"{column.name}", {name}Tensor' for column, name in zip(model.inputs, names, strict=True)),
        "output": model.output.name,
        "result_type": _types(model.output)[0],
        "result_buffer": _types(model.output)[1],
    }


def java_rest(model: ExportedModel) -> dict[str, str]:
    """Return the values of `ScoreRest.java`."""
    tensor = 'tensor("{0}", "{1}", samples + "{2}", Arrays.toString({3}))'
    tensors = [
        tensor.format(column.name, _types(column)[2], _after_samples(column), _argument(column)) for column in model.inputs
    ]
    return {
        "name": model.name,
        "parameters": _parameters(model),
        "body": ' + ", " + '.join(tensors),
        "zeros": ", ".join(f"new {_types(column)[0]}[{column.size}]" for column in model.inputs),
    }


def csharp(model: ExportedModel) -> dict[str, str]:
    """Return the values of `Score.cs`."""
    create = '            NamedOnnxValue.CreateFromTensor("{0}", new DenseTensor<{1}>({2}, new[] {{ {3} }})),'
    body = 'new {{ name = "{0}", datatype = "{1}", shape = new[] {{ {2} }}, data = {3} }}'
    return {
        "name": model.name,
        "parameters": _parameters(model),
        "tensors": "\n".join(
            create.format(column.name, _types(column)[0], _argument(column), _shape(column)) for column in model.inputs
        ),
        "body": ", ".join(
            body.format(column.name, _types(column)[2], _shape(column), _argument(column)) for column in model.inputs
        ),
        "output": model.output.name,
        "result_type": _types(model.output)[0],
    }


def _parameters(model: ExportedModel) -> str:
    return ", ".join(f"{_types(column)[0]}[] {_argument(column)}" for column in model.inputs)


def _argument(column: Column) -> str:
    return f"{identifier(column.name)}Numbers"


def _shape(column: Column) -> str:
    return ", ".join(["samples", *map(str, column.shape)])


def _after_samples(column: Column) -> str:
    return "".join(f", {size}" for size in column.shape)


def _types(column: Column) -> tuple[str, str, str]:
    if column.dtype not in _TYPES:
        raise BadInputError(
            f"samples for Java and C# must have one of the types {', '.join(_TYPES)}, but {column.name} is {column.dtype}: "
            "export the float32 variant"
        )
    return _TYPES[column.dtype]
