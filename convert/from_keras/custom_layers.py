"""What the user's own Keras layers become in ONNX: converters from a file of the user's, or from an installed package.

    # my_layers.py, for `edgewright convert --converters my_layers.py --trust`
    CONVERTERS = {Twice: convert_twice, "mine>Thrice": convert_thrice}

A converter takes the `Call` of its layer (weights, settings, inputs, a place to emit nodes at) and returns the layer's output.
Keys are the class, an activation function, or the name that Keras registered either under. A package offers the same mapping to
everyone who installs it as an entry point of the group `edgewright.converters`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from convert.frameworks import configure_tensorflow
from convert.from_keras.call import Call
from convert.from_keras.layouts import Layout, Tensor
from edgewright.errors import BadInputError

__all__ = ["Call", "Converter", "CustomLayers", "Layout", "Tensor", "custom_layers"]

Converter = Callable[[Call], Tensor]

ENTRY_POINTS = "edgewright.converters"
TABLE = "CONVERTERS"


@dataclass(frozen=True, slots=True)
class CustomLayers:
    """Converters and the classes or functions that they are for, both by registered name."""

    converters: Mapping[str, Converter] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)
    """What Keras must know to load the model; names alone are known to it already."""

    @classmethod
    def of(cls, table: Mapping[Any, Converter]) -> CustomLayers:
        """Return what a mapping like `CONVERTERS` says.

        Raises:
            BadInputError: a key is neither a class, a function nor a name, or a value is no function.
        """
        for key, converter in table.items():
            if not (isinstance(key, str) or callable(key)) or not callable(converter):
                raise BadInputError(
                    f"{TABLE} must map layer classes or registered names to functions, but it maps {key!r} to {converter!r}"
                )
        names = {key: key if isinstance(key, str) else registered_name(key) for key in table}
        objects = {name: key for key, name in names.items() if not isinstance(key, str)}
        return cls({names[key]: converter for key, converter in table.items()}, objects)


def custom_layers(path: Path | None) -> CustomLayers:
    """Return the converters of the file `path`, before those of installed packages.

    Runs the file; whether its author is trusted is the caller's question.

    Raises:
        BadInputError: the file or a package's table cannot be used.
    """
    configure_tensorflow()  # both a package and the user's file may import Keras
    table: dict[Any, Converter] = {}
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        table |= _table(point.load(), f"the entry point {point.value}")
    if path is not None:
        table |= _table(getattr(_imported(path), TABLE, {}), str(path))
    return CustomLayers.of(table)


def registered_name(thing: Any) -> str:
    """Return the name that Keras saves a class or function under: `package>name` where it is registered, else its own."""
    import keras

    return str(keras.saving.get_registered_name(thing))


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInputError(f"{path}: no such file; --converters takes a Python file that defines {TABLE}")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} must be a Python file (.py) that defines {TABLE}")
    module = importlib.util.module_from_spec(spec)
    # Keras looks a class's module up by name; a module of ours or of a library is never replaced.
    known = sys.modules.setdefault(name, module)
    try:
        spec.loader.exec_module(module)
    except Exception as wrong:  # whatever the user's code raises
        if known is module:
            del sys.modules[name]
        raise BadInputError(f"{path} must run, but it raised {type(wrong).__name__}: {wrong}") from wrong
    return module


def _table(found: Any, where: str) -> Mapping[Any, Converter]:
    if not isinstance(found, Mapping):
        raise BadInputError(f"{where}: {TABLE} must be a dictionary from layer class to function, not {type(found).__name__}")
    return found
