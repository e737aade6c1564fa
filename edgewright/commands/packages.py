"""`edgewright packages`: build, sign, inspect, verify and move packages."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from edgewright.command_line import common_options, print_json, print_table
from edgewright.commands.cloud_options import size_text, transfer_progress
from edgewright.contracts import package as packages
from edgewright.contracts import signing
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.files import replace_directory, staging_beside
from edgewright.contracts.names import check_name
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import Package
from edgewright.errors import BadInputError, ConflictError, SignatureError
from edgewright.registries.client import RegistryClient
from edgewright.registries.login import Credentials, stored_credentials
from edgewright.registries.packages import pull_package, push_package
from edgewright.registries.references import parse_image_reference

PathArgument = click.Path(path_type=Path)


@click.group()
def group() -> None:
    """Build, sign, inspect, verify and move packages."""


@group.command()
@click.argument("build_directory", metavar="BUILD", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The package: an OCI layout directory, or X.tar.")
@click.option("--name", required=True, help="The model's name.")
@click.option("--variant", "variants", multiple=True, help="Pack only these variants (default: all).")
@click.option("--profile", "profiles", multiple=True, help="Also consider this hardware profile (a name or a TOML file).")
@click.option("--annotation", "annotations", multiple=True, metavar="KEY=VALUE", help="Add an annotation to the index.")
@click.option("--allow-mismatch", is_flag=True, help="Pack variants even if they fail the golden samples.")
@common_options
def build(
    build_directory: Path,
    output: Path,
    name: str,
    variants: tuple[str, ...],
    profiles: tuple[str, ...],
    annotations: tuple[str, ...],
    allow_mismatch: bool,
    as_json: bool,
) -> None:
    """Pack a build directory; the same build gives the same bytes."""
    from edgewright.packing import PackOptions, pack  # imports the runtime, which the other commands do not need

    options = PackOptions(
        name=name,
        variants=variants,
        profiles=profiles,
        annotations=dict(_key_value(text) for text in annotations),
        allow_mismatch=allow_mismatch,
    )
    package = pack(BuildDirectory.open(build_directory), output, options)
    _show(package, (), as_json)


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@common_options
def inspect(path: Path, as_json: bool) -> None:
    """Show the content of a package, without checking its layers."""
    with packages.opened(path) as layout:
        package = packages.read_package(layout)
        _show(package, packages.signatures(layout, package), as_json)


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("--key", "keys", multiple=True, type=PathArgument, help="A trusted public key; without one, check digests only.")
@common_options
def verify(path: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte against its digest, and the signature against trusted keys."""
    with packages.opened(path) as layout:
        package = packages.read_package(layout)
        packages.verify_blobs(layout, package)
        signature = verified_signature(layout, package, keys) if keys else None
    count = len(package.blobs()) + 1
    if as_json:
        print_json({"name": package.name, "digest": package.digest, "blobs": count, "signature": signature})
        return
    click.echo(f"{count} blobs of {package.name} ({package.digest}) are unchanged")
    if signature is not None:
        click.echo(f"signed as {signature.model}:{signature.version}, valid until {signature.expires_at:%Y-%m-%d}")
    else:
        click.echo("signature not checked: specify a trusted key with --key")


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("--key", required=True, type=PathArgument, help="The private signing key.")
@click.option("--version", required=True, type=click.IntRange(min=1), help="The version that the signature confirms.")
@click.option("--expires-days", default=365, show_default=True, type=click.IntRange(min=1), help="Lifetime of the signature.")
def sign(path: Path, key: Path, version: int, expires_days: int) -> None:
    """Sign a package directory that is copied without a cloud; `publish` signs automatically."""
    private_key = signing.load_private_key(key)
    layout = OciLayout.open(path)
    package = packages.read_package(layout)
    packages.verify_blobs(layout, package)
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=expires_days)
    signature = signing.PackageSignature(
        index_digest=package.digest, model=check_name(package.name, "model"), version=version, expires_at=expires_at
    )
    packages.attach_signature(layout, package, signing.sign_package(signature, private_key))
    click.echo(f"signed {package.name}:{version} ({package.digest}), valid until {expires_at:%Y-%m-%d}")


@group.command()
@click.argument("path", metavar="KEY", type=PathArgument)
def keygen(path: Path) -> None:
    """Generate an Ed25519 signing key: KEY (keep it secret) and KEY.pub (for those who verify)."""
    public_path = signing.write_key_pair(path, signing.generate_key())
    click.echo(f"wrote {path} (secret) and {public_path}")


@group.command("export")
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The tar to write.")
def export_tar(path: Path, output: Path) -> None:
    """Write a package directory as one tar, for an air-gapped copy."""
    layout = OciLayout.open(path)
    package = packages.read_package(layout)
    packages.verify_blobs(layout, package)
    _check_free(output)
    packages.write_tar(layout, output)
    click.echo(f"wrote {output}: {package.name} ({package.digest}), {output.stat().st_size} bytes")


