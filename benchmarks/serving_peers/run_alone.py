"""Call the `run` of an entry script in a loop for some seconds: run_alone.py SCRIPT FILE SECONDS.

FILE holds the body. The result is one line: processor time per call in microseconds. No server can need less for a request.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

CALLS = 100


def main(script: str, file: str, seconds: str) -> None:
    """Print the time of the best hundred calls."""
    spec = importlib.util.spec_from_file_location("score", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.init()
    body = Path(file).read_text()
    best_s = float("inf")
    until_s = time.perf_counter() + float(seconds)
    while time.perf_counter() < until_s:
        before_s = time.process_time()
        for _ in range(CALLS):
            module.run(body)
        best_s = min(best_s, (time.process_time() - before_s) / CALLS)
    print(round(best_s * 1e6))


if __name__ == "__main__":
    main(*sys.argv[1:])
