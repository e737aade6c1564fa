"""Pictures as clients have them, to the tensor that the model was trained on, as the variant's config says.

    decode      PNG, JPEG, … with Pillow, which is asked for only when a picture comes
    resize      to the size that the authors resized to, bilinear
    crop        the middle
    normalize   scale, mean, deviation, colour order (edgewright/contracts/preprocessing.py)

Only what is certainly a picture is prepared: an encoded file, or bytes 0..255 for a model that takes floats. Any other tensor is
the client's own work, and passes as it came.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgewright.contracts.preprocessing import normalize
from edgewright.contracts.variant import Preprocessing, TensorSpec, VariantConfig
from edgewright.errors import SamplesError, first_line
from edgewright.serving.exchange import RefusedError

Pixels = npt.NDArray[np.uint8]

MOST_PIXELS = 50_000_000
"""Of one picture; a small file may claim to be a very large one."""


class PictureInput:
    """The one input of a model that takes images, and how a picture becomes one."""

    def __init__(self, spec: TensorSpec, preprocessing: Preprocessing) -> None:
        self.spec = spec
        self._preprocessing = preprocessing
        axes = spec.axes or ("batch", "height", "width", "channels")
        self._channels_first = axes.index("channels") == 1
        sizes = dict(zip(axes, spec.shape, strict=True))
        self._channels = sizes["channels"]
        wanted = (preprocessing.resize_height, preprocessing.resize_width)
        self._crop = _first_known(
            (preprocessing.crop_height, preprocessing.crop_width), wanted, (sizes["height"], sizes["width"])
        )
        self._resize = _first_known(wanted, self._crop)

    @classmethod
    def of(cls, config: VariantConfig) -> PictureInput | None:
        """Return the image input of a variant whose config says how images are prepared, None for any other."""
        if config.preprocessing is None or len(config.inputs) != 1 or len(config.inputs[0].shape) != 4:
            return None
        return cls(config.inputs[0], config.preprocessing)

    def is_picture(self, array: npt.NDArray[Any]) -> bool:
        """Tell whether an array that came holds pixels: bytes, where the model takes floats."""
        return array.dtype == np.uint8 and np.dtype(self.spec.dtype).kind == "f"

    def from_files(self, files: Sequence[bytes]) -> npt.NDArray[Any]:
        """Return the input for encoded pictures, one sample each.

        Raises:
            RefusedError: Pillow is not installed, or a picture is too large.
            SamplesError: a file is no picture.
        """
        return self._prepared([self._fitted(_decoded(raw, grey=self._channels == 1)) for raw in files])

    def from_base64(self, texts: Any) -> npt.NDArray[Any]:
        """Return the input for a list of encoded pictures in base64, as JSON carries them."""
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise SamplesError('"images" must be a list of pictures (PNG, JPEG, …) in base64')
        try:
            files = [base64.b64decode(text, validate=True) for text in texts]
        except binascii.Error as wrong:
            raise SamplesError(f'"images" must be in base64: {wrong}') from wrong
        return self.from_files(files)

    def from_pixels(self, pixels: Pixels) -> npt.NDArray[Any]:
        """Return the input for RGB (or grey) pixels [N, height, width, channels], or one picture without N.

        Raises:
            SamplesError: the array is of another rank, or has another number of channels.
        """
        stacked = pixels[np.newaxis] if pixels.ndim == 3 else pixels
        if stacked.ndim != 4 or stacked.shape[-1] != self._channels or 0 in stacked.shape:
            raise SamplesError(
                f"input {self.spec.name} takes pixels as uint8 [N, height, width, {self._channels}], "
                f"but the array has shape [{', '.join(map(str, pixels.shape))}]"
            )
        return self._prepared([self._fitted(picture) for picture in stacked])

    def _fitted(self, picture: Pixels) -> Pixels:
        """Resize and crop; a picture that has the graph's size already is what the client prepared."""
        if self._crop is None or picture.shape[:2] == self._crop:
            return picture
        if self._resize is not None and picture.shape[:2] != self._resize:
            picture = _resized(picture, self._resize)
        top, left = ((have - want) // 2 for have, want in zip(picture.shape[:2], self._crop, strict=True))
        return picture[top : top + self._crop[0], left : left + self._crop[1]]

    def _prepared(self, pictures: Sequence[Pixels]) -> npt.NDArray[Any]:
        if len({picture.shape for picture in pictures}) > 1:
            raise SamplesError("pictures of different sizes must come one by one: this model takes any size and resizes none")
        images: npt.NDArray[Any] = np.stack(pictures)
        if np.dtype(self.spec.dtype).kind == "f":
            images = normalize(images, self._preprocessing).astype(self.spec.dtype, copy=False)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if self._channels_first else images


def _first_known(*sizes: tuple[int | str | None, int | str | None] | None) -> tuple[int, int] | None:
    """Return the first pair that says both height and width."""
    for pair in sizes:
        if pair is not None and isinstance(pair[0], int) and isinstance(pair[1], int):
            return pair[0], pair[1]
    return None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as missing:
        raise RefusedError(
            415,
            "pictures need Pillow, which is not installed here: pip install 'edgewright[images]', "
            "or send pixels of the model's own size as a uint8 .npy array",
        ) from missing
    return Image


def _decoded(raw: bytes, *, grey: bool) -> Pixels:
    image_module = _pillow()
    from PIL import ImageOps

    try:
        with image_module.open(io.BytesIO(raw)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise RefusedError(
                    413, f"a picture must have at most {MOST_PIXELS} pixels, not {picture.width} x {picture.height}"
                )
            upright = ImageOps.exif_transpose(picture)
            pixels = np.asarray(upright.convert("L" if grey else "RGB"))
    except RefusedError:
        raise
    except Exception as wrong:  # Pillow's decoders share no base
        raise SamplesError(f"a picture must be a whole PNG, JPEG or other file that Pillow reads: {first_line(wrong)}") from wrong
    return pixels[..., np.newaxis] if grey else pixels


def _resized(picture: Pixels, size: tuple[int, int]) -> Pixels:
    image_module = _pillow()
    grey = picture.shape[-1] == 1
    image = image_module.fromarray(picture[..., 0] if grey else picture)
    pixels = np.asarray(image.resize((size[1], size[0]), image_module.Resampling.BILINEAR))
    return pixels[..., np.newaxis] if grey else pixels
