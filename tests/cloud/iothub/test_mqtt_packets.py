"""The codec against paho: bytes of a real client are decoded, and a real client decodes ours."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.iothub.mqtt import packets
from cloud.iothub.mqtt.packets import Acknowledge, Connect, Decoder, PacketError, Ping, Publish, Subscribe, Unsubscribe

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0#+"), min_size=1, max_size=60)
BODIES = st.binary(max_size=300)


def client() -> tuple[Any, socket.socket]:
    """Return a paho client, and the server's end of its connection."""
    made: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="a/b", clean_session=False, protocol=paho.MQTTv311)
    made._sock, server = socket.socketpair()
    return made, server


def sent_by(made: Any, server: socket.socket) -> bytes:
    """Return the bytes that a client has sent, and close the connection."""
    made._sock.close()
    made._sock = None
    with server:
        return server.makefile("rb").read()


def decoded(raw: bytes, *, cut: int = 0) -> list[packets.Packet]:
    decoder = Decoder()
    return [*decoder.feed(raw[:cut]), *decoder.feed(raw[cut:])]


@given(topic=TEXTS, body=BODIES, cut=st.integers(0, 200), qos=st.sampled_from((0, 1)))
def test_a_message_of_a_client_is_decoded_as_it_was_sent(topic: str, body: bytes, cut: int, qos: int) -> None:
    made, server = client()
    sent = made.publish(topic, body, qos)
    made._send_pingreq()

    assert decoded(sent_by(made, server), cut=cut) == [Publish(topic, body, qos, sent.mid if qos else 0), Ping()]


@given(filters=st.lists(TEXTS, min_size=1, max_size=4), keep_alive_s=st.integers(0, 0xFFFF), user=TEXTS, password=TEXTS)
def test_a_connection_and_its_subscriptions_are_decoded(filters: list[str], keep_alive_s: int, user: str, password: str) -> None:
    made, server = client()
    made.username_pw_set(user, password)
    made._send_connect(keep_alive_s)
    made._send_subscribe(False, [(each.encode(), 1) for each in filters])
    made._send_unsubscribe(False, [each.encode() for each in filters])
    made._send_puback(7)

    assert decoded(sent_by(made, server)) == [
        Connect(4, "a/b", user, password, keep_alive_s, clean_session=False),
        Subscribe(1, tuple((each, 1) for each in filters)),
        Unsubscribe(2, tuple(filters)),
        Acknowledge(7),
    ]


@given(messages=st.lists(st.tuples(TEXTS, BODIES, st.sampled_from((0, 7))), min_size=1, max_size=4))
def test_a_client_decodes_our_messages_as_they_were_sent(messages: list[tuple[str, bytes, int]]) -> None:
    (made, server), got = client(), []
    made.on_message = lambda _client, _data, message: got.append((message.topic, message.payload, message.qos))
    for topic, body, packet_id in messages:
        server.sendall(packets.encode_publish(topic, body, packet_id=packet_id))
        made.loop_read()
    sent_by(made, server)

    assert got == [(topic, body, 1 if packet_id else 0) for topic, body, packet_id in messages]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"\x34\x05\x00\x01t\x00\x01", "QoS must be 0 or 1, not 2", id="QoS 2"),
        pytest.param(b"\x30\xff\xff\xff\x7f", "a packet must have at most 327680 bytes, not 268435455", id="too long"),
        pytest.param(b"\x30\xff\xff\xff\xff\x01", "a packet's length must have at most four bytes", id="endless length"),
        pytest.param(b"\x30\x01\x00", "a packet ends before its last field", id="cut"),
        pytest.param(b"\x30\x04\x00\x02\xff\xff", "a text must be UTF-8", id="not UTF-8"),
        pytest.param(b"\x32\x05\x00\x01t\x00\x00", "a packet id must not be 0", id="packet id 0"),
        pytest.param(b"\xc0\x01x", "a packet of type 12 has bytes after its last field", id="trailing bytes"),
        pytest.param(b"\x20\x02\x00\x00", "a client does not send packets of type 2 with the flags 0", id="of a server"),
    ],
)
def test_what_is_not_a_packet_of_a_client_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(PacketError) as caught:
        decoded(raw)
    assert str(caught.value) == message


@given(st.binary(max_size=200))
def test_no_bytes_raise_another_error(raw: bytes) -> None:
    with contextlib.suppress(PacketError):
        decoded(raw)
