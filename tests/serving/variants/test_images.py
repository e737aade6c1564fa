"""Images and pixels become the input of the model as its authors prepared them: equal to Keras for the same networks."""

from __future__ import annotations

import base64
import io
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from accel.backends.onnxruntime_cpu import OnnxRuntime
from convert.featurizers.preprocessing import MODES, caffe, for_image_size
from edgewright.contracts.variant import (
    LayerKind,
    Precision,
    Preprocessing,
    TensorSpec,
    Tolerance,
    VariantConfig,
    VariantDirectory,
)
from edgewright.errors import PackageError, SamplesError
from edgewright.serving.variants.app import ScoringApp
from edgewright.serving.variants.images import ImageInput
from tests.support.serving_fixtures import Client, serving

Array = npt.NDArray[Any]
SIZE = 6
NHWC = ("batch", "height", "width", "channels")
NCHW = ("batch", "channels", "height", "width")


def spec(*shape: int | str, axes: tuple[str, ...] = NHWC, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name="image", dtype=dtype, shape=("N", *shape), axes=axes)


def pixels(*shape: int) -> Array:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def applications() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    return keras.applications


@pytest.mark.parametrize(
    ("mode", "network"),
    [
        pytest.param("caffe", "resnet50", id="caffe"),
        pytest.param("caffe", "vgg16", id="caffe of vgg"),
        pytest.param("torch", "densenet", id="torch"),
        pytest.param("tf", "mobilenet_v2", id="tf"),
        pytest.param("tf", "inception_v3", id="tf of inception"),
        pytest.param("none", "efficientnet", id="none"),
    ],
)
@pytest.mark.parametrize("axes", [NHWC, NCHW], ids=["channels last", "channels first"])
def test_pixels_are_prepared_as_keras_prepares_them(applications: Any, mode: str, network: str, axes: tuple[str, ...]) -> None:
    shape = (SIZE, SIZE, 3) if axes == NHWC else (3, SIZE, SIZE)
    given = pixels(2, SIZE, SIZE, 3)
    expected = getattr(applications, network).preprocess_input(given.astype(np.float32))
    prepared = ImageInput(spec(*shape, axes=axes), MODES[mode]).from_pixels(given)
    np.testing.assert_allclose(prepared if axes == NHWC else prepared.transpose(0, 2, 3, 1), expected, atol=1e-4)


def identity(path: Path, preprocessing: Preprocessing | None) -> VariantDirectory:
    """Write a variant whose output is its input, so that a client sees the prepared input."""
    path.mkdir()
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", SIZE, SIZE, 3]) for name in ("image", "seen")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["seen"])], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (path / LayerKind.GRAPH.file_name).write_bytes(model.SerializeToString())
    config = VariantConfig(
        variant="fp32",
        backend="onnxruntime",
        precision=Precision.FP32,
        inputs=(spec(SIZE, SIZE, 3),),
        outputs=(TensorSpec(name="seen", dtype="float32", shape=("N", SIZE, SIZE, 3)),),
        tolerance=Tolerance(max_relative_difference=1e-4, min_agreement=1.0),
        size_bytes=1,
        preprocessing=preprocessing,
    )
    return VariantDirectory.write(path, config)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    variant = identity(tmp_path_factory.mktemp("seen") / "fp32", for_image_size(caffe(224), SIZE, 224))
    with serving(ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="seen", version=1)) as served:
        yield served


@pytest.fixture(scope="module")
def unprepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    variant = identity(tmp_path_factory.mktemp("raw") / "fp32", None)
    with serving(ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="raw", version=1)) as served:
        yield served


