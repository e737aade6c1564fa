"""Runs: one execution of a training script, with its metrics and outputs.

A run of a script that no batch job started is kept in the folder that it runs in:

    outputs/ logs/                       for the script's files; made when the run is first asked for
    .edgewright/runs/ID/metrics.jsonl    one line per logged value
    .edgewright/runs/ID/files/           uploaded files
    .edgewright/runs/ID/run.json         experiment, parent, state, tags
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, SupportsFloat

from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import check_name
from edgewright.errors import BadInputError, NotFoundError
from edgewright.sdk.embedded import FOLDER
from edgewright.sdk.workspace.default import workspace_or_default
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.resources import ResourceConfiguration
from edgewright.sdk.workspace.workspace import Workspace

RUN_ID = "EDGEWRIGHT_RUN_ID"
"""Environment variable with the id of the run that a script belongs to."""


class Run:
    """One execution of a script.

    Attributes:
        id: unique; of an interactive run `OfflineRun_` and a UUID.
        experiment: the experiment, or None.
    """

    def __init__(
        self, experiment: Experiment | None = None, run_id: str | None = None, *, workspace: Workspace | None = None
    ) -> None:
        """Open the run of an id; without one, begin a run."""
        self.experiment = experiment
        self.id = run_id or f"OfflineRun_{uuid.uuid4()}"
        self._workspace = workspace or (experiment.workspace if experiment else None)
        root = self._workspace.folder if self._workspace else Path.cwd()
        self._folder = root / FOLDER / "runs" / self.id

    @classmethod
    def get_context(cls, allow_offline: bool = True, **_ignored: object) -> Run:
        """Return the run that this script belongs to; `outputs` and `logs` exist afterwards.

        Raises:
            BadInputError: no job started the script, and `allow_offline` is False.
        """
        run_id = os.environ.get(RUN_ID)
        if run_id is None and not allow_offline:
            raise BadInputError(
                f"the script must belong to a job, which sets {RUN_ID}, but it does not: allow_offline=True permits that"
            )
        for name in ("outputs", "logs"):
            Path(name).mkdir(exist_ok=True)
        return cls(run_id=run_id)

    def log(self, name: str, value: SupportsFloat | str, description: str = "", step: int | None = None) -> None:
        """Record a value; a repeated name makes a list of values."""
        self._record("value", name, value, step)

    def log_list(self, name: str, value: Sequence[Any], description: str = "") -> None:
        """Record several values under one name."""
        self._record("list", name, list(value))

    def log_row(self, name: str, description: str | None = None, **columns: Any) -> None:
        """Record one row of a table; the names of the arguments are its columns."""
        self._record("row", name, columns)

    def log_table(self, name: str, value: Mapping[str, Iterable[Any]], description: str = "") -> None:
        """Record a table as lists by column."""
        self._record("table", name, {column: list(cells) for column, cells in value.items()})

    def log_image(self, name: str, path: str | None = None, plot: Any = None, description: str = "") -> None:
        """Keep an image file, or a figure of matplotlib as PNG."""
        target = self._files() / f"{name}.png"
        if path is not None:
            target = target.with_suffix(Path(path).suffix)
            shutil.copyfile(path, target)
        elif plot is not None:
            plot.savefig(target)
        else:
            raise BadInputError("an image needs a path or a plot")
        self._record("image", name, target.name)

    def __enter__(self) -> Self:
        """Use as a context manager: the run is completed at the end, or failed by an exception."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Complete the run, or mark it as failed with the text of the exception."""
        if error is None:
            self.complete()
        else:
            self.fail(f"{type(error).__name__}: {error}")

    def child_run(self, name: str | None = None, run_id: str | None = None, outputs: object = None) -> Run:
        """Begin a run below this one; its id is `ID.NAME`, with a random name by default, unless `run_id` gives it."""
        child = self._beside(run_id or f"{self.id}.{check_name(name, 'run') if name else uuid.uuid4()}")
        child._begin(parent=self.id)
        return child

    @property
    def parent(self) -> Run | None:
        """The run that this one belongs to, or None."""
        parent = self._stored().get("parent")
        return None if parent is None else self._beside(parent)

    def get_children(self, recursive: bool = False) -> list[Run]:
        """Return the runs below this one, newest first; with `recursive`, also those below them."""
        stored = _newest_first(self._folder.parent)
        children = [self._beside(run_id) for run_id, facts in stored if facts.get("parent") == self.id]
        return [*children, *(each for child in children for each in child.get_children(True))] if recursive else children

    def get_metrics(self, name: str | None = None, recursive: bool = False, **_ignored: object) -> dict[str, Any]:
        """Return the recorded values by name: one value as it is, several as a list, rows as lists by column.

        With `recursive`, the values of this run and of those below it, by the id of the run.
        """
        if recursive:
            return {run.id: run.get_metrics(name) for run in (self, *self.get_children(recursive=True))}
        metrics: dict[str, Any] = {}
        for entry in _lines(self._folder / "metrics.jsonl"):
            if name in (None, entry["name"]):
                _add(metrics, entry)
        return metrics

    def tag(self, key: str, value: Any = None) -> None:
        """Set a tag."""
        self._update(tags={**self.get_tags(), key: str(value)})

    def get_tags(self) -> dict[str, str]:
        """Return the tags."""
        tags: dict[str, str] = self._stored().get("tags", {})
        return tags

    def upload_file(self, name: str, path_or_stream: str | os.PathLike[str] | IO[bytes], **_ignored: object) -> None:
        """Keep a copy of a file, or of what a stream has left, under a name.

        Raises:
            NotFoundError: there is no such file.
            BadInputError: the name is not below the run.
        """
        target = self._files() / _below(name)
        if isinstance(path_or_stream, str | os.PathLike):
            if not Path(path_or_stream).is_file():
                raise NotFoundError(f"{path_or_stream}: no such file; upload_folder keeps a folder")
            content = Path(path_or_stream).read_bytes()
        else:
            content = path_or_stream.read()
        write_atomically(target, content)

    def upload_folder(self, name: str, path: str) -> None:
        """Keep a copy of a folder under a name."""
        shutil.copytree(path, self._files() / _below(name), dirs_exist_ok=True)

    def get_file_names(self) -> list[str]:
        """Return the names of the kept files, and of those in `outputs`."""
        kept = {path.relative_to(self._files()).as_posix() for path in self._files().rglob("*") if path.is_file()}
        outputs = {path.as_posix() for path in Path("outputs").rglob("*") if path.is_file()}
        return sorted(kept | outputs)

    def download_file(self, name: str, output_file_path: str | None = None) -> None:
        """Copy a kept file, or one in `outputs`, to a path: by default to its name in this folder; folders are created.

        Raises:
            NotFoundError: the run has no such file.
        """
        below = _below(name)
        source = self._files() / below
        if not source.is_file() and below.parts[0] == "outputs":
            source = below
        if not source.is_file():
            raise NotFoundError(
                f"run {self.id} must have a file {name}, but it has: {', '.join(self.get_file_names()) or 'none'}"
            )
        target = Path(output_file_path or below.name)
        target = target / below.name if target.is_dir() else target
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        datasets: object = None,
        sample_input_dataset: object = None,
        sample_output_dataset: object = None,
        resource_configuration: ResourceConfiguration | None = None,
        **_ignored: object,
    ) -> Model:
        """Register a file of this run as the next version of a model, which names the run; default path: `outputs/NAME`."""
        return Model.register(
            workspace_or_default(self._workspace),
            model_path=self._path_of(model_path or f"outputs/{model_name}"),
            model_name=model_name,
            tags=tags,
            properties=properties,
            description=description,
            model_framework=model_framework,
            model_framework_version=model_framework_version,
            resource_configuration=resource_configuration,
            run_id=self.id,
        )

    def complete(self) -> None:
        """Mark the run as completed."""
        self._update(status="Completed")

    def fail(self, error_details: str | None = None) -> None:
        """Mark the run as failed."""
        self._update(status="Failed", error=str(error_details or ""))

    def get_status(self) -> str:
        """Return `Running`, `Completed` or `Failed`."""
        return str(self._stored().get("status", "Running"))

    def flush(self, timeout_seconds: float = 300) -> None:
        """Return at once: every value is stored when it is logged."""

    def __repr__(self) -> str:
        """Show the id."""
        return f"Run(id={self.id!r})"

    def _beside(self, run_id: str) -> Run:
        """Return another run of the same workspace."""
        run = Run(self.experiment, run_id)
        run._workspace, run._folder = self._workspace, self._folder.parent / run_id
        return run

    def _path_of(self, path: str) -> str:
        kept = self._files() / path
        return path if Path(path).exists() or not kept.exists() else str(kept)

    def _files(self) -> Path:
        folder = self._folder / "files"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _record(self, kind: str, name: str, value: Any, step: int | None = None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        entry = {"at": datetime.now(UTC).isoformat(), "kind": kind, "name": name, "value": _plain(value), "step": step}
        with (self._folder / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def _stored(self) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = json.loads((self._folder / "run.json").read_bytes())
        except FileNotFoundError:
            return {"experiment": self.experiment.name if self.experiment else ""}
        return stored

    def _begin(self, **facts: Any) -> None:
        self._update(**facts, begun_at=datetime.now(UTC).isoformat())

    def _update(self, **changes: Any) -> None:
        write_atomically(self._folder / "run.json", (json.dumps({**self._stored(), **changes}) + "\n").encode())


class Experiment:
    """A name for runs that belong together."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.workspace = workspace
        self.name = check_name(name, "experiment")

    def start_logging(self, **_ignored: object) -> Run:
        """Begin a run."""
        run = Run(self, workspace=self.workspace)
        run._begin(experiment=self.name)
        return run

    def get_runs(self) -> list[Run]:
        """Return the runs of this experiment, newest first."""
        stored = _newest_first(self.workspace.folder / FOLDER / "runs")
        return [Run(self, run_id) for run_id, facts in stored if facts.get("experiment") == self.name and "parent" not in facts]


def _newest_first(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the ids and the stored facts of the runs in a folder."""
    found = [(file.parent.name, json.loads(file.read_bytes())) for file in folder.glob("*/run.json")]
    return sorted(found, key=lambda run: str(run[1].get("begun_at", "")), reverse=True)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}")]
    except FileNotFoundError:
        return []


def _add(metrics: dict[str, Any], entry: Mapping[str, Any]) -> None:
    name, value = entry["name"], entry["value"]
    if entry["kind"] == "list":
        metrics[name] = [*metrics.get(name, []), *value]
    elif entry["kind"] == "row":
        table = metrics.setdefault(name, {})
        for column, cell in value.items():
            table.setdefault(column, []).append(cell)
    elif name in metrics and entry["kind"] == "value":
        earlier = metrics[name]
        metrics[name] = [*(earlier if isinstance(earlier, list) else [earlier]), value]
    else:
        metrics[name] = value


def _plain(value: Any) -> Any:
    """Return NumPy scalars and arrays as numbers and lists; anything that JSON cannot hold as its text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _below(name: str) -> Path:
    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise BadInputError(f"the name of a file of a run must stay below the run, but {name!r} does not")
    return path
