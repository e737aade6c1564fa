"""Find the operators that crash the runtime in a lower precision, so that they stay float."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import ModelError
from quantize.scheme import read_float_graph

log = logging.getLogger(__name__)


def operator_kinds(build: BuildDirectory) -> dict[str, str]:
    """Return the operator type of every node of the float graph, by name."""
    return {str(node.name): node.op_type for node in read_float_graph(build).graph}


def without_crash(
    kinds: Mapping[str, str], names: Sequence[str], crash_with: Callable[[list[str]], str | None], *, where: Path
) -> list[str]:
    """Return `names` without the nodes of the operator type that crashes the runtime; all of them if none does.

    Args:
        kinds: the operator type of every node.
        names: the nodes that the scheme changes.
        crash_with: write the graph in which only the given nodes are changed, and return the crash of its first run.
        where: the build directory, for the message.

    Raises:
        ModelError: the runtime crashes without any single operator type, too.
    """
    crash = crash_with(list(names))
    if crash is None:
        return list(names)
    for left_out in sorted({kinds[name] for name in names}):
        fewer = [name for name in names if kinds[name] != left_out]
        with contextlib.suppress(ModelError):  # nothing is left to change
            if fewer and crash_with(fewer) is None:
                log.warning("kept in float operator=%s: %s", left_out, crash)
                return fewer
    raise ModelError(f"{where}: onnxruntime must run the new graph, but {crash}: use another scheme")
