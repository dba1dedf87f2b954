"""The site: every link leads somewhere, every colour can be read, terms and names are those of course and package."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urldefrag

import griffe
import pytest
from bs4 import BeautifulSoup

import dwflow_lite
from dwflow_lite.course.lessons import discover
from dwflow_lite.course.paths import notebooks_folder, number_of
from dwflow_lite.course.site.dress import dress
from dwflow_lite.course.site.frame import LOOK, Heading, frame
from dwflow_lite.course.site.glossary import addresses, anchor, glossary, glossary_page
from dwflow_lite.course.site.home import home_page, opening
from dwflow_lite.course.site.maths import markdown_html
from dwflow_lite.course.site.reference import ROOMS, names, reference_pages
from dwflow_lite.course.site.search import search_script, sections

from .conftest import RECORD, Ran, without_own_scripts, write_notebook

# -- links ---------------------------------------------------------------------------------------------------------


def broken_links(folder):
    """(page, link) of every link inside the site whose file or whose place in it is not there."""
    pages = {path.resolve(): BeautifulSoup(path.read_text(), "html.parser") for path in folder.rglob("*.html")}
    places = {path: {tag["id"] for tag in soup.find_all(id=True)} for path, soup in pages.items()}
    broken = []
    for path, soup in pages.items():
        for link in soup.find_all("a", href=True):
            address, place = urldefrag(link["href"])
            if re.match(r"[a-z]+:", address):
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            if not target.is_file() or (place and unquote(place) not in places.get(target, {unquote(place)})):
                broken.append((path.name, link["href"]))
    return broken


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """A small course whose words are those of the real one."""
    folder = tmp_path_factory.mktemp("linked")
    first = (
        "md:**Claim.** A *flow* makes networks. It is quick.\n\n**You need** nothing but [the next](02_b.ipynb).\n\n"
        "**Time** a minute."
    )
    fold = "md:## Parts\n\nA zoo, its members, the zoo again, and 5 % of held-out networks.\n\n## Parts\n\n### Less"
    write_notebook(folder / "nb", "01_a", first, fold, RECORD)
    write_notebook(folder / "nb", "02_b", RECORD, "md:See [there](01_a.ipynb#Parts).", "md:## End\n\n## Of\n\n## All")
    return Ran(folder / "nb", folder / "out")


def test_every_link_inside_the_site_leads_somewhere(ordinary, linked, tmp_path):
    assert linked.code == 0 and broken_links(linked.out) == []
    # what the tests' own notebook points to, and nobody wrote
    assert broken_links(ordinary.out) == [("01_first.html", "02_second.html#There")]
    (tmp_path / "a.html").write_text('<a href="b.html">x</a> <a href="#c">y</a> <a href="https://x.org">z</a>')
    assert len(broken_links(tmp_path)) == 2  # control


def test_home_leads_to_everything_and_to_the_report(linked):
    home = BeautifulSoup((linked.out / "index.html").read_text(), "html.parser")
    links = [link["href"] for link in home.find_all("a", href=True)]
    assert {"pages/01_a.html", "pages/02_b.html", "report.html", "glossary.html", "api/index.html"} <= set(links)
    card = home.select_one(".cards li").get_text(" ", strip=True)
    assert "01 · Title of 01_a" in card and "✓" not in home.get_text()


def test_opening_of_every_notebook_is_found():
    for lesson in discover(notebooks_folder()):
        said = opening(lesson.opening)
        assert all(said.values()), lesson.stem
        assert said["claim"].endswith((".", "?", "!")) and "read" in said["time"]
    assert opening("# Nothing of the kind") == {"claim": "", "needs": "", "time": ""}


def test_home_has_a_picture_of_each_notebook_that_draws(ordinary):
    cards = BeautifulSoup((ordinary.out / "index.html").read_text(), "html.parser").select(".cards > li")
    assert cards[0].img["src"].startswith("data:image/png") and cards[0].img["alt"] == "Figure: Maths"
    assert cards[1].img is None and cards[0].img.parent["href"] == "pages/01_first.html"


def test_home_says_what_to_open_first(linked):
    first, second = discover(linked.out.parent / "nb")

    def begin(time, entry=linked.entries["01_a"]):
        report = {**linked.report, "notebooks": [entry, linked.entries["02_b"]]}
        lessons = [replace(first, opening=f"# A\n\n**Time** {time}"), second]
        home = BeautifulSoup(home_page(report, lessons, linked.out), "html.parser")
        links = [link for link in home.select("main p > a") if link.get_text().startswith("Begin")]
        return [(link["href"], link.parent.get_text()) for link in links]

    told = "Begin with 01 · Title of 01_a: about ten minutes to read, nothing to install."
    assert begin("about ten minutes to read, one to run.") == [("pages/01_a.html", told)]
    assert begin("")[0][1] == "Begin with 01 · Title of 01_a: nothing to install."
    without_page = {name: value for name, value in linked.entries["01_a"].items() if name != "page"}
    assert begin("", without_page) == []


def test_facts_are_words_apart_and_no_line_ends_within_a_date(linked):
    assert "profile laptop 20" in sections(linked.page("01_a"))[0]["text"]
    date = f"<time>{linked.report['date'][:10]}</time>"
    assert date in (linked.out / "index.html").read_text() and date in linked.page("01_a")


# -- colours ---------------------------------------------------------------------------------------------------------

PAIR = re.compile(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)")


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    dark, light = sorted(map(luminance, (a, b)))
    return (light + 0.05) / (dark + 0.05)


def too_faint(css, grounds=("paper", "tint"), beside=("paper", "tint", "line", "mark")):
    """(colour, ground, theme) of every colour of text below 4.5:1, the bar of WCAG AA."""
    colours = {name: (light, dark) for name, light, dark in PAIR.findall(css)}
    faint = []
    for name in colours.keys() - set(beside):
        for ground in grounds:
            for theme in (0, 1):
                if contrast(colours[name][theme], colours[ground][theme]) < 4.5:
                    faint.append((name, ground, ("light", "dark")[theme]))
    return faint


def test_every_colour_of_text_can_be_read_on_light_and_on_dark():
    css = LOOK["page.css"]
    assert too_faint(css) == []
    assert len(PAIR.findall(css)) >= 16
    ink = dict((name, pair) for name, *pair in PAIR.findall(css))
    assert all(contrast(ink["ink"][i], ink["mark"][i]) > 4.5 for i in (0, 1))
    assert round(contrast("#000000", "#ffffff"), 6) == 21  # control
    assert too_faint(css.replace(ink["code-comment"][0], "#9aa3ad")) != []  # control


def test_no_rule_names_a_colour_beside_those():
    """But for what stands on a figure's own white, and behind an open dialog."""
    rules = LOOK["page.css"].split("/* page */")[1]
    assert set(re.findall(r"(?<!&)#[0-9a-f]{3,8}\b", rules)) == {"#fff", "#000a"}
    used = set(re.findall(r"color: var\(--([\w-]+)\)", rules)) - {"paper", "ground"}
    assert used <= {name for name, *_ in PAIR.findall(LOOK["page.css"])}


