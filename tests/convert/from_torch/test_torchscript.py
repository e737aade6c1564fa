"""TorchScript archives, traced and scripted, compute the same in ONNX; the expected outputs are the script's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convert.passes.simplify import simplify
from convert.run_source import run_source
from convert.source.identify import SourceKind
from convert.source.options import SourceOptions
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.errors import EdgewrightError
from tests.support.convert_networks import noise, relative_difference, run_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own warnings

Array = Any

BRANCHING = """
def forward(self, x, steps):
    total = x
    for index in range(3):
        if bool(total.sum() > 0):
            total = total - 0.5 * x
        else:
            total = total + steps.unsqueeze(1)
    return total
"""
PAIRED = """
def forward(self, x, mask, scale: float = 2.0):
    return x * mask, {"rows": x.sum(1), "masks": mask.sum(1) * scale}
"""


def scripted(path: Path, code: str) -> Path:
    import torch

    class Scripted(torch.jit.ScriptModule):  # type: ignore[misc]  # torch is not installed for the type check
        pass

    module = Scripted()
    module.define(code)
    torch.jit.save(module, path)
    return path


def traced(path: Path, module: Any, *inputs: Array) -> Path:
    import torch

    torch.manual_seed(3)
    torch.jit.save(torch.jit.trace(module.eval(), tuple(map(torch.from_numpy, inputs))), path)
    return path


def differences(path: Path, options: SourceOptions, *inputs: Array) -> list[float]:
    """Return the difference of each output of the graph from the script's."""
    from convert.from_torch.script import read_script

    graph = read_script(path, options)
    simplify(graph, check_each=True)
    expected = run_source(SourceKind.TORCHSCRIPT, path, list(inputs), options)
    return [relative_difference(*pair) for pair in zip(run_graph(graph, *inputs), expected, strict=True)]


def with_shapes(*shapes: str) -> SourceOptions:
    return SourceOptions(trust=True, shapes=shapes)


def refusal(path: Path, options: SourceOptions) -> str:
    from convert.from_torch.script import read_script

    with pytest.raises(EdgewrightError) as caught:
        read_script(path, options)
    return str(caught.value)


def test_a_traced_network_converts_for_any_batch(tmp_path: Path) -> None:
    import torch

    nn = torch.nn
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    path = traced(tmp_path / "model.pt", network, noise(1, 3, 8, 8))
    assert max(differences(path, with_shapes("Nx3x8x8"), noise(7, 3, 8, 8))) < 1e-5


def test_a_script_keeps_its_branches_and_loops(tmp_path: Path) -> None:
    path = scripted(tmp_path / "model.pt", BRANCHING)
    options = with_shapes("x=Nx4", "steps=N")
    assert differences(path, options, np.ones((3, 4), np.float32), noise(3)) == [0.0]
    assert differences(path, options, -np.ones((3, 4), np.float32), noise(3)) == [0.0]


def test_dictionaries_and_tuples_of_a_script_are_outputs_in_their_order(tmp_path: Path) -> None:
    path = scripted(tmp_path / "model.pt", PAIRED)
    assert max(differences(path, with_shapes("x=Nx4", "mask=Nx4"), noise(3, 4), noise(3, 4, seed=1))) < 1e-6


def test_axes_with_a_name_are_dynamic(tmp_path: Path) -> None:
    import torch

    path = traced(tmp_path / "model.pt", torch.nn.Conv2d(3, 4, 3, stride=2), noise(1, 3, 8, 8))
    assert max(differences(path, with_shapes("input=Nx3xHxW"), noise(2, 3, 11, 13))) < 1e-5


def test_integers_are_found_by_trial(tmp_path: Path) -> None:
    import torch

    path = traced(tmp_path / "model.pt", torch.nn.Embedding(10, 4), np.array([[1, 2, 3]]))
    assert differences(path, with_shapes("Nx3"), np.array([[4, 9, 0], [1, 1, 5]])) == [0.0]


