"""Probe a service on its own address, and find out that no server process answers although they run."""

from __future__ import annotations

import asyncio
import contextlib

PROBE_INTERVAL_S = 5.0
_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def answers(host: str, port: int, timeout_s: float = PROBE_INTERVAL_S) -> bool:
    """Return True if the service answers a request for its liveness, with any status, within `timeout_s`."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(_REQUEST)
                return (await reader.readline()).startswith(b"HTTP/1.")
            finally:
                writer.close()
    return False
