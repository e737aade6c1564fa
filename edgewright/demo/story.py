"""The steps of the demo: train, convert, package, enrol the devices, roll out, score, serve the model as an endpoint, update the
head, halt a bad version.

Every step but the training runs edgewright's own commands, exactly as a user types them. The results are written to
`summary.json` and printed as closing tables.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.contracts.files import write_atomically
from edgewright.contracts.wire import encode_readable
from edgewright.demo import container_device
from edgewright.demo.container_device import ContainerEngine, container_engine, show_container
from edgewright.demo.endpoint import serve_as_endpoint
from edgewright.demo.npu_device import DEVICE, PROFILE, SCORED, NpuBoard, missing_component, pull_the_cable, start_board
from edgewright.demo.processes import Shell, wait_until
from edgewright.demo.reuse import SUMMARY, check_reusable, copy_results
from edgewright.demo.scoring import DeviceScores, score_everywhere
from edgewright.demo.show import heading, say, show_summary, wait_for_interrupt
from edgewright.demo.tampering import spoil_heads
from edgewright.errors import OperationError

START_S = 60.0
ROLLOUT_S = 120.0
TRIAL = "2s"

DEVICES = {"gateway-1": "x86-64-vnni", "robot-1": "jetson-orin-nano", "kiosk-1": "generic-x86-64"}
"""Three devices and their hardware profiles, which differ in their fastest variant."""


@dataclass
class Demo:
    """State that the steps share."""

    directory: Path
    shell: Shell
    addresses: dict[str, str] = field(default_factory=dict)
    """The scoring address of each device."""
    board: NpuBoard | None = None
    """None on a machine that cannot simulate one."""
    engine: ContainerEngine | None = None
    """None on a machine without a container engine."""


def run_demo(
    directory: Path, *, keep: bool, no_broker: bool = False, no_npu: bool = False, reuse: Path | None = None
) -> dict[str, Any]:
    """Run all steps below `directory` (emptied first) and return the content of `summary.json`.

    With `reuse`, the models and packages of an earlier demo replace training and building.

    Raises:
        BadInputError: there is no finished demo to reuse, or it was built for other devices.
        OperationError: a step failed, or its result is not the expected one.
    """
    started = time.monotonic()
    if reuse is not None:
        check_reusable(reuse, directory, board_profile=None if no_npu or missing_component() else PROFILE)
    demo = prepare(directory)
    with ExitStack() as processes:
        demo.board = None if no_npu else start_board(demo.shell, processes)
        if reuse is None:
            train(demo)
            build_package(demo, "v1")
        else:
            heading(f"Copy the models and packages of {reuse}")
            copy_results(reuse, directory)
        url = start_cloud(demo, processes, no_broker=no_broker)
        demo.engine = processes.enter_context(container_engine(demo.shell))
        start_devices(demo, processes)
        roll_out(demo, "v1")
        scores = score_everywhere(demo.addresses, directory / "heldout.npz", directory / "source-v1.npz", {DEVICE: SCORED})
        bytes_v1 = bytes_pulled(demo)
        endpoint = serve_as_endpoint(demo.shell)
        if reuse is None:
            build_package(demo, "v2")
        roll_out(demo, "v2")
        bytes_v2 = bytes_pulled(demo)
        pulled = pull_the_cable(demo.board, demo.addresses[DEVICE], directory / "heldout.npz") if demo.board else None
        container = show_container(demo.engine, directory / container_device.DEVICE) if demo.engine else None
        bad_version = publish_bad_version(demo)
        summary = {
            **summarise(demo, scores, {"v1": bytes_v1, "v2": bytes_v2}, bad_version),
            "npu_board": pulled,
            "container": container,
            "endpoint": endpoint,
        }
        write_atomically(directory / SUMMARY, encode_readable(summary))
        show_summary(summary, time.monotonic() - started)
        if keep:
            wait_for_interrupt(url, directory / "cloud")
    return summary


def prepare(directory: Path) -> Demo:
    """Empty the directory of the demo.

    Raises:
        OperationError: the directory holds something that is not a demo.
    """
    marker = directory / ".edgewright-demo"
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        raise OperationError(f"{directory} holds something else: choose another directory with --output")
    shutil.rmtree(directory, ignore_errors=True)
    (directory / "logs").mkdir(parents=True)
    marker.touch()
    os.environ["EDGEWRIGHT_CLOUD"] = str((directory / "cloud").resolve())
    return Demo(directory, Shell(directory, directory / "logs"))


def train(demo: Demo) -> None:
    """Train version 1, then its head alone for version 2."""
    heading("Train a small residual network on 1,437 real scans of digits")
    say(demo.shell.program("edgewright.demo.train_digits", ".").strip().splitlines()[-1])


def build_package(demo: Demo, version: str) -> None:
    """Convert, quantize, measure and pack one version."""
    heading(f"Convert, quantize and pack {version}")
    build = f"build-{version}"
    run = demo.shell.run
    run("convert", f"digits-{version}.keras", "-o", build, "--samples", "calibration.npz")
    schemes = ("fp16", "int8", "npu-int8") if demo.board else ("fp16", "int8")
    run("quantize", build, *(part for scheme in schemes for part in ("--scheme", scheme)), "--samples", "calibration.npz")
    if demo.board:
        say(run("compile", build, "--profile", PROFILE).strip().splitlines()[-1])
    say(run("evaluate", build, "--samples", "heldout.npz"))
    run("packages", "build", build, "-o", f"package-{version}", "--name", "digits")


def start_cloud(demo: Demo, processes: ExitStack, *, no_broker: bool) -> str:
    """Generate a publisher's key, start a cloud that trusts it, and return its address."""
    heading("Start the cloud")
    demo.shell.run("packages", "keygen", "publisher.key")
    context = demo.directory / "cloud" / "client.json"
    arguments = ["cloud", "up", "--state", "cloud", "--port", "0", "--trust", "publisher.key.pub"]
    arguments += ["--no-broker"] if no_broker else []
    process = processes.enter_context(demo.shell.background("cloud", *arguments))

    def ready() -> bool:
        if process.poll() is not None:
            raise OperationError(f"the cloud ended: {demo.shell.log_tail('cloud')}")
        return context.exists() and demo.shell.query("devices", "list") is not None

    wait_until(ready, what="the start of the cloud", timeout_s=START_S)
    url = str(read_json(context)["url"])
    say(f"the cloud answers at {url}")
    return url


