"""`edgewright iothub devices` and `certificates`: identities and what proves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cloud.iothub.commands.options import connect, state_option
from edgewright.command_line import common_options, print_json, print_table

if TYPE_CHECKING:
    from cloud.iothub.client import HubClient


@click.group("devices")
def devices_group() -> None:
    """Create, list, show and delete devices and modules."""


@devices_group.command("create")
@click.argument("name")
@click.option("--edge", is_flag=True, help="An IoT Edge device.")
@click.option(
    "--certificate",
    "certificates",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Self-signed certificate of the device, PEM (at most two).",
)
@click.option("--ca-signed", is_flag=True, help="The device has a certificate of an uploaded authority.")
@state_option
@common_options
def create(name: str, edge: bool, certificates: tuple[Path, ...], ca_signed: bool, state: Path, as_json: bool) -> None:
    """Create the device NAME or the module DEVICE/MODULE, and print its connection string once."""
    from cloud.iothub.client import path_of

    if (ca_signed and certificates) or len(certificates) > 2:
        raise click.UsageError("give --ca-signed or at most two of --certificate")
    client = connect(state)
    request: dict[str, Any] = {"capabilities": {"iotEdge": edge}}
    if certificates:
        thumbprints = [client.call("POST", "/certificates", file.read_bytes())["thumbprint"] for file in certificates]
        pair = dict(zip(("primaryThumbprint", "secondaryThumbprint"), thumbprints, strict=False))
        request["authentication"] = {"type": "selfSigned", "x509Thumbprint": pair}
    elif ca_signed:
        request["authentication"] = {"type": "certificateAuthority"}
    _print_connection_string(client, client.call("PUT", path_of(name), request), as_json=as_json)


@devices_group.command("rotate")
@click.argument("name")
@click.option(
    "--key", type=click.Choice(("primary", "secondary")), default="primary", show_default=True, help="The key to replace."
)
@state_option
@common_options
def rotate(name: str, key: str, state: Path, as_json: bool) -> None:
    """Replace a key of NAME, and print the new connection string once; the other key stays valid."""
    from cloud.iothub.client import path_of
    from edgewright.contracts.iothub.sas import new_key

    client = connect(state)
    current = client.call("GET", path_of(name))
    current["authentication"]["symmetricKey"][f"{key}Key"] = new_key()
    changed = client.call("PUT", path_of(name), current, headers={"If-Match": current["etag"]})
    _print_connection_string(client, changed, as_json=as_json)


@devices_group.command("list")
@state_option
@common_options
def list_devices(state: Path, as_json: bool) -> None:
    """List the devices."""
    found = [_without_keys(each) for each in connect(state).call("GET", "/devices")]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each["deviceId"],
            each["authentication"]["type"],
            each["status"],
            each["connectionState"].lower(),
            each["lastActivityTime"],
        )
        for each in found
    ]
    print_table(("device", "credential", "status", "connection", "last active"), rows)


@devices_group.command("show")
@click.argument("name")
@state_option
@common_options
def show(name: str, state: Path, as_json: bool) -> None:
    """Show a device or module with its twin, without keys."""
    from cloud.iothub.client import path_of

    client = connect(state)
    identity = _without_keys(client.call("GET", path_of(name)))
    twin = client.call("GET", path_of(name, "twins"))
    modules = [] if "/" in name else client.call("GET", f"{path_of(name)}/modules")
    shared = client.call("GET", "/statistics/service")["sharedIdentities"].get(name)
    if as_json:
        print_json({"identity": identity, "twin": twin, "modules": [each["moduleId"] for each in modules], "shared_at": shared})
        return
    rows = [
        ("credential", identity["authentication"]["type"]),
        ("status", identity.get("status", "enabled")),
        ("connection", f"{identity['connectionState'].lower()}, since {identity['connectionStateUpdatedTime']}"),
        ("used by two clients", shared and f"in turns, last at {shared}: give one of them an identity of its own"),
        ("waiting messages", identity["cloudToDeviceMessageCount"]),
        ("modules", ", ".join(each["moduleId"] for each in modules) or None),
        ("desired", properties_text(twin, "desired")),
        ("reported", properties_text(twin, "reported")),
        ("tags", json.dumps(twin["tags"])),
    ]
    print_table(("field", "value"), rows)


@devices_group.command("delete")
@click.argument("name")
@state_option
@common_options
def delete(name: str, state: Path, as_json: bool) -> None:
    """Delete a device with its modules, or one module."""
    from cloud.iothub.client import path_of

    connect(state).call("DELETE", path_of(name), headers={"If-Match": "*"})
    print_json({"deleted": name}) if as_json else click.echo(f"deleted {name}")


@click.group("certificates")
def certificates_group() -> None:
    """Upload, list and remove certificates that verify those of devices."""


@certificates_group.command("add")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@state_option
@common_options
def add_certificate(file: Path, state: Path, as_json: bool) -> None:
    """Upload the certificate of an authority (PEM) that issues certificates of devices."""
    added = connect(state).call("POST", "/certificates", file.read_bytes())
    print_json(added) if as_json else click.echo(f"added {added['subject']}, thumbprint {added['thumbprint']}")


@certificates_group.command("list")
@state_option
@common_options
def list_certificates(state: Path, as_json: bool) -> None:
    """List the uploaded certificates."""
    found = connect(state).call("GET", "/certificates")
    if as_json:
        print_json(found)
        return
    rows = [(each["thumbprint"], each["subject"], each["expiry"], "yes" if each["isAuthority"] else "no") for each in found]
    print_table(("thumbprint", "subject", "valid until", "authority"), rows)


@certificates_group.command("remove")
@click.argument("thumbprint")
@state_option
@common_options
def remove_certificate(thumbprint: str, state: Path, as_json: bool) -> None:
    """Remove an uploaded certificate."""
    connect(state).call("DELETE", f"/certificates/{thumbprint}")
    print_json({"removed": thumbprint}) if as_json else click.echo(f"removed {thumbprint}")


def _print_connection_string(client: HubClient, identity: dict[str, Any], *, as_json: bool) -> None:
    text = client.connection_string(identity)
    print_json({"connection_string": text}) if as_json else click.echo(text)


def _without_keys(identity: dict[str, Any]) -> dict[str, Any]:
    authentication = {name: each for name, each in identity["authentication"].items() if name != "symmetricKey"}
    return {**identity, "authentication": authentication}


def properties_text(twin: dict[str, Any], section: str) -> str:
    """Return the properties of a twin without their times."""
    return json.dumps({name: each for name, each in twin["properties"][section].items() if name != "$metadata"})
