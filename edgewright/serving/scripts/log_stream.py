"""Standard output and error of a worker process: each line with the time and the ids of the requests that are being answered."""

from __future__ import annotations

import contextvars
import datetime as dates
import io
from typing import TextIO

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="init")
"""Id of the request that is being answered; of a batch, all ids with commas between them."""


class LogStream(io.TextIOBase):
    """A text stream that puts the time and the id of the request before each line."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._unfinished: dict[str, str] = {}

    def write(self, text: str) -> int:
        """Write all complete lines; the rest waits for its end."""
        current = request_id.get()
        *lines, rest = (self._unfinished.pop(current, "") + text).split("\n")
        if rest:
            self._unfinished[current] = rest
        stamp = dates.datetime.now(dates.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._target.write("".join(f"{stamp} {current} {line}\n" for line in lines))
        self._target.flush()
        return len(text)

    def flush(self) -> None:
        """Flush the lines that are written."""
        self._target.flush()

    def fileno(self) -> int:
        """Return the file descriptor of standard error."""
        return self._target.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True
