"""PyTorch programs and modules compute the same in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convert.passes.simplify import simplify
from convert.source.identify import SourceKind, identify
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.errors import ModelError
from tests.support.convert_networks import noise, relative_difference, run_graph

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own warnings


def network() -> Any:
    import torch

    torch.manual_seed(3)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(96, 10),
        nn.Softmax(-1),
    )


def program(path: Path, *, free: bool = True) -> Path:
    import torch

    shapes = ({0: torch.export.Dim("N")},) if free else None
    torch.export.save(torch.export.export(network().eval(), (torch.ones(2, 1, 8, 8),), dynamic_shapes=shapes), path)
    return path.with_suffix(".pt2")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["convert", *(str(argument) for argument in arguments)])


def test_a_module_computes_the_same_and_keeps_its_mode() -> None:
    import torch

    from convert.from_torch import export_module

    module = network().train()
    graph = export_module(module, [torch.ones(1, 1, 8, 8)])
    simplify(graph, check_each=True)
    assert module.training
    batch = noise(5, 1, 8, 8)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(batch)).numpy()
    assert relative_difference(run_graph(graph, batch)[0], expected) < 1e-5


def test_the_build_of_a_program_contains_no_paths_of_its_author(tmp_path: Path) -> None:
    path = program(tmp_path / "model.pt2")
    assert identify(path) is SourceKind.TORCH
    result = run(path, "-o", tmp_path / "build", "--trust")
    assert result.exit_code == 0, result.output
    build = BuildDirectory.open(tmp_path / "build")
    assert [str(spec) for spec in build.record.inputs] == ["input float32[N, 1, 8, 8]"]
    assert [spec.shape for spec in build.record.outputs] == [("N", 10)]
    assert b".py" not in (build.graph / "graph.onnx").read_bytes()


def test_a_program_is_not_loaded_without_trust(tmp_path: Path) -> None:
    path = program(tmp_path / "model.pt2")
    result = run(path, "-o", tmp_path / "build")
    assert result.exit_code == 2
    assert result.stderr == (
        f"edgewright: {path} is a PyTorch program, whose weights may be pickles that run code: add --trust if you made it, "
        "or export the model to ONNX yourself and convert that\n"
    )


def refusal(path: Path) -> str:
    from convert.from_torch.program import read_program

    with pytest.raises(ModelError) as caught:
        read_program(path, trust=True)
    return str(caught.value)


def test_a_program_with_a_fixed_batch_is_rejected_with_advice(tmp_path: Path) -> None:
    path = program(tmp_path / "model.pt2", free=False)
    assert refusal(path) == (
        f"{path}: the first axis of input input must be the dynamic batch axis, but its shape is [2,1,8,8]: "
        "export it with two samples and dynamic_shapes=({0: torch.export.Dim('N')},)"
    )


def test_a_module_that_cannot_be_traced_is_named() -> None:
    import torch

    from convert.from_torch import export_module

    class Branching(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def forward(self, x: Any) -> Any:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(ModelError) as caught:
        export_module(Branching(), [torch.from_numpy(np.ones((2, 3), np.float32))])
    assert str(caught.value).startswith("Branching cannot be exported with a dynamic batch: ")


def test_a_damaged_program_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04cut")
    assert refusal(path).startswith(f"{path}: PyTorch cannot load this program: ")
