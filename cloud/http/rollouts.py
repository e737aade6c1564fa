"""Rollouts as operators see and steer them."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.rollouts import operations as rollouts
from cloud.rollouts.store import all_rollouts, one_rollout
from edgewright.contracts.messages import RolloutRecord, RolloutRequest
from edgewright.errors import NotFoundError


def create_rollout(call: Call) -> RolloutRecord:
    """Plan a rollout and start it."""
    with call.cloud.database.transaction() as connection:
        return rollouts.create(connection, call.body, call.now).record()


def list_rollouts(call: Call) -> list[RolloutRecord]:
    """Return every rollout, newest first."""
    with call.cloud.database.reading() as connection:
        return [stored.record() for stored in all_rollouts(connection)]


def show_rollout(call: Call) -> RolloutRecord:
    """Return one rollout."""
    with call.cloud.database.reading() as connection:
        return one_rollout(connection, _number(call)).record()


def pause_rollout(call: Call) -> RolloutRecord:
    """Offer the version to nobody further until it is resumed."""
    with call.cloud.database.transaction() as connection:
        return rollouts.pause(connection, _number(call), call.now).record()


def resume_rollout(call: Call) -> RolloutRecord:
    """Go on with a paused rollout."""
    with call.cloud.database.transaction() as connection:
        return rollouts.resume(connection, _number(call), call.now).record()


def abort_rollout(call: Call) -> RolloutRecord:
    """End a rollout."""
    with call.cloud.database.transaction() as connection:
        return rollouts.abort(connection, call.cloud.state.signing_key, _number(call), call.now).record()


def _number(call: Call) -> int:
    text = call.path("rollout")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFoundError(f"a rollout has a number, not {text[:64]!r}; 'edgewright rollouts list' shows them")
    return int(text)


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/rollouts",
        access=Access.OPERATOR,
        summary="Roll a version out in guarded waves.",
        handler=create_rollout,
        takes=RolloutRequest,
        gives=RolloutRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/rollouts",
        access=Access.OPERATOR,
        summary="Every rollout, newest first.",
        handler=list_rollouts,
        gives=list[RolloutRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/rollouts/{rollout}",
        access=Access.OPERATOR,
        summary="One rollout, device by device.",
        handler=show_rollout,
        gives=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/pause",
        access=Access.OPERATOR,
        summary="Offer the version to nobody further until it is resumed.",
        handler=pause_rollout,
        gives=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/resume",
        access=Access.OPERATOR,
        summary="Go on with a paused rollout.",
        handler=resume_rollout,
        gives=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/abort",
        access=Access.OPERATOR,
        summary="End a rollout: open offers are withdrawn, who runs the version keeps it.",
        handler=abort_rollout,
        gives=RolloutRecord,
    ),
)
