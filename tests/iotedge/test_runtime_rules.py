"""The runtime's pure rules: states of modules, restarts, the order of steps, and reports."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.iotedge.runtime import rules
from edgewright.iotedge.runtime.deployment import LAST, Code, Deployment, DeploymentError, ModuleSpec, Restart, parse
from edgewright.iotedge.runtime.report import difference
from edgewright.iotedge.runtime.rules import Action, Attempts, Observed, Restarts, State, Step
from tests.support.edge_modules import agent, module

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SPEC = ModuleSpec(name="one", image="image:1")
RUNNING = Observed(module="one", container="c", digest=SPEC.digest(), is_running=True, started_at=NOW)
ENDED = replace(RUNNING, is_running=False, exit_code=1, ended_at=NOW)


def spec(restart: str) -> ModuleSpec:
    return replace(SPEC, restart=Restart(restart))


@pytest.mark.parametrize(
    ("restart", "observed", "count", "state"),
    [
        ("always", RUNNING, 3, "running"),
        ("always", ENDED, 0, "backoff"),
        ("always", replace(ENDED, exit_code=0), 0, "backoff"),
        ("always", ENDED, 20, "failed"),
        ("always", replace(RUNNING, is_unhealthy=True), 0, "backoff"),
        ("on-failure", replace(ENDED, exit_code=0), 0, "stopped"),
        ("on-failure", ENDED, 0, "backoff"),
        ("on-unhealthy", ENDED, 0, "backoff"),
        ("on-unhealthy", replace(RUNNING, is_unhealthy=True), 0, "backoff"),
        ("never", ENDED, 0, "failed"),
        ("never", replace(ENDED, exit_code=0), 0, "stopped"),
        ("never", replace(RUNNING, is_unhealthy=True), 0, "unhealthy"),
        ("always", replace(ENDED, was_started=False), 0, "stopped"),
        ("always", None, 0, "unknown"),
    ],
)
def test_the_state_of_a_module_is_that_of_the_agent(restart: str, observed: Observed | None, count: int, state: str) -> None:
    assert rules.state_of(spec(restart), observed, Restarts(count)) is State(state)


def test_a_module_waits_twice_as_long_before_each_restart_and_at_most_five_minutes() -> None:
    assert [rules.cool_off_s(count) for count in (0, 1, 2, 3, 4, 5, 19)] == [10, 20, 40, 80, 160, 300, 300]


def planned(deployment: Deployment, *observed: Observed, after_s: float = 0, **memory: Any) -> list[tuple[str, str]]:
    steps = rules.plan(
        deployment,
        {each.module: each for each in observed},
        memory.get("restarts", {}),
        memory.get("attempts", {}),
        held=memory.get("held", ()),
        now=NOW + timedelta(seconds=after_s),
    )
    return [(step.action.value, step.module) for step in steps]


def test_a_module_that_has_ended_is_restarted_after_its_wait_only() -> None:
    deployment, once = Deployment((SPEC,)), {"restarts": {"one": Restarts(1, NOW)}}
    assert planned(deployment, ENDED, after_s=9) == []
    assert planned(deployment, ENDED, after_s=11) == [("restart", "one")]
    assert planned(deployment, ENDED, after_s=19, **once) == []
    assert planned(deployment, ENDED, after_s=21, **once) == [("restart", "one")]
    assert planned(deployment, ENDED, after_s=-60) == [("restart", "one")]
    assert planned(deployment, RUNNING, after_s=599, **once) == []
    assert planned(deployment, RUNNING, after_s=601, **once) == [("forget", "one")]
    assert planned(Deployment((spec("never"),)), ENDED, after_s=1e6) == []


def test_a_module_that_the_runtime_has_stopped_starts_at_once() -> None:
    assert planned(Deployment((SPEC,)), ENDED, held=["one"]) == [("start", "one")]
    assert planned(Deployment((replace(SPEC, is_running=False),)), ENDED, held=["one"]) == []
    assert planned(Deployment((replace(SPEC, is_running=False),)), RUNNING) == [("stop", "one")]


def test_a_failed_attempt_is_repeated_after_longer_and_longer_waits() -> None:
    deployment = Deployment((SPEC,))
    assert planned(deployment) == [("create", "one")]
    assert planned(deployment, after_s=9, attempts={"one": Attempts(1, NOW)}) == []
    assert planned(deployment, after_s=11, attempts={"one": Attempts(1, NOW)}) == [("create", "one")]
    assert planned(deployment, after_s=19, attempts={"one": Attempts(2, NOW)}) == []


def test_steps_are_in_the_start_order_and_removals_come_first() -> None:
    names = {"late": 7, "early": 1, "never-said": LAST, "mid": 3}
    deployment = Deployment(tuple(ModuleSpec(name=name, image="i", start_order=order) for name, order in names.items()))
    gone = replace(RUNNING, module="gone", start_order=1)
    assert planned(deployment, gone) == [
        ("remove", "gone"),
        ("create", "early"),
        ("create", "mid"),
        ("create", "late"),
        ("create", "never-said"),
    ]
    running = [replace(RUNNING, module=name) for name in names]
    assert rules.shutdown_order(deployment, running) == ["never-said", "late", "mid", "early"]


def test_only_what_a_container_is_made_of_makes_a_new_one() -> None:
    def made(**changes: Any) -> str:
        [one] = parse(agent(one=module(**changes))).modules
        return one.digest()

    same = made()
    assert {made(restartPolicy="never"), made(status="stopped"), made(order=4)} == {same}
    others = {made(version="2"), made(env={"A": {"value": "b"}}), made(script="exit 1"), made(options={"Memory": 8 << 20})}
    assert len(others) == 4
    assert same not in others


def test_the_wait_of_one_module_does_not_keep_another_from_its_step() -> None:
    other = replace(SPEC, name="other")
    steps = rules.plan(Deployment((SPEC, other)), {}, {}, {"one": Attempts(9, NOW)}, now=NOW)
    assert steps == [Step(Action.CREATE, "other")]


def test_a_login_is_that_of_the_registry_of_an_image() -> None:
    desired = agent()
    login = {"username": "u", "password": "p", "address": "registry.example"}
    desired["runtime"]["settings"]["registryCredentials"] = {"r": login}
    deployment = parse({**desired, "$version": 7})
    assert deployment.login_for("registry.example/a:1") == {"username": "u", "password": "p"}
    assert deployment.login_for("other.example/a:1") is None
    assert deployment.version == 7
    assert "'p'" not in repr(deployment)


@pytest.mark.parametrize(("schema", "code"), [("1.2", None), ("1.1.0", None), ("2.0", 412), ("1", 412), (1.1, 412), (None, 412)])
def test_another_major_version_of_the_schema_is_412(schema: object, code: int | None) -> None:
    desired = {**agent(), "schemaVersion": schema}
    if code is None:
        parse(desired)
        return
    with pytest.raises(DeploymentError) as caught:
        parse(desired)
    assert caught.value.code is Code(code)


DOCUMENTS = st.recursive(
    st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(st.sampled_from("abcd"), DOCUMENTS, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """Apply a patch by the pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_the_patch_of_a_report_makes_the_new_one_from_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert merged(before, difference(before, after)) == after
