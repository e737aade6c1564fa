"""The manifest that a device gets from a base and layers."""

from __future__ import annotations

from typing import Any

import pytest

from edgewright.errors import BadInputError
from edgewright.iotedge.layering import Layer, effective
from edgewright.iotedge.manifest import Module, layered, standard
from edgewright.iotedge.validation import content_of, faults_of


def module(name: str, tag: int) -> Module:
    """Return a module of an image with a tag."""
    return Module(name=name, image=f"registry.example/{name}:{tag}")


def images(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the image of each module."""
    modules = content_of(manifest)["$edgeAgent"]["properties.desired"]["modules"]
    return {name: document["settings"]["image"] for name, document in modules.items()}


def test_layers_add_and_the_higher_priority_wins() -> None:
    ocr = Layer(name="new ocr", priority=20, manifest=layered(module("ocr", 2), {"up": "FROM /* INTO $upstream"}))
    old = Layer(name="ocr", priority=10, manifest=layered(module("ocr", 1)))
    combined = effective(standard(module("churn", 1)), [ocr, old])
    assert images(combined.manifest) == {"churn": "registry.example/churn:1", "ocr": "registry.example/ocr:2"}
    assert combined.origins["modules/ocr"] == ("ocr", "new ocr")
    assert combined.origins["modules/churn"] == ("base",)
    assert combined.origins["routes/up"] == ("new ocr",)
    assert faults_of(combined.manifest) == []


def test_a_layer_replaces_a_part_of_a_module_twin() -> None:
    base = standard(module("churn", 1))
    base["modulesContent"]["churn"] = {"properties.desired": {"limits": {"low": 0.1, "high": 0.9}, "mode": "fast"}}
    changes = {"properties.desired.limits.high": 0.8, "properties.desired.site": "plant-2"}
    layer = Layer(name="plant-2", priority=1, manifest={"modulesContent": {"churn": changes}})
    combined = effective(base, [layer])
    desired = combined.manifest["modulesContent"]["churn"]["properties.desired"]
    assert desired == {"limits": {"low": 0.1, "high": 0.8}, "mode": "fast", "site": "plant-2"}
    assert base["modulesContent"]["churn"]["properties.desired"]["limits"]["high"] == 0.9


@pytest.mark.parametrize(
    ("base", "layers", "expected"),
    [
        (layered(module("churn", 1)), [], "base must be a standard manifest"),
        (standard(module("churn", 1)), [Layer(name="x", priority=1, manifest=standard(module("ocr", 1)))], "x must be a layered"),
        (
            standard(module("churn", 1)),
            [Layer(name="x", priority=0, manifest=layered(module("ocr", 1)))],
            "priority of x must be above 0",
        ),
        (
            standard(module("churn", 1)),
            [
                Layer(
                    name="x",
                    priority=1,
                    manifest=layered(module("ocr", 1), {"r": 'FROM /* INTO BrokeredEndpoint("/modules/gone/inputs/i")'}),
                )
            ],
            "names module gone",
        ),
        (
            standard(module("churn", 1)),
            [
                Layer(
                    name="x",
                    priority=1,
                    manifest={"modulesContent": {"churn": {"properties.desired.a": 1, "properties.desired.a.b": 2}}},
                )
            ],
            "cannot set properties.desired.a.b",
        ),
    ],
)
def test_layers_without_a_right_base_are_refused(base: dict[str, Any], layers: list[Layer], expected: str) -> None:
    with pytest.raises(BadInputError, match=expected):
        effective(base, layers)