def npy(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def seen(reply: Any) -> Array:
    assert reply.status == 200, reply.body
    return np.array(reply.json["result"], np.float32)


def score_npy(client: Client, array: Array) -> Array:
    return seen(client.post("/score", npy(array), "application/x-npy", accept="application/json"))


def test_uint8_pixels_are_prepared_in_every_protocol_that_states_their_type(client: Client, applications: Any) -> None:
    given = pixels(2, SIZE, SIZE, 3)
    expected = applications.resnet50.preprocess_input(given.astype(np.float32))
    np.testing.assert_allclose(score_npy(client, given), expected, atol=1e-4)
    np.testing.assert_allclose(score_npy(client, given[0]), expected[:1], atol=1e-4)
    tensor = {"name": "image", "shape": list(given.shape), "datatype": "UINT8", "data": given.ravel().tolist()}
    answer = client.post("/v2/models/seen/infer", {"inputs": [tensor]}).json["outputs"][0]
    np.testing.assert_allclose(np.array(answer["data"]).reshape(answer["shape"]), expected, atol=1e-4)


def test_a_tensor_of_the_models_own_type_is_unchanged(client: Client) -> None:
    given = np.random.default_rng(1).normal(size=(1, SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(score_npy(client, given), given)
    np.testing.assert_array_equal(seen(client.post("/score", {"data": given.tolist()})), given)


def test_without_preprocessing_bytes_are_numbers(unprepared: Client) -> None:
    given = pixels(1, SIZE, SIZE, 3)
    np.testing.assert_array_equal(score_npy(unprepared, given), given.astype(np.float32))


def test_without_preprocessing_an_image_is_rejected(unprepared: Client) -> None:
    reply = unprepared.post("/score", b"\x89PNG", "image/png")
    assert reply.status == 415
    assert reply.json["error"] == (
        "image/png needs a preprocessing, but the package of this model has none: send the input of the model"
    )


def test_pixels_of_another_shape_are_rejected(client: Client) -> None:
    reply = client.post("/score", npy(pixels(SIZE, SIZE)), "application/x-npy")
    assert reply.status == 400
    assert reply.json["error"] == "input image takes pixels as uint8 [N, height, width, 3], but the array has shape [6, 6]"


@pytest.fixture
def pillow(require_package: Callable[[str], None]) -> Any:
    require_package("PIL")
    from PIL import Image

    return Image


def encoded(pillow: Any, array: Array, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    pillow.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def test_a_png_is_scored_as_its_pixels(client: Client, pillow: Any, applications: Any) -> None:
    given = pixels(SIZE, SIZE, 3)
    expected = applications.resnet50.preprocess_input(given[np.newaxis].astype(np.float32))
    np.testing.assert_allclose(seen(client.post("/score", encoded(pillow, given), "image/png")), expected, atol=1e-4)


def test_images_in_base64_are_scored_together(client: Client, pillow: Any, applications: Any) -> None:
    given = pixels(3, SIZE, SIZE, 3)
    texts = [base64.b64encode(encoded(pillow, one)).decode() for one in given]
    expected = applications.resnet50.preprocess_input(given.astype(np.float32))
    np.testing.assert_allclose(seen(client.post("/score", {"images": texts})), expected, atol=1e-4)


def test_a_jpeg_of_another_size_is_resized_and_cropped_to_its_centre(client: Client, pillow: Any, applications: Any) -> None:
    """Oracle: Pillow's own resize to 7x7 (6 * 256 / 224), then rows and columns 0 to 5, because half of one pixel rounds down."""
    raw = encoded(pillow, np.kron(pixels(4, 5, 3), np.ones((8, 8, 1), np.uint8)), "JPEG", quality=95)
    image = pillow.open(io.BytesIO(raw)).convert("RGB").resize((7, 7), pillow.Resampling.BILINEAR)
    cut = np.asarray(image)[np.newaxis, :SIZE, :SIZE].astype(np.float32)
    prepared = seen(client.post("/score", raw, "image/jpeg"))
    np.testing.assert_allclose(prepared, applications.resnet50.preprocess_input(cut), atol=1e-4)


def test_an_image_that_was_taken_sideways_is_turned_upright(pillow: Any) -> None:
    given = pixels(SIZE, SIZE, 3)
    exif = pillow.Exif()
    exif[0x0112] = 6  # TIFF's Orientation: the first row is the right side
    raw = encoded(pillow, given, "PNG", exif=exif)
    prepared = ImageInput(spec(SIZE, SIZE, 3), MODES["none"]).from_files([raw])
    np.testing.assert_array_equal(prepared[0], np.rot90(given, -1))


def test_a_grey_model_takes_images_in_colour(pillow: Any) -> None:
    given = pixels(SIZE, SIZE, 3)
    prepared = ImageInput(spec(SIZE, SIZE, 1), MODES["none"]).from_files([encoded(pillow, given)])
    np.testing.assert_array_equal(prepared[0, ..., 0], np.asarray(pillow.fromarray(given).convert("L")))


def test_a_file_that_is_not_an_image_is_rejected(client: Client, pillow: Any) -> None:
    reply = client.post("/score", b"not an image", "image/png")
    assert reply.status == 400
    assert reply.json["error"].startswith(
        "an image must be a complete PNG, JPEG or other file that Pillow reads: cannot identify"
    )
    cut = client.post("/score", encoded(pillow, pixels(64, 64, 3))[:2000], "image/png")
    assert cut.status == 400


def test_an_image_that_claims_to_be_enormous_is_rejected_before_it_is_decoded(
    client: Client, pillow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewright.serving.variants.images.MAX_PIXELS", 100)
    reply = client.post("/score", encoded(pillow, pixels(11, 10, 3)), "image/png")
    assert reply.status == 413
    assert reply.json["error"] == "an image must have at most 100 pixels, not 10 x 11"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        pytest.param("abc", '"images" must be a list of images (PNG, JPEG, …) in base64', id="no list"),
        pytest.param(["a*b"], '"images" must be in base64: ', id="no base64"),
    ],
)
def test_images_that_are_not_a_list_of_base64_are_rejected(images: Any, message: str) -> None:
    with pytest.raises(SamplesError) as raised:
        ImageInput(spec(SIZE, SIZE, 3), MODES["none"]).from_base64(images)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        pytest.param("color_order", "brg", "color_order must be rgb or bgr, not 'brg'", id="colour"),
        pytest.param("crop_height", 0, "resize and crop must be 1 pixel or more, not None, None, 0, None", id="size"),
        pytest.param("std", (1.0, 0.0), "scale, mean and std must be finite, and std must not be 0", id="deviation"),
    ],
)
def test_an_impossible_preprocessing_is_rejected(field: str, value: Any, message: str) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(PackageError) as raised:
        Preprocessing(**settings)
    assert str(raised.value) == message
