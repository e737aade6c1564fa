"""Models and their published versions."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.registry import models
from edgewright.contracts.messages import ModelVersion, PublishRequest
from edgewright.contracts.signing import TrustedKeys


def list_models(call: Call) -> list[ModelVersion]:
    """Return the newest version of every model."""
    with call.cloud.database.reading() as connection:
        return models.newest_versions(connection)


def show_model(call: Call) -> list[ModelVersion]:
    """Return every version of a model."""
    with call.cloud.database.reading() as connection:
        return models.list_versions(connection, call.path("model"))


def publish(call: Call) -> ModelVersion:
    """Publish a pushed index as the next version of a model."""
    trusted = TrustedKeys.from_pem(call.cloud.state.publisher_keys())
    return models.publish(call.cloud.blobs, call.path("model"), call.body, trusted, call.now)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        access=Access.OPERATOR,
        summary="The newest version of every model.",
        handler=list_models,
        response_type=list[ModelVersion],
    ),
    Endpoint(
        method="GET",
        path="/v1/models/{model}",
        access=Access.OPERATOR,
        summary="Every version of a model, oldest first.",
        handler=show_model,
        response_type=list[ModelVersion],
    ),
    Endpoint(
        method="POST",
        path="/v1/models/{model}/versions",
        access=Access.OPERATOR,
        summary="Publish a pushed and signed index as the next version.",
        handler=publish,
        request_type=PublishRequest,
        response_type=ModelVersion,
        status=201,
    ),
)
