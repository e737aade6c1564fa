"""Environments of scoring scripts."""

from __future__ import annotations

from cloud.auth import Access
from cloud.environments import store
from cloud.http.endpoint import Call, Endpoint
from edgewright.contracts.environments.definition import Environment, EnvironmentVersion


def create_environment(call: Call) -> EnvironmentVersion:
    """Store a definition as the next version of its name, unless nothing changed."""
    with call.cloud.database.transaction() as connection:
        return store.create(connection, call.body, call.now)


def list_environments(call: Call) -> list[EnvironmentVersion]:
    """Return the newest version of every environment."""
    with call.cloud.database.reading() as connection:
        return store.newest_versions(connection)


def show_environment(call: Call) -> list[EnvironmentVersion]:
    """Return every version of an environment."""
    with call.cloud.database.reading() as connection:
        return store.versions(connection, call.path("environment"))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/environments",
        access=Access.OPERATOR,
        summary="Store a definition as the next version of its name; the newest version if nothing changed.",
        handler=create_environment,
        request_type=Environment,
        response_type=EnvironmentVersion,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/environments",
        access=Access.OPERATOR,
        summary="The newest version of every environment.",
        handler=list_environments,
        response_type=list[EnvironmentVersion],
    ),
    Endpoint(
        method="GET",
        path="/v1/environments/{environment}",
        access=Access.OPERATOR,
        summary="Every version of an environment, oldest first.",
        handler=show_environment,
        response_type=list[EnvironmentVersion],
    ),
)
