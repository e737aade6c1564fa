"""The loop of the runtime: read the deployment, take the next steps, report; again when something changes, else every 2 s.

A step that fails does not keep the other modules from theirs. It is tried again, with longer and longer waits, and the status of
the deployment is 500 until it succeeds. A deployment that cannot be applied (400, 412, 417) leaves the modules of the one before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event
from typing import Any, Protocol

from edgewright.errors import EdgewrightError, OperationError, UnreachableError
from edgewright.iotedge.runtime import rules
from edgewright.iotedge.runtime.deployment import Code, Deployment, DeploymentError, ModuleSpec, parse
from edgewright.iotedge.runtime.engine import Containers, Surroundings
from edgewright.iotedge.runtime.report import Situation, Status, report
from edgewright.iotedge.runtime.rules import Action, Attempts, Observed, Restarts, Step
from edgewright.iotedge.runtime.storage import Storage

_LOG = logging.getLogger(__name__)

INTERVAL_S = 2.0


class Source(Protocol):
    """The place that deployments come from and reports go to: a file, or the twin of `$edgeAgent`."""

    def desired(self) -> Mapping[str, Any] | None:
        """Return the current desired properties, or None while they are not known."""

    def accepted(self, desired: Mapping[str, Any]) -> None:
        """Note that desired properties are being applied."""

    def report(self, properties: Mapping[str, Any]) -> None:
        """Send reported properties."""

    def surroundings(self, spec: ModuleSpec) -> Surroundings:
        """Return the environment of a module; raise `EdgewrightError` without its identity."""

    def removed(self, module: str) -> None:
        """Note that a module is gone."""


@dataclass(slots=True)
class Runtime:
    """The modules of one device."""

    containers: Containers
    storage: Storage
    source: Source
    say: Callable[[str], None]
    unit_s: float = rules.COOL_OFF_S
    deployment: Deployment | None = None
    failures: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, Attempts] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    platform: dict[str, str] = field(default_factory=dict)
    _desired: Mapping[str, Any] | None = None
    _refusal: Status | None = None
    _said: dict[str, str] = field(default_factory=dict)

    def run(self, stop: Event, wake: Event, on_report: Callable[[dict[str, Any]], None] = lambda _properties: None) -> None:
        """Reconcile and report until `stop` is set; `wake` makes the next turn begin at once."""
        while not stop.is_set():
            wake.clear()
            on_report(self.turn())
            wake.wait(INTERVAL_S)

    def turn(self) -> dict[str, Any]:
        """Take the next steps, report, and return the reported properties."""
        self._read()
        observed: dict[str, Observed] = {}
        status = self._refusal or Status()
        try:
            self.platform = self.platform or self.containers.platform()
            observed = self._reconcile()
        except UnreachableError as error:
            self.platform = {}
            status = Status(Code.FAILED, str(error))
        if status.code is Code.SUCCESS and self.failures:
            status = Status(Code.FAILED, "; ".join(f"{name}: {text}" for name, text in sorted(self.failures.items())))
        properties = self._report(status, observed)
        self._announce(properties)
        return properties

    def shut_down(self, *, keeps: bool) -> None:
        """Stop the modules in the reverse of their start order, unless `keeps`, and report that the agent does not run."""
        observed: dict[str, Observed] = {}
        memory = self.storage.load()
        try:
            for name in [] if keeps else rules.shutdown_order(self.deployment, list(self.containers.observe().values())):
                self.containers.stop(name)
                memory.held.add(name)
                self.say(f"module {name} stopped")
            self.storage.save(memory)
            observed = self.containers.observe()
        except EdgewrightError as error:
            self.say(str(error))
        self._report(Status(Code.UNKNOWN, "Agent is not running"), observed)

    def _read(self) -> None:
        desired = self.source.desired()
        if desired is None or desired == self._desired:
            return
        self._desired = desired
        try:
            self.deployment = parse(desired)
        except DeploymentError as error:
            self._refusal = Status(error.code, str(error))
            return
        self._refusal = None
        self.failures, self.attempts = {}, {}
        self.source.accepted(desired)

    def _reconcile(self) -> dict[str, Observed]:
        """Take the steps of a plan, and return the containers afterwards."""
        observed = self.containers.observe()
        if self.deployment is None:
            return observed
        memory = self.storage.load()
        steps = rules.plan(
            self.deployment,
            observed,
            memory.restarts,
            self.attempts,
            held=memory.held,
            now=datetime.now(UTC),
            unit_s=self.unit_s,
        )
        for step in steps:
            self._take(step, self.deployment)
        return self.containers.observe() if steps else observed

    def _take(self, step: Step, deployment: Deployment) -> None:
        """Take one step; note its failure, or its success in the stored state."""
        _LOG.info("step action=%s module=%s", step.action.value, step.module)
        try:
            self._act(step, deployment)
        except UnreachableError:  # the engine: no other step would succeed
            raise
        except EdgewrightError as error:
            self._failed(step, error)
        else:
            self.failures.pop(step.module, None)
            self.attempts.pop(step.module, None)
            self._remember(step)

    def _act(self, step: Step, deployment: Deployment) -> None:
        spec = deployment.module(step.module)
        if step.action is Action.REMOVE or spec is None:
            self.containers.remove(step.module)
            self.source.removed(step.module)
        elif step.action is Action.CREATE:
            self.containers.create(spec, deployment, self._surroundings(spec), self.say)
        elif step.action is Action.START:
            self.containers.start(spec)
        elif step.action is Action.STOP:
            self.containers.stop(spec.name)
        elif step.action is Action.RESTART:
            self.containers.restart(spec)

    def _surroundings(self, spec: ModuleSpec) -> Surroundings:
        try:
            return self.source.surroundings(spec)
        except UnreachableError as error:
            raise OperationError(f"the module needs an identity of the hub: {error}") from error

    def _failed(self, step: Step, error: EdgewrightError) -> None:
        previous = self.attempts.get(step.module)
        self.failures[step.module] = str(error)
        self.attempts[step.module] = Attempts(1 if previous is None else previous.count + 1, datetime.now(UTC))

    def _remember(self, step: Step) -> None:
        memory = self.storage.load()
        if step.action is Action.RESTART:
            count = memory.restarts.get(step.module, Restarts()).count
            memory.restarts[step.module] = Restarts(count + 1, datetime.now(UTC))
        else:
            memory.restarts.pop(step.module, None)
        memory.held.discard(step.module)
        if step.action is Action.STOP:
            memory.held.add(step.module)
        self.storage.save(memory)

    def _report(self, status: Status, observed: Mapping[str, Observed]) -> dict[str, Any]:
        situation = Situation(
            status=status,
            desired_version=0 if self.deployment is None else self.deployment.version,
            platform=self.platform,
            deployment=self.deployment,
            observed=observed,
            restarts=self.storage.load().restarts,
            failures=self.failures,
            started_at=self.started_at,
        )
        properties = report(situation)
        try:
            self.source.report(properties)
        except EdgewrightError as error:
            self._say_once("report", str(error))
        return properties

    def _announce(self, properties: Mapping[str, Any]) -> None:
        """Say what has changed since the last time."""
        status = properties["lastDesiredStatus"]
        for name, module in properties["modules"].items():
            text = module["statusDescription"]
            detail = "" if text == module["runtimeStatus"] else f": {text}"
            self._say_once(name, f"module {name} {module['runtimeStatus']}{detail}")
        for name in set(self._said) - {*properties["modules"], "report", "$status"}:
            del self._said[name]
            self.say(f"module {name} removed")
        self._say_once("$status", f"deployment {status['code']}{': ' if status['description'] else ''}{status['description']}")

    def _say_once(self, subject: str, text: str) -> None:
        if self._said.get(subject) != text:
            self._said[subject] = text
            self.say(text)
