"""The configuration saved in a Keras file: facts about a model that are known before Keras loads it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.featurizers.networks import NetworkNotes
from convert.featurizers.saving import read_notes
from convert.frameworks import import_keras
from convert.from_keras.custom_layers import CustomLayers
from convert.from_keras.legacy import is_legacy, read_legacy_config
from edgewright.errors import ModelError

NO_CUSTOM_LAYERS = CustomLayers()

HALF_TOLERANCES = {"float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative difference for models that round to 11 or 8 significant bits after every layer; the graph keeps float32."""


@dataclass(frozen=True, slots=True)
class KerasFile:
    """A Keras file and its configuration."""

    path: Path
    config: dict[str, Any]
    notes: NetworkNotes | None = None
    """Preprocessing and head layers, in files that `save_network` wrote."""

    @classmethod
    def open(cls, path: Path) -> KerasFile:
        """Read the configuration of a `.keras` or legacy `.h5` file.

        Raises:
            ModelError: the file is truncated, holds weights only, or its notes cannot be read.
        """
        if is_legacy(path):
            return cls(path, read_legacy_config(path))
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        return cls(path, config, read_notes(path))

    @property
    def half_precision(self) -> str | None:
        """The half precision that layers compute in (`float16`, `bfloat16`), or None."""
        text = json.dumps(self.config)
        return next((kind for kind in ("bfloat16", "float16") if f'"{kind}"' in text or f'"mixed_{kind}"' in text), None)

    def holds_code(self, custom: CustomLayers = NO_CUSTOM_LAYERS) -> bool:
        """Return whether a layer is Python code, or is unknown to both Keras and `custom`."""
        try:
            self.reject_code(custom)
        except ModelError:
            return True
        return False

    def reject_code(self, custom: CustomLayers = NO_CUSTOM_LAYERS) -> None:
        """Check that every layer is known to Keras or `custom`.

        Raises:
            ModelError: a layer is Python code or unknown; the message names the first one.
        """
        for position, entry in enumerate(_layers(self.config), start=1):
            kind, name = entry.get("class_name"), entry.get("config", {}).get("name", "?")
            if kind == "Lambda":
                raise ModelError(
                    f"{self.path}: layer {name!r} (Lambda, layer {position}) is Python code, which is not run: "
                    "replace it by layers, or add --trust if you made it"
                )
            if _is_custom(entry) and not {entry.get("registered_name"), kind} & set(custom.converters):
                raise ModelError(
                    f"{self.path}: layer {name!r} ({kind}, layer {position}) is a custom layer, not a built-in one: "
                    "give its class and converter with --converters FILE.py --trust, or replace it by built-in layers"
                )


def _is_custom(entry: dict[str, Any]) -> bool:
    """Return whether a layer is not part of Keras. Keras 2 saves no module, so such files need a lookup in Keras itself."""
    module = entry.get("module")
    if module is not None:
        return str(module).partition(".")[0] != "keras"
    keras = import_keras()
    return not any(hasattr(namespace, str(entry.get("class_name"))) for namespace in (keras.layers, keras.models))


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configuration of every layer except inputs; the layers of a nested model follow the nested model."""
    for entry in config.get("config", {}).get("layers", ()):
        if entry.get("class_name") != "InputLayer":
            yield entry
        yield from _layers(entry)
