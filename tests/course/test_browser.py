"""The site in a real browser, wide and narrow, light and dark: Playwright with Chromium, else skipped by name."""

import io

import matplotlib.pyplot as plt
import pytest
from browsing import FAINT, NO_PLAYWRIGHT, SIDEWAYS, SIZES, needs_chromium, until

from .conftest import RECORD, Ran, write_notebook

pytest.importorskip("playwright.sync_api", reason=NO_PLAYWRIGHT)
pytestmark = needs_chromium

WIDE = "| networks | " + " | ".join(f"a long heading {i}" for i in range(12)) + " |\n|" + "---|" * 13 + "\n"
WIDE += "| zoo | " + " | ".join(f"92.3 ± {i}.2 %" for i in range(12)) + " |"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A course of two notebooks that hold what is wide, long and drawn."""
    folder = tmp_path_factory.mktemp("browser")
    long_line = 'text = f"{n} of a zoo: ' + "a long line of code " * 12 + '"  # and a comment'
    draw = "import matplotlib.pyplot as plt\nplt.figure(figsize=(12, 4))\nplt.plot([1, 2])\nplt.show()"
    parts = [f"md:## Part {word}\n\n" + "Text of a zoo. " * 250 for word in ("one", "two", "three", "four")]
    formula = r"$$v_\theta(x_t, t) \approx \left(\frac{x_1 - x_0}{1}\right)" + r" + \alpha_1 x_1" * 40 + "$$"
    fold = "md:### Hidden treasure\n\nThe word xylophone stands here alone.\n\n" + formula
    write_notebook(folder / "nb", "01_first", f"md:{WIDE}", long_line, draw, *parts, fold, RECORD)
    words = "wherever somebody " * 30
    sought = f"md:## A\n\n{words} snark-boojum {words}\n\n## B\n\n{words} barcode {words}\n\n## C"
    write_notebook(folder / "nb", "02_second", sought, RECORD)
    ran = Ran(folder / "nb", folder / "out")
    assert ran.code == 0
    return ran.out


@pytest.fixture
def opened(visit, site):
    """Opens a page of the site; what it asks for outside, and what it complains of, is gathered in `wrong`."""
    return lambda name, *window, **options: visit(site / name, *window, **options)


@pytest.mark.parametrize("width, theme", SIZES)
def test_no_page_scrolls_sideways_asks_outside_or_is_faint(opened, site, width, theme):
    names = ["index.html", "report.html", "glossary.html", "api/index.html", "api/zoo.html", "pages/01_first.html"]
    page = opened(names[0], width, theme)
    for name in names:
        page.goto((site / name).as_uri())
        assert page.evaluate(SIDEWAYS) <= 0, name
        seen, faint = page.evaluate(FAINT)
        assert seen >= 10 and faint == [], name
    assert page.wrong == []
    page.evaluate("document.querySelector('main p').style.color = getComputedStyle(document.body).backgroundColor")
    assert page.evaluate(FAINT)[1] != []  # control
    page.evaluate(
        "document.querySelector('main').append(Object.assign(document.createElement('pre'), {style: 'width: 3000px'}))"
    )
    assert page.evaluate(SIDEWAYS) > 0  # control


@pytest.mark.parametrize("theme", sorted({theme for _, theme in SIZES}))
def test_axe_complains_of_nothing(opened, site, theme):
    """Names, roles, landmarks, headings, contrast: the rules of axe-core."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe-playwright-python: .[browser]"
    ).Axe()
    page = opened("index.html", 1280, theme)
    for name in ("index.html", "report.html", "glossary.html", "api/zoo.html", "pages/01_first.html"):
        page.goto((site / name).as_uri())
        assert [found["id"] for found in axe.run(page).response["violations"]] == [], name
    page.evaluate("document.querySelector('main').append(document.createElement('img'))")
    assert "image-alt" in [found["id"] for found in axe.run(page).response["violations"]]  # control


def test_links_of_home_lie_on_a_narrow_screen(opened):
    page = opened("index.html", 390)
    boxes = [link.bounding_box() for link in page.locator("a:not(.skip)").all()]
    assert len(boxes) > 5 and all(0 <= box["x"] and box["x"] + box["width"] <= 390 for box in boxes)


def test_a_wide_table_scrolls_in_its_frame_and_keeps_its_first_column(opened):
    page = opened("pages/01_first.html", 390)
    frame = page.locator(".table").first
    head, last = frame.locator("td").first, frame.locator("td").last
    before = (head.bounding_box()["x"], last.bounding_box()["x"])
    assert before[1] > 390 and frame.get_attribute("tabindex") == "0"
    frame.evaluate("frame => { frame.scrollLeft = 9999; }")
    assert head.bounding_box()["x"] == before[0] and last.bounding_box()["x"] + last.bounding_box()["width"] <= 390
    assert last.evaluate("cell => getComputedStyle(cell).textAlign") == "right"
    rows = frame.locator("tr").evaluate_all("rows => rows.map((row) => row.getBoundingClientRect().height)")
    assert all(height == round(height) for height in rows), "else the lines of the two parts do not meet"


