"""The order of the tests; and what those in a browser share: Chromium, windows, pictures of those that failed."""

import re
import sys

import pytest
from browsing import CHROMIUM, NO_PLAYWRIGHT

# As the command line does: without a kind of address whose grammar jsonschema would build for seconds.
sys.modules.setdefault("rfc3987_syntax", None)

WINDOWS = pytest.StashKey()  # the pages that a test has opened

LONGEST = (  # files, in the order of their seconds: 330, 90, 80, 75, …
    "test_notebooks.py", "test_run.py", "test_kernel.py", "test_student.py", "test_benchmarks.py", "test_flips.py",
    "test_jupyterlab.py", "test_player.py", "test_browser.py", "test_player_in_a_browser.py", "test_training.py",
    "test_trouble.py", "test_jobs.py", "test_audit_on_disk.py", "test_untrusted.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first: where each process takes a file at a time, none is left with a long one at the end."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def window(browser, request):
    """Opens an empty page; what it asks for outside `own`, and what it complains of, is gathered in `wrong`."""
    pages = request.node.stash.setdefault(WINDOWS, [])

    def open_window(own, width=1280, theme="light", **options):
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": theme, **options}
        page = browser.new_context(**{"reduced_motion": "reduce", **options}).new_page()
        pages.append(page)
        page.wrong = []
        page.on("request", lambda request: request.url.startswith(own) or page.wrong.append(request.url))
        page.on("console", lambda message: message.type == "error" and page.wrong.append(message.text))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        return page

    yield open_window
    for page in pages:
        page.context.close()


@pytest.fixture
def visit(window):
    """Opens a file of this machine in a window, which may ask for nothing but files."""

    def open_page(path, width=1280, theme="light", begin="", **options):
        page = window(("file:", "data:"), width, theme, **options)
        page.goto(path.as_uri() + begin)
        return page

    return open_page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where a test fails, its windows are kept as they were, and its message says where."""
    report = yield
    pages = item.stash.get(WINDOWS, [])
    if call.when == "call" and report.failed and pages:
        report.sections.append(("screenshots", keep(pages, item.config.rootpath / "build" / "screenshots", item.name)))
    return report


def keep(pages, folder, name):
    """Screenshots of pages as folder/name-1.png and so on; the sentence that says so, or why not."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / f"{re.sub(r'[^-_a-zA-Z0-9]+', '-', name).strip('-')}-{i}.png" for i in range(1, len(pages) + 1)]
    try:
        for page, path in zip(pages, kept, strict=True):
            page.screenshot(path=path)
    except Exception as error:  # of a browser that is gone
        return f"The windows could not be kept: {error}"
    return f"Kept in {folder}: {', '.join(path.name for path in kept)}"
