"""Methods of `CloudClient` for environments."""

from __future__ import annotations

from urllib.parse import quote

from edgewright.contracts.environments.definition import (
    Environment,
    EnvironmentReference,
    EnvironmentVersion,
    check_environment_name,
    find_version,
)
from edgewright.sdk.calls import Calls


class EnvironmentCalls(Calls):
    """Create, list and show environments."""

    def create_environment(self, environment: Environment) -> EnvironmentVersion:
        """Register a definition as the next version of its name; return the newest version if nothing changed."""
        return self._send("POST", "/v1/environments", EnvironmentVersion, environment)

    def list_environments(self) -> tuple[EnvironmentVersion, ...]:
        """Return the newest version of every environment, by name."""
        return self._get("/v1/environments", tuple[EnvironmentVersion, ...])

    def environment_versions(self, name: str) -> tuple[EnvironmentVersion, ...]:
        """Return the versions of an environment, oldest first; raise `NotFoundError` with the nearest names."""
        check_environment_name(name)
        return self._get(f"/v1/environments/{quote(name, safe='')}", tuple[EnvironmentVersion, ...])

    def environment(self, name: str, version: int | None = None) -> EnvironmentVersion:
        """Return one version of an environment, by default the newest."""
        return find_version(self.environment_versions(name), EnvironmentReference(name, version))
