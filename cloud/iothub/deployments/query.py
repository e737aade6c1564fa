"""IoT Hub's query language: `SELECT … FROM devices | devices.modules [WHERE condition]`, and conditions alone.

    condition   comparisons with = != <> < <= > >=, IN [a, b], AND, OR, NOT, parentheses
    functions   IS_DEFINED, IS_NULL, STARTSWITH, ENDSWITH, CONTAINS
    paths       deviceId, tags.site, properties.reported.a.b, configurations.[[name]].status
    selection   *, paths with AS, COUNT() AS name

A comparison with a missing property is neither true nor false, and NOT keeps it so: such a device is not selected. Joins,
GROUP BY and other functions are missing.

Source: "IoT Hub query language" (learn.microsoft.com/azure/iot-hub/iot-hub-devguide-query-language).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.iothub.refusal import RefusalError

Condition = Callable[[Mapping[str, Any]], bool | None]
"""A predicate of a twin; None: not known."""
Value = Callable[[Mapping[str, Any]], Any]

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>-?\d+(?:\.\d+)?)"
    r"|(?P<name>[$A-Za-z_][\w$\-]*(?:\.(?:\[\[[^\]]+\]\]|[$A-Za-z_][\w$\-]*))*)|(?P<mark><=|>=|!=|<>|[=<>()\[\],*]))"
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TEXT_FUNCTIONS: dict[str, Callable[[str, str], bool]] = {
    "STARTSWITH": str.startswith,
    "ENDSWITH": str.endswith,
    "CONTAINS": lambda text, part: part in text,
}
_CONSTANTS = {"TRUE": True, "FALSE": False, "NULL": None}
_MISSING = object()
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query; an empty selection is `*`."""

    collection: str
    condition: Condition
    selection: tuple[tuple[str, Value], ...] = ()
    count_name: str = ""

    def run(self, twins: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Return the result over the twins of the collection."""
        selected = [twin for twin in twins if self.condition(twin) is True]
        if self.count_name:
            return [{self.count_name: len(selected)}]
        if not self.selection:
            return selected
        rows = [{name: value(twin) for name, value in self.selection} for twin in selected]
        return [{name: value for name, value in row.items() if value is not _MISSING} for row in rows]


def parse_query(text: str) -> Query:
    """Return a query; raise `RefusalError` with the code `InvalidQuery` if it cannot be parsed."""
    parser = _Parser(text)
    parser.expect("SELECT")
    selection, count_name = parser.selection()
    parser.expect("FROM")
    collection = parser.name().lower()
    if collection not in ("devices", "devices.modules"):
        raise _invalid(f"FROM must be devices or devices.modules, not {collection!r}")
    condition = parser.condition() if parser.accept("WHERE") else _always
    parser.end()
    return Query(collection, condition, selection, count_name)


def parse_condition(text: str) -> Condition:
    """Return the condition of a configuration, `*` for all; raise `RefusalError` if it cannot be parsed."""
    if text.strip() == "*":
        return _always
    parser = _Parser(text)
    condition = parser.condition()
    parser.end()
    return condition


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._index = 0
        self._depth = 0
        position, text = 0, text.rstrip().rstrip(";")
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _invalid(f"unexpected text at character {position + 1}: {text[position : position + 20]!r}")
            self._tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            position = match.end()

    def selection(self) -> tuple[tuple[tuple[str, Value], ...], str]:
        if self.accept("*"):
            return (), ""
        if self.accept("COUNT"):
            self.expect("(")
            self.expect(")")
            return (), self.name() if self.accept("AS") else "$1"
        found = []
        while True:
            path = self.name()
            found.append((self.name() if self.accept("AS") else path.rpartition(".")[2], _value_of(path)))
            if not self.accept(","):
                return tuple(found), ""

    def condition(self) -> Condition:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _invalid(f"a condition must be at most {_MAX_DEPTH} levels deep")
        left = self._all_of()
        while self.accept("OR"):
            left = _either(left, self._all_of())
        self._depth -= 1
        return left

    def _all_of(self) -> Condition:
        left = self._one()
        while self.accept("AND"):
            left = _both(left, self._one())
        return left

    def _one(self) -> Condition:
        if self.accept("NOT"):
            return _negated(self._one())
        if self.accept("("):
            inside = self.condition()
            self.expect(")")
            return inside
        function = self._peek().upper()
        if function in ("IS_DEFINED", "IS_NULL", *_TEXT_FUNCTIONS):
            return self._function(function)
        return self._comparison()

    def _function(self, function: str) -> Condition:
        self._index += 1
        self.expect("(")
        first = self._operand()
        if function == "IS_DEFINED":
            condition: Condition = lambda twin: first(twin) is not _MISSING  # noqa: E731
        elif function == "IS_NULL":
            condition = lambda twin: first(twin) is None  # noqa: E731
        else:
            self.expect(",")
            condition = _text_condition(_TEXT_FUNCTIONS[function], first, self._operand())
        self.expect(")")
        return condition

    def _comparison(self) -> Condition:
        left = self._operand()
        if self.accept("IN"):
            self.expect("[")
            values = [self._operand()]
            while self.accept(","):
                values.append(self._operand())
            self.expect("]")
            return _any_of([_compared(operator.eq, left, each) for each in values])
        mark = self._next()
        if mark not in _COMPARISONS:
            raise _invalid(f"a comparison must follow, not {mark!r}")
        return _compared(_COMPARISONS[mark], left, self._operand())

    def _operand(self) -> Value:
        kind, text = self._tokens[self._index] if self._index < len(self._tokens) else ("end", "the end")
        self._index += 1
        if kind == "text":
            constant: Any = re.sub(r"\\(.)", r"\1", text[1:-1])
        elif kind == "number":
            constant = float(text) if "." in text else int(text)
        elif kind == "name" and text.upper() in _CONSTANTS:
            constant = _CONSTANTS[text.upper()]
        elif kind == "name":
            return _value_of(text)
        else:
            raise _invalid(f"a property or a constant must follow, not {text!r}")
        return lambda _twin: constant

    def name(self) -> str:
        kind, text = self._tokens[self._index] if self._index < len(self._tokens) else ("end", "the end")
        if kind != "name":
            raise _invalid(f"a name must follow, not {text!r}")
        self._index += 1
        return text

    def accept(self, word: str) -> bool:
        if self._peek().upper() != word:
            return False
        self._index += 1
        return True

    def expect(self, word: str) -> None:
        if not self.accept(word):
            raise _invalid(f"{word} must follow, not {self._peek() or 'the end'!r}")

    def end(self) -> None:
        if self._index < len(self._tokens):
            raise _invalid(f"the query must end before {self._peek()!r}")

    def _peek(self) -> str:
        return self._tokens[self._index][1] if self._index < len(self._tokens) else ""

    def _next(self) -> str:
        text = self._peek()
        self._index += 1
        return text


def _value_of(path: str) -> Value:
    parts = [part.removeprefix("[[").removesuffix("]]") for part in re.findall(r"\[\[[^\]]+\]\]|[^.\[\]]+", path)]
    if parts[0] in ("reported", "desired"):
        parts = ["properties", *parts]

    def value(twin: Mapping[str, Any]) -> Any:
        found: Any = twin
        for part in parts:
            if not isinstance(found, Mapping) or part not in found:
                return _MISSING
            found = found[part]
        return found

    return value


def _always(_twin: Mapping[str, Any]) -> bool:
    return True


def _compared(compare: Callable[[Any, Any], bool], left: Value, right: Value) -> Condition:
    def condition(twin: Mapping[str, Any]) -> bool | None:
        one, other = left(twin), right(twin)
        if one is _MISSING or other is _MISSING:
            return None
        if isinstance(one, bool) != isinstance(other, bool):
            return compare is operator.ne
        try:
            return compare(one, other)
        except TypeError:
            return None

    return condition


def _text_condition(function: Callable[[str, str], bool], left: Value, right: Value) -> Condition:
    def condition(twin: Mapping[str, Any]) -> bool | None:
        one, other = left(twin), right(twin)
        return function(one, other) if isinstance(one, str) and isinstance(other, str) else None

    return condition


def _negated(inside: Condition) -> Condition:
    def condition(twin: Mapping[str, Any]) -> bool | None:
        value = inside(twin)
        return None if value is None else not value

    return condition


def _both(left: Condition, right: Condition) -> Condition:
    def condition(twin: Mapping[str, Any]) -> bool | None:
        values = (left(twin), right(twin))
        return False if False in values else None if None in values else True

    return condition


def _either(left: Condition, right: Condition) -> Condition:
    return _any_of([left, right])


def _any_of(conditions: list[Condition]) -> Condition:
    def condition(twin: Mapping[str, Any]) -> bool | None:
        values = [each(twin) for each in conditions]
        return True if True in values else None if None in values else False

    return condition


def _invalid(message: str) -> RefusalError:
    return RefusalError(400, "InvalidQuery", f"the query cannot be used: {message}")
