"""`edgewright convert`."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from edgewright.command_line import ModelPath, common_options, print_json, print_table
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.variant import FLOAT_VARIANT
from edgewright.errors import BadInputError


@click.command()
@click.argument("source", type=ModelPath("source"))
@click.option("-o", "--output", "build", required=True, type=click.Path(path_type=Path), help="The build directory to write.")
@click.option("--head-from", default="auto", show_default=True, metavar="NODE|auto", help="First node or layer of the head.")
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    help="Real samples (.npz) for the comparison with the source (default: generated).",
)
@click.option("--labels", default="", metavar="FILE|a,b,c", help="Class names: a file with one name per line, or a list.")
@click.option("--inputs", default="", metavar="a,b", help="Inputs of a TensorFlow graph (default: those that it declares).")
@click.option("--outputs", default="", metavar="a,b", help="Outputs of a TensorFlow graph (default: those that it declares).")
@click.option("--shape", "shapes", multiple=True, metavar="INPUT=1x224x224x3", help="Shape of an input.")
@click.option("--set", "constants", multiple=True, metavar="INPUT=VALUE", help="Make an input a constant of the graph: sr=16000.")
@click.option(
    "--batch-axis",
    "batch_axes",
    multiple=True,
    metavar="INPUT=AXIS",
    help="Axis of an input (or output) that counts the samples, if it is not the first: state=1.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="P",
    help="Hardware profile that the graph must run on: a name or a TOML file.",
)
@click.option(
    "--max-memory",
    "max_memory_gb",
    type=click.FloatRange(min=0.1),
    metavar="GB",
    help="Memory limit of the model's own framework.",
)
@click.option(
    "--max-time",
    "max_time_s",
    type=click.FloatRange(min=0.1),
    metavar="S",
    help="Time limit of the framework, in seconds (default: one hour).",
)
@click.option("--preprocessing", metavar="MODE|FILE", help="Preprocessing of images: caffe, torch, tf, none, or a JSON file.")
@click.option("--converters", type=click.Path(path_type=Path), metavar="FILE.py", help="Converters for custom Keras layers.")
@click.option(
    "--trust",
    is_flag=True,
    help="Open files that can run code: pickles, Lambda and custom layers, PyTorch files, --converters.",
)
@click.option("--allow-mismatch", is_flag=True, help="Keep a graph that differs from its source.")
@common_options
def command(
    source: Path,
    build: Path,
    head_from: str,
    samples: Path | None,
    labels: str,
    inputs: str,
    outputs: str,
    shapes: tuple[str, ...],
    constants: tuple[str, ...],
    batch_axes: tuple[str, ...],
    profiles: tuple[str, ...],
    max_memory_gb: float | None,
    max_time_s: float | None,
    preprocessing: str | None,
    converters: Path | None,
    trust: bool,
    allow_mismatch: bool,
    as_json: bool,
) -> None:
    """Convert a trained model to verified ONNX in a build directory.

    SOURCE is a Keras model (.keras, .h5), a TensorFlow SavedModel or frozen graph, a PyTorch program or TorchScript
    archive (with --trust), a scikit-learn estimator (skops, or a pickle with --trust), a LightGBM or XGBoost model, an ONNX
    file, or a registered model (models:NAME[:VERSION|@ALIAS]). The format is detected from the content. The graph is
    compared with the source, run in its own framework, before it is kept.
    """
    from convert.conversion import ConvertOptions, convert_model  # onnx-ir takes a second to import, which --help does not need
    from convert.featurizers.preprocessing import read_preprocessing

    if not logging.getLogger().isEnabledFor(logging.DEBUG):
        logging.getLogger("onnx_ir").setLevel(logging.WARNING)  # -v shows our passes; -vv also those of onnx_ir
    options = ConvertOptions(
        head_from=head_from,
        samples=samples,
        labels=read_labels(labels),
        inputs=_names(inputs),
        outputs=_names(outputs),
        shapes=shapes,
        constants=dict(_pair("--set", text, "sr=16000") for text in constants),
        batch_axes=_axes(batch_axes),
        profiles=profiles,
        max_memory_gb=max_memory_gb,
        max_time_s=max_time_s,
        preprocessing=None if preprocessing is None else read_preprocessing(preprocessing),
        converters=converters,
        trust=trust,
        allow_mismatch=allow_mismatch,
    )
    converted = convert_model(source, build, options)
    if as_json:
        print_json({"build": str(converted.path), "record": converted.record, "variant": converted.variant(FLOAT_VARIANT).config})
    else:
        _print(converted)


def read_labels(text: str) -> tuple[str, ...]:
    """Return class names from a file with one per line, or from a comma-separated list."""
    if text and Path(text).is_file():
        return tuple(line.strip() for line in Path(text).read_text("utf-8").splitlines() if line.strip())
    return _names(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    """Return name and value of `name=value`; the name may hold `=`, as some frameworks' names do."""
    name, equals, value = text.rpartition("=")
    if not (name and equals and value):
        raise BadInputError(f"{option} must be a name and a value, as in {example}, not {text!r}")
    return name, value


def _axes(texts: tuple[str, ...]) -> dict[str, int]:
    pairs = [_pair("--batch-axis", text, "state=1") for text in texts]
    for name, value in pairs:
        if not value.lstrip("-").isdecimal():
            raise BadInputError(f"--batch-axis {name} must be the number of an axis, as in {name}=1, not {value!r}")
    return {name: int(value) for name, value in pairs}


def _print(build: BuildDirectory) -> None:
    measured = build.variant(FLOAT_VARIANT).config.measured
    if measured is not None:
        click.echo(
            f"{build.path}: matches the source on {measured.sample_count} samples "
            f"(largest relative difference {measured.max_relative_difference:.2g})"
        )
    if build.record.cut is not None:
        from convert.conversion import describe_cut

        print_table(("part", "nodes", "weights MB", "tensors"), describe_cut(build.record.cut, build.graph))
