"""The FPGA-targeted graph: the NPU program as one `EPContext` node, followed by the head as plain ONNX.

`EPContext` (domain com.microsoft) is ONNX Runtime's node for compiled programs of an accelerator:
https://onnxruntime.ai/docs/execution-providers/EP-Context-Design.html. ONNX Runtime rejects a node of an unknown accelerator. So
the head is also written to a separate file, and a device needs no ONNX tools to extract it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from accel.npu.compiler.host_part import host_part
from accel.npu.lowering.qdq import real_inputs
from accel.npu.program import NpuProgram
from edgewright.errors import ModelError, first_line

OPERATOR = "EPContext"
DOMAIN = "com.microsoft"
SOURCE = "EdgewrightNpuExecutionProvider"
IR_VERSION_LIMIT = 10
"""The newest ONNX file version that every supported ONNX Runtime reads."""


@dataclass(frozen=True, slots=True)
class Targeted:
    """The whole graph with its `EPContext` node, and the head alone (None if the whole graph runs on the NPU)."""

    graph: onnx.ModelProto
    head: onnx.ModelProto | None


def target(model: onnx.ModelProto, program: NpuProgram, *, program_file: str, partition: str) -> Targeted:
    """Replace the operators of `model` that `program` computes by one node.

    Args:
        model: the quantized graph that the program was compiled from, including its weights.
        program: the compiled program.
        program_file: the path of the program file, relative to the graph.
        partition: the name of the node and the graph.

    Raises:
        ModelError: the result is not valid ONNX.
    """
    boundary = [place.name for place in program.description.outputs]
    head = host_part(model, boundary, f"{partition}-head")
    inferred = onnx.shape_inference.infer_shapes(model)
    outputs = [value.name for value in inferred.graph.output]
    after = head.graph if head is not None else onnx.GraphProto()
    graph = helper.make_graph(
        [_context_node(program, program_file, partition), *after.node],
        partition,
        real_inputs(inferred.graph),
        list(inferred.graph.output),
        initializer=list(after.initializer),
        value_info=[value for value in after.input if value.name in boundary and value.name not in outputs],
        sparse_initializer=list(after.sparse_initializer),
    )
    whole = helper.make_model(
        graph,
        opset_imports=[*_without(inferred.opset_import, DOMAIN), helper.make_opsetid(DOMAIN, 1)],
        ir_version=min(inferred.ir_version, IR_VERSION_LIMIT),
        functions=list(model.functions),
    )
    _check(whole)
    if head is not None:
        head.ir_version = whole.ir_version
    return Targeted(whole, head)


def _context_node(program: NpuProgram, program_file: str, partition: str) -> onnx.NodeProto:
    description = program.description
    return helper.make_node(
        OPERATOR,
        [place.name for place in description.inputs],
        [place.name for place in description.outputs],
        name=partition,
        domain=DOMAIN,
        main_context=1,
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
