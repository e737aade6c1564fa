"""A SavedModel of 400 MB: it converts in a fraction of tf2onnx's memory, or fails at the user's limit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgewright.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network like VGG in plain TensorFlow: five convolutions and a dense layer of 98 million weights."""
    import tensorflow as tf

    generator = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        scale = np.sqrt(2 / np.prod(shape[:-1]))
        return tf.Variable(generator.normal(size=shape, scale=scale).astype(np.float32))

    sizes = [3, 64, 128, 256, 512, 512]
    module = tf.Module()
    module.kernels = [weight(3, 3, before, after) for before, after in itertools.pairwise(sizes)]
    module.dense = [weight(7 * 7 * 512, 3900), weight(3900, 10)]

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], name="image")])  # type: ignore[untyped-decorator]
    def score(image: Any) -> dict[str, Any]:
        for kernel in module.kernels:
            image = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(image, kernel, 1, "SAME")), 2, 2, "SAME")
        row = tf.nn.relu(tf.reshape(image, [-1, 7 * 7 * 512]) @ module.dense[0])
        return {"score": tf.nn.softmax(row @ module.dense[1])}

    path = tmp_path_factory.mktemp("large") / "saved_model"
    tf.saved_model.save(module, str(path), signatures=score)
    return path


def test_a_large_saved_model_converts_within_twenty_times_its_size(large: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["convert", str(large), "-o", str(tmp_path / "build"), "--max-memory", "8"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "build" / "reports" / "parity.json").read_text("utf-8"))
    assert report["outputs"][0]["max_relative_difference"] < 1e-5


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        pytest.param("--max-memory", "1.5", "must stay below 1.5 GB of memory, but it needs more and was stopped", id="memory"),
        pytest.param("--max-time", "5", "must end within 5 s, but it did not and was stopped", id="time"),
    ],
)
def test_at_a_limit_the_conversion_fails_and_leaves_no_files(
    large: Path, tmp_path: Path, option: str, value: str, message: str
) -> None:
    result = CliRunner().invoke(main, ["convert", str(large), "-o", str(tmp_path / "build"), option, value])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
