"""A worker process that misbehaves on request: the test of `edgewright.worker_process`."""

from __future__ import annotations

import json
import os
import sys
import time

from edgewright.errors import EdgewrightError, NotFoundError, OperationError
from edgewright.worker_process import serve


class OwnError(NotFoundError):
    """An error that the parent does not know."""


def handle(request: bytes) -> bytes:
    """Do what the request names."""
    action = json.loads(request)["action"]
    if action == "print":
        print("a library prints this")
        os.system("echo and a program this")
    elif action == "fail":
        raise OwnError("pets has\nno version 7")
    elif action == "crash":
        sys.exit("out of luck")
    elif action == "kill":
        os.kill(os.getpid(), 9)
    elif action == "hang":
        time.sleep(60)
    elif action == "disk":
        raise OperationError("the work failed")
    return request


if __name__ == "__main__":
    try:
        serve(handle, once="once" in sys.argv)
    except EdgewrightError as error:
        raise SystemExit(str(error)) from error
