"""Pure rules: twins, identities, shared access signatures, topics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.iothub.devices import identities, registry, twins
from cloud.iothub.devices.twins import Twin
from cloud.iothub.refusal import RefusalError
from edgewright.contracts.iothub import sas, topics
from edgewright.errors import DeniedError

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
NAMES = st.text("abc", min_size=1, max_size=2)
LEAVES = st.integers() | st.booleans() | st.text(max_size=3)
VALUES = st.recursive(LEAVES, lambda below: st.dictionaries(NAMES, below, max_size=3), max_leaves=6)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)


@given(before=OBJECTS, after=OBJECTS)
def test_the_patch_that_a_device_gets_makes_the_new_properties_from_the_old(before: Any, after: Any) -> None:
    assert twins.merge(before, registry._difference(before, after)) == after


def test_a_patch_merges_deletes_and_raises_the_version() -> None:
    twin = twins.desire(Twin(), {"a": {"x": 1, "y": 2}, "b": 1}, NOW)
    changed = twins.desire(twin, {"a": {"x": None, "z": [1]}, "b": None, "$version": 99}, NOW)
    assert changed.desired.properties == {"a": {"y": 2, "z": [1]}}
    assert changed.desired.version == 3
    assert set(changed.desired.times) == {"a"}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        pytest.param([1], "desired must be a JSON object, not list", id="list"),
        pytest.param(
            {"a.b": 1},
            "a name in desired must not be empty or contain '$', '.', spaces or control characters: 'a.b'",
            id="dot in a name",
        ),
        pytest.param({"a": "x" * 33000}, "properties must have at most 32768 bytes as JSON, not 33008", id="too large"),
    ],
)
def test_a_patch_over_the_limits_is_refused(patch: object, message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        twins.desire(Twin(), patch, NOW)
    assert (caught.value.status, str(caught.value)) == (400, message)


def test_a_patch_that_is_too_deep_is_refused() -> None:
    patch: dict[str, Any] = {}
    for _ in range(11):
        patch = {"a": patch}
    with pytest.raises(RefusalError, match="at most 10 objects deep"):
        twins.report(Twin(), patch, NOW)


def test_a_token_allows_what_is_below_its_resource_until_it_expires() -> None:
    token = sas.parse(sas.create("hub/devices/d", KEY, 1000))
    sas.check(token, resource="hub/devices/d/modules/m", keys=("", KEY), now=1000)
    with pytest.raises(DeniedError, match="must be for hub/devices/d2, not for hub/devices/d"):
        sas.check(token, resource="hub/devices/d2", keys=(KEY,), now=0)
    with pytest.raises(DeniedError, match="the token expired 1 s ago"):
        sas.check(token, resource="hub/devices/d", keys=(KEY,), now=1001)
    with pytest.raises(DeniedError, match="the signature does not match any key"):
        sas.check(token, resource="hub/devices/d", keys=(sas.new_key(),), now=0)


@pytest.mark.parametrize("text", ["", "Bearer x", "SharedAccessSignature sr=a&sig=%%&se=1", "SharedAccessSignature sr=a&se=1"])
def test_text_that_is_not_a_token_is_refused(text: str) -> None:
    with pytest.raises(DeniedError, match="shared access signature"):
        sas.parse(text)


def test_the_representation_of_an_identity_has_no_key() -> None:
    identity = identities.create("d", {}, NOW)
    assert not [key for key in identity.keys if key in repr(identity)]
    assert identities.from_document(identities.to_document(identity)) == identity


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        pytest.param({"status": "off"}, "status must be enabled or disabled, not 'off'", id="status"),
        pytest.param(
            {"authentication": {"symmetricKey": {"primaryKey": "c2hvcnQ="}}},
            "a key must be base64 of 16 to 64 bytes, but it is not: omit it to get a new one",
            id="short key",
        ),
        pytest.param(
            {"authentication": {"type": "selfSigned"}},
            "an identity of the type selfSigned must have a thumbprint, but it has none: send x509Thumbprint",
            id="no thumbprint",
        ),
    ],
)
def test_an_invalid_identity_is_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusalError) as caught:
        identities.create("d", request_, NOW)
    assert str(caught.value) == message


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=5)))
def test_properties_survive_a_topic(properties: dict[str, str]) -> None:
    assert topics.parse_properties(topics.format_properties(properties)) == properties
