"""Compare the conversion of the networks with tf2onnx: time, memory, nodes, and the difference from Keras.

    .venv/bin/python benchmarks/convert.py [--network NAME]… [--all] [--quick] [--json]

Each conversion runs in a separate process. Time and peak memory are measured after the Keras model is loaded, which costs both
tools the same. The remark shows the time of the whole command `edgewright convert`, with the comparison in a second
process. tf2onnx runs under limits of time and memory, because it needs 60 to 75 times the model's size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring.fresh_process import WORKER_FLAG, Outcome, ask, machine_line, memory_mib, reset_peak, worker_main
from edgewright.command_line import print_table

NETWORKS = ("resnet50", "resnet152", "densenet121", "vgg16", "ssd-vgg", "mobilenet-v2", "resnet8")
DEFAULT = ("mobilenet-v2",)
PACKAGES = ("edgewright", "keras", "tensorflow-cpu", "tf2onnx", "onnx", "onnx-ir", "onnxruntime", "numpy")
COLUMNS = (
    *("network", "tool", "convert s", "spread s", "processor s", "loaded MiB", "extra MiB", "nodes", "transposes"),
    *("difference", "remark"),
)


def main() -> None:
    """Measure the networks and print the results."""
    options = _options()
    names = NETWORKS if options.all else tuple(options.network or DEFAULT)
    rounds = 1 if options.quick else options.rounds
    results = []
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        for name in names:
            results += _measure(name, Path(folder), rounds, options)
            print(f"measured {name}", file=sys.stderr)
    if options.json:
        print(json.dumps({"machine": machine_line(PACKAGES), "results": results}, indent=2))
        return
    print(machine_line(PACKAGES))
    print_table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in results])


def _measure(name: str, folder: Path, rounds: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    source = folder / f"{name}.keras"
    built = ask(__file__, {"task": "build", "name": name, "path": str(source)}, time_limit_s=600)
    if built.failure:
        return [{"network": name, "tool": "keras", "remark": built.failure}]
    ours = [_ask("edgewright", source, time_limit_s=600) for _ in range(rounds)]
    rows = [_row(name, "edgewright", ours)]
    if not options.quick:
        command = ask(__file__, {"task": "command", "path": str(source), "build": str(folder / name)}, time_limit_s=900)
        rows[0]["remark"] = command.failure or f"command {command.values['seconds']:.1f} s"
        peer = _ask("tf2onnx", source, time_limit_s=options.peer_time_s, memory_limit_mib=options.peer_memory_mib)
        rows.append(_row(name, "tf2onnx", [peer]))
    source.unlink()
    return rows


def _ask(tool: str, source: Path, **limits: Any) -> Outcome:
    return ask(__file__, {"task": tool, "path": str(source)}, **limits)


def _row(name: str, tool: str, outcomes: list[Outcome]) -> dict[str, Any]:
    good = [outcome.values for outcome in outcomes if outcome.failure is None]
    if not good:
        return {"network": name, "tool": tool, "remark": outcomes[0].failure}
    seconds = [values["seconds"] for values in good]
    return {
        "network": name,
        "tool": tool,
        "convert s": round(statistics.median(seconds), 2),
        "processor s": round(statistics.median(values["processor_s"] for values in good), 2),
        "spread s": round(max(seconds) - min(seconds), 2) if len(seconds) > 1 else None,
        "loaded MiB": round(statistics.median(values["loaded_mib"] for values in good)),
        "extra MiB": round(max(values["peak_mib"] - values["loaded_mib"] for values in good)),
        "nodes": good[0]["nodes"],
        "transposes": good[0]["transposes"],
        "difference": float(f"{max(values['difference'] for values in good):.1e}"),
        "remark": None,
    }


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Run one request in a worker process."""
    if request["task"] == "build":
        return _build(request["name"], Path(request["path"]))
    if request["task"] == "command":
        return _command(Path(request["path"]), Path(request["build"]))
    return _convert(request["task"], Path(request["path"]))


def _build(name: str, path: Path) -> dict[str, Any]:
    from convert.featurizers.networks import build_network
    from convert.featurizers.saving import save_network

    built = build_network(name)
    _randomize_batch_norm(built.model)
    _remove_softmax(built.model)
    save_network(built, path)
    return {}


