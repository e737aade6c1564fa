"""Keys of a scoring service: every route but the probes needs one, and a rotation loses no client."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import BadInputError
from edgewright.serving.http.keys import KeyFile, write_new_keys
from edgewright.serving.http.messages import HttpError
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, serving

PRIMARY, SECONDARY, OTHER = "primary-key-0123456789", "secondary-key-0123456", "another-key-0123456789"
PROBES = {"/", "/docs", "/health/live", "/health/ready", "/healthz", "/v2/health/live", "/v2/health/ready"}


def write(path: Path, primary: str = PRIMARY, secondary: str = SECONDARY) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"primary": primary, "secondary": secondary}))
    temporary.rename(path)
    return path


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def app(variant: VariantDirectory, key_file: Path) -> ScoringApp:
    session = OnnxRuntime().load(variant, threads=1)
    return ScoringApp(session, variant.config, model="pets", version=3, keys=KeyFile(key_file))


@pytest.fixture(scope="module")
def locked(app: ScoringApp) -> Iterator[Client]:
    with serving(app) as client:
        yield client


def test_every_route_but_the_probes_is_denied_without_a_key(app: ScoringApp, locked: Client) -> None:
    for path, route in app._routes.items():
        reply = locked.send(route.methods[0], path, body=b"{}" if route.is_scoring else None)
        assert (path, reply.status) == (path, 200 if path in PROBES else 401)
        assert reply.status == 200 or reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [PRIMARY, SECONDARY])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_either_key_is_accepted(locked: Client, key: str, scheme: str) -> None:
    assert locked.send("GET", "/stats", headers={"authorization": f"{scheme} {key}"}).status == 200


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {PRIMARY}", f"Bearer {PRIMARY}x", PRIMARY, f"Bearer {OTHER}", "Bearer \xff\xfe"]
)
def test_another_header_is_denied(locked: Client, header: str) -> None:
    reply = locked.send("GET", "/stats", headers={"authorization": header})
    assert reply.status == 401
    assert PRIMARY not in reply.body.decode()


def test_a_rotation_needs_no_restart_and_a_half_written_file_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "keys.json")
    keys = KeyFile(path)
    keys.check(f"Bearer {PRIMARY}")
    write(path, primary=OTHER)
    wait_until_accepted(keys, OTHER)
    keys.check(f"Bearer {SECONDARY}")
    with pytest.raises(HttpError):
        keys.check(f"Bearer {PRIMARY}")
    path.write_text('{"primary": ')
    time.sleep(1.1)  # longer than the pause between two looks at the file
    keys.check(f"Bearer {OTHER}")


def wait_until_accepted(keys: KeyFile, key: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            keys.check(f"Bearer {key}")
        except HttpError:
            assert time.monotonic() < deadline, "the new key was never accepted"
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"primary": "0123456789abcdef"}',
        '{"primary": "", "secondary": ""}',
        '{"primary": 1, "secondary": 2}',
        "\xff",
    ],
)
def test_a_file_without_two_keys_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInputError, match="keys.json must"):
        KeyFile(path)


def test_new_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_new_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = json.loads(path.read_text()).values()
    KeyFile(path).check(f"Bearer {second}")
    assert first != second
