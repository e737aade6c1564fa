"""Run commands in which one function crashes natively; a process of its own, which loads the modules of the commands once.

Standard input: JSON, a list of {"function": "module:name", "signal": "SIGSEGV", "arguments": [...]}.
Standard output: JSON, a list of {"exit_code": 1, "lines": [...]}, the lines of standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from edgewright.cli import main

MODULES = ("convert.cli", "quantize.cli", "accel.evaluate_cli")


def crash(number: signal.Signals) -> NoReturn:
    """End this process by a signal, as native code does; for SIGSEGV it is a read of the address 0."""
    if number is signal.SIGSEGV:
        ctypes.string_at(0)
    if number is signal.SIGABRT:
        os.abort()
    os.kill(os.getpid(), number)
    raise AssertionError


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    """Run a command in a new process; return its exit code (negative: the signal) and its lines of standard error."""
    with tempfile.TemporaryFile("w+") as errors:
        process = os.fork()
        if not process:
            os.dup2(errors.fileno(), 2)
            _run(case["function"], signal.Signals[case["signal"]], case["arguments"])
        exit_code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        errors.seek(0)
        return {"exit_code": exit_code, "lines": errors.read().splitlines()}


def _run(function: str, number: signal.Signals, arguments: Sequence[str]) -> NoReturn:
    module, _, name = function.partition(":")
    if module:
        setattr(import_module(module), name, lambda *_, **__: crash(number))
    sys.argv = ["edgewright", *arguments]
    try:
        main(prog_name="edgewright")
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(99)


if __name__ == "__main__":
    for each in MODULES:
        import_module(each)
    sys.stdout.write(json.dumps([outcome(case) for case in json.load(sys.stdin)]))
