"""Choose the variant of a package that a machine should run, and explain the choice.

    fits     one variant on one profile: None, or the reason why it does not fit
    match    all variants: of those that fit, the profile's order of precisions and backends decides, then the integer types
             that its processor multiplies best, then the size

Every variant gets one sentence, chosen or not. The functions are pure, so device and cloud make the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgewright.contracts.oci import Platform
from edgewright.contracts.variant import BackendName, Precision, VariantConfig
from hardware_profiles.hardware_profile import INT8_TYPES, NPU_HASH, Architecture, HardwareProfile

RUNTIME_MIB = 96
"""Memory of Python, NumPy and the runtime before any weights are loaded (measured: 65 to 90 MiB)."""
COPIES_OF_WEIGHTS = 2
"""The runtime repacks weights for its kernels and may hold both copies."""
EXPANSION_OF_MXINT8 = 4
"""The runtime expands blocks to float32 on loading."""

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Match:
    """The variant for a machine (None if no variant fits), and one sentence per variant, in the order given."""

    chosen: str | None
    sentences: tuple[str, ...]


def match(profile: HardwareProfile, variants: Sequence[VariantConfig]) -> Match:
    """Choose the variant for `profile` by precision, then backend, then integer types, then size (the smallest wins)."""
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
    """Return the reason why a variant cannot run on `profile`, or None if it can."""
    if config.backend not in profile.backends:
        return f"needs the backend {config.backend}, and {profile.name} has {', '.join(profile.backends)}"
    if config.precision not in profile.precisions:
        return f"is {config.precision}, and {profile.name} runs {', '.join(profile.precisions)}"
    return _npu_reason(profile, config) or _memory_reason(profile, config)


def platforms_of(profile: HardwareProfile) -> tuple[Platform, ...]:
    """Return the OCI platforms of `profile`: one, or both architectures for a board that any host can drive."""
    if profile.architecture is not Architecture.ANY:
        return (Platform(os=profile.os, architecture=profile.architecture.value),)
    return tuple(Platform(os=profile.os, architecture=choice.value) for choice in (Architecture.AMD64, Architecture.ARM64))


def _npu_reason(profile: HardwareProfile, config: VariantConfig) -> str | None:
    if profile.npu is None or config.backend != BackendName.NPU:
        return None
    built_for = config.properties.get(NPU_HASH)
    profile_hash = profile.npu.hash.hex()
    if built_for == profile_hash:
        return None
    if built_for is None:
        return f"does not name the NPU that it was compiled for, and {profile.name} has the NPU {profile_hash[:12]}"
    return f"was compiled for the NPU {built_for[:12]}, and {profile.name} has the NPU {profile_hash[:12]}"


def _memory_reason(profile: HardwareProfile, config: VariantConfig) -> str | None:
    size_mib = config.size_bytes / _MIB
    largest_mib = profile.limits.max_variant_mib
    if largest_mib is not None and size_mib > largest_mib:
        return f"has {size_mib:.1f} MiB, and {profile.name} takes at most {largest_mib} MiB"
    expansion = EXPANSION_OF_MXINT8 if config.precision is Precision.MXINT8 else 1
    needed_mib = RUNTIME_MIB + COPIES_OF_WEIGHTS * expansion * size_mib
    if needed_mib > profile.memory_mib:
        return f"needs about {needed_mib:.0f} MiB of memory, and {profile.name} has {profile.memory_mib} MiB"
    return None


def _preference(profile: HardwareProfile, config: VariantConfig) -> tuple[int, int, bool, int, str]:
    return (
        profile.precisions.index(config.precision),
        profile.backends.index(config.backend),
        _has_other_integers(profile, config),
        config.size_bytes,
        config.variant,
    )


def _has_other_integers(profile: HardwareProfile, config: VariantConfig) -> bool:
    """Return whether a variant multiplies integer types other than those that the processor multiplies best."""
    types = config.properties.get(INT8_TYPES)
    return types is not None and types != profile.int8_types


def _sentence(profile: HardwareProfile, config: VariantConfig, reason: str | None, best: VariantConfig | None) -> str:
    if reason is not None:
        return f"{config.variant} does not fit: it {reason}."
    if best is None or config.variant == best.variant:
        first = config.precision == profile.precisions[0]
        scope = "" if first else ", of the variants that fit"
        return f"{config.variant} is chosen: {profile.name} prefers {config.precision} most{scope}."
    if config.precision != best.precision:
        return f"{config.variant} fits, but {profile.name} prefers {best.precision} to {config.precision}."
    if config.backend != best.backend:
        return f"{config.variant} fits, but {profile.name} prefers the backend {best.backend} to {config.backend}."
    if _has_other_integers(profile, config) and not _has_other_integers(profile, best):
        types = config.properties[INT8_TYPES]
        return f"{config.variant} fits, but its integer types, {types}, suit {profile.name} less than those of {best.variant}."
    if config.size_bytes == best.size_bytes:
        return f"{config.variant} fits equally well; {best.variant} comes first by name."
    return f"{config.variant} fits, but {best.variant} is smaller ({best.size_bytes} against {config.size_bytes} bytes)."
