"""Schemathesis, an independent client: requests that are derived from a served OpenAPI document, valid and invalid ones.

It checks that no answer is a server error, that every status, media type and body is declared, that an invalid request and a
request without a key are refused, and that another method is answered with 405. A failure prints a curl command.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_NOT_CHECKED = "positive_data_acceptance"
"""A schema cannot state every rule, such as the names of tensors or of models that exist."""
_CONFIGURATION = """
[[operations]]
include-name-regex = ".*"
parameters = {{ {parameters} }}
"""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Number of requests: those at the edges of each schema, and random ones per operation."""

    examples: int
    edges: bool = True

    @property
    def phases(self) -> str:
        return "coverage,fuzzing" if self.edges else "fuzzing"


LONG = Effort(examples=40)


def fuzz(python: Path, url: str, key: str, effort: Effort, folder: Path, **parameters: str) -> None:
    """Send requests to the service at `url`; `parameters` have the given value in every request, as `query_wait_s="0"`."""
    fixed = ", ".join(f'"{name.replace("_", ".", 1)}" = {value}' for name, value in parameters.items())
    (folder / "schemathesis.toml").write_text(_CONFIGURATION.format(parameters=fixed))
    program: list[str | Path] = [python.with_name("schemathesis"), "--config-file", folder / "schemathesis.toml"]
    chosen = ["--phases", effort.phases, "--max-examples", str(effort.examples), "--exclude-checks", _NOT_CHECKED]
    stable = ["--seed", "1", "--no-shrink", "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"]
    sent = ["run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--request-timeout", "60"]
    done = subprocess.run(
        [*program, *sent, *chosen, *stable], cwd=folder, capture_output=True, text=True, timeout=3000, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"schemathesis found:\n{done.stdout[-20_000:]}{done.stderr[-2000:]}")
    assert " passed" in done.stdout, done.stdout
