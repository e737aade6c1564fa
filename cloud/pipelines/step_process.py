"""`python -m cloud.pipelines.step_process FOLDER`: run the script of one attempt of a step and note how it ended.

It leads a session of its own and outlives the cloud. The script inherits the lock, so that it counts as running until both have
ended. Only the standard library is imported, for a quick start.

    FOLDER/order.json   command, directory, variables, time limit
    FOLDER/lock         locked while this process or the script runs
    FOLDER/begun        id of this process, which leads the group of all processes of the step; written before the script starts
    FOLDER/ended.json   why it failed; an empty reason for success
    FOLDER/log.txt      output of the script
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

END_TIMEOUT_S = 10.0
"""Time that a script has to end after SIGTERM."""


def main(folder: Path) -> None:
    """Run the script, unless another process does or did."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if (folder / "begun").exists():
        return
    (folder / "begun").write_text(f"{os.getpid()}\n", "ascii")
    os.set_inheritable(handle, True)
    reason = _run(json.loads((folder / "order.json").read_bytes()), folder / "log.txt", handle)
    partial = folder / "ended.partial"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump({"reason": reason}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / "ended.json")


def _run(order: dict[str, Any], log: Path, lock: int) -> str:
    """Return why the script failed; empty if it succeeded."""
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                order["command"],
                cwd=order["directory"],
                env={**os.environ, **order["variables"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
            )
        except OSError as error:
            return f"it cannot be started: {error}"
        is_stopped = False

        def stop(_number: int, _frame: object) -> None:
            nonlocal is_stopped
            is_stopped = True
            process.terminate()

        signal.signal(signal.SIGTERM, stop)
        try:
            code = process.wait(timeout=order["timeout_s"])
        except subprocess.TimeoutExpired:
            _end(process)
            return f"it must end within {order['timeout_s']:g} s, but it did not"
    if is_stopped:
        return "it was stopped"
    return "" if code == 0 else _described(code)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the script and the processes that it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    try:
        process.wait(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _described(code: int) -> str:
    if code > 0:
        return f"the script ended with exit code {code}"
    try:
        return f"the script was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the script was ended by signal {-code}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
