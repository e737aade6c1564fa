"""Bytecode for the Python files of a layer: the root file system of a container is read-only, so Python cannot store its own.

Bytecode of the kind "unchecked hash" (PEP 552) holds no time, so that the same source gives the same bytes.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edgewright.contracts.environments.tars import Entry

_UNCHECKED_HASH = 0b01
_TAG = sys.implementation.cache_tag


class Compiler:
    """Turns the files of a folder into entries of a layer, Python files with their bytecode."""

    def entries(self, path: str, source: Path, mode: int = 0o644) -> Iterator[Entry]:
        """Yield the entry of a file and, for a Python file, that of its bytecode."""
        yield Entry(path=path, source=source, mode=mode)
        if not path.endswith(".py"):
            return
        raw = source.read_bytes()
        code = compiled(raw, path)
        if code is not None:
            place = PurePosixPath(path)
            yield Entry(path=f"{place.parent}/__pycache__/{place.stem}.{_TAG}.pyc", source=code)


def compiled(raw: bytes, path: str) -> bytes | None:
    """Return the bytecode file of a source; None for a file that is no valid Python, such as a template."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(raw, f"/{path}", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        return None
    flags = _UNCHECKED_HASH.to_bytes(4, "little")
    # Version 2 of the format has no references, which depend on what else the process holds.
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(raw) + marshal.dumps(code, 2)
