"""Open files of scikit-learn estimators, and prepare the estimators for the conversion and for the comparison.

A skops file is data: only types of scikit-learn and NumPy are loaded. A pickle is a program, so its author must be trusted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.errors import ModelError

log = logging.getLogger(__name__)

_VERSION = re.compile(rb"_sklearn_version.{1,10}?(\d+\.\d+(?:\.\d+)*)", re.DOTALL)
"""The version of scikit-learn in the state of a pickled estimator."""
_DATA_TYPES = ("sklearn.", "numpy.", "scipy.sparse.")
_NOT_DATA = ("sklearn.datasets.", "sklearn.externals.", "sklearn.utils.")
_STILL_DATA = ("sklearn.utils._bunch.Bunch",)
"""A dict whose keys are also attributes; ensembles store their parts in it."""
_WITH_KERNEL = ("SVC", "NuSVC", "SVR", "NuSVR", "OneClassSVM", "KernelRidge", "KernelPCA", "Nystroem")
"""Estimators with a parameter `kernel` that names it; the one of Gaussian processes is an object with parameters."""


def load_estimator(path: Path, *, pickled: bool, trust: bool) -> Any:
    """Load an estimator from a skops file, or from a pickle if its author is trusted.

    Raises:
        ModelError: the file is not trusted, cannot be loaded, or does not hold a fitted estimator.
    """
    with _one_line_about_versions(path):
        estimator = _unpickled(path, trust) if pickled else _from_skops(path, trust)
    _check_fitted(estimator, path)
    for part in _parts(estimator):
        _check_kernel(part, path)
        if hasattr(part, "transformers_"):
            _select_by_index(part)
        if hasattr(part, "flatten_transform"):  # of a voting classifier's `transform`
            part.flatten_transform = False
        if hasattr(part, "decision_function_shape"):  # one value per class, so that the largest is the label
            part.decision_function_shape = "ovr"
    return estimator


@contextlib.contextmanager
def _one_line_about_versions(path: Path) -> Iterator[None]:
    """Log one line in place of scikit-learn's warnings, one per estimator, of a file that another version wrote."""
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    versions = [warning.message for warning in caught if isinstance(warning.message, InconsistentVersionWarning)]
    for other in (warning for warning in caught if not isinstance(warning.message, InconsistentVersionWarning)):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if versions:
        written, installed = versions[0].original_sklearn_version, versions[0].current_sklearn_version
        log.warning(
            "other version file=%s scikit_learn=%s installed=%s: its predictions may differ from those after training; "
            "install scikit-learn==%s, or train the model again",
            *(path, written, installed, written),
        )


def _check_fitted(estimator: Any, path: Path) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise ModelError(
            f"{path} must hold a fitted scikit-learn estimator for tabular data, but it holds {type(estimator).__name__}: "
            "fit it on an array [samples, features], then save it"
        ) from error


def _check_kernel(part: Any, path: Path) -> None:
    kernel, name = getattr(part, "kernel", None), type(part).__name__
    if name in _WITH_KERNEL and (callable(kernel) or kernel == "precomputed"):
        found = "a function of its own" if callable(kernel) else "precomputed, so its input is not the features"
        raise ModelError(f"{path}: {name} must have a named kernel, but it is {found}: train it with kernel='rbf' or 'poly'")


def _parts(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and the estimators inside it (pipelines, column transformers, ensembles)."""
    yield estimator
    inner = [step[1] for step in getattr(estimator, "steps", ())]
    inner += [step[1] for step in getattr(estimator, "transformers_", getattr(estimator, "transformer_list", ()))]
    inner += [getattr(estimator, name, None) for name in ("best_estimator_", "final_estimator_", "regressor_")]
    for part in inner:
        if hasattr(part, "get_params"):
            yield from _parts(part)


def _select_by_index(transformer: Any) -> None:
    """Make a transformer that was fitted on named columns select them by index, so that it takes an array."""
    indices = getattr(transformer, "_transformer_to_input_indices", None)
    if indices is None:
        return
    for name in ("transformers_", "transformers"):
        parts = getattr(transformer, name)
        setattr(transformer, name, [(key, part, _indices(indices.get(key), columns)) for key, part, columns in parts])
    transformer._columns = [columns for _, _, columns in transformer.transformers]


def _indices(known: list[int] | None, columns: Any) -> Any:
    """Return the indices of columns; one index stays alone, for a transformer that takes a single column."""
    if known is None:
        return columns
    return int(known[0]) if isinstance(columns, str | int | np.integer) else list(known)


def _from_skops(path: Path, trust: bool) -> Any:
    import skops.io

    unknown = skops.io.get_untrusted_types(file=path)
    untrusted = [
        name for name in unknown if name not in _STILL_DATA and (not name.startswith(_DATA_TYPES) or name.startswith(_NOT_DATA))
    ]
    if untrusted and not trust:
        raise ModelError(
            f"{path} must hold types of scikit-learn and NumPy only, but it holds {', '.join(untrusted)}: "
            "save a model without custom types, or add --trust if you made it"
        )
    try:
        return skops.io.load(path, trusted=unknown)
    except (ValueError, TypeError, KeyError, AttributeError, ImportError, OSError) as error:
        raise ModelError(f"{path}: this scikit-learn model cannot be loaded: {error}") from error


def _unpickled(path: Path, trust: bool) -> Any:
    if not trust:
        raise ModelError(
            f"{path} is a pickle, which can run any code when it is opened: add --trust if you made it, "
            "or save the model with skops.io.dump instead"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # the pickle's code may raise anything
        raise ModelError(
            f"{path}: this pickle cannot be opened: {type(error).__name__}: {_without_stack(error)}{_advice(error, path)}"
        ) from error


def _advice(error: Exception, path: Path) -> str:
    """Return what to do after a pickle was not opened: another version of scikit-learn wrote it, or a library is missing."""
    import sklearn

    written = _VERSION.search(path.read_bytes())
    if written is not None and written[1].decode() != sklearn.__version__:
        return (
            f"; it was written with scikit-learn {written[1].decode()}, but {sklearn.__version__} is installed: "
            f"install scikit-learn=={written[1].decode()}, or train the model again"
        )
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return f"; install {missing}, which the model needs" if missing and importlib.util.find_spec(missing) is None else ""


def _without_stack(error: Exception) -> str:
    """Return an error's text on one line, without the stack of a native library that some (XGBoost, LightGBM) add to it."""
    lines = str(error).split("Stack trace:", maxsplit=1)[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip())
