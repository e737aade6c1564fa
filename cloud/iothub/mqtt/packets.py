"""The packets of MQTT 3.1.1 that an IoT Hub exchanges with its clients, and their bytes.

Source: OASIS standard "MQTT Version 3.1.1" (2014-10-29), sections 2 and 3. `Decoder` reads packets of clients and refuses what
the standard or the limits forbid; the functions `encode_*` write packets of a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_PACKET_BYTES = (256 << 10) + (64 << 10)
"""A message of 256 KiB, the maximum of an IoT Hub, with a topic of 64 KiB."""

PING_RESPONSE = b"\xd0\x00"
_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 4, 8, 10, 12, 14
_LENGTH_BYTES = 4
_FLAGS = {_CONNECT: 0, _PUBACK: 0, _SUBSCRIBE: 2, _UNSUBSCRIBE: 2, _PINGREQ: 0, _DISCONNECT: 0}


class PacketError(Exception):
    """Bytes that are not a packet of a client, or a packet over the limits; the connection must be closed."""


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT. `level` is 4 in MQTT 3.1.1."""

    level: int
    client_id: str
    username: str | None
    password: str | None = field(repr=False)
    keep_alive_s: int
    clean_session: bool


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH; `packet_id` is 0 at QoS 0."""

    topic: str
    payload: bytes = field(repr=False)
    qos: int
    packet_id: int
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """PUBACK."""

    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE: filters with their requested QoS."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """PINGREQ."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """DISCONNECT."""


Packet = Connect | Publish | Acknowledge | Subscribe | Unsubscribe | Ping | Disconnect


class Decoder:
    """Splits a stream of bytes into packets."""

    def __init__(self, max_packet_bytes: int = MAX_PACKET_BYTES) -> None:
        self._buffer = bytearray()
        self._max_packet_bytes = max_packet_bytes

    def feed(self, received: bytes) -> Iterator[Packet]:
        """Yield the packets that `received` completes.

        Raises:
            PacketError: the bytes are not a packet of a client, or it is too long. Nothing after it can be decoded.
        """
        buffer = self._buffer
        buffer += received
        start = 0
        try:
            while (header := _header(buffer, start)) is not None:
                body, length = header
                if length > self._max_packet_bytes:
                    raise PacketError(f"a packet must have at most {self._max_packet_bytes} bytes, not {length}")
                if len(buffer) < body + length:
                    break
                packet = _decode(buffer[start], bytes(buffer[body : body + length]))
                start = body + length
                yield packet
        finally:
            del buffer[:start]


def encode_connack(return_code: int, *, session_present: bool = False) -> bytes:
    """Return CONNACK; 0 accepts, 1 refuses the protocol level, 5 the credential."""
    return bytes((0x20, 2, session_present and return_code == 0, return_code))


def encode_publish(topic: str, payload: bytes, *, packet_id: int, is_duplicate: bool = False) -> bytes:
    """Return PUBLISH at QoS 1, or at QoS 0 with the packet id 0."""
    qos = 1 if packet_id else 0
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + (packet_id.to_bytes(2, "big") if qos else b"")
    return bytes((0x30 | is_duplicate << 3 | qos << 1,)) + _length(len(body) + len(payload)) + body + payload


def encode_puback(packet_id: int) -> bytes:
    """Return PUBACK."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def encode_suback(packet_id: int, return_codes: bytes) -> bytes:
    """Return SUBACK: the granted QoS of each filter, or 0x80 for a refused one."""
    return b"\x90" + _length(2 + len(return_codes)) + packet_id.to_bytes(2, "big") + return_codes


def encode_unsuback(packet_id: int) -> bytes:
    """Return UNSUBACK."""
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def _header(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Return the position and the length of a packet's body, or None if the header is not complete."""
    length = 0
    for index in range(_LENGTH_BYTES):
        position = start + 1 + index
        if position >= len(buffer):
            return None
        length |= (buffer[position] & 0x7F) << (7 * index)
        if not buffer[position] & 0x80:
            return position + 1, length
    raise PacketError("a packet's length must have at most four bytes")


def _length(length: int) -> bytes:
    out = bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


class _Reader:
    """The fields of a packet's body in order."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.position = 0

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def packet_id(self) -> int:
        number = self.number()
        if number == 0:
            raise PacketError("a packet id must not be 0")
        return number

    def binary(self) -> bytes:
        return self._take(self.number())

    def text(self) -> str:
        try:
            text = self.binary().decode("utf-8")
        except UnicodeDecodeError as error:
            raise PacketError("a text must be UTF-8") from error
        if "\0" in text:
            raise PacketError("a text must not contain the character U+0000")
        return text

    def rest(self) -> bytes:
        return self._take(len(self._body) - self.position)

    def is_at_end(self) -> bool:
        return self.position == len(self._body)

    def _take(self, count: int) -> bytes:
        taken = self._body[self.position : self.position + count]
        if len(taken) != count:
            raise PacketError("a packet ends before its last field")
        self.position += count
        return taken


def _decode(first: int, body: bytes) -> Packet:
    kind, flags = first >> 4, first & 0x0F
    reader = _Reader(body)
    if kind == _PUBLISH:
        return _publish(flags, reader)
    if kind not in _FLAGS or _FLAGS[kind] != flags:
        raise PacketError(f"a client does not send packets of type {kind} with the flags {flags}")
    packet = _without_flags(kind, reader)
    if not reader.is_at_end():
        raise PacketError(f"a packet of type {kind} has bytes after its last field")
    return packet


def _without_flags(kind: int, reader: _Reader) -> Packet:
    if kind == _PUBACK:
        return Acknowledge(reader.packet_id())
    if kind == _CONNECT:
        return _connect(reader)
    if kind == _SUBSCRIBE:
        return _subscribe(reader)
    if kind == _UNSUBSCRIBE:
        packet_id, names = reader.packet_id(), [reader.text()]
        while not reader.is_at_end():
            names.append(reader.text())
        return Unsubscribe(packet_id, tuple(names))
    return Ping() if kind == _PINGREQ else Disconnect()


def _publish(flags: int, reader: _Reader) -> Publish:
    qos = flags >> 1 & 3
    if qos > 1:
        raise PacketError(f"QoS must be 0 or 1, not {qos}")
    topic = reader.text()
    packet_id = reader.packet_id() if qos else 0
    return Publish(topic, reader.rest(), qos, packet_id, bool(flags & 1))


def _subscribe(reader: _Reader) -> Subscribe:
    packet_id, filters = reader.packet_id(), [(reader.text(), reader.byte())]
    while not reader.is_at_end():
        filters.append((reader.text(), reader.byte()))
    if any(qos > 2 for _, qos in filters):
        raise PacketError("a requested QoS must be 0, 1 or 2")
    return Subscribe(packet_id, tuple(filters))


def _connect(reader: _Reader) -> Connect:
    protocol, level, flags, keep_alive_s = reader.text(), reader.byte(), reader.byte(), reader.number()
    if protocol not in ("MQTT", "MQIsdp") or flags & 1:
        raise PacketError("CONNECT must name the protocol MQTT and have no reserved flags")
    client_id = reader.text()
    if flags & 0x04:  # the will: an IoT Hub does not publish it to other clients, so that it has no effect
        reader.text()
        reader.binary()
    username = reader.text() if flags & 0x80 else None
    password = reader.text() if flags & 0x40 else None
    return Connect(level, client_id, username, password, keep_alive_s, bool(flags & 0x02))
