"""What is written of a report: one HTML page that needs nothing else, JUnit XML, JSON."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from itertools import combinations

import pytest

from rnnonnx import InputError, MissingExtraError
from rnnonnx.verify import EngineReport, engine_names, verify, write_html, write_junit
from rnnonnx.verify._charts import STYLES, heat_map, histogram_chart, line_chart
from rnnonnx.verify._trail import HISTOGRAM_EDGES

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: its tags must nest, and what it loads is noted."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.loads, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r" ([,:.)])", r"\1", " ".join(" ".join(self.text).split()))


def page_of(report, folder):
    write_html(report, folder / "report.html")
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_page_of_a_model_that_departs(wrong, tmp_path):
    page = page_of(wrong, tmp_path)
    step = wrong.departure.step
    assert "stack departs from Keras" in page.words
    assert f"First departs in layer second, call 1, step {step}" in page.words
    assert "second/B (bias, gate f): 1 of 32 values differ, by up to 1.0e-3" in page.words
    for name in ("scores", "first.h", "second.c", "drop", "not in the graph", "300"):
        assert name in page.words
    # by step, by call for outputs and states; two of drift; a histogram; four states
    assert page.tags.count("svg") == 3 + 2 + 1 + 4


def test_the_page_needs_nothing_else(wrong, tmp_path):
    page = page_of(wrong, tmp_path)
    assert page.loads == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_of_a_model_that_agrees(stack, file, tmp_path):
    page = page_of(verify(stack, file, calls=1, against="rnnonnx,onnxruntime"), tmp_path)
    assert "stack agrees with Keras" in page.words
    assert "First departs" not in page.words
    assert "onnxruntime: all 5 within the tolerance" in page.words


def test_names_and_numbers_that_are_odd(wrong, tmp_path):
    name = "<script>&\"'</script>"
    odd = replace(wrong.errors[0], name=name, max_abs=math.inf, max_rel=math.nan)
    growth = replace(wrong.growth[-1], name=name, units=((math.inf, 0.0), (1e-7, math.nan)))
    layer = replace(wrong.layers[0], layer=name, max_rel=math.inf)
    curve = ((0, 0.0), (299, math.inf))
    drift = replace(wrong.drift[0], name=name, curve=curve, max_abs=math.inf)
    report = replace(
        wrong, model=name, errors=(odd,), growth=(growth,), layers=(layer,), drift=(drift,)
    )
    page = page_of(report, tmp_path)
    assert "script" not in page.tags
    assert name in page.words
    write_junit(report, tmp_path / "r.xml")
    (case, *_) = ElementTree.parse(tmp_path / "r.xml").iter("testcase")  # noqa: S314 - ours
    assert case.get("name") == f"output {name}"


def test_charts_without_anything_to_see():
    """Exact zeros have no logarithm; one point has no span."""
    for series in ({"a": [(0, 0.0)]}, {"a": [(1, 0.0), (2, 0.0)]}, {"a": [(0, math.inf)]}):
        Page(line_chart(series, tolerance=1e-5, x_label="step", colours={"a": 0}))
    counts = [0] * (len(HISTOGRAM_EDGES) + 2)
    Page(histogram_chart(counts, colour=0, tolerance=1e-5, label="a"))
    Page(heat_map([[0.0]] * 40, tolerance=0.0, label="a"))


def test_many_calls_share_the_rows_of_a_heat_map():
    units = [[1e-9, 1e-9] for _ in range(200)]
    units[113] = [1e-9, 1e-2]
    chart = heat_map(units, tolerance=1e-5, label="a")
    assert chart.count("<rect") == 40 * 2
    (worst,) = re.findall(r'beyond".*?<title>(.*?)</title>', chart)
    assert worst == "call 111, unit 1: 1.00e-02"


def test_the_largest_error_is_the_highest_point():
    chart = line_chart(
        {"a": [(0, 1e-7), (1, 1e-5), (2, 1e-6)]}, tolerance=1e-4, x_label="step", colours={"a": 0}
    )
    (points,) = re.findall(r'<polyline class="line s0" points="([^"]*)"', chart)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights[1] < heights[2] < heights[0]  # SVG counts from the top
    assert heights[2] - heights[1] == pytest.approx(heights[0] - heights[2], abs=0.2)


def test_engines_are_told_by_more_than_their_colour():
    """Each has a mark of its own in the chart; the page has a colour for it, light and dark."""
    names = engine_names()
    assert len(names) < STYLES  # so that none of ours begins again
    line = [(call, 1e-7) for call in range(1, 301)]
    chart = line_chart(
        dict.fromkeys(names, line),
        tolerance=1e-5,
        x_label="step",
        colours={name: index for index, name in enumerate(names)},
    )
    marks = re.findall(r'class="dot s(\d)" transform="translate\(([\d.]+),.*? d="([^"]*)"', chart)
    assert {style for style, _, _ in marks} == {str(index) for index in range(len(names))}
    assert len({shape for _, _, shape in marks}) == len(names)
    assert len({x for _, x, _ in marks}) == len(marks)  # none lies upon another
    text = resources.files("rnnonnx.verify").joinpath("report.html.j2").read_text("utf-8")
    light, dark = re.findall(r"--s0: .*", text)
    for palette in (light, dark):
        colours = re.findall(r"--s\d: #([0-9a-f]{6})", palette)
        assert len(colours) == STYLES
        for one, other in combinations([bytes.fromhex(colour) for colour in colours], 2):
            assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) > 60**2


def test_junit(wrong, tmp_path):
    absent = EngineReport("torch", "", "a model", None, not_run="not installed\x00")
    write_junit(replace(wrong, engines=(*wrong.engines, absent)), tmp_path / "r.xml")
    root = ElementTree.parse(tmp_path / "r.xml").getroot()  # noqa: S314 - ours
    ours, torch = root.findall("testsuite")
    failed = [
        case.get("name") for case in ours.iter("testcase") if case.find("failure") is not None
    ]
    assert set(failed) == {
        *(f"{e.kind} {e.name}" for e in wrong.errors if not e.ok),
        *(f"{d.kind} {d.name} over 300 steps" for d in wrong.drift if not d.ok),
    }
    assert ours.get("tests") == "10"  # five tensors, in calls and in the stream
    assert int(ours.get("failures")) == len(failed)
    text = ours.find("testcase/failure").text
    assert "layer 'second'" in text
    assert "second/B (bias, gate f)" in text
    assert torch.find("testcase/skipped").get("message") == "not installed\N{REPLACEMENT CHARACTER}"
    assert root.get("skipped") == "1"
    assert root.get("tests") == "11"


def test_json(wrong):
    document = json.loads(json.dumps(wrong.to_dict()))
    assert document["ok"] is False
    assert document["departure"]["layer"] == "second"
    assert document["departure"]["weights"][0]["part"] == "bias, gate f"
    assert document["errors"][0]["place"]["index"].keys() == {"row", "step", "unit"}
    assert document["drift"][0]["steps"] == 300
    assert [engine["name"] for engine in document["engines"]] == ["keras", "rnnonnx"]


@pytest.mark.parametrize("write", [write_html, write_junit])
def test_places_that_cannot_be_written(wrong, tmp_path, write):
    for place in (tmp_path, tmp_path / "no" / "r", ""):
        with pytest.raises(InputError, match="cannot write"):
            write(wrong, place)
    assert list(tmp_path.iterdir()) == []


def test_html_needs_an_extra(wrong, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="jinja2") as caught:
        write_html(wrong, tmp_path / "r.html")
    assert caught.value.remedy == 'pip install "rnnonnx[report]"'
