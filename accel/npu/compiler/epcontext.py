"""The FPGA-targeted graph: the NPU program as one `EPContext` node per segment, with the host's parts as plain ONNX between them.

`EPContext` (domain com.microsoft) is ONNX Runtime's node for compiled programs of an accelerator:
https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html. ONNX Runtime rejects a node of an unknown accelerator. So
the host's parts are also written to separate files, and a device needs no ONNX tools to extract them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from accel.npu.compiler.host_part import HostParts, host_nodes, host_parts
from accel.npu.lowering.qdq import real_inputs, tensors_read
from accel.npu.program import NpuProgram, SegmentRecord
from edgewright.errors import ModelError, first_line

OPERATOR = "EPContext"
DOMAIN = "com.microsoft"
SOURCE = "EdgewrightNpuExecutionProvider"
IR_VERSION_LIMIT = 10
"""The newest ONNX file version that every supported ONNX Runtime reads."""


@dataclass(frozen=True, slots=True)
class Targeted:
    """The whole graph with its `EPContext` nodes, and the host's parts alone."""

    graph: onnx.ModelProto
    host: HostParts


def target(model: onnx.ModelProto, program: NpuProgram, *, program_file: str, partition: str) -> Targeted:
    """Replace the operators of `model` that `program` computes by one node per segment.

    Args:
        model: the quantized graph that the program was compiled from, including its weights.
        program: the compiled program.
        program_file: the path of the program file, relative to the graph.
        partition: the name of the node and the graph.

    Raises:
        ModelError: the result is not valid ONNX.
    """
    segments = program.description.runs
    parts = host_parts(model, segments, partition)
    inferred = onnx.shape_inference.infer_shapes(model)
    *before, after = host_nodes(model, segments)
    nodes: list[onnx.NodeProto] = []
    for number, (on_host, segment) in enumerate(zip(before, segments, strict=True)):
        nodes += [*on_host, _context_node(program, segment, number, program_file, partition)]
    nodes += after
    read = {name for node in nodes for name in tensors_read(node)} | {value.name for value in inferred.graph.output}
    ends = {value.name for value in (*inferred.graph.output, *inferred.graph.input)}
    between = {name for segment in segments for name in (*segment.inputs, *segment.outputs)} - ends
    graph = helper.make_graph(
        nodes,
        partition,
        real_inputs(inferred.graph),
        list(inferred.graph.output),
        initializer=[tensor for tensor in inferred.graph.initializer if tensor.name in read],
        value_info=[value for value in inferred.graph.value_info if value.name in between],
        sparse_initializer=[tensor for tensor in inferred.graph.sparse_initializer if tensor.values.name in read],
    )
    whole = helper.make_model(
        graph,
        opset_imports=[*_without(inferred.opset_import, DOMAIN), helper.make_opsetid(DOMAIN, 1)],
        ir_version=min(inferred.ir_version, IR_VERSION_LIMIT),
        functions=list(model.functions),
    )
    _check(whole)
    for part in (*parts.before, parts.head):
        if part is not None:
            part.ir_version = whole.ir_version
    return Targeted(whole, parts)


def _context_node(program: NpuProgram, segment: SegmentRecord, number: int, program_file: str, partition: str) -> onnx.NodeProto:
    """Return the node of a segment; the first one is the main context, to which the others refer by the partition's name."""
    description = program.description
    return helper.make_node(
        OPERATOR,
        list(segment.inputs),
        list(segment.outputs),
        name=f"{partition}-{number}" if number else partition,
        domain=DOMAIN,
        main_context=0 if number else 1,
        embed_mode=0,
        ep_cache_context=program_file,
        source=SOURCE,
        partition_name=partition,
        hardware_architecture=f"{description.profile_name} {program.profile_hash.hex()}",
    )


def _without(imports: object, domain: str) -> list[onnx.OperatorSetIdProto]:
    return [entry for entry in imports if entry.domain != domain]  # type: ignore[attr-defined]


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the compiled graph must be valid ONNX: {first_line(error)}") from error