def start_devices(demo: Demo, processes: ExitStack) -> None:
    """Enrol each device with a one-time token and start its agent."""
    devices = dict(DEVICES)
    if demo.board:
        devices[DEVICE] = PROFILE
    if demo.engine:
        devices[container_device.DEVICE] = container_device.PROFILE
    heading(f"Enrol {len(devices)} devices and start their agents")
    for device, profile in devices.items():
        token = str(demo.shell.json("devices", "token", "--device", device)["token"])
        demo.shell.run(
            "agent", "enrol", "--token", token, "--name", device, "--profile", profile, "--state", device, secret=token
        )
        if demo.board and device == DEVICE:
            demo.board.write_settings(demo.directory / device)
        if demo.engine and device == container_device.DEVICE:
            demo.engine.write_settings(demo.directory / device)
        processes.enter_context(demo.shell.background(device, "agent", "run", "--state", device, "--port", "0"))
    demo.addresses.update({device: scoring_address(demo, device) for device in devices})


def scoring_address(demo: Demo, device: str) -> str:
    """Wait until a device's agent runs, and return its scoring address."""
    status: dict[str, Any] = {}

    def running() -> bool:
        status.update(demo.shell.query("agent", "status", "--state", device) or {})
        return bool(status.get("agent_running") and status.get("scoring_url"))

    wait_until(running, what=f"the start of {device}", timeout_s=START_S)
    return str(status["scoring_url"])


