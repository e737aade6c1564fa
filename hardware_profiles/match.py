"""Which variant of a package a machine should run, and why: pure, so that a device, a cloud and a test decide alike.

    fits     one variant on one profile: None, or the reason why not
    match    all variants: what does not fit falls out, then the profile's order of preference decides, then the smaller one

Every variant gets one plain sentence, the chosen one and the others, so that nobody has to guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgewright.contracts.oci import Platform
from edgewright.contracts.variant import VariantConfig
from hardware_profiles.hardware_profile import NPU_HASH, Architecture, HardwareProfile

RUNTIME_MIB = 96
"""What Python, NumPy and the runtime need before the first weight (measured: 65 to 90 MiB)."""
COPIES_OF_WEIGHTS = 2
"""The runtime repacks weights for its kernels and may hold both forms."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Match:
    """The variant for a machine (None: no variant fits), and one sentence per variant, in the order given."""

    chosen: str | None
    sentences: tuple[str, ...]


def match(profile: HardwareProfile, variants: Sequence[VariantConfig]) -> Match:
    """Choose the variant that `profile` should run: its precision first, then its backend, then the smaller one."""
    reasons = {variant.variant: fits(profile, variant) for variant in variants}
    fitting = sorted(
        (variant for variant in variants if reasons[variant.variant] is None),
        key=lambda variant: _preference(profile, variant),
    )
    best = fitting[0] if fitting else None
    return Match(
        None if best is None else best.variant,
        tuple(_sentence(profile, variant, reasons[variant.variant], best) for variant in variants),
    )


def fits(profile: HardwareProfile, config: VariantConfig) -> str | None:
    """Return why a variant cannot run on `profile`, or None when it can."""
    if config.backend not in profile.backends:
        return f"needs the backend {config.backend}, and {profile.name} has {', '.join(profile.backends)}"
    if config.precision not in profile.precisions:
        return f"is {config.precision}, and {profile.name} runs {', '.join(profile.precisions)}"
    return _npu_reason(profile, config) or _memory_reason(profile, config)


def platforms_of(profile: HardwareProfile) -> tuple[Platform, ...]:
    """Return the OCI platforms of `profile`: one, or both architectures for a board that hangs on any host."""
    if profile.architecture is not Architecture.ANY:
        return (Platform(os=profile.os, architecture=profile.architecture.value),)
    return tuple(Platform(os=profile.os, architecture=choice.value) for choice in (Architecture.AMD64, Architecture.ARM64))


def platform_of(profile: HardwareProfile) -> Platform:
    """Return the first of `platforms_of`."""
    return platforms_of(profile)[0]


def _npu_reason(profile: HardwareProfile, config: VariantConfig) -> str | None:
    if profile.npu is None or config.backend != "npu":
        return None
    built_for = config.properties.get(NPU_HASH)
    own = profile.npu.hash.hex()
    if built_for == own:
        return None
    theirs = built_for[:12] if built_for else "of no profile"
    return f"was compiled for the NPU {theirs}, and {profile.name} has the NPU {own[:12]}"


def _memory_reason(profile: HardwareProfile, config: VariantConfig) -> str | None:
    size_mib = config.size_bytes / _MIB
    largest_mib = profile.limits.max_variant_mib
    if largest_mib is not None and size_mib > largest_mib:
        return f"has {size_mib:.1f} MiB, and {profile.name} takes at most {largest_mib} MiB"
    needed_mib = RUNTIME_MIB + COPIES_OF_WEIGHTS * size_mib
    if needed_mib > profile.memory_mib:
        return f"needs about {needed_mib:.0f} MiB of memory, and {profile.name} has {profile.memory_mib} MiB"
    return None


def _preference(profile: HardwareProfile, config: VariantConfig) -> tuple[int, int, int, str]:
    return (
        profile.precisions.index(config.precision),
        profile.backends.index(config.backend),
        config.size_bytes,
        config.variant,
    )


def _sentence(profile: HardwareProfile, config: VariantConfig, reason: str | None, best: VariantConfig | None) -> str:
    if reason is not None:
        return f"{config.variant} does not fit: it {reason}."
    if best is None or config.variant == best.variant:
        first = config.precision == profile.precisions[0]
        among = "" if first else ", of the variants that fit"
        return f"{config.variant} is chosen: {profile.name} prefers {config.precision} most{among}."
    if config.precision != best.precision:
        return f"{config.variant} fits, but {profile.name} prefers {best.precision} to {config.precision}."
    if config.backend != best.backend:
        return f"{config.variant} fits, but {profile.name} prefers the backend {best.backend} to {config.backend}."
    if config.size_bytes == best.size_bytes:
        return f"{config.variant} fits equally well; {best.variant} comes first by name."
    return f"{config.variant} fits, but {best.variant} is smaller ({best.size_bytes} against {config.size_bytes} bytes)."
