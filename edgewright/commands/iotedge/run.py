"""`edgewright iotedge run`: play edgeAgent on this machine, for a manifest or for a device of a hub."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from edgewright.command_line import common_options, duration, print_json
from edgewright.commands.iotedge.files import connection_string, read_manifest
from edgewright.errors import BadInputError, OperationError
from edgewright.iotedge.validation import AGENT, DESIRED, content_of, is_layered

if TYPE_CHECKING:
    from edgewright.iotedge.runtime.storage import Storage

DEVICE_VARIABLE = "EDGEWRIGHT_IOTEDGE_DEVICE"
DEFAULT_STATE = Path("~/.local/share/edgewright/iotedge")


@click.command("run")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--connection-string",
    "device_path",
    type=click.Path(path_type=Path),
    help=f"File with the connection string of an IoT Edge device. [default without FILE: ${DEVICE_VARIABLE}, the text]",
)
@click.option("--ca", "ca_file", type=click.Path(path_type=Path), help="PEM file with the authority of the hub's certificate.")
@click.option("--once", is_flag=True, help="Apply FILE, print the status and end; the modules run on.")
@click.option("--keep", is_flag=True, help="Leave the modules running at the end.")
@click.option("--cool-off", "unit_s", type=duration, default="10s", show_default=True, help="Wait before a first restart.")
@click.option("--network", default="azure-iot-edge", show_default=True, help="Network of the modules in the engine.")
@click.option(
    "--state", type=click.Path(path_type=Path), default=DEFAULT_STATE, show_default=True, help="State directory of this runtime."
)
@common_options
def run(
    *,
    file: Path | None,
    device_path: Path | None,
    ca_file: Path | None,
    once: bool,
    keep: bool,
    unit_s: float,
    network: str,
    state: Path,
    as_json: bool,
) -> None:
    """Run the modules of a manifest on this machine, as IoT Edge's agent does.

    FILE is a standard manifest. Without it, the deployment of a device is followed at its hub, and the status is reported there.
    An interrupt stops the modules; the next run starts them.
    """
    from edgewright.iotedge.runtime.storage import opened

    if file is not None and device_path is not None:
        raise BadInputError("either FILE or --connection-string must be given, not both")
    if once and file is None:
        raise BadInputError("--once belongs to FILE: omit it, or name a manifest")
    with opened(state.expanduser().absolute()) as storage:
        if file is not None:
            _run_file(file, storage, once=once, keeps=keep, unit_s=unit_s, network=network, as_json=as_json)
        else:
            text = connection_string(device_path, DEVICE_VARIABLE)
            _run_twin(text, ca_file, storage, keeps=keep, unit_s=unit_s, network=network, as_json=as_json)


def _run_file(file: Path, storage: Storage, *, once: bool, keeps: bool, unit_s: float, network: str, as_json: bool) -> None:
    from edgewright.iotedge.runtime.agent import Runtime
    from edgewright.iotedge.runtime.deployment import DeploymentError, parse
    from edgewright.iotedge.runtime.engine import Containers
    from edgewright.iotedge.runtime.sources import FileSource
    from edgewright.serving.supervision.engine import connect

    manifest = read_manifest(file)
    if is_layered(manifest):
        raise BadInputError(f"{file} must be a standard manifest: combine it with its base by 'edgewright iotedge preview -o'")
    twin = content_of(manifest).get(AGENT)
    desired = twin.get(DESIRED) if isinstance(twin, dict) else None
    try:
        parse(desired if isinstance(desired, dict) else {})
    except DeploymentError as error:
        raise BadInputError(f"deployment {int(error.code)}: {error}") from error
    assert isinstance(desired, dict), "it was parsed"
    with closing(connect()) as client:
        containers = Containers(client, storage.instance, network)
        runtime = Runtime(containers, storage, FileSource(desired), _say(as_json=as_json), unit_s=unit_s)
        if not once:
            _loop(runtime, Event(), keeps=keeps, as_json=as_json)
            return
        properties = runtime.turn()
    if as_json:
        print_json(properties)
    if properties["lastDesiredStatus"]["code"] != 200:
        raise OperationError(f"the deployment must succeed, but its status is {properties['lastDesiredStatus']['code']}")


def _run_twin(
    text: str, ca_file: Path | None, storage: Storage, *, keeps: bool, unit_s: float, network: str, as_json: bool
) -> None:
    from edgewright.contracts.iothub.connection_strings import parse_device
    from edgewright.iotedge.runtime.agent import Runtime
    from edgewright.iotedge.runtime.engine import Containers
    from edgewright.iotedge.runtime.sources import TwinSource
    from edgewright.serving.supervision.engine import connect

    access, wake, say = parse_device(text), Event(), _say(as_json=as_json)
    with closing(connect()) as client, closing(TwinSource(access, storage, ca_file, wake=wake.set, say=say)) as source:
        containers = Containers(client, storage.instance, network)
        if storage.load_deployment() is None:  # a first start needs the hub; later ones do not
            source.connect()
        source.adopt(list(containers.observe()))
        runtime = Runtime(containers, storage, source, say, unit_s=unit_s)
        _loop(runtime, wake, keeps=keeps, as_json=as_json)


def _loop(runtime: Any, wake: Event, *, keeps: bool, as_json: bool) -> None:
    """Run until a signal; with `as_json`, print the reported properties on a line of their own whenever they change."""
    stop, last = Event(), ""

    def show(properties: dict[str, Any]) -> None:
        nonlocal last
        from edgewright.contracts import wire

        line = wire.encode(properties).decode()
        if as_json and line != last:
            click.echo(line)
            sys.stdout.flush()
        last = line

    with _stopped_by_signals(stop, wake):
        runtime.run(stop, wake, show)
    runtime.shut_down(keeps=keeps)


@contextmanager
def _stopped_by_signals(stop: Event, wake: Event) -> Iterator[None]:
    """Set the events at the first SIGINT or SIGTERM; a second one ends the process."""

    def handle(number: int, _frame: object) -> None:
        stop.set()
        wake.set()
        signal.signal(number, signal.SIG_DFL)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if not stop.is_set():
            for number, handler in previous.items():
                signal.signal(number, handler)


def _say(*, as_json: bool) -> Any:
    """Return a function that prints a line: to standard output, or with JSON there to the error stream."""

    def say(text: str) -> None:
        click.echo(text, err=as_json)
        (sys.stderr if as_json else sys.stdout).flush()

    return say
