"""The page at `/` in a real browser: opened, pushed into, drawn on, spoken to, closed."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import rnnonnx
from rnnonnx.runtime import StatefulSession

api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PROBE = Path(rnnonnx.__file__).parent / "probe.onnx"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
SIZES = [(390, "light"), (1280, "dark")]


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=FLAGS, timeout=60_000
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """A visit of a server's page as a context; nothing may go wrong unseen in it."""

    @contextmanager
    def opened(server, *, width=1280, scheme="light", model="lstm"):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        context.set_default_timeout(15_000)
        page = context.new_page()
        trouble, addresses = [], []
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", lambda line: trouble.append(line.text) if _bad(line) else None)
        page.on("request", lambda request: addresses.append(request.url))
        page.on("websocket", lambda socket: addresses.append(socket.url))
        try:
            page.goto(f"http://{server.url}/")
            if model is not None:
                page.wait_for_selector(f"#model option[value={model}]", state="attached")
                page.select_option("#model", model)
            yield page
            own = re.compile(rf"(http|ws|blob:http)://{re.escape(server.url)}/")
            assert [address for address in addresses if not own.match(address)] == []
            assert trouble == []
        finally:
            context.close()

    return opened


def _bad(line):
    # that a key is asked for is a 401, which the browser writes into its console; and the tests
    # read what is drawn
    expected = "401" in line.text or "readback" in line.text
    return line.type in ("error", "warning") and not expected


def open_stream(page):
    page.click("#open")
    page.wait_for_selector("#push:enabled")


def steps(page, number):
    page.wait_for_function(
        "n => document.getElementById('stream-steps').textContent === String(n)", arg=number
    )


# Pixels of a canvas that have a colour of the theme, or nearly.
PIXELS = """([id, name]) => {
  const canvas = document.getElementById(id);
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  const wanted = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let at = 0; at < data.length; at += 4) {
    const off = wanted.map((value, band) => Math.abs(value - data[at + band]));
    if (data[at + 3] > 200 && Math.max(...off) < 40) found += 1;
  }
  return found;
}"""

SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""


def pixels(page, canvas, colour):
    return page.evaluate(PIXELS, [canvas, colour])


def drawn(page, canvas, colours, most):
    """Wait until a canvas has more pixels than that of these colours."""
    page.wait_for_function(
        "([id, names, most]) => names.map((name) => window.pixels([id, name]))"
        ".reduce((a, b) => a + b) > most",
        arg=[canvas, colours, most],
    )


