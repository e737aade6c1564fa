"""Score held-out digits on every device and compare the labels with those of the source model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import urllib3

from edgewright.errors import OperationError

TIMEOUT = urllib3.Timeout(connect=5.0, read=30.0)


@dataclass(frozen=True, slots=True)
class DeviceScores:
    """The number of samples that a device scored, and the share whose label equals the source model's."""

    count: int
    agreement: float


def score_everywhere(
    addresses: dict[str, str], samples: Path, source: Path, limits: Mapping[str, int]
) -> dict[str, DeviceScores]:
    """Score the samples on every device, one request per sample; `limits` has the number of samples for slow devices."""
    with np.load(samples) as archive, np.load(source) as outputs:
        images, expected = archive["image"], outputs["scores"].argmax(axis=1)
    counts = {device: limits.get(device, len(images)) for device in addresses}
    return {device: score(address, images[: counts[device]], expected[: counts[device]]) for device, address in addresses.items()}


def score(address: str, images: np.ndarray, expected: np.ndarray) -> DeviceScores:
    """Score `images` [count, 8, 8, 1] at one address and compare with the labels `expected` [count]."""
    with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
        labels = np.array([predicted_label(pool, address, image) for image in images])
    return DeviceScores(len(labels), float((labels == expected).mean()))


def predicted_label(pool: urllib3.PoolManager, address: str, image: np.ndarray) -> int:
    """Send one image and return the label with the highest score."""
    response = pool.request("POST", f"{address}/score", body=orjson.dumps({"data": [image.tolist()]}))
    if response.status != 200:
        raise OperationError(f"{address} must score the image, but it answered {response.status}: {response.data[:200]!r}")
    return int(np.argmax(response.json()["result"]))
