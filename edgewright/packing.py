"""Pack a build directory: which profiles each variant fits, whether it still answers as its source did, then the bytes.

A variant that can run here is run on the golden samples first, so that what leaves this machine was right when it left; the
devices ask the same question again. Writing is `edgewright/contracts/package.py`'s work.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from accel.backends.choose import load_session
from accel.golden import check_golden
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.files import replace_directory, staging_beside
from edgewright.contracts.oci import OciLayout
from edgewright.contracts.package import Package, read_package, write_package
from edgewright.contracts.variant import LayerKind, VariantDirectory
from edgewright.errors import ConflictError, NotFoundError, OperationError, ParityError
from hardware_profiles.catalog import load_profile, shipped_profiles
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import fits, platforms_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackOptions:
    """What to pack and under which name."""

    name: str
    variants: tuple[str, ...] = ()
    """Empty packs all that fit some profile: npu-int8, say, only becomes something to run when it is compiled."""
    profiles: tuple[str, ...] = ()
    """Names or TOML files of hardware profiles to consider besides the shipped ones."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    allow_mismatch: bool = False
    """Pack variants even if they fail the golden samples."""


def pack(build: BuildDirectory, output: Path, options: PackOptions) -> Package:
    """Write the package directory `output` from `build`, whole or not at all.

    Raises:
        ConflictError: `output` exists and holds something else than a package.
        ParityError: a variant's answers on the golden samples are beyond its tolerance.
        PackageError: there is nothing to pack, or a variant fits no profile.
    """
    if output.exists() and any(output.iterdir()) and not (output / "oci-layout").is_file():
        raise ConflictError(f"{output} exists and is no package: choose another output, or remove it yourself")
    variants = [build.variant(name) for name in options.variants] or list(build.variants())
    profiles = [*shipped_profiles(), *(load_profile(name) for name in options.profiles)]
    fitting = {variant.config.variant: fitting_profiles(variant, profiles) for variant in variants}
    if not options.variants and any(fitting.values()):
        log.info("left out variants=%s: they fit no profile", ",".join(name for name, fitted in fitting.items() if not fitted))
        fitting = {name: fitted for name, fitted in fitting.items() if fitted}
    if not options.allow_mismatch:
        for variant in variants:
            if variant.config.variant in fitting:
                check_answers(variant, build.graph)
    with staging_beside(output) as staging:
        layout = OciLayout.create(staging)
        write_package(
            build,
            layout,
            name=options.name,
            profiles={name: [profile.name for profile in fitted] for name, fitted in fitting.items()},
            platforms={
                name: [platform for profile in fitted for platform in platforms_of(profile)] for name, fitted in fitting.items()
            },
            annotations=options.annotations,
        )
        replace_directory(staging, output)
    return read_package(OciLayout.open(output))


def check_answers(variant: VariantDirectory, golden: Path) -> None:
    """Raise `ParityError` when a variant that can run on this machine fails the golden samples."""
    if not (golden / LayerKind.GOLDEN_INPUTS.file_name).is_file():
        log.warning("not checked variant=%s: the build has no golden samples", variant.config.variant)
        return
    try:
        session = load_session(variant, backend=variant.config.backend)
    except (NotFoundError, OperationError) as absent:
        log.warning("not checked variant=%s: %s", variant.config.variant, absent)
        return
    try:
        result = check_golden(session, variant, golden)
    finally:
        session.close()
    if result.failure is not None:
        raise ParityError(
            f"variant {variant.config.variant} fails the golden samples: {result.failure}; "
            "build it again, or pack it all the same with --allow-mismatch"
        )


def fitting_profiles(variant: VariantDirectory, profiles: Sequence[HardwareProfile]) -> list[HardwareProfile]:
    """Return the profiles that a variant fits, each once, sorted by name."""
    config = replace(variant.config, profiles=())
    unique = {profile.name: profile for profile in profiles if fits(profile, config) is None}
    return [unique[name] for name in sorted(unique)]
