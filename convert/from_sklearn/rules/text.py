r"""Rules for vectorizers of text: lower case, tokens, n-grams, counts, and their weights.

scikit-learn's patterns are those of Python, where `\w` is any letter or digit of Unicode; the graph's tokenizer (RE2) needs them
written out. The locale is C.UTF-8, which every Linux has, because onnxruntime refuses one that is not installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from convert.from_sklearn.network import Network, Table
from convert.from_trees.ensemble import ML_DOMAIN

MICROSOFT = "com.microsoft"
LOCALE = "C.UTF-8"
_PAD = "\x00"
_WORD = r"\p{L}\p{N}_"
_SPACE = r"\s\x0b\x1c-\x1f\x{85}\p{Z}"
_WHOLE_WORDS = {r"(?u)\b\w\w+\b": f"[{_WORD}]{{2,}}", r"(?u)\b\w+\b": f"[{_WORD}]+", r"\b\w\w+\b": f"[{_WORD}]{{2,}}"}
_PIECE = re.compile(r"(\[[^\[\]\\]+\]|\\[wdS]|[A-Za-z0-9'])([+]|\{\d+(,\d*)?\})?")
_CLASSES = {r"\w": f"[{_WORD}]", r"\d": r"\p{Nd}", r"\S": f"[^{_SPACE}]"}


def _counted(network: Network, vectorizer: Any, table: Table) -> Table:
    tokens = _Tokens(network, vectorizer)
    counts = tokens.counted(_document(network, table))
    if vectorizer.binary:
        counts = network.node("Sign", counts)
    return Table(counts)


def _weighted_counts(network: Network, vectorizer: Any, table: Table) -> Table:
    return _weighted(network, vectorizer, _counted(network, vectorizer, table))


def _weighted(network: Network, weights: Any, table: Table) -> Table:
    """Return term frequencies times inverse document frequencies, divided by their norm."""
    counts = network.numbers(table)
    if weights.sublinear_tf:
        some = network.node("Greater", counts, network.floats(0.0))
        logarithm = network.node("Log", network.node("Where", some, counts, network.floats(1.0)))
        counts = network.node("Where", some, network.node("Add", logarithm, network.floats(1.0)), network.floats(0.0))
    if weights.use_idf:
        counts = network.node("Mul", counts, network.floats([weights.idf_]))
    if weights.norm is None:
        return Table(counts)
    norm = network.node({"l1": "ReduceL1", "l2": "ReduceL2"}[weights.norm], counts, network.integers([1]), keepdims=1)
    empty = network.node("Equal", norm, network.floats(0.0))
    return Table(network.node("Div", counts, network.node("Where", empty, network.floats(1.0), norm)))


def _document(network: Network, table: Table) -> ir.Value:
    if list(table.texts) != [0] or table.numbers is not None:
        network.reject("a vectorizer of text must take one column of text")
    return table.texts[0]


def _hashed(network: Network, _vectorizer: Any, _table: Table) -> Table:
    network.reject(
        "HashingVectorizer has no counterpart in ONNX: use CountVectorizer or TfidfVectorizer, which keep a vocabulary"
    )


def _dictionaries(network: Network, _vectorizer: Any, _table: Table) -> Table:
    network.reject("DictVectorizer takes dictionaries, which are no table: save the estimator that takes its columns")


class _Tokens:
    """The tokens of one vectorizer, and the n-grams that it counts."""

    def __init__(self, network: Network, vectorizer: Any) -> None:
        self.network, self.vectorizer = network, vectorizer
        self.least, self.most = vectorizer.ngram_range
        self._check()

    def _check(self) -> None:
        vectorizer = self.vectorizer
        own = [name for name in ("preprocessor", "tokenizer") if getattr(vectorizer, name) is not None]
        if callable(vectorizer.analyzer):
            own.append("analyzer")
        if own:
            self._reject(f"has a function of its own ({own[0]})", "use token_pattern instead")
        if vectorizer.strip_accents is not None:
            self._reject("strips accents", "train it with strip_accents=None")

    def counted(self, documents: ir.Value) -> ir.Value:
        """Return how often each n-gram of the vocabulary occurs, [N, vocabulary]."""
        if self.vectorizer.lowercase:
            documents = self.network.node(
                "StringNormalizer", documents, case_change_action="LOWER", is_case_sensitive=1, locale=LOCALE
            )
        if self.vectorizer.analyzer == "word":
            tokens = self._words(documents)
        elif self.vectorizer.analyzer == "char":
            tokens = self._characters(documents)
        else:
            tokens = self._characters_of_words(documents)
        return self._counts(self._padded(tokens))

    def _padded(self, tokens: ir.Value) -> ir.Value:
        """Append a column, so that a batch without any token has one."""
        network = self.network
        rows = network.node("Shape", tokens, start=0, end=1)
        shape = network.node("Concat", rows, network.integers([1]), axis=0)
        pad = network.node("Expand", network.constant(np.array([[_PAD]], object)), shape)
        return network.node("Concat", network.node("Reshape", tokens, self._rows_of(tokens, rows)), pad, axis=1)

    def _rows_of(self, tokens: ir.Value, rows: ir.Value) -> ir.Value:
        """Return the shape [N, tokens]; the tokenizer gives [N] rows of none if no document has one."""
        network = self.network
        size = network.node("Unsqueeze", network.node("Size", tokens), network.integers([0]))
        return network.node("Concat", rows, network.node("Div", size, rows), axis=0)

    def _words(self, documents: ir.Value) -> ir.Value:
        tokens = self._tokenized(documents, self._pattern())
        stop_words = self.vectorizer.get_stop_words()
        return self._without(tokens, stop_words) if stop_words and self.most > 1 else tokens

    def _pattern(self) -> str:
        pattern = self.vectorizer.token_pattern
        if pattern in _WHOLE_WORDS:
            return _WHOLE_WORDS[pattern]
        bare = pattern.removeprefix("(?u)")
        pieces = list(_PIECE.finditer(bare))
        if "".join(piece.group() for piece in pieces) != bare or (self.most > 1 and " " in bare):
            self._reject(
                f"has the token pattern {pattern!r}", r"use one of letters, character classes and \w, such as '[a-z]{2,}'"
            )
        return "".join(_CLASSES.get(piece.group(1), piece.group(1)) + (piece.group(2) or "") for piece in pieces)

    def _tokenized(self, documents: ir.Value, pattern: str) -> ir.Value:
        tokens = self.network.node(
            "Tokenizer", documents, domain=MICROSOFT, mark=0, mincharnum=1, pad_value=_PAD, tokenexp=pattern
        )
        tokens.type = ir.TensorType(ir.DataType.STRING)  # ONNX cannot infer what an operator of onnxruntime returns
        return tokens

    def _without(self, tokens: ir.Value, stop_words: Iterable[str]) -> ir.Value:
        """Move the tokens that are no stop words to the front, so that n-grams join them, and replace the others."""
        network = self.network
        words = sorted(stop_words)
        stop = network.node(
            "LabelEncoder", tokens, domain=ML_DOMAIN, keys_strings=words, values_int64s=[1] * len(words), default_int64=0
        )
        last = network.node("Shape", tokens, start=1, end=2)
        scalar = network.node("Squeeze", last)
        positions = network.node("Range", network.integers(0), scalar, network.integers(1))
        keys = network.node("Add", positions, network.node("Mul", stop, last))
        _, order = network.emit.nodes("TopK", [keys, last], where=network.where, count=2, axis=1, largest=0, sorted=1)
        kept = network.node(
            "Where", network.node("Cast", stop, to=int(ir.DataType.BOOL)), network.constant(np.array([_PAD], object)), tokens
        )
        return network.node("GatherElements", kept, order, axis=1)

    def _characters(self, documents: ir.Value) -> ir.Value:
        """Return characters, with one space for two or more."""
        network = self.network
        runs = self._tokenized(documents, rf"[{_SPACE}]{{2,}}|(?s:.)")
        several = network.node("RegexFullMatch", runs, pattern=rf"[{_SPACE}]{{2,}}")
        return network.node("Where", several, network.constant(np.array([" "], object)), runs)

    def _characters_of_words(self, documents: ir.Value) -> ir.Value:
        """Return the characters of each word between spaces; a pad after it keeps n-grams within the word."""
        network = self.network
        words = self._padded(self._tokenized(documents, f"[^{_SPACE}]+"))
        space, pad = (network.constant(np.array([text], object)) for text in (" ", _PAD))
        spaced = network.node("StringConcat", network.node("StringConcat", space, words), space)
        spaced = network.node("Where", network.node("Equal", words, pad), words, spaced)
        characters = self._tokenized(spaced, r"(?s:.)")
        ends = network.node("Concat", network.node("Shape", words), network.integers([1]), axis=0)
        cut = network.node("Concat", characters, network.node("Expand", pad, ends), axis=2)
        return network.node("Reshape", cut, network.integers([0, -1]))

    def _parts(self, gram: str) -> list[str]:
        """Return the tokens of an n-gram."""
        if self.vectorizer.analyzer != "word":
            return list(gram)
        return gram.split(" ") if self.most > 1 else [gram]

    def _counts(self, tokens: ir.Value) -> ir.Value:
        stop_words = self.vectorizer.get_stop_words() if self.vectorizer.analyzer == "word" else None
        grams: dict[int, list[tuple[list[str], int]]] = {size: [] for size in range(1, self.most + 1)}
        for gram, column in self.vectorizer.vocabulary_.items():
            parts = self._parts(gram)
            if self.vectorizer.analyzer == "char_wb" and len(parts) < self.least:
                self._reject(f"counts words shorter than its n-grams ({gram!r})", "train it with ngram_range from 3 or less")
            if self.least <= len(parts) <= self.most and not set(parts) & set(stop_words or ()):
                grams[len(parts)].append((parts, int(column)))
        return self._vectorized(tokens, list(self._in_order(grams)), [len(grams[size]) * size for size in grams])

    @staticmethod
    def _in_order(grams: dict[int, list[tuple[list[str], int]]]) -> Iterator[tuple[list[str], int]]:
        for size in sorted(grams):
            yield from grams[size]

    def _vectorized(self, tokens: ir.Value, grams: list[tuple[list[str], int]], sizes: list[int]) -> ir.Value:
        network = self.network
        width = len(self.vectorizer.vocabulary_)
        if not grams:
            self._reject("counts no n-gram that can occur", "train it again")
        counts = network.node(
            "TfIdfVectorizer",
            tokens,
            mode="TF",
            min_gram_length=self.least,
            max_gram_length=self.most,
            max_skip_count=0,
            pool_strings=[part for parts, _ in grams for part in parts],
            ngram_counts=np.r_[0, np.cumsum(sizes)[:-1]].tolist(),
            ngram_indexes=[column for _, column in grams],
        )
        short = width - 1 - max(column for _, column in grams)
        return network.node("Pad", counts, network.integers([0, 0, 0, short])) if short else counts

    def _reject(self, found: str, remedy: str) -> None:
        self.network.reject(f"{type(self.vectorizer).__name__} {found}, which ONNX cannot express: {remedy}")


TRANSFORMED = {
    "CountVectorizer": _counted,
    "TfidfVectorizer": _weighted_counts,
    "TfidfTransformer": _weighted,
    "HashingVectorizer": _hashed,
    "DictVectorizer": _dictionaries,
}
