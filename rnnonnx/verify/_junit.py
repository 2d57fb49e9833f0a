"""The report as JUnit XML, which CI systems show: a suite an engine, a case a tensor."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, Final

from .._files import replace_file
from ..errors import InputError

if TYPE_CHECKING:
    import os

    from .._parity_report import Drift, EngineReport, ParityReport, RoundedParity, TensorError

_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold, and the name of a layer may."""


def write_junit(report: ParityReport, path: str | os.PathLike[str]) -> None:
    """Write a report as a JUnit XML file.

    Args:
        report: What `verify` gave.
        path: The file; it is written whole or not at all.

    Raises:
        InputError: It cannot be written there.
    """
    root = ElementTree.Element("testsuites", name="rnnonnx verify")
    totals = [0, 0, 0]
    suites = [_suite(report, engine) for engine in report.engines if engine.name != "keras"]
    if report.rounded is not None:
        suites.append(_rounded_suite(report, report.rounded))
    for suite in suites:
        for index, key in enumerate(("tests", "failures", "skipped")):
            totals[index] += int(suite.get(key, "0"))
        root.append(suite)
    for key, total in zip(("tests", "failures", "skipped"), totals, strict=True):
        root.set(key, str(total))
    ElementTree.indent(root)
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    replace_file(path, content + b"\n", what="the JUnit file", error=InputError)


def _suite(report: ParityReport, engine: EngineReport) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_text(f"{report.model} in {engine.name}"))
    suite.set("time", f"{engine.seconds:.3f}")
    errors = [error for error in report.errors if error.engine == engine.name]
    drifts = [drift for drift in report.drift if drift.engine == engine.name]
    told = ElementTree.SubElement(suite, "properties")
    for key, value in (
        ("engine", engine.version or engine.name),
        ("runs", engine.runs),
        ("tolerance", f"{report.tolerance:g} ({report.budget})"),
    ):
        ElementTree.SubElement(told, "property", name=key, value=_text(value))
    if engine.not_run:
        case = _case(suite, report, engine.name, "every tensor")
        ElementTree.SubElement(case, "skipped", message=_text(engine.not_run))
    for error in errors:
        case = _case(suite, report, engine.name, f"{error.kind} {error.name}")
        if not error.ok:
            _fail(case, _beyond(error, report.tolerance), report, engine)
    for drift in drifts:
        name = f"{drift.kind} {drift.name} over {drift.steps} steps"
        case = _case(suite, report, engine.name, name)
        if not drift.ok:
            _fail(case, _drifted(drift, report.tolerance), report, engine)
    if engine.stopped:
        case = _case(suite, report, engine.name, "every tensor to the end of the stream")
        ElementTree.SubElement(case, "skipped", message=_text(engine.stopped))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("errors", "0")
    return suite


def _rounded_suite(report: ParityReport, rounded: RoundedParity) -> ElementTree.Element:
    """The comparison under the file's weights: a case a tensor, and one for the weights."""
    where = "rounded weights"
    suite = ElementTree.Element("testsuite", name=_text(f"{report.model} with {where}"))
    suite.set("time", "0")
    told = ElementTree.SubElement(suite, "properties")
    ElementTree.SubElement(told, "property", name="tolerance", value=f"{rounded.tolerance:g}")
    outcomes = [("weights and scales", "; ".join(rounded.wrong))]
    for error in rounded.errors:
        failed = "" if error.ok else _beyond(error, rounded.tolerance)
        outcomes.append((f"{error.kind} {error.name}", failed))
    for item in rounded.roundings:
        failed = "" if item.ok else f"off by {item.mean:.3g} on the average, bound {item.bound:g}"
        outcomes.append((f"{item.kind} {item.name} as it is rounded", failed))
    for name, failed in outcomes:
        case = _case(suite, report, where, name)
        if failed:
            ElementTree.SubElement(case, "failure", type="parity", message=_text(failed))
    suite.set("tests", str(len(outcomes)))
    suite.set("failures", str(sum(bool(failed) for _, failed in outcomes)))
    suite.set("skipped", "0")
    suite.set("errors", "0")
    return suite


def _case(
    suite: ElementTree.Element, report: ParityReport, engine: str, name: str
) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=_text(f"{report.model}.{engine}"), name=_text(name), time="0"
    )


def _fail(
    case: ElementTree.Element, message: str, report: ParityReport, engine: EngineReport
) -> None:
    failure = ElementTree.SubElement(case, "failure", type="parity", message=_text(message))
    lines = [message]
    if engine.runs == "the file" and report.departure is not None:
        lines.append(str(report.departure))
        lines += map(str, report.departure.weights)
    failure.text = _text("\n".join(lines))


def _beyond(error: TensorError, tolerance: float) -> str:
    return (
        f"off by {error.max_abs:.3g} ({error.max_rel:.3g} relative, tolerance {tolerance:g}) "
        f"at {error.where}"
    )


def _drifted(drift: Drift, tolerance: float) -> str:
    return (
        f"off by {drift.max_abs:.3g} ({drift.max_rel:.3g} relative, tolerance {tolerance:g}) "
        f"at step {drift.at_step} of {drift.steps}"
    )


def _text(value: str) -> str:
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", value)
