"""Pixels of every kind of image file, compared with NumPy by hand: depth, palette, CMYK, transparency, orientation."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from convert.featurizers.preprocessing import MODES
from edgewright.contracts.variant import TensorSpec
from edgewright.errors import SamplesError
from edgewright.serving.variants.images import ImageInput

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)
HEIGHT, WIDTH = 5, 4
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R 601
NHWC = ("batch", "height", "width", "channels")


def bytes_of(image: Image.Image, encoding: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, encoding, **options)
    return stream.getvalue()


def png_of_16_bits(levels: Array, colour_type: int) -> bytes:
    """Write a PNG by hand (ISO 15948), because Pillow writes no colours of 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    header = struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def decoded(raw: bytes, channels: int) -> Array:
    spec = TensorSpec(name="x", dtype="uint8", shape=("N", "H", "W", channels), axes=NHWC)
    pixels: Array = ImageInput(spec, MODES["none"]).from_files([raw])[0].astype(int)
    return pixels


def levels_of(channels: int) -> Array:
    return RNG.integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(np.uint16)


@pytest.mark.parametrize("encoding", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_levels_of_16_bits_are_scaled_to_8(encoding: str, channels: int) -> None:
    levels = levels_of(1)
    expected = np.repeat(np.round(levels / 257), channels, axis=-1)
    np.testing.assert_array_equal(decoded(bytes_of(Image.fromarray(levels[..., 0]), encoding), channels), expected)


def test_big_endian_grey_levels_are_read_by_value() -> None:
    raw = bytes_of(Image.frombytes("I;16B", (2, 1), b"\xff\xff\x80\x00"), "TIFF")
    assert decoded(raw, 1).ravel().tolist() == [255, 128]


@pytest.mark.parametrize("colour_type", [pytest.param(2, id="colours"), pytest.param(6, id="colours and transparency")])
def test_colours_of_16_bits_are_right_to_one_level(colour_type: int) -> None:
    levels = levels_of(3 if colour_type == 2 else 4)
    np.testing.assert_allclose(decoded(png_of_16_bits(levels, colour_type), 3), levels[..., :3] / 257, atol=1)


def test_grey_levels_of_16_bits_with_transparency_are_right_to_one_level() -> None:
    levels = levels_of(2)
    np.testing.assert_allclose(decoded(png_of_16_bits(levels, 4), 1), levels[..., :1] / 257, atol=1)


@pytest.mark.parametrize(("encoding", "options"), [("TIFF", {}), ("JPEG", {"quality": 100})])
def test_cmyk_becomes_rgb(encoding: str, options: dict[str, Any]) -> None:
    inks = RNG.integers(0, 256, (1, 1, 4)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    raw = bytes_of(Image.fromarray(inks, "CMYK"), encoding, **options)
    np.testing.assert_allclose(decoded(raw, 3), expected, atol=2)
    np.testing.assert_allclose(decoded(raw, 1)[..., 0], expected @ LUMA, atol=2)


@pytest.mark.parametrize("encoding", ["PNG", "GIF"])
def test_a_palette_is_looked_up(encoding: str) -> None:
    palette = RNG.integers(0, 256, (16, 3)).astype(np.uint8)
    indices = RNG.integers(0, 16, (HEIGHT, WIDTH)).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decoded(bytes_of(image, encoding), 3), palette[indices])
    np.testing.assert_allclose(decoded(bytes_of(image, encoding), 1)[..., 0], palette[indices] @ LUMA, atol=1)


@pytest.mark.parametrize("bits", [1, 16], ids=["8 bits of colour", "16 bits of grey"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        pytest.param(1, lambda a: a, id="upright"),
        pytest.param(2, lambda a: a[:, ::-1], id="mirrored"),
        pytest.param(3, lambda a: a[::-1, ::-1], id="upside down"),
        pytest.param(4, lambda a: a[::-1], id="mirrored upside down"),
        pytest.param(5, lambda a: a.swapaxes(0, 1), id="transposed"),
        pytest.param(6, lambda a: np.rot90(a, -1), id="turned left by the camera"),
        pytest.param(7, lambda a: a[::-1, ::-1].swapaxes(0, 1), id="transverse"),
        pytest.param(8, lambda a: np.rot90(a), id="turned right by the camera"),
    ],
)
def test_the_orientation_of_the_camera_is_applied(orientation: int, upright: Callable[[Array], Array], bits: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = levels_of(1)[..., 0] if bits == 16 else RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    expected = np.round(stored / 257)[..., np.newaxis] if bits == 16 else stored
    raw = bytes_of(Image.fromarray(stored), "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(raw, 1 if bits == 16 else 3), upright(expected))


@pytest.mark.parametrize("dtype", [np.int32, np.float32], ids=["whole numbers", "floats"])
def test_channels_of_32_bits_are_refused_because_their_range_is_not_defined(dtype: type) -> None:
    raw = bytes_of(Image.fromarray(np.arange(20, dtype=dtype).reshape(4, 5)), "TIFF")
    with pytest.raises(SamplesError, match=r"^an image must have 8 or 16 bits per channel, but this one has 32"):
        decoded(raw, 1)
