"""The report: one self-contained page, and the same numbers as JSON."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgewright.cli import main
from quantize.report.charts import sqnr_plot
from quantize.report.detail import Change, ClassAccuracy, read_details
from quantize.report.page import MOST_CLASSES, collect, page
from tests.support.quantize_builds import fresh_build, quantized_build


class Balanced(HTMLParser):
    """A parser that fails on an element that is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_page_and_the_json_are_written_beside_each_other(tmp_path: Path) -> None:
    result = report(quantized_build().path, "-o", tmp_path / "page.html")
    assert result.exit_code == 0
    assert result.output == f"wrote {tmp_path / 'page.html'} and page.json\n"
    written = json.loads((tmp_path / "page.json").read_text("utf-8"))
    assert {"fp32", "fp16", "int8", "mixed"} <= set(written["variants"])
    assert written["same_samples"] is True


def test_the_page_needs_no_network_and_no_script() -> None:
    text = page(collect(quantized_build()))
    assert not re.search(r"https?://|<script|<link|@import|url\(|src=", text)


def test_every_element_of_the_page_is_closed() -> None:
    parser = Balanced()
    parser.feed(page(collect(quantized_build())))
    assert parser.open == []


@pytest.mark.parametrize(
    "title",
    ["Size and latency", "Accuracy per class", "SQNR per layer", "Changed predictions", "Operators in float"],
)
def test_the_page_has_a_section(title: str) -> None:
    assert f"<h2>{title}</h2>" in page(collect(quantized_build()))


def test_classes_and_changes_agree_with_the_evaluation() -> None:
    detail = read_details(quantized_build())["int8"]
    count = sum(one.count for one in detail.classes)
    correct = sum(round(one.count * one.accuracy) for one in detail.classes)
    assert count == detail.evaluation.count
    assert correct / count == pytest.approx(detail.evaluation.accuracy)
    changed = sum(change.count for change in detail.changes)
    assert 1 - changed / count == pytest.approx(detail.evaluation.agreement)
    assert all(isinstance(one, ClassAccuracy) for one in detail.classes)
    assert all(isinstance(one, Change) and one.before != one.after for one in detail.changes)


def test_every_layer_has_an_sqnr_that_falls_with_coarser_rounding() -> None:
    details = read_details(quantized_build())
    assert details["fp32"].layers == ()
    half, whole = ({one.node: one.sqnr_db for one in details[name].layers} for name in ("fp16", "int8"))
    assert {"hidden/Gemm", "classes/Gemm"} & set(whole)
    assert all(half[node] > whole[node] for node in set(half) & set(whole) if whole[node] < 100)


def test_the_softmax_stays_in_float_with_its_reason() -> None:
    fallbacks = read_details(quantized_build())["int8"].float_fallbacks
    assert [one.operator for one in fallbacks] == ["Softmax"]
    assert "1/256" in fallbacks[0].reason


def test_a_name_from_the_model_cannot_become_markup() -> None:
    drawn = sqnr_plot({"int8": [("<script>", 20.0), ("b", 30.0)]}, {"int8": 0}, 20.0)
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn


def test_variants_measured_on_different_samples_are_not_compared_silently(tmp_path: Path) -> None:
    shutil.copytree(quantized_build().path, tmp_path / "build")
    path = tmp_path / "build" / "reports" / "detail-int8.json"
    path.write_text(re.sub(r'"samples": "sha256:....', '"samples": "sha256:0000', path.read_text("utf-8")), "utf-8")
    result = report(tmp_path / "build", "--json")
    assert json.loads(result.output)["same_samples"] is False
    assert "measured on different samples" in (tmp_path / "build" / "reports" / "report.html").read_text("utf-8")


def test_a_build_without_measurements_is_refused(tmp_path: Path) -> None:
    build = fresh_build(tmp_path / "build")
    result = report(build.path)
    assert result.exit_code == 2
    assert result.stderr == (f"edgewright: {build.reports} must hold measurements, but it has none: run 'edgewright quantize'\n")


def test_only_the_classes_that_differ_most_are_shown_of_a_thousand() -> None:
    built = collect(quantized_build())
    before = tuple(ClassAccuracy(label=f"kind {place}", count=2, accuracy=1.0) for place in range(1000))
    after = (*before[:777], replace(before[777], accuracy=0.5), *before[778:])
    shown = {"fp32": before, "int8": after}
    variants = {name: replace(built.variants[name], classes=classes) for name, classes in shown.items()}
    text = page(replace(built, variants=variants))
    assert text.count("<td>kind ") == MOST_CLASSES
    assert "<td>kind 777</td>" in text
    assert "Of 1000 classes, the 40 that differ most are shown." in text
