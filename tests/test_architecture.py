"""Sizes, layers, and which modules may be loaded where. `make check` runs these with the linters."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from edgewright.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edgewright", "convert", "quantize", "accel", "edge_agent", "cloud", "hardware_profiles")
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400

# Each entry has its reason; an entry that is no longer needed fails the test.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def python_files() -> list[Path]:
    """Return every Python file of the product and its tests."""
    folders = [ROOT / name for name in (*PACKAGES, "tests", "benchmarks", "examples")]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def test_no_module_is_over_400_lines_but_those_with_a_reason() -> None:
    too_long = {str(path.relative_to(ROOT)) for path in python_files() if path.read_text("utf-8").count("\n") > MAX_MODULE_LINES}
    assert too_long == set(LONG_MODULES)


def test_no_function_is_over_60_lines_but_those_with_a_reason() -> None:
    too_long = {name for path in python_files() for name in long_functions(path)}
    assert too_long == set(LONG_FUNCTIONS)


def long_functions(path: Path) -> list[str]:
    """Return `file:function` for each function that is over the limit."""
    tree = ast.parse(path.read_text("utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        f"{path.relative_to(ROOT)}:{function.name}"
        for function in functions
        if (function.end_lineno or 0) - function.lineno + 1 > MAX_FUNCTION_LINES
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_line_in_the_root_command_is_the_commands_own(name: str) -> None:
    module_name, _, attribute = COMMANDS[name].where.partition(":")
    command: click.Command = getattr(import_module(module_name), attribute)
    assert (command.help or "").split("\n\n")[0].replace("\n", " ").strip() == COMMANDS[name].help


def loaded_by(code: str) -> set[str]:
    """Return the top-level names in `sys.modules` of a fresh interpreter after `code`."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return {module.partition(".")[0] for module in finished.stdout.splitlines()[-1].split()}


def test_help_loads_no_command() -> None:
    code = "from click.testing import CliRunner; from edgewright.cli import main; CliRunner().invoke(main, ['--help'])"
    assert not loaded_by(code) & {"numpy", "onnx", "onnxruntime", "keras", "tensorflow", "sqlalchemy", "convert", "cloud"}


def test_the_resident_agent_loads_no_framework_and_no_runtime() -> None:
    loaded = loaded_by("import edge_agent.agent, edge_agent.cli")
    assert not loaded & {
        "tensorflow",
        "keras",
        "torch",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "numpy",
        "sklearn",
        "convert",
        "quantize",
    }


MAX_FILES_PER_FOLDER = 15
MORE_FILES = {
    "accel/npu": "its stages have folders; the modules here are the language that all of them speak",
}
MAX_ARROWS = {"edge_agent": 61, "cloud": 67, "convert": 51, "quantize": 46}
"""Half of the imports between modules that each package had while its modules were side by side in one folder.

In `edge_agent`, two more: an import on the device depends on the journal, and the transport over an IoT Hub on the settings. In
`convert`, five more: those that came with a reader of scikit-learn apart from that of trees. In `cloud`, nineteen more: those
that came with images, with the collection of their blobs, with endpoints that build them, with the local IoT Hub, with the
limits of its connections, with the bridge to a hub, and with pipelines.
"""


def test_no_folder_of_the_product_holds_more_files_than_a_reader_takes_in() -> None:
    folders = {path.parent for path in python_files() if path.relative_to(ROOT).parts[0] in PACKAGES}
    crowded = {str(folder.relative_to(ROOT)) for folder in folders if len(modules_in(folder)) > MAX_FILES_PER_FOLDER}
    assert crowded <= set(MORE_FILES)


def modules_in(folder: Path) -> list[Path]:
    """Return the modules that are directly in a folder."""
    return [path for path in folder.glob("*.py") if path.name != "__init__.py"]


@pytest.mark.parametrize("package", MAX_ARROWS)
def test_a_package_keeps_few_imports_between_its_folders_and_modules(package: str) -> None:
    assert len(arrows(package)) <= MAX_ARROWS[package]


def arrows(package: str) -> set[tuple[str, str]]:
    """Return each pair of a package's direct children, folder or module, of which the first imports the second."""
    pairs = set()
    for path in (ROOT / package).rglob("*.py"):
        child = path.relative_to(ROOT / package).with_suffix("").parts[0]
        pairs |= {(child, target) for target in imported_children(path, package) if child not in ("__init__", target)}
    return pairs


def imported_children(path: Path, package: str) -> set[str]:
    """Return the direct children of `package` that a file imports from."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names |= {f"{package}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == package and len(part) > 1}
