"""A scoring server with the tiny variant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from accel.backends.onnxruntime_cpu import OnnxRuntime
from edgewright.contracts.variant import VariantDirectory
from edgewright.serving.variants.app import ScoringApp
from tests.support.serving_fixtures import Client, serving
from tests.support.tiny_variants import make_variant


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> VariantDirectory:
    return make_variant(tmp_path_factory.mktemp("variant") / "fp32", labels=("cat", "dog", "eel"))


@pytest.fixture(scope="module")
def client(variant: VariantDirectory) -> Iterator[Client]:
    app = ScoringApp(OnnxRuntime().load(variant, threads=1), variant.config, model="pets", version=3)
    with serving(app) as served:
        yield served
