"""The errors that a caller or an operator can act on, and the exit code that each one ends a command with.

    EdgewrightError                    1
    ├── BadInputError                  2   the user can correct it
    │   ├── ModelError                     no model, truncated, an operator or layer that nothing here can express
    │   ├── SamplesError                   samples that do not fit the model
    │   ├── ProfileError                   a hardware profile that cannot be true
    │   ├── PackageError                   a package whose bytes are not what they should be
    │   │   └── SignatureError             unsigned, wrongly signed, signed by a stranger, or expired
    │   ├── MessageError                   a message that does not follow the contract
    │   ├── NotFoundError                  a model, version, variant or device that nobody knows
    │   ├── ConflictError                  it exists already, or the state does not allow it
    │   └── DeniedError                    a token or certificate that does not open this door
    ├── OperationError                 1   the input was right, the work failed
    │   ├── ParityError                    the result differs from the source by more than the tolerance
    │   └── StorageFullError               no room left on a disk
    └── UnreachableError               3   nobody answered

The text of an error is one line: what must hold, what was found, what to do. Anything that is not an `EdgewrightError`
is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class EdgewrightError(Exception):
    """Base of every error that reaches a user as one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class BadInputError(EdgewrightError):
    """The input cannot be used; the message says what must hold, what was found and what to do."""

    exit_code = 2


class ModelError(BadInputError):
    """A file that is no model, or a model that cannot be expressed."""


class SamplesError(BadInputError):
    """Samples whose names, shapes, dtypes or values do not fit the model."""


class ProfileError(BadInputError):
    """A hardware profile with an unknown field or an impossible value."""


class PackageError(BadInputError):
    """A package whose bytes are not what its index says."""


class SignatureError(PackageError):
    """A package or envelope that no trusted key vouches for, now."""


class MessageError(BadInputError):
    """Bytes that do not decode to the message that was expected."""


class NotFoundError(BadInputError):
    """A name or number that nobody knows."""


class ConflictError(BadInputError):
    """The thing exists already, or its state does not allow the step."""


class DeniedError(BadInputError):
    """A credential that is missing, wrong, used up or expired."""


class OperationError(EdgewrightError):
    """The input was right and the work failed."""


class ParityError(OperationError):
    """A converted or quantized model that differs from its source by more than the tolerance."""


class StorageFullError(OperationError):
    """No room left on a disk; nothing half-written stays behind."""


class NotWritableError(EdgewrightError):
    """A place that cannot be written: no permission, or something in the way. What was to be written may be right."""

    exit_code = 2


class UnreachableError(EdgewrightError):
    """Nobody answered at an address."""

    exit_code = 3
