"""The options of a service: which script or model it serves, and how that runs. Loads no framework and no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgewright.serving.nocode.identify import Framework, check_trusted, framework_of

SCRIPT_SUFFIX = ".py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The script or model of a service, and how it runs: the options of the command."""

    path: Path
    name: str | None = None
    variant: str | None = None
    backend: str = "auto"
    threads: int | None = None
    trust: bool = False
    model_dir: Path | None = None
    workers: int = 1
    init_timeout: float = 300.0
    scoring_timeout: float = 60.0
    queue_timeout: float = 0.5

    def check(self) -> None:
        """Refuse a file that is certainly no script or model, before anything is loaded.

        Raises:
            BadInputError: the file is missing, is not what its suffix says, or is a pickle without trust.
        """
        if self.path.suffix != SCRIPT_SUFFIX and framework_of(self.path) is not None:
            check_trusted(self.path, trust=self.trust)

    @property
    def runs_in_workers(self) -> bool:
        """True if the script or model runs in worker processes, and not in the process of the server."""
        return self.path.suffix == SCRIPT_SUFFIX or framework_of(self.path) not in (None, Framework.ONNX)

    @property
    def model_name(self) -> str:
        """The name in the routes."""
        return self.name or self.path.name.partition(".")[0] or self.path.resolve().name
