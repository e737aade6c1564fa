"""The store of a hub, messages to devices and direct methods, with a connection that the test controls."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cloud.iothub.hub import Hub
from cloud.iothub.methods import Call
from cloud.iothub.queues import MAX_WAITING, Queues
from cloud.iothub.refusal import RefusalError
from cloud.iothub.store import Store
from edgewright.errors import BadInputError, OperationError

DEVICEBOUND = "devices/d/messages/devicebound/#"


@dataclass
class FakeLink:
    """A connection that records what it gets."""

    identity: str = "d"
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    unacknowledged: list[Callable[[], None]] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def send(self, topic: str, payload: bytes, on_acknowledged: Callable[[], None] | None = None) -> None:
        self.sent.append((topic, payload))
        if on_acknowledged is not None:
            self.unacknowledged.append(on_acknowledged)

    def close(self, reason: str) -> None:
        self.closed.append(reason)

    def bodies(self) -> list[bytes]:
        return [body for _, body in self.sent]


def with_hub(path: Path, use: Callable[[Hub], Awaitable[None]], *, max_events: int = 100) -> None:
    """Run a test with a hub over the database at `path`."""

    async def run() -> None:
        store = Store(path, max_events=max_events)
        try:
            hub = Hub(store, ["hub"])
            if hub.registry.find("d") is None:
                hub.registry.create("d", {})
            await use(hub)
        finally:
            store.close()

    asyncio.run(run())


def test_a_message_without_an_acknowledgement_is_sent_again_also_after_a_restart(tmp_path: Path) -> None:
    async def first(hub: Hub) -> None:
        link = FakeLink()
        hub.links.attach(link, clean_session=False)
        hub.links.subscribe("d", DEVICEBOUND)
        for body in (b"1", b"2"):
            hub.queues.add("d", body, {})
        assert link.bodies() == [b"1", b"2"]
        link.unacknowledged[0]()
        await hub.store.committed()

    async def second(hub: Hub) -> None:
        link = FakeLink()
        assert hub.links.attach(link, clean_session=False)
        hub.links.resume("d")
        assert link.bodies() == [b"2"]
        link.unacknowledged[0]()
        assert hub.queues.count("d") == 0

    with_hub(tmp_path / "hub.db", first)
    with_hub(tmp_path / "hub.db", second)


def test_a_message_expires_and_a_full_queue_refuses_one_more(tmp_path: Path) -> None:
    async def use(hub: Hub) -> None:
        now = [1000.0]
        queues = Queues(hub.store, hub.links, lambda: now[0])
        for _ in range(MAX_WAITING):
            queues.add("d", b"x", {}, valid_s=10)
        with pytest.raises(RefusalError, match="d must have at most 50 waiting messages") as caught:
            queues.add("d", b"x", {})
        assert caught.value.code == "DeviceMaximumQueueDepthExceeded"
        now[0] += 10
        assert queues.count("d") == 0

    with_hub(tmp_path / "hub.db", use)


def test_a_message_that_was_sent_ten_times_is_removed(tmp_path: Path) -> None:
    async def use(hub: Hub) -> None:
        hub.links.subscribe("d", DEVICEBOUND)
        hub.queues.add("d", b"poison", {})
        received = 0
        for _ in range(12):
            link = FakeLink()
            hub.links.attach(link, clean_session=False)
            hub.links.resume("d")
            hub.links.detach(link)
            received += len(link.sent)
        assert (received, hub.queues.count("d")) == (10, 0)

    with_hub(tmp_path / "hub.db", use)


def test_a_method_without_an_answer_ends_and_the_answer_of_another_device_has_no_effect(tmp_path: Path) -> None:
    async def use(hub: Hub) -> None:
        link = FakeLink()
        hub.links.attach(link, clean_session=False)
        hub.links.subscribe("d", "$iothub/methods/POST/#")
        with pytest.raises(RefusalError) as caught:
            await hub.methods.invoke("d", Call("blink", None, response_s=0))
        assert (caught.value.status, caught.value.code) == (504, "GatewayTimeout")
        calling = asyncio.create_task(hub.methods.invoke("d", Call("blink", {"n": 1}, response_s=60)))
        await asyncio.sleep(0)
        topic, body = link.sent[-1]
        assert (topic, body) == ("$iothub/methods/POST/blink/?$rid=2", b'{"n": 1}')
        hub.methods.answer("other", "2", 200, b'"forged"')
        hub.methods.answer("d", "2", 201, b'"done"')
        assert await calling == {"status": 201, "payload": "done"}

    with_hub(tmp_path / "hub.db", use)


def test_a_disabled_or_deleted_device_is_disconnected(tmp_path: Path) -> None:
    async def use(hub: Hub) -> None:
        device, module = FakeLink(), FakeLink("d/m")
        hub.registry.create("d/m", {})
        for link in (device, module):
            hub.links.attach(link, clean_session=False)
        hub.registry.update("d", {"status": "disabled"}, "*")
        assert device.closed == module.closed == ["the device was disabled"]
        hub.registry.delete("d", "*")
        assert hub.registry.find("d/m") is None

    with_hub(tmp_path / "hub.db", use)


def test_a_failed_transaction_acknowledges_nothing_and_is_reported(tmp_path: Path) -> None:
    async def run() -> None:
        store = Store(tmp_path / "hub.db", max_events=10)
        acknowledged: list[int] = []
        store._connection.execute("DROP TABLE events")
        store.add_event("d", "now", {}, b"lost")
        store.after_commit(lambda: acknowledged.append(1))
        with pytest.raises(OperationError, match=r"the hub's database cannot be written \(no such table: events\)"):
            await store.committed()
        assert acknowledged == []
        assert store.failure.done()
        store.close()

    asyncio.run(run())


def test_the_last_events_are_kept_and_their_numbers_continue_after_a_restart(tmp_path: Path) -> None:
    async def many(hub: Hub) -> None:
        for number in range(1024):
            hub.telemetry("d", {}, str(number).encode())
        kept = await hub.store.events(after=0, limit=2000)
        assert [kept[0].number, kept[-1].number, len(kept)] == [925, 1024, 100]

    async def one(hub: Hub) -> None:
        hub.telemetry("d", {"k": "v"}, b"x")
        [event] = await hub.store.events(after=1024, limit=10)
        assert (event.number, event.properties, event.body) == (1025, {"k": "v"}, b"x")

    with_hub(tmp_path / "hub.db", many)
    with_hub(tmp_path / "hub.db", one)
    assert stat.S_ISREG((tmp_path / "hub.db").stat().st_mode)


def test_a_file_of_another_kind_or_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async def open_store(path: Path) -> None:
        Store(path, max_events=1)

    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(BadInputError, match=r"must be the database of a hub \(file is not a database\)"):
        asyncio.run(open_store(tmp_path / "text"))
    connection = sqlite3.connect(tmp_path / "newer")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(BadInputError, match="must be of version 1 or older, not 99: use a newer edgewright"):
        asyncio.run(open_store(tmp_path / "newer"))
