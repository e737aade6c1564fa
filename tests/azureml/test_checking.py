"""`edgewright azureml check` lists what an old script uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgewright.azureml.checking import check_script
from edgewright.azureml.differences import DIFFERENCES
from edgewright.cli import main
from edgewright.errors import BadInputError

SCRIPT = """\
from azureml.core import Dataset, Workspace
from azureml.core.model import Model as M
from sklearn.externals import joblib
import nvidia_smi

ws = Workspace.from_config()
model = M.register(workspace=ws, model_path="a", model_name="b", flavour=1)
service = M.deploy(ws, "c", [model])
service.wait_for_deployment(show_output=True)
print(service.state, model.name, ws.compute_targets)
service.swap()
nvidia_smi.nvmlInit()
"""
EXPECTED = [
    (1, "azureml.core.Dataset", False, "not covered"),
    (1, "azureml.core.Workspace", True, "from edgewright.azureml.core import Workspace"),
    (2, "azureml.core.model.Model", True, "from edgewright.azureml.core.model import Model"),
    (3, "sklearn.externals.joblib", True, "import joblib"),
    (4, "nvidia_smi", True, "import edgewright.azureml.nvidia_smi"),
    (6, "azureml.core.Workspace.from_config", True, DIFFERENCES["Workspace.from_config"]),
    (7, "azureml.core.model.Model.register", False, "no argument flavour"),
    (8, "azureml.core.model.Model.deploy", True, DIFFERENCES["Model.deploy"]),
    (9, "azureml.core.Webservice.wait_for_deployment", True, ""),
    (10, "azureml.core.Workspace.compute_targets", False, "not covered"),
    (11, "azureml.core.Webservice.swap", False, "not covered"),
    (12, "nvidia_smi.nvmlInit", True, ""),
]


def test_every_use_is_listed_with_its_line_and_what_differs(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCRIPT)
    assert [(use.line, use.name, use.is_covered, use.note) for use in check_script(script)] == EXPECTED


def test_the_command_ends_with_1_for_a_name_that_is_not_covered_and_runs_nothing(tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(f"{SCRIPT}\nraise SystemExit(9)\n")
    result = CliRunner().invoke(main, ["azureml", "check", str(script)])
    assert result.exit_code == 1
    assert "8 of 12 names are covered" in result.output
    script.write_text("from edgewright.azureml.core import Workspace\nfrom edgewright.sdk import Model\n")
    assert CliRunner().invoke(main, ["azureml", "check", str(script)]).exit_code == 0


@pytest.mark.parametrize("text", ["def f(:\n", "x = '\0'"], ids=["syntax", "null byte"])
def test_a_file_that_is_not_python_is_refused(tmp_path: Path, text: str) -> None:
    script = tmp_path / "score.py"
    script.write_text(text)
    with pytest.raises(BadInputError, match="must be Python 3 in UTF-8, but it is not"):
        check_script(script)


def test_every_difference_names_a_verb_that_exists() -> None:
    import edgewright.azureml.onnx_tf.frontend as frontend
    from edgewright import sdk
    from edgewright.azureml import accel

    def exists(name: str) -> bool:
        first, _, verb = name.partition(".")
        owners = [getattr(each, first) for each in (sdk, frontend, accel) if hasattr(each, first)]
        return any(not verb or hasattr(owner, verb) for owner in owners)

    missing = [name for name in DIFFERENCES if not exists(name)]
    assert missing == []
