"""The sliders of the notebooks in JupyterLab, as a reader moves them: Playwright with Chromium, else skipped by name.

One notebook is quick enough for every run; all of them with DWFLOW_ALL_SLIDERS=1, one after the other.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import nbformat
import pytest
from browsing import NO_PLAYWRIGHT, needs_chromium, until

from dwflow_lite.course.lessons import discover, read_profile
from dwflow_lite.course.paths import notebooks_folder, repository
from dwflow_lite.widgets import PAUSE

pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
NO_LAB = "tests of the sliders need: pip install jupyterlab"
pytestmark = [
    needs_chromium,
    pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason=NO_LAB),
    pytest.mark.timeout(1200),
]

LESSONS = discover(notebooks_folder())
SMOKE = read_profile(notebooks_folder() / "profiles.yaml", "smoke", LESSONS)
QUICK = "00_a_network_from_noise"  # has a slider that plays
ALL = os.environ.get("DWFLOW_ALL_SLIDERS") == "1"
PATIENCE = 120  # seconds that JupyterLab, or a picture, may take on a busy machine
RUN = 900  # seconds that a notebook may take

OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--ServerApp.port=0",
    "--IdentityProvider.token=sliders",
    "--LabApp.expose_app_in_browser=True",  # tests read the state of cells from it, and move nothing by it
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
]
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
READY = """(() => {
  const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
  return Boolean(context?.isReady && context.session?.kernel?.status === "idle");
})()"""
# Of every cell of code: whether it has run, and the errors below it.
CELLS = """() => jupyterapp.shell.currentWidget.content.widgets
  .filter((cell) => cell.model.type === "code" && cell.model.sharedModel.source.trim())
  .map(({ model }) => ({
    done: model.executionCount !== null && model.executionState === "idle",
    errors: model.outputs.toJSON().filter((output) => output.output_type === "error")
      .map(({ traceback }) => traceback.join("\\n")),
  }))"""
PIXELS = """async (image) => {
  const bytes = await (await fetch(image.src)).arrayBuffer();
  return [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].join(" ");
}"""


def has_sliders(lesson):
    cells = nbformat.read(lesson.path, as_version=4).cells
    return any(cell.cell_type == "code" and "widgets.explore(" in cell.source for cell in cells)


def write_smoke(lesson, folder):
    """A copy of a notebook in which the parameters are the small ones."""
    nb = nbformat.read(lesson.path, as_version=4)
    (cell,) = (cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", ()))
    values = {**lesson.defaults, **SMOKE.get(lesson.stem, {})}
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    nbformat.write(nb, folder / lesson.path.name)


@contextmanager
def serving(folder):
    """A JupyterLab of its own over `folder/notebooks`: no settings, kernels or files of whoever runs this."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(repository()), os.environ.get("PYTHONPATH")])),
        "DWFLOW_ARTEFACTS": str(folder / "artefacts"),
        "IPYTHONDIR": str(folder / "ipython"),
        **{f"JUPYTER_{part}_DIR": str(folder / part) for part in ("CONFIG", "DATA", "RUNTIME")},
        **{f"JUPYTERLAB_{part}_DIR": str(folder / part) for part in ("SETTINGS", "WORKSPACES")},
    }
    settings = folder / "SETTINGS" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--ServerApp.root_dir={folder / 'notebooks'}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield address(server, folder)
    finally:
        server.terminate()  # takes its kernels along
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def address(server, folder):
    """The address that the server writes down once it is up."""
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        for path in (folder / "RUNTIME").glob("jpserver-*.json"):
            try:
                return json.loads(path.read_text())["url"]
            except ValueError:  # half written
                pass
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {(folder / 'log').read_text()}")


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "notebooks").mkdir()
    with serving(tmp_path) as url:
        yield url


def run_all(page, url, name):
    """Open a notebook and run all of it by the menu; none of its cells ends in an error."""
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{url}lab/tree/{name}?token=sliders")
    until(page, READY, PATIENCE, "A kernel that is ready")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def over():
        cells = page.evaluate(CELLS)
        errors = [error for cell in cells for error in cell["errors"]]
        assert errors == [], "\n".join(errors)
        return all(cell["done"] for cell in cells)

    until(page, over, RUN, f"All cells of {name} have run")


