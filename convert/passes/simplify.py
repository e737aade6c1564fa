"""Run the passes over a graph, and say what each one did."""

from __future__ import annotations

import logging
import time

import onnx_ir as ir
from onnx_ir.passes import common

from convert.passes.passes import PASSES

log = logging.getLogger(__name__)


def simplify(model: ir.Model, *, check_each: bool = False) -> list[str]:
    """Run every pass in place and return what was done; `check_each` runs ONNX's checker after each (the tests do)."""
    done = []
    for one in PASSES:
        started = time.perf_counter()
        what = one(model)
        took_ms = (time.perf_counter() - started) * 1000
        if what:
            log.info("pass name=%s did=%r nodes=%d took_ms=%.0f", one.__name__, what, len(model.graph), took_ms)
            done.append(f"{one.__name__}: {what}")
        if check_each:
            common.CheckerPass(full_check=True)(model)
    return done
