"""The files of each consumer. Begin with `export_model`.

    duckdb    scoring.py, predict_duckdb.py: a vectorized SQL function
    spark     scoring.py, score_spark.py: mapInArrow, and a pandas UDF
    kusto     NAME.kql: the model as text in a table, or as an external artifact, and a stored function
    powerbi   score.py with Inputs and GlobalParameters, scoring.py, score.m for Power Query
    java      ScoreOnnx.java, pom.xml, and ScoreRest.java, which needs the JDK only
    csharp    Score.cs and Score.csproj: onnxruntime, and REST

All but kusto's with a model in the table also contain model.onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from edgewright.contracts.files import write_atomically
from edgewright.errors import BadInputError, ConflictError
from edgewright.export import compiled, tables
from edgewright.export.lowering import check_runs_here, fitted
from edgewright.export.model import ExportedModel
from edgewright.export.runtimes import KUSTO_IMAGES, RELEASES, Consumer, Release, oldest_for, release


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The settings of an export."""

    runtime: str | None = None
    """The release of onnxruntime that the consumer has; None: that of Data Explorer's image, else any new enough one."""
    image: str = "3.11.7"
    """The Python image of Data Explorer."""
    url: str = "http://127.0.0.1:8000/score"
    """Where Power BI finds the scoring server."""
    artifact_url: str | None = None
    """Where Data Explorer finds model.onnx, if it is too large for a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The written files, and the oldest onnxruntime that runs the graph."""

    consumer: Consumer
    folder: str
    files: tuple[str, ...]
    onnxruntime: str
    opset: int


def export_model(model: ExportedModel, consumer: Consumer, folder: Path, options: ExportOptions = ExportOptions()) -> Exported:
    """Write the files of one consumer into `folder`, which is created; files of other names there stay.

    Raises:
        BadInputError: the consumer cannot pass what the model takes, or an option is wrong.
        ConflictError: `folder` is a file.
        ModelError: the consumer's onnxruntime cannot run the graph.
    """
    if folder.exists() and not folder.is_dir():
        raise ConflictError(f"{folder} must be a folder, but is a file: choose another output")
    model = _for_runtime(model, consumer, options)
    oldest = oldest_for(model.opset, model.ml_opset, model.proto.ir_version)
    oldest = oldest or replace(RELEASES[-1], name=check_runs_here(model))
    files = _WRITERS[consumer](model, oldest, options)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return Exported(consumer=consumer, folder=str(folder), files=tuple(sorted(files)), onnxruntime=oldest.name, opset=model.opset)


def filled(template: str, **values: Any) -> bytes:
    """Return a template with its values."""
    text = resources.files("edgewright.export").joinpath("templates", f"{template}.tmpl").read_text("utf-8")
    return Template(text).substitute(values).encode()


def _for_runtime(model: ExportedModel, consumer: Consumer, options: ExportOptions) -> ExportedModel:
    if options.image not in KUSTO_IMAGES:
        raise BadInputError(f"the image of Data Explorer must be one of {', '.join(KUSTO_IMAGES)}, not {options.image!r}")
    if options.runtime is not None:
        return fitted(model, release(options.runtime), consumer.value)
    if consumer is Consumer.KUSTO:
        return fitted(model, release(KUSTO_IMAGES[options.image]), f"image {options.image} of Data Explorer")
    return model


def _scoring(model: ExportedModel, oldest: Release) -> dict[str, bytes]:
    inputs = tuple((column.name, column.dtype, column.shape) for column in model.inputs)
    scoring = filled(
        "scoring.py",
        name=model.name,
        release=oldest.name,
        inputs=tables.literal(inputs),
        output=tables.literal(model.output.name),
        batch=model.batch,
        size=model.output.size,
        dtype=model.output.dtype,
    )
    return {"model.onnx": model.to_bytes(), "scoring.py": scoring}


def _duckdb(model: ExportedModel, oldest: Release, _options: ExportOptions) -> dict[str, bytes]:
    script = filled(
        "duckdb.py",
        name=model.name,
        release=oldest.name,
        arguments=", ".join(tables.columns_of(model)),
        names=", ".join(f"column_{number}" for number in range(len(model.inputs))),
        parameters=tables.literal([tables.sql_type(column, single=column.size == 1) for column in model.inputs]),
        result=tables.sql_type(model.output, single=False),
    )
    return {**_scoring(model, oldest), "predict_duckdb.py": script}