class Explorer:
    """What `widgets.explore` shows, as a reader sees it: controls, a picture, a line for trouble."""

    def __init__(self, page, box):
        self.page, self.box = page, box
        self.sliders, self.menus = box.locator(".widget-hslider").all(), box.locator("select").all()
        self.play = box.locator(".widget-play button").first

    def picture(self):
        return self.box.locator(".widget-image").evaluate(PIXELS)

    def state(self):
        """What the controls say."""
        return [text.text_content() for text in self.box.locator(".widget-readout").all()] + [
            menu.evaluate("menu => menu.value") for menu in self.menus
        ]

    def changes(self, act, what):
        """An act moves a control, the picture follows, and nothing is told below it."""
        state, picture = self.state(), self.picture()
        act()
        until(self.page, lambda: self.state() != state, PATIENCE, f"{what} moves a control away from {state}")
        until(self.page, lambda: self.trouble() or self.picture() != picture, PATIENCE, f"{what} changes the picture")
        assert self.trouble() == "", f"{what}: {self.trouble()}"

    def trouble(self):
        return self.box.locator(".widget-html-content").last.text_content()

    def press(self, slider):
        """One step by the keyboard, to the side where there is room."""
        handle = slider.get_by_role("slider")
        at, end = (float(handle.get_attribute(f"aria-value{name}")) for name in ("now", "max"))
        handle.press("ArrowLeft" if at == end else "ArrowRight")

    def drag(self, slider):
        """By the mouse to the end that is further away."""
        slider.scroll_into_view_if_needed()
        handle, line = (slider.locator(f".noUi-{part}").bounding_box() for part in ("handle", "base"))
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        in_second_half = x > line["x"] + line["width"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(line["x"] + (0 if in_second_half else line["width"]), y, steps=5)
        self.page.mouse.up()

    def choose(self, menu):
        """The next of a menu, or the one before the last, by the keyboard: only an open menu is given arrows."""
        is_last = menu.evaluate("menu => menu.selectedIndex === menu.length - 1")
        menu.press("Space")
        self.page.keyboard.press("ArrowUp" if is_last else "ArrowDown")
        self.page.keyboard.press("Enter")

    def plays(self):
        """The button moves the slider, and moves it again."""
        seen = {tuple(self.state())}
        self.play.click()
        until(self.page, lambda: seen.add(tuple(self.state())) or len(seen) > 2, PATIENCE, "Play, for two steps,")

    def pause(self):
        if self.play.locator(".fa-pause").count():  # else it is at its end
            self.play.press("Space")  # a button is a button for the keyboard too

    def reset(self):
        self.box.get_by_role("button", name="reset").click()


def try_out(explorer):
    """Every control by every way; reset brings back the picture with which it began. Returns the number of controls."""
    explorer.box.scroll_into_view_if_needed()
    state, picture = explorer.state(), explorer.picture()
    for slider in explorer.sliders:
        explorer.changes(lambda slider=slider: explorer.press(slider), "a key")
        explorer.changes(lambda slider=slider: explorer.drag(slider), "the mouse")
    for menu in explorer.menus:
        explorer.changes(lambda menu=menu: explorer.choose(menu), "a choice in a menu")
    if explorer.play.count():
        explorer.changes(explorer.plays, "play")
        explorer.pause()
        explorer.page.wait_for_timeout(2 * PAUSE)
        stopped = explorer.state()
        explorer.page.wait_for_timeout(3 * PAUSE)
        assert explorer.state() == stopped, "a pause stops it"
    if explorer.state() == state:  # one slider of two values, there and back
        explorer.changes(lambda: explorer.press(explorer.sliders[0]), "a key once more")
    assert explorer.picture() != picture, "what is reset is another picture"
    explorer.reset()
    until(explorer.page, lambda: explorer.state() == state, PATIENCE, f"Reset: the controls say {state}")
    until(explorer.page, lambda: explorer.picture() == picture, PATIENCE, "Reset: the first picture")
    assert explorer.trouble() == ""
    return len(explorer.sliders) + len(explorer.menus)


def explorers(page):
    return [Explorer(page, box) for box in page.locator(".widget-vbox:has(> .widget-image)").all()]


def of_all_with_sliders():
    skipped = pytest.mark.skipif(not ALL, reason="the sliders of all notebooks are tried with DWFLOW_ALL_SLIDERS=1")
    for lesson in filter(has_sliders, LESSONS):
        yield pytest.param(lesson, id=lesson.stem, marks=[] if lesson.stem == QUICK else [skipped])


@pytest.mark.parametrize("lesson", of_all_with_sliders())
def test_every_slider_moves_its_picture(lesson, lab, window, tmp_path):
    write_smoke(lesson, tmp_path / "notebooks")
    page = window((lab, "data:", "blob:"))
    run_all(page, lab, lesson.path.name)
    until(page, READY, PATIENCE)
    written = sum(cell.source.count("widgets.explore(") for cell in nbformat.read(lesson.path, as_version=4).cells)
    shown = explorers(page)
    assert len(shown) == written >= 1
    assert all(try_out(explorer) >= 1 for explorer in shown)
    assert page.wrong == []


STAYS = """
from matplotlib.figure import Figure
from dwflow_lite import widgets

def draw(level, of=lambda level: 1):
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().bar([0], [of(level)])
    return figure

widgets.explore(draw, alt="a bar that stays", level=[1, 2, 3])
"""
BREAKS = """
widgets.explore(lambda level: draw(level, lambda level: {1: 1}[level]), alt="a bar that breaks", level=[1, 2, 3])
"""


def test_control_a_cell_that_fails_a_picture_that_stays_and_an_error_are_seen(lab, window, tmp_path, monkeypatch):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in (STAYS, BREAKS, "1 / 0")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks" / "control.ipynb")
    page = window((lab, "data:", "blob:"))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_all(page, lab, "control.ipynb")
    stays, breaks = explorers(page)
    with pytest.raises(AssertionError, match="KeyError: 2"):
        try_out(breaks)
    monkeypatch.setitem(globals(), "PATIENCE", 5)
    with pytest.raises(AssertionError, match="a key changes the picture never held"):
        try_out(stays)
