"""Half precision: equal labels, float32 outside, and no number that it cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skops.io
from sklearn.ensemble import RandomForestClassifier

from convert import source_runner
from convert.capped import Limits
from convert.conversion import ConvertOptions, convert_model
from convert.identify import SourceKind
from convert.reading import Reading
from edgewright.contracts.samples import Samples, Tensors, write_npz
from edgewright.contracts.variant import LayerKind
from edgewright.errors import ModelError
from quantize.quantization import QuantizeOptions, quantize
from quantize.scheme import Scheme
from tests.convert.networks import digits, keras, noise, saved, shaken
from tests.quantize.builds import variant


def test_every_label_is_the_float_models() -> None:
    measured = variant(Scheme.FP16).config.measured
    assert measured is not None
    assert measured.agreement == 1.0
    assert measured.max_relative_difference < 5e-3


def kinds(model: onnx.ModelProto) -> dict[str, int]:
    ends = (*model.graph.input, *model.graph.output)
    return {end.name: end.type.tensor_type.elem_type for end in ends}


def test_inputs_and_outputs_stay_float32_and_softmax_too() -> None:
    model = onnx.load(variant(Scheme.FP16).file(LayerKind.GRAPH))
    assert kinds(model) == {"image": onnx.TensorProto.FLOAT, "classes": onnx.TensorProto.FLOAT}
    assert model.graph.node[-1].op_type == "Softmax"
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["stem/Conv/kernel/half"] == onnx.TensorProto.FLOAT16


def test_where_rounding_changes_no_label_operators_compute_in_half_precision(tmp_path: Path) -> None:
    row = keras().Input((4,), name="x")
    made = halved(shaken(keras().Model(row, keras().layers.Dense(3, name="sum")(row))), noise(8, 4), tmp_path)
    assert [node.op_type for node in made.graph.node] == ["Cast", "Gemm", "Cast"]


def test_where_rounding_changes_a_label_the_last_operators_stay_float32(tmp_path: Path) -> None:
    row = keras().Input((2,), name="x")
    dense = keras().layers.Dense
    model = keras().Model(row, dense(2, use_bias=False, name="close")(dense(2, use_bias=False, name="first")(row)))
    model.set_weights([np.eye(2, dtype=np.float32), np.diag([1.0, 1.0001]).astype(np.float32)])  # halves to [1, 1]
    made = halved(model, np.array([[1.0, 1.0], [1.0, 0.0]], np.float32), tmp_path)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types == {"first/kernel/half": onnx.TensorProto.FLOAT16, "close/kernel": onnx.TensorProto.FLOAT}


@pytest.fixture(autouse=True)
def _source_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the small sources of these tests here: another process per test would load TensorFlow each time."""

    def run(
        kind: SourceKind, source: Path, samples: Samples, outputs: Sequence[str], reading: Reading, _limits: Limits
    ) -> Tensors:
        arrays = list(samples.inputs.values())
        return dict(zip(outputs, source_runner.run_source(kind, source, arrays, reading), strict=True))

    monkeypatch.setattr("convert.parity.run_source", run)


def halved(model: Any, samples: Any, folder: Path) -> onnx.ModelProto:
    write_npz(folder / "samples.npz", {"x": samples})
    build = convert_model(saved(model, folder / "m.keras"), folder / "b", ConvertOptions(samples=folder / "samples.npz"))
    made = quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=folder / "samples.npz"))
    return onnx.load(made.file(LayerKind.GRAPH))


def test_weights_and_values_that_half_precision_cannot_hold_stay_float32(tmp_path: Path) -> None:
    layers = keras().layers
    row = keras().Input((4,), name="x")
    large = layers.Dense(4, name="large")(row)
    model = keras().Model(row, layers.Dense(3, name="small")(layers.Rescaling(1e-5, name="down")(large)))
    model.set_weights([np.eye(4, dtype=np.float32) * 1e5, np.zeros(4, np.float32), noise(4, 3), np.zeros(3, np.float32)])
    made = halved(model, noise(8, 4), tmp_path)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert types["large/kernel"] == onnx.TensorProto.FLOAT
    assert types["small/kernel/half"] == onnx.TensorProto.FLOAT16


def test_a_model_of_trees_has_nothing_to_halve(tmp_path: Path) -> None:
    images, labels = digits()
    skops.io.dump(RandomForestClassifier(2, random_state=0).fit(images.reshape(-1, 64), labels), tmp_path / "m.skops")
    write_npz(tmp_path / "x.npz", {"x": images.reshape(-1, 64)[:50]})
    build = convert_model(tmp_path / "m.skops", tmp_path / "b", ConvertOptions())
    with pytest.raises(ModelError) as told:
        quantize(build, QuantizeOptions(scheme=Scheme.FP16, samples=tmp_path / "x.npz"))
    assert str(told.value) == (
        f"{tmp_path}/b: fp16 needs operators that run in half precision, but the graph has ['TreeEnsembleClassifier']"
    )
    assert [one.config.variant for one in build.variants()] == ["fp32"]