def _spark(model: ExportedModel, oldest: Release, _options: ExportOptions) -> dict[str, bytes]:
    columns = tables.columns_of(model)
    script = filled(
        "spark.py",
        name=model.name,
        release=oldest.name,
        arguments=" ".join(columns),
        quoted=", ".join(f'"{name}"' for name in columns),
        columns=tables.literal(columns),
        result=tables.spark_type(model.output),
    )
    return {**_scoring(model, oldest), "score_spark.py": script}


def _kusto(model: ExportedModel, oldest: Release, options: ExportOptions) -> dict[str, bytes]:
    if len(model.inputs) != 1 or model.inputs[0].size > tables.MOST_COLUMNS or model.output.size > tables.MOST_COLUMNS:
        raise BadInputError(
            f"Data Explorer scores models with one input and one output of up to {tables.MOST_COLUMNS} numbers per row, but "
            f"{model.name} takes {' and '.join(str(column.size) for column in model.inputs)} and returns {model.output.size}"
        )
    raw, source = model.to_bytes(), model.inputs[0]
    stored = tables.kusto_stored(model.name, raw, options.artifact_url)
    results = tables.result_names(model)
    script = filled(
        "kusto.kql",
        name=model.name,
        function=f"predict_{tables.identifier(model.name)}",
        image=min((image for image, name in KUSTO_IMAGES.items() if release(name).opset >= model.opset), default=options.image),
        release_title=f"onnxruntime {oldest.name}",
        storing=stored.commands,
        model_line=stored.model_line,
        arguments=stored.arguments,
        dtype=source.dtype,
        shape=", ".join(map(str, source.shape)) or "1",
        step=model.batch,
        input=source.name,
        output=model.output.name,
        size=model.output.size,
        results=tables.literal(list(results)),
        schema=", ".join(f"['{name}']:{tables.kusto_type(model.output)}" for name in results),
        features=source.size,
        example=", ".join(f'"x{number}"' for number in range(min(source.size, 3))) + (", ..." if source.size > 3 else ""),
    )
    files = {f"{tables.identifier(model.name)}.kql": script}
    return files if stored.is_in_table else {**files, "model.onnx": raw}


def _powerbi(model: ExportedModel, oldest: Release, options: ExportOptions) -> dict[str, bytes]:
    columns = tables.flat_columns(model)
    names = [name for group in columns for name in group]
    script = filled(
        "powerbi_score.py",
        name=model.name,
        columns=tables.literal([list(group) for group in columns]),
        sample=tables.literal(dict.fromkeys(names, 0.0)),
    )
    function = filled(
        "powerbi.m",
        name=model.name,
        columns=", ".join(f'"{name}"' for name in names),
        results=", ".join(f'"{name}"' for name in tables.result_names(model)),
        url=options.url,
    )
    return {**_scoring(model, oldest), "score.py": script, "score.m": function}


def _java(model: ExportedModel, oldest: Release, _options: ExportOptions) -> dict[str, bytes]:
    return {
        "model.onnx": model.to_bytes(),
        "ScoreOnnx.java": filled("ScoreOnnx.java", **compiled.java_onnx(model)),
        "ScoreRest.java": filled("ScoreRest.java", **compiled.java_rest(model)),
        "pom.xml": filled("pom.xml", name=tables.identifier(model.name), release=oldest.name),
    }


def _csharp(model: ExportedModel, oldest: Release, _options: ExportOptions) -> dict[str, bytes]:
    return {
        "model.onnx": model.to_bytes(),
        "Score.cs": filled("Score.cs", **compiled.csharp(model)),
        "Score.csproj": filled("Score.csproj", release=oldest.name),
    }


_WRITERS: Mapping[Consumer, Callable[[ExportedModel, Release, ExportOptions], dict[str, bytes]]] = {
    Consumer.POWERBI: _powerbi,
    Consumer.KUSTO: _kusto,
    Consumer.SPARK: _spark,
    Consumer.CSHARP: _csharp,
    Consumer.JAVA: _java,
    Consumer.DUCKDB: _duckdb,
}
