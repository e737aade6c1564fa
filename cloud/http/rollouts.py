"""Rollouts: create, show, pause, resume and abort them, and forgive known failures; for operators."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.rollouts import failures, operations
from cloud.rollouts.store import all_rollouts, one_rollout
from edgewright.contracts.messages import RolloutRecord, RolloutRequest
from edgewright.contracts.models.known_failures import ForgiveRequest, KnownFailure


def create_rollout(call: Call) -> RolloutRecord:
    """Plan a rollout and start it."""
    with call.cloud.database.transaction() as connection:
        return operations.create(connection, call.body, call.now).record()


def list_rollouts(call: Call) -> list[RolloutRecord]:
    """Return every rollout, newest first."""
    with call.cloud.database.reading() as connection:
        return [stored.record() for stored in all_rollouts(connection)]


def show_rollout(call: Call) -> RolloutRecord:
    """Return one rollout."""
    with call.cloud.database.reading() as connection:
        return one_rollout(connection, _number(call)).record()


def pause_rollout(call: Call) -> RolloutRecord:
    """Stop offering the version to further devices."""
    with call.cloud.database.transaction() as connection:
        return operations.pause(connection, _number(call), call.now).record()


def resume_rollout(call: Call) -> RolloutRecord:
    """Continue a paused rollout."""
    with call.cloud.database.transaction() as connection:
        return operations.resume(connection, _number(call), call.now).record()


def abort_rollout(call: Call) -> RolloutRecord:
    """End a rollout."""
    with call.cloud.database.transaction() as connection:
        return operations.abort(connection, call.cloud.state.signing_key, _number(call), call.now).record()


def forgive_version(call: Call) -> list[KnownFailure]:
    """Remove the known failures of a version."""
    with call.cloud.database.transaction() as connection:
        return failures.forgive(connection, call.body)


def _number(call: Call) -> int:
    return call.path_number("rollout", "; 'edgewright rollouts list' shows the numbers")


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/rollouts",
        access=Access.OPERATOR,
        summary="Roll out a model version in guarded waves.",
        handler=create_rollout,
        request_type=RolloutRequest,
        response_type=RolloutRecord,
        status=201,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/forgive",
        access=Access.OPERATOR,
        summary="Remove the known failures of a version, on one hardware profile or on all; returns what was removed.",
        handler=forgive_version,
        request_type=ForgiveRequest,
        response_type=list[KnownFailure],
    ),
    Endpoint(
        method="GET",
        path="/v1/rollouts",
        access=Access.OPERATOR,
        summary="All rollouts, newest first.",
        handler=list_rollouts,
        response_type=list[RolloutRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/rollouts/{rollout}",
        access=Access.OPERATOR,
        summary="One rollout with its devices.",
        handler=show_rollout,
        response_type=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/pause",
        access=Access.OPERATOR,
        summary="Stop offering the version to further devices until the rollout is resumed.",
        handler=pause_rollout,
        response_type=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/resume",
        access=Access.OPERATOR,
        summary="Continue a paused rollout.",
        handler=resume_rollout,
        response_type=RolloutRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/rollouts/{rollout}/abort",
        access=Access.OPERATOR,
        summary="End a rollout: withdraw open offers; devices that run the version keep it.",
        handler=abort_rollout,
        response_type=RolloutRecord,
    ),
)
