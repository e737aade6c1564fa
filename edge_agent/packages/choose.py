"""Choose the variant of a package for this device: by the profile's order of preference, or by benchmark results.

`hardware_profiles.match`, shared with the cloud, decides which variants fit and in which order. `measure.py` measures. Every
variant gets a sentence with the reason for or against it, which `edgewright agent explain` and the cloud show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_agent.storage.variant_times import VariantTimes, format_ms
from edgewright.contracts.package import Package, PackagedVariant
from edgewright.contracts.variant import BackendName
from edgewright.errors import PackageError
from hardware_profiles.hardware_profile import HardwareProfile
from hardware_profiles.match import fits, match

MAX_TIME_RATIO = 1.03
"""Longest time of the profile's variant relative to the fastest at which it is kept: results vary by a few percent."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen variant, and one sentence per variant of the package."""

    variant: PackagedVariant
    sentences: tuple[str, ...]


def choose(profile: HardwareProfile, package: Package) -> Choice:
    """Return the best variant for `profile`.

    Raises:
        PackageError: no variant fits; the message gives the reason of each.
    """
    matched = match(profile, [variant.config for variant in package.variants])
    if matched.chosen is None:
        raise PackageError(f"package {package.name} must have a variant for {profile.name}: {' '.join(matched.sentences)}")
    return Choice(package.variant(matched.chosen), matched.sentences)


def candidates(profile: HardwareProfile, package: Package, by_profile: Choice) -> tuple[PackagedVariant, ...]:
    """Return the variants to benchmark, the profile's choice first; empty if there is only one to choose from.

    Only the profile chooses a variant for the NPU. One process can open the serial port, and while the previous version runs,
    that process is its runner. A benchmark would therefore measure the functional model in place of the board.
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
    """Return the fastest variant, or the profile's choice if it is within `MAX_TIME_RATIO` of the fastest."""
    chosen = _pick(times, by_profile.variant.config.variant)
    where = f"on {times.measured_by}, which has the same machine," if times.measured_by else "here"
    where += "" if times.version == version else f" with version {times.version}"
    reasons = {variant: _reason_against(variant, chosen, times, where) for variant in (*times.median_ms, *times.failures)}
    reasons[chosen] = _reason_for(chosen, times, where)
    names = [variant.config.variant for variant in package.variants]
    sentences = tuple(reasons.get(name, default) for name, default in zip(names, by_profile.sentences, strict=True))
    return Choice(package.variant(chosen), sentences)


def unmeasured(by_profile: Choice, package: Package, why: str) -> Choice:
    """Return the profile's choice, with the reason why nothing was measured."""
    index = [variant.config.variant for variant in package.variants].index(by_profile.variant.config.variant)
    sentences = list(by_profile.sentences)
    sentences[index] += f" Nothing was measured: {why.rstrip('.')}."
    return replace(by_profile, sentences=tuple(sentences))


def _pick(times: VariantTimes, preferred: str) -> str:
    limit_ms = MAX_TIME_RATIO * times.median_ms[times.fastest]
    return preferred if preferred in times.median_ms and times.median_ms[preferred] <= limit_ms else times.fastest


def _reason_for(chosen: str, times: VariantTimes, where: str) -> str:
    rule = "measured fastest" if chosen == times.fastest else "the profile prefers it, and none was measured clearly faster"
    others = sorted((median_ms, variant) for variant, median_ms in times.median_ms.items() if variant != chosen)
    against = "".join(f"; {variant} {format_ms(median_ms)}" for median_ms, variant in others)
    return f"{chosen} is chosen: {rule} {where}, {format_ms(times.median_ms[chosen])}{against}."


def _reason_against(variant: str, chosen: str, times: VariantTimes, where: str) -> str:
    if variant in times.failures:
        return f"{variant} fits, but could not be measured {where}: {times.failures[variant].rstrip('.')}."
    its_ms, best_ms = times.median_ms[variant], times.median_ms[chosen]
    if its_ms < best_ms:
        against = f"({format_ms(its_ms)} against {format_ms(best_ms)})"
        return f"{variant} fits, but was not measured clearly faster than {chosen} {where} {against}."
    return f"{variant} fits, but {chosen} was measured faster {where} ({format_ms(best_ms)} against {format_ms(its_ms)})."
