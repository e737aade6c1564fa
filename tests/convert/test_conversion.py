"""`edgewright convert` as a whole, with the source in a separate process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import skops.io
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression

from accel.backends.choose import load_session
from accel.golden import check_golden
from convert.conversion import ConvertOptions, convert_model
from convert.featurizers.networks import build_network
from convert.featurizers.preprocessing import MODES, read_preprocessing
from convert.featurizers.saving import save_network
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import Precision, Preprocessing
from edgewright.errors import SamplesError
from tests.support.convert_networks import digits, digits_build, held_out_samples, keras_file, retrained_file


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_keras_model_becomes_a_build_directory() -> None:
    build = digits_build()
    record, variant = build.record, build.variant("fp32")
    assert [str(spec) for spec in (*record.inputs, *record.outputs)] == [
        "image float32[N, 8, 8, 1]",
        "classes float32[N, 10]",
    ]
    assert record.labels == tuple("0123456789")
    assert record.source_kind == "keras"
    assert record.cut is not None
    assert record.cut.tensors == ("flatten/Flatten",)
    assert variant.config.precision is Precision.FP32
    assert variant.config.measured is not None
    assert variant.config.measured.agreement == 1.0
    assert (variant.config.measured.accuracy or 0) > 0.85


def test_the_float_variant_passes_its_own_golden_check() -> None:
    build = digits_build()
    variant = build.variant("fp32")
    result = check_golden(load_session(variant), variant, build.graph)
    assert result.failure is None
    assert result.sample_count == 32


def test_parity_is_reported_for_each_output() -> None:
    report = json.loads((digits_build().reports / "parity.json").read_text("utf-8"))
    assert report["passed"] is True
    assert report["generated_samples"] is False
    assert report["sample_count"] == 397
    assert [output["name"] for output in report["outputs"]] == ["classes"]
    assert report["outputs"][0]["max_relative_difference"] < 1e-5


def test_retraining_the_head_changes_the_head_weights_only(tmp_path: Path) -> None:
    options = ConvertOptions(samples=held_out_samples(), labels=digits_build().record.labels)
    build = convert_model(retrained_file(), tmp_path / "build", options)
    old, new = contents(digits_build().path / "variants" / "fp32"), contents(build.path / "variants" / "fp32")
    assert {name for name in old if old[name] != new[name]} == {"head.weights", "variant.json"}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    options = ConvertOptions(samples=held_out_samples(), labels=digits_build().record.labels)
    build = convert_model(keras_file(), tmp_path / "elsewhere", options)
    assert contents(build.path) == contents(digits_build().path)


def logistic(path: Path) -> Path:
    images, labels = digits()
    skops.io.dump(LogisticRegression(max_iter=30, tol=0.1).fit(images.reshape(-1, 64), labels), path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def test_the_command_shows_the_cut_of_a_pipeline_that_is_all_head(tmp_path: Path) -> None:
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "build")
    assert result.exit_code == 0
    assert result.output.splitlines()[1:] == [
        "part        nodes  weights MB  tensors",
        "featurizer      0           0  gives features",
        "head            2           0  takes features",
    ]
    assert BuildDirectory.open(tmp_path / "build").record.labels == tuple("0123456789")


def test_verbose_logs_each_step_and_each_change_of_a_pass(tmp_path: Path) -> None:
    """Logging is configured once per process, so the command runs in a new one."""
    arguments = ["convert", str(logistic(tmp_path / "model.skops")), "-o", str(tmp_path / "build"), "-v"]
    done = subprocess.run(
        [sys.executable, "-m", "edgewright", *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    ours = [re.sub(r"\d+", "#", line) for line in done.stderr.splitlines()]
    assert ours[0] == "I convert.conversion read source_kind=sklearn nodes=# took_ms=#"
    applied = r"I convert\.passes\.simplify applied pass name=\w+ change='.+' nodes=# took_ms=#"
    assert [line for line in ours if re.fullmatch(applied, line)]
    assert ours[-1] == "I convert.conversion compared with source samples=# took_ms=#"
    assert not [line for line in ours if "onnx_ir" in line]


def test_the_command_prints_json(tmp_path: Path) -> None:
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "build", "--json")
    printed = json.loads(result.output)
    assert printed["record"]["source_kind"] == "sklearn"
    assert printed["variant"]["variant"] == "fp32"


def refused(result: Result, code: int) -> str:
    assert result.exit_code == code
    assert len(result.stderr.splitlines()) == 1
    return result.stderr.strip().removeprefix("edgewright: ")


def test_samples_of_another_shape_are_rejected_and_no_files_are_left(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"features": np.zeros((3, 12), np.float32)})
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "build", "--samples", tmp_path / "x.npz")
    assert refused(result, 2) == (f"{tmp_path}/x.npz: input features must have shape [N, 64], but the samples have shape [3, 12]")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.skops", "x.npz"]


def test_samples_of_another_dtype_are_rejected(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", {"features": np.zeros((3, 64), np.complex64)})
    with pytest.raises(SamplesError) as caught:
        convert_model(logistic(tmp_path / "m"), tmp_path / "build", ConvertOptions(samples=tmp_path / "x.npz"))
    assert str(caught.value) == f"{tmp_path}/x.npz: input features must be float32, but the samples are complex64"


def test_too_few_labels_are_rejected(tmp_path: Path) -> None:
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "build", "--labels", "zero,one")
    assert refused(result, 2) == ("there must be one label per class: output probabilities has 10, but 2 were given")


def test_a_directory_other_than_a_build_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important", "utf-8")
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "mine")
    assert refused(result, 2) == (f"{tmp_path}/mine exists, but it is not a build directory: choose another output, or remove it")
    assert (tmp_path / "mine" / "thesis.txt").read_text("utf-8") == "important"


def test_a_text_file_is_rejected_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a model", "utf-8")
    result = run(tmp_path / "notes.txt", "-o", tmp_path / "build")
    assert refused(result, 2).startswith(f"{tmp_path}/notes.txt is not a model of a known format; ")
    assert not (tmp_path / "build").exists()


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")  # Keras's own
def test_preprocessing_and_head_layers_of_a_network_are_stored_in_the_build(tmp_path: Path) -> None:
    network = build_network("resnet8")
    save_network(network, tmp_path / "resnet8.keras")
    build = convert_model(tmp_path / "resnet8.keras", tmp_path / "build", ConvertOptions())
    assert build.record.preprocessing == network.notes.preprocessing
    assert build.variant("fp32").config.preprocessing == network.notes.preprocessing
    assert build.record.cut is not None
    assert build.record.cut.head_nodes == 2  # its Dense layer and the softmax after it


def test_preprocessing_is_a_mode_or_a_file(tmp_path: Path) -> None:
    result = run(logistic(tmp_path / "model.skops"), "-o", tmp_path / "build", "--preprocessing", "torch")
    assert result.exit_code == 0, result.output
    assert BuildDirectory.open(tmp_path / "build").record.preprocessing == MODES["torch"]
    (tmp_path / "own.json").write_text('{"scale": 0.5, "color_order": "bgr"}', "utf-8")
    assert read_preprocessing(str(tmp_path / "own.json")) == Preprocessing(scale=0.5, color_order="bgr")


def test_an_unknown_preprocessing_mode_is_rejected(tmp_path: Path) -> None:
    result = run(tmp_path / "model.skops", "-o", tmp_path / "build", "--preprocessing", "cafe")
    assert refused(result, 2) == "--preprocessing cafe: no such mode or JSON file; known: caffe"


def test_the_weights_of_a_build_can_be_loaded_by_onnx() -> None:
    onnx.checker.check_model(onnx.load(digits_build().path / "variants" / "fp32" / "graph.onnx"), full_check=True)
