"""Run a variant on an input of zeros: a dark picture, silence, an empty row. Real samples rarely hold one.

A variant whose outputs are NaN or infinity there, where those of the float variant are finite, must not reach a device.
"""

from __future__ import annotations

import numpy as np

from accel.backends.backend import Session
from accel.backends.choose import load_session
from edgewright.contracts.samples import Samples, Tensors
from edgewright.contracts.variant import VariantDirectory
from edgewright.errors import OperationError, ParityError


def check_zero_input(variant: VariantDirectory, float_variant: VariantDirectory, samples: Samples, *, backend: str) -> None:
    """Raise `ParityError` if the outputs for zeros are not finite although the float variant's are."""
    exact = load_session(float_variant, backend=float_variant.config.backend)
    actual = load_session(variant, backend=backend)
    try:
        broken = broken_output(actual, exact, samples)
    finally:
        exact.close()
        actual.close()
    if broken is not None:
        raise ParityError(
            f"{variant.config.variant}: an input of zeros must give finite numbers, as the float model does, but output "
            f"{broken} holds NaN or infinity: use another scheme"
        )


def broken_output(actual: Session, exact: Session, samples: Samples) -> str | None:
    """Return the first output that is not finite for zeros although `exact` is; None also where `exact` refuses zeros."""
    zeros = {name: np.zeros_like(array) for name, array in samples.slice(0, 1).inputs.items()}
    if any(array.dtype.kind not in "fiub" for array in zeros.values()):
        return None
    try:
        expected = exact.run(zeros)
    except OperationError:
        return None
    return _first_broken(expected, actual.run(zeros))


def _first_broken(expected: Tensors, actual: Tensors) -> str | None:
    for name, array in actual.items():
        if array.dtype.kind == "f" and np.any(np.isfinite(expected[name]) & ~np.isfinite(array)):
            return name
    return None
