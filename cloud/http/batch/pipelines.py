"""Published pipelines: publish, list, show, enable, and Azure ML's request that runs one."""

from __future__ import annotations

from cloud.auth import Access
from cloud.http.endpoint import Call, Endpoint
from cloud.pipelines import operations, published
from edgewright.contracts.names import PackageReference
from edgewright.contracts.pipelines.jobs import (
    EnableRequest,
    JobRequest,
    PipelineRecord,
    PublishRequest,
    SubmitRequest,
    Submitted,
)

_HINT = "; 'edgewright pipelines list' shows them"


def publish(call: Call) -> PipelineRecord:
    """Publish the next version of a pipeline."""
    with call.cloud.database.transaction() as connection:
        operations.check_content(connection, call.body.definition)
        return published.publish(connection, call.path("pipeline"), call.body, call.cloud.url, call.now)


def list_pipelines(call: Call) -> list[PipelineRecord]:
    """Return the newest version of each pipeline."""
    with call.cloud.database.reading() as connection:
        return published.newest_versions(connection, call.cloud.url)


def list_versions(call: Call) -> list[PipelineRecord]:
    """Return the versions of a pipeline."""
    with call.cloud.database.reading() as connection:
        return published.versions(connection, call.path("pipeline"), call.cloud.url)


def enable(call: Call) -> PipelineRecord:
    """Enable or disable a version."""
    with call.cloud.database.transaction() as connection:
        return published.enable(connection, _reference(call), call.cloud.url, is_enabled=call.body.is_enabled)


def submit(call: Call) -> Submitted:
    """Run a version."""
    body: SubmitRequest = call.body
    request = JobRequest(
        pipeline=str(_reference(call)), experiment=experiment_name(body.ExperimentName), parameters=body.ParameterAssignments
    )
    with call.cloud.database.transaction() as connection:
        return Submitted(Id=str(operations.submit(call.cloud, connection, request, call.now).job))


def experiment_name(text: str) -> str:
    """Return the name of an experiment of Azure ML in our notation: lower case."""
    return text.lower()


def _reference(call: Call) -> PackageReference:
    return PackageReference(call.path("pipeline"), call.path_number("version", _HINT))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/pipelines/{pipeline}",
        access=Access.OPERATOR,
        summary="Publish the next version of a pipeline.",
        handler=publish,
        request_type=PublishRequest,
        response_type=PipelineRecord,
        status=201,
    ),
    Endpoint(
        method="GET",
        path="/v1/pipelines",
        access=Access.OPERATOR,
        summary="The newest version of each published pipeline, by name.",
        handler=list_pipelines,
        response_type=list[PipelineRecord],
    ),
    Endpoint(
        method="GET",
        path="/v1/pipelines/{pipeline}",
        access=Access.OPERATOR,
        summary="Every version of a pipeline, oldest first.",
        handler=list_versions,
        response_type=list[PipelineRecord],
    ),
    Endpoint(
        method="PUT",
        path="/v1/pipelines/{pipeline}/versions/{version}/enabled",
        access=Access.OPERATOR,
        summary="Enable or disable a version; a disabled one starts no job.",
        handler=enable,
        request_type=EnableRequest,
        response_type=PipelineRecord,
    ),
    Endpoint(
        method="POST",
        path="/v1/pipelines/{pipeline}/versions/{version}/submit",
        access=Access.OPERATOR,
        summary="Run a version with Azure ML's body; the answer has the number of the job as Id.",
        handler=submit,
        request_type=SubmitRequest,
        response_type=Submitted,
    ),
)