@group.command("import")
@click.argument("path", metavar="TAR", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The package directory to write.")
@click.option("--key", "keys", multiple=True, type=PathArgument, help="Reject it unless one of these keys signed it.")
def import_tar(path: Path, output: Path, keys: tuple[Path, ...]) -> None:
    """Unpack a tar into a package directory, after checking every byte."""
    _check_free(output)
    with packages.opened(path) as layout:
        package = packages.read_package(layout)
        packages.verify_blobs(layout, package)
        if keys:
            verified_signature(layout, package, keys)
        with staging_beside(output) as staging:
            shutil.copytree(layout.path, staging, dirs_exist_ok=True)
            replace_directory(staging, output)
    click.echo(f"wrote {output}: {package.name} ({package.digest})")


def registry_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that open a registry: `--user`, `--password-stdin`, `--ca`."""
    for option in (
        click.option("--ca", "ca_file", type=PathArgument, help="Certificate authority of the registry (PEM)."),
        click.option("--password-stdin", is_flag=True, help="Read the password from standard input."),
        click.option("--user", help="User of the registry; default: that of 'docker login'."),
    ):
        command = option(command)
    return command


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.argument("target", metavar="HOST[:PORT]/NAME[:TAG]")
@registry_options
@common_options
def push(path: Path, target: str, user: str | None, password_stdin: bool, ca_file: Path | None, as_json: bool) -> None:
    """Push a package and its signatures to any registry; only blobs that it lacks are sent."""
    registry = _registry(target, user, ca_file, password_stdin=password_stdin)
    with packages.opened(path) as layout, registry, transfer_progress("pushing") as on_progress:
        package, sent = push_package(layout, registry, on_progress=on_progress)
    if as_json:
        print_json({"name": package.name, "digest": package.digest, "target": str(registry.image), "sent_bytes": sent})
    else:
        click.echo(f"pushed {package.name} ({package.digest}) to {registry.image}: {size_text(sent)} sent")


@group.command()
@click.argument("source", metavar="HOST[:PORT]/NAME[:TAG|@DIGEST]")
@click.option("-o", "--output", required=True, type=PathArgument, help="The package directory to write.")
@click.option("--key", "keys", multiple=True, type=PathArgument, help="Reject it unless one of these keys signed it.")
@registry_options
def pull(source: str, output: Path, keys: tuple[Path, ...], user: str | None, password_stdin: bool, ca_file: Path | None) -> None:
    """Pull a package and its signatures from any registry into a directory, after checking every byte."""
    _check_free(output)
    registry = _registry(source, user, ca_file, password_stdin=password_stdin)
    with registry, staging_beside(output) as staging:
        layout = OciLayout.create(staging)
        with transfer_progress("pulling") as on_progress:
            package = pull_package(registry, layout, on_progress=on_progress)
        if keys:
            verified_signature(layout, package, keys)
        replace_directory(staging, output)
    click.echo(f"wrote {output}: {package.name} ({package.digest})")


def _registry(reference: str, user: str | None, ca_file: Path | None, *, password_stdin: bool) -> RegistryClient:
    if (user is None) is password_stdin:
        raise BadInputError("--user and --password-stdin must be given together: add the other one")
    image = parse_image_reference(reference)
    credentials = stored_credentials(image.host) if user is None else Credentials(user, sys.stdin.readline().rstrip("\n"))
    return RegistryClient(image, credentials, ca_file=ca_file)


def verified_signature(layout: OciLayout, package: Package, keys: tuple[Path, ...]) -> signing.PackageSignature:
    """Return the first signature of a package that is valid under one of the public keys.

    Raises:
        SignatureError: the package is not signed, or no signature is valid; the error is that of the first.
    """
    trusted = signing.TrustedKeys(signing.load_public_key(key) for key in keys)
    envelopes = packages.signatures(layout, package)
    if not envelopes:
        raise SignatureError(f"{package.name} is not signed: 'edgewright packages sign' or 'edgewright publish' signs it")
    errors = []
    for envelope in envelopes:
        try:
            return signing.verify_package(envelope, trusted, index_digest=package.digest, now=datetime.now(UTC))
        except SignatureError as error:
            errors.append(error)
    raise errors[0]


def _check_free(output: Path) -> None:
    if output.exists():
        raise ConflictError(f"{output} exists: choose another name, or remove it")


def _show(package: Package, envelopes: tuple[bytes, ...], as_json: bool) -> None:
    if as_json:
        variants = [{"digest": variant.descriptor.digest, "config": variant.config} for variant in package.variants]
        print_json(
            {
                "name": package.name,
                "digest": package.digest,
                "annotations": package.index.annotations,
                "variants": variants,
                "blobs": package.blobs(),
                "signatures": len(envelopes),
            }
        )
        return
    click.echo(f"{package.name}  {package.digest}  {'signed' if envelopes else 'not signed'}")
    print_table(
        ["variant", "backend", "precision", "accuracy", "agreement", "size bytes", "profiles"],
        [_row(variant) for variant in package.variants],
    )


def _row(variant: packages.PackagedVariant) -> list[object]:
    config, measured = variant.config, variant.config.measured
    return [
        config.variant,
        config.backend,
        config.precision.value,
        measured.accuracy if measured else None,
        measured.agreement if measured else None,
        config.size_bytes,
        " ".join(config.profiles),
    ]


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise BadInputError(f"an annotation must be KEY=VALUE, not {text!r}")
    return key, value
