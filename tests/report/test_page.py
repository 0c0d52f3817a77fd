"""The page in a browser, from the disk: what it shows, how it is operated, what it draws."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
from PIL import Image

from camcli.outputs import arrays, paths, render
from camcli.outputs.render import Style
from camcli.report.building import build
from tests.report.synthetic import HOSTILE, LABELS, write_run

Page = Any
TILES = "#gallery li"


def shown(page: Page) -> list[str]:
    """The names of the tiles that exist, in their order."""
    return page.eval_on_selector_all(f"{TILES} .key", "all => all.map((e) => e.textContent)")


def count(page: Page) -> str:
    return page.inner_text("#count")


def counted(page: Page, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('count').textContent === text", arg=text
    )


def settled(page: Page) -> None:
    """Wait until everything in view is drawn."""
    page.wait_for_function(
        "() => [...document.querySelectorAll('#gallery li:not(.failed) .sheet')].every((sheet) => {"
        " const [image, canvas] = sheet.children;"
        " return (image.hidden || image.complete && image.naturalWidth) &&"
        " (canvas.hidden || canvas.dataset.painted); })"
    )


def pixels(page: Page, canvas: str) -> np.ndarray:
    """What is on a canvas, (height, width, 4)."""
    page.wait_for_function(
        "canvas => document.querySelector(canvas)?.dataset.painted === JSON.stringify(style)",
        arg=canvas,
    )
    width, height, flat = page.eval_on_selector(
        canvas,
        """canvas => {
            const { width, height } = canvas;
            const copy = Object.assign(document.createElement("canvas"), { width, height });
            const pen = copy.getContext("2d", { willReadFrequently: true });
            pen.drawImage(canvas, 0, 0);
            return [width, height, [...pen.getImageData(0, 0, width, height).data]];
        }""",
    )
    return np.array(flat, np.float64).reshape(height, width, 4)


def test_only_the_tiles_in_view_exist(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        assert count(page) == "2,000 of 2,000 pictures"
        assert 10 <= len(shown(page)) <= 60
        assert page.evaluate("document.getElementById('gallery').clientHeight") > 50_000
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        page.wait_for_function(
            "() => document.querySelector('#gallery').innerText.includes('001995')"
        )
        assert len(shown(page)) <= 60


def test_filters_and_the_search_leave_what_was_asked_for(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        page.select_option("#status", label="Failed")
        counted(page, "40 of 2,000 pictures")
        assert page.inner_text(f"{TILES} .sentence") == "not a picture <b>at all</b>"
        page.select_option("#status", label="All")
        page.select_option("#predicted", index=1)
        labels = page.eval_on_selector_all(
            f"{TILES} strong", "all => all.map((e) => e.textContent)"
        )
        assert len(set(labels)) == 1
        page.select_option("#predicted", label="All")
        page.select_option("#answer", label="Right")
        counted(page, "1 of 2,000 pictures")
        page.select_option("#answer", label="Wrong")
        counted(page, "1 of 2,000 pictures")
        page.select_option("#answer", label="All")
        page.fill("#search", "00123")
        counted(page, "11 of 2,000 pictures")
        page.fill("#search", "nothing is called so")
        counted(page, "0 of 2,000 pictures")
        page.click("#all")
        counted(page, "2,000 of 2,000 pictures")


@pytest.mark.parametrize("column", ["confidence", "completeness", "hot", "disagreement"])
def test_orders_are_those_of_the_figures(large: Path, opened: Callable, column: str) -> None:
    with opened(large) as page:
        for sign in "-+":
            page.select_option("#order", f"{column}{sign}")
            values = page.evaluate(
                f"[...gallery.pictures].map((p) => columns.{column}[p])"
                ".map((v) => Number.isNaN(v) ? null : v)"
            )
            known = [value for value in values if value is not None]
            assert len(known) > 1000
            assert known == sorted(known, reverse=sign == "-")
            assert values[len(known) :] == [None] * (len(values) - len(known))
        page.select_option("#order", "name")
        assert shown(page) == sorted(shown(page))


def test_the_canvas_shows_what_python_draws(large: Path, opened: Callable) -> None:
    """Over the same photo the two differ by at most two levels of 255, mostly by none."""
    key = "000004.jpg"
    maps, geometry = arrays.read(large / paths.npz_path(key))
    photo = Image.open(large.parent / "in" / key)
    with opened(large) as page:
        page.fill("#search", key)
        counted(page, "1 of 2,000 pictures")
        for changed in ({"alpha": 0.95}, {"colormap": "viridis"}, {"signed": True}):
            style = replace(Style(), **changed)
            page.evaluate("changes => setStyle({...drawnStyle(), ...changes})", changed)
            layer = pixels(page, f"{TILES} canvas")
            base = photo.resize((layer.shape[1], layer.shape[0]))
            drawn = np.asarray(render.draw(maps[0], geometry, base, style), np.float64)
            opacity = layer[..., 3:] / 255
            composed = np.asarray(base, np.float64) * (1 - opacity) + layer[..., :3] * opacity
            distance = np.abs(composed - drawn)
            assert distance.mean() < 0.7
            assert np.quantile(distance, 0.999) <= 3
            assert opacity.max() > 0.5


def test_opacity_threshold_colours_and_signs_change_the_canvas(
    large: Path, opened: Callable
) -> None:
    with opened(large) as page:
        page.fill("#search", "000004.jpg")
        counted(page, "1 of 2,000 pictures")
        canvas = f"{TILES} canvas"
        settled(page)
        assert page.is_hidden(canvas)  # the overlay of the run
        assert "overlays/" in page.get_attribute(f"{TILES} img", "src")
        before = None
        for change in (
            lambda: page.fill("#drawing [data-style=alpha]", "0.3"),
            lambda: page.fill("#drawing [data-style=threshold]", "0.6"),
            lambda: page.select_option("#drawing [data-style=colormap]", "turbo"),
            lambda: page.select_option("#drawing [data-style=scale]", "run"),
            lambda: page.check("#drawing [data-style=signed]"),
        ):
            change()
            after = pixels(page, canvas)
            assert before is None or not np.array_equal(before, after)
            before = after
        page.click("#reset")
        page.wait_for_selector(canvas, state="hidden")


def test_original_and_overlay_take_turns(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        page.fill("#search", "000004.jpg")
        counted(page, "1 of 2,000 pictures")
        image = page.locator(f"{TILES} img")
        page.focus(f"{TILES} .open")
        for expected in ("in/000004.jpg", "overlays/000004.jpg"):
            page.keyboard.press("o")
            page.wait_for_function(
                f"() => document.querySelector('{TILES} img').src.includes('{expected}')"
            )
        page.click("input[value=original]")
        page.wait_for_function(f"() => document.querySelector('{TILES} img').src.includes('in/0')")
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 320


def test_the_keyboard_alone_operates_the_gallery_and_the_detail(
    large: Path, opened: Callable
) -> None:
    with opened(large) as page:
        page.focus(f"{TILES} .open")
        across = page.evaluate("gallery.across")
        focused = "document.activeElement.closest('li')?.dataset.at"
        for key, place in (("ArrowRight", 1), ("ArrowDown", 1 + across), ("ArrowLeft", across),
                           ("End", None), ("Home", 0), ("PageDown", None),
                           ("ArrowRight", None)):  # fmt: skip
            page.keyboard.press(key)
            now = int(page.evaluate(focused))
            assert place is None or now == place
            box = page.evaluate("(({top, bottom}) => [top, bottom])"
                                "(document.activeElement.getBoundingClientRect())")  # fmt: skip
            assert box[0] >= page.evaluate("gallery.covered()")
            assert box[1] <= 901
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        page.wait_for_function("place => document.getElementById('position').textContent"
                               ".startsWith(String(place))", arg=now + 1)  # fmt: skip
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="hidden")
        assert int(page.evaluate(focused)) == now + 1


def test_the_detail_shows_every_map_and_the_record(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        page.fill("#search", "000001.jpg")
        counted(page, "1 of 2,000 pictures")
        page.click(f"{TILES} .open")
        page.wait_for_selector("#maps figure:nth-child(3)")
        text = page.inner_text("#detail-body")
        for part in ("000001.jpg", "hirescam", "gradcam", "Completeness error", "SHA-256",
                     "320×240", "wrong", "given as tench", "Predictions",
                     "JSON record"):  # fmt: skip
            assert part in text, part
        page.fill("#detail-drawing [data-style=alpha]", "1")
        first = pixels(page, "#maps figure:nth-child(2) canvas")
        second = pixels(page, "#maps figure:nth-child(3) canvas")
        assert not np.array_equal(first, second)
        for link in page.eval_on_selector_all("#record a", "all => all.map((a) => a.href)"):
            assert Path(unquote(urlparse(link).path)).is_file(), link


def test_charts_count_the_pictures_shown(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        titles = page.eval_on_selector_all("#charts strong", "all => all.map((e) => e.textContent)")
        assert titles == ["Confidence", "Completeness error", "Hot fraction",
                          "Disagreement between methods", "Failures"]  # fmt: skip
        bars = page.eval_on_selector_all(
            "#charts figure:first-child title", "all => all.map((e) => e.textContent)"
        )
        total = sum(int(bar.split(": ")[1].split()[0].replace(",", "")) for bar in bars)
        assert total == 1960
        page.select_option("#status", label="Failed")
        counted(page, "40 of 2,000 pictures")
        assert page.eval_on_selector_all(
            "#charts strong", "all => all.map((e) => e.textContent)"
        ) == ["Failures"]


def test_hostile_names_and_labels_are_text_and_nothing_else(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        assert shown(page)[: len(HOSTILE)] == list(HOSTILE)
        options = page.eval_on_selector_all(
            "#predicted option", "all => all.map((e) => e.textContent)"
        )
        assert any(option.startswith(LABELS[2]) for option in options)
        for place in range(len(HOSTILE)):
            page.click(f"{TILES}[data-at='{place}'] .open")
            page.wait_for_function(
                "name => document.getElementById('detail-title').textContent === name",
                arg=HOSTILE[place],
            )
            page.wait_for_selector("#maps figure:nth-child(3)")
            page.keyboard.press("Escape")
        settled(page)  # their overlays too are found
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("#gallery script, #detail script, #gallery b, header i").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(large: Path, opened: Callable, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(large, width=width, height=844, scheme=scheme) as page:
        page.evaluate("for (const panel of document.querySelectorAll('details')) panel.open = true")
        counted(page, "2,000 of 2,000 pictures")
        assert axe.run(page).response["violations"] == []
        page.select_option("#status", label="Failed")
        counted(page, "40 of 2,000 pictures")
        assert axe.run(page).response["violations"] == []
        page.select_option("#status", label="All")
        page.evaluate("gallery.focus(0)")
        page.keyboard.press("Enter")
        page.wait_for_selector("#maps figure:nth-child(3)")
        assert axe.run(page).response["violations"] == []


def test_a_phone_shows_two_tiles_a_row_and_nothing_beside_the_screen(
    large: Path, opened: Callable
) -> None:
    with opened(large, width=390, height=844) as page:
        wide = "document.documentElement.scrollWidth"
        assert page.evaluate("gallery.across") == 2
        assert page.evaluate(wide) == 390
        page.evaluate("gallery.focus(0)")
        page.keyboard.press("Enter")
        page.wait_for_selector("#maps figure:nth-child(3)")
        body = "document.getElementById('detail-body')"
        assert page.evaluate(f"{body}.scrollWidth <= {body}.clientWidth")
        assert page.evaluate(wide) == 390


def test_a_page_that_holds_all_opens_alone(tmp_path: Path, opened: Callable) -> None:
    out = write_run(tmp_path / "out", 30, tmp_path / "in", failing=10)
    build(out, embed=True)
    away = tmp_path / "elsewhere" / "report"
    away.mkdir(parents=True)
    shutil.copy(out / "report" / "index.html", away)
    shutil.rmtree(out)
    with opened(away.parent) as page:
        assert count(page) == "30 of 30 pictures"
        settled(page)
        assert page.get_attribute(f"{TILES} img", "src").startswith("data:image/jpeg")
        assert pixels(page, f"{TILES} canvas")[..., 3].max() > 100
        page.click(f"{TILES} .open")
        page.wait_for_selector("#maps figure:nth-child(3)")


def test_a_picture_out_of_reach_is_shown_as_the_run_drew_it(
    tmp_path: Path, opened: Callable
) -> None:
    out = write_run(tmp_path / "out", 3, tmp_path / "in", failing=0)
    build(out)
    shutil.rmtree(tmp_path / "in")
    with opened(out, missing=True) as page:
        page.fill("#drawing [data-style=alpha]", "0.3")
        page.wait_for_selector(f"{TILES} .gone")
        settled(page)
        assert "overlays/" in page.get_attribute(f"{TILES} .gone img", "src")
        assert "out of reach" in page.evaluate(
            "getComputedStyle(document.querySelector('.gone'), '::after').content"
        )


def test_a_run_that_goes_on_is_said_to(tmp_path: Path, opened: Callable) -> None:
    out = write_run(tmp_path / "out", 3, tmp_path / "in", status="running")
    build(out)
    with opened(out) as page:
        assert page.inner_text("#notice").startswith("The run is not finished (still running")


LONGEST = """() => new Promise((resolve) => {
  const tasks = [];
  const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries()));
  observer.observe({ type: "longtask" });
  const most = document.documentElement.scrollHeight - innerHeight;
  let step = 0;
  const go = () => {
    scrollTo(0, step < 60 ? step * 120 : ((step * 7919) % 1000) / 1000 * most);
    if (++step < 120) requestAnimationFrame(() => setTimeout(go, 10));
    else setTimeout(() => resolve(Math.max(0, ...tasks.map((task) => task.duration))), 500);
  };
  go();
})"""


def opening(page: Page) -> float:
    """Milliseconds from asking for the page to its first tiles."""
    return page.evaluate("performance.getEntriesByName('first tiles')[0].startTime")


@pytest.mark.slow
def test_two_thousand_pictures_open_at_once_and_scroll(large: Path, opened: Callable) -> None:
    with opened(large) as page:
        assert opening(page) < 5000
        assert page.evaluate(LONGEST) < 1000
        settled(page)
        assert len(shown(page)) <= 60


@pytest.mark.soak
def test_a_hundred_thousand_pictures_open_in_two_seconds_and_scroll_smoothly(
    tmp_path: Path, opened: Callable
) -> None:
    out = write_run(tmp_path / "out", 100_000, tmp_path / "in")
    build(out)
    with opened(out) as page:
        assert count(page) == "100,000 of 100,000 pictures"
        first, longest = opening(page), page.evaluate(LONGEST)
        print(f"first tiles after {first:.0f} ms, longest task {longest:.0f} ms")
        assert first < 2000
        assert longest < 200
