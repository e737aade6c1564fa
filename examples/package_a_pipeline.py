"""Turn a scikit-learn pipeline into one package for several kinds of hardware, and score with it.

    python examples/package_a_pipeline.py OUTPUT

OUTPUT/build then holds the verified graph and its variants, OUTPUT/package the package for `edgewright publish`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skops.io
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from accel.backends.choose import load_session
from accel.evaluate import evaluate_variant, reference_outputs
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import load_samples
from edgewright.contracts.variant import FLOAT_VARIANT
from edgewright.pipeline import Recipe, make_package


def main(output: Path) -> None:
    """Train, convert, quantize and pack; then measure every variant on held-out samples."""
    output.mkdir(parents=True, exist_ok=True)
    pixels, digits = load_digits(return_X_y=True)
    train, heldout, train_labels, heldout_labels = train_test_split(pixels.astype(np.float32), digits, random_state=0)
    model = make_pipeline(StandardScaler(), MLPClassifier((96, 64), max_iter=60, early_stopping=True, random_state=0))
    model.fit(train, train_labels)

    skops.io.dump(model, output / "digits.skops")  # not a pickle: reading it runs no code
    np.savez(output / "calibration.npz", features=train[:256], labels=train_labels[:256])
    np.savez(output / "heldout.npz", features=heldout, labels=heldout_labels)
    recipe = Recipe(name="digits", source=output / "digits.skops", samples=output / "calibration.npz")
    package = make_package(recipe, output)

    build = BuildDirectory.open(output / "build")
    samples = load_samples(output / "heldout.npz", build.record.inputs, build.record.labels)
    reference = reference_outputs(build.variant(FLOAT_VARIANT), samples)
    print(f"scikit-learn itself: accuracy {model.score(heldout, heldout_labels):.4f}")
    for variant in build.variants():
        evaluation, _ = evaluate_variant(variant, samples, reference)
        agreement = evaluation.agreement or 0.0
        print(f"{evaluation.variant}: accuracy {evaluation.accuracy:.4f}, same label as the source on {agreement:.2%}")

    session = load_session(build.variant("int8"))
    probabilities = session.run({"features": heldout[:1]})["probabilities"]
    session.close()
    print(f"int8 recognises the first digit as {probabilities.argmax()}; it is {heldout_labels[0]}. Ready to publish: {package}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    main(parser.parse_args().output)
