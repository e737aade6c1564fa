"""Sources of the identity at a hub: a connection string, the provisioning service, or the IoT Edge runtime."""

from __future__ import annotations

import asyncio
import os

from edge_agent.link.iothub.edge import identity_of_module
from edge_agent.link.iothub.identity import HubIdentity, IdentitySource, signer, tls_context
from edge_agent.link.iothub.provisioning import Assignment, Registration, register
from edge_agent.settings import IotHubSettings
from edgewright.contracts.iothub.connection_strings import parse_client


def source_of(settings: IotHubSettings, device: str) -> IdentitySource:
    """Return the source that the settings choose; `device` is the default of the registration id."""
    if settings.edge:
        return EdgeSource()
    return ProvisioningSource(settings, device) if settings.id_scope else ConnectionStringSource(settings)


class ConnectionStringSource:
    """A connection string, with a certificate if it has no key."""

    def __init__(self, settings: IotHubSettings) -> None:
        self._settings = settings

    async def identify(self) -> HubIdentity:
        """Return the identity; certificates are read again each time, because they are renewed."""
        settings, access = self._settings, parse_client(self._settings.connection_string)
        return HubIdentity(
            host=access.host,
            device=access.device,
            module=access.module,
            gateway=access.gateway,
            context=await asyncio.to_thread(tls_context, settings.ca_file, settings.certificate, settings.key),
            sign=signer(access.key) if access.key else None,
        )

    def forget(self) -> None:
        """Nothing is kept."""


class ProvisioningSource:
    """The provisioning service; its assignment is kept until a connection fails."""

    def __init__(self, settings: IotHubSettings, device: str) -> None:
        self._settings = settings
        self._registration = settings.registration or device
        self._assignment: Assignment | None = None

    async def identify(self) -> HubIdentity:
        """Register, unless the device is assigned, and return the identity at the assigned hub."""
        settings = self._settings
        context = await asyncio.to_thread(tls_context, settings.ca_file, settings.certificate, settings.key)
        sign = signer(settings.symmetric_key) if settings.symmetric_key else None
        if self._assignment is None:
            registration = Registration(
                host=settings.provisioning_host,
                id_scope=settings.id_scope,
                registration=self._registration,
                context=context,
                sign=sign,
            )
            self._assignment = await register(registration)
        return HubIdentity(host=self._assignment.hub, device=self._assignment.device, context=context, sign=sign)

    def forget(self) -> None:
        """Register before the next connection, because the device may have been moved to another hub."""
        self._assignment = None


class EdgeSource:
    """The runtime of IoT Edge, which started this container."""

    async def identify(self) -> HubIdentity:
        """Return the identity of the module."""
        return await asyncio.to_thread(identity_of_module, os.environ)

    def forget(self) -> None:
        """Nothing is kept."""
