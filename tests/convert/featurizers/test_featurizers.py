"""The networks: published sizes, shapes, seeds, weights from files, and saved files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from convert.featurizers.networks import (
    NETWORKS,
    BuildOptions,
    build_layers,
    build_network,
    find_network,
    without_head,
)
from convert.featurizers.saving import NOTES_MEMBER, read_notes, save_network
from convert.frameworks import import_keras
from convert.from_keras.reader import graph_of
from convert.passes.simplify import simplify
from edgewright.cli import main
from edgewright.errors import BadInputError, ModelError

# NumPy 2 deprecates the way in which Keras reads TensorFlow's variables.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


def without_weights(keras: Any, name: str) -> Any:
    """Build a network without allocating its variables."""
    with keras.StatelessScope(initialize_variables=False):
        return build_layers(keras, find_network(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_exactly_the_published_parameters(keras: Any, name: str) -> None:
    assert without_weights(keras, name).count_params() == NETWORKS[name].parameters


@pytest.mark.parametrize(
    ("name", "features"),
    [
        pytest.param("resnet50", (2048,), id="resnet50"),
        pytest.param("densenet121", (1024,), id="densenet121"),
        pytest.param("vgg16", (4096,), id="vgg16"),
        pytest.param("mobilenet-v2", (1280,), id="mobilenet-v2"),
        pytest.param("resnet8", (64,), id="resnet8"),
    ],
)
def test_the_head_of_a_classifier_takes_the_features(keras: Any, name: str, features: tuple[int, ...]) -> None:
    model = without_weights(keras, name)
    assert model.layers[-1].input.shape == (None, *features)
    assert model.output.shape == (None, NETWORKS[name].classes)


def test_ssd_returns_boxes_and_classes_for_six_maps(keras: Any) -> None:
    model = without_weights(keras, "ssd-vgg")
    maps = [(4, 38), (6, 19), (6, 10), (6, 5), (4, 3), (4, 1)]
    assert [tuple(output.shape[1:]) for output in model.outputs] == [
        shape for boxes, size in maps for shape in [(boxes * 4, size, size), (boxes * 21, size, size)]
    ]
    assert sum(boxes * size**2 for boxes, size in maps) == 8732


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_a_network_transposes_only_the_image(keras: Any, name: str) -> None:
    graph = graph_of(without_weights(keras, name))
    simplify(graph)
    turned = [node.inputs[0] for node in graph.graph if node.op_type == "Transpose"]
    assert turned == [graph.graph.inputs[0]]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        pytest.param("conv4_3_scale", (38, 38, 512), id="38"),
        pytest.param("fc7", (19, 19, 1024), id="19"),
        pytest.param("conv6_2", (10, 10, 512), id="10"),
        pytest.param("conv7_2", (5, 5, 256), id="5"),
        pytest.param("conv8_2", (3, 3, 256), id="3"),
        pytest.param("conv9_2", (1, 1, 256), id="1"),
    ],
)
def test_ssds_feature_maps_have_the_published_shapes(keras: Any, layer: str, shape: tuple[int, ...]) -> None:
    assert without_weights(keras, "ssd-vgg").get_layer(layer).output.shape[1:] == shape


def copy_of(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def test_ssds_first_map_is_normalized_to_the_scale_of_the_paper(keras: Any) -> None:
    model = without_weights(keras, "ssd-vgg")
    unit, scale = (
        type(layer).from_config(layer.get_config()) for layer in map(model.get_layer, ["conv4_3_unit", "conv4_3_scale"])
    )
    channels = np.random.default_rng(0).normal(size=(1, 2, 2, 8)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(scale(unit(channels)), axis=-1), 20.0, rtol=1e-5)


def test_weights_depend_on_the_seed_only() -> None:
    first, again, other = (build_network("resnet8", BuildOptions(seed=seed)).model.get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_a_featurizer_is_the_network_without_its_head() -> None:
    built = build_network("mobilenet-v2", BuildOptions(image_size=32, featurizer_only=True))
    assert built.model.output.shape == (None, 1280)
    assert built.notes.head_layers == ()


def test_the_image_size_changes_the_preprocessing() -> None:
    notes = build_network("mobilenet-v2", BuildOptions(image_size=112, featurizer_only=True)).notes
    assert (notes.preprocessing.resize_height, notes.preprocessing.crop_height) == (128, 112)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        pytest.param("resnet51", {}, "no network is called 'resnet51'; known: resnet50", id="unknown"),
        pytest.param("resnet8", {"classes": 0}, "classes must be 1 or more, not 0", id="no classes"),
        pytest.param("resnet50", {"image_size": 16}, "resnet50 needs images of at least 32 pixels, not 16", id="small"),
        pytest.param("ssd-vgg", {"image_size": 512}, "ssd-vgg is defined for images of 300 pixels only, not 512", id="fixed"),
        pytest.param("ssd-vgg", {"classes": 1}, "ssd-vgg needs at least 2 classes, the background and", id="ssd"),
        pytest.param("resnet8", {"seed": -1}, "seed must be between 0 and 4294967295, not -1", id="seed"),
        pytest.param("resnet8", {"weights": Path("gone.h5")}, "gone.h5: no such weights file", id="no weights"),
    ],
)
def test_options_that_are_not_valid_are_rejected(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=f"^{message}"):
        build_network(name, BuildOptions(**options))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a ResNet-8 with weights that stand for trained ones."""
    return build_network("resnet8", BuildOptions(seed=99)).model


