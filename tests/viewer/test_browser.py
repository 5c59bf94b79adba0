"""The page in a real browser: headless Chromium by its command line. Pictures of it go to build/screenshots/."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drawn_runs import HTML, drawn_run
from stepcredit.viewer import report

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = shlex.split(
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr --virtual-time-budget=2000"
)
DARK = "--blink-settings=preferredColorScheme=0"
Look = Callable[..., tuple[str, str]]


@pytest.fixture(scope="session")
def browse(tmp_path_factory) -> Look:
    """`browse(page, flags...)`: the page's DOM after its scripts ran, and what it wrote to the console."""
    profile = tmp_path_factory.mktemp("profile")
    browser = find_browser()

    def run(page: Path, *flags: str) -> tuple[str, str]:
        command = [browser, *QUIET, f"--user-data-dir={profile}", "--dump-dom", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return run


def find_browser() -> str:
    browser = first_browser()
    if browser is None and sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        try:
            subprocess.run(install, capture_output=True, timeout=240, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("there is no Chromium, and installing it took longer than 240 s")
        browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no Chromium here; on Debian: apt-get install chromium")
    return browser


def first_browser() -> str | None:
    paths = [shutil.which(name) for name in NAMES]
    return next((path for path in paths if path is not None), None)


@pytest.fixture(scope="session")
def page(finished) -> Path:
    return report.write(finished)


def asked(browse: Look, page: Path, folder: Path, script: str, *flags: str) -> Any:
    """Open a copy of the page with one more script at its end; what that leaves in `told` comes back."""
    more = f"<script>(() => {{ let told; {script}; document.body.dataset.told = JSON.stringify(told); }})();</script>"
    out = folder / "scripted.html"
    out.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{more}</body>"), encoding="utf-8")
    dom, console = browse(out, *flags)
    assert console == ""
    return json.loads(unescape(re.search(r'data-told="([^"]*)"', dom)[1]))


def test_the_page_runs_without_a_word_on_the_console(browse, page):
    dom, console = browse(page)
    assert console == ""
    pairs = re.findall(r"<figure [^>]*>", dom)
    assert len(pairs) == 32
    assert ["hidden" in pair for pair in pairs] == [False] * 24 + [True] * 8
    groups = re.findall(r'<div class="chart group"[^>]*>', dom)
    assert ["hidden" in group for group in groups] == [False] + [True] * (len(groups) - 1)
    assert len(groups) == 6


def test_a_run_without_pictures_has_a_page_that_runs(browse, tmp_path):
    for state in ("no look", "nothing"):
        _, console = browse(report.write(drawn_run(tmp_path / state, state=state)))
        assert console == ""


def test_an_html_caption_is_shown_and_not_run(browse, tmp_path):
    path = report.write(drawn_run(tmp_path / "run", captions=[HTML]))
    script = 'told = [document.title, document.querySelector("figcaption").textContent, document.scripts.length]'
    assert asked(browse, path, tmp_path, script) == ["run: otca", HTML, 2]


CHOOSE = """
  const choose = (id, value) => {
    const box = document.getElementById(id); box.value = value; box.dispatchEvent(new Event("change"));
  };
  const shown = () => [...document.querySelectorAll(".pair:not([hidden])")];
"""


@pytest.mark.parametrize("order", ["gain", "loss"])
def test_pairs_are_sorted_by_the_chosen_score_and_unknown_ones_come_last(browse, page, tmp_path, order):
    script = f"""{CHOOSE} choose("score", "hps"); choose("order", "{order}"); choose("amount", "48");
      told = shown().map((pair) => pair.getAttribute("data-gain-1"))"""
    gains = [float(gain) for gain in asked(browse, page, tmp_path, script)]
    assert len(gains) == 32
    assert np.isnan(gains[-1])
    steps = np.diff(gains[:-1])
    assert (steps <= 0).all() if order == "gain" else (steps >= 0).all()
    assert steps.any()


def test_pairs_can_be_ordered_by_caption_and_put_back(browse, page, tmp_path):
    script = f"""{CHOOSE} const captions = () => shown().map((pair) => pair.dataset.caption);
      const first = captions(); choose("order", "caption"); choose("amount", "96"); const sorted = captions();
      choose("order", "as"); choose("amount", "24"); told = [first, sorted, captions()]"""
    first, ordered, again = asked(browse, page, tmp_path, script)
    assert again == first
    assert ordered == sorted(ordered) != first
    assert (len(first), len(ordered)) == (24, 32)


def test_the_chosen_group_is_the_one_that_is_shown(browse, page, tmp_path):
    script = f"""{CHOOSE} choose("group", "4");
      told = [...document.querySelectorAll(".group:not([hidden])")].map((chart) => chart.id)"""
    assert asked(browse, page, tmp_path, script) == ["group-4"]


# How it looks


@pytest.mark.parametrize("width", [390, 760, 1200])
def test_nothing_is_wider_than_the_window(browse, page, width, tmp_path):
    frame = tmp_path / "frame.html"  # a window has a least width; a frame in it has none
    frame.write_text(
        f'<body style="margin:0"><iframe src="inner.html" style="border:0;width:{width}px;height:2000px"></iframe>'
        '<script>addEventListener("message", (event) => { document.body.dataset.told = event.data; });</script>'
    )
    telling = """<script>addEventListener("load", () => {
      const all = [...document.querySelectorAll("body *:not(svg *)")];
      const wide = all.filter((item) => item.scrollWidth > item.clientWidth + 1
        && getComputedStyle(item).overflowX === "visible" && getComputedStyle(item).display === "block");
      const told = [innerWidth, document.documentElement.scrollWidth, wide.map((item) => item.outerHTML.slice(0, 60))];
      parent.postMessage(JSON.stringify(told), "*");
    });</script>"""
    (tmp_path / "inner.html").write_text(page.read_text(encoding="utf-8").replace("</body>", f"{telling}</body>"))
    dom, console = browse(frame, f"--window-size={max(width, 500)},2000", f"--screenshot={shot(f'width-{width}')}")
    assert console == ""
    inner, needed, wide = json.loads(unescape(re.search(r'data-told="([^"]*)"', dom)[1]))
    assert (inner, wide) == (width, [])
    assert needed <= width


def shot(name: str) -> Path:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return SCREENSHOTS / f"{name}.png"


def test_light_and_dark_differ_in_their_paper(browse, page):
    corners = {}
    for theme, flags in {"light": [], "dark": [DARK]}.items():
        browse(page, "--window-size=1200,5000", f"--screenshot={shot(theme)}", *flags)
        with Image.open(shot(theme)) as picture:
            assert picture.size == (1200, 5000)
            corners[theme] = picture.convert("RGB").getpixel((3, 300))
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 500  # charts and pictures are drawn
    assert corners == {theme: rgb(colours["--paper"]) for theme, colours in themes().items()}


def themes() -> Mapping[str, Mapping[str, str]]:
    """The CSS variables of both themes."""
    css = (Path(report.__file__).parent / "page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"(--\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S))
    assert light.keys() == dark.keys()
    return {"light": light, "dark": dark}


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """Of the Web Content Accessibility Guidelines: 1 for equal colours, 21 for black on white."""

    def brightness(colour: Sequence[float]) -> float:
        parts = np.array(colour) / 255
        return float(
            np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
        )

    lighter, darker = sorted((brightness(one), brightness(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_it_stands_on(theme):
    colours = {name: np.array(rgb(colour)) for name, colour in themes()[theme].items()}
    pairs = [(ink, paper) for ink in ("--ink", "--muted", "--good", "--bad") for paper in ("--paper", "--card")]
    readable = {(ink, paper): contrast(colours[ink], colours[paper]) >= 4.5 for ink, paper in pairs}
    assert readable == dict.fromkeys(pairs, True)
    for hue in ("--more", "--less"):  # a number in a cell: at most half of the hue over the card
        assert contrast(colours["--ink"], (colours[hue] + colours["--card"]) / 2) >= 4.5
    for curve in (name for name in colours if re.fullmatch(r"--c\d", name)):
        assert contrast(colours[curve], colours["--card"]) >= 3
