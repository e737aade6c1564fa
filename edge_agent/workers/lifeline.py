"""A child of the agent ends when the agent ends, however the agent ended.

The agent holds the other end of the child's standard input and never closes it; when the kernel does, the agent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_the_agent(*, gently: bool) -> None:
    """Watch standard input from a thread: at its end leave by SIGTERM (a runner, which drains) or at once (a worker)."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        if gently:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