def roll_out(demo: Demo, version: str) -> None:
    """Publish a package and roll it out to all devices, after a canary."""
    heading(f"Publish {version} and roll it out: one canary, then all")
    rollout = start_rollout(demo, version)
    finished = wait_for_rollout(demo, rollout)
    if finished["state"] != "completed":
        raise OperationError(f"the rollout of {version} ended {finished['state']}: {finished['reason']}")
    say(demo.shell.run("devices", "list"))


def publish_bad_version(demo: Demo) -> dict[str, Any]:
    """Publish a version with wrong labels and return how its rollout was halted."""
    heading("Publish v3, whose heads have their classes in the wrong order: its labels are wrong")
    shutil.copytree(demo.directory / "build-v2", demo.directory / "build-v3")
    spoil_heads(demo.directory / "build-v3")
    demo.shell.run("packages", "build", "build-v3", "-o", "package-v3", "--name", "digits", "--allow-mismatch")
    finished = wait_for_rollout(demo, start_rollout(demo, "v3"))
    touched = [device for device in finished["devices"] if device["desired_number"] is not None]
    refusals = [device["reason"] for device in touched if device["reason"]]
    say(f"rollout {finished['state']}: {finished['reason']}")
    return {
        "halted": finished["state"] == "halted",
        "devices_touched": len(touched),
        "reason": refusals[0] if refusals else finished["reason"],
    }


def start_rollout(demo: Demo, version: str) -> int:
    """Publish `package-<version>` and start its rollout; return the rollout's number."""
    demo.shell.run("publish", f"package-{version}", "--key", "publisher.key")
    reference = f"digits:{version.removeprefix('v')}"
    created = demo.shell.json("rollouts", "create", reference, "--waves", "1,100%", "--trial", TRIAL)
    return int(created["rollout"])


def wait_for_rollout(demo: Demo, rollout: int) -> Any:
    """Follow a rollout to its end and return its record."""
    demo.shell.attempt("rollouts", "watch", str(rollout), timeout_s=ROLLOUT_S)
    return demo.shell.json("rollouts", "show", str(rollout))


def bytes_pulled(demo: Demo) -> int:
    """Return the bytes that all devices together pulled for the version that they run."""
    return sum(device["reported"]["bytes_pulled"] for device in demo.shell.json("devices", "list"))


def summarise(demo: Demo, scores: dict[str, DeviceScores], pulled: dict[str, int], bad_version: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `summary.json`: variants, devices, bytes pulled and the bad version."""
    with np.load(demo.directory / "source-v1.npz") as source, np.load(demo.directory / "heldout.npz") as heldout:
        source_accuracy = float((source["scores"].argmax(axis=1) == heldout["labels"]).mean())
    evaluated = demo.shell.json("evaluate", "build-v1", "--samples", "heldout.npz")
    sizes = {
        path.name: read_json(path / "variant.json")["size_bytes"] for path in (demo.directory / "build-v1/variants").iterdir()
    }
    records = demo.shell.json("devices", "list")
    return {
        "source_accuracy": source_accuracy,
        "variants": [
            {
                "name": row["variant"],
                "backend": row["backend"],
                "precision": row["precision"],
                "accuracy": row["accuracy"],
                "size_bytes": sizes[row["variant"]],
                "latency_ms": row["latency_ms"]["p50"],
            }
            for row in evaluated
        ],
        "devices": [device_summary(record, scores[record["device"]]) for record in records],
        "bytes_pulled": pulled,
        "bad_version": bad_version,
        "telemetry_messages": sum(record["telemetry_count"] for record in records),
    }


def device_summary(record: dict[str, Any], scores: DeviceScores) -> dict[str, Any]:
    """Return one device's entry of the summary."""
    running = record["reported"]["running"]
    return {
        "id": record["device"],
        "profile": record["profile"],
        "variant": running["variant"],
        "version": running["version"],
        "state": record["reported"]["state"],
        "scored": scores.count,
        "agreement": scores.agreement,
    }


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_bytes())
