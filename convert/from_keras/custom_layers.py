"""Converters for custom Keras layers, from the user's file or from installed packages.

    # my_layers.py, for `edgewright convert --converters my_layers.py --trust`
    CONVERTERS = {Twice: convert_twice, "mine>Thrice": convert_thrice}

A converter takes the `Call` of its layer (weights, settings, inputs, methods that emit nodes) and returns the layer's output.
Keys are layer classes, activation functions, or their registered names in Keras. An installed package provides such a mapping as
an entry point of the group `edgewright.converters`.
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
    """Converters and their classes or functions, both by registered name."""

    converters: Mapping[str, Converter] = field(default_factory=dict)
    objects: Mapping[str, Any] = field(default_factory=dict)
    """Classes and functions that Keras needs to load the model."""

    @classmethod
    def of(cls, table: Mapping[Any, Converter]) -> CustomLayers:
        """Return the custom layers of a mapping such as `CONVERTERS`.

        Raises:
            BadInputError: a key is not a class, function or name, or a value is not a function.
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
    """Return the converters of installed packages and of the file `path`, which take precedence.

    The file is run, so the caller must check that its author is trusted.

    Raises:
        BadInputError: the file cannot be run, or a mapping is not valid.
    """
    configure_tensorflow()  # packages and the user's file may import Keras
    table: dict[Any, Converter] = {}
    for entry_point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda entry_point: entry_point.name):
        table |= _checked_table(entry_point.load(), f"the entry point {entry_point.value}")
    if path is not None:
        table |= _checked_table(getattr(_imported(path), TABLE, {}), str(path))
    return CustomLayers.of(table)


def registered_name(class_or_function: Any) -> str:
    """Return the name under which Keras saves a class or function: `package>name` if it is registered, else its own."""
    import keras

    return str(keras.saving.get_registered_name(class_or_function))


def _imported(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInputError(f"{path}: no such file; --converters takes a Python file that defines {TABLE}")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} must be a Python file (.py) that defines {TABLE}")
    module = importlib.util.module_from_spec(spec)
    # Keras looks up a class's module by name. An already imported module of that name is not replaced.
    registered = sys.modules.setdefault(name, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        if registered is module:
            del sys.modules[name]
        raise BadInputError(f"{path} must run, but it raised {type(error).__name__}: {error}") from error
    return module


def _checked_table(table: Any, where: str) -> Mapping[Any, Converter]:
    if not isinstance(table, Mapping):
        raise BadInputError(f"{where}: {TABLE} must be a dictionary from layer class to function, not {type(table).__name__}")
    return table
