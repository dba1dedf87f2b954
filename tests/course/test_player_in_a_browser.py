"""The player in a real browser, opened from disk: nothing is fetched, time moves it, and words follow the pictures."""

import re

import numpy as np
import pytest
import torch
from browsing import FAINT, NO_PLAYWRIGHT, SIDEWAYS, SIZES, needs_chromium, until

from dwflow_lite.course.player import making
from dwflow_lite.course.player.page import write_player
from dwflow_lite.course.player.trajectories import SMOKE, family, scenes
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import load_task
from dwflow_lite.zoo import Zoo, predict

from .conftest import RECORD, Ran, write_notebook

pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
pytestmark = needs_chromium

LAST = SMOKE.times - 1
# Everything that is drawn: pictures as text, and pixels of canvases.
DRAWN = """() => ({
  cloud: document.querySelector(".cloud svg").innerHTML,
  chart: document.querySelector(".course svg").innerHTML,
  units: document.querySelector(".inside canvas").toDataURL(),
  answers: document.querySelector(".answers ol").innerHTML,
})"""
TOLD = """() => ["cloud svg", "course svg", "inside canvas"].map((name) =>
  document.querySelector(`.${name}`).getAttribute("aria-label"))"""


@pytest.fixture(scope="module")
def player(tmp_path_factory):
    return write_player(tmp_path_factory.mktemp("player") / "player.html", SMOKE, made="by a run")


@pytest.fixture
def opened(visit, player):
    return lambda *window, **options: visit(player, *window, **options)


def time_of(page):
    return float(page.locator(".now").inner_text().removeprefix("t = "))


@pytest.mark.parametrize("theme", sorted({theme for _, theme in SIZES}))
def test_axe_complains_of_nothing(opened, theme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe-playwright-python: .[browser]"
    ).Axe()
    page = opened(1280, theme)
    assert [found["id"] for found in axe.run(page).response["violations"]] == []
    page.evaluate("document.querySelector('.cloud svg').removeAttribute('aria-label')")
    assert axe.run(page).response["violations"]  # control


