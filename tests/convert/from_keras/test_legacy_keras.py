"""Keras models in HDF5, including settings of Keras 2."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from convert.from_keras.keras_file import KerasFile
from convert.from_keras.legacy import read_legacy_config
from convert.from_keras.reader import read_keras
from edgewright.errors import ModelError
from tests.support.convert_networks import keras, noise, relative_difference, run_graph, run_keras, shaken

IMAGE = (8, 8, 3)


def network() -> Any:
    layers = keras().layers
    given = keras().Input(IMAGE)
    x = layers.DepthwiseConv2D(3, padding="same", name="deep")(given)
    x = layers.BatchNormalization(name="norm")(x)
    return shaken(keras().Model(given, layers.Dense(3, activation="sigmoid", name="score")(layers.Flatten()(x))))


def as_keras_2(model: Any, path: Path, **settings: dict[str, Any]) -> Path:
    """Save a model as `.h5` with settings of Keras 2 in the named layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for entry in config["config"]["layers"]:
            entry["config"].update(settings.get(entry["config"]["name"], {}))
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.4.0"
    return path


def test_obsolete_settings_without_effect_are_removed(tmp_path: Path) -> None:
    model = network()
    path = as_keras_2(model, tmp_path / "old.h5", deep={"groups": 1}, norm={"renorm": False, "virtual_batch_size": None})
    before = path.read_bytes()
    batch = noise(2, *IMAGE)
    assert relative_difference(run_graph(read_keras(KerasFile.open(path)), batch)[0], run_keras(model, batch)[0]) < 1e-5
    assert path.read_bytes() == before


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read_keras(KerasFile.open(path))
    return str(caught.value)


ADVICE = "convert the model with the Keras that trained it to ONNX, and convert that"


def test_an_obsolete_setting_that_changes_the_model_is_rejected(tmp_path: Path) -> None:
    path = as_keras_2(network(), tmp_path / "old.h5", deep={"groups": 3})
    assert refusal(path) == f"{path}: layer 'deep' (DepthwiseConv2D) has groups=3, which Keras 3 does not support: {ADVICE}"


def test_a_function_that_keras_3_defines_differently_is_rejected(tmp_path: Path) -> None:
    path = as_keras_2(network(), tmp_path / "old.h5", score={"activation": "hard_sigmoid"})
    assert refusal(path) == (
        f"{path}: layer 'score' uses hard_sigmoid, which is clip(x / 5 + 0.5) in Keras 2 and clip(x / 6 + 0.5) in Keras 3: "
        f"{ADVICE}"
    )


def weights_alone(path: Path) -> str:
    with h5py.File(path, "w") as file:
        file.create_group("model_weights")
    return f"{path} is an HDF5 file, but it does not hold a Keras model; save the whole model, not only its weights"


def cut_short(path: Path) -> str:
    as_keras_2(network(), path)
    path.write_bytes(path.read_bytes()[:3000])
    return f"{path} must be a complete HDF5 file, but it is truncated or damaged: copy it again"


@pytest.mark.parametrize("spoil", [weights_alone, cut_short])
def test_an_incomplete_legacy_file_is_rejected(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    expected = spoil(tmp_path / "file.h5")
    assert refusal(tmp_path / "file.h5") == expected


def test_tensorflow_is_configured_before_a_keras_2_file_needs_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_keras_2(network(), tmp_path / "m.h5", score={})
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    config = read_legacy_config(path)
    for entry in config["config"]["layers"]:
        entry.pop("module", None)  # Keras 2 saves no module, so the check imports Keras
    KerasFile(path, config).reject_code()
    assert (os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_ENABLE_ONEDNN_OPTS"]) == ("3", "0")
