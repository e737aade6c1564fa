"""Find what an old script uses of Azure ML's SDK v1 and its companions, and which of it is covered here.

The script is parsed and never run. Imported names are followed through assignments such as `service = Model.deploy(…)`, and the
arguments of calls are compared with our signatures.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgewright.azureml.differences import DIFFERENCES
from edgewright.errors import BadInputError, NotFoundError

ROOTS = ("azureml", "inference_schema", "onnx_tf", "applicationinsights", "nvidia_smi")
"""Import roots of the old packages; `edgewright.azureml` has them below itself."""
_OWN = "edgewright.azureml"
_MOVED = {"sklearn.externals.joblib": "joblib", "sklearn.externals": "joblib"}


@dataclass(frozen=True, slots=True, order=True)
class Use:
    """One use of an old name in a script."""

    line: int
    name: str
    """The name as the old SDK has it, such as azureml.core.Model.deploy."""
    is_covered: bool
    note: str
    """The new import, the difference, or the reason why it is not covered."""


def check_script(path: Path) -> tuple[Use, ...]:
    """Return the old imports and calls of a script, by line.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: it is not Python.
    """
    try:
        text = path.read_text("utf-8")
        tree = ast.parse(text, filename=str(path))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except (SyntaxError, ValueError) as error:
        raise BadInputError(f"{path} must be Python 3 in UTF-8, but it is not: {error}") from error
    reader = _Reader()
    reader.visit(tree)
    return tuple(sorted(set(reader.uses)))


@dataclass(frozen=True, slots=True)
class _Known:
    """An object of ours under its old name; `is_instance` for a value of the class."""

    name: str
    value: Any
    is_instance: bool = False


class _Reader(ast.NodeVisitor):
    def __init__(self) -> None:
        self.uses: list[Use] = []
        self._names: dict[str, _Known] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if _is_old(alias.name):
                known = self._imported(node.lineno, alias.name)
                top = alias.asname or alias.name
                if known is not None:
                    self._names[top] = known

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level == 0 and module in _MOVED:
            for alias in node.names:
                self.uses.append(Use(node.lineno, f"{module}.{alias.name}", alias.name == "joblib", "import joblib"))
        if node.level or not _is_old(module):
            return
        for alias in node.names:
            known = self._imported(node.lineno, module, alias.name)
            if known is not None:
                self._names[alias.asname or alias.name] = known

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        result = self._result_of(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and result is not None:
                self._names[target.id] = result

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.generic_visit(node)
        self._resolve(node, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        known = self._resolve(node.func, node.lineno)
        if known is None or not callable(known.value):
            return
        unknown = [each.arg for each in node.keywords if each.arg and not _accepts(known.value, each.arg)]
        note = next((text for name, text in DIFFERENCES.items() if known.name.endswith(f".{name}")), "")
        if unknown:
            note = f"no argument {', '.join(unknown)}"
        self.uses.append(Use(node.lineno, known.name, not unknown, note))

    def _imported(self, line: int, module: str, name: str = "") -> _Known | None:
        old = ".".join(filter(None, (module.removeprefix(f"{_OWN}.") if module.startswith(_OWN) else module, name)))
        ours = module if module.startswith(_OWN) else _own_module(module)
        try:
            loaded = import_module(ours) if find_spec(ours) is not None else None
        except ModuleNotFoundError:
            loaded = None
        value = getattr(loaded, name, None) if name and loaded is not None else loaded
        if value is None and name and loaded is not None:
            value = _submodule(f"{ours}.{name}")
        if value is None:
            self.uses.append(Use(line, old, False, "not covered"))
            return None
        shown = f"from {ours} import {name}" if name else f"import {ours}"
        self.uses.append(Use(line, old, True, shown))
        return _Known(old, value)

    def _resolve(self, node: ast.expr, line: int) -> _Known | None:
        """Return the object that an expression names; a missing attribute of an old object is noted."""
        if isinstance(node, ast.Name):
            return self._names.get(node.id)
        if isinstance(node, ast.Call):
            return self._result_of(node)
        if not isinstance(node, ast.Attribute):
            return None
        dotted = _dotted(node)
        if dotted in self._names:
            return self._names[dotted]
        owner = self._resolve(node.value, line)
        if owner is None:
            return None
        name = f"{owner.name}.{node.attr}"
        if not hasattr(owner.value, node.attr):
            if not owner.is_instance or node.attr not in _fields(owner.value):
                self.uses.append(Use(line, name, False, "not covered"))
            return None
        return _Known(name, getattr(owner.value, node.attr))

    def _result_of(self, node: ast.expr) -> _Known | None:
        """Return an object of the class that a call makes or returns."""
        if not isinstance(node, ast.Call):
            return None
        known = self._resolve(node.func, node.lineno)
        if known is None:
            return None
        if inspect.isclass(known.value):
            return _Known(known.name, known.value, is_instance=True)
        returned = _returned_class(known.value)
        return None if returned is None else _Known(f"azureml.core.{returned.__name__}", returned, is_instance=True)


def _is_old(module: str) -> bool:
    return module.partition(".")[0] in ROOTS or module == _OWN or module.startswith(f"{_OWN}.")


def _own_module(module: str) -> str:
    if module == "azureml" or module.startswith("azureml."):
        return f"edgewright.{module}"
    return f"{_OWN}.{module}"


def _submodule(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def _fields(kind: Any) -> Iterator[str]:
    """Yield the names that methods of a class use; some are attributes of objects and not of the class."""
    for base in inspect.getmro(kind):
        yield from getattr(base, "__dataclass_fields__", ())
        for function in vars(base).values():
            code = getattr(function, "__code__", None)
            if code is not None:
                yield from code.co_names


def _accepts(function: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    named = [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    # Arguments that are accepted and have no effect are in **_ignored; the function says so.
    return argument in [each.name for each in named] or len(named) < len(inspect.signature(function).parameters)


def _returned_class(function: Any) -> type | None:
    """Return the class of the SDK that the annotation of a function names, or None."""
    annotation = str(getattr(function, "__annotations__", {}).get("return", ""))
    returned = getattr(import_module("edgewright.sdk"), annotation, None)
    return returned if inspect.isclass(returned) else None
