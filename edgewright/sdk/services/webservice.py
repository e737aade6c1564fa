"""Services: a deployed model or script, with the verbs of Azure ML's `Webservice`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import urllib3

from edgewright.contracts.endpoints import EndpointAuth, EndpointRecord, EndpointState, EndpointTarget, KeyName, UpdateRequest
from edgewright.errors import BadInputError, OperationError
from edgewright.sdk.services.deploying import APP_INSIGHTS, Content
from edgewright.sdk.services.deployment import DeploymentConfiguration, auth_of, texts
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.workspace.default import said, workspace_or_default
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.workspace import Workspace


class Webservice:
    """A scoring service.

    Attributes:
        name: name; 3 to 32 lower-case letters, digits and '-'.
        workspace: its workspace.
    """

    def __init__(self, workspace: Workspace | None = None, name: str = "") -> None:
        """Open an existing service.

        Raises:
            NotFoundError: there is no such service.
        """
        self.workspace = workspace_or_default(workspace)
        self.name = name
        self._record = self.workspace.cloud.endpoint(name)

    @classmethod
    def of_record(cls, workspace: Workspace, record: EndpointRecord) -> Webservice:
        """Return the object of a record that the cloud returned."""
        from edgewright.sdk.services.kinds import KINDS

        kind = KINDS.get(record.deployment.target, Webservice)
        service = kind.__new__(kind)
        service.workspace, service.name, service._record = workspace, record.endpoint, record
        return service

    @staticmethod
    def list(
        workspace: Workspace | None = None, compute_type: str | None = None, tags: Sequence[str] | None = None
    ) -> list[Webservice]:
        """Return the services, by name; `compute_type` is `Local` or `ACI`, and `tags` are names that all must have."""
        workspace = workspace_or_default(workspace)
        services = [Webservice.of_record(workspace, record) for record in workspace.cloud.endpoints()]
        return [
            each
            for each in services
            if compute_type in (None, each.compute_type) and set(tags or ()) <= set(each._record.labels.tags)
        ]

    def wait_for_deployment(self, show_output: bool = False, timeout_sec: float | None = None) -> None:
        """Return when the service is ready.

        Raises:
            OperationError: it failed, or is not ready in time; the message has one line of the cause, `get_logs` the rest.
        """
        limit_s = timeout_sec or self._record.deployment.init_timeout_s + 90
        for record in self.workspace.cloud.watch_endpoint(self.name, timeout_s=limit_s):
            self._record = record
            if show_output:
                said("{state}: {reason}" if record.reason else "{state}", state=record.state.value, reason=record.reason)
        if self._record.state is EndpointState.FAILED:
            raise OperationError(f"service {self.name} failed to start: {self._record.reason}; service.get_logs() has more")

    def update_deployment_state(self) -> None:
        """Read the state from the cloud; every property does this too."""
        self._record = self.workspace.cloud.endpoint(self.name)

    @property
    def state(self) -> str:
        """`Transitioning`, `Healthy`, `Unhealthy`, `Failed` or `Deleting`."""
        return self._fresh().state.value

    @property
    def error(self) -> str | None:
        """The cause of a state other than Healthy, or None."""
        return self._fresh().reason or None

    @property
    def scoring_uri(self) -> str:
        """Address of POST requests with data to score."""
        return self._fresh().scoring_uri

    @property
    def grpc_address(self) -> str:
        """`HOST:PORT` of gRPC without TLS; empty for a service without gRPC."""
        return self._fresh().grpc_address

    @property
    def swagger_uri(self) -> str:
        """Address of the description in Swagger 2.0."""
        return self._fresh().swagger_uri

    @property
    def compute_type(self) -> str:
        """`Local` for processes, `ACI` for a container."""
        return "Local" if self._record.deployment.target is EndpointTarget.LOCAL else "ACI"

    @property
    def auth_enabled(self) -> bool:
        """True if clients must send a key."""
        return self._record.deployment.auth is EndpointAuth.KEY

    @property
    def token_auth_enabled(self) -> bool:
        """True if clients must send a token."""
        return self._record.deployment.auth is EndpointAuth.TOKEN

    @property
    def enable_app_insights(self) -> bool:
        """True if telemetry was enabled."""
        return self._record.deployment.variables.get(APP_INSIGHTS) == "true"

    @property
    def models(self) -> Sequence[Model]:
        """The model versions of the service."""
        return [Model(self.workspace, each.name, version=each.version) for each in self._record.deployment.models]

    @property
    def tags(self) -> dict[str, str]:
        """Tags."""
        return dict(self._fresh().labels.tags)

    @property
    def properties(self) -> dict[str, str]:
        """Properties."""
        return dict(self._fresh().labels.properties)

    @property
    def description(self) -> str:
        """One line for people."""
        return self._fresh().labels.description

    @property
    def created_time(self) -> datetime:
        """Time of the first deployment, UTC."""
        return self._record.created_at

    @property
    def updated_time(self) -> datetime:
        """Time of the last change, UTC."""
        return self._fresh().changed_at

    def get_logs(self, num_lines: int = 5000, init: bool = False) -> str:
        """Return the last lines of the log; `init` has no effect, because there is one log."""
        return "\n".join(self.workspace.cloud.endpoint_logs(self.name, lines=num_lines))

    def get_keys(self) -> tuple[str, str]:
        """Return the primary and the secondary key."""
        keys = self.workspace.cloud.endpoint_keys(self.name)
        return keys.primary, keys.secondary

    def regen_key(self, key: str, set_key: str | None = None) -> None:
        """Replace the key `Primary` or `Secondary` by `set_key`, or by a random one; the other one stays valid."""
        if key.lower() not in ("primary", "secondary"):
            raise BadInputError(f"key must be Primary or Secondary, not {key!r}")
        self.workspace.cloud.regenerate_key(self.name, KeyName(key.lower()), set_key or "")

    def get_token(self) -> tuple[str, datetime]:
        """Return a token that the service accepts in place of a key, and the time (UTC) after which to get the next one."""
        token = self.workspace.cloud.endpoint_token(self.name)
        return token.token, token.refresh_after

    def run(self, input_data: str | bytes | Mapping[str, Any]) -> Any:
        """Score one request; return the decoded answer.

        Raises:
            OperationError: the service does not answer with 200; the message has its answer.
        """
        body = input_data if isinstance(input_data, str | bytes) else json.dumps(input_data)
        headers = {"Content-Type": "application/json", **self._authorization()}
        try:
            with urllib3.PoolManager(retries=False) as pool:  # a kept connection may lead to a deployment that was replaced
                answer = pool.request("POST", self.scoring_uri, body=body, headers=headers, timeout=120.0)
        except urllib3.exceptions.HTTPError as error:
            raise OperationError(f"service {self.name} must answer at {self.scoring_uri}: {error}") from error
        if answer.status != 200:
            text = answer.data.decode("utf-8", "replace")[:1000]
            raise OperationError(f"service {self.name} must answer with 200, but the answer is {answer.status}: {text}")
        return answer.json()

    def update(
        self,
        image: object = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        auth_enabled: bool | None = None,
        enable_app_insights: bool | None = None,
        models: Sequence[Model | str] | None = None,
        inference_config: InferenceConfig | None = None,
        *,
        deployment_config: DeploymentConfiguration | None = None,
        cpu_cores: float | None = None,
        memory_gb: float | None = None,
        scoring_timeout_ms: int | None = None,
        num_replicas: int | None = None,
        token_auth_enabled: bool | None = None,
        **_ignored: object,
    ) -> None:
        """Change the service; arguments that are None leave a value as it is. No request is lost.

        A new deployment answers when it is ready; until then the present one does. `wait_for_deployment` waits for it.

        Raises:
            BadInputError: a value is not allowed.
        """
        content = Content(self.workspace, models, inference_config, deployment_config)
        deployment = content.changed(self._fresh().deployment)
        changes: dict[str, Any] = {"cpu": cpu_cores, "memory_gb": memory_gb, "replicas": num_replicas}
        changes["scoring_timeout_s"] = None if scoring_timeout_ms is None else scoring_timeout_ms / 1000
        deployment = replace(deployment, **{name: value for name, value in changes.items() if value is not None})
        if auth_enabled is not None or token_auth_enabled is not None:
            deployment = replace(deployment, auth=auth_of(auth_enabled, token_auth_enabled))
        if enable_app_insights is not None:
            insights = {APP_INSIGHTS: str(bool(enable_app_insights)).lower()}
            deployment = replace(deployment, variables={**deployment.variables, **insights})
        request = UpdateRequest(
            deployment=deployment if deployment != self._record.deployment else None,
            description=description,
            tags=None if tags is None else texts(tags),
            properties=None if properties is None else texts(properties),
        )
        self._record = self.workspace.cloud.update_endpoint(self.name, request)

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Add tags, or replace those of the same name."""
        self.update(tags={**self.tags, **tags})

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Remove tags by name."""
        self.update(tags={name: text for name, text in self.tags.items() if name not in tags})

    def add_properties(self, properties: Mapping[str, Any]) -> None:
        """Add properties."""
        self.update(properties=properties)

    def delete(self) -> None:
        """Delete the service; return when its processes have ended."""
        self.workspace.cloud.delete_endpoint(self.name)

    def serialize(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        record = self._fresh()
        return {
            "name": self.name,
            "computeType": self.compute_type,
            "state": record.state.value,
            "error": record.reason or None,
            "scoringUri": record.scoring_uri,
            "swaggerUri": record.swagger_uri,
            "authEnabled": self.auth_enabled,
            "models": [str(each) for each in record.deployment.models],
            "tags": dict(record.labels.tags),
            "properties": dict(record.labels.properties),
            "description": record.labels.description,
        }

    def __repr__(self) -> str:
        """Show the name and the address, as far as they were read."""
        return f"{type(self).__name__}(name={self.name!r}, scoring_uri={self._record.scoring_uri!r})"

    def _fresh(self) -> EndpointRecord:
        self.update_deployment_state()
        return self._record

    def _authorization(self) -> dict[str, str]:
        return {} if self._record.deployment.auth is EndpointAuth.OFF else {"Authorization": f"Bearer {self.get_keys()[0]}"}
