"""Make the request for a service from models, an inference configuration and a deployment configuration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from edgewright.contracts.endpoints import DeployedModel, Deployment, DeployRequest, EndpointLabels, EndpointTarget
from edgewright.contracts.environments.definition import SERVER_PACKAGES, Environment
from edgewright.contracts.models.registration import Framework
from edgewright.errors import BadInputError
from edgewright.sdk.services.conda import requirement_name
from edgewright.sdk.services.deployment import DeploymentConfiguration
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.workspace.default import said
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.resources import framework_of
from edgewright.sdk.workspace.workspace import Workspace

APP_INSIGHTS = "AML_APP_INSIGHTS_ENABLED"
"""Variable of a script's process; `true` if telemetry is enabled."""

_DISTRIBUTIONS = {
    Framework.SKLEARN: "scikit-learn",
    Framework.LIGHTGBM: "lightgbm",
    Framework.XGBOOST: "xgboost",
    Framework.KERAS: "keras",
    Framework.TENSORFLOW: "tensorflow",
}
"""Frameworks that load a model file in the service, by distribution. ONNX is left out: its version is that of the format."""


@dataclass(frozen=True)
class Content:
    """Arguments of a deployment as the caller gave them; None leaves a value as it is."""

    workspace: Workspace
    models: Sequence[Model | str] | None
    inference_config: InferenceConfig | None = None
    deployment_config: DeploymentConfiguration | None = None

    def changed(self, present: Deployment) -> Deployment:
        """Return a deployment with these values in place of the present ones; an entry script is sent to the cloud."""
        deployment = present
        if self.models is not None:
            deployment = replace(deployment, models=tuple(_deployed(each) for each in self.resolved()))
        if self.inference_config is not None:
            deployment = self._with_script(deployment, self.inference_config)
        if self.deployment_config is not None:
            deployment = _with_configuration(deployment, self.deployment_config)
        return deployment

    def resolved(self) -> list[Model]:
        """Return the models as objects; a text is `NAME`, `NAME:VERSION` or `NAME@ALIAS`."""
        return [each if isinstance(each, Model) else Model(self.workspace, id=each) for each in self.models or ()]

    def _with_script(self, deployment: Deployment, config: InferenceConfig) -> Deployment:
        source = Path(config.source_directory) if config.source_directory else None
        name, files = self.workspace.cloud.push_script(Path(config.entry_script), source)
        environment = ""
        if config.definition is not None:
            version = self.workspace.cloud.create_environment(config.definition)
            environment = f"{version.name}:{version.version}"
        variables = {**deployment.variables, **config.variables}
        return replace(deployment, entry_script=name, files=files, environment=environment, variables=variables)


def request_of(content: Content, *, overwrite: bool) -> DeployRequest:
    """Return the request that creates a service; what differs from the registered versions is printed."""
    models = content.resolved()
    config = content.deployment_config or _default_configuration(models)
    if not models and content.inference_config is None:
        raise BadInputError("a service must have a model or an entry script: give models, or an inference_config")
    if content.inference_config is None and len(models) > 1:
        raise BadInputError(f"a service without inference_config must have one model, not {len(models)}: add an entry script")
    # A deployment needs content to be valid, so the models are set before the script. Whoever deploys by this verb trusts the
    # models, as in Azure.
    first = Deployment(models=tuple(_deployed(each) for each in models), trust=True) if models else None
    deployment = (
        replace(content, models=None, deployment_config=config).changed(first) if first else _script_only(content, config)
    )
    if config.target is EndpointTarget.LOCAL:
        for line in _differences(models, content.inference_config):
            said("{line}", line=line)
    return DeployRequest(
        deployment=deployment,
        labels=EndpointLabels(description=config.description, tags=dict(config.tags), properties=dict(config.properties)),
        overwrite=overwrite,
        primary_key=config.primary_key,
        secondary_key=config.secondary_key,
    )


def _script_only(content: Content, config: DeploymentConfiguration) -> Deployment:
    assert content.inference_config is not None, "checked by the caller"
    source = content.inference_config.source_directory
    name, files = content.workspace.cloud.push_script(
        Path(content.inference_config.entry_script), Path(source) if source else None
    )
    first = Deployment(entry_script=name, files=files)
    return replace(content, models=None, deployment_config=config).changed(first)


def _default_configuration(models: Sequence[Model]) -> DeploymentConfiguration:
    """Return the configuration of a deployment without one: processes of this machine, with the resources of the first model."""
    resources = models[0].resource_configuration if models else None
    if resources is None:
        return DeploymentConfiguration()
    return DeploymentConfiguration(cpu=resources.cpu, memory_gb=resources.memory_in_gb, gpus=resources.gpu or 0)


def _with_configuration(deployment: Deployment, config: DeploymentConfiguration) -> Deployment:
    variables = {**deployment.variables, **({APP_INSIGHTS: "true"} if config.enable_app_insights else {})}
    return replace(
        deployment,
        target=config.target,
        port=config.port,
        cpu=config.cpu,
        memory_gb=config.memory_gb,
        gpus=config.gpus,
        replicas=config.replicas,
        auth=config.auth,
        variables=variables,
        scoring_timeout_s=config.scoring_timeout_s,
    )


def _deployed(model: Model) -> DeployedModel:
    return DeployedModel(name=model.name, version=model.version)


def _differences(models: Sequence[Model], config: InferenceConfig | None) -> Iterator[str]:
    """Yield what a service in processes has in other versions than the models and the environment ask for."""
    for model in models:
        distribution = _DISTRIBUTIONS.get(framework_of(model.model_framework), "")
        installed = _installed(distribution)
        if config is None and installed and model.model_framework_version not in ("", installed):
            yield (
                f"model {model.id} was registered with {distribution} {model.model_framework_version}; "
                f"the service runs with {installed}"
            )
    if config is not None and config.definition is not None:
        missing = sorted(_missing(config.definition))
        if missing:
            yield f"packages of the environment that this machine does not have: {', '.join(missing)}"


def _missing(environment: Environment) -> Iterator[str]:
    for package in (*environment.pip_packages, *environment.conda_packages):
        name = requirement_name(package)
        if name not in SERVER_PACKAGES and not (_installed(name) or _installed(f"{name}-cpu")):
            yield name


def _installed(distribution: str) -> str:
    try:
        return metadata.version(distribution) if distribution else ""
    except metadata.PackageNotFoundError:
        return ""
