"""`edgewright packages`: build, sign, inspect, verify and move packages."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from edgewright.command_line import common_options, print_json, print_table
from edgewright.contracts import package as packages
from edgewright.contracts import signing
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.files import replace_directory, staging_beside
from edgewright.contracts.names import check_name
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import Package
from edgewright.errors import BadInputError, ConflictError, SignatureError

PathArgument = click.Path(path_type=Path)


@click.group()
def group() -> None:
    """Build, sign, inspect, verify and move packages."""


@group.command()
@click.argument("build_directory", metavar="BUILD", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The package: a new OCI layout directory.")
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
    from edgewright.packing import PackOptions, pack  # brings the runtime, which the other commands do without

    options = PackOptions(
        name=name,
        variants=variants,
        profiles=profiles,
        annotations=dict(_key_value(text) for text in annotations),
        allow_mismatch=allow_mismatch,
    )
    built = pack(BuildDirectory.open(build_directory), output, options)
    _show(built, (), as_json)


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@common_options
def inspect(path: Path, as_json: bool) -> None:
    """Show what a package holds, without checking its layers."""
    with packages.opened(path) as layout:
        found = packages.read_package(layout)
        _show(found, packages.signatures(layout, found), as_json)


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("--key", "keys", multiple=True, type=PathArgument, help="A trusted public key; without one only digests count.")
@common_options
def verify(path: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Check every byte against its digest, and the signature against trusted keys."""
    with packages.opened(path) as layout:
        found = packages.read_package(layout)
        packages.verify_blobs(layout, found)
        signed = verified_signature(layout, found, keys) if keys else None
    if as_json:
        print_json({"name": found.name, "digest": found.digest, "blobs": len(found.blobs()) + 1, "signature": signed})
        return
    click.echo(f"{len(found.blobs()) + 1} blobs of {found.name} ({found.digest}) are unchanged")
    if signed is not None:
        click.echo(f"signed as {signed.model}:{signed.version}, until {signed.expires_at:%Y-%m-%d}")
    else:
        click.echo("signature not checked: name a trusted key with --key")


@group.command()
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("--key", required=True, type=PathArgument, help="The private signing key.")
@click.option("--version", required=True, type=click.IntRange(min=1), help="The version that the signature vouches for.")
@click.option("--expires-days", default=365, show_default=True, type=click.IntRange(min=1), help="How long it is valid.")
def sign(path: Path, key: Path, version: int, expires_days: int) -> None:
    """Sign a package directory for travelling without a cloud; `publish` signs by itself."""
    private_key = signing.load_private_key(key)
    layout = OciLayout.open(path)
    found = packages.read_package(layout)
    packages.verify_blobs(layout, found)
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=expires_days)
    binding = signing.PackageSignature(
        index_digest=found.digest, model=check_name(found.name, "model"), version=version, expires_at=expires_at
    )
    packages.attach_signature(layout, found, signing.sign_package(binding, private_key))
    click.echo(f"signed {found.name}:{version} ({found.digest}) until {expires_at:%Y-%m-%d}")


@group.command()
@click.argument("path", metavar="KEY", type=PathArgument)
def keygen(path: Path) -> None:
    """Make an Ed25519 signing key: KEY (keep it secret) and KEY.pub (hand it out)."""
    public_path = signing.write_key_pair(path, signing.generate_key())
    click.echo(f"wrote {path} (secret) and {public_path}")


@group.command("export")
@click.argument("path", metavar="PACKAGE", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The tar to write.")
def export_tar(path: Path, output: Path) -> None:
    """Write a package directory as one tar, for an air-gapped copy."""
    layout = OciLayout.open(path)
    found = packages.read_package(layout)
    packages.verify_blobs(layout, found)
    if output.exists():
        raise ConflictError(f"{output} exists: choose another name or remove it yourself")
    packages.write_tar(layout, output)
    click.echo(f"wrote {output}: {found.name} ({found.digest}), {output.stat().st_size} bytes")


@group.command("import")
@click.argument("path", metavar="TAR", type=PathArgument)
@click.option("-o", "--output", required=True, type=PathArgument, help="The package directory to write.")
@click.option("--key", "keys", multiple=True, type=PathArgument, help="Refuse it unless one of these keys signed it.")
def import_tar(path: Path, output: Path, keys: tuple[Path, ...]) -> None:
    """Unpack a tar into a package directory, after checking every byte."""
    if output.exists():
        raise ConflictError(f"{output} exists: choose another name or remove it yourself")
    with packages.opened(path) as layout:
        found = packages.read_package(layout)
        packages.verify_blobs(layout, found)
        if keys:
            verified_signature(layout, found, keys)
        with staging_beside(output) as staging:
            shutil.copytree(layout.path, staging, dirs_exist_ok=True)
            replace_directory(staging, output)
    click.echo(f"wrote {output}: {found.name} ({found.digest})")


def verified_signature(layout: OciLayout, found: Package, keys: tuple[Path, ...]) -> signing.PackageSignature:
    """Return the first signature of the layout that one of the public keys vouches for; raise `SignatureError`."""
    trusted = signing.TrustedKeys(signing.load_public_key(key) for key in keys)
    envelopes = packages.signatures(layout, found)
    if not envelopes:
        raise SignatureError(f"{found.name} is not signed: 'edgewright packages sign' or 'edgewright publish' signs it")
    refusals = []
    for envelope in envelopes:
        try:
            return signing.verify_package(envelope, trusted, index_digest=found.digest, now=datetime.now(UTC))
        except SignatureError as refused:
            refusals.append(refused)
    raise refusals[0]


def _show(found: Package, envelopes: tuple[bytes, ...], as_json: bool) -> None:
    if as_json:
        variants = [{"digest": variant.descriptor.digest, "config": variant.config} for variant in found.variants]
        print_json(
            {
                "name": found.name,
                "digest": found.digest,
                "annotations": found.index.annotations,
                "variants": variants,
                "blobs": found.blobs(),
                "signatures": len(envelopes),
            }
        )
        return
    click.echo(f"{found.name}  {found.digest}  {'signed' if envelopes else 'not signed'}")
    print_table(
        ["variant", "backend", "precision", "accuracy", "agreement", "size_bytes", "profiles"],
        [_row(variant) for variant in found.variants],
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
