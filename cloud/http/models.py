"""Models and their published versions."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.registry import collecting, models, registered
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.models.maintenance import Collected, CollectRequest
from edgewright.contracts.models.publishing import PublishRequest
from edgewright.contracts.models.registration import AliasRequest, NextVersion, RegisterRequest
from edgewright.contracts.names import parse_reference
from edgewright.contracts.signing import TrustedKeys
from edgewright.errors import BadInputError, NotFoundError

MAX_PAGE = 10_000


def list_models(call: Call) -> list[ModelVersion]:
    """Return the newest version of every model, or with `tag` or `framework` every version that has them, in pages."""
    tag, framework, after = call.text("tag"), call.text("framework"), call.text("after")
    limit = call.whole("limit", MAX_PAGE)
    if not 0 < limit <= MAX_PAGE:
        raise BadInputError(f"limit must be a number from 1 to {MAX_PAGE}, not {limit}")
    with call.cloud.database.reading() as connection:
        every = tag is not None or framework is not None
        found = models.all_versions(connection) if every else models.newest_versions(connection)
    if after is not None:
        last = parse_reference(after)
        found = [each for each in found if (each.model, each.version) > (last.name, last.version or 0)]
    return [each for each in found if _matches(each, tag, framework)][:limit]


def _matches(version: ModelVersion, tag: str | None, framework: str | None) -> bool:
    registration = version.registration
    if tag is None and framework is None:
        return True
    if registration is None or framework not in (None, registration.framework.value):
        return False
    name, _, value = (tag or "").partition("=")
    return tag is None or registration.tags.get(name) == value


def show_model(call: Call) -> list[ModelVersion]:
    """Return every version of a model."""
    with call.cloud.database.reading() as connection:
        return models.list_versions(connection, call.path("model"))


def publish(call: Call) -> ModelVersion:
    """Publish a pushed index as the next version of a model."""
    trusted = TrustedKeys.from_pem(call.cloud.state.publisher_keys())
    return models.publish(call.cloud.blobs, call.path("model"), call.body, trusted, call.now)


def next_version(call: Call) -> NextVersion:
    """Return the number that the next version of a model gets."""
    with call.cloud.database.reading() as connection:
        return NextVersion(version=models.next_version(connection, call.path("model")))


def register(call: Call) -> ModelVersion:
    """Make pushed source files the next version of a model."""
    return registered.register(call.cloud.blobs, call.path("model"), call.body, call.now)


def replace_tags(call: Call) -> ModelVersion:
    """Replace the tags of a version."""
    with call.cloud.database.transaction() as connection:
        return registered.replace_tags(connection, call.path("model"), _version(call), call.body)


def add_properties(call: Call) -> ModelVersion:
    """Add properties to a version."""
    with call.cloud.database.transaction() as connection:
        return registered.add_properties(connection, call.path("model"), _version(call), call.body)


def set_alias(call: Call) -> ModelVersion:
    """Let an alias name a version."""
    with call.cloud.database.transaction() as connection:
        return registered.set_alias(connection, call.path("model"), call.path("alias"), call.body.version)


def remove_alias(call: Call) -> None:
    """Remove an alias."""
    with call.cloud.database.transaction() as connection:
        registered.remove_alias(connection, call.path("model"), call.path("alias"))


def delete_version(call: Call) -> ModelVersion:
    """Delete a version; its number stays taken."""
    with call.cloud.database.transaction() as connection:
        return registered.delete_version(connection, call.path("model"), _version(call))


def collect(call: Call) -> Collected:
    """Remove blobs that nothing refers to."""
    return collecting.collect(call.cloud.blobs, grace_s=call.body.grace_s, now=call.now)


def _version(call: Call) -> int:
    text = call.path("version")
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise NotFoundError(f"a version must be given by its number, not {text[:64]!r}; 'edgewright models show' lists them")
    return int(text)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/models",
        access=Access.OPERATOR,
        summary="The newest version of every model, or every version with a tag or a framework.",
        handler=list_models,
        response_type=list[ModelVersion],
        numbers=("limit",),
        query={
            "tag": "Name and value of a tag, as in stage=test: every version that has it.",
            "framework": "Every version of this framework.",
            "limit": f"At most this many versions, by default {MAX_PAGE}.",
            "after": "Only versions after this one, by name and number, as in digits:3: the last of the page before.",
        },
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
    Endpoint(
        method="GET",
        path="/v1/models/{model}/next",
        access=Access.OPERATOR,
        summary="Number of the next version.",
        handler=next_version,
        response_type=NextVersion,
    ),
    Endpoint(
        method="POST",
        path="/v1/models/{model}/register",
        access=Access.OPERATOR,
        summary="Make pushed source files the next version.",
        handler=register,
        request_type=RegisterRequest,
        response_type=ModelVersion,
        status=201,
    ),
    Endpoint(
        method="PUT",
        path="/v1/models/{model}/versions/{version}/tags",
        access=Access.OPERATOR,
        summary="Replace the tags of a version.",
        handler=replace_tags,
        request_type=dict[str, str],
        response_type=ModelVersion,
    ),
    Endpoint(
        method="POST",
        path="/v1/models/{model}/versions/{version}/properties",
        access=Access.OPERATOR,
        summary="Add properties to a version; they never change.",
        handler=add_properties,
        request_type=dict[str, str],
        response_type=ModelVersion,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/models/{model}/versions/{version}",
        access=Access.OPERATOR,
        summary="Delete a version; its number stays taken.",
        handler=delete_version,
        response_type=ModelVersion,
    ),
    Endpoint(
        method="PUT",
        path="/v1/models/{model}/aliases/{alias}",
        access=Access.OPERATOR,
        summary="Let an alias name a version.",
        handler=set_alias,
        request_type=AliasRequest,
        response_type=ModelVersion,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/models/{model}/aliases/{alias}",
        access=Access.OPERATOR,
        summary="Remove an alias.",
        handler=remove_alias,
        status=204,
    ),
    Endpoint(
        method="POST",
        path="/v1/registry/collect",
        access=Access.OPERATOR,
        summary="Remove blobs that nothing refers to and that were not used for some time.",
        handler=collect,
        request_type=CollectRequest,
        response_type=Collected,
    ),
)
