"""Import an entry script and find its `init` and `run`.

The folder of the script is first on the import path, so that it can import its own modules. `AZUREML_MODEL_DIR` names the folder
of the model files and `AZUREML_ENTRY_SCRIPT` the script, as Azure ML's containers do.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from edgewright.errors import BadInputError, OperationError, one_line
from edgewright.serving.scripts.messages import Started
from edgewright.serving.scripts.protocols import DeclaredTensors
from edgewright.serving.scripts.raw import uses_raw_requests
from edgewright.serving.scripts.schema import DeclaredSchema, max_batch_size_of, schema_of

MODEL_DIRECTORY = "AZUREML_MODEL_DIR"
_ENTRY_SCRIPT = "AZUREML_ENTRY_SCRIPT"
_MODULE_NAME = "entry_script"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryScript:
    """The functions of a script, after its import."""

    init: Callable[[], Any]
    run: Callable[..., Any]
    schema: DeclaredSchema | None
    uses_raw_requests: bool
    max_batch_size: int = 0
    """Requests that `run` takes at once, as a list; 0 if it takes one."""
    tensors: DeclaredTensors | None = None
    """The arrays or the table that the script declares; None without."""
    described: Started | None = None
    """Declarations of a model without a script; those of a script follow from its schema."""

    @property
    def is_asynchronous(self) -> bool:
        """True if `run` is a coroutine function, so that one worker answers several calls at the same time."""
        return inspect.iscoroutinefunction(self.run)

    @classmethod
    def load(cls, path: Path, model_directory: Path | None) -> EntryScript:
        """Import the script; its own output goes to standard error.

        Raises:
            BadInputError: there is no such file, its import fails, it lacks `init` or `run`, or `run` takes no data.
        """
        if not path.is_file():
            raise BadInputError(f"{path} must be an entry script in Python, but there is no such file")
        os.environ[_ENTRY_SCRIPT] = str(path)
        if model_directory is not None:
            os.environ[MODEL_DIRECTORY] = str(model_directory)
        module = _import(path)
        init, run = (getattr(module, name, None) for name in ("init", "run"))
        for name, function in (("init", init), ("run", run)):
            if not callable(function):
                raise BadInputError(f"{path} must define {name}(), but it does not")
        assert init is not None
        assert run is not None
        schema = schema_of(run)
        _check_parameters(run, schema, path)
        return cls(
            init=init,
            run=run,
            schema=schema,
            uses_raw_requests=uses_raw_requests(run),
            max_batch_size=max_batch_size_of(run),
            tensors=DeclaredTensors.of(schema),
        )


def _check_parameters(run: Callable[..., Any], schema: DeclaredSchema | None, path: Path) -> None:
    """Raise `BadInputError` if no request could call `run`: it has no parameter, or requires one that requests do not have."""
    try:
        parameters = inspect.signature(run).parameters
    except (TypeError, ValueError):  # a function of an extension module
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [each.name for each in parameters.values() if each.default is each.empty and each.kind not in kinds]
    given = list(schema.inputs) if schema is not None and schema.inputs else list(parameters)[:1]
    if not given:
        raise BadInputError(f"run() of {path.name} must have a parameter for the data of a request, but it has none")
    missing = [name for name in required if name not in given]
    if missing:
        raise BadInputError(
            f"run() of {path.name} must get every parameter from a request, but no request has {missing[0]}: "
            "declare it with input_schema, or give it a default"
        )


def _import(path: Path) -> ModuleType:
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} must be a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BadInputError as error:  # a decorator of ours that refuses what it is given
        raise BadInputError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the script does while it is imported
        print_traceback(error)
        raise BadInputError(f"{path} must be importable, but {described(error, path)}") from error
    return module


def failed_init(error: BaseException, path: Path) -> OperationError:
    """Return the error of a script whose `init` raised `error`; the traceback goes to standard error."""
    print_traceback(error)
    return OperationError(f"init() of {path.name} must succeed, but {described(error, path)}")


def described(error: BaseException, path: Path) -> str:
    """Return the class and text of an error, and the line of the script where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines = [error.lineno]
    where = f" in line {lines[-1]}" if lines else ""
    text = error.msg if isinstance(error, SyntaxError) else one_line(error)
    return f"it raised {type(error).__name__}{where}: {text}"


def print_traceback(error: BaseException) -> None:
    """Write the traceback to standard error, without the frames of this package and of the import system before the script's."""
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and _is_ours(frames):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames, file=sys.stderr)


def _is_ours(frame: TracebackType) -> bool:
    package = str(frame.tb_frame.f_globals.get("__package__"))
    return str(__package__) in package or frame.tb_frame.f_code.co_filename.startswith("<frozen importlib")
