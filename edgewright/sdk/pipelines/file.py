"""A pipeline in a YAML file, as `edgewright pipelines publish` and `edgewright jobs run` read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from edgewright.contracts import wire
from edgewright.contracts.models.registration import SourceFile
from edgewright.contracts.pipelines.definition import Pipeline, Step, Value
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk.pipelines.calls import PipelineCalls
from edgewright.sdk.transfer.files import files_of_source
from edgewright.sdk.transfer.uploads import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEntry:
    """One entry of `steps`."""

    script: str
    """Path of the script, in `source` if that is given."""
    source: str = ""
    """Folder whose files the step gets, below that of the pipeline's file; hidden files are left out. Empty: the script alone."""
    arguments: tuple[Value, ...] = ()
    """Command line of the script; may hold `${{parameters.NAME}}`, `${{inputs.NAME}}` and `${{outputs.NAME}}`."""
    inputs: dict[str, str] = field(default_factory=dict)
    """By name, a path or an address, or `${{steps.STEP.outputs.NAME}}`."""
    outputs: tuple[str, ...] = ()
    """Names of folders that later steps and clients read."""
    after: tuple[str, ...] = ()
    """Steps that must have ended, besides those whose outputs it reads."""
    variables: dict[str, Value] = field(default_factory=dict)
    """Environment variables."""
    environment: str = ""
    """NAME or NAME:VERSION of an environment, whose variables are set."""
    timeout_s: float = 86400.0
    """Longest time that the script may take."""
    retries: int = 0
    """Number of times that the script is run again after a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineFile:
    """The content of the file."""

    steps: dict[str, StepEntry]
    """By name; the order has no meaning but that of the output."""
    parameters: dict[str, Value] = field(default_factory=dict)
    """Defaults by name; the type of a default is that of the parameter."""
    description: str = ""
    """One line for people."""


def read_pipeline(path: Path) -> PipelineFile:
    """Read and check a pipeline's file; nothing is sent.

    Raises:
        NotFoundError: there is no such file, or no such script.
        BadInputError: the file is not YAML of this form.
    """
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"{path}: no such file; a pipeline is a YAML file with 'steps'") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} must be a YAML file in UTF-8, but it is not") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInputError(f"{path} must be YAML, but it cannot be read: {' '.join(str(error).split())}") from error
    return wire.convert(document, PipelineFile, what=str(path), error=BadInputError)


def push_pipeline(
    calls: PipelineCalls, path: Path, content: PipelineFile, on_progress: Progress = lambda _sent, _total: None
) -> Pipeline:
    """Send the files of all steps and return the definition that names them.

    Raises:
        NotFoundError: a script does not exist.
        BadInputError: the definition breaks a rule of `edgewright.contracts.pipelines.definition`.
    """
    folder = path.resolve().parent
    _check_files(folder, content)
    steps = []
    for name, entry in content.steps.items():
        files = calls.push_step_files(_files(folder, entry), on_progress=on_progress)
        steps.append(_step(name, entry, folder, files))
    return Pipeline(steps=tuple(steps), parameters=content.parameters)


def _check_files(folder: Path, content: PipelineFile) -> None:
    """Find a mistake before anything is sent."""
    for name, entry in content.steps.items():
        script = folder / entry.source / entry.script
        if not script.is_file():
            raise NotFoundError(f"step {name}: {script}: no such file; 'script' is a path in the folder 'source'")


def _files(folder: Path, entry: StepEntry) -> list[tuple[str, Path]]:
    if entry.source:
        return files_of_source(folder / entry.source)
    script = Path(entry.script)
    return [(script.as_posix(), folder / script)]


def _step(name: str, entry: StepEntry, folder: Path, files: tuple[SourceFile, ...]) -> Step:
    return Step(
        name=name,
        script=Path(entry.script).as_posix(),
        files=files,
        arguments=tuple(_text(each) for each in entry.arguments),
        inputs=dict(_inputs(entry, folder)),
        outputs=entry.outputs,
        after=entry.after,
        variables={key: _text(value) for key, value in entry.variables.items()},
        environment=entry.environment,
        timeout_s=entry.timeout_s,
        retries=entry.retries,
    )


def _inputs(entry: StepEntry, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the inputs; a relative path is below the folder of the file."""
    for name, text in entry.inputs.items():
        is_path = "://" not in text and not text.startswith("${{")
        yield name, str(folder / text) if is_path else text


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
