"""The connected clients: at most one per identity, with the subscriptions that survive its connection.

A second client of an identity takes over the connection of the first, as in IoT Hub. Two clients that share one identity take
over from each other without end: the hub reports such an identity, because one of them must get an identity of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from cloud.iothub.devices.identities import NEVER, timestamp
from cloud.iothub.store import Store

_LOG = logging.getLogger(__name__)
_SESSION, _ACTIVITY = "session", "activity"
_TAKEOVERS, _WINDOW_S = 5, 60.0


class Link(Protocol):
    """One connected client."""

    @property
    def identity(self) -> str:
        """The identity of the client."""

    def send(self, topic: str, payload: bytes, on_acknowledged: Callable[[], None] | None = None) -> None:
        """Send a message; with `on_acknowledged` at QoS 1."""

    def close(self, reason: str) -> None:
        """Close the connection."""


class Links:
    """The connections and sessions of one hub."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._links: dict[str, Link] = {}
        self._sessions: dict[str, set[str]] = {name: set(each) for name, each in store.documents(_SESSION).items()}
        self._activity: dict[str, str] = store.documents(_ACTIVITY)
        self._takeovers: dict[str, deque[float]] = {}
        self.shared: dict[str, str] = {}
        """Identities that two clients used in turns, with the instant of the last change."""
        self.on_subscribed: Callable[[str, str], None] = lambda _name, _filter: None
        """Called with the identity and the filter when a client can receive its messages."""

    def attach(self, link: Link, *, clean_session: bool) -> bool:
        """Add a connection, close an earlier one of the identity, and return True if it continues a session."""
        name = link.identity
        earlier = self._links.pop(name, None)
        self._links[name] = link
        if earlier is not None:
            self._note_takeover(name)
            earlier.close("another client connected with the same identity")
        self._note_activity(name)
        if clean_session:
            self._forget(name)
            return False
        return name in self._sessions

    def resume(self, name: str) -> None:
        """Announce the subscriptions of a continued session."""
        for each in sorted(self._sessions.get(name, ())):
            self.on_subscribed(name, each)

    def detach(self, link: Link) -> None:
        """Remove a connection that has ended; an earlier one that was taken over has no effect."""
        if self._links.get(link.identity) is link:
            del self._links[link.identity]
            self._note_activity(link.identity)

    def subscribe(self, name: str, topic_filter: str) -> None:
        """Add a subscription to the session of an identity."""
        session = self._sessions.setdefault(name, set())
        if topic_filter not in session:
            session.add(topic_filter)
            self._store.put(_SESSION, name, sorted(session))
        self.on_subscribed(name, topic_filter)

    def unsubscribe(self, name: str, topic_filter: str) -> None:
        """Remove a subscription."""
        session = self._sessions.get(name, set())
        if topic_filter in session:
            session.discard(topic_filter)
            self._store.put(_SESSION, name, sorted(session))

    def subscriber(self, name: str, topic_filter: str) -> Link | None:
        """Return the connection of an identity if it has subscribed to the filter."""
        return self._links.get(name) if topic_filter in self._sessions.get(name, ()) else None

    def is_connected(self, name: str) -> bool:
        """Return True if a client of the identity is connected."""
        return name in self._links

    def count(self) -> int:
        """Return the number of connections."""
        return len(self._links)

    def last_active_at(self, name: str) -> str:
        """Return the instant at which a client of the identity connected or disconnected."""
        return self._activity.get(name, NEVER)

    def drop(self, name: str, reason: str, *, forget: bool) -> None:
        """Close the connection of an identity; with `forget`, delete its session as well."""
        link = self._links.pop(name, None)
        if link is not None:
            link.close(reason)
        if forget:
            self._forget(name)

    def close_all(self, reason: str) -> None:
        """Close every connection."""
        for link in list(self._links.values()):
            link.close(reason)

    def _forget(self, name: str) -> None:
        if self._sessions.pop(name, None) is not None:
            self._store.delete(_SESSION, name)

    def _note_activity(self, name: str) -> None:
        self._activity[name] = timestamp(datetime.now(UTC))
        self._store.put(_ACTIVITY, name, self._activity[name])

    def _note_takeover(self, name: str) -> None:
        now = monotonic()
        recent = self._takeovers.setdefault(name, deque(maxlen=_TAKEOVERS))
        is_new = len(recent) < _TAKEOVERS or now - recent[0] > _WINDOW_S
        recent.append(now)
        if len(recent) == _TAKEOVERS and now - recent[0] <= _WINDOW_S:
            self.shared[name] = timestamp(datetime.now(UTC))
            if is_new:
                _LOG.warning("shared_identity identity=%s: give one of the two clients an identity of its own", name)
