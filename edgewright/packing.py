"""Pack a build directory: match its variants with hardware profiles, check their outputs, write the package.

A variant that can run on this machine is run on the golden samples before it is packed; devices repeat that check. The format
of a package is the subject of `edgewright/contracts/package.py`.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accel.backends.choose import load_session
from accel.first_run import FirstRuns
from accel.golden import check_golden
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.files import replace_directory, staging_beside
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import Package, write_package, write_tar
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ConflictError, NotFoundError, OperationError, ParityError
from hardware_profiles.catalog import load_profile, shipped_profiles
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import fits, platforms_of

log = logging.getLogger(__name__)

TAR_SUFFIX = ".tar"

Fitting = dict[str, list[HardwareProfile]]
"""The hardware profiles that each variant fits, by the variant's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """Name and content of a package."""

    name: str
    variants: tuple[str, ...] = ()
    """Empty packs all variants that fit a profile; npu-int8, for example, fits none until it is compiled."""
    profiles: tuple[str, ...] = ()
    """Names or TOML files of hardware profiles besides the shipped ones."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    allow_mismatch: bool = False
    """Pack variants even if they fail the golden samples."""


def pack(build: BuildDirectory, output: Path, options: PackOptions) -> Package:
    """Write the package `output` from `build`, whole or not at all: a tar if its name ends with .tar, else a directory.

    Raises:
        ConflictError: `output` exists and is not a package of that form.
        ParityError: a variant's outputs on the golden samples are beyond its tolerance.
        PackageError: there is nothing to pack, or a variant fits no profile.
    """
    as_tar = output.suffix == TAR_SUFFIX
    _check_output(output, as_tar=as_tar)
    variants = [build.variant(name) for name in options.variants] or list(build.variants())
    fitting = _fitting(variants, options)
    if not options.allow_mismatch:
        with FirstRuns() as first_runs:
            for variant in variants:
                if variant.config.variant in fitting:
                    first_runs.check_variant(variant)
                    check_outputs(variant, build.graph)
    with staging_beside(output) as staging:
        layout = OciLayout.create(staging)
        package = _write(build, layout, fitting, options)
        if as_tar:
            write_tar(layout, output)
        else:
            replace_directory(staging, output)
    return package


def _check_output(path: Path, *, as_tar: bool) -> None:
    """Raise `ConflictError` unless `path` is free or holds a package of the same form, which is replaced."""
    if not path.exists() or (_is_package_tar(path) if as_tar else _is_package_directory(path)):
        return
    form = "a tar of a package" if as_tar else "a package directory"
    raise ConflictError(f"{path} exists, but it is not {form}: choose another output, or remove it")


def _is_package_directory(path: Path) -> bool:
    """Return True for a package directory and for an empty directory."""
    return path.is_dir() and (not any(path.iterdir()) or (path / "oci-layout").is_file())


def _is_package_tar(path: Path) -> bool:
    if not path.is_file() or not tarfile.is_tarfile(path):
        return False
    with tarfile.open(path) as tar:
        return "oci-layout" in tar.getnames()


def _fitting(variants: Sequence[VariantDirectory], options: PackOptions) -> Fitting:
    """Return the profiles of each variant; variants without one are left out unless they were named."""
    profiles = [*shipped_profiles(), *(load_profile(name) for name in options.profiles)]
    fitting = {variant.config.variant: fitting_profiles(variant, profiles) for variant in variants}
    if options.variants or not any(fitting.values()):
        return fitting
    log.info("left out variants=%s: they fit no profile", ",".join(name for name, fitted in fitting.items() if not fitted))
    return {name: fitted for name, fitted in fitting.items() if fitted}


def fitting_profiles(variant: VariantDirectory, profiles: Sequence[HardwareProfile]) -> list[HardwareProfile]:
    """Return the profiles that a variant fits, each once, sorted by name."""
    config = replace(variant.config, profiles=())
    unique = {profile.name: profile for profile in profiles if fits(profile, config) is None}
    return [unique[name] for name in sorted(unique)]


def check_outputs(variant: VariantDirectory, golden: Path) -> None:
    """Compare a variant's outputs on the golden samples with the source's; a variant that cannot run here is not checked.

    Raises:
        ParityError: an output is beyond the variant's tolerance.
    """
    if not (golden / LayerKind.GOLDEN_INPUTS.file_name).is_file():
        log.warning("not checked variant=%s: the build has no golden samples", variant.config.variant)
        return
    try:
        session = load_session(variant, backend=variant.config.backend)
    except (NotFoundError, OperationError) as error:
        log.warning("not checked variant=%s: %s", variant.config.variant, error)
        return
    try:
        result = check_golden(session, variant, golden)
    finally:
        session.close()
    if result.failure is not None:
        raise ParityError(
            f"variant {variant.config.variant} fails the golden samples: {result.failure}; "
            "build it again, or pack it anyway with --allow-mismatch"
        )


def _write(build: BuildDirectory, layout: OciLayout, fitting: Fitting, options: PackOptions) -> Package:
    return write_package(
        build,
        layout,
        name=options.name,
        profiles={name: [profile.name for profile in fitted] for name, fitted in fitting.items()},
        platforms={
            name: [platform for profile in fitted for platform in platforms_of(profile)] for name, fitted in fitting.items()
        },
        annotations=options.annotations,
    )