def images(count: int = 2) -> np.typing.NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 255, (count, 32, 32, 3)).astype(np.float32)


def features_of(model: Any) -> Any:
    import keras

    return keras.Model(model.inputs, model.get_layer("features").output).predict(images(), verbose=0)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file:UserWarning")
def test_weights_come_from_every_kind_of_file_that_keras_writes(trained: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"trained{suffix}"
    trained.save_weights(path) if suffix == ".weights.h5" else trained.save(path)
    model = build_network("resnet8", BuildOptions(weights=path)).model
    np.testing.assert_array_equal(model.predict(images(), verbose=0), trained.predict(images(), verbose=0))


def test_with_another_number_of_classes_the_featurizer_weights_are_loaded(trained: Any, tmp_path: Path) -> None:
    trained.save_weights(tmp_path / "trained.weights.h5")
    built = build_network("resnet8", BuildOptions(classes=4, weights=tmp_path / "trained.weights.h5"))
    assert built.model.output.shape == (None, 4)
    np.testing.assert_allclose(features_of(built.model), features_of(trained), rtol=1e-6)


def test_weights_of_a_featurizer_leave_the_head_random(trained: Any, tmp_path: Path, keras: Any) -> None:
    featurizer = keras.Model(trained.inputs, trained.get_layer("features").output)
    featurizer.save_weights(tmp_path / "notop.weights.h5")
    built = build_network("resnet8", BuildOptions(weights=tmp_path / "notop.weights.h5"))
    np.testing.assert_allclose(features_of(built.model), features_of(trained), rtol=1e-6)


def test_weights_of_another_network_are_rejected(tmp_path: Path, keras: Any) -> None:
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ModelError, match=r"other\.weights\.h5: its weights must be those of resnet8 or of its featurizer: "):
        build_network("resnet8", BuildOptions(weights=tmp_path / "other.weights.h5"))


@pytest.mark.parametrize("name", ["junk.weights.h5", "junk.keras", "junk.h5", "junk.txt"])
def test_a_file_without_weights_is_rejected(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no weights in here")
    with pytest.raises(ModelError, match="weights"):
        build_network("resnet8", BuildOptions(weights=tmp_path / name))


def test_a_saved_network_loads_as_any_keras_model_and_keeps_its_notes(tmp_path: Path, keras: Any) -> None:
    built = build_network("resnet8")
    save_network(built, tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images(), verbose=0), built.model.predict(images(), verbose=0))
    assert read_notes(tmp_path / "model.keras") == built.notes
    assert built.notes.head_layers == ("predictions",)


def test_a_plain_keras_file_has_no_notes(tmp_path: Path, keras: Any) -> None:
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "plain.keras")
    assert read_notes(tmp_path / "plain.keras") is None


def test_damaged_notes_are_rejected(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "odd.keras", "w") as archive:
        archive.writestr(NOTES_MEMBER, '{"network": 5}')
    with pytest.raises(ModelError, match=r"odd\.keras: edgewright\.json cannot be read"):
        read_notes(tmp_path / "odd.keras")


def test_an_output_file_of_another_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"model\.h5: the output must end in \.keras"):
        save_network(build_network("resnet8"), tmp_path / "model.h5")
    assert list(tmp_path.iterdir()) == []


def test_without_head_returns_a_featurizer_unchanged() -> None:
    featurizer = build_network("resnet8", BuildOptions(featurizer_only=True))
    assert without_head(featurizer) is featurizer


def test_the_command_lists_the_networks(golden: Any) -> None:
    golden("featurizers_list.txt", CliRunner().invoke(main, ["featurizers", "list"]).output)


def test_the_command_builds_a_file_and_describes_it(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    result = CliRunner().invoke(main, ["featurizers", "build", "resnet8", "-o", str(path), "--classes", "3", "--json"])
    output = json.loads(result.output)
    assert output["parameters"] == 78_666 - 7 * 65
    assert output["size_bytes"] == path.stat().st_size
    assert output["notes"]["head_layers"] == ["predictions"]


def test_the_command_ends_with_2_and_one_line_for_an_unknown_network(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["featurizers", "build", "vgg61", "-o", str(tmp_path / "model.keras")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith("edgewright: no network is called 'vgg61'")
