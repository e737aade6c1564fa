"""The project's English: words and openings that a reader of the field would stumble over, in code, texts and help."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgewright.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {".md", ".toml", ".js", ".html", ".sh"}
INSTEAD = {
    r"wish(?:es|ed)?": "request, desired state",
    r"weigh(?:s|ed|ing)?": "verify, compare",
    r"believ(?:e|es|ed|ing)": "trust, accept",
    r"hindrances?": "blocked reason",
    r"anew": "again",
    r"shall": "must, will",
    r"behold": "see",
    r"for ever": "forever, without end",
    r"is none": "there is no ..., it is not a ...",
    r"so many": "that many",
    r"by itself": "automatically, alone",
    r"goes? on|went on": "continue",
    r"tells? of|told of": "describe, report",
    r"nobody|somebody": "no caller, a client, nothing",
    r"lies? (?:in|on|at|under|beside|between|with|there)": "is stored, is located",
    r"behind": "after, downstream",
}
"""Each word, as a regular expression, with what to write instead."""
OPENERS = re.compile(r"\s*(?:What|Which|Whether|Who|Whom|How|That)\b")
BANNED = {re.compile(rf"\b(?:{word})\b", re.IGNORECASE): instead for word, instead in INSTEAD.items()}


def tracked_files() -> list[Path]:
    """Return every file of the repository that holds prose, without this one, which must name the words."""
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    files = [ROOT / name for name in listed.splitlines() if not name.startswith("requirements/")]
    return [path for path in files if path.suffix in {".py", *TEXTS} and path != Path(__file__) and path.is_file()]


def test_no_file_uses_a_banned_word() -> None:
    hits = [hit for path in tracked_files() for line, text in prose_of(path) for hit in hits_in(path, line, text)]
    assert hits == []


def test_no_docstring_opens_with_a_question_word() -> None:
    python = [path for path in tracked_files() if path.suffix == ".py"]
    assert [
        f"{path.relative_to(ROOT)}:{line}: {text.strip()[:60]}"
        for path in python
        for line, text in docstrings(ast.parse(path.read_text("utf-8")))
        if OPENERS.match(text)
    ] == []


def test_no_help_text_uses_a_banned_word() -> None:
    assert [hit for name, text in help_texts(main, "edgewright") for hit in hits_in(Path(name), 0, text)] == []


@pytest.mark.parametrize("text", ["Weigh it.", "what lies there", "it goes on", "for ever", "it is behind"])
def test_a_banned_word_is_found(text: str) -> None:
    assert hits_in(Path("page.md"), 1, text) != []


def hits_in(path: Path, line: int, text: str) -> list[str]:
    """Return one line for each banned word in `text`."""
    name = path.relative_to(ROOT) if path.is_absolute() else path
    return [
        f"{name}:{line}: {match.group(0)!r}: write {instead}" for word, instead in BANNED.items() for match in word.finditer(text)
    ]


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of what people read: whole lines of a page; strings, comments and names of a module."""
    source = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name.replace("_", " ")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of every docstring, those of attributes included."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            constant = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield statement.lineno, constant.value


def help_texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the help text of a command and of all commands below it."""
    context = click.Context(command, info_name=name)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            subcommand = command.get_command(context, child)
            if subcommand is not None:
                yield from help_texts(subcommand, f"{name} {child}")
