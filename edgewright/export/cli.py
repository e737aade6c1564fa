"""`edgewright export`: write a model as the files that another product reads."""

from __future__ import annotations

from pathlib import Path

import click

from edgewright.command_line import ModelPath, common_options, print_json
from edgewright.export.consumers import ExportOptions, export_model
from edgewright.export.model import read_model
from edgewright.export.runtimes import KUSTO_IMAGES, Consumer


@click.command()
@click.argument("consumer", type=click.Choice([each.value for each in Consumer]))
@click.argument("model", type=ModelPath("package"))
@click.option("-o", "--output-folder", type=click.Path(path_type=Path), help="The folder of the files (default: NAME-CONSUMER).")
@click.option("--name", help="The model's name in the files (default: that of the path).")
@click.option("--variant", help="The variant of a build or a package (default: fp32, or the only one).")
@click.option("--output", "output_name", help="The output that is returned (default: the first one).")
@click.option("--onnxruntime", "runtime", metavar="RELEASE", help="The onnxruntime that the consumer has, as in 1.17.3.")
@click.option("--image", type=click.Choice(list(KUSTO_IMAGES)), default="3.11.7", help="Data Explorer's Python image.")
@click.option("--artifact-url", help="Where Data Explorer finds model.onnx, if it is too large for a table.")
@click.option("--url", default=ExportOptions().url, show_default=True, help="Where Power BI finds the scoring server.")
@common_options
def command(
    consumer: str,
    model: Path,
    output_folder: Path | None,
    name: str | None,
    variant: str | None,
    output_name: str | None,
    runtime: str | None,
    image: str,
    artifact_url: str | None,
    url: str,
    as_json: bool,
) -> None:
    """Write a model as files for Power BI, Data Explorer, Spark, C#, Java or DuckDB.

    MODEL is an ONNX file, a build directory, a package, or models:NAME. The graph is written for the onnxruntime of the consumer:
    an operator set that it lacks is lowered where that changes no result, and refused otherwise.
    """
    opened = read_model(model, name=name, variant=variant, output=output_name)
    options = ExportOptions(runtime=runtime, image=image, url=url, artifact_url=artifact_url)
    folder = output_folder or Path(f"{opened.name}-{consumer}")
    exported = export_model(opened, Consumer(consumer), folder, options)
    if as_json:
        print_json(exported)
        return
    needs = f"operator set {exported.opset}, onnxruntime {exported.onnxruntime} or newer"
    click.echo(f"{exported.folder}: {', '.join(exported.files)}; {needs}")