# --- what it is -----------------------------------------------------------------------------


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def test_it_is_one_document_that_loads_nothing(server):
    status, headers, text = get(server, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.findall(r"https?://|@import|<link(?! rel=\"icon\" href=\"data:,\")", text)
    assert not re.findall(r"\b(?:src|srcset|action|on[a-z]+|style)=", text)
    policy = dict(
        rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert policy[rule].split()[0] == f"'sha256-{digest}'"
        assert "unsafe" not in policy[rule]
    assert headers["x-content-type-options"] == "nosniff"
    # the page writes text, and never markup
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", text)


def test_every_part_has_a_name(server):
    _, _, text = get(server, "/")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for kind in ("aria-labelledby", "aria-describedby", "aria-controls"):
        for names in re.findall(rf'{kind}="([^"]+)"', text):
            assert set(names.split()) <= set(ids)
    assert set(re.findall(r'\$\("([a-z-]+)"\)', text)) <= set(ids)


# --- what it does ---------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_a_stream_is_opened_pushed_into_and_closed(server, visit, width, scheme):
    x = np.array([0.5, -0.25, 1, 0.75, -1, 0.125], "float32")
    expected = StatefulSession(PROBE)(x.reshape(1, 6, 1)).ravel()
    with visit(server, width=width, scheme=scheme) as page:
        page.evaluate(SHIFTS)
        page.evaluate(f"() => {{ window.pixels = {PIXELS}; }}")
        assert page.is_disabled("#push")
        open_stream(page)
        assert pixels(page, "output-plot", "--s0") == 0
        page.fill("#inputs textarea", "0.5, -0.25, 1\n0.75")
        page.click("#push")
        steps(page, 4)
        page.fill("#inputs textarea", "-1 0.125")
        page.fill("#chunk", "2")
        page.click("#push")
        steps(page, 6)
        page.wait_for_function("() => document.querySelectorAll('#legend li').length === 1")
        shown = float(page.inner_text("#legend li"))
        assert shown == pytest.approx(float(expected[-1]), rel=1e-3)
        assert page.inner_text("#state-now") == "2 units over 5 chunks"
        assert "6 time steps" in page.get_attribute("#output-plot", "aria-label")
        drawn(page, "output-plot", ["--s0"], 50)
        drawn(page, "heat-map", ["--low", "--high"], 500)
        page.wait_for_function(
            "() => document.querySelector('[data-model=lstm] dd').textContent === '1 of 1024'"
        )
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert wide <= width
        assert page.evaluate("() => window.shifts") < 0.02
        page.click("#reset")
        steps(page, 0)
        assert page.inner_text("#stream-state") == "open"
        page.click("#close")
        page.wait_for_selector("#open:enabled")
        page.wait_for_function(
            "() => document.querySelector('[data-model=lstm] dd').textContent === '0 of 1024'"
        )
        assert page.inner_text("#error") in ("", "No error.")


def test_a_series_is_drawn_by_hand_or_by_keys(server, visit):
    with visit(server, width=390) as page:
        open_stream(page)
        page.click("#tab-draw")
        page.fill("#pad-steps", "20")
        page.fill("#pad-chunk", "5")
        page.locator("#pad").scroll_into_view_if_needed()
        box = page.locator("#pad").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 10, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 15, steps=4)
        page.mouse.move(box["x"] + box["width"] - 10, middle, steps=4)
        page.mouse.up()
        series = page.evaluate("() => pad.values")
        assert len(series) == 20
        assert max(series) > 0.7
        assert series[0] == pytest.approx(0, abs=0.05)
        assert np.all(np.diff(series[:9]) > 0)
        page.focus("#pad")
        for key in ("Home", "ArrowRight", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        assert page.get_attribute("#pad", "aria-valuetext").startswith("step 2: ")
        assert page.evaluate("() => pad.values[1]") == pytest.approx(series[1] - 0.2)
        page.click("#pad-push")
        steps(page, 20)
        values = np.array(page.evaluate("() => pad.values"), "float32").reshape(1, 20, 1)
        shown = float(page.inner_text("#legend li"))
        assert shown == pytest.approx(float(StatefulSession(PROBE)(values)[0, -1, 0]), rel=1e-3)
        assert page.inner_text("#state-now") == "2 units over 4 chunks"


def test_the_microphone(server, visit):
    with visit(server) as page:
        open_stream(page)
        page.click("#tab-microphone")
        page.fill("#rate", "8000")
        page.fill("#audio-chunk", "400")
        page.click("#listen")
        page.wait_for_function(
            "() => Number(document.getElementById('stream-steps').textContent) >= 4000"
        )
        assert "8000" in page.inner_text("#audio-state")
        got = page.evaluate("() => [live.history.get('y').length, live.steps, live.chunks]")
        assert got[0] == 240
        assert got[1] == 400 * got[2]
        # the fake device beeps
        page.wait_for_function("() => document.getElementById('level').value > 0.05")
        page.click("#listen")
        assert page.inner_text("#listen") == "Listen"
        assert page.inner_text("#audio-state") == "not listening"


# A sine of 440 Hz stays one, and one above half of the new rate is taken out.
RESAMPLED = """async ([from, to, hertz]) => {
  const context = new OfflineAudioContext(1, from, from);
  const url = URL.createObjectURL(new Blob([WORKLET], { type: "text/javascript" }));
  await context.audioWorklet.addModule(url);
  const node = new AudioWorkletNode(context, "samples",
    { processorOptions: { rate: to, chunk: 100 } });
  const heard = [];
  node.port.onmessage = ({ data }) => heard.push(...data);
  const tone = new OscillatorNode(context, { frequency: hertz });
  tone.connect(node).connect(context.destination);
  tone.start();
  await context.startRendering();
  for (let before = -1; before !== heard.length; ) {
    before = heard.length;
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  return heard;
}"""


def test_sound_is_resampled(server, visit):
    with visit(server) as page:
        for case in [
            (48000, 16000, 440, True),
            (48000, 16000, 11000, False),
            (16000, 22050, 440, True),
        ]:
            check_sound(page, *case)


def check_sound(page, source, target, hertz, kept):
    heard = np.array(page.evaluate(RESAMPLED, [source, target, hertz]))
    assert abs(len(heard) - target) < 0.02 * target
    middle = heard[1000:-1000]
    if not kept:
        assert np.abs(middle).max() < 0.02
        return
    # the best sine of that frequency explains it
    time = np.arange(len(middle)) / target
    basis = np.stack([f(2 * np.pi * hertz * time) for f in (np.sin, np.cos)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, middle, rcond=None)
    assert np.hypot(*weights) == pytest.approx(1, abs=0.01)
    assert np.abs(middle - basis @ weights).max() < 0.01


def test_errors_are_shown_and_nothing_is_lost(server, visit):
    with visit(server, model="two") as page:
        open_stream(page)
        for text, shown in [
            ("", "has no values"),
            ("1 two", "“two” is no FP32"),
            ("1 2 3", "takes 2 values, not 3"),
            ("1e39 0", "“1e39” is no FP32"),
        ]:
            page.fill("#inputs textarea", text)
            page.click("#push")
            page.wait_for_function(
                "text => document.getElementById('error').textContent.includes(text)", arg=shown
            )
        page.fill("#inputs textarea", "1 2")
        page.click("#push")
        steps(page, 1)
        assert page.text_content("#error") == ""
        assert page.locator("#legend li").all_inner_texts() == ["1: 1", "2: 2"]
        page.select_option("#output", "negative")
        assert page.locator("#legend li").all_inner_texts() == ["1: -1", "2: -2"]


def test_a_stream_with_a_name_is_taken_up_again(server, visit):
    with visit(server, model="ledger") as page:
        page.fill("#sequence", "of the page")
        page.check("#continue")
        page.click("#open")
        page.wait_for_function(
            "() => document.getElementById('error').textContent.includes('not open')"
        )
        page.uncheck("#continue")
        open_stream(page)
        page.fill("#inputs textarea", "5")
        page.click("#push")
        steps(page, 1)
    with visit(server, model="ledger") as page:
        page.wait_for_function(
            "() => document.querySelector('[data-model=ledger] .names').textContent"
            ".includes('of the page')"
        )
        page.fill("#sequence", "of the page")
        page.check("#continue")
        open_stream(page)
        assert page.inner_text("#stream-steps") == "1"
        page.click("#close")


def test_it_can_be_used_by_keys_alone(server, visit):
    with visit(server) as page:
        page.focus("#model")
        for _ in range(3):
            page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "open"
        page.keyboard.press("Enter")
        page.wait_for_selector("#push:enabled")
        page.focus("#tab-type")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("() => document.activeElement.id") == "tab-draw"
        assert page.is_visible("#panel-draw")
        assert not page.is_visible("#panel-type")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Tab")
        page.keyboard.type("0.5")
        page.focus("#push")
        page.keyboard.press("Enter")
        steps(page, 1)


CONTRASTS = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || /SCRIPT|STYLE/.test(node.tagName)) continue;
    const sides = [light(getComputedStyle(node).color), light(ground(node))].sort((a, b) => a - b);
    found.push([(sides[1] + 0.05) / (sides[0] + 0.05), node.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""


def test_text_can_be_read(server, visit):
    with visit(server) as page:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_timeout(150)  # until the buttons' colours have changed
            found = page.evaluate(CONTRASTS)
            assert len(found) > 30
            assert [item for item in found if item[0] < 4.5] == []


# --- keys -----------------------------------------------------------------------------------


def test_a_key_is_asked_for_and_kept_in_memory_alone(models, kit, visit, tmp_path):
    file = tmp_path / "keys.json"
    command = [sys.executable, "-m", "rnnonnx.cli", "key", "me", "--keys", str(file)]
    key = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    with (
        kit.serving(models / "lstm.onnx", "--keys", file) as server,
        visit(server, model=None) as page,
    ):
        page.wait_for_selector("#key-dialog[open]")
        page.keyboard.press("Escape")
        page.fill("#key", "me.wrong")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('key-error').textContent.includes('not known')"
        )
        page.fill("#key", key.stdout.strip())
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => document.getElementById('server').textContent.includes('key me')"
        )
        open_stream(page)
        page.fill("#inputs textarea", "0.5")
        page.click("#push")
        steps(page, 1)
        kept = "() => [localStorage.length, sessionStorage.length, document.cookie]"
        assert page.evaluate(kept) == [0, 0, ""]
        page.reload()
        page.wait_for_selector("#key-dialog[open]")
