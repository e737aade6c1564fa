"""Image preparation as the variant's config states it: from what a client has to the tensor that the model was trained on.

    decode      PNG, JPEG, … with Pillow, which is imported when the first image arrives
    resize      to the size that the authors of the model used, bilinear
    crop        the centre
    normalize   scale, mean, deviation, colour order (edgewright/contracts/preprocessing.py)

An input is prepared if it is certainly an image: an encoded file, or bytes 0..255 for a model that takes floats. Any other
tensor was prepared by the client and passes unchanged.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.preprocessing import normalize
from edgewright.contracts.variant import Preprocessing, TensorSpec, VariantConfig
from edgewright.errors import SamplesError, first_line
from edgewright.serving.http.messages import HttpError

Pixels = npt.NDArray[np.uint8]

MAX_PIXELS = 50_000_000
"""Of one image; a small file may decode to a very large one."""


class ImageInput:
    """The input of a model that takes images, and its preparation."""

    def __init__(self, spec: TensorSpec, preprocessing: Preprocessing) -> None:
        self.spec = spec
        self._preprocessing = preprocessing
        axes = spec.axes or ("batch", "height", "width", "channels")
        self._channels_first = axes.index("channels") == 1
        sizes = dict(zip(axes, spec.shape, strict=True))
        self._channels = sizes["channels"]
        resize = (preprocessing.resize_height, preprocessing.resize_width)
        self._crop = _first_known(
            (preprocessing.crop_height, preprocessing.crop_width), resize, (sizes["height"], sizes["width"])
        )
        self._resize = _first_known(resize, self._crop)

    @classmethod
    def of(cls, config: VariantConfig) -> ImageInput | None:
        """Return the image input of a variant whose config has a preprocessing, None for any other variant."""
        if config.preprocessing is None or len(config.inputs) != 1 or len(config.inputs[0].shape) != 4:
            return None
        return cls(config.inputs[0], config.preprocessing)

    def is_image(self, array: npt.NDArray[Any]) -> bool:
        """Return True for pixels: an array of bytes, if the model takes floats."""
        return array.dtype == np.uint8 and np.dtype(self.spec.dtype).kind == "f"

    def from_files(self, files: Sequence[bytes]) -> npt.NDArray[Any]:
        """Return the input for encoded images, one sample each.

        Raises:
            HttpError: Pillow is not installed (415), or an image is too large (413).
            SamplesError: a file is not an image.
        """
        return self._prepared([self._fitted(_decoded(raw, grey=self._channels == 1)) for raw in files])

    def from_base64(self, texts: Any) -> npt.NDArray[Any]:
        """Return the input for a list of encoded images in base64; raises what `from_files` raises."""
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise SamplesError('"images" must be a list of images (PNG, JPEG, …) in base64')
        try:
            files = [base64.b64decode(text, validate=True) for text in texts]
        except ValueError as error:  # binascii.Error, or characters outside ASCII
            raise SamplesError(f'"images" must be in base64: {error}') from error
        return self.from_files(files)

    def from_pixels(self, pixels: Pixels) -> npt.NDArray[Any]:
        """Return the input for RGB (or grey) pixels [N, height, width, channels], or one image without N.

        Raises:
            SamplesError: the array has the wrong rank or number of channels.
        """
        stacked = pixels[np.newaxis] if pixels.ndim == 3 else pixels
        if stacked.ndim != 4 or stacked.shape[-1] != self._channels or 0 in stacked.shape:
            raise SamplesError(
                f"input {self.spec.name} takes pixels as uint8 [N, height, width, {self._channels}], "
                f"but the array has shape [{', '.join(map(str, pixels.shape))}]"
            )
        return self._prepared([self._fitted(image) for image in stacked])

    def _fitted(self, image: Pixels) -> Pixels:
        """Resize and crop; an image of the graph's own size was prepared by the client."""
        if self._crop is None or image.shape[:2] == self._crop:
            return image
        if self._resize is not None and image.shape[:2] != self._resize:
            image = _resized(image, self._resize)
        top, left = ((size - crop) // 2 for size, crop in zip(image.shape[:2], self._crop, strict=True))
        return image[top : top + self._crop[0], left : left + self._crop[1]]

    def _prepared(self, images: Sequence[Pixels]) -> npt.NDArray[Any]:
        if len({image.shape for image in images}) > 1:
            raise SamplesError(
                "images must have one size, because this model takes any size and resizes none: send them in separate requests"
            )
        stacked: npt.NDArray[Any] = np.stack(images)
        if np.dtype(self.spec.dtype).kind == "f":
            stacked = normalize(stacked, self._preprocessing).astype(self.spec.dtype, copy=False)
        return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)) if self._channels_first else stacked


def _first_known(*sizes: tuple[int | str | None, int | str | None] | None) -> tuple[int, int] | None:
    """Return the first pair whose height and width are both numbers."""
    for pair in sizes:
        if pair is not None and isinstance(pair[0], int) and isinstance(pair[1], int):
            return pair[0], pair[1]
    return None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise HttpError(
            415,
            "images need Pillow, which is not installed here: pip install 'edgewright[images]', "
            "or send pixels of the model's own size as a uint8 .npy array",
        ) from error
    return Image


def _decoded(raw: bytes, *, grey: bool) -> Pixels:
    image_module = _pillow()
    from PIL import ImageOps

    try:
        with image_module.open(io.BytesIO(raw)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise HttpError(413, f"an image must have at most {MAX_PIXELS} pixels, not {image.width} x {image.height}")
            upright = ImageOps.exif_transpose(image)
            return _eight_bits(upright, image.format, grey=grey)
    except (HttpError, SamplesError):
        raise
    except Exception as error:  # Pillow's decoders have no common base class
        raise SamplesError(
            f"an image must be a complete PNG, JPEG or other file that Pillow reads: {first_line(error)}"
        ) from error


def _eight_bits(image: Any, encoding: str | None, *, grey: bool) -> Pixels:
    """Return grey or RGB pixels; 16-bit grey levels are scaled, because Pillow's `convert` cuts them off at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and encoding == "PNG"):  # older versions open 16-bit PNG as I
        levels = np.asarray(image).astype(np.uint32)
        pixels = ((levels * 255 + 32767) // 65535).astype(np.uint8)[..., np.newaxis]
        return pixels if grey else np.repeat(pixels, 3, axis=-1)
    if image.mode in ("I", "F"):
        raise SamplesError("an image must have 8 or 16 bits per channel, but this one has 32, whose range is not defined")
    converted = np.asarray(image.convert("L" if grey else "RGB"))
    return converted[..., np.newaxis] if grey else converted


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    image_module = _pillow()
    grey = image.shape[-1] == 1
    encoded = image_module.fromarray(image[..., 0] if grey else image)
    pixels = np.asarray(encoded.resize((size[1], size[0]), image_module.Resampling.BILINEAR))
    return pixels[..., np.newaxis] if grey else pixels
