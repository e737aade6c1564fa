"""The pages as they are written: commands and options that exist, and links that lead to a file."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from edgewright.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        *(ROOT / "news").glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
SHELL_BLOCK = re.compile(r"^```(?:sh|console|shell)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(edgewright [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
STOPS = {"|", "||", "&", "&&", ";", ")", ">", "<"}


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_on_a_page_exists(page: Path) -> None:
    errors = [error for line in command_lines(page.read_text("utf-8")) for error in errors_of(line)]
    assert errors == []


def command_lines(text: str) -> Iterator[str]:
    """Yield what follows each `edgewright` in the shell blocks of a page and in its prose, up to the end of that command."""
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.findall(r"(?:^|[\s(])edgewright (.*)", line)
    for inline in INLINE.findall(text):
        yield " ".join(inline.split()).removeprefix("edgewright ")


def errors_of(line: str) -> Iterator[str]:
    """Yield what is wrong with one command line: an unknown command, or an option that the command lacks."""
    words = words_of(line)
    if words[0].startswith("-"):
        return
    for name in words[0].split("|"):
        command = root_command(name)
        if command is None:
            yield f"edgewright {line}: no command {name!r}"
        else:
            yield from errors_below(command, words[1:], line)


def errors_below(command: click.Command, words: list[str], line: str) -> Iterator[str]:
    """Follow `words` down a group of commands, then check the options."""
    if isinstance(command, click.Group) and words and re.fullmatch(r"[a-z][a-z|-]*", words[0]):
        for name in words[0].split("|"):
            if name not in command.commands:
                yield f"edgewright {line}: no command {name!r}"
            else:
                yield from errors_below(command.commands[name], words[1:], line)
        return
    options = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {"--help"}
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in options:
            yield f"edgewright {line}: no option {word!r}"


def words_of(line: str) -> list[str]:
    """Split a command line as a shell does, up to its end."""
    lexer = shlex.shlex(line.rstrip(".,;:"), posix=True, punctuation_chars=";&()<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if word in STOPS:
            break
        words.append(word)
    return words


def root_command(name: str) -> click.Command | None:
    """Return the command `edgewright NAME`."""
    return main.get_command(click.Context(main), name) if name in COMMANDS else None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [link.partition("#")[0] for link in LINK.findall(page.read_text("utf-8")) if "://" not in link]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


FIELDS = re.compile(r"^Fields of `([\w.]+)\.(\w+)`:\n\n((?:\|.*\n)+)", re.MULTILINE)
REFERENCES = sorted((ROOT / "docs/reference").glob("*.md"))
DOCUMENTED = [
    pytest.param(module, name, table, id=f"{path.stem}: {name}")
    for path in REFERENCES
    for module, name, table in FIELDS.findall(path.read_text("utf-8"))
]


@pytest.mark.parametrize(("module", "name", "table"), DOCUMENTED)
def test_the_table_of_a_format_has_exactly_the_fields_that_the_code_has(module: str, name: str, table: str) -> None:
    rows = table.splitlines()[2:]
    documented = [field for row in rows for field in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(getattr(import_module(module), name)))


SOURCE_PATH = re.compile(
    r"\b(?:edgewright|convert|quantize|accel|edge_agent|cloud|hardware_profiles|tests|benchmarks|examples|docs|scripts)"
    r"/[\w./-]*(?:\.(?:py|md|toml|sh|lpf|svh?)\b|/(?=[`\s]))"
)
DRAWINGS = sorted((ROOT / "docs/images").glob("*.svg"))


@pytest.mark.parametrize("page", [*PAGES, *DRAWINGS], ids=page_id)
def test_every_source_file_that_a_page_or_drawing_names_exists(page: Path) -> None:
    paths = SOURCE_PATH.findall(page.read_text("utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = ("edgewright", "convert", "quantize", "accel", "edge_agent", "cloud", "hardware_profiles")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_name_that_an_example_imports_exists(page: Path) -> None:
    imports = [name for block in PYTHON_BLOCK.findall(page.read_text("utf-8")) for name in imported_names(block)]
    assert [f"{module}.{name}" for module, name in imports if not hasattr(import_module(module), name)] == []


def imported_names(code: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for every import of this project in `code`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            yield from ((str(node.module), alias.name) for alias in node.names)


def test_the_groups_of_the_glossary_are_in_alphabetical_order() -> None:
    groups = re.findall(r"```\{glossary\}\n(.*?)```", (ROOT / "docs/glossary.md").read_text("utf-8"), re.DOTALL)
    terms = [re.findall(r"^\S.*$", group, re.MULTILINE) for group in groups]
    assert terms == [sorted(group, key=str.casefold) for group in terms]
    assert len({term for group in terms for term in group}) == sum(map(len, terms))


MESSAGE_TABLE = re.compile(r"^\| message \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if MESSAGE_TABLE.search(page.read_text("utf-8"))], ids=page_id)
def test_every_message_that_a_page_explains_is_one_of_the_products(page: Path) -> None:
    rows = [row for table in MESSAGE_TABLE.findall(page.read_text("utf-8")) for row in table.splitlines()]
    parts = [part.strip(" ,") for row in rows for part in re.findall(r"`(.*?)`", row)[0].split("…")]
    texts = "\n".join(text for folder in OURS for path in (ROOT / folder).rglob("*.py") for text in string_constants(path))
    assert [part for part in parts if part not in texts] == []


def string_constants(path: Path) -> Iterator[str]:
    """Yield the text of every string in a module, those inside f-strings included."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_drawing_of_the_layers_names_every_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["name"] == "imports point down")
    drawing = (ROOT / "docs/images/layers.svg").read_text("utf-8")
    assert [name for layer in layers for name in layer.split(" | ") if f">{name}<" not in drawing] == []


def test_each_decision_has_a_number_of_its_own_and_states_it() -> None:
    paths = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    numbers = [int(path.name[:4]) for path in paths]
    assert numbers == list(range(1, len(paths) + 1))
    assert [path.read_text("utf-8").partition(".")[0] for path in paths] == [f"# {number}" for number in numbers]
