"""An endpoint in a cluster: deployments with their images, resources, scale and share of the requests.

The rules on scale and resources are those of `AksWebservice.deploy_configuration` of Azure ML's SDK v1, with its limits of names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from edgewright.contracts.endpoints import check_endpoint_name
from edgewright.errors import BadInputError
from edgewright.registries.references import parse_image_reference

MAX_REPLICAS = 10_000
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(rf"{_LABEL.pattern}(?:\.{_LABEL.pattern})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Resources of one replica."""

    cpu: float = 0.5
    """Processors that the scheduler keeps free for it."""
    cpu_limit: float | None = None
    """None: it may use idle processors of its node."""
    memory_gb: float = 0.5
    """Memory in GB that the scheduler keeps free for it."""
    memory_limit_gb: float | None = None
    """None: the same. A replica that uses more is ended."""
    gpus: int = 0

    def faults(self) -> Iterator[str]:
        """Yield what is not allowed."""
        if not 0 < self.cpu <= 1000 or not 0 < self.memory_gb <= 100_000:
            yield f"cpu and memory must be positive, not {self.cpu:g} and {self.memory_gb:g} GB"
        if self.cpu_limit is not None and self.cpu_limit < self.cpu:
            yield f"the limit of cpu must be at least the requested {self.cpu:g}, not {self.cpu_limit:g}"
        if self.memory_limit_gb is not None and self.memory_limit_gb < self.memory_gb:
            yield f"the limit of memory must be at least the requested {self.memory_gb:g} GB, not {self.memory_limit_gb:g} GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Number of replicas: fixed, or between two by the use of processors."""

    replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    target_utilization: int = 70
    """Percentage of the requested processors at which replicas are added."""

    @property
    def is_automatic(self) -> bool:
        """True if the number follows the load."""
        return self.max_replicas is not None

    @property
    def least(self) -> int:
        """The number of replicas without load."""
        return self.replicas or self.min_replicas or 1

    def faults(self) -> Iterator[str]:
        """Yield what is not allowed."""
        if self.replicas is not None and (self.min_replicas is not None or self.max_replicas is not None):
            yield "a deployment must have replicas, or min_replicas and max_replicas, not both"
        if self.min_replicas is not None and self.max_replicas is None:
            yield "min_replicas needs max_replicas: the number of replicas then follows the load"
        if self.is_automatic and self.least > (self.max_replicas or 0):
            yield f"min_replicas must be at most max_replicas, not {self.least} and {self.max_replicas}"
        if not all(
            1 <= each <= MAX_REPLICAS for each in (self.replicas, self.min_replicas, self.max_replicas) if each is not None
        ):
            yield f"numbers of replicas must be from 1 to {MAX_REPLICAS}"
        if not 1 <= self.target_utilization <= 100:
            yield f"target_utilization must be from 1 to 100 percent, not {self.target_utilization}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterDeployment:
    """One deployment of an endpoint: an image and its share of the requests."""

    name: str
    image: str
    traffic: int = 100
    """Percentage of the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEndpoint:
    """An endpoint of a cluster.

    Raises:
        BadInputError: a name, a share or a size is not allowed.
    """

    name: str
    deployments: tuple[ClusterDeployment, ...]
    mirror: tuple[str, int] | None = None
    """A deployment that gets a copy of the requests, and the percentage of them; its answers are discarded."""
    resources: Resources = Resources()
    scale: Scale = Scale()
    namespace: str = ""
    """Empty: that of the command that applies the files."""
    has_keys: bool = True
    """The server asks for a key of the Secret `<name>-keys`."""
    init_timeout_s: float = 300.0
    """Time in which a replica must be ready."""
    host: str = ""
    """Host name outside of the cluster; empty: the endpoint is reached inside only."""
    gateway: str = ""
    """Gateway (NAME or NAMESPACE/NAME) of the host; empty: an Ingress."""
    load_balancer_port: int = 0
    """Port of a load balancer that the provider of the cluster makes, without TLS; 0: no load balancer."""
    allows_egress: bool = False
    """Replicas may open connections, as a script that calls other services does."""

    def __post_init__(self) -> None:
        check_endpoint_name(self.name)
        for fault in self._faults():
            raise BadInputError(fault)

    @property
    def keys_secret(self) -> str:
        """Name of the Secret with `keys.json`."""
        return f"{self.name}-keys"

    def workload_name(self, deployment: ClusterDeployment) -> str:
        """Return the name of the objects of a deployment."""
        return f"{self.name}-{deployment.name}"

    def _faults(self) -> Iterator[str]:
        names = [each.name for each in self.deployments]
        if not names:
            yield "an endpoint must have a deployment: name an image"
        for name in names:
            if not _LABEL.fullmatch(name) or len(name) > 20:
                yield f"a deployment's name must have 1 to 20 lower-case letters, digits and '-', but {name[:64]!r} does not"
        if len(set(names)) < len(names):
            yield f"deployments must have names of their own, but they are {', '.join(names)}"
        for each in self.deployments:
            parse_image_reference(each.image)
        yield from self._faults_of_traffic(names)
        yield from self._faults_of_address()
        yield from self.resources.faults()
        yield from self.scale.faults()
        if self.namespace and not _LABEL.fullmatch(self.namespace):
            yield f"a namespace must have at most 63 lower-case letters, digits and '-', but {self.namespace[:64]!r} does not"
        if self.host and (len(self.host) > 253 or not _HOST.fullmatch(self.host)):
            yield f"a host must be a name such as models.example.org, not {self.host[:64]!r}"
        if self.gateway and not all(_LABEL.fullmatch(part) for part in self.gateway.split("/", 1)):
            yield f"a gateway must be NAME or NAMESPACE/NAME, not {self.gateway[:64]!r}"

    def _faults_of_address(self) -> Iterator[str]:
        if not 0 <= self.load_balancer_port <= 65535:
            yield f"the port of the load balancer must be from 1 to 65535, not {self.load_balancer_port}"
        if self.load_balancer_port and (self.host or len(self.deployments) > 1):
            yield "a load balancer leads to one deployment and has no host name: give a host, or the load balancer"

    def _faults_of_traffic(self, names: list[str]) -> Iterator[str]:
        shares = {each.name: each.traffic for each in self.deployments}
        if any(share < 0 for share in shares.values()) or sum(shares.values()) != 100:
            found = ", ".join(f"{name} {share}" for name, share in shares.items())
            yield f"the shares of the deployments must sum to 100 percent, not {sum(shares.values())} ({found})"
        if self.mirror is not None:
            name, share = self.mirror
            if name not in names:
                yield f"the mirror must be a deployment ({', '.join(names)}), not {name[:64]!r}"
            if not 1 <= share <= 100:
                yield f"the share of the mirror must be from 1 to 100 percent, not {share}"
            if shares.get(name):
                yield f"the mirror {name} must have no share of the requests, not {shares[name]} percent"
        if (len(names) > 1 or self.mirror) and not (self.host and self.gateway):
            yield "several deployments need a host and a gateway, which splits the requests: give --host and --gateway"
