"""The model file that a path stands for, and its framework."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewright.errors import BadInputError
from edgewright.serving.nocode.identify import Framework, check_trusted, framework_of, model_in


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"tree\n" if name.endswith("trees.txt") else b"anything")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param(["model.onnx", "model.onnx.data"], "model.onnx", id="external weights"),
        pytest.param(["model.pkl", "requirements.txt", "MLmodel"], "model.pkl", id="a text file that is no model"),
        pytest.param(["trees.txt"], "trees.txt", id="LightGBM"),
        pytest.param(["1/saved_model.pb"], "1", id="the version folder of a SavedModel"),
        pytest.param(["saved_model.pb", "assets/words.onnx"], ".", id="a SavedModel itself"),
        pytest.param(["a.onnx", "b.onnx"], ".", id="two models"),
        pytest.param(["graph.onnx", "variant.json"], ".", id="a variant"),
        pytest.param(["graph.onnx", "build.json"], ".", id="a build directory"),
        pytest.param(["readme.md"], ".", id="no model"),
    ],
)
def test_a_folder_stands_for_its_one_model_file(names: list[str], expected: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    assert model_in(tmp_path) == tmp_path / expected


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("a.onnx", Framework.ONNX),
        ("a.PKL", Framework.SCIKIT_LEARN),
        ("a.skops", Framework.SCIKIT_LEARN),
        ("a.ubj", Framework.XGBOOST),
        ("trees.txt", Framework.LIGHTGBM),
        ("a.tar", None),
        ("score.py", None),
    ],
)
def test_the_suffix_names_the_framework(name: str, framework: Framework | None, tmp_path: Path) -> None:
    write(tmp_path, name)
    assert framework_of(tmp_path / name) is framework


@pytest.mark.parametrize("name", ["a.keras", "a.h5", "a.json", "a.txt"])
def test_a_file_that_is_not_what_its_suffix_says_is_refused(name: str, tmp_path: Path) -> None:
    write(tmp_path, name)
    with pytest.raises(BadInputError, match="as its suffix says, but its first bytes are not one's"):
        framework_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.pkl", "a.pickle", "a.joblib", "a.JOBLIB"])
def test_a_pickle_needs_trust(name: str, tmp_path: Path) -> None:
    check_trusted(tmp_path / name, trust=True)
    with pytest.raises(BadInputError, match="is a pickle, which can run any code when it is opened: add --trust"):
        check_trusted(tmp_path / name, trust=False)
