"""Text: vectorizers, and tables that mix text with numbers, compute the same as in scikit-learn, one by one and in a batch."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import ComplementNB, MultinomialNB
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder
from sklearn.svm import LinearSVC

from convert.from_sklearn.files import load_estimator
from convert.from_sklearn.reader import read_sklearn
from convert.from_sklearn.source import source_outputs
from edgewright.cli import main
from edgewright.contracts.build_directory import BuildDirectory
from edgewright.contracts.samples import write_npz
from edgewright.errors import ModelError
from tests.support.convert_networks import relative_difference, run_graph

DOCUMENTS = [
    "I am a cat",
    "The cat sat on the École mat, didn't it?",
    "you are an  idiot\tand a fool",
    "Fool! IDIOT!! stupid  stupid stupid",
    "what a lovely day, my friend",
    "日本語 テスト is fine",
    "ЖУК und Straße 12 a_b",
    "",
    "x",
    "a day at the mat with a friend",
    " \n ",
    "don\u2019t  \u00a0 do e\u0301",
]
RUDE = np.array([0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1])
NEW = np.array([*DOCUMENTS, "the fool sat on a mat", "zzz", "stupid \u2003 cat", "CAT É é ½ n°5"], object)

VECTORIZERS = {
    "counts": CountVectorizer(),
    "counts of one to three words": CountVectorizer(ngram_range=(1, 3)),
    "presence": CountVectorizer(binary=True),
    "without stop words": CountVectorizer(stop_words="english"),
    "pairs without stop words": CountVectorizer(stop_words="english", ngram_range=(1, 2)),
    "own stop words in the vocabulary": CountVectorizer(stop_words=["cat"], vocabulary=["cat", "day", "zzz"]),
    "case": CountVectorizer(lowercase=False),
    "weights": TfidfVectorizer(),
    "logarithms": TfidfVectorizer(sublinear_tf=True, norm="l1"),
    "plain weights": TfidfVectorizer(norm=None, use_idf=False, ngram_range=(2, 2)),
    "characters": TfidfVectorizer(analyzer="char", ngram_range=(1, 3)),
    "characters of words": TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)),
    "one-letter words": CountVectorizer(token_pattern=r"(?u)\b\w+\b"),
    "letters": CountVectorizer(token_pattern=r"[a-z]{2,}"),
    "all but spaces": CountVectorizer(token_pattern=r"\S+"),
    "given vocabulary": CountVectorizer(vocabulary=["cat", "the", "zzz", "THE", "day"]),
    "counts, then weights": make_pipeline(CountVectorizer(), TfidfTransformer()),
    "words and characters": FeatureUnion([("a", CountVectorizer()), ("b", TfidfVectorizer(analyzer="char"))]),
}
CLASSIFIERS = {
    "LinearSVC": make_pipeline(TfidfVectorizer(), LinearSVC()),
    "multinomial": make_pipeline(CountVectorizer(), MultinomialNB()),
    "complement": make_pipeline(TfidfVectorizer(), ComplementNB()),
    "SGD": make_pipeline(TfidfVectorizer(), SGDClassifier(random_state=0)),
    "forest": make_pipeline(TfidfVectorizer(), RandomForestClassifier(4, max_depth=3, random_state=0)),
    "calibrated": make_pipeline(TfidfVectorizer(stop_words="english"), CalibratedClassifierCV(LinearSVC(), cv=2)),
    "calibrated pipeline": CalibratedClassifierCV(make_pipeline(TfidfVectorizer(), LinearSVC()), cv=2),
}


def differences(estimator: Any, arrays: list[Any], path: Path) -> tuple[float, float]:
    """Return the difference from the estimator, and of samples one by one from the batch."""
    joblib.dump(estimator, path)
    graph, _ = read_sklearn(path, pickled=True, trust=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = source_outputs(load_estimator(path, pickled=True, trust=True), arrays)
    (actual,) = run_graph(graph, *arrays)
    alone = [run_graph(graph, *[array[place : place + 1] for array in arrays])[0] for place in range(len(arrays[0]))]
    return relative_difference(actual, expected), float(np.abs(np.concatenate(alone) - actual).max())


@pytest.mark.parametrize("vectorizer", VECTORIZERS.values(), ids=VECTORIZERS)
@pytest.mark.filterwarnings("ignore:Upper case characters found in vocabulary:UserWarning")
def test_a_vectorizer_computes_the_same(vectorizer: Any, tmp_path: Path) -> None:
    estimator = make_pipeline(clone(vectorizer), LogisticRegression()).fit(DOCUMENTS, RUDE)
    assert max(differences(estimator, [NEW], tmp_path / "m.pkl")) < 1e-6


@pytest.mark.parametrize("classifier", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_of_documents_computes_the_same(classifier: Any, tmp_path: Path) -> None:
    assert max(differences(clone(classifier).fit(DOCUMENTS, RUDE), [NEW], tmp_path / "m.pkl")) < 1e-6


def mixed() -> tuple[Any, list[Any], Any]:
    """Return a pipeline of numbers, categories, numbers as categories and documents; its inputs; and its target."""
    generator = np.random.default_rng(0)
    age, gap = generator.normal(40, 9, 60), np.where(generator.random(60) < 0.2, np.nan, 1.0) * generator.normal(size=60)
    city, kind = generator.choice(["Rome", "Oslo", "São Paulo"], 60), generator.choice([1.0, 2.0, 5.5], 60)
    words = generator.choice(DOCUMENTS, 60)
    inputs = [np.stack([age, kind, gap], axis=1).astype(np.float32), city.astype(object), words.astype(object)]
    table = np.empty((60, 5), object)
    for place, column in enumerate((inputs[0][:, 0], *inputs[1:], inputs[0][:, 1], inputs[0][:, 2])):
        table[:, place] = column
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    columns = ColumnTransformer(
        [("n", numbers, [0, 4]), ("c", OneHotEncoder(handle_unknown="ignore"), [1, 3]), ("t", TfidfVectorizer(), 2)]
    )
    target = np.where((age > 40) ^ (city == "Rome"), "stays", "leaves")
    return make_pipeline(columns, LogisticRegression()).fit(table, target), inputs, target


def test_a_table_of_numbers_categories_and_documents_computes_the_same(tmp_path: Path) -> None:
    estimator, inputs, _ = mixed()
    assert max(differences(estimator, inputs, tmp_path / "m.pkl")) < 1e-6


ENCODERS = {
    "one column each": OneHotEncoder(handle_unknown="ignore"),
    "rare ones together": OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=15),
    "without the first": OneHotEncoder(drop="first", handle_unknown="ignore"),
    "numbers": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    "means of the target": TargetEncoder(),
}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning")
def test_categories_that_are_text_are_encoded_and_unknown_ones_as_in_training(encoder: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = np.stack([generator.choice(["Rome", "Oslo", "Bern"], 60), generator.choice(["a", "b"], 60)], axis=1).astype(object)
    estimator = make_pipeline(clone(encoder), LogisticRegression()).fit(table, table[:, 0] == "Rome")
    given = np.concatenate([table, np.array([["Rome", "zz"], ["??", "a"]], object)])
    assert max(differences(estimator, [given], tmp_path / "m.pkl")) < 1e-6


REFUSED = [
    pytest.param(
        HashingVectorizer(n_features=16),
        "HashingVectorizer has no counterpart in ONNX: use CountVectorizer or TfidfVectorizer, which keep a vocabulary",
        id="hashes",
    ),
    pytest.param(
        CountVectorizer(strip_accents="unicode"),
        "CountVectorizer strips accents, which ONNX cannot express: train it with strip_accents=None",
        id="accents",
    ),
    pytest.param(
        CountVectorizer(tokenizer=str.split),
        "CountVectorizer has a function of its own (tokenizer), which ONNX cannot express: use token_pattern instead",
        id="tokenizer",
    ),
    pytest.param(
        TfidfVectorizer(token_pattern=r"(?:cat|dog)s?"),
        r"TfidfVectorizer has the token pattern '(?:cat|dog)s?', which ONNX cannot express: use one of letters, character "
        r"classes and \w, such as '[a-z]{2,}'",
        id="pattern",
    ),
    pytest.param(
        CountVectorizer(analyzer="char_wb", ngram_range=(5, 6)),
        "CountVectorizer counts words shorter than its n-grams (' i '), which ONNX cannot express: train it with ngram_range "
        "from 3 or less",
        id="short words",
    ),
]


@pytest.mark.parametrize(("vectorizer", "reason"), REFUSED)
@pytest.mark.filterwarnings("ignore:The parameter 'token_pattern' will not be used:UserWarning")
def test_a_vectorizer_without_counterpart_is_rejected_with_the_reason(vectorizer: Any, reason: str, tmp_path: Path) -> None:
    joblib.dump(make_pipeline(vectorizer, LogisticRegression()).fit(DOCUMENTS, RUDE), tmp_path / "m.pkl")
    with pytest.raises(ModelError) as caught:
        read_sklearn(tmp_path / "m.pkl", pickled=True, trust=True)
    assert str(caught.value) == f"{tmp_path / 'm.pkl'}: {reason}"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_converts_and_verifies_a_table_with_text_on_generated_and_on_given_samples(tmp_path: Path) -> None:
    estimator, inputs, target = mixed()
    joblib.dump(estimator, tmp_path / "m.pkl")
    names = ("features", "x1", "x2")
    text = [array.astype(str) if array.dtype == object else array for array in inputs]
    write_npz(tmp_path / "s.npz", {**dict(zip(names, text, strict=True)), "labels": target})
    model, samples = str(tmp_path / "m.pkl"), str(tmp_path / "s.npz")
    run("convert", model, "--trust", "-o", str(tmp_path / "a"))
    run("convert", model, "--trust", "--samples", samples, "-o", str(tmp_path / "b"))
    record = BuildDirectory.open(tmp_path / "b").record
    assert [str(spec) for spec in record.inputs] == ["features float32[N, 3]", "x1 object[N]", "x2 object[N]"]
    assert record.labels == ("leaves", "stays")
    assert json.loads((tmp_path / "b" / "reports" / "parity.json").read_text("utf-8"))["agreement"] == 1.0
