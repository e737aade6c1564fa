"""Fixtures of all tests: components that may be missing, golden files, and the distribution of tests to workers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
OFF_THE_PATH = (Path("/usr/sbin"), Path("/sbin"), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
"""Directories of Debian with programs that an ordinary PATH leaves out."""


def pytest_configure() -> None:
    """React to Ctrl-C, also in child processes: a shell's background job ignores it, and its children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The time of one example depends on the machine. Hypothesis's own profile for CI, with fixed examples, stays in force.
    hypothesis.settings.register_profile("edgewright", parent=hypothesis.settings(), deadline=None)
    hypothesis.settings.load_profile("edgewright")


LONGEST_FIRST = (
    "tests/acceptance/test_demo.py",
    "tests/edge_agent/test_renewal_of_a_device.py",
    "tests/npu/hardware/test_npu_tops.py",
)
"""Files that take the longest start first, so that no worker waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first. pytest-xdist gives whole files to its workers, because a file shares its fixtures."""
    rank = {ROOT / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.fixture(scope="session")
def require() -> Callable[[str], Path]:
    """Return the path of a program, or skip the test; with EDGEWRIGHT_REQUIRE=all a missing program fails it."""

    def find(program: str) -> Path:
        found = shutil.which(program) or shutil.which(program, path=os.pathsep.join(map(str, OFF_THE_PATH)))
        if found:
            return Path(found)
        message = f"{program} is not installed: sh scripts/system-packages.sh installs it"
        if os.environ.get("EDGEWRIGHT_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
def require_package() -> Callable[[str], None]:
    """Go on if a Python package is installed, else skip the test; with EDGEWRIGHT_REQUIRE=all a missing package fails it."""

    def find(package: str) -> None:
        if find_spec(package):
            return
        message = f"the package {package} is not installed: make setup installs it where the package index offers it"
        if os.environ.get("EDGEWRIGHT_REQUIRE") == "all":
            pytest.fail(message)
        pytest.skip(message)

    return find


@pytest.fixture(scope="session")
def clients_python() -> Path:
    """Return the interpreter with independent clients of the scoring server, or skip; with EDGEWRIGHT_REQUIRE=all fail."""
    path = Path(sys.prefix) / "clients" / "bin" / "python"
    if path.is_file():
        return path
    message = f"{path} does not exist: make components installs it"
    if os.environ.get("EDGEWRIGHT_REQUIRE") == "all":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with tests/golden/<name>; `make golden` rewrites the file instead."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("EDGEWRIGHT_GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text

    return compare
