"""The graph under construction: nodes named by estimator, tables of columns, and the lookup of a rule per estimator.

An estimator answers four questions, each of which has its own table of rules. Estimators that compute the same in every
question are converted by their parts: an ensemble's rule asks the network for the answers of its members.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy.typing as npt
import onnx_ir as ir

from convert.graph.emit import Emitter
from edgewright.errors import ModelError


@dataclass(frozen=True, slots=True)
class Table:
    """The columns that an estimator takes: numbers in one float32 matrix [N, columns], and each column of text as strings [N]."""

    numbers: ir.Value | None = None
    places: tuple[int, ...] | None = None
    """The columns that `numbers` holds, in order; None: all."""
    texts: Mapping[int, ir.Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules by the name of the estimator's class; each takes the network, the estimator and its table."""

    transformed: Mapping[str, Callable[[Network, Any, Table], Table]]
    probabilities: Mapping[str, Callable[[Network, Any, Table], ir.Value]]
    decisions: Mapping[str, Callable[[Network, Any, Table], ir.Value]]
    values: Mapping[str, Callable[[Network, Any, Table], ir.Value]]


@dataclass(slots=True)
class Network:
    """Nodes and weights of all estimators so far."""

    path: Path
    rules: Rules
    nearest: bool = False
    """Round the thresholds of trees to the nearest float32, for features in float64; otherwise down, which suits float32."""
    emit: Emitter = field(default_factory=Emitter)
    where: str = ""

    @contextlib.contextmanager
    def inside(self, estimator: Any) -> Iterator[None]:
        """Name the nodes that follow after an estimator."""
        outer = self.where
        name = type(estimator).__name__
        self.where = self.emit.unique(f"{outer}/{name}" if outer else name)
        yield
        self.where = outer

    def node(self, operator: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Append a node with one output and return that output."""
        return self.emit.node(operator, list(inputs), where=self.where, domain=domain, **attributes)

    def floats(self, values: npt.ArrayLike) -> ir.Value:
        """Return a float32 constant."""
        return self.emit.floats(f"{self.where}/constant", values)

    def integers(self, values: npt.ArrayLike) -> ir.Value:
        """Return an int64 constant."""
        return self.emit.integers(f"{self.where}/constant", values)

    def constant(self, values: npt.NDArray[Any]) -> ir.Value:
        """Return a constant with the dtype of `values`."""
        return self.emit.constant(f"{self.where}/constant", values)

    def columns(self, matrix: ir.Value, indices: Sequence[int]) -> ir.Value:
        """Return some columns of a matrix."""
        return self.node("Gather", matrix, self.integers(list(indices)), axis=1)

    def joined(self, matrices: Sequence[ir.Value]) -> ir.Value:
        """Return matrices side by side."""
        return matrices[0] if len(matrices) == 1 else self.node("Concat", *matrices, axis=1)

    def numbers(self, table: Table) -> ir.Value:
        """Return the matrix of a table that must hold numbers only."""
        if table.texts or table.numbers is None:
            self.reject(f"{self.where.rpartition('/')[2]} must take numbers, but a column holds text: encode it before")
        return table.numbers

    def selected(self, table: Table, columns: Sequence[int]) -> Table:
        """Return the table of some columns."""
        texts = {place: table.texts[column] for place, column in enumerate(columns) if column in table.texts}
        numeric = [(place, column) for place, column in enumerate(columns) if column not in table.texts]
        if not numeric or table.numbers is None:
            return Table(texts=texts)
        if table.places is None:
            positions = [column for _, column in numeric]
        else:
            positions = [table.places.index(column) for _, column in numeric]
        matrix = self.columns(table.numbers, positions)
        return Table(matrix, tuple(place for place, _ in numeric) if texts else None, texts)

    def transformed(self, estimator: Any, table: Table) -> Table:
        """Return what `transform` returns."""
        result: Table = self._answer(self.rules.transformed, estimator, table)
        return result

    def probabilities(self, estimator: Any, table: Table) -> ir.Value:
        """Return what `predict_proba` returns, [N, classes]."""
        result: ir.Value = self._answer(self.rules.probabilities, estimator, table)
        return result

    def decisions(self, estimator: Any, table: Table) -> ir.Value:
        """Return what `decision_function` returns, [N, classes], or [N, 1] for two classes and for outliers."""
        result: ir.Value = self._answer(self.rules.decisions, estimator, table)
        return result

    def values(self, estimator: Any, table: Table) -> ir.Value:
        """Return what a regressor's `predict` returns, [N, targets]."""
        result: ir.Value = self._answer(self.rules.values, estimator, table)
        return result

    def _answer(self, rules: Mapping[str, Callable[..., Any]], estimator: Any, table: Table) -> Any:
        with self.inside(estimator):
            rule = rules.get(type(estimator).__name__, rules[""])
            return rule(self, estimator, table)

    def reject(self, reason: str) -> NoReturn:
        """Raise `ModelError` with the reason why an estimator cannot be converted."""
        raise ModelError(f"{self.path}: {reason}")
