"""`Model.get_model_path` finds files in the places, and in the order, of azureml-core 1.61 (`azureml/core/model.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from edgewright.errors import BadInputError, ConflictError, EdgewrightError, NotFoundError
from edgewright.sdk import Model, Workspace
from edgewright.sdk.workspace.model_files import find_model_path
from tests.support.embedded_cloud import scratch_folder

ONE = {"AZUREML_MODEL_DIR": "azureml-models/churn/3"}
SEVERAL = {"AZUREML_MODEL_DIR": "azureml-models"}


@pytest.mark.parametrize(
    ("files", "environment", "name", "version", "path"),
    [
        # In a service; https://learn.microsoft.com/azure/machine-learning/how-to-deploy-advanced-entry-script
        pytest.param(["churn/3/m.pkl"], ONE, "churn", None, "churn/3/m.pkl", id="service, one file"),
        pytest.param(["churn/3/m.pkl"], ONE, "churn", 3, "churn/3/m.pkl", id="service, one file by version"),
        pytest.param(["churn/3/out/a", "churn/3/out/b"], ONE, "churn", None, "churn/3/out", id="service, one folder"),
        pytest.param(["churn/3/a", "churn/3/b"], ONE, "churn", None, "churn/3", id="service, several files"),
        pytest.param(["churn/3/m.pkl", "age/1/m.h5"], SEVERAL, "age", None, "age/1/m.h5", id="service, several models"),
        pytest.param(["churn/3/m.pkl", "churn/12/n.pkl"], SEVERAL, "churn", None, "churn/12/n.pkl", id="service, newest"),
        pytest.param(["churn/3/m.pkl", "churn/12/n.pkl"], SEVERAL, "churn", 3, "churn/3/m.pkl", id="service, by version"),
        # Outside of a service, without a cloud.
        pytest.param(["churn/1/f.onnx", "churn/3/f.onnx"], {}, "churn", None, "churn/3/f.onnx", id="cache, newest"),
        pytest.param(["churn/9/f.onnx", "churn/10/f.onnx"], {}, "churn", None, "churn/10/f.onnx", id="cache, by number"),
        pytest.param(["churn/1/f.onnx", "churn/3/f.onnx"], {}, "churn", 1, "churn/1/f.onnx", id="cache, by version"),
        pytest.param(["churn/1/out/a", "churn/1/out/b"], {}, "churn", None, "churn/1/out", id="cache, one folder"),
        pytest.param(["../churn"], {}, "churn", None, "../churn", id="beside the script"),
        pytest.param(["../churn", "churn/1/f.onnx"], {}, "churn", None, "churn/1/f.onnx", id="cache before the script's folder"),
    ],
)
def test_the_path_of_a_model_is_that_of_azure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Sequence[str],
    environment: Mapping[str, str],
    name: str,
    version: int | None,
    path: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, files)
    expected = os.path.normpath(f"azureml-models/{path}")
    assert str(find_model_path(name, version, None, environment)) == expected


@pytest.mark.parametrize(
    ("files", "environment", "version", "error", "message"),
    [
        pytest.param([], ONE, None, NotFoundError, "must hold the model churn, but azureml-models/churn/3 does not", id="none"),
        pytest.param(["churn/3/f"], ONE, 2, NotFoundError, "must hold the model churn:2", id="service, other version"),
        pytest.param(["churn/3/f"], SEVERAL, 2, NotFoundError, "must hold the model churn:2", id="service, no such version"),
        pytest.param([], {}, None, NotFoundError, "must be in azureml-models/churn or churn", id="nowhere"),
        pytest.param(["churn/1/f"], {}, 2, NotFoundError, "must be in azureml-models/churn/2", id="cache, other version"),
        pytest.param(["churn/1/a", "churn/1/b"], {}, None, ConflictError, "must hold one file or folder.* 2: a, b", id="two"),
        pytest.param([], {}, "1", BadInputError, "version must be a whole number from 1, not '1'", id="text as version"),
        pytest.param([], {}, 0, BadInputError, "version must be a whole number from 1, not 0", id="version 0"),
    ],
)
def test_a_model_that_is_nowhere_is_an_error_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Sequence[str],
    environment: Mapping[str, str],
    version: int | None,
    error: type[EdgewrightError],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, files)
    with pytest.raises(error, match=message) as raised:
        find_model_path("churn", version, None, environment)
    assert "\n" not in str(raised.value)


def test_a_version_is_taken_from_the_cache_and_the_newest_from_the_cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ["churn/1/f.onnx"])
    asked: list[int | None] = []

    def fetch(version: int | None) -> Path:
        asked.append(version)
        write(tmp_path, ["churn/4/f.onnx"])
        return Path("azureml-models/churn/4")

    assert str(find_model_path("churn", 1, fetch, {})) == "azureml-models/churn/1/f.onnx"
    assert asked == []
    assert str(find_model_path("churn", None, fetch, {})) == "azureml-models/churn/4/f.onnx"
    assert str(find_model_path("churn", 4, fetch, {})) == "azureml-models/churn/4/f.onnx"
    assert asked == [None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with scratch_folder(tmp_path_factory.mktemp("paths")):
        yield Workspace()


def test_no_cloud_is_started_to_look_for_a_file(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="because no cloud is known here"):
        Model.get_model_path("churn")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_its_name_and_a_file_its_own(workspace: Workspace) -> None:
    for name in ("outputs/weights/a.bin", "outputs/vocabulary.txt", "outputs/notes.md"):
        (workspace.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.folder / name).write_text(name)
    whole = Model.register(workspace, "outputs", "folder")
    part = Model.register(workspace, "outputs", "part", child_paths=["weights/a.bin", "outputs/notes.md"])
    Model.register(workspace, "outputs/notes.md", "notes")
    assert Model.get_model_path("folder") == "azureml-models/folder/1/outputs"
    assert Path("azureml-models/folder/1/outputs/weights/a.bin").read_text() == "outputs/weights/a.bin"
    assert Model.get_model_path("notes", version=1) == "azureml-models/notes/1/notes.md"
    assert whole.download("downloaded") == "downloaded/outputs"
    part.download("chosen")
    chosen = sorted(path.relative_to("chosen").as_posix() for path in Path("chosen").rglob("*") if path.is_file())
    assert chosen == ["outputs/notes.md", "outputs/weights/a.bin"]


SCRIPT = """
from edgewright.azureml.core.model import Model
from edgewright.azureml.core import Workspace

def init():
    global found
    found = open(Model.get_model_path("churn")).read()

def run(data):
    try:
        Workspace().models
    except Exception as error:
        return [found, str(error)]
"""


def test_a_script_that_is_served_starts_no_cloud(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text(SCRIPT)
    write(tmp_path, ["churn/1/f.txt"])
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("EDGEWRIGHT_CLOUD", "AZUREML_"))}
    program = (
        "import json, os; from pathlib import Path; from edgewright.serving.scripts.entry_script import EntryScript\n"
        "script = EntryScript.load(Path('score.py'), None); script.init(); print(json.dumps(script.run('')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found, error = json.loads(done.stdout)
    assert found == "churn/1/f.txt"
    assert error == (
        f"a scoring script must not start the embedded cloud {tmp_path}/.edgewright: name a cloud in EDGEWRIGHT_CLOUD, or give "
        "the model to the service"
    )
    assert not (tmp_path / ".edgewright").exists()


def write(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        path = folder / os.path.normpath(f"azureml-models/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