# -- what becomes of cells -------------------------------------------------------------------------------------------


def test_plumbing_is_folded_and_what_it_shows_is_not():
    shown = '<div class="input"><pre>a\nb</pre></div><div class="output">said</div>'
    cell = f'<div class="cell celltag_plumbing">{shown}</div>'
    folded = BeautifulSoup(dress(cell)[0], "html.parser")
    assert folded.select_one("details.plumbing > .input") and "2 lines" in folded.summary.get_text()
    assert folded.select_one("details .output") is None and folded.details.get("open") is None
    assert "<details" not in dress(cell.replace("celltag_plumbing", ""))[0]  # control


def test_columns_of_numbers_stand_on_the_right_and_keep_their_percent():
    rows = [("zoo", "92.3 ± 1.2 %", "1.00", "yes"), ("soup", "9.5 ± 0.4 %", "–", "1"), ("h=16", "1e-07", "-3,466", "2")]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    table = BeautifulSoup(dress(f"<table>{body}</table><p>5 % of it</p>")[0], "html.parser")
    marked = [["num" in cell.get("class", []) for cell in row.find_all("td")] for row in table.find_all("tr")]
    assert marked == [[False, True, True, False]] * 3
    assert table.table.parent["class"] == ["table"] and "1.2\N{NO-BREAK SPACE}%" in table.get_text()
    assert "5\N{NO-BREAK SPACE}% of it" in table.get_text()


def test_headings_have_places_of_their_own():
    body, headings = dress(
        "<h1>T</h1><h2 id='A'>A</h2><h2 id='A'>A</h2><details><h3>hidden</h3></details><h3>B b</h3>", "07"
    )
    assert headings == [Heading("h2", "A", "A"), Heading("h2", "A-2", "A"), Heading("h3", "B-b", "B b")]
    assert '<span class="number">07</span>T' in body


def test_a_term_is_linked_once_where_it_is_prose():
    terms = {"zoo": "g#zoo", "zoos": "g#zoo", "flow": "g#flow"}
    body = "<h2>A zoo</h2><p><code>zoo</code> Zoos and zoo, <a href='x'>flow</a> flow-matching ZOO flow</p><p>flow</p>"
    dressed = dress(body, terms=terms)[0]
    assert re.findall(r'<a class="term" href="([^"]*)">([^<]*)</a>', dressed) == [("g#zoo", "Zoos"), ("g#flow", "flow")]
    assert "term" not in dress("<p class='widget'>These controls: zoo</p>", terms=terms | {"controls": "g#c"})[0]
    assert "term" not in dress(body)[0]  # control


