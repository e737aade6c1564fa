"""The listings of the chapter on deployment with Azure ML's SDK v1, with other import roots and nothing else changed.

They run in one notebook: one namespace, one folder, one embedded cloud. A test runs the listings that its own needs, each once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded_cloud import scratch_folder

LISTINGS: dict[str, str] = {
    "training data": """
import numpy as np
from sklearn.linear_model import LogisticRegression
X_train = np.random.default_rng(0).normal(size=(60, 4))
y_train = (X_train[:, 0] > 0).astype(int)
clf = LogisticRegression()
""",
    "1": """
from edgewright.azureml.core.run import Run
import joblib
run = Run.get_context()
clf.fit(X_train, y_train)
joblib.dump(clf, 'outputs/sklearn_mnist_model.pkl')
model = run.register_model(model_name='sklearn_mnist', model_path='outputs/sklearn_mnist_model.pkl')
print(model.name, model.id, model.version, sep='\\t')
""",
    "2": """
from edgewright.azureml.core.model import Model
model_path = Model.get_model_path('sklearn_mnist')
loaded = joblib.load(model_path)
""",
}
NEEDS = {"1": ("training data",), "2": ("1",)}


class Notebook:
    """The namespace of the listings, and which of them have run."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self._done: set[str] = set()

    def run(self, name: str) -> dict[str, Any]:
        """Run a listing after those that it needs, each once."""
        for needed in NEEDS.get(name, ()):
            self.run(needed)
        if name not in self._done:
            exec(compile(LISTINGS[name], f"<listing {name}>", "exec"), self.names)
            self._done.add(name)
        return self.names


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with scratch_folder(tmp_path_factory.mktemp("notebook")):
        yield Notebook()


Run = Callable[[str], dict[str, Any]]


@pytest.fixture
def run(notebook: Notebook) -> Run:
    return notebook.run


def test_listing_1_a_run_registers_the_model_that_it_trained(run: Run) -> None:
    names = run("1")
    model = names["model"]
    assert (model.name, model.id, model.version) == ("sklearn_mnist", "sklearn_mnist:1", 1)
    assert model.run_id == names["run"].id


def test_listing_2_the_newest_version_is_found_and_loaded(run: Run) -> None:
    names = run("2")
    assert names["model_path"] == "azureml-models/sklearn_mnist/1/sklearn_mnist_model.pkl"
    assert Path(names["model_path"]).read_bytes() == Path("outputs/sklearn_mnist_model.pkl").read_bytes()
    assert names["loaded"].predict([[5, 0, 0, 0]]) == [1]
