"""The report in a headless Chromium: no network, no console errors, the players play, the curves show."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cosmos_ros import images
from cosmos_ros.evaluation.aggregate import summarise
from cosmos_ros.evaluation.report.report import render

pytestmark = pytest.mark.processes

N_FUTURE = 24
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PATIENCE = 60  # seconds


class Browser:
    """Headless Chromium on a page, over the DevTools protocol by pipe: JSON messages that end in a NUL."""

    def __init__(self, url: str, profile: Path, size: tuple[int, int] = (1200, 900)) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        flags = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--remote-debugging-pipe",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
            f"--window-size={size[0]},{size[1]}",
            "about:blank",
        )
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
        wired = [(os.POSIX_SPAWN_DUP2, end, place) for place, end in enumerate(ends, start=3)]
        self._process = os.posix_spawn(CHROMIUM, [CHROMIUM, *flags], os.environ, file_actions=[*quiet, *wired])
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._buffer, self._id, self.events = b"", 0, []
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.url = url
        self.load()

    def load(self) -> None:
        """The page anew, all of it: a reload answers while the old one stands, and part of a page prints blank."""
        self.call("Page.navigate", url=self.url)
        self.until("document.readyState === 'complete'")

    def call(self, method: str, **params) -> dict:
        self._id += 1
        message = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def value(self, expression: str):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.05)

    def complaints(self) -> list[dict]:
        """What the console or the log of the page says is wrong."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        sent = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith("data:")]

    def close(self) -> None:
        self._session = None
        self.call("Browser.close")
        os.waitpid(self._process, 0)
        os.close(self._out)
        os.close(self._in)

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def record(i: int) -> dict:
    """A measured window with made-up curves."""

    def curves(psnr: float) -> dict:
        steps = range(N_FUTURE)
        return {
            "psnr": [psnr - 0.1 * k for k in steps],
            "moving_psnr": [None if k == 0 else psnr - 8 for k in steps],
            "ssim": [0.9 - 0.01 * k for k in steps],
            "motion_error": [0.5 + 0.01 * k for k in steps],
            "sampson": [None if k < 3 else 0.3 for k in steps],
        }

    failure = {"kind": "sudden_object", "frame": 3, "detail": "9% of the <image> is new in one piece"}
    return {
        "key": f"000-{i}",
        "bag": "drive & park",
        "time_ns": 10**9 * i,
        "conditioning_stamps_ns": [10**9 * i],
        "moving_share": 0.25,
        "mean_of_samples": curves(23.0),
        "samples": [
            curves(21.5 + i) | {"seed": 0, "hypothesis": 0, "failures": [failure] * (i == 2), "modified_by_guards": []}
        ],
        "repeat_last_frame": curves(20.0),
        "constant_flow": curves(21.0),
        "tokenizer_round_trip": curves(30.0) | {"failures": []},
        "truth": {"sampson": [0.3] * N_FUTURE, "failures": []},
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory, moving_scene) -> Path:
    """The report of six windows whose players show a scene in which every frame is another."""
    frames = [base64.b64encode(images.compress(frame)[1]).decode() for frame in moving_scene(9 + N_FUTURE, 120, 160)]
    pictures = {"frame_rate": 20.0, "camera": frames[:9]}
    pictures |= {"predicted": frames[9:][::-1], "truth": frames[9:], "difference": frames[9:]}
    records = [record(i) for i in range(6)]
    metrics = {
        "schema": "cosmos_ros/evaluation/2",
        "model": {"name": "a <model>", "frame_size": [120, 160], "guardrail": "embedded"},
        "plan": {"n_conditioning": 9, "n_future": N_FUTURE, "frame_rate": 20.0, "every_s": 1.0},
        "bags": [{"name": "drive & park", "bytes": 1}],
        "recordings": [{"name": "drive & park", "topic": "/image", "losses": ["3 images were lost"], "notes": []}],
        "skipped": [{"bag": "drive & park", "time_ns": 1, "reason": "CUT", "message": "the stamps jump back"}],
        "skipped_by_reason": {"CUT": 1},
        "samples": 1,
        "seed": 0,
        "temperature": 0.8,
        "top_p": 0.9,
        "time": {"started": "2026-01-01T00:00:00", "finished": "2026-01-01T00:01:00"},
        "versions": {"python": "3"},
        "hardware": {"cpu": "some"},
        "summary": summarise(records),
        "windows": records,
    }
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(metrics, {"seconds_per_window": {"predicting": 1.0}}, lambda key: pictures, ""))
    return path


