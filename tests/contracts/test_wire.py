"""Types that several threads decode for the first time at once."""

from __future__ import annotations

import subprocess
import sys

RACE = """
import sys, threading
from dataclasses import field, make_dataclass
from typing import Any
from edgewright.contracts import wire

sys.setswitchinterval(1e-7)
for number in range(60):
    fields = [(f"field{i}", int, field(default=i)) for i in range(20)]
    kinds = [make_dataclass(f"Kind{number}_{place}", fields) for place in range(3)]
    outer = make_dataclass(f"Outer{number}", [(f"inner{i}", kind) for i, kind in enumerate(kinds)])
    barrier, found = threading.Barrier(6), []

    def read(use: Any) -> None:
        barrier.wait()
        found.append(use())

    raw = b'{"inner0": {}, "inner1": {"field3": 7}, "inner2": {}}'
    plain = {"inner0": {}, "inner1": {"field3": 7}, "inner2": {}}
    uses = [lambda: wire.decode(raw, outer, what="it"), lambda: wire.convert(plain, outer, what="it")] * 3
    threads = [threading.Thread(target=read, args=[use]) for use in uses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.inner1.field3 for each in found] == [7] * 6, found
print("read")
"""


def test_threads_may_decode_a_type_for_the_first_time_at_once() -> None:
    """Without a lock, msgspec reads types that are half built: a segmentation fault, or fields that are missing."""
    finished = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=120, check=False)
    assert (finished.returncode, finished.stdout) == (0, "read\n"), finished.stderr[-2000:]
