"""Put any Keras head on a featurizer, and train the head alone or everything.

    attach_head    featurizer + layer, Sequential or functional model -> one model that knows where its head is
    fine_tune      "head": the featurizer is run once and the head trained on its features; "all": everything moves

Images are what the graph takes (see `preprocessing.normalize`).
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
    """How to train. A `loss` other than the default takes any labels that fit it (`mse` for a regressor)."""

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
    """The loss on the training images after each epoch, as an average over the epoch."""

    losses: tuple[float, ...]


def attach_head(featurizer: BuiltNetwork, head: Any) -> BuiltNetwork:
    """Return the featurizer of `featurizer` with `head` (a Keras layer or model) on its features; layers are shared.

    A Sequential's layers are laid out one by one, so that a cut can fall between any two of them.

    Raises:
        ModelError: the head does not take such features, or a layer of it is named like one of the featurizer.
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
            raise ModelError(f"the head's layer {layer.name!r} is named like one of {base.notes.network}: give it another name")
        taken.add(layer.name)
        features = _called(layer, features)
    model = keras.Model(base.model.inputs, features, name=featurizer.notes.network.replace("-", "_"))
    return BuiltNetwork(model, replace(base.notes, head_layers=tuple(layer.name for layer in layers)))


def standard_head(classes: int) -> Any:
    """Return the usual classifier: one dense layer with softmax."""
    return import_keras().layers.Dense(classes, activation="softmax", name="predictions")


def fine_tune(
    network: BuiltNetwork,
    images: Array,
    labels: Array,
    *,
    part: Literal["head", "all"] = "head",
    options: FineTuneOptions | None = None,
) -> FineTuned:
    """Train the network's own layers in place; which of them are trainable is afterwards as before.

    Raises:
        BadInputError: `part` is neither, or is the head of a network that has none.
        SamplesError: images or labels do not fit the network.
        OperationError: the loss is no number any more.
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


def _called(layer: Any, features: Any) -> Any:
    try:
        return layer(features)
    except (ValueError, TypeError) as wrong:
        first = " ".join(str(wrong).split())[:160]
        raise ModelError(f"the head's layer {layer.name!r} does not take features of shape {features.shape}: {first}") from wrong


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
    wanted = model.inputs[0].shape[1:]
    if images.ndim != len(wanted) + 1 or any(
        want not in (None, have) for want, have in zip(wanted, images.shape[1:], strict=True)
    ):
        raise SamplesError(f"images must have shape [N, {', '.join(map(str, wanted))}], but they have {list(images.shape)}")
    if not len(images) or len(images) != len(labels):
        raise SamplesError(f"there must be one label per image and at least one, not {len(labels)} for {len(images)}")
    if not np.isfinite(images).all():
        raise SamplesError("images must be finite numbers, but some are NaN or infinite")
    if loss == _CLASSIFICATION:
        _check_classes(labels, model.outputs[0].shape[-1])


def _check_classes(labels: Array, classes: int) -> None:
    if labels.dtype.kind not in "iu":
        raise SamplesError(f"labels must be whole class numbers, not {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise SamplesError(f"labels must be 0 to {classes - 1}, but they go from {labels.min()} to {labels.max()}")