@pytest.fixture(scope="module")
def browser(report, tmp_path_factory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: sudo apt install chromium")
    browser = Browser(report.as_uri(), tmp_path_factory.mktemp("profile"))
    browser.until("[...document.querySelectorAll('.player')].every(player => player.dataset.ready)")
    yield browser
    browser.close()


def test_it_opens_without_network_and_without_complaints(browser, report):
    assert browser.requests() == [report.as_uri()]
    assert browser.complaints() == []
    assert browser.value("document.title") == "a <model> on drive & park"


def test_it_holds_no_address_that_a_browser_would_fetch(report):
    text = report.read_text()
    assert not re.search(r"""(?:src|href|url|@import)\s*[=(]\s*["']?(?!data:)[\w/.]*//""", text)


def test_the_curves_show(browser):
    """Five charts, each with its rows' curves inside the drawing, of more than one height, and bands around them."""
    charts = browser.value(
        "[...document.querySelectorAll('.chart svg')].map(svg => [...svg.querySelectorAll('.curve')].map(curve => {"
        "const box = curve.getBBox(), frame = svg.getBoundingClientRect(), own = curve.getBoundingClientRect();"
        "return [box.width, own.left >= frame.left && own.right <= frame.right && own.top >= frame.top"
        " && own.bottom <= frame.bottom, getComputedStyle(curve).stroke]}))"
    )
    assert [len(curves) for curves in charts] == [4, 4, 4, 4, 5]  # the last has the true frames as well
    for curves in charts:
        assert all(width > 300 and inside for width, inside, _ in curves)
        assert len({stroke for _, _, stroke in curves}) == len(curves) and "none" not in {c for _, _, c in curves}
    assert browser.value("document.querySelectorAll('.chart .band').length") > 0


def test_the_numbers_show_under_the_pointer(browser):
    box = browser.value(
        "(() => { const svg = document.querySelector('.chart svg'); svg.scrollIntoView({block: 'center'});"
        "const box = svg.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2] })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
    browser.until("getComputedStyle(document.querySelector('.chart .tip')).visibility === 'visible'")
    tip = browser.value("document.querySelector('.chart .tip').innerText")
    assert tip.startswith(("step 12, +0.60 s", "step 13, +0.65 s"))
    assert "Model: 22." in tip and "Repeat the last frame (floor): 18." in tip


def test_the_players_play(browser):
    """Best, median and worst: each runs through its frames by itself, and what it shows changes."""
    titles = browser.value("[...document.querySelectorAll('.player h3')].map(title => title.textContent)")
    assert titles == ["Best window", "Median window", "Worst window"]
    for i in range(3):
        player = f"document.querySelectorAll('.player')[{i}]"
        pixels = f"[...{player}.querySelectorAll('.frame img')].map(image => image.src).join()"
        browser.value(f"{player}.querySelector('button').click()")
        seen = set()
        end = time.monotonic() + PATIENCE
        while len(seen) < 5:
            assert time.monotonic() < end, f"player {i} does not play"
            seen.add(browser.value(f"{player}.dataset.frame + {pixels}"))
        browser.value(f"{player}.querySelector('button').click()")
        stopped = browser.value(f"{player}.dataset.frame")
        time.sleep(0.2)
        assert browser.value(f"{player}.dataset.frame") == stopped
    assert browser.complaints() == []


def test_the_slider_goes_from_the_camera_to_the_prediction(browser):
    def at(frame: int) -> list:
        return browser.value(
            "(() => { const player = document.querySelector('.player'), slider = player.querySelector('input');"
            f"slider.value = {frame}; slider.dispatchEvent(new Event('input'));"
            "const [left, middle] = [...player.querySelectorAll('.frame img')].map(image => image.src);"
            "return [player.querySelector('output').textContent, left === middle] })()"
        )

    assert at(0) == ["camera \N{MINUS SIGN}0.40 s", True]
    assert at(8) == ["camera +0.00 s", True]
    assert at(9) == ["predicted +0.05 s, step 1", False]
    assert at(9 + N_FUTURE - 1) == [f"predicted +1.20 s, step {N_FUTURE}", False]


def test_a_player_shows_the_middle_of_the_horizon_before_any_script_has_run_and_in_print(report, browser):
    data = [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*predicted.*)</script>', report.read_text())
    ]
    stills = re.findall(r'<figure class="(\w+)">.*?src="data:image/jpeg;base64,([^"]+)"', report.read_text(), re.S)
    assert len(data) == 3 and len(stills) == 9
    for i, (name, still) in enumerate(stills):
        assert still == data[i // 3][name][N_FUTURE // 2]
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.load()
        browser.call("Emulation.setEmulatedMedia", media="print")
        printed = browser.call("Page.printToPDF", printBackground=False)
        assert len(base64.b64decode(printed["data"])) > 20_000
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
        browser.load()
        browser.until("document.querySelectorAll('.player[data-ready]').length === 3")


def test_names_from_outside_are_text_and_not_markup(browser):
    assert browser.value("document.querySelectorAll('model, image').length") == 0
    assert "9% of the <image> is new" in browser.value("document.body.innerText")


def test_a_phone_can_read_it(browser):
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=True)
    try:
        assert browser.value("document.documentElement.scrollWidth") <= 390
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