@pytest.mark.parametrize("width, theme", SIZES)
def test_it_opens_from_disk_whole_and_readable(opened, width, theme):
    page = opened(width, theme)
    for choice in ("not aligned", "Gaussian", "64"):
        page.locator(f".choices input[value='{choice}']").check()
        assert page.evaluate(SIDEWAYS) <= 0
        seen, faint = page.evaluate(FAINT)
        assert seen > 30 and faint == []
    inside = page.evaluate(
        "[...document.querySelectorAll('main *')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert inside and page.wrong == []
    assert page.locator(".stage img, .stage svg:not([aria-label]), canvas:not([aria-label])").count() == 0


@pytest.mark.parametrize("way", ["keyboard", "mouse", "chart", "touch"])
def test_time_moves_every_picture(opened, way):
    page = opened(has_touch=way == "touch")
    before, told = page.evaluate(DRAWN), page.evaluate(TOLD)
    clock, chart = page.locator(".clock"), page.locator(".course svg")
    if way == "keyboard":
        for _ in range(LAST // 2):
            clock.press("ArrowRight")
        assert time_of(page) == pytest.approx(0.5)
        clock.press("PageUp")
        assert time_of(page) == pytest.approx(0.5 + 5 / LAST)
    else:
        box = (chart if way == "chart" else clock).bounding_box()
        x, y = box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2
        if way == "touch":
            page.touchscreen.tap(x, y)
        else:
            page.mouse.move(box["x"] + 0.3 * box["width"], y)
            page.mouse.down()
            page.mouse.move(x, y, steps=5)
            page.mouse.up()
        assert 0.65 < time_of(page) < 0.95
    after = page.evaluate(DRAWN)
    assert all(after[name] != before[name] for name in before)
    assert all(new != old for new, old in zip(page.evaluate(TOLD), told, strict=True))
    assert f"time {time_of(page):.2f}" in clock.get_attribute("aria-valuetext")
    clock.press("Home")
    assert page.evaluate(DRAWN) == before and page.evaluate(TOLD) == told  # control
    until(page, "document.querySelector('.status').textContent.startsWith('At time 0.00')")
    assert page.wrong == []


@pytest.mark.parametrize("name, value", [("basis", "not aligned"), ("kind", "Gaussian"), ("width", "64")])
def test_a_choice_changes_pictures_and_sentence(opened, name, value):
    page = opened()
    page.locator(".clock").press("End")
    before, said = page.evaluate(DRAWN), page.locator(".says").inner_text()
    page.locator(f"input[name='{name}']:checked").press("ArrowRight")
    assert page.locator(f"input[name='{name}']:checked").get_attribute("value") == value
    after = page.evaluate(DRAWN)
    assert all(after[part] != before[part] for part in before) and page.locator(".says").inner_text() != said
    assert (
        opened(begin=f"#{name}={value.replace(' ', '+')}").locator(".says").inner_text()
        == page.locator(".says").inner_text()
    )


def test_a_network_is_chosen_by_keys_and_by_its_point(opened):
    page = opened()
    page.locator(".clock").press("End")
    which = page.locator(".which input")
    which.press("Home")
    assert page.locator(".which output").inner_text() == f"1 of {SMOKE.networks}"
    first = page.evaluate(DRAWN)
    which.press("ArrowRight")
    assert "network 2" in page.locator(".inside h2").inner_text() and page.evaluate(DRAWN)["units"] != first["units"]
    which.press("Home")
    points = page.locator(".cloud .network")
    centre = [points.nth(n).bounding_box() for n in range(SMOKE.networks)]
    places = np.array([(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2) for point in centre])
    between = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(SMOKE.networks)
    far = int(between.min(1).argmax())  # the one that is most alone
    page.mouse.click(places[far, 0] + 2, places[far, 1] - 2)
    assert page.locator(".which output").inner_text() == f"{far + 1} of {SMOKE.networks}"


def swipe(page, x, y, across, down):
    """A finger that comes down at a point, moves so many pixels, and is lifted."""
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for part in range(1, 11):
        point = {"x": x + across * part / 10, "y": y + down * part / 10}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_that_scrolls_past_a_picture_changes_nothing(opened):
    page = opened(390, has_touch=True, is_mobile=True)
    cloud, chart = page.locator(".cloud svg"), page.locator(".course svg")
    chart.tap(position={"x": 0.8 * chart.bounding_box()["width"], "y": 100})
    assert 0.65 < time_of(page) < 0.95  # where a finger presses
    page.locator(".clock").press("End")
    before = page.evaluate(DRAWN)
    for picture in (cloud, chart):
        picture.scroll_into_view_if_needed()
        box, at = picture.bounding_box(), page.evaluate("scrollY")
        swipe(page, box["x"] + 0.3 * box["width"], box["y"] + 0.6 * box["height"], 0, -150)
        until(page, f"scrollY > {at}")
        assert page.evaluate(DRAWN) == before
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    swipe(page, box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], -0.4 * box["width"], 0)
    assert 0.2 < time_of(page) < 0.6  # control: sideways it moves time
    assert page.wrong == []


def test_it_plays_where_motion_is_welcome_and_waits_where_it_is_not(opened):
    still = opened()
    still.wait_for_timeout(600)
    assert time_of(still) == 0 and still.locator(".play").inner_text() == "Play"
    still.locator(".play").click()
    until(still, "parseFloat(document.querySelector('.clock').value) > 1")
    assert still.locator(".play").inner_text() == "Pause"
    still.locator(".play").press("Enter")
    at = time_of(still)
    still.wait_for_timeout(300)
    assert time_of(still) == at > 0
    moving = opened(reduced_motion="no-preference")
    until(moving, "parseFloat(document.querySelector('.clock').value) > 1")
    until(moving, f"document.querySelector('.clock').value === '{LAST}'")
    assert moving.locator(".play").inner_text() == "Again" and moving.wrong == still.wrong == []


def test_what_the_browser_reads_is_what_the_package_reads(opened):
    """Probabilities of every network at the end, beside those of the exact weights, whose units are reordered."""
    task = load_task("digits", seed=0)
    of = family(task, 16, SMOKE)
    (scene,) = (s for s in scenes(task, of, 16, SMOKE) if (s.basis, s.kind) == ("aligned", "Gaussian"))
    rows = canonicalise(of.zoo, seed=0).weights
    page = opened(begin="#kind=Gaussian")
    images = torch.tensor(page.evaluate("answers.map(({ image }) => [...image])"))  # (5, 64)
    end = Zoo(scene.shares[-1] @ rows, of.zoo.layout, of.zoo.network, {})
    exact = predict(end, images).softmax(-1)  # (n, 5, 10)
    all_of = "(n) => answers.map(({ image }) => [...read(decode(scene(), last, n), image)])"
    shown = torch.tensor([page.evaluate(all_of, n) for n in range(SMOKE.networks)])
    assert shown.shape == exact.shape and (shown - exact).abs().mean() < 0.01
    assert (shown.roll(1, 0) - exact).abs().mean() > 0.02  # control


def test_inside_a_page_it_takes_its_room_and_its_light(visit, player, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "make", lambda path, profile, stop: path.write_text(player.read_text()) and "")
    write_notebook(tmp_path / "nb", "00_a_network_from_noise", "import ipywidgets\nipywidgets.IntSlider()", RECORD)
    assert Ran(tmp_path / "nb", tmp_path / "out").code == 0
    alone = visit(tmp_path / "out" / "player.html")
    alone.locator("a", has_text="All notebooks").click()
    alone.wait_for_url("**/out/index.html")
    for width in (390, 1280):
        page = visit(tmp_path / "out" / "pages" / "00_a_network_from_noise.html", width)
        frame = page.locator("figure.player iframe")
        frame.scroll_into_view_if_needed()
        inside = page.frame_locator("figure.player iframe")
        inside.locator(".answers").wait_for()
        assert not inside.locator(".back").is_visible()
        until(page, "document.querySelector('figure.player iframe').style.height !== ''")
        overflow = "html => [html.scrollHeight - html.clientHeight, html.scrollWidth - html.clientWidth]"
        higher, wider = inside.locator("html").evaluate(overflow)
        assert wider <= 2 and page.evaluate(SIDEWAYS) <= 0
        assert higher <= 2 if width == 1280 else higher > 400, "on a phone it scrolls in its frame"
        inside.locator(".answers li").last.scroll_into_view_if_needed()
        bar, around = inside.locator(".time").bounding_box(), frame.bounding_box()
        assert width == 1280 or around["y"] <= bar["y"] < bar["y"] + bar["height"] < 800
        ground = "body => getComputedStyle(body).backgroundColor"
        assert inside.locator("body").evaluate(ground) == page.locator("body").evaluate(ground)
        page.locator(".theme").click()
        dark = page.locator("body").evaluate(ground)
        assert int(re.search(r"\d+", dark)[0]) < 60
        page.wait_for_timeout(200)
        assert inside.locator("body").evaluate(ground) == dark and page.wrong == []


def test_without_scripts_there_is_a_picture(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("noscript img").is_visible() and not page.locator(".stage").is_visible()
