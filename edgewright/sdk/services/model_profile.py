"""The profile of models as Azure's `Model.profile` returns it: processor time and memory that a service of them needs.

It is measured on this machine, in a thread of this process that starts the real service in processes of its own
(`edgewright/profiling/`). Azure's service measured on its own machines, at one request at a time, and never said a rate; here
`rate` and `p95_ms` say what the recommendation holds.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewright.errors import BadInputError, EdgewrightError, OperationError
from edgewright.profiling.limits import Method, method_of_this_machine
from edgewright.profiling.profile import Profile, Report, Settings
from edgewright.profiling.search import Objective, candidates
from edgewright.profiling.service import ServiceOptions
from edgewright.sdk.services.deploying import Content
from edgewright.sdk.services.inference import InferenceConfig
from edgewright.sdk.workspace.model import Model
from edgewright.sdk.workspace.workspace import Workspace
from edgewright.serving.nocode.identify import model_in
from edgewright.serving.served import SCRIPT_SUFFIX, Served
from hardware_profiles.detect import read_machine
from hardware_profiles.processors import usable_processors

MODELS = "azureml-models"
"""Folder of several models, as `NAME/VERSION`; `AZUREML_MODEL_DIR` is that of the version if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileLimits:
    """Rate and latency that the recommendation must hold, and its largest size."""

    cpu: float | None
    memory_in_gb: float | None
    rate: float
    p95_ms: float
    seconds: float
    trust: bool = False

    def settings(self, target: str, parallel: str) -> Settings:
        """Return the settings of the profile.

        Raises:
            BadInputError: this machine has no size that is small enough.
        """
        method = method_of_this_machine()
        sizes = candidates(usable_processors(), is_fractional=method is Method.CONTROL_GROUPS)
        allowed = tuple(size for size in sizes if self.cpu is None or size <= self.cpu)
        if not allowed:
            raise BadInputError(f"cpu must be at least {sizes[0]:g}, the smallest size of this machine, not {self.cpu:g}")
        return Settings(
            target=target,
            objective=Objective(rate=self.rate, latency_ms=self.p95_ms),
            seconds=self.seconds,
            cpus=allowed,
            parallel=parallel,
            method=method,
            describes=False,
        )


