"""The scripts of examples/ run as their docstrings state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import read_package
from tests.support.running_cloud import RunningCloud
from tests.support.scripted_devices import enrol_scripted
from tests.support.small_packages import make_package

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> list[str]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output.splitlines()


def test_a_pipeline_becomes_a_package_measured_in_every_precision(tmp_path: Path) -> None:
    output = ended(example("package_a_pipeline.py", tmp_path))
    assert [line.split(":")[0] for line in output[-5:-1]] == ["scikit-learn itself", "fp16", "fp32", "int8"]
    accuracies = [float(line.split("accuracy ")[1][:6]) for line in output[-5:-1]]
    assert min(accuracies) > 0.93
    assert read_package(OciLayout.open(tmp_path / "package")).name == "digits"


def test_a_network_on_the_simulated_board_gives_the_bits_of_the_model(tmp_path: Path, require: Callable[[str], Path]) -> None:
    require("verilator")
    output = ended(example("run_on_a_simulated_npu.py", tmp_path))
    assert [line.split(":", 1)[1].split(" at ")[0] for line in output[-3:-1]] == [
        " functional model of npu-sim-8-large on the processor: no serial port to probe",
        " board npu-sim-8-large",
    ]
    assert output[-1] == "board and functional model: equal in every bit"


def test_a_rollout_is_published_started_and_watched(trusting_cloud: RunningCloud, publisher: Path, tmp_path: Path) -> None:
    east = [enrol_scripted(trusting_cloud, name, tmp_path, labels={"site": "east"}) for name in ("east-1", "east-2")]
    package = make_package(tmp_path, "scripted").layout.path
    process = example(
        "roll_out_and_watch.py", package, "--key", publisher, "--label", "site=east", EDGEWRIGHT_CLOUD=str(trusting_cloud.state)
    )
    for device in east:
        device.run_desired(wait_s=60)
    output = ended(process)
    assert output[0].startswith("published scripted:1, ")
    assert output[-2:] == ["rollout 1 is completed, wave 2: east-1 running, east-2 running", "2 of 2 devices running"]
