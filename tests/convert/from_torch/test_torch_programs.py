"""PyTorch programs and modules compute the same in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from convert.passes.simplify import simplify
from convert.run_source import run_source
from convert.source.identify import SourceKind, identify
from convert.source.options import SourceOptions
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


def exported_with_one_sample(path: Path, module: Any, *shape: int) -> Path:
    import torch

    torch.manual_seed(3)
    torch.export.save(torch.export.export(module.eval(), (torch.ones(1, *shape),)), path)
    return path


def shape_and_difference(path: Path, *shape: int) -> tuple[list[int | str], float]:
    """Return the shape of the graph's input, and the difference for a batch from the program's outputs for each sample."""
    from convert.from_torch.program import read_program

    graph = read_program(path, trust=True)
    simplify(graph, check_each=True)
    batch = noise(5, *shape)
    expected = run_source(SourceKind.TORCH, path, [batch], SourceOptions(trust=True))[0]
    sizes = [size if isinstance(size, int) else size.value for size in graph.graph.inputs[0].shape]
    samples = [batch] if sizes[0] == "N" else [batch[place : place + 1] for place in range(5)]
    return sizes, relative_difference(np.concatenate([run_graph(graph, part)[0] for part in samples]), expected)


def part(name: str) -> Any:
    """Return a module whose export fixes the batch in one way."""
    import torch

    nn = torch.nn

    class Part(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru = nn.LSTM(4, 6, num_layers=2, batch_first=True), nn.GRU(4, 6, batch_first=True)
            self.attention, self.late = nn.MultiheadAttention(4, 2, batch_first=True), nn.MultiheadAttention(4, 2)
            self.token, self.linear = nn.Parameter(torch.randn(1, 1, 4)), nn.Linear(20, 3)

        def forward(self, x: Any) -> Any:
            return WAYS[name](self, x)

    return Part()


def torch() -> Any:
    import torch as module

    return module


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "view": lambda m, x: m.linear(x.view(x.size(0), -1)),
    "lstm": lambda m, x: m.lstm(x)[0][:, -1],
    "gru": lambda m, x: m.gru(x)[0],
    "attention": lambda m, x: m.attention(x, x, x)[0],
    "time-major attention": lambda m, x: m.late(x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1))[0].transpose(0, 1),
    "class token": lambda m, x: torch().cat([m.token.expand(x.shape[0], -1, -1), x], 1),
    "steps as samples": lambda m, x: x.reshape(x.shape[0] * 5, 4).relu().reshape(x.shape[0], 5, 4),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_was_exported_with_one_sample_gets_a_dynamic_batch(way: str, tmp_path: Path) -> None:
    sizes, difference = shape_and_difference(exported_with_one_sample(tmp_path / "model.pt2", part(way), 5, 4), 5, 4)
    assert sizes == ["N", 5, 4]
    assert difference < 1e-5


def test_a_batch_that_cannot_be_made_dynamic_stays_fixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    class First(torch.nn.Module):  # type: ignore[misc]  # torch is not installed for the type check
        def forward(self, x: Any) -> Any:
            return x[0:1] * x.sum(0, keepdim=True)

    path = exported_with_one_sample(tmp_path / "model.pt2", First(), 5, 4)
    assert shape_and_difference(path, 5, 4) == ([1, 5, 4], 0.0)
    assert f"{path}: the batch has the fixed size 1, for which the program was exported" in caplog.messages


def test_a_fixed_batch_of_several_samples_becomes_dynamic(tmp_path: Path) -> None:
    from convert.from_torch.program import read_program

    graph = read_program(program(tmp_path / "model.pt2", free=False), trust=True)
    assert run_graph(graph, noise(5, 1, 8, 8))[0].shape == (5, 10)


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
