"""Run an estimator itself, for the comparison with its graph, in the shapes of the graph's outputs."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.from_sklearn.inputs import examples_of, inputs_of
from convert.from_sklearn.rules.classifiers import threshold

_Array = npt.NDArray[Any]


def source_outputs(estimator: Any, inputs: list[_Array]) -> list[_Array]:
    """Return the estimator's own predictions for the graph's inputs, as arrays [samples, scores] in the graph's order."""
    return predictions(estimator, inputs_of(estimator).rows(inputs))


def accepts_missing_values(estimator: Any) -> bool:
    """Return True if the estimator predicts for a row whose numbers are all missing."""
    inputs = inputs_of(estimator)
    if inputs.document or not inputs.numbers:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            row = inputs.one_row(np.nan, examples_of(estimator))
            return all(bool(np.isfinite(output).all()) for output in predictions(estimator, row))
    except Exception:  # noqa: BLE001  every estimator refuses in its own way
        return False


def widths_of_outputs(estimator: Any) -> list[int] | None:
    """Return the number of columns of every output; None if the estimator refuses a made-up row."""
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = inputs_of(estimator).one_row(0.0, examples_of(estimator))
        return [int(output.shape[1]) for output in predictions(estimator, row)]
    return None


def predictions(estimator: Any, rows: _Array) -> list[_Array]:
    """Return what the estimator predicts for its own rows."""
    if hasattr(estimator, "predict_proba"):
        found = estimator.predict_proba(rows)
        return [np.asarray(one, np.float32) for one in (found if isinstance(found, list) else [found])]
    if hasattr(estimator, "decision_function"):
        return [_decisions(estimator, rows)]
    if len(getattr(estimator, "classes_", ())):  # CatBoost's regressors have none
        return [_votes(estimator, rows)]
    return [np.asarray(estimator.predict(rows), np.float32).reshape(len(rows), -1)]


def _decisions(estimator: Any, rows: _Array) -> npt.NDArray[np.float32]:
    scores = np.asarray(estimator.decision_function(rows))
    if scores.ndim > 1:
        return scores.astype(np.float32)
    if not hasattr(estimator, "classes_"):  # an outlier detector
        return scores[:, None].astype(np.float32)
    scores = scores - threshold(_chain(estimator)[-1])
    return np.stack([-scores, scores], axis=1).astype(np.float32)


def _votes(estimator: Any, features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return each class's share of the votes: of a voting classifier's parts, or of another classifier without scores."""
    *before, last = _chain(estimator)
    for step in before:
        features = step.transform(features)
    if getattr(last, "voting", None) != "hard":
        return np.asarray(last.predict(features)[:, None] == np.asarray(last.classes_), np.float32)
    ballots = np.asarray(last.transform(features), np.int64)
    given = last._weights_not_none
    weights = np.ones(ballots.shape[1]) if given is None else np.asarray(given)
    votes = (ballots[:, :, None] == np.arange(len(last.classes_))) * weights[:, None]
    return np.asarray(votes.sum(axis=1) / weights.sum(), np.float32)


def _chain(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, or an estimator alone; a search stands for the best estimator that it found."""
    if hasattr(estimator, "best_estimator_"):
        return _chain(estimator.best_estimator_)
    if not hasattr(estimator, "steps"):
        return [estimator]
    *before, last = [step for _, step in estimator.steps if step not in (None, "passthrough")]
    return [*before, *_chain(last)]
