"""Kinds of service: in processes of a machine, or in a container; and the function that creates one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edgewright.contracts.endpoints import EndpointTarget, UpdateRequest
from edgewright.sdk.services.deploying import Content, request_of
from edgewright.sdk.services.deployment import AciOptions, DeploymentConfiguration, auth_of, texts
from edgewright.sdk.services.webservice import Webservice
from edgewright.sdk.workspace.workspace import Workspace


class LocalWebservice(Webservice):
    """A service in processes of the machine of the cloud."""

    @staticmethod
    def deploy_configuration(port: int | None = None) -> DeploymentConfiguration:
        """Return a configuration with a fixed port, or for None a free one.

        Raises:
            BadInputError: the port does not exist.
        """
        return DeploymentConfiguration(port=port)

    def reload(self, wait: bool = True) -> None:
        """Start the present deployment again, for example after a script wrote a wrong state; no request is lost."""
        deployment = self._fresh().deployment
        restarts = int(deployment.variables.get("EDGEWRIGHT_RELOAD", "0")) + 1
        variables = {**deployment.variables, "EDGEWRIGHT_RELOAD": str(restarts)}
        self._record = self.workspace.cloud.update_endpoint(
            self.name, UpdateRequest(deployment=replace(deployment, variables=variables))
        )
        if wait:
            self.wait_for_deployment()


class AciWebservice(Webservice):
    """A service in a container of the machine of the cloud; the place of Azure Container Instances."""

    @staticmethod
    def deploy_configuration(
        cpu_cores: float | None = None,
        memory_gb: float | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        location: str | None = None,
        auth_enabled: bool | None = None,
        ssl_enabled: bool | None = None,
        enable_app_insights: bool | None = None,
        ssl_cert_pem_file: str | None = None,
        ssl_key_pem_file: str | None = None,
        ssl_cname: str | None = None,
        dns_name_label: str | None = None,
        primary_key: str | None = None,
        secondary_key: str | None = None,
        collect_model_data: bool | None = None,
        cmk_vault_base_url: str | None = None,
        cmk_key_name: str | None = None,
        cmk_key_version: str | None = None,
        vnet_name: str | None = None,
        subnet_name: str | None = None,
    ) -> DeploymentConfiguration:
        """Return a configuration; defaults are 0.1 processors and 0.5 GB of memory, as in Azure.

        A client must send a key unless `auth_enabled=False`. `location`, `dns_name_label`, `vnet_name`, `subnet_name` and
        the names of a customer's key are checked and have no effect.

        Raises:
            BadInputError: a value is not allowed, or one that belongs to another is missing.
        """
        AciOptions(
            ssl_enabled=ssl_enabled,
            ssl_cert_pem_file=ssl_cert_pem_file,
            ssl_key_pem_file=ssl_key_pem_file,
            ssl_cname=ssl_cname,
            vnet_name=vnet_name,
            subnet_name=subnet_name,
            cmk_vault_base_url=cmk_vault_base_url,
            cmk_key_name=cmk_key_name,
            cmk_key_version=cmk_key_version,
        )
        return DeploymentConfiguration(
            target=EndpointTarget.CONTAINER,
            cpu=0.1 if cpu_cores is None else cpu_cores,
            memory_gb=0.5 if memory_gb is None else memory_gb,
            auth=auth_of(auth_enabled),
            primary_key=primary_key or "",
            secondary_key=secondary_key or "",
            enable_app_insights=bool(enable_app_insights),
            tags=texts(tags),
            properties=texts(properties),
            description=description or "",
        )


KINDS: dict[EndpointTarget, type[Webservice]] = {
    EndpointTarget.LOCAL: LocalWebservice,
    EndpointTarget.CONTAINER: AciWebservice,
}


def deploy(workspace: Workspace, name: str, content: Content, *, overwrite: bool = False) -> Webservice:
    """Create a service; the cloud starts it after this function has returned."""
    record = workspace.cloud.deploy_endpoint(name, request_of(content, overwrite=overwrite))
    return Webservice.of_record(workspace, record)
