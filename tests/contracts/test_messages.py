from __future__ import annotations

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.contracts import wire
from edgewright.contracts.connection import enrolment, topics
from edgewright.contracts.connection.enrolment import EnrolmentToken
from edgewright.contracts.messages import (
    DeploymentState,
    DesiredState,
    Measurement,
    ReportedState,
    RunningVariant,
    TelemetryBatch,
)
from edgewright.contracts.oci import Descriptor
from edgewright.errors import DeniedError, MessageError

names = st.text("abc0-", min_size=1, max_size=20).map(lambda text: "x" + text.replace("-", "-x"))
texts = st.text(max_size=40)
digests = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:".__add__)
instants = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
counts = st.integers(1, 2**40)
seconds = st.floats(0.001, 1e9)

descriptors = st.builds(
    Descriptor, mediaType=texts, digest=digests, size=counts, artifactType=st.none() | texts, platform=st.none()
)
desired = st.builds(
    DesiredState,
    device=names,
    desired_number=counts,
    model=names,
    version=counts,
    index=descriptors,
    allow_downgrade=st.booleans(),
    trial_s=seconds,
    device_timeout_s=seconds,
)
running = st.builds(
    RunningVariant,
    model=names,
    version=counts,
    index_digest=digests,
    variant=names,
    backend=texts,
    precision=texts,
)
reported = st.builds(
    ReportedState,
    device=names,
    desired_number=counts,
    state=st.none() | st.sampled_from(DeploymentState),
    reason=texts,
    since=instants,
    attempt=counts,
    next_retry_at=st.none() | instants,
    running=st.none() | running,
    choice=st.lists(texts, max_size=3).map(tuple),
    bytes_pulled=counts,
)
measurements = st.builds(
    Measurement,
    sequence=counts,
    at=instants,
    name=texts,
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=texts,
    labels=st.dictionaries(texts, texts, max_size=2),
)
batches = st.builds(TelemetryBatch, device=names, queue_id=texts, measurements=st.lists(measurements, max_size=3).map(tuple))


@given(st.one_of(desired, reported, batches))
def test_law_decoding_inverts_encoding(message: DesiredState | ReportedState | TelemetryBatch) -> None:
    assert wire.decode(wire.encode(message), type(message), what="message") == message


@given(reported)
def test_the_same_message_always_has_the_same_bytes(message: ReportedState) -> None:
    again = wire.decode(wire.encode(message), ReportedState, what="message")
    assert wire.encode(again) == wire.encode(message)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"{", "the report cannot be read: Input data was truncated", id="truncated"),
        pytest.param(b"{}", "the report cannot be read: Object missing required field `device`", id="field missing"),
        pytest.param(
            b'{"device":"a","desired_number":"1"}',
            "the report cannot be read: Expected `int`, got `str` - at `$.desired_number`",
            id="wrong type",
        ),
        pytest.param(b"\xff", "the report cannot be read: JSON is malformed: invalid character (byte 0)", id="no text"),
    ],
)
def test_an_invalid_message_is_an_error_with_the_path_of_the_field(raw: bytes, message: str) -> None:
    with pytest.raises(MessageError) as raised:
        wire.decode(raw, ReportedState, what="the report")
    assert str(raised.value) == message


def test_fields_from_a_newer_sender_are_ignored() -> None:
    raw = b'{"queue_id":"q","device":"a","measurements":[],"compression":"new"}'
    assert wire.decode(raw, TelemetryBatch, what="batch") == TelemetryBatch(device="a", queue_id="q", measurements=())


@pytest.mark.parametrize("version", [0, -1])
def test_a_desired_number_is_never_below_1(version: int) -> None:
    index = Descriptor(mediaType="x", digest="sha256:" + "0" * 64, size=1)
    with pytest.raises(MessageError, match="versions must be whole numbers from 1"):
        DesiredState(device="a", desired_number=version, model="m", version=1, index=index)


@given(names, st.text(string.ascii_lowercase + "/-", min_size=1))
def test_law_parsing_a_topic_inverts_formatting(device: str, suffix: str) -> None:
    assert topics.parse_topic(topics.topic(device, suffix)) == topics.DeviceTopic("default", device, suffix)


@pytest.mark.parametrize("text", ["", "a/b/c/d/e", "edgewright/v1/default", "edgewright/v2/default/a/u/reported"])
def test_a_foreign_topic_is_rejected(text: str) -> None:
    with pytest.raises(MessageError, match=r"^a topic must be edgewright/v1/tenant/device/…, not '"):
        topics.parse_topic(text)


@given(st.builds(EnrolmentToken, url=texts, ca_sha256=texts, secret=texts))
def test_an_enrolment_token_may_be_pasted_with_spaces(token: EnrolmentToken) -> None:
    assert enrolment.parse_token(f"  {enrolment.format_token(token)}\n") == token


@pytest.mark.parametrize("text", ["", "hello", "ew1.", "ew1.!!!", "ew1.e30"])
def test_an_invalid_enrolment_token_is_rejected(text: str) -> None:
    with pytest.raises(DeniedError, match="enrolment token"):
        enrolment.parse_token(text)
