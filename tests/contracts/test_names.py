from __future__ import annotations

import pytest

from edgewright.contracts.names import PackageReference, check_name, nearest, parse_reference
from edgewright.errors import BadInputError


@pytest.mark.parametrize("name", ["digits", "a", "resnet-50", "a__b", "v1.2_x", "x" * 64])
def test_names_that_are_valid_in_an_oci_repository_are_accepted(name: str) -> None:
    assert check_name(name, "model") == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("Digits", id="upper case"),
        pytest.param("-a", id="leading dash"),
        pytest.param("a..b", id="two dots"),
        pytest.param("a/b", id="slash"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="newline"),
        pytest.param("+", id="MQTT wildcard"),
        pytest.param("x" * 65, id="too long"),
    ],
)
def test_other_names_are_rejected_with_the_rule_and_the_name(name: str) -> None:
    with pytest.raises(BadInputError) as raised:
        check_name(name, "device")
    assert str(raised.value) == (
        f"a device's name must be lower-case letters and digits, joined by '.', '_' or '-', at most 64 characters, not {name!r}"
    )


def test_a_reference_is_a_name_with_or_without_a_version() -> None:
    assert parse_reference("digits") == PackageReference("digits", None)
    assert parse_reference("digits:12") == PackageReference("digits", 12)
    assert str(parse_reference("digits:12")) == "digits:12"


@pytest.mark.parametrize("version", ["0", "-1", "latest", "01", "", "1.0", "9999999999"])
def test_a_version_is_a_whole_number_from_1(version: str) -> None:
    with pytest.raises(BadInputError) as raised:
        parse_reference(f"digits:{version}")
    assert str(raised.value) == f"a version must be a whole number from 1, as in digits:3, not {version!r}"


def test_the_hint_for_an_unknown_name_offers_the_closest() -> None:
    assert nearest("digts", ["faces", "digits"]) == "; known: digits"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("zzz", "abcdefghijk") == "; known: a, b, c, d, e, f, g, h and 3 more"
    assert nearest("pi", ["aaaa", "raspberry-pi-4"]) == "; known: raspberry-pi-4"
    assert nearest("zzz", []) == ""
