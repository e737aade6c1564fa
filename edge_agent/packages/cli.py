"""`edgewright agent import`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edge_agent.settings import default_state_directory
from edgewright.command_line import common_options, print_json
from edgewright.contracts.messages import DesiredState, ReportedWorkload
from edgewright.errors import OperationError

_LOOK_EVERY_S = 0.5


@click.command("import")
@click.argument("path", metavar="PACKAGE", type=click.Path(path_type=Path))
@click.option("--workload", help="Workload that runs the package (default: the one that runs its model).")
@click.option("--allow-downgrade", is_flag=True, help="Permit a version below the running one.")
@click.option("--trial-s", type=click.FloatRange(min=0), default=60.0, show_default=True, help="Length of the trial.")
@click.option("--wait", is_flag=True, help="Wait until the trial has ended; the agent must run.")
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="State directory of the agent (default: ~/.local/state/edgewright/agent).",
)
@common_options
def import_(
    path: Path, workload: str | None, allow_downgrade: bool, trial_s: float, wait: bool, state: Path | None, as_json: bool
) -> None:
    """Deploy a signed package from a file, such as one on a USB stick, through the same checks as one of the cloud."""
    # Imported here, because the resident agent must not load modules that only an import needs.
    from edge_agent.packages.import_package import ImportOptions, import_package

    directory = state or default_state_directory()
    options = ImportOptions(workload=workload, allow_downgrade=allow_downgrade, trial_s=trial_s)
    desired = import_package(directory, path, options)
    if not as_json:
        click.echo(f"{desired.model}:{desired.version} is verified; the agent checks and tries it as workload {desired.workload}")
    ended = _wait(directory, desired) if wait else None
    if as_json:
        print_json({"desired": desired, "ended": ended})
    elif ended is not None:
        click.echo(f"{ended.state.value if ended.state else 'ended'}: {ended.reason}")
    if ended is not None and ended.state is not None and ended.state.is_failure:
        raise OperationError(f"{desired.model}:{desired.version} does not run: {ended.reason}")


def _wait(directory: Path, desired: DesiredState) -> ReportedWorkload:
    """Wait for the final state of an import.

    Raises:
        OperationError: the agent does not run, or another desired state replaced the import.
    """
    from edge_agent.status import read_status

    while True:
        status = read_status(directory)
        reported = next((each.reported for each in status.workloads if each.workload == desired.workload), None)
        is_current = reported is not None and reported.desired_number == desired.desired_number
        if is_current and reported is not None and reported.state is not None and reported.state.is_final:
            return reported
        if not status.agent_running:
            raise OperationError("the agent must run to try the import, but it does not: start it, and it continues")
        time.sleep(_LOOK_EVERY_S)
