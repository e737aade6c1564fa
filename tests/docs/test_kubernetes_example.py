"""The Kubernetes manifest of the examples is what `edgewright endpoints render` writes."""

from __future__ import annotations

import os
from pathlib import Path

from click.testing import CliRunner

from edgewright.cli import main

MANIFEST = Path(__file__).parents[2] / "examples" / "kubernetes" / "churn.yaml"
COMMAND = "endpoints render churn --image registry.example/team/churn:1 --replicas 2 --cpu 0.5 --memory-gb 1"


def test_the_manifest_of_the_examples_is_a_rendered_one() -> None:
    result = CliRunner().invoke(main, COMMAND.split())
    assert result.exit_code == 0, result.output
    rendered = (
        f"# edgewright {COMMAND}\n# The keys: kubectl create secret generic churn-keys --from-file=keys.json\n{result.stdout}"
    )
    if os.environ.get("EDGEWRIGHT_GOLDEN") == "write":
        MANIFEST.write_text(rendered, "utf-8")
    assert MANIFEST.read_text("utf-8") == rendered
