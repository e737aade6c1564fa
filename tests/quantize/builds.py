"""Builds that several tests of quantization need, made once per session."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import VariantDirectory
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.convert.networks import digits_build, folder, training_samples


def fresh_build(target: Path) -> BuildDirectory:
    """Copy the converted digits network, for a test that adds to it."""
    shutil.copytree(digits_build().path, target)
    return BuildDirectory.open(target)


@functools.cache
def quantized_build() -> BuildDirectory:
    """Return the digits network with every variant that can be made of it; not to be changed."""
    build = fresh_build(folder() / "quantized")
    for scheme in Scheme:
        quantize(build, QuantizeOptions(scheme=scheme, samples=training_samples()))
    return build


def variant(scheme: Scheme) -> VariantDirectory:
    """Return a variant of the shared build."""
    return quantized_build().variant(scheme.value)


def contents(path: Path) -> dict[str, bytes]:
    """Return every file below `path`."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
