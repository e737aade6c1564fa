"""Sources of the identity at a hub, in order of their settings: connection string, provisioning, IoT Edge runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_agent.link.iothub.identity import HubIdentity, signer, tls_context
from edge_agent.settings import IotHubSettings
from edgewright.contracts.iothub.connection_strings import parse_client

Identify = Callable[[], Awaitable[HubIdentity]]


def identify_by(settings: IotHubSettings) -> Identify:
    """Return the function that finds the identity before each connection."""
    return lambda: asyncio.to_thread(_from_connection_string, settings)


def _from_connection_string(settings: IotHubSettings) -> HubIdentity:
    access = parse_client(settings.connection_string)
    return HubIdentity(
        host=access.host,
        device=access.device,
        module=access.module,
        gateway=access.gateway,
        context=tls_context(settings.ca_file, settings.certificate, settings.key),
        sign=signer(access.key) if access.key else None,
    )
