"""Messages in the twin of a device, under the property `edgewright`: the signed desired state, and the report of the device.

    desired.edgewright.envelope     {"00": "…", "01": "…", …}    the bytes of the DSSE envelope
    reported.edgewright.report      {"00": "…", "01": "…", …}    the bytes of the report
    reported.edgewright.state …     the same as plain properties, for queries

The bytes are split, because a value of a twin has at most 4 KiB. They are kept as they are, because a signature is over bytes,
and because a twin drops properties that are null. A patch sets unused pieces to null, so that none of a longer message stays.
Source: "Understand and use device twins in IoT Hub" (learn.microsoft.com): 4 KiB per text, 32 KiB per section.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewright.errors import BadInputError, MessageError

PROPERTY = "edgewright"
ENVELOPE = "envelope"
REPORT = "report"
PIECE_CHARACTERS = 3600
"""Characters of one piece; less than 4 KiB even if JSON escapes some of them."""
MAX_PIECES = 8
MAX_BYTES = PIECE_CHARACTERS * MAX_PIECES
MAX_TELEMETRY_BYTES = 256 << 10
"""Longest message from a device to a hub, with its properties."""


def split(message: bytes) -> dict[str, str | None]:
    """Return the pieces of a message of JSON, with null for those that it does not need.

    Raises:
        BadInputError: the message is longer than `MAX_BYTES`.
    """
    text = message.decode("utf-8")
    if len(message) > MAX_BYTES:
        raise BadInputError(
            f"a message in a twin must have at most {MAX_BYTES} bytes, not {len(message)}: give the device fewer workloads"
        )
    pieces = [text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)]
    return {f"{number:02}": pieces[number] if number < len(pieces) else None for number in range(MAX_PIECES)}


def join(section: Mapping[str, object], name: str) -> bytes | None:
    """Return the message `name` in desired or reported properties; None if the property is missing.

    Raises:
        MessageError: the property is not made of pieces.
    """
    messages = section.get(PROPERTY)
    pieces = messages.get(name) if isinstance(messages, Mapping) else None
    if pieces is None:
        return None
    if not isinstance(pieces, Mapping):
        raise MessageError(f"{PROPERTY}.{name} in a twin must be an object of pieces, not {type(pieces).__name__}")
    numbers = sorted(number for number, text in pieces.items() if text is not None and not number.startswith("$"))
    texts = [pieces[number] for number in numbers]
    if numbers != [f"{number:02}" for number in range(len(numbers))] or not all(isinstance(text, str) for text in texts):
        raise MessageError(f"{PROPERTY}.{name} in a twin must have the texts 00, 01 and so on, but it has {', '.join(numbers)}")
    return "".join(texts).encode("utf-8")
