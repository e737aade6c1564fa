"""Sphinx extension: set docstrings, signatures and the command reference as a reader expects them.

    indented blocks       code if they are Python, otherwise a table in fixed width
    lists of steps        lines with a gap of two blanks or more: a table in fixed width
    attribute docs        prose; napoleon would read `text: text` as a type and a description
    defaults              `...` for a default that has no source text, a plain path for a path
    command headings      the full name, `edgewright npu compile`
    field lists           a dash between a name and its text, which is two hyphens without smartquotes (conf.py)

The docstrings are written for a reader in an editor, with the marks of Markdown. `default_role = "code"` in conf.py sets a name
in single backticks as code.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_BEFORE_NAPOLEON, _AFTER_NAPOLEON = 400, 600
_BEFORE_TABLE_OF_CONTENTS = 400
_ATTRIBUTES = {"attribute", "data", "property"}
_SECTIONS = ("Args:", "Raises:", "Returns:")
_STEP = re.compile(r"\S.*\S {2,}\S|\S {2,}\S")
_PATH = re.compile(r"(?:Posix|Windows)Path\('(.*?)'\)")
_attribute_docs: dict[str, list[str]] = {}


def mark_examples(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Put a `code-block` directive above every indented block and every list of steps."""
    marked: list[str] = []
    previous = ""
    for block in _blocks(lines):
        if _is_indented(block) and previous not in _SECTIONS:
            marked += _code_block(textwrap.dedent("\n".join(block)).splitlines())
        elif len(block) > 1 and sum(bool(_STEP.match(line)) for line in block) > len(block) / 2:
            marked += _code_block(block)
        else:
            marked += [*block, ""]
        previous = block[0] if block[0] in _SECTIONS else ""
    lines[:] = marked


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Split at empty lines; neighbouring indented paragraphs are one block, a section and its entries as well."""
    paragraphs = [list(group) for filled, group in groupby(lines, key=bool) if filled]
    block: list[str] = []
    for paragraph in paragraphs:
        if block and _is_indented(block) and _is_indented(paragraph):
            block += ["", *paragraph]
            continue
        if block:
            yield block
        block = paragraph
    if block:
        yield block


def _is_indented(block: list[str]) -> bool:
    return all(line.startswith("    ") for line in block if line)


def _code_block(lines: list[str]) -> list[str]:
    language = "python" if _is_python("\n".join(lines)) else "text"
    return [f".. code-block:: {language}", "", *(f"    {line}" if line else "" for line in lines), ""]


def _is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False


def keep_attribute_docs(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Remember the text of an attribute."""
    if what in _ATTRIBUTES:
        _attribute_docs[name] = list(lines)


def restore_attribute_docs(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Undo napoleon's reading of an attribute; its type is in the annotation."""
    if what in _ATTRIBUTES:
        lines[:] = _attribute_docs.pop(name)


def name_defaults(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, signature: str | None, returns: str) -> Any:
    """Write `...` for the default factory of a field, so that Sphinx can parse the signature."""
    return (signature and signature.replace("<factory>", "..."), returns)


def set_paths(_app: Sphinx, _context: Any, lines: list[str]) -> None:
    """Show the default of a path option as the user would type it."""
    lines[:] = [_PATH.sub(r"\1", line) for line in lines]


def name_commands_in_full(_app: Sphinx, document: nodes.document) -> None:
    """Head the section of each command with its full name, which sphinx-click keeps as the name of the section."""
    for section in document.findall(nodes.section):
        path = section["names"][0] if section["names"] else ""
        if path.startswith("edgewright ") and section["ids"][0] == nodes.make_id(path):
            section.replace(section[0], nodes.title("", path))


def set_dashes(_app: Sphinx, document: nodes.document) -> None:
    """Set the separator of field lists, which Sphinx writes as two hyphens for smartquotes to replace."""
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the handlers; the priorities place them before and after those of Sphinx."""
    app.connect("autodoc-process-docstring", mark_examples, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", keep_attribute_docs, priority=_BEFORE_NAPOLEON + 1)
    app.connect("autodoc-process-docstring", restore_attribute_docs, priority=_AFTER_NAPOLEON)
    app.connect("autodoc-process-signature", name_defaults)
    app.connect("sphinx-click-process-options", set_paths)
    app.connect("doctree-read", name_commands_in_full, priority=_BEFORE_TABLE_OF_CONTENTS)
    app.connect("doctree-read", set_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