class ModelProfile:
    """A profile that runs or has run.

    Attributes:
        workspace: its workspace.
        name: name of the results.
        recommended_cpu, recommended_memory_in_gb: None until it has ended well.
    """

    def __init__(
        self, workspace: Workspace, name: str, content: Content, requests: tuple[bytes, ...], limits: ProfileLimits
    ) -> None:
        """Start the profile."""
        self.workspace = workspace
        self.name = name
        self._content = content
        self._requests = requests
        self._limits = limits
        self._report: Report | None = None
        self._error: EdgewrightError | None = None
        self._shows = False
        self._thread = threading.Thread(target=self._run, name=f"profile-{name}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """`Running`, `Succeeded` or `Failed`."""
        if self._thread.is_alive():
            return "Running"
        return "Succeeded" if self._report is not None and self._report.recommendation is not None else "Failed"

    @property
    def recommended_cpu(self) -> float | None:
        """Processors."""
        return None if self._report is None or self._report.recommendation is None else self._report.recommendation.cpu

    @property
    def recommended_memory_in_gb(self) -> float | None:
        """Memory in GB."""
        return None if self._report is None or self._report.recommendation is None else self._report.recommendation.memory_in_gb

    def wait_for_profiling(self, show_output: bool = False) -> None:
        """Wait for the end; with `show_output` print each step.

        Raises:
            OperationError: no size holds the rate, or the service does not answer the requests.
        """
        self._shows = show_output
        self._thread.join()
        if self._error is not None:
            raise self._error
        report = self._report
        assert report is not None, "a profile without an error has a report"
        if report.recommendation is None:
            best = f"{report.best_rate:g} requests/s" if report.best_rate else "none of the rates that were tried"
            raise OperationError(f"no size up to the limits holds {self._limits.rate:g} requests/s: the largest holds {best}")

    def get_results(self) -> dict[str, Any]:
        """Return `cpu` and `memoryInGB`, as Azure named them, and the latencies of the confirming measurement in milliseconds.

        Raises:
            OperationError: as `wait_for_profiling`, which it calls.
        """
        self.wait_for_profiling(self._shows)
        report = self._report
        assert report is not None
        assert report.recommendation is not None
        confirmed = next(each for each in reversed(report.measurements) if each.step == "confirm")
        latencies = {} if confirmed.result is None else confirmed.result.percentiles_ms
        return {
            "cpu": report.recommendation.cpu,
            "memoryInGB": report.recommendation.memory_in_gb,
            **{f"p{name}LatencyInMs": latency_ms for name, latency_ms in latencies.items()},
            report.settings.parallel: report.recommendation.processes,
        }

    def _run(self) -> None:
        try:
            with self._service() as service:
                parallel = "workers" if service.runs_in_workers else "threads"
                settings = self._limits.settings(self.name, parallel)
                machine = read_machine()
                profile = Profile(
                    settings, service, self._requests, machine=machine.cpu_model or machine.architecture, progress=self._show
                )
                self._report = self._within_memory(profile.run())
        except EdgewrightError as error:
            self._error = error

    def _within_memory(self, report: Report) -> Report:
        found, limit = report.recommendation, self._limits.memory_in_gb
        if found is not None and limit is not None and found.memory_in_gb > limit:
            raise OperationError(f"the service needs {found.memory_in_gb:g} GB, more than memory_in_gb={limit:g}: raise it")
        return report

    def _show(self, text: str) -> None:
        if self._shows:
            print(text)  # noqa: T201  what show_output asks for

    @contextmanager
    def _service(self) -> Iterator[ServiceOptions]:
        """Yield the service of the models, which are downloaded for it."""
        with tempfile.TemporaryDirectory(prefix="edgewright-profile-") as name:
            models, every = self._content.resolved(), Path(name) / MODELS
            folders = [every / model.name / str(model.version) for model in models]
            for model, target in zip(models, folders, strict=True):
                model.download(str(target))
            folder = folders[0] if len(folders) == 1 else every
            config = self._content.inference_config
            path = model_in(folder) if config is None else Path(config.source_directory or ".") / config.entry_script
            options = ["--trust"] if self._limits.trust else []
            if config is not None and models:
                options += ["--model-dir", str(folder)]
            served = Served(path=path, trust=self._limits.trust)
            served.check()
            yield ServiceOptions(path=path, runs_in_workers=served.runs_in_workers, options=tuple(options))


def profile(
    workspace: Workspace,
    name: str,
    models: Sequence[Model | str],
    inference_config: InferenceConfig | None,
    input_dataset: Any,
    limits: ProfileLimits,
) -> ModelProfile:
    """Start a profile (`Model.profile`)."""
    content = Content(workspace, models, inference_config)
    if inference_config is None and len(models) != 1:
        raise BadInputError(f"a profile without an inference_config must have one model, not {len(models)}: add a script")
    if inference_config is not None:
        script = Path(inference_config.source_directory or ".") / inference_config.entry_script
        if script.suffix != SCRIPT_SUFFIX or not script.is_file():
            raise BadInputError(f"the entry script must be a Python file, but {script} is not")
    return ModelProfile(workspace, name, content, _requests(input_dataset), limits)


def _requests(data: Any) -> tuple[bytes, ...]:
    """Return the requests of a text, a sequence of texts, or a table's first column."""
    if hasattr(data, "to_pandas_dataframe"):
        data = data.to_pandas_dataframe()
    if hasattr(data, "iloc"):
        data = data.iloc[:, 0].tolist()
    texts = [data] if isinstance(data, str | bytes) else list(data or ())
    if not texts or not all(isinstance(each, str | bytes) for each in texts):
        raise BadInputError("input_dataset must have the requests as text, as json.dumps({'data': …}) gives them")
    return tuple(each.encode() if isinstance(each, str) else each for each in texts)