def test_long_lines_scroll_in_their_block(opened):
    page = opened("pages/01_first.html", 390)
    code = page.locator(".highlight pre", has_text="a long line").first
    assert code.evaluate("pre => pre.scrollWidth > 2 * pre.clientWidth")
    assert code.evaluate("pre => pre.getBoundingClientRect().right <= innerWidth")


@pytest.mark.parametrize("frame", ["none", "plumbing", "solution"])
def test_a_line_of_the_course_fits(opened, frame):
    page = opened("pages/01_first.html", 1280)
    code = page.locator(".highlight pre").first
    fold = """(pre, frame) => {
      const fold = Object.assign(document.createElement("details"), {open: true, className: frame});
      const text = document.querySelector(".text_cell_render"), box = pre.closest(".highlight");
      if (frame === "plumbing") box.replaceWith(fold); else text.append(fold);
      fold.append(box);
    }"""
    if frame != "none":
        code.evaluate(fold, frame)
    for columns, fits in ((96, True), (110, False)):
        code.evaluate(f"pre => {{ pre.textContent = 'x'.repeat({columns}); }}")
        assert code.evaluate("pre => pre.scrollWidth <= pre.clientWidth") == fits


@pytest.mark.parametrize("width", [390, 1280])
def test_search_finds_and_leads_there(opened, width):
    page = opened("pages/02_second.html", width)
    page.locator("body").press("/")
    box = page.locator(".search input")
    box.fill("qqzz")
    assert page.locator(".search li").count() == 0
    assert page.locator(".search .said").inner_text().startswith("Nothing found. The first letters of a word")
    box.fill("xylo treasure")
    assert "Hidden treasure" in page.locator(".search li").first.inner_text()
    assert page.locator(".search mark").first.inner_text() == "xylo" and page.evaluate(SIDEWAYS) <= 0
    box.fill("linear_barrier")
    assert "api/symmetry.html#linear_barrier" in page.locator(".search li a").first.get_attribute("href")
    box.fill("treasure")
    box.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pages/01_first.html#Hidden-treasure")
    assert page.wrong == []


def test_enter_opens_the_best_place_and_close_closes(opened):
    page = opened("pages/02_second.html")
    page.locator("body").press("/")
    page.locator(".search button").click()
    assert not page.locator(".search").is_visible()
    page.locator("body").press("/")
    page.locator(".search input").fill("treasure")
    page.locator(".search input").press("Enter")
    page.wait_for_url("**/pages/01_first.html#Hidden-treasure")


@pytest.mark.parametrize(
    "asked, marked", [("snarkbooj", "snark-booj"), ("snark-boojum", "snark-boojum"), ("bar-code", "barcode")]
)
def test_search_asks_for_no_hyphens_and_its_excerpts_cut_no_word(opened, asked, marked):
    page = opened("pages/02_second.html")
    page.locator("body").press("/")
    page.locator(".search input").fill(asked)
    assert page.locator(".search .said").inner_text() == "1 place"
    excerpt = page.locator(".search small")
    assert excerpt.locator("mark").inner_text() == marked
    said = excerpt.inner_text()
    assert said.startswith("… ") and said.endswith(" …") and 100 < len(said) < 220
    assert set(said.split()) <= {"…", "wherever", "somebody", "snark-boojum", "barcode"}
    page.locator(".search input").fill("----")
    assert page.locator(".search .said").inner_text().startswith("Nothing found")


def test_contents_follow_the_reader(opened):
    page = opened("pages/01_first.html")
    current = page.locator(".contents a[aria-current]")
    assert current.count() == 0
    for word in ("three", "one"):
        page.locator(f"[id='Part-{word}']").evaluate("heading => heading.scrollIntoView()")
        until(page, f"document.querySelector('.contents a[aria-current]')?.textContent === 'Part {word}'")
        assert current.count() == 1 and current.is_visible()


