"""Protobuf's wire format, written and read by hand (https://protobuf.dev/programming-guides/encoding), for checks of messages."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5


def varint(number: int) -> bytes:
    """Return an integer, seven bits per byte, the lowest first; negative ones as 64 bits."""
    number &= (1 << 64) - 1
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, content: bytes | str | int) -> bytes:
    """Return one field: an integer as a varint, anything else with its length."""
    if isinstance(content, int):
        return varint(number << 3 | VARINT) + varint(content)
    raw = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | BYTES) + varint(len(raw)) + raw


def fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and content of each field."""
    place = 0
    while place < len(message):
        tag, place = _read_varint(message, place)
        kind = tag & 7
        if kind == VARINT:
            number, place = _read_varint(message, place)
            yield tag >> 3, number
            continue
        if kind == BYTES:
            size, place = _read_varint(message, place)
        else:
            size = {FIXED_32: 4, FIXED_64: 8}[kind]
        yield tag >> 3, message[place : place + size]
        place += size


def only(message: bytes, number: int) -> bytes:
    """Return the content of the only field of this number."""
    (content,) = [content for found, content in fields(message) if found == number]
    assert isinstance(content, bytes)
    return content


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return number, place
