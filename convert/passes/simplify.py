"""The order of the passes, and the function that runs them.

A pass takes a model, changes it in place, and returns a short description of the change, or an empty string if there was none.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes import common

from convert.passes.branches import take_constant_branches
from convert.passes.cleanup import (
    fold_constants,
    infer_shapes,
    inline_functions,
    lift_constants,
    name_everything,
    remove_identities,
    sort_nodes,
)
from convert.passes.convolutions import fold_batch_norm, fold_padding, fold_scales
from convert.passes.layout import flatten_in_channel_order, fold_weights, merge_transposes, reduce_without_transpose
from convert.passes.padding import write_padding
from edgewright.graphs.dead_code import remove_dead

log = logging.getLogger(__name__)

PASSES: tuple[Callable[[ir.Model], str], ...] = (
    inline_functions,
    sort_nodes,
    lift_constants,
    remove_identities,
    fold_weights,
    fold_constants,
    take_constant_branches,
    merge_transposes,
    reduce_without_transpose,
    flatten_in_channel_order,
    write_padding,
    fold_padding,
    fold_batch_norm,
    fold_scales,
    remove_dead,
    name_everything,
    infer_shapes,
)


def simplify(model: ir.Model, *, check_each: bool = False) -> list[str]:
    """Run every pass on `model`, in place.

    Args:
        model: the model.
        check_each: run ONNX's checker after each pass, as the tests do.

    Returns:
        One line `pass: change` for each pass that changed the model.
    """
    changes = []
    for run_pass in PASSES:
        started = time.perf_counter()
        change = run_pass(model)
        took_ms = (time.perf_counter() - started) * 1000
        if change:
            log.info("applied pass name=%s change=%r nodes=%d took_ms=%.0f", run_pass.__name__, change, len(model.graph), took_ms)
            changes.append(f"{run_pass.__name__}: {change}")
        if check_each:
            common.CheckerPass(full_check=True)(model)
    return changes
