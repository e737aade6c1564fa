"""Errors that a caller or an operator can act on, with the exit code of a command that ends with one.

    EdgewrightError                    1
    ├── BadInputError                  2   the user can correct it
    │   ├── ModelError                     not a model, truncated, or an operator or layer that cannot be expressed
    │   ├── SamplesError                   samples that do not fit the model
    │   ├── ProfileError                   a hardware profile with an impossible value
    │   ├── PackageError                   a package whose bytes differ from its index
    │   │   └── SignatureError             unsigned, wrongly signed, or expired
    │   │       └── UntrustedKeyError      signed by untrusted keys only
    │   ├── MessageError                   a message that does not follow the contract
    │   ├── NotFoundError                  an unknown model, version, variant or device
    │   ├── ConflictError                  it exists already, or its state does not allow the step
    │   └── DeniedError                    a credential that does not authorise the request
    ├── NotWritableError               2   a path without write permission, or with a file in the way
    ├── OperationError                 1   the input was right, the work failed
    │   ├── InferenceError                 a runtime that failed to run a loaded graph
    │   ├── ParityError                    the result differs from the source by more than the tolerance
    │   └── StorageFullError               no space left on a disk
    └── UnreachableError               3   no response from an address

The text of an error is one line: what must hold, what was found, what to do. Any other exception is a defect of ours and
keeps its traceback. HTTP carries these errors by the map in `edgewright.contracts.connection.http_errors`.
"""

from __future__ import annotations

import re
from typing import ClassVar

LONGEST_LINE = 300
"""Characters of a library's error that a message of ours repeats."""


_WRAPPER = re.compile(r"Exception encountered(?: when calling [^\n]*)?:?\s*")
"""Text of Keras before the cause of an error, after the configuration of the layer."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class EdgewrightError(Exception):
    """Base of every error that a user sees as one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class BadInputError(EdgewrightError):
    """Input that cannot be used; the message states what must hold, what was found and what to do."""

    exit_code = 2


class ModelError(BadInputError):
    """A file that is not a model, or a model that cannot be expressed."""


class SamplesError(BadInputError):
    """Samples whose names, shapes, dtypes or values do not fit the model."""


class ProfileError(BadInputError):
    """A hardware profile with an unknown field or an impossible value."""


class PackageError(BadInputError):
    """A package whose bytes differ from what its index states."""


class SignatureError(PackageError):
    """A package or envelope without a valid signature of a trusted key."""


class UntrustedKeyError(SignatureError):
    """A signature by keys of which none is trusted."""


class MessageError(BadInputError):
    """Bytes that do not decode to the expected message."""


class NotFoundError(BadInputError):
    """An unknown name or number."""


class ConflictError(BadInputError):
    """A thing that exists already, or whose state does not allow the step."""


class DeniedError(BadInputError):
    """A credential that is missing, wrong, used up or expired."""


class NotWritableError(EdgewrightError):
    """A path without write permission, or with a file in the way. The content to be written may be right."""

    exit_code = 2


class OperationError(EdgewrightError):
    """A failure of the work although the input was right."""


class InferenceError(OperationError):
    """A run of a loaded graph that failed inside the runtime; the values of the input may be the cause."""

    def __init__(self, graph: object, reason: str, *, rejects_input: bool = False) -> None:
        super().__init__(f"{graph} failed to run: {reason}")
        self.reason = reason
        """The runtime's own text, without the path of the graph."""
        self.rejects_input = rejects_input
        """True if the runtime classifies the failure as an invalid input."""


class ParityError(OperationError):
    """A converted or quantized model that differs from its source by more than the tolerance."""


class StorageFullError(OperationError):
    """No room left on a disk; no partial file is left there."""


class UnreachableError(EdgewrightError):
    """No answer from an address."""

    exit_code = 3


def one_line(error: BaseException) -> str:
    """Return the text of an error on one line, cut after `LONGEST_LINE` characters; its class name if it has no text."""
    return _cut(" ".join(str(error).split()) or type(error).__name__)


def cause_of(error: BaseException) -> str:
    """Return the cause of a framework's error on one line: without the layer's configuration and arguments around it."""
    inner = _WRAPPER.split(_COLOURS.sub("", str(error)))[-1]
    return _cut(" ".join(inner.partition("Arguments received by")[0].split()) or type(error).__name__)


def first_line(error: BaseException) -> str:
    """Return the first non-blank line of an error, cut after `LONGEST_LINE` characters; its class name if it has no text."""
    lines = (line.strip() for line in str(error).splitlines())
    return _cut(next((line for line in lines if line), type(error).__name__))


def last_line(output: str) -> str:
    """Return the last non-blank line of a program's output in full; "no message" if all are blank."""
    lines = (line.strip() for line in reversed(output.splitlines()))
    return next((line for line in lines if line), "no message")


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"
