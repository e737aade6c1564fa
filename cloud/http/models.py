"""Models and their published versions."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.registry import models as registry
from edgewright.contracts.messages import ModelVersion, PublishRequest
from edgewright.contracts.signing import TrustedKeys


def list_models(call: Call) -> list[ModelVersion]:
    """Return the newest version of every model."""
    with call.cloud.database.reading() as connection:
        return registry.newest_versions(connection)


def show_model(call: Call) -> list[ModelVersion]:
    """Return every version of a model."""
    with call.cloud.database.reading() as connection:
        return registry.versions_of(connection, call.path("name"))


def publish(call: Call) -> ModelVersion:
    """Make a pushed index the next version."""
    trusted = TrustedKeys.from_pem(call.cloud.state.publisher_keys())
    return registry.publish(call.cloud.store, call.path("name"), call.body, trusted, call.now)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        access=Access.OPERATOR,
        summary="The newest version of every model.",
        handler=list_models,
        gives=list[ModelVersion],
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{name}",
        access=Access.OPERATOR,
        summary="Every version of a model, oldest first.",
        handler=show_model,
        gives=list[ModelVersion],
    ),
    Endpoint(
        method="POST",
        path="/v1/models/{name}/versions",
        access=Access.OPERATOR,
        summary="Publish a pushed and signed index as the next version.",
        handler=publish,
        takes=PublishRequest,
        gives=ModelVersion,
        status=201,
    ),
)
