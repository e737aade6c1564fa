"""The endpoint engine: observe each endpoint, ask the rules for the next step, and carry it out.

    drive_endpoints    loop until cancelled: advance every endpoint of this cloud, each in a thread of its own
    advance            carry out steps of one endpoint until the rules wait

The engine is level-triggered: it reads the tables, the files and the locks each time, so it may be killed between any two
statements. The servers do not depend on it: they continue without this process.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread

from cloud.context import Cloud
from cloud.db.database import Counter
from cloud.endpoints.content import (
    EndpointFolder,
    RegistryAccess,
    log_differences,
    prepare,
    remove_unused,
    with_image,
    with_variables,
)
from cloud.endpoints.image_builds import image_of, queue_build
from cloud.endpoints.rules import (
    BuildImage,
    EndpointImage,
    Observed,
    Prepare,
    Remove,
    Step,
    Stop,
    Store,
    Supervise,
    Wait,
    WriteKeys,
    next_step,
)
from cloud.endpoints.store import StoredEndpoint, all_endpoints, find_endpoint, remove, save
from cloud.endpoints.supervisors import Supervisors, notify
from cloud.environments import store as environments
from edgewright.contracts.endpoints import EndpointKeys, EndpointState, EndpointTarget
from edgewright.contracts.environments.definition import parse_environment_reference
from edgewright.contracts.environments.images import BuildState
from edgewright.errors import EdgewrightError

POLL_INTERVAL_S = 0.2
IDLE_INTERVAL_S = 1.0
_MAX_STEPS = 8
_LOG = logging.getLogger("edgewright.cloud.endpoints")


async def drive_endpoints(cloud: Cloud) -> None:
    """Advance all endpoints until cancelled; the service restarts this task after an error."""
    engine = Engine(cloud)
    running: dict[str, asyncio.Task[None]] = {}
    while True:
        seen = cloud.changes.number(Counter.CHANGES)
        endpoints = await to_thread.run_sync(engine.read)
        for endpoint in endpoints:
            if endpoint.name not in running or running[endpoint.name].done():
                running[endpoint.name] = asyncio.create_task(_advance(engine, endpoint.name))
        is_busy = any(each.state is not EndpointState.HEALTHY or each.is_deleted for each in endpoints)
        await cloud.changes.wait(Counter.CHANGES, seen, POLL_INTERVAL_S if is_busy else IDLE_INTERVAL_S)
        await asyncio.sleep(POLL_INTERVAL_S / 2)


async def _advance(engine: Engine, name: str) -> None:
    try:
        await to_thread.run_sync(engine.advance, name)
    except Exception:  # noqa: BLE001  an error of one endpoint must not stop the others
        _LOG.exception("endpoint failed endpoint=%s", name)


class Engine:
    """Steps of the endpoints of one cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._owner = cloud.owner
        self._supervisors = Supervisors()

    def read(self) -> list[StoredEndpoint]:
        """Return the endpoints that this cloud runs."""
        with self._cloud.database.reading() as connection:
            return [each for each in all_endpoints(connection) if each.owner == self._owner]

    def advance(self, name: str) -> None:
        """Carry out the steps of one endpoint until the rules wait."""
        folder = folder_of(self._cloud, name)
        self._supervisors.reap(folder.service)
        for _ in range(_MAX_STEPS):
            with self._cloud.database.reading() as connection:
                endpoint = find_endpoint(connection, name)
                image = EndpointImage() if endpoint is None else image_of(connection, endpoint)
            if endpoint is None:
                return
            step = next_step(endpoint.rules(), observe(folder, endpoint.keys, image), datetime.now(UTC))
            self._carry_out(step, endpoint, folder, image)
            if isinstance(step, Wait | Supervise | Stop):
                return

    def _carry_out(self, step: Step, endpoint: StoredEndpoint, folder: EndpointFolder, image: EndpointImage) -> None:
        match step:
            case BuildImage():
                self._build_image(endpoint, folder)
            case Prepare():
                self._prepare(endpoint, folder, image.name)
            case WriteKeys():
                folder.write_keys(endpoint.keys)
            case Supervise():
                self._supervisors.start(folder.service)
            case Stop():
                self._supervisors.stop(folder.service)
            case Remove():
                shutil.rmtree(folder.path, ignore_errors=True)
                with self._cloud.database.transaction() as connection:
                    remove(connection, endpoint.name)
            case Store():
                self._store(endpoint, step)
                if step.state is EndpointState.HEALTHY:
                    remove_unused(folder, (endpoint.generation, step.answering))
            case Wait():
                return
        _LOG.info("carried out step endpoint=%s step=%s", endpoint.name, step)

    def _build_image(self, endpoint: StoredEndpoint, folder: EndpointFolder) -> None:
        try:
            record = queue_build(self._cloud.blobs, endpoint, datetime.now(UTC))
        except EdgewrightError as error:
            reason = f"its image cannot be built: {error}"
            self._store(endpoint, Store(state=EndpointState.FAILED, reason=reason, answering=endpoint.answering))
            return
        if record.state is BuildState.SUCCEEDED:
            self._prepare(endpoint, folder, str(record))

    def _prepare(self, endpoint: StoredEndpoint, folder: EndpointFolder, image: str) -> None:
        """Prepare the files of a generation; `image` is NAME:VERSION of the image that was built for it, or empty."""
        try:
            if image:
                self._restart_clock(endpoint)
                endpoint = with_image(endpoint, f"{urlsplit(self._cloud.url).netloc}/{image}")
            else:
                endpoint = self._with_environment(endpoint, folder)
            prepare(folder, endpoint, self._cloud.blobs, _registry(self._cloud))
        except EdgewrightError as error:
            reason = f"its files cannot be prepared: {error}"
            self._store(endpoint, Store(state=EndpointState.FAILED, reason=reason, answering=endpoint.answering))
        else:
            notify(folder.service)

    def _with_environment(self, endpoint: StoredEndpoint, folder: EndpointFolder) -> StoredEndpoint:
        if not endpoint.deployment.environment:
            return endpoint
        with self._cloud.database.reading() as connection:
            found = environments.find(connection, parse_environment_reference(endpoint.deployment.environment))
        if endpoint.deployment.target is EndpointTarget.LOCAL:
            folder.path.mkdir(parents=True, exist_ok=True)
            log_differences(folder, f"{found.name}:{found.version}", found.environment.pip_packages)
        return with_variables(endpoint, found.environment.variables)

    def _restart_clock(self, endpoint: StoredEndpoint) -> None:
        """Count the time in which the endpoint must be ready from now: the build of its image took some."""
        self._change(endpoint, deployed_at=datetime.now(UTC))

    def _store(self, endpoint: StoredEndpoint, step: Store) -> None:
        """Store a state."""
        now = datetime.now(UTC)
        self._change(endpoint, state=step.state, reason=step.reason, answering=step.answering, changed_at=now)

    def _change(self, endpoint: StoredEndpoint, **values: Any) -> None:
        """Change the stored endpoint, unless it got a new deployment meanwhile."""
        with self._cloud.database.transaction() as connection:
            current = find_endpoint(connection, endpoint.name)
            if current is not None and current.generation == endpoint.generation:
                save(connection, replace(current, **values))


def observe(folder: EndpointFolder, keys: EndpointKeys, image: EndpointImage) -> Observed:
    """Return the observed facts about an endpoint."""
    desired = folder.service.desired()
    return Observed(
        image=image,
        is_supervised=folder.service.is_supervised(),
        prepared=None if desired is None else desired.generation.number,
        has_current_keys=folder.has_keys(keys),
        status=folder.service.status(),
    )


def folder_of(cloud: Cloud, name: str) -> EndpointFolder:
    """Return the folder of an endpoint."""
    return EndpointFolder(_root(cloud) / name)


def _registry(cloud: Cloud) -> RegistryAccess:
    return RegistryAccess(address=urlsplit(cloud.url).netloc, token_file=str(cloud.state.token_file))


def _root(cloud: Cloud) -> Path:
    return cloud.state.path / "endpoints"
