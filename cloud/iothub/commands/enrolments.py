"""`edgewright iothub enrolments`: the devices that may register themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cloud.iothub.commands.options import connect, state_option
from edgewright.command_line import common_options, print_json, print_table


@click.group("enrolments")
def group() -> None:
    """Let devices register themselves (DPS): individual enrolments and groups."""


@group.command("create")
@click.argument("name")
@click.option("--group", "is_group", is_flag=True, help="A group: its key gives each device a key, its authority a certificate.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate of the device, or of the authority of a group, instead of a key (PEM).",
)
@click.option("--device", help="Id of the device, if it is not the registration id.")
@click.option("--edge", is_flag=True, help="IoT Edge devices.")
@state_option
@common_options
def create(
    name: str, is_group: bool, certificate: Path | None, device: str | None, edge: bool, state: Path, as_json: bool
) -> None:
    """Create the enrolment NAME, and print the id scope and the primary key once."""
    if is_group and device:
        raise click.UsageError("--device is for one device: omit it or --group")
    request: dict[str, Any] = {"capabilities": {"iotEdge": edge}, "deviceId": device}
    if certificate is not None:
        kind = "signingCertificates" if is_group else "clientCertificates"
        pem = certificate.read_text("utf-8", "replace")
        request["attestation"] = {"type": "x509", "x509": {kind: {"primary": {"certificate": pem}}}}
    client = connect(state)
    made = client.call("PUT", f"{_path(is_group=is_group)}/{name}", request)
    scope = client.call("GET", "/scope")["idScope"]
    key = made["attestation"].get("symmetricKey", {}).get("primaryKey")
    if as_json:
        print_json({"name": name, "id_scope": scope, "primary_key": key})
        return
    click.echo(f"id scope {scope}")
    if key:
        click.echo(f"key {key}")


@group.command("device-key")
@click.argument("name")
@click.argument("registration")
@state_option
@common_options
def device_key(name: str, registration: str, state: Path, as_json: bool) -> None:
    """Print the key of the device REGISTRATION in the group NAME."""
    from edgewright.contracts.iothub.sas import derive_key
    from edgewright.errors import BadInputError

    attestation = connect(state).call("POST", f"/enrollmentGroups/{name}/attestationmechanism")
    if "symmetricKey" not in attestation:
        raise BadInputError(
            f"the group {name} must have a key, but it has a certificate: its authority issues the devices' certificates"
        )
    key = derive_key(attestation["symmetricKey"]["primaryKey"], registration)
    print_json({"key": key}) if as_json else click.echo(key)


@group.command("list")
@state_option
@common_options
def list_enrolments(state: Path, as_json: bool) -> None:
    """List the enrolments."""
    client = connect(state)
    found = [*client.call("POST", "/enrollments/query"), *client.call("POST", "/enrollmentGroups/query")]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            each.get("registrationId") or each["enrollmentGroupId"],
            "device" if "registrationId" in each else "group",
            each["attestation"]["type"],
            each["provisioningStatus"],
        )
        for each in found
    ]
    print_table(("name", "kind", "credential", "status"), rows)


@group.command("delete")
@click.argument("name")
@click.option("--group", "is_group", is_flag=True, help="NAME is a group.")
@state_option
@common_options
def delete(name: str, is_group: bool, state: Path, as_json: bool) -> None:
    """Delete the enrolment NAME; devices that have registered stay."""
    connect(state).call("DELETE", f"{_path(is_group=is_group)}/{name}")
    print_json({"deleted": name}) if as_json else click.echo(f"deleted {name}")


def _path(*, is_group: bool) -> str:
    return "/enrollmentGroups" if is_group else "/enrollments"
