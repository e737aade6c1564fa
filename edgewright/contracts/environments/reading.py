"""Read environments from the files that other tools use: a conda environment, pip requirements, a Dockerfile.

    from_conda         YAML of `conda env export`: channels, dependencies, and pip's requirements below them
    from_requirements  lines of pip's requirements file; of its options, --index-url alone is kept
    from_dockerfile    the text as it is; a docker engine builds it

Sources: https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html,
https://pip.pypa.io/en/stable/reference/requirements-file-format/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from edgewright.contracts.environments.definition import Environment
from edgewright.errors import BadInputError, NotFoundError, first_line

_MAX_BYTES = 1 << 20
_PYTHON = re.compile(r"python\s*(?:=|==|>=|~=)?\s*([0-9.]*)\*?")
_COMMENT = re.compile(r"(?:^|\s+)#.*$")


def from_conda(path: Path, *, name: str = "") -> Environment:
    """Read a conda environment file; `name` replaces the file's own.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: it is not a conda environment, or has neither a name of its own nor `name`.
    """
    document = _yaml(path)
    dependencies = document.get("dependencies") or []
    if not isinstance(dependencies, list):
        raise BadInputError(f"{path}: dependencies must be a list, not {type(dependencies).__name__}")
    python, conda, pip = "", [], []
    for entry in dependencies:
        if isinstance(entry, dict) and set(entry) == {"pip"} and isinstance(entry["pip"], list):
            pip += [str(each) for each in entry["pip"]]
        elif not isinstance(entry, str):
            raise BadInputError(f"{path}: a dependency must be a text or a list below pip, not {str(entry)[:100]!r}")
        elif match := _PYTHON.fullmatch(entry.strip()):
            python = match[1].strip(".")
        elif entry.strip() != "pip":
            conda.append(entry.strip())
    requirements, index_url = _requirements(iter(pip), path)
    return Environment(
        name=name or str(document.get("name") or path.stem),
        python_version=python,
        pip_packages=requirements,
        pip_index_url=index_url,
        conda_packages=tuple(conda),
        conda_channels=tuple(str(each) for each in document.get("channels") or ()),
        variables={str(key): str(value) for key, value in (document.get("variables") or {}).items()},
    )


def from_requirements(path: Path, *, name: str) -> Environment:
    """Read a requirements file of pip.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: a line is neither a requirement nor --index-url.
    """
    requirements, index_url = _requirements(iter(_text(path).splitlines()), path)
    return Environment(name=name, pip_packages=requirements, pip_index_url=index_url)


def from_dockerfile(path: Path, *, name: str) -> Environment:
    """Read a Dockerfile; it must begin with FROM or ARG."""
    text = _text(path)
    words = [line.split()[0].upper() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not words or words[0] not in ("FROM", "ARG"):
        raise BadInputError(
            f"{path} must be a Dockerfile, which begins with FROM, but it begins with {(words or ['nothing'])[0][:40]!r}"
        )
    return Environment(name=name, dockerfile=text)


def _requirements(lines: Iterator[str], path: Path) -> tuple[tuple[str, ...], str]:
    """Return the requirements in lines of a requirements file, and the package index that they name."""
    packages, index_url = [], ""
    for line in _joined(lines):
        option, _, value = line.replace("=", " ", 1).partition(" ") if line.startswith("-") else ("", "", "")
        if option in ("-i", "--index-url") and value.strip():
            index_url = value.strip()
        elif option in ("--hash", "--pre", "--prefer-binary", "--only-binary", "--no-binary"):
            continue
        elif option:
            raise BadInputError(
                f"{path}: a line must be a requirement or --index-url, not {line[:100]!r}: write the packages into this file"
            )
        else:
            packages.append(re.sub(r"\s+--hash=\S+", "", line))
    return tuple(packages), index_url


def _joined(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines without comments and blank lines; a line that ends with a backslash continues in the next."""
    begun = ""
    for raw in lines:
        line = begun + _COMMENT.sub("", raw).strip()
        begun = line.removesuffix("\\") if line.endswith("\\") else ""
        if line and not begun:
            yield line
    if begun.strip():
        yield begun.strip()


def _yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInputError(f"{path} must be a conda environment in YAML: {_problem_of(error)}") from error
    if not isinstance(document, dict) or "dependencies" not in document:
        raise BadInputError(f"{path} must be a conda environment with a list of dependencies, as 'conda env export' writes it")
    return document


def _problem_of(error: Exception) -> str:
    """Return the problem and its line; the first line of PyYAML's text has neither."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or first_line(error)
    return problem if mark is None else f"line {mark.line + 1}: {problem}"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise BadInputError(f"{path} must be a file, but it is a folder") from error
    if len(raw) > _MAX_BYTES:
        raise BadInputError(f"{path} must have at most {_MAX_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} must be text in UTF-8: {error.reason}") from error
