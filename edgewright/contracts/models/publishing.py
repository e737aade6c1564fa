"""The request to publish a package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgewright.contracts.oci import Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishRequest:
    """Request to make a pushed index the next version of a model: POST /v1/models/{model}/versions."""

    version: int
    index: Descriptor
    envelope: dict[str, Any]
    """The DSSE envelope, as JSON."""