def test_samples_give_shapes_and_dtypes(tmp_path: Path) -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    path = traced(tmp_path / "model.pt", network, np.array([[1, 2, 3]]))
    samples = tmp_path / "samples.npz"
    write_npz(samples, {"tokens": np.array([[4, 9, 0], [1, 1, 5]]), "labels": np.array([0, 1])})
    options = SourceOptions(trust=True, samples=samples)
    assert max(differences(path, options, np.array([[4, 9, 0], [1, 1, 5]]))) < 1e-6


def test_an_input_that_nothing_uses_stays_an_input(tmp_path: Path) -> None:
    path = scripted(tmp_path / "model.pt", "def forward(self, unused, x):\n    return x * 2\n")
    assert differences(path, with_shapes("unused=Nx2", "x=Nx4"), noise(3, 2), noise(3, 4)) == [0.0]


def test_a_module_traced_for_one_sample_only_has_a_fixed_batch(tmp_path: Path) -> None:
    import torch

    class Fixed(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(12, 3)

        def forward(self, x: Any) -> Any:
            return self.linear(x.reshape(1, 12))

    path = traced(tmp_path / "model.pt", Fixed(), noise(1, 3, 4))
    assert max(differences(path, with_shapes("Nx3x4"), noise(1, 3, 4))) < 1e-6


@pytest.mark.parametrize(
    ("code", "shapes", "message"),
    [
        pytest.param(
            "def forward(self, x):\n    return torch.fft.rfft(x).abs()\n",
            ["Nx8"],
            "{} cannot be expressed in ONNX: operator aten::fft_rfft has no counterpart there",
            id="operator",
        ),
        pytest.param(
            "def forward(self, x, y):\n    return x + y\n",
            ["x=Nx8"],
            "{} does not hold the shapes of its inputs: give y with --shape, as in --shape y=Nx3x224x224, or give --samples",
            id="no shape",
        ),
        pytest.param(
            "def forward(self, x, n: int):\n    return x + n\n",
            ["x=Nx8"],
            "{}: every input must be a tensor, but n is of type int: script a module that takes tensors and calls this one, "
            "and save that",
            id="number",
        ),
        pytest.param(
            "def forward(self, x):\n    return x\n",
            ["z=Nx8"],
            "--shape z=Nx8: the model has no input 'z'",
            id="no such input",
        ),
    ],
)
def test_what_cannot_be_converted_is_named(tmp_path: Path, code: str, shapes: list[str], message: str) -> None:
    path = scripted(tmp_path / "model.pt", code)
    assert refusal(path, with_shapes(*shapes)).startswith(message.format(path))


def test_a_script_that_cannot_run_the_shape_says_why(tmp_path: Path) -> None:
    import torch

    path = traced(tmp_path / "model.pt", torch.nn.Linear(4, 3), noise(1, 4))
    message = refusal(path, with_shapes("Nx5"))
    assert message.startswith(f"{path}: the module cannot run inputs of the shapes input[2, 5]: ")
    assert "mat1 and mat2 shapes cannot be multiplied" in message


def test_an_archive_is_not_loaded_without_trust(tmp_path: Path) -> None:
    path = scripted(tmp_path / "model.pt", BRANCHING)
    assert refusal(path, SourceOptions(shapes=("x=Nx4", "steps=N"))) == (
        f"{path} is a TorchScript archive, which holds code that runs when it is opened: add --trust if you made it, "
        "or export the model to ONNX yourself and convert that"
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def test_the_command_compares_the_graph_with_the_script(tmp_path: Path) -> None:
    path = scripted(tmp_path / "model.pt", PAIRED)
    result = run(path, "-o", tmp_path / "build", "--trust", "--shape", "x=Nx4", "--shape", "mask=Nx4")
    assert result.exit_code == 0, result.output
    build = BuildDirectory.open(tmp_path / "build")
    assert [str(spec) for spec in build.record.inputs] == ["x float32[N, 4]", "mask float32[N, 4]"]
    assert [spec.shape for spec in build.record.outputs] == [("N", 4), ("N",), ("N",)]
    assert build.record.source_kind == "torchscript"
