"""The frames of the serial link: COBS, CRC32, and the layout of requests and responses (docs/spec/npu.md, N100-N103).

request   sequence | command | region | words | address (4) | words … | crc32 (4)      COBS, then 0x00
answer    sequence | command + 0x80 | region | words | words … | crc32 (4)
"""

from __future__ import annotations

import enum
import struct
import zlib
from dataclasses import dataclass

WORDS_PER_FRAME = 56
SEQUENCE_LIMIT = 255

_HEADER = struct.Struct("<BBBBI")
_ANSWERED = 0x80
_CRC_RESIDUE = 0x2144DF1C
"""CRC32 of any bytes followed by their own CRC32."""


class Command(enum.IntEnum):
    """Commands of a request."""

    WRITE = 2
    READ = 3
    RUN = 4


@dataclass(frozen=True, slots=True)
class Request:
    """Request of one frame; `content` is whole words, little endian."""

    command: Command
    region: int
    address: int
    count: int
    content: bytes = b""

    @property
    def answered_words(self) -> int:
        """Number of words in the response."""
        return self.count if self.command is Command.READ else 1

    def frame(self, sequence: int) -> bytes:
        """Return the encoded bytes of the frame, with the final zero."""
        raw = _HEADER.pack(sequence, self.command, self.region, self.count, self.address) + self.content
        return cobs_encode(raw + struct.pack("<I", zlib.crc32(raw))) + b"\0"

    def answer_in(self, raw: bytes, sequence: int) -> bytes | None:
        """Return the words in a decoded frame if it answers this request, else None."""
        header = bytes([sequence, self.command | _ANSWERED, self.region, self.count])
        matches = len(raw) == 8 + 4 * self.answered_words and raw.startswith(header) and zlib.crc32(raw) == _CRC_RESIDUE
        return raw[4:-4] if matches else None


def cobs_encode(raw: bytes) -> bytes:
    """Return `raw` (under 254 bytes) without zero bytes: each becomes the distance to the next (Cheshire & Baker, 1999)."""
    return b"".join(bytes([len(block) + 1]) + block for block in raw.split(b"\0"))


def cobs_decode(encoded: bytes) -> bytes | None:
    """Return the decoded bytes, or None if the distances are inconsistent."""
    blocks, at = [], 0
    while at < len(encoded):
        end = at + encoded[at]
        if end > len(encoded):
            return None
        blocks.append(encoded[at + 1 : end])
        at = end
    return b"\0".join(blocks)
