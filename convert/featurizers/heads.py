"""Attach any Keras head to a featurizer, and train the head or the whole network.

    attach_head    featurizer + layer, Sequential or functional model -> one model with its head layers recorded
    fine_tune      "head": run the featurizer once and train the head on its features; "all": train every layer

Images must be preprocessed (see `preprocessing.normalize`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convert.featurizers.networks import BuiltNetwork, without_head
from convert.frameworks import import_keras
from edgewright.errors import BadInputError, ModelError, OperationError, SamplesError

Array = npt.NDArray[Any]

_CLASSIFICATION = "sparse_categorical_crossentropy"


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneOptions:
    """Training options. A `loss` other than the default takes any labels that fit it (`mse` for a regressor)."""

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    loss: str = _CLASSIFICATION
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1:
            raise BadInputError(f"epochs and batch_size must be 1 or more, not {self.epochs} and {self.batch_size}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise BadInputError(f"learning_rate must be a positive number, not {self.learning_rate}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuned:
    """Training result: the mean loss of each epoch."""

    losses: tuple[float, ...]


def attach_head(featurizer: BuiltNetwork, head: Any) -> BuiltNetwork:
    """Return the featurizer of `featurizer` with `head` (a Keras layer or model) attached; the layers are shared.

    A Sequential's layers are added one by one, so that the graph can be cut between any two of them.

    Raises:
        ModelError: the head does not accept the features, or one of its layers has the name of a featurizer layer.
    """
    keras = import_keras()
    base = without_head(featurizer)
    if len(base.model.outputs) != 1:
        raise ModelError(f"a head needs a featurizer with one output, but {base.notes.network} has {len(base.model.outputs)}")
    layers = list(head.layers) if isinstance(head, keras.Sequential) else [head]
    features = base.model.outputs[0]
    taken = {layer.name for layer in base.model.layers}
    for layer in layers:
        if layer.name in taken:
            raise ModelError(f"the head's layer {layer.name!r} has the name of a layer of {base.notes.network}: rename it")
        taken.add(layer.name)
        features = _apply(layer, features)
    model = keras.Model(base.model.inputs, features, name=featurizer.notes.network.replace("-", "_"))
    return BuiltNetwork(model, replace(base.notes, head_layers=tuple(layer.name for layer in layers)))


def fine_tune(
    network: BuiltNetwork,
    images: Array,
    labels: Array,
    *,
    part: Literal["head", "all"] = "head",
    options: FineTuneOptions | None = None,
) -> FineTuned:
    """Train the network in place. Layers are unfrozen for the training and frozen again afterwards.

    Args:
        network: the network.
        images: float32 [N, height, width, channels], preprocessed.
        labels: [N], class numbers for the default loss.
        part: the layers to train.
        options: training options.

    Raises:
        BadInputError: `part` is not valid, or is "head" and the network has no head.
        SamplesError: images or labels do not fit the network.
        OperationError: the loss became NaN or infinite.
    """
    options = options or FineTuneOptions()
    if part not in ("head", "all"):
        raise BadInputError(f"part must be 'head' or 'all', not {part!r}")
    if part == "head" and not network.notes.head_layers:
        raise BadInputError(f"{network.notes.network} has no head to train: attach one, or train with part='all'")
    _check_samples(network.model, images, labels, options.loss)
    keras = import_keras()
    keras.utils.set_random_seed(options.seed)
    if part == "all":
        return _train(keras, network.model, images, labels, options)
    featurizer = without_head(network).model
    features = featurizer.predict(images, batch_size=options.batch_size, verbose=0)
    return _train(keras, keras.Model(featurizer.outputs, network.model.outputs), features, labels, options)


def _apply(layer: Any, features: Any) -> Any:
    try:
        return layer(features)
    except (ValueError, TypeError) as error:
        first = " ".join(str(error).split())[:160]
        raise ModelError(
            f"the head's layer {layer.name!r} does not accept features of shape {features.shape}: {first}"
        ) from error


def _train(keras: Any, model: Any, inputs: Array, labels: Array, options: FineTuneOptions) -> FineTuned:
    frozen = [layer for layer in model.layers if not layer.trainable]
    for layer in frozen:
        layer.trainable = True
    try:
        model.compile(optimizer=keras.optimizers.Adam(options.learning_rate), loss=options.loss)
        history = model.fit(inputs, labels, batch_size=options.batch_size, epochs=options.epochs, verbose=0)
    finally:
        for layer in frozen:
            layer.trainable = False
    losses = tuple(float(loss) for loss in history.history["loss"])
    if not math.isfinite(losses[-1]):
        raise OperationError(f"training did not converge: the loss became {losses[-1]}; lower learning_rate")
    return FineTuned(losses=losses)


def _check_samples(model: Any, images: Array, labels: Array, loss: str) -> None:
    expected = model.inputs[0].shape[1:]
    if images.ndim != len(expected) + 1 or any(
        size not in (None, actual) for size, actual in zip(expected, images.shape[1:], strict=True)
    ):
        raise SamplesError(f"images must have shape [N, {', '.join(map(str, expected))}], but they have {list(images.shape)}")
    if not len(images) or len(images) != len(labels):
        raise SamplesError(
            f"there must be at least one image and one label per image, not {len(labels)} labels for {len(images)} images"
        )
    if not np.isfinite(images).all():
        raise SamplesError("images must be finite numbers, but some are NaN or infinite")
    if loss == _CLASSIFICATION:
        _check_classes(labels, model.outputs[0].shape[-1])


def _check_classes(labels: Array, classes: int) -> None:
    if labels.dtype.kind not in "iu":
        raise SamplesError(f"labels must be whole class numbers, not {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise SamplesError(f"labels must be 0 to {classes - 1}, but they range from {labels.min()} to {labels.max()}")
