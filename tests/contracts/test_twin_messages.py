"""Messages in twins: what a merge patch of pieces leaves is the last message, whatever was there before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.iothub.devices.twins import merge
from edgewright.contracts.iothub import twin_messages
from edgewright.contracts.iothub.twin_messages import ENVELOPE, MAX_BYTES, PROPERTY, join, split
from edgewright.errors import BadInputError, MessageError

MESSAGES = st.text(max_size=300).map(lambda text: (text * 20).encode()[:MAX_BYTES].decode("utf-8", "ignore").encode())


@given(before=MESSAGES, after=MESSAGES)
def test_a_patch_replaces_the_message_before_it_and_the_result_is_read_unchanged(before: bytes, after: bytes) -> None:
    section = merge({}, {PROPERTY: {ENVELOPE: split(before)}})
    section = merge(section, {PROPERTY: {ENVELOPE: split(after)}})
    assert join(section, ENVELOPE) == after
    assert join({PROPERTY: {ENVELOPE: split(after)}}, ENVELOPE) == after


def test_each_piece_and_the_longest_message_fit_into_a_twin() -> None:
    pieces = split(b'"' * MAX_BYTES)
    assert len(pieces) == twin_messages.MAX_PIECES
    assert all(len(piece or "") < 4 << 10 for piece in pieces.values())
    with pytest.raises(BadInputError, match="a message in a twin must have at most 28800 bytes, not 28801"):
        split(b"x" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "section",
    [
        pytest.param({PROPERTY: {ENVELOPE: "text"}}, id="text"),
        pytest.param({PROPERTY: {ENVELOPE: {"01": "second"}}}, id="gap"),
        pytest.param({PROPERTY: {ENVELOPE: {"00": 7}}}, id="number"),
    ],
)
def test_other_values_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(MessageError, match=r"edgewright\.envelope in a twin must"):
        join(section, ENVELOPE)


@pytest.mark.parametrize("section", [{}, {PROPERTY: None}, {PROPERTY: {}}, {"other": {}}])
def test_a_section_without_a_message_returns_none(section: dict[str, object]) -> None:
    assert join(section, ENVELOPE) is None
