"""Measure the build of images: size of a model of ONNX without code, and the second build after one line of the script changed.

    .venv/bin/python benchmarks/images.py [--runs 5]

The cloud and its registry are on this machine, in a temporary folder. A build is timed as the user sees it, by `edgewright images
build`, from the start of the command to its end. The median and the range are of the builds after the first one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from benchmarks.measuring.fresh_process import machine_line
from edgewright.command_line import print_table
from edgewright.contracts.environments.images import LayerPart

SCRIPT = "import json\n\ndef init():\n    pass\n\ndef run(body):\n    return {'sum': sum(json.loads(body)['data'])}\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="builds with a changed line")
    runs: int = parser.parse_args().runs
    print(machine_line(("onnxruntime", "numpy")))
    with tempfile.TemporaryDirectory() as folder, cloud(Path(folder)) as state:
        print_table(["work", "median s", "least s", "most s", "new layers", "size"], rows(Path(folder), state, runs))


@contextlib.contextmanager
def cloud(folder: Path) -> Iterator[Path]:
    """Run a cloud of its own, and yield its state directory."""
    state = folder / "state"
    command = ["cloud", "up", "--state", str(state), "--port", "0", "--no-broker", "--json"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "edgewright", *command], stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        yield state
    finally:
        process.terminate()
        process.wait(60)


def rows(folder: Path, state: Path, runs: int) -> Iterator[list[object]]:
    """Yield the row of a model without code, and that of builds with another line in the script."""
    model, script = folder / "squares.onnx", folder / "source" / "score.py"
    model.write_bytes(_squares())
    script.parent.mkdir()
    command("models", "register", "squares", str(model), "--framework", "onnx", state=state)
    first_s, image = timed("images", "build", "squares", state=state)
    yield row("onnx without code, first build", [first_s], image, [])
    script.write_text(SCRIPT)
    _, before = timed("images", "build", "--name", "sums", "--script", str(script), state=state)
    times_s, image = [], before
    for number in range(runs):
        script.write_text(f"{SCRIPT}# {number}\n")
        took_s, image = timed("images", "build", "--name", "sums", "--script", str(script), state=state)
        times_s.append(took_s)
    known = {layer["blob"]["digest"] for layer in before["layers"]}
    yield row("one line changed", times_s, image, [each for each in image["layers"] if each["blob"]["digest"] not in known])


def row(name: str, times_s: list[float], image: dict[str, Any], new: list[dict[str, Any]]) -> list[object]:
    """Return a row: times, the parts of new layers, and the size on disk."""
    parts = " ".join(LayerPart(layer["part"]) for layer in new) or "all" * (len(times_s) == 1)
    size = sum(layer["unpacked_bytes"] for layer in image["layers"])
    return [
        name,
        *(f"{each:.2f}" for each in (statistics.median(times_s), min(times_s), max(times_s))),
        parts,
        f"{size / 1e6:.1f} MB",
    ]


def timed(*words: str, state: Path) -> tuple[float, dict[str, Any]]:
    """Run a command and return its time in seconds and its JSON document."""
    started_s = time.perf_counter()
    document = command(*words, state=state)
    return time.perf_counter() - started_s, document


def command(*words: str, state: Path) -> dict[str, Any]:
    """Run a command of the product with a cloud, and return its JSON document."""
    finished = subprocess.run(
        [sys.executable, "-m", "edgewright", *words, "--json", "--cloud", str(state)], check=True, capture_output=True, text=True
    )
    document: dict[str, Any] = json.loads(finished.stdout)
    return document


def _squares() -> bytes:
    x, square = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "square"))
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["square"])], "squares", [x], [square])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    raw: bytes = model.SerializeToString()
    return raw


if __name__ == "__main__":
    main()
