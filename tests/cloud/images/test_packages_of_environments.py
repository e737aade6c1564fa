"""The layer of an environment's packages: pip installs them from an index of files; conda's notation becomes pip's."""

from __future__ import annotations

import importlib.metadata as metadata
import tarfile
from pathlib import Path

import pytest

from cloud.images.build.installed import server_pins
from cloud.images.build.layers import LayerStore
from cloud.images.build.packages import Installer, from_conda, packages_layer, requirements_of
from edgewright.contracts.environments.definition import Environment
from edgewright.errors import BadInputError
from tests.support.wheels import wheel


@pytest.mark.parametrize(
    ("conda", "pip"),
    [
        ("numpy", "numpy"),
        ("numpy=1.26", "numpy==1.26.*"),
        ("numpy==1.26.4", "numpy==1.26.4"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("numpy=1.26.4=py311_0", "numpy==1.26.4.*"),
        ("numpy >=1.2, <2", "numpy>=1.2,<2"),
        ("conda-forge::scikit-learn=1.5", "scikit-learn==1.5.*"),
        ("pytorch", "torch"),
        ("python=3.11", ""),
        ("pip", ""),
    ],
)
def test_a_conda_package_becomes_a_pip_package_of_the_same_name(conda: str, pip: str) -> None:
    assert from_conda(conda) == pip


def test_azures_server_and_python_are_left_out_and_said_so() -> None:
    log: list[str] = []
    environment = Environment(
        name="e", pip_packages=("azureml-defaults>=1.0", "keras"), conda_packages=("numpy=1.26", "python=3.11")
    )
    assert requirements_of(environment, log.append) == ("keras", "numpy==1.26.*")
    assert "azureml-defaults is left out: edgewright's own server takes its place" in log
    assert log[0].startswith("conda packages are installed from the package index of pip")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "first", "1.0", "Requires-Dist: second\n")
    wheel(folder, "second", "2.0")
    wheel(folder, "click", metadata.version("click"))
    wheel(folder, "click", "7.0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder.as_uri()


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    (tmp_path / "blobs").mkdir()
    return LayerStore(tmp_path / "blobs", tmp_path / "cache")


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    (tmp_path / "work").mkdir()
    log: list[str] = []
    return Installer(tmp_path / "work", server_pins(), log.append)


def names_in(store: LayerStore, digest: str) -> set[str]:
    with tarfile.open(store.path_of(digest)) as tar:
        return {name.removeprefix("opt/edgewright/packages/") for name in tar.getnames() if name.endswith(".py")}


def test_packages_and_what_they_need_are_one_layer(store: LayerStore, installer: Installer, index: str) -> None:
    layer = packages_layer(store, ("first",), index, installer)
    assert layer is not None
    assert (layer.title, names_in(store, layer.blob.digest)) == ("first 1.0, second 2.0", {"first.py", "second.py"})
    assert packages_layer(store, ("first",), index, installer) == layer


def test_a_package_of_the_server_is_stored_again_only_in_another_version(
    store: LayerStore, installer: Installer, index: str
) -> None:
    same = packages_layer(store, ("click", "second"), index, installer)
    other = packages_layer(store, ("click==7.0",), index, installer)
    assert same is not None
    assert other is not None
    assert (same.title, other.title) == ("second 2.0", "click 7.0")


def test_a_refusal_of_pip_is_shown_in_its_own_words(store: LayerStore, installer: Installer, index: str) -> None:
    with pytest.raises(BadInputError, match=r"^pip: Could not find a version that satisfies the requirement second==3"):
        packages_layer(store, ("second==3",), index, installer)
