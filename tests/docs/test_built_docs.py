"""The documentation as a reader sees it: the pages are built once, and everything is checked in their HTML."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import click
import pytest

from edgewright.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
COMMAND_PAGE = "reference/command-line.html"
PYTHON_PAGE = "reference/python.html"


@dataclass
class Page(HTMLParser):
    """One built page: its anchors, links, headings, highlighted blocks and prose."""

    path: str
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    headings: dict[str, str] = field(default_factory=dict)
    """The text of a heading by the anchor of its section."""
    code: dict[str, list[str]] = field(default_factory=dict)
    """The highlighted blocks by language."""
    prose: list[str] = field(default_factory=list)
    inline: list[str] = field(default_factory=list)
    """The text of code in the prose."""
    quotations: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self._language: str | None = None
        self._block: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "section":
            self._section = values.get("id", "")
        if tag == "div" and (language := re.search(r"\bhighlight-(\S+)", values.get("class", ""))):
            self._language = language.group(1)
        self.quotations += tag == "blockquote"
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre" and self._language is not None:
            self.code.setdefault(self._language, []).append("".join(self._block).rstrip("\n"))
            self._language, self._block = None, []
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "pre" in self._open:
            self._block.append(data)
        elif "code" in self._open:
            self.inline.append(data)
        elif not {"script", "style"} & set(self._open):
            self.prose.append(data)
        if self._open and self._open[-1] in {"h1", "h2", "h3", "h4", "h5"}:
            self.headings.setdefault(self._section, data)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Build the documentation as `make docs` does, with warnings as errors; the pages by their path."""
    built = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "-d", str(built / "doctrees")]
    finished = subprocess.run([*command, str(ROOT / "docs"), str(built / "html")], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    return {page.path: page for page in read_pages(built / "html")}


def read_pages(folder: Path) -> Iterator[Page]:
    """Parse every page below `folder`."""
    for path in sorted(folder.rglob("*.html")):
        page = Page(path.relative_to(folder).as_posix())
        page.feed(path.read_text("utf-8"))
        yield page


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the full name of `command` and of every command below it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{path} {name}")


def all_commands() -> dict[str, click.Command]:
    """Return every command of the command line by its full name."""
    found = ((name, main.get_command(click.Context(main), name)) for name in COMMANDS)
    return {path: one for name, command in found if command for path, one in commands(command, f"edgewright {name}")}


def test_every_command_has_a_heading_with_its_full_name_and_an_anchor(pages: dict[str, Page]) -> None:
    headings = pages[COMMAND_PAGE].headings
    assert {path: headings.get(path.replace(" ", "-")) for path in all_commands()} == {path: path for path in all_commands()}


def test_every_usage_line_is_the_commands_own(pages: dict[str, Page]) -> None:
    usages = {line for block in pages[COMMAND_PAGE].code["shell"] for line in block.splitlines()}
    missing = [path for path in all_commands() if not any(usage.startswith(f"{path} ") for usage in usages)]
    assert missing == []


def test_every_python_example_of_a_documented_module_is_highlighted_as_python(pages: dict[str, Page]) -> None:
    modules = re.findall(r"automodule:: (\S+)", (ROOT / "docs/reference/python.md").read_text("utf-8"))
    examples = [example for name in modules for example in python_examples(import_module(name).__doc__ or "")]
    assert examples
    assert [example for example in examples if example not in pages[PYTHON_PAGE].code["python"]] == []


def python_examples(docstring: str) -> list[str]:
    """Return the indented blocks of a docstring that are Python."""
    blocks = [textwrap.dedent(block).rstrip("\n") for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", docstring, re.MULTILINE)]
    return [block.strip("\n") for block in blocks if is_python(block)]


def is_python(text: str) -> bool:
    """Tell whether `text` is a Python program of at least one statement."""
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False


def test_no_docstring_is_set_as_a_quotation(pages: dict[str, Page]) -> None:
    assert pages[PYTHON_PAGE].quotations == 0


def test_no_description_of_an_attribute_is_split_into_a_type(pages: dict[str, Page]) -> None:
    assert [text for text in pages[PYTHON_PAGE].prose if text.strip() in {"Type", "Type:"}] == []


def test_no_table_of_a_docstring_is_set_as_prose(pages: dict[str, Page]) -> None:
    gap = re.compile(r"\S {2,}\S")
    assert [text for path in (PYTHON_PAGE, COMMAND_PAGE) for text in pages[path].prose if gap.search(text)] == []


@pytest.mark.parametrize("text", ["PosixPath(", "<factory>", "<function"])
def test_no_default_is_shown_as_a_python_object(pages: dict[str, Page], text: str) -> None:
    blocks = [block for page in pages.values() for block in [*page.prose, *page.inline]]
    assert [block for block in blocks if text in block] == []


def test_quotes_and_hyphens_stay_as_they_are_typed(pages: dict[str, Page]) -> None:
    changed = re.compile(r"[“”‘’]|(?<!\w)[–—]\w")
    assert [(page.path, text) for page in pages.values() for text in page.prose if changed.search(text)] == []


def test_every_internal_link_and_anchor_resolves(pages: dict[str, Page]) -> None:
    broken = [(page.path, link) for page in pages.values() for link in page.links if not resolves(page, link, pages)]
    assert broken == []


def resolves(page: Page, link: str, pages: dict[str, Page]) -> bool:
    """Tell whether an internal link leads to a page, and its fragment to an anchor there; links elsewhere do."""
    target, fragment = urldefrag(link)
    if urlsplit(link).scheme or not target.endswith((".html", "")):
        return True
    folder = Path("/", page.path).parent
    path = (folder / unquote(target)).resolve().relative_to("/").as_posix() if target else page.path
    if not path.endswith(".html"):
        return True  # a source or an image, which Sphinx itself checks
    return path in pages and (not fragment or unquote(fragment) in pages[path].anchors)
