"""Estimators, ensembles of estimators and transformers compute the same as scikit-learn's own predictions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import threadpoolctl
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis, FastICA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectFromModel, SelectKBest
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor, kernels
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDOneClassSVM
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, LocalOutlierFactor, RadiusNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, NuSVC, NuSVR, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from edgewright.errors import ModelError
from tests.support.convert_networks import relative_difference, run_graph

GENERATOR = np.random.default_rng(0)
TABLE = GENERATOR.normal(size=(120, 5)).astype(np.float32)
TWO = (TABLE[:, 0] + TABLE[:, 1] ** 2 > 0.8).astype(int)
THREE = (TABLE[:, 0] > 0.3).astype(int) + (TABLE[:, 2] > 0.2)
VALUE = np.exp(TABLE[:, 0] * 0.3 + np.sin(TABLE[:, 1]))
BOTH = np.stack([VALUE, TABLE[:, 2] - TABLE[:, 3]], axis=1)
HOLES = np.where(GENERATOR.random(TABLE.shape) < 0.15, np.float32(np.nan), TABLE)
TREE = DecisionTreeClassifier(max_depth=3, random_state=0)
LINEAR = LogisticRegression()


def converted(estimator: Any, path: Path) -> tuple[Any, tuple[str, ...], Any]:
    """Return the graph, its labels and the loaded estimator."""
    joblib.dump(estimator, path)
    return *read_sklearn(path, pickled=True, trust=True), load_estimator(path, pickled=True, trust=True)


def differences(estimator: Any, table: Any, path: Path, *targets: Any) -> list[float]:
    """Return the relative difference of every output."""
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")
        # a Gaussian process of products computes in float32 if it was trained in float32
        graph, _, loaded = converted(clone(estimator).fit(table.astype(np.float64), *targets), path)
        expected = source_outputs(loaded, [table])
    actual = run_graph(graph, table)
    assert [array.shape for array in actual] == [array.shape for array in expected]
    assert [value.shape[1] for value in graph.graph.outputs] == [array.shape[1] for array in expected]
    return [relative_difference(one, other) for one, other in zip(actual, expected, strict=True)]


CLASSIFIERS = {
    "one against the rest, LinearSVC": OneVsRestClassifier(LinearSVC()),
    "one against the rest, SVC": OneVsRestClassifier(SVC()),
    "one against the rest, trees": OneVsRestClassifier(TREE),
    "one against the rest, regressor": OneVsRestClassifier(LinearRegression()),
    "pairs, LinearSVC": OneVsOneClassifier(LinearSVC()),
    "pairs, SVC": OneVsOneClassifier(SVC()),
    "pairs, probabilities only": OneVsOneClassifier(GaussianNB()),
    "bag of SVC": BaggingClassifier(SVC(), 3, random_state=0),
    "bag of LinearSVC with some features": BaggingClassifier(LinearSVC(), 3, max_features=0.6, random_state=0),
    "stack": StackingClassifier([("a", SVC()), ("b", LINEAR), ("c", TREE)], cv=2),
    "stack with the features": StackingClassifier([("a", LinearSVC()), ("c", TREE)], passthrough=True, cv=2),
    "stack below trees": StackingClassifier([("a", LinearSVC()), ("b", LINEAR)], final_estimator=TREE, cv=2),
    "stack below LinearSVC": StackingClassifier([("a", GaussianNB()), ("c", TREE)], final_estimator=LinearSVC(), cv=2),
    "stack of labels": StackingClassifier([("a", GaussianNB()), ("c", TREE)], stack_method="predict", cv=2),
    "votes of SVC": VotingClassifier([("a", SVC()), ("b", LinearSVC()), ("c", GaussianNB())]),
    "mean of boosting": VotingClassifier([("a", HistGradientBoostingClassifier(max_iter=2)), ("b", LINEAR)], voting="soft"),
    "linear discriminant": LinearDiscriminantAnalysis(),
    "quadratic discriminant": QuadraticDiscriminantAnalysis(),
    "calibrated LinearSVC": CalibratedClassifierCV(LinearSVC(), cv=2),
    "calibrated by steps": CalibratedClassifierCV(SVC(), method="isotonic", cv=2),
    "calibrated probabilities": CalibratedClassifierCV(RandomForestClassifier(3, max_depth=3, random_state=0), cv=2),
    "calibrated by temperature": CalibratedClassifierCV(LinearSVC(), method="temperature", cv=2),
    "calibrated probabilities by temperature": CalibratedClassifierCV(GaussianNB(), method="temperature", cv=2),
    "calibrated together": CalibratedClassifierCV(LinearSVC(), ensemble=False, cv=2),
    "calibrated boosting": CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=2), cv=2),
    "nearest neighbours": KNeighborsClassifier(),
    "nearest neighbours by distance": KNeighborsClassifier(weights="distance"),
    "nearest neighbours by Manhattan distance": KNeighborsClassifier(weights="distance", metric="manhattan"),
    "nearest neighbours by Minkowski distance": KNeighborsClassifier(weights="distance", p=3),
    "Gaussian process": GaussianProcessClassifier(kernels.RBF(2.0)),
    "SVC polynomial": SVC(kernel="poly", coef0=1.0, degree=2),
    "SVC sigmoid": SVC(kernel="sigmoid", gamma=0.1),
    "NuSVC": NuSVC(nu=0.3),
    "SVC with probabilities": make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(kernel="linear"), cv=2)),
    "perceptron": MLPClassifier((8, 4), activation="tanh", max_iter=60),
    "perceptron without activation": MLPClassifier((8,), activation="identity", max_iter=60),
    "boosting from zero": GradientBoostingClassifier(n_estimators=3, init="zero"),
    "search of a pipeline": GridSearchCV(make_pipeline(StandardScaler(), LinearSVC()), {"linearsvc__C": [1.0]}, cv=2),
    "Bernoulli": BernoulliNB(binarize=0.3),
}


@pytest.mark.parametrize("target", [TWO, THREE], ids=["two classes", "three classes"])
@pytest.mark.parametrize("estimator", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_computes_the_same_and_its_largest_score_is_its_label(estimator: Any, target: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")
        graph, labels, loaded = converted(clone(estimator).fit(TABLE, target), tmp_path / "m.pkl")
        (expected,) = source_outputs(loaded, [TABLE])
    actual = run_graph(graph, TABLE)[0]
    assert actual.shape == expected.shape
    assert relative_difference(actual, expected) < 3e-5
    several = np.sort(expected, axis=1)
    clear = several[:, -1] - several[:, -2] > 1e-6  # NuSVC breaks ties of its pairs by their confidence, unlike its `predict`
    named = np.array([labels[place] for place in actual.argmax(axis=1)])
    agreeing = named == loaded.predict(TABLE).astype(str)
    assert agreeing[clear].mean() > (0.99 if isinstance(estimator, NuSVC) else 0.999)


REGRESSORS = {
    "stack": StackingRegressor([("a", Ridge()), ("b", SVR())], cv=2),
    "mean with weights": VotingRegressor([("a", Ridge()), ("b", SVR())], weights=[1, 3]),
    "bag with some features": BaggingRegressor(SVR(), 3, max_features=0.6, random_state=0),
    "boosting": GradientBoostingRegressor(n_estimators=3, loss="quantile"),
    "boosting from zero": GradientBoostingRegressor(n_estimators=3, init="zero"),
    "AdaBoost": AdaBoostRegressor(n_estimators=3, random_state=0),
    "SVR sigmoid": SVR(kernel="sigmoid", gamma=0.1),
    "NuSVR polynomial": NuSVR(kernel="poly", degree=2),
    "perceptron": MLPRegressor(hidden_layer_sizes=(8,), max_iter=60),
    "neighbours by distance": KNeighborsRegressor(weights="distance"),
    "kernel ridge": KernelRidge(kernel="rbf", gamma=0.2),
    "kernel ridge, polynomial": KernelRidge(kernel="poly"),
    "kernel ridge, sigmoid": KernelRidge(kernel="sigmoid", gamma=0.1),
    "Gaussian process": GaussianProcessRegressor(alpha=0.1),
    "Gaussian process, scaled target": GaussianProcessRegressor(kernels.RBF() + kernels.WhiteKernel(0.1), normalize_y=True),
    "Gaussian process, Matern 0.5": GaussianProcessRegressor(kernels.Matern(nu=0.5) + kernels.WhiteKernel(0.1)),
    "Gaussian process, Matern 1.5": GaussianProcessRegressor(2.0 * kernels.Matern(nu=1.5) + kernels.WhiteKernel(0.1)),
    "Gaussian process, Matern 2.5": GaussianProcessRegressor(kernels.Matern(nu=2.5) + kernels.WhiteKernel(0.1)),
    "Gaussian process, rational": GaussianProcessRegressor(kernels.RationalQuadratic() + kernels.WhiteKernel(0.1)),
    "Gaussian process, products": GaussianProcessRegressor(kernels.DotProduct() ** 2 + kernels.WhiteKernel(0.1)),
    "target as it is": TransformedTargetRegressor(Ridge()),
    "target by log1p": TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1),
    "target by sqrt": TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=np.square),
    "target standardized": TransformedTargetRegressor(make_pipeline(MinMaxScaler(), Ridge()), transformer=StandardScaler()),
    "target in a range": TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler()),
    "target without outliers": TransformedTargetRegressor(Ridge(), transformer=RobustScaler()),
    "target by a power": TransformedTargetRegressor(Ridge(), transformer=PowerTransformer()),
    "target by Box-Cox": TransformedTargetRegressor(Ridge(), transformer=PowerTransformer("box-cox", standardize=False)),
}


@pytest.mark.parametrize("estimator", REGRESSORS.values(), ids=REGRESSORS)
def test_a_regressor_computes_the_same(estimator: Any, tmp_path: Path) -> None:
    assert max(differences(estimator, TABLE, tmp_path / "m.pkl", VALUE)) < 3e-5


SEVERAL = {
    "one regressor per target": (MultiOutputRegressor(SVR()), BOTH),
    "chain of regressors": (RegressorChain(Ridge(), order=[1, 0]), BOTH),
    "chain of regressors, trained across folds": (RegressorChain(SVR(), cv=2), BOTH),
    "perceptron": (MLPRegressor(hidden_layer_sizes=(8,), max_iter=60), BOTH),
    "Gaussian process": (GaussianProcessRegressor(alpha=0.1), BOTH),
    "neighbours by distance": (KNeighborsRegressor(weights="distance"), BOTH),
    "one classifier per target": (MultiOutputClassifier(LINEAR), np.stack([TWO, THREE], axis=1)),
    "chain of classifiers": (ClassifierChain(LINEAR, order=[1, 0]), np.stack([TWO, THREE > 1], axis=1)),
    "chain of probabilities": (
        ClassifierChain(LINEAR, chain_method="predict_proba"),
        np.stack([TWO, THREE > 1], axis=1),
    ),
    "one against the rest": (OneVsRestClassifier(LINEAR), np.stack([TWO, THREE > 1], axis=1)),
    "perceptron of labels": (MLPClassifier((8,), max_iter=60), np.stack([TWO, THREE > 1], axis=1)),
}


@pytest.mark.parametrize(("estimator", "target"), SEVERAL.values(), ids=SEVERAL)
def test_an_estimator_of_several_targets_computes_the_same(estimator: Any, target: Any, tmp_path: Path) -> None:
    assert max(differences(estimator, TABLE, tmp_path / "m.pkl", target)) < 3e-5


OUTLIERS = {
    "isolation forest": IsolationForest(n_estimators=8, random_state=0),
    "isolation forest of some features": IsolationForest(
        n_estimators=8, max_features=0.5, max_samples=20, contamination=0.1, random_state=0
    ),
    "one class": OneClassSVM(),
    "one class, linear": SGDOneClassSVM(random_state=0),
    "local outlier factor": LocalOutlierFactor(novelty=True),
    "elliptic envelope": EllipticEnvelope(random_state=0),
    "after a scaler": make_pipeline(StandardScaler(), IsolationForest(n_estimators=8, random_state=0)),
}


@pytest.mark.parametrize("estimator", OUTLIERS.values(), ids=OUTLIERS)
def test_an_outlier_detector_computes_the_same(estimator: Any, tmp_path: Path) -> None:
    assert max(differences(estimator, TABLE, tmp_path / "m.pkl")) < 3e-5


TRANSFORMERS = {
    **{f"NumPy's {function.__name__}": FunctionTransformer(function) for function in (np.abs, np.tanh, np.square, np.expm1)},
    "no function": FunctionTransformer(),
    "after log1p of sizes": make_pipeline(FunctionTransformer(np.abs), FunctionTransformer(np.log1p)),
    **{f"norm {norm}": Normalizer(norm) for norm in ("l1", "l2", "max")},
    **{f"bins {encode}": KBinsDiscretizer(4, encode=encode) for encode in ("onehot", "onehot-dense", "ordinal")},
    "polynomials": PolynomialFeatures(2, interaction_only=True),
    "quantiles": QuantileTransformer(n_quantiles=20),
    "selection by a model": SelectFromModel(LINEAR),
    "best features": SelectKBest(k=3),
    "independent components": FastICA(3, random_state=0),
    "factors": FactorAnalysis(2),
    "linear discriminant": LinearDiscriminantAnalysis(n_components=1),
    "Nystroem": Nystroem(n_components=8, random_state=0),
    "random Fourier features": RBFSampler(n_components=8, random_state=0),
    "union with weights": FeatureUnion([("a", StandardScaler()), ("b", PCA(2))], transformer_weights={"a": 2.0}),
    "columns": ColumnTransformer(
        [("a", StandardScaler(), [3, 1]), ("b", MinMaxScaler(), slice(2, 4)), ("c", "drop", [0])], remainder="passthrough"
    ),
}


@pytest.mark.parametrize("transformer", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_a_transformer_before_a_classifier_computes_the_same(transformer: Any, tmp_path: Path) -> None:
    assert max(differences(make_pipeline(transformer, LINEAR), TABLE, tmp_path / "m.pkl", TWO)) < 3e-5


IMPUTERS = {
    "mean": SimpleImputer(),
    "mean with marks": SimpleImputer(add_indicator=True),
    "constant with marks": SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True),
    "most frequent": SimpleImputer(strategy="most_frequent"),
    "neighbours": KNNImputer(n_neighbors=2),
    "neighbours with marks": KNNImputer(n_neighbors=2, add_indicator=True),
    "marks beside": FeatureUnion([("a", SimpleImputer(strategy="median")), ("b", MissingIndicator(features="all"))]),
}


@pytest.mark.parametrize("imputer", IMPUTERS.values(), ids=IMPUTERS)
def test_an_imputer_computes_the_same(imputer: Any, tmp_path: Path) -> None:
    assert max(differences(make_pipeline(imputer, LINEAR), HOLES, tmp_path / "m.pkl", TWO)) < 3e-5


NEIGHBOR_IMPUTERS = {
    "uniform": KNNImputer(n_neighbors=3),
    "by distance": KNNImputer(n_neighbors=3, weights="distance"),
    "more neighbours than samples": KNNImputer(n_neighbors=500),
    "a number for missing": KNNImputer(n_neighbors=2, missing_values=-999),
    "empty features kept": KNNImputer(n_neighbors=2, keep_empty_features=True),
}


@pytest.mark.parametrize("imputer", NEIGHBOR_IMPUTERS.values(), ids=NEIGHBOR_IMPUTERS)
def test_neighbours_fill_rows_that_share_no_feature_with_them(imputer: Any, tmp_path: Path) -> None:
    train, asked = HOLES.copy(), HOLES.copy()
    train[:, 1] = np.nan  # no sample has this feature
    train[: len(train) // 2, 3] = np.nan
    asked[0] = np.nan
    asked[1, [0, 2]] = np.nan
    asked[2, 3:] = np.nan
    if imputer.missing_values == -999:
        train, asked = (np.where(np.isnan(each), np.float32(-999), each) for each in (train, asked))
    pipeline = make_pipeline(imputer, LINEAR).fit(train.astype(np.float64), TWO)
    graph, _, _ = converted(pipeline, tmp_path / "m.pkl")
    for rows in (asked, asked[:1], asked[2:3]):
        expected = pipeline.predict_proba(rows)
        assert np.abs(run_graph(graph, rows)[0] - expected).max() < 3e-5


def test_a_number_that_marks_missing_values_is_replaced_and_a_column_without_values_is_left_out(tmp_path: Path) -> None:
    table = np.where(np.isnan(HOLES), np.float32(-999), HOLES)
    table[:, 2] = -999
    pipeline = make_pipeline(SimpleImputer(missing_values=-999), LINEAR)
    assert max(differences(pipeline, table, tmp_path / "m.pkl", TWO)) < 3e-5


@pytest.mark.parametrize("encoder", [OneHotEncoder(handle_unknown="ignore"), OneHotEncoder(drop="first"), OrdinalEncoder()])
def test_categories_that_are_numbers_are_encoded(encoder: Any, tmp_path: Path) -> None:
    table = GENERATOR.choice([1.0, 2.0, 5.5], (120, 2)).astype(np.float32)
    assert max(differences(make_pipeline(encoder, LINEAR), table, tmp_path / "m.pkl", TWO)) < 3e-5


def squares(table: Any) -> Any:
    return table**2


def products(table: Any, samples: Any) -> Any:
    return table @ samples.T


REFUSED = [
    pytest.param(
        make_pipeline(FunctionTransformer(squares), LINEAR),
        "FunctionTransformer must apply one of NumPy's functions (absolute, arctan, ceil, cos, exp, expm1, fabs, floor, log, "
        "log10, log1p, log2, negative, reciprocal, rint, sign, sin, sqrt, square, tanh) without arguments, but it applies "
        "squares: compute these features before the model",
        id="function of its own",
    ),
    pytest.param(
        SVC(kernel=products),
        "SVC must have a named kernel, but it is a function of its own: train it with kernel='rbf' or 'poly'",
        id="kernel of its own",
    ),
    pytest.param(
        RadiusNeighborsRegressor(9.0),
        "RadiusNeighborsRegressor has no counterpart in ONNX, because the number of neighbours varies: use K neighbours",
        id="radius",
    ),
    pytest.param(
        GradientBoostingClassifier(n_estimators=2, init=LINEAR),
        "GradientBoostingClassifier must begin with a constant, but init is LogisticRegression: train it without init",
        id="boosting from an estimator",
    ),
]


@pytest.mark.parametrize(("estimator", "reason"), REFUSED)
def test_an_estimator_without_counterpart_is_rejected_with_the_reason(estimator: Any, reason: str, tmp_path: Path) -> None:
    joblib.dump(estimator.fit(TABLE, TWO), tmp_path / "m.pkl")
    with pytest.raises(ModelError) as caught:
        read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True)
    assert str(caught.value) == f"{tmp_path / 'm.pkl'}: {reason}"
