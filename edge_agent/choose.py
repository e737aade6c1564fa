"""Choose the variant of a package for this device; the rule itself is `hardware_profiles.match`, shared with the cloud.

Every variant gets a sentence that says why it was chosen or not; `edgewright agent explain` and the cloud show them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgewright.contracts.package import Package, PackagedVariant
from edgewright.errors import PackageError
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import match


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant to run, and one sentence per variant of the package."""

    variant: PackagedVariant
    sentences: tuple[str, ...]


def choose(profile: HardwareProfile, package: Package) -> Choice:
    """Return the best variant for `profile`; raise `PackageError` with every variant's reason when none fits."""
    found = match(profile, [variant.config for variant in package.variants])
    if found.chosen is None:
        raise PackageError(f"package {package.name} must have a variant for {profile.name}: {' '.join(found.sentences)}")
    return Choice(package.variant(found.chosen), found.sentences)
