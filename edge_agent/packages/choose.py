"""Choose the variant of a package for this device: by the profile's order of preference, or by what was measured here.

What fits, and the order, is `hardware_profiles.match`, shared with the cloud. Measuring is `measure.py`'s work; this module only
decides. Every variant gets a sentence that says why it was chosen or not; `edgewright agent explain` and the cloud show them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.storage.variant_times import VariantTimes, in_ms
from edgewright.contracts.package import Package, PackagedVariant
from edgewright.contracts.variant import BackendName
from edgewright.errors import PackageError
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import fits, match

WORTH_A_CHANGE = 1.03
"""How many times as long as the fastest the profile's variant may take and still be chosen: contests differ by a few percent."""


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


def contenders(profile: HardwareProfile, package: Package, by_profile: Choice) -> tuple[PackagedVariant, ...]:
    """Return the variants to measure against each other, the profile's choice first; none where there is nothing to decide.

    A variant for the NPU is chosen by the profile or not at all. A serial line can be opened by one process, and while the
    version before runs, that is its runner: what a contest would time is the functional model that stands in for the board.
    """
    if by_profile.variant.config.backend == BackendName.NPU:
        return ()
    others = [
        variant
        for variant in package.variants
        if variant != by_profile.variant and variant.config.backend != BackendName.NPU and fits(profile, variant.config) is None
    ]
    return (by_profile.variant, *others) if others else ()


def choose_fastest(package: Package, by_profile: Choice, times: VariantTimes, version: int) -> Choice:
    """Return the variant that was measured fastest; the profile's, where no other is faster beyond what times vary by."""
    chosen = _pick(times, by_profile.variant.config.variant)
    when = "" if times.version == version else f" with version {times.version}"
    said = {variant: _why_not(variant, chosen, times, when) for variant in (*times.median_ms, *times.failures)}
    said[chosen] = _why(chosen, times, when)
    names = [variant.config.variant for variant in package.variants]
    sentences = tuple(said.get(name, before) for name, before in zip(names, by_profile.sentences, strict=True))
    return Choice(package.variant(chosen), sentences)


def unmeasured(by_profile: Choice, package: Package, why: str) -> Choice:
    """Return the profile's choice, saying why nothing was measured."""
    place = [variant.config.variant for variant in package.variants].index(by_profile.variant.config.variant)
    sentences = list(by_profile.sentences)
    sentences[place] += f" Nothing was measured: {why.rstrip('.')}."
    return replace(by_profile, sentences=tuple(sentences))


def _pick(times: VariantTimes, preferred: str) -> str:
    close_ms = WORTH_A_CHANGE * times.median_ms[times.fastest]
    return preferred if preferred in times.median_ms and times.median_ms[preferred] <= close_ms else times.fastest


def _why(chosen: str, times: VariantTimes, when: str) -> str:
    how = "measured fastest" if chosen == times.fastest else "the profile prefers it, and none was measured clearly faster"
    others = sorted((median_ms, variant) for variant, median_ms in times.median_ms.items() if variant != chosen)
    against = "".join(f"; {variant} {in_ms(median_ms)}" for median_ms, variant in others)
    return f"{chosen} is chosen: {how} here{when}, {in_ms(times.median_ms[chosen])}{against}."


def _why_not(variant: str, chosen: str, times: VariantTimes, when: str) -> str:
    if variant in times.failures:
        return f"{variant} fits, but could not be measured here{when}: {times.failures[variant].rstrip('.')}."
    its_ms, best_ms = times.median_ms[variant], times.median_ms[chosen]
    if its_ms < best_ms:
        against = f"({in_ms(its_ms)} against {in_ms(best_ms)})"
        return f"{variant} fits, but was not measured clearly faster than {chosen} here{when} {against}."
    return f"{variant} fits, but {chosen} was measured faster here{when} ({in_ms(best_ms)} against {in_ms(its_ms)})."
