"""Quantize one graph per operator with generated attributes, and print how far each variant is from the float graph.

    python -m benchmarks.operators [OPERATOR ...]

For each operator with float inputs it takes the first form of tests/support/operator_families.py that converts. A variant has its
largest relative difference from the float graph, or the reason why it is refused (int8 needs an operator with integer kernels).
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx

from convert.conversion import convert_model
from convert.options import ConvertOptions
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.errors import EdgewrightError
from quantize.quantization import QuantizeOptions, quantize_all
from quantize.scheme import Scheme
from tests.support.operator_attributes import generated_forms
from tests.support.operator_families import FAMILIES
from tests.support.operator_vectors import Form

SCHEMES = (Scheme.FP16, Scheme.INT8)
_SAMPLES = 64


def forms_by_operator(wanted: set[str]) -> dict[str, list[Form]]:
    """Return up to eight forms of each operator in operator sets up to 21."""
    found: dict[str, list[Form]] = {}
    for family in FAMILIES:
        if not wanted or family.operator in wanted:
            forms = (form for form in generated_forms([family]) if form.opset <= 21)
            found.setdefault(family.operator, []).extend(itertools.islice(forms, 0, 8))
    return found


def row_of(forms: list[Form], folder: Path) -> list[str]:
    """Return the operator and the result of each scheme, for the first form that converts."""
    refusal = ""
    for form in forms:
        onnx.save(form.model, folder / "m.onnx")
        shape = form.inputs["x"].shape
        samples = np.random.default_rng(2).normal(size=(_SAMPLES, *shape[1:])).astype(np.float32)
        write_npz(folder / "s.npz", {"x": samples})
        try:
            build = convert_model(folder / "m.onnx", folder / "build", ConvertOptions(samples=folder / "s.npz"))
        except EdgewrightError as error:
            refusal = refusal or f"refused: {error}"
            continue
        return [form.operator, "equal", *(_result(scheme, build, folder / "s.npz") for scheme in SCHEMES)]
    return [forms[0].operator, refusal, *[""] * len(SCHEMES)] if forms else ["no form"]


def _result(scheme: Scheme, build: BuildDirectory, samples: Path) -> str:
    try:
        (quantized,) = quantize_all(build, [QuantizeOptions(scheme=scheme, samples=samples)])
    except EdgewrightError as error:
        return f"refused: {str(error).split(': ', 1)[-1][:70]}"
    measured = quantized.variant.config.measured
    return "not measured" if measured is None else f"{measured.max_relative_difference:.1e}"


def main() -> None:
    """Print one line per operator."""
    warnings.simplefilter("ignore")
    for forms in forms_by_operator(set(sys.argv[1:])).values():
        with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
            print(*(cell.replace(folder, "") for cell in row_of(forms, Path(folder))), sep=" | ", flush=True)


if __name__ == "__main__":
    main()
