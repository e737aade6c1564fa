"""A hub that is killed without warning: nothing that it acknowledged is lost, and its clients come back without help."""

from __future__ import annotations

import base64
from pathlib import Path

from tests.support.running_hub import finish, running_hub

BACK_S = 5.0
SLOW_MACHINE = 6  # a loaded machine is this much slower than an idle one


def test_clients_return_and_nothing_acknowledged_is_lost_when_the_hub_is_killed(tmp_path: Path, clients_python: Path) -> None:
    with running_hub(tmp_path) as hub:
        service = hub.client()
        service.call("PUT", "/devices/quiet", {})
        service.call("PATCH", "/twins/quiet", {"properties": {"desired": {"interval_s": 5}}})
        message = {"iothub-to": "/devices/quiet/messages/devicebound"}
        service.call("POST", "/messages/devicebound", b"kept", headers=message)
        clients = hub.calls(clients_python, "survivors")
        assert clients.stdout is not None
        assert clients.stdout.readline() == "sending\n"

        hub.kill()
        hub.start()
        result = finish(clients, "restarted\n")["survivors"]

        service = hub.client()
        stored = [base64.b64decode(each["body"]).decode() for each in all_events(service)]
        acknowledged = {text for each in result["acknowledged"].values() for text in each}
        assert acknowledged - set(stored) == set()
        assert result["back_s"] <= BACK_S * SLOW_MACHINE
        assert result["message"] == ["after the restart", {}]  # its subscription was stored with the session
        assert service.call("GET", "/devices/quiet")["cloudToDeviceMessageCount"] == 1
        assert service.call("GET", "/twins/quiet")["properties"]["desired"]["interval_s"] == 5


def all_events(service: object) -> list[dict[str, str]]:
    """Return all stored telemetry."""
    events: list[dict[str, str]] = []
    after = 0
    while True:
        answer = service.call("GET", "/messages/events", query={"after": after})  # type: ignore[attr-defined]
        if not answer["events"]:
            return events
        events += answer["events"]
        after = answer["after"]