def test_a_name_of_the_package_is_linked_once_where_it_is_prose():
    body = "<h2><code>Zoo</code></h2><pre><code>Zoo</code></pre>"
    body += "<p><code>zoo</code> <code>Zoo</code> <code>Zoo(x)</code></p>"
    assert dress(body, names={"Zoo": "z"})[0].count('<a class="term" href="z"><code>Zoo</code></a>') == 1
    assert dress("<p><code>evaluate(zoo, task)</code></p>", names=names(""))[0].count("api/zoo.html#evaluate") == 1
    assert "<a" not in dress("<p><code>Zoo('wines': 3 classes)</code></p>", names={"Zoo": "z"})[0]
    assert names("../")["figures.draw_flow"] == "../api/figures.html#draw_flow"


def test_what_is_typed_at_a_prompt_stands_as_code_in_the_reference():
    pages = {name: BeautifulSoup(page, "html.parser") for name, page in reference_pages().items()}
    assert not any(page.select("blockquote blockquote") for page in pages.values())  # what ">>>" is in Markdown
    typed = [block.get_text() for page in pages.values() for block in page.select(".highlight pre")]
    assert sum(text.startswith(">>> ") and text.count("\n") > 1 for text in typed) > 30
    assert BeautifulSoup(markdown_html(">>> 1 + 1\n2"), "html.parser").select("blockquote blockquote")  # control


# -- glossary, reference, search -------------------------------------------------------------------------------------


def test_glossary_is_whole():
    terms = glossary()["terms"]
    numbers = {number_of(lesson.stem) for lesson in discover(notebooks_folder())}
    prose = "\n".join(path.read_text().lower() for path in notebooks_folder().glob("*.ipynb"))
    assert 50 <= len(terms) <= 70 and len({anchor(entry["term"]) for entry in terms}) == len(terms)
    for entry in terms:
        assert entry["met"] in numbers and len(entry["says"].split()) <= 45, entry["term"]
        assert any(form.lower() in prose for form in (entry["term"], *entry.get("also", ()))), entry["term"]
    page = glossary_page({"05": "pages/05_flow_matching.html"})
    assert "<math" in page and "$" not in without_own_scripts(page).split("<main")[1]
    for address in addresses("").values():
        assert f'id="{address.split("#")[1]}"' in page


def test_docstrings_name_the_arguments_that_there_are(caplog):
    reference_pages.cache_clear()
    reference_pages()
    assert not caplog.messages
    source = 'def f(a: int) -> None:\n    """Nothing.\n\n    Args:\n        a, b: two at once.\n    """\n'
    with griffe.temporary_visited_module(source, docstring_parser="google") as module:  # control
        assert module["f"].docstring.parsed and "does not appear in the function signature" in caplog.text


def test_reference_has_every_public_name():
    pages = reference_pages()
    index = BeautifulSoup(pages["index.html"], "html.parser")
    names = {link.get_text() for link in index.select("main table code")}
    assert set(dwflow_lite.__all__) - {"__version__"} <= names
    zoo = BeautifulSoup(pages["zoo.html"], "html.parser")
    assert zoo.find(id="Zoo") and zoo.find(id="Zoo.take") and zoo.find(id="evaluate")
    assert "Raises" in zoo.get_text() and not zoo.find(id="Zoo._check")
    folder = Path(dwflow_lite.__file__).parent
    rooms = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert {room for room in rooms if not room.startswith("_")} - {"support"} <= set(ROOMS), "a room has no page"
    audit = BeautifulSoup(pages["auditing.html"], "html.parser").find(id="audit")
    assert audit.find_next("pre").get_text().startswith("audit(")


def test_search_index_holds_every_section():
    page = frame("01 · T", "<h1 id='T'>T</h1><p>one<b>two</b></p><h2 id='S'>Some</h2><pre>x = 1</pre><p>finis</p>")
    assert sections(page) == (
        {"title": "01 · T", "heading": "", "at": "#T", "text": "onetwo"},
        {"title": "01 · T", "heading": "Some", "at": "#S", "text": "x = 1 finis"},
    )
    script = search_script({"pages/01.html": page.replace("finis", "</script>\u2028")})
    assert script.startswith("globalThis.courseSections = [") and "\u2028" not in script


def test_search_knows_notebooks_glossary_and_reference(linked):
    script = (linked.out / "search.js").read_text()
    assert '"page":"pages/01_a.html"' in script and '"page":"glossary.html"' in script and "api/zoo.html" in script
    assert "held-out networks" in script and "report.html" not in script


# -- scripts ---------------------------------------------------------------------------------------------------------


def test_no_text_of_a_page_can_hold_the_word_that_lets_scripts_run():
    def nonce(page):
        return re.search(r"'nonce-(\w+)'", page)[1]

    page = frame("T", "text")
    without_own_scripts(page)
    guess = nonce(page)
    assert nonce(frame("T", f"text{guess}")) != guess and nonce(frame("T", "text")) == guess


def test_scripts_reach_for_nothing_outside():
    for name in ("page.js", "theme.js"):
        assert not re.search(r"https?:|fetch\(|XMLHttp|import\b|innerHTML|eval\(", LOOK[name]), name
    assert Path(dwflow_lite.__file__).parent.joinpath("course/site/page.js").stat().st_size < 12_000
