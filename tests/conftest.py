"""What tests in a browser share: Chromium, windows that gather complaints, and pictures of those whose test failed."""

import re

import pytest
from browsing import CHROMIUM, NO_PLAYWRIGHT

WINDOWS = pytest.StashKey()  # the pages that a test has opened


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