def test_the_switch_is_remembered_on_the_next_page(opened, site):
    page = opened("index.html", theme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator(".theme").click()
    dark = page.evaluate(ground)
    assert dark != light and page.locator(".theme").inner_text() == "Light"
    page.goto((site / "pages/01_first.html").as_uri())
    assert page.evaluate(ground) == dark
    assert page.locator(".output_png img").evaluate("image => getComputedStyle(image).filter") != "none"
    page.locator(".theme").click()
    assert page.evaluate(ground) == light
    assert page.locator(".output_png img").evaluate("image => getComputedStyle(image).filter") == "none"
    assert opened("index.html", theme="dark").evaluate(ground) == dark


@pytest.mark.parametrize("way", ["tap", "keyboard"])
def test_a_figure_is_enlarged(opened, way):
    page = opened("pages/01_first.html", 390, has_touch=True)
    figure, dialog = page.locator(".output_png img"), page.locator("dialog.zoom")
    assert figure.bounding_box()["width"] < 390 and not dialog.is_visible()
    figure.scroll_into_view_if_needed()
    figure.tap() if way == "tap" else figure.press("Enter")
    large = dialog.locator("img")
    assert large.bounding_box()["width"] > 900 and large.get_attribute("alt") == figure.get_attribute("alt")
    said = dialog.locator(".said").evaluate("said => getComputedStyle(said, '::before').content")
    assert said == '"Swipe sideways for the rest. "'
    dialog.locator(".sheet").evaluate("sheet => { sheet.scrollLeft = 9999; }")
    until(page, "!document.querySelector('dialog.zoom').hasAttribute('data-more')")  # at its end
    page.keyboard.press("Escape") if way == "keyboard" else dialog.locator("button").tap()
    assert not dialog.is_visible() and page.evaluate(SIDEWAYS) <= 0


def test_code_is_copied(opened):
    page = opened("pages/01_first.html", permissions=["clipboard-read", "clipboard-write"])
    block = page.locator(".highlight", has_text="a long line").first
    block.hover()
    block.locator(".copy").click()
    until(page, "document.querySelector('.copy:hover').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").startswith('text = f"{n} of a zoo: ')


def test_a_page_reads_without_scripts(opened):
    page = opened("pages/01_first.html", java_script_enabled=False)
    assert page.locator(".contents a").first.is_visible() and page.locator("main math").first.is_visible()
    assert not page.locator(".find").is_visible() and not page.locator(".theme").is_visible()
    assert not page.locator("dialog.search").is_visible()


@pytest.mark.parametrize("theme, chosen", [("light", "dark"), ("dark", None)])
def test_on_paper_it_is_light_and_whole(opened, theme, chosen):
    page = opened("pages/01_first.html", 700, theme)
    if chosen:
        page.locator(".theme").click()
    colours = "[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('main img')).filter]"
    cut = """[...document.querySelectorAll("pre, .table, math[display=block]")]
      .filter((box) => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX !== "visible").length"""
    on_screen = page.evaluate(colours)
    assert on_screen[1] != "none" and page.evaluate(cut) >= 3
    page.emulate_media(media="print")
    ink, turned = page.evaluate(colours)
    assert ink == opened("pages/01_first.html").evaluate(colours)[0] != on_screen[0] and turned == "none"
    assert page.evaluate(cut) == 0 and page.locator("pre", has_text="a long line").evaluate(
        "pre => pre.scrollWidth <= pre.clientWidth"
    )


@pytest.mark.parametrize("what", [".highlight pre", ".table", "math[display=block]"])
def test_what_scrolls_is_shaded_where_it_goes_on(opened, what):
    """At its right edge, until the end is reached."""
    page = opened("pages/01_first.html", 390)
    wide = [box for box in page.locator(what).all() if box.evaluate("box => box.scrollWidth > box.clientWidth + 50")]

    def edge():  # the lightest of the last pixels
        picture = plt.imread(io.BytesIO(wide[0].screenshot()))[..., :3]
        return float(picture[2:-2, -2].mean(-1).max())

    before = edge()
    wide[0].evaluate("box => { box.scrollLeft = 99999; }")
    assert before < edge() - 0.03


def test_a_phone_has_a_way_back_to_the_bar(opened):
    page = opened("pages/01_first.html", 390, has_touch=True, is_mobile=True)
    up = page.locator("button.up")
    assert not up.is_visible()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    until(page, up.is_visible)
    box = up.bounding_box()
    assert min(box["width"], box["height"]) >= 24
    up.tap()
    until(page, "scrollY < 5")
    wide = opened("pages/01_first.html", 1280)
    wide.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert not wide.locator("button.up").is_visible()  # control: there the bar follows


def test_a_phone_says_that_a_tap_enlarges(opened):
    said = "image => getComputedStyle(image.parentElement, '::after').content"
    phone = opened("pages/01_first.html", 390, has_touch=True, is_mobile=True)
    assert "Tap the figure" in phone.locator(".output_png img").evaluate(said)
    assert opened("pages/01_first.html").locator(".output_png img").evaluate(said) == "none"


def test_a_picture_of_home_opens_its_notebook(opened):
    page = opened("index.html", 390, has_touch=True)
    page.locator(".cards img").tap()
    page.wait_for_url("**/pages/01_first.html")


def test_names_are_whole_on_a_narrow_screen(opened, site):
    page = opened("api/batchnorm.html", 390)
    assert page.locator("h1 code").evaluate("code => code.getClientRects().length") == 1
    underlined = page.locator("td a").first.evaluate("a => parseFloat(getComputedStyle(a).textUnderlineOffset)")
    assert underlined > 3, "or the line would hide underscores"
    page.goto((site / "report.html").as_uri())
    link = page.locator("main td a").first.bounding_box()
    assert link["x"] + link["width"] <= 390
