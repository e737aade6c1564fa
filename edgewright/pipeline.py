"""The whole pipeline: turn a trained model into a signed, published version.

    from edgewright.pipeline import Recipe, make_package, publish_package

    recipe = Recipe(name="digits", source=Path("digits.keras"), samples=Path("calibration.npz"))
    package = make_package(recipe, Path("work"))
    version = publish_package(package, Path("publisher.key"))

Every step is one call into another package of edgewright; the command line has the same steps as separate commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convert.conversion import ConvertOptions, convert_model
from edgewright.contracts.messages import ModelVersion
from edgewright.contracts.signing import load_private_key
from edgewright.packing import PackOptions, pack
from edgewright.sdk import CloudClient
from quantize.quantization import QuantizeOptions, quantize_all
from quantize.scheme import Scheme


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model, its samples, and the schemes of the variants besides the float one."""

    name: str
    """The model's name in the registry."""
    source: Path
    samples: Path
    """A `.npz` of real samples, which verify the conversion, calibrate int8 and measure the loss of accuracy."""
    schemes: tuple[Scheme, ...] = (Scheme.FP16, Scheme.INT8)
    max_drop: float | None = 0.01
    """Largest share of accuracy that a variant may lose; None sets no limit."""
    head_from: str = "auto"
    labels: tuple[str, ...] = ()
    trust: bool = False
    """True if the author of the source file is trusted, so that pickles may be loaded."""


def make_package(recipe: Recipe, directory: Path) -> Path:
    """Convert, quantize and pack below `directory`; return the package directory.

    Raises:
        BadInputError: the model, the samples or a name cannot be used.
        ParityError: a result differs from its source by more than allowed; nothing is packed.
    """
    build = convert_model(
        recipe.source,
        directory / "build",
        ConvertOptions(head_from=recipe.head_from, samples=recipe.samples, labels=recipe.labels, trust=recipe.trust),
    )
    schemes = [QuantizeOptions(scheme=scheme, samples=recipe.samples, max_drop=recipe.max_drop) for scheme in recipe.schemes]
    quantize_all(build, schemes)
    pack(build, directory / "package", PackOptions(name=recipe.name))
    return directory / "package"


def publish_package(package: Path, key: Path, *, cloud: str | None = None) -> ModelVersion:
    """Sign a package with the private key in the file `key` and publish it as the model's next version.

    `cloud` is a state directory, a context file or a URL; None takes it from the environment (docs/spec/protocol.md, P70).

    Raises:
        UnreachableError: the cloud does not answer.
        SignatureError: the cloud does not trust the key.
    """
    signing_key = load_private_key(key)
    with CloudClient.connect(cloud) as client:
        return client.publish(package, signing_key)
