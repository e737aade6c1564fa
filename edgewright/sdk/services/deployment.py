"""Deployment configurations: where and how a service runs, checked when they are made.

The rules are those that Azure's SDK applies before it sends anything. What has no counterpart on one machine (a region, a virtual
network, a key vault) is refused where it would change who can reach the service, and accepted without effect elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgewright.contracts.endpoints import EndpointAuth, EndpointTarget, check_key
from edgewright.errors import BadInputError


@dataclass(frozen=True, kw_only=True)
class DeploymentConfiguration:
    """Where a service runs, with which resources, and what its clients must send."""

    target: EndpointTarget = EndpointTarget.LOCAL
    port: int | None = None
    cpu: float | None = None
    memory_gb: float | None = None
    gpus: int = 0
    auth: EndpointAuth = EndpointAuth.KEY
    primary_key: str = ""
    secondary_key: str = ""
    enable_app_insights: bool = False
    scoring_timeout_s: float = 60.0
    replicas: int = 1
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        check_port(self.port)
        check_positive(cpu_cores=self.cpu, memory_gb=self.memory_gb)
        for key in (self.primary_key, self.secondary_key):
            if key:
                check_key(key)
        if bool(self.primary_key) != bool(self.secondary_key):
            raise BadInputError("primary_key and secondary_key must be given together: give both, or none of them")
        if self.primary_key and self.auth is not EndpointAuth.KEY:
            raise BadInputError("primary_key and secondary_key need auth_enabled=True: omit them, or enable it")


@dataclass(frozen=True, kw_only=True)
class AciOptions:
    """Options of a container that Azure names and one machine treats otherwise."""

    ssl_enabled: bool | None = None
    ssl_cert_pem_file: str | None = None
    ssl_key_pem_file: str | None = None
    ssl_cname: str | None = None
    vnet_name: str | None = None
    subnet_name: str | None = None
    cmk_vault_base_url: str | None = None
    cmk_key_name: str | None = None
    cmk_key_version: str | None = None

    def __post_init__(self) -> None:
        ssl = (self.ssl_cert_pem_file, self.ssl_key_pem_file, self.ssl_cname)
        if self.ssl_enabled and not all(ssl):
            raise BadInputError("ssl_enabled=True needs ssl_cert_pem_file, ssl_key_pem_file and ssl_cname")
        if not self.ssl_enabled and any(ssl):
            raise BadInputError("ssl_cert_pem_file, ssl_key_pem_file and ssl_cname need ssl_enabled=True")
        if self.ssl_enabled:
            raise BadInputError(
                "ssl_enabled=True is not supported: a service listens on a loopback address; put a TLS proxy before it"
            )
        if bool(self.vnet_name) != bool(self.subnet_name):
            raise BadInputError("vnet_name and subnet_name must be given together")
        keys = (self.cmk_vault_base_url, self.cmk_key_name, self.cmk_key_version)
        if any(keys) and not all(keys):
            raise BadInputError("cmk_vault_base_url, cmk_key_name and cmk_key_version must be given together")


@dataclass(frozen=True, kw_only=True)
class AksOptions:
    """Scaling, probes and limits of a service on a cluster, with the rules of Azure's SDK."""

    autoscale_enabled: bool | None = None
    autoscale_min_replicas: int | None = None
    autoscale_max_replicas: int | None = None
    num_replicas: int | None = None
    cpu_cores: float | None = None
    memory_gb: float | None = None
    cpu_cores_limit: float | None = None
    memory_gb_limit: float | None = None
    auth_enabled: bool | None = None
    token_auth_enabled: bool | None = None
    namespace: str | None = None
    scoring_timeout_ms: int | None = None

    def __post_init__(self) -> None:
        self._check_scaling()
        check_positive(cpu_cores=self.cpu_cores, memory_gb=self.memory_gb, scoring_timeout_ms=self.scoring_timeout_ms)
        for name, limit, request in (
            ("cpu_cores", self.cpu_cores_limit, self.cpu_cores),
            ("memory_gb", self.memory_gb_limit, self.memory_gb),
        ):
            if limit is not None and request is not None and limit < request:
                raise BadInputError(f"{name}_limit must be at least {name} ({request:g}), not {limit:g}")
        if self.auth_enabled and self.token_auth_enabled:
            raise BadInputError("auth_enabled and token_auth_enabled must not both be True: choose keys or tokens")
        if self.namespace is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", self.namespace):
            raise BadInputError(
                f"namespace must have 1 to 63 lower-case letters, digits and '-', and begin and end with a letter or digit, "
                f"not {self.namespace!r}"
            )

    @property
    def auth(self) -> EndpointAuth:
        """The credential that clients send: keys, unless tokens are asked for or authentication is off."""
        return auth_of(self.auth_enabled, self.token_auth_enabled)

    def _check_scaling(self) -> None:
        if self.autoscale_enabled and self.num_replicas is not None:
            raise BadInputError("num_replicas must not be given with autoscale_enabled=True: omit one")
        if self.autoscale_enabled is False and self.num_replicas is None:
            raise BadInputError("autoscale_enabled=False needs num_replicas")
        least, most = self.autoscale_min_replicas, self.autoscale_max_replicas
        is_scaled = self.autoscale_enabled or (self.autoscale_enabled is None and self.num_replicas is None)
        if (least is not None or most is not None) and not (is_scaled and self.autoscale_enabled):
            raise BadInputError("autoscale_min_replicas and autoscale_max_replicas need autoscale_enabled=True")
        if least is not None and most is not None and least > most:
            raise BadInputError(f"autoscale_min_replicas must be at most autoscale_max_replicas ({most}), not {least}")
        check_positive(num_replicas=self.num_replicas, autoscale_min_replicas=least, autoscale_max_replicas=most)


def auth_of(auth_enabled: bool | None, token_auth_enabled: bool | None = None) -> EndpointAuth:
    """Return the credential that clients send; without a choice, keys."""
    if token_auth_enabled:
        return EndpointAuth.TOKEN
    return EndpointAuth.OFF if auth_enabled is False else EndpointAuth.KEY


def check_port(port: int | None) -> None:
    """Raise `BadInputError` for a port that does not exist."""
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535):
        raise BadInputError(f"port must be a whole number from 1 to 65535, not {port!r}")


def check_positive(**values: Any) -> None:
    """Raise `BadInputError` for a value that is neither None nor a positive number."""
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise BadInputError(f"{name} must be a positive number, not {value!r}")


def texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return tags or properties as texts."""
    return {str(name): str(value) for name, value in (values or {}).items()}