def _randomize_batch_norm(model: Any) -> None:
    """Randomize batch normalization: initially it changes nothing, and signals of deep networks fade to zero."""
    import numpy as np

    random = np.random.default_rng(0)
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization":
            gamma, beta, mean, variance = layer.get_weights()
            fresh = (random.uniform(1, 2, gamma.shape), random.normal(0, 0.5, beta.shape), random.normal(0, 0.1, mean.shape))
            layer.set_weights([*fresh, random.uniform(0.5, 1.5, variance.shape)])


def _remove_softmax(model: Any) -> None:
    """Remove a final softmax: random logits of a deep network saturate it, which hides every difference."""
    import keras

    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        last.activation = keras.activations.linear


def _command(source: Path, build: Path) -> dict[str, Any]:
    from convert.conversion import ConvertOptions, convert_model

    started = time.perf_counter()
    convert_model(source, build, ConvertOptions())
    return {"seconds": time.perf_counter() - started}


def _convert(tool: str, source: Path) -> dict[str, Any]:
    from convert.from_keras.reader import load_keras

    model = load_keras(source)
    if tool == "tf2onnx":
        import tf2onnx  # noqa: F401  # import time is not part of the conversion
    else:
        import onnx_ir  # noqa: F401
    reset_peak()
    loaded_mib = memory_mib("VmRSS")
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        started, processor_started = time.perf_counter(), time.process_time()
        graph = _by_tf2onnx(model, Path(folder)) if tool == "tf2onnx" else _by_walking(model, Path(folder))
        seconds, processor_s = time.perf_counter() - started, time.process_time() - processor_started
        peak_mib = memory_mib("VmHWM")
        return {
            "seconds": seconds,
            "processor_s": processor_s,
            "loaded_mib": loaded_mib,
            "peak_mib": peak_mib,
            **_examined(graph, model),
        }


def _by_walking(model: Any, folder: Path) -> Path:
    from convert.from_keras.reader import graph_of
    from convert.passes.simplify import simplify
    from convert.split import AUTO, split
    from edgewright.graphs.files import write_graph

    graph = graph_of(model)
    simplify(graph)
    _, parts = split(graph, AUTO)
    write_graph(folder, graph, parts.is_head)
    return folder / "graph.onnx"


def _by_tf2onnx(model: Any, folder: Path) -> Path:
    import tensorflow as tf
    import tf2onnx

    signature = [tf.TensorSpec(tensor.shape, tensor.dtype, name=f"input_{place}") for place, tensor in enumerate(model.inputs)]
    path = folder / "graph.onnx"
    tf2onnx.convert.from_function(
        tf.function(lambda *images: model(*images)), input_signature=signature, opset=18, output_path=str(path)
    )
    return path


def _examined(path: Path, model: Any) -> dict[str, Any]:
    """Return node counts of a graph, and the largest difference from Keras relative to the largest value of an output."""
    import numpy as np
    import onnx
    import onnxruntime

    nodes = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    image = np.random.default_rng(0).uniform(0, 1, (2, *model.inputs[0].shape[1:])).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    actual = session.run(None, {session.get_inputs()[0].name: image})
    outputs = model(image)
    expected = [np.asarray(output) for output in (outputs if isinstance(outputs, list) else [outputs])]
    differences = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(actual, expected, strict=True)]
    return {"nodes": len(nodes), "transposes": nodes.count("Transpose"), "difference": float(max(differences))}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", action="append", choices=NETWORKS, help=f"a network to measure, repeatable (default: {DEFAULT[0]})"
    )
    parser.add_argument("--all", action="store_true", help="all networks, which takes half an hour")
    parser.add_argument("--quick", action="store_true", help="one round, without tf2onnx and the whole command")
    parser.add_argument("--rounds", type=int, default=3, help="conversions by edgewright per network")
    parser.add_argument("--peer-time-s", type=float, default=300, help="time limit of tf2onnx")
    parser.add_argument("--peer-memory-mib", type=int, default=8192, help="memory limit of tf2onnx")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    if WORKER_FLAG in sys.argv:
        worker_main(work)
    else:
        main()
