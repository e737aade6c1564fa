"""Sphinx extension: set the docstrings of this code base, and the command reference, as they are meant.

    indented blocks       code where they are Python, else a table in fixed width
    attribute docs        prose; napoleon would take `text: text` for a type and a description
    command headings      the full name, `edgewright npu compile`
    field lists           a dash between a name and its text, as two hyphens stay two hyphens (`smartquotes` in conf.py)

The docstrings are written for a reader in an editor, with the marks of Markdown. `default_role = "code"` in conf.py does the
rest: a name in single backticks is code.
"""

from __future__ import annotations

import ast
import textwrap
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_BEFORE_NAPOLEON, _AFTER_NAPOLEON = 400, 600
_BEFORE_TABLE_OF_CONTENTS = 400
_ATTRIBUTES = {"attribute", "data", "property"}
_SECTIONS = ("Args:", "Raises:", "Returns:")
_attribute_docs: dict[str, list[str]] = {}


def mark_examples(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Put a `code-block` directive above every indented block that follows an empty line."""
    marked: list[str] = []
    for start, line in enumerate(lines):
        if line.startswith("    ") and (start == 0 or not lines[start - 1]) and not _is_in_block(lines, start):
            language = "python" if _is_python(_block_at(lines, start)) else "text"
            marked += [f".. code-block:: {language}", ""]
        marked.append(line)
    lines[:] = marked


def _block_at(lines: list[str], start: int) -> str:
    end = next((row for row in range(start, len(lines)) if lines[row] and not lines[row].startswith(" ")), len(lines))
    return textwrap.dedent("\n".join(lines[start:end]))


def _is_in_block(lines: list[str], start: int) -> bool:
    """Tell whether the line continues an indented block, or belongs to a section that napoleon reads."""
    above = next((line for line in reversed(lines[:start]) if line), "")
    return above.startswith(" ") or above in _SECTIONS


def _is_python(text: str) -> bool:
    try:
        return bool(ast.parse(text).body)
    except SyntaxError:
        return False


def keep_attribute_docs(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Remember what is written on an attribute."""
    if what in _ATTRIBUTES:
        _attribute_docs[name] = list(lines)


def restore_attribute_docs(_app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Undo napoleon's reading of an attribute; its type is in the annotation."""
    if what in _ATTRIBUTES:
        lines[:] = _attribute_docs.pop(name)


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
    app.connect("doctree-read", name_commands_in_full, priority=_BEFORE_TABLE_OF_CONTENTS)
    app.connect("doctree-read", set_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
