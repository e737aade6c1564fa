"""Convert with TensorFlow: `python -m convert.from_tensorflow.runner`, always in a process with limits (resource_limits.py).

The graph is written to a folder. An error is reported as one line on standard error and its exit code.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from convert.from_tensorflow.reader import convert_frozen, freeze
from convert.source.identify import SourceKind
from convert.source.options import SourceOptions, with_source_options
from edgewright.errors import EdgewrightError


@click.command()
@click.argument("kind", type=click.Choice([str(kind) for kind in SourceKind]))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@with_source_options
def main(kind: str, source: Path, folder: Path, options: SourceOptions) -> None:
    """Write the graph of SOURCE into FOLDER."""
    logging.disable(logging.CRITICAL)  # tf2onnx logs errors that are reported below in one line
    try:
        frozen = freeze(SourceKind(kind), source, options)
        convert_frozen(frozen, source, folder)
    except EdgewrightError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
