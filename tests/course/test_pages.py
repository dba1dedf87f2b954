"""Pages are self-contained and say what the notebook said."""

import re

import nbformat
import pytest

from dwflow_lite.course.pages import PageError, external_resources, link_pages, mathml, notebook_page

from .conftest import without_own_scripts


def test_page_fetches_nothing(ordinary):
    pages = [path.read_text() for path in ordinary.out.rglob("*.html")]
    assert len(pages) > 12
    for page in map(without_own_scripts, pages):
        assert external_resources(page) == []
        assert not re.search(r"<(?!a\b)[^>]*\b(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)
        assert "<script" not in page


@pytest.mark.parametrize(
    "snippet",
    [
        '<script src="https://x.org/a.js"></script>',
        '<link rel="stylesheet" href="//x.org/a.css">',
        "<img src='pic.png'>",
        "<style>@import 'a.css';</style>",
        "<style>a { background: url(https://x.org/a.png) }</style>",
    ],
)
def test_what_would_be_fetched_is_seen(snippet):
    assert len(external_resources(f"<p>{snippet}</p>")) == 1


def test_what_is_inline_or_a_link_is_not():
    assert external_resources('<a href="https://x.org">x</a><img src="data:image/png;base64,AA"><p>url(x)</p>') == []


def test_mathematics_is_mathml(ordinary):
    page = without_own_scripts(ordinary.page("01_first"))
    assert page.count("<math") == 4, "two in the text, one in a note, one displayed by code"
    assert "$" not in re.sub(r"<pre>.*?</pre>|<style>.*?</style>", "", page, flags=re.DOTALL)


def test_formula_that_cannot_be_shown_is_named(tmp_path):
    assert "𝒩" in mathml(r"\mathcal N(0, 1)") and "𝔼" in mathml(r"\mathbb{E}")
    assert "<math" in mathml(r"\begin{cases} 1 & x>0 \\ 0 & \text{else}\end{cases}", "block")
    for formula in (r"\frobnicate x", r"\frac{a}{", r"\left( a", "x_1_2"):
        with pytest.raises(PageError, match=re.escape(repr(formula))):
            mathml(formula)
    cells = [nbformat.v4.new_markdown_cell("fine $x$"), nbformat.v4.new_markdown_cell(r"bad $\oops$")]
    with pytest.raises(PageError, match="cell 2"):
        notebook_page(nbformat.v4.new_notebook(cells=cells), {"title": "T", "stem": "01_t"}, tmp_path)


def test_a_function_stands_apart_from_its_argument():
    spaced = '<mi>log</mi><mspace width="0.167em" />'
    assert spaced + "<mi>p</mi>" in mathml(r"-\log p") and spaced + "<mfrac>" in mathml(r"\log \frac{a}{b}")
    assert '</msub><mspace width="0.167em" /><mi>p</mi>' in mathml(r"\log_2 p")
    for formula in (r"\log(p)", r"\exp\left(-x\right)", "x p", "x_t p", r"e^{\log}"):
        assert "mspace" not in mathml(formula)


def test_folds_keep_what_is_in_them(ordinary):
    fold = re.search(r"<details>(.*?)</details>", ordinary.page("01_first"), re.DOTALL)[1]
    assert "<em>this</em>" in fold and '<div class="highlight">' in fold and "42" in fold


def test_links_pictures_and_widgets(ordinary):
    page = ordinary.page("01_first")
    assert 'href="02_second.html#There"' in page and ".ipynb" not in page
    told = "These controls work in Jupyter only: time, kind. Here, the picture above shows one setting of them."
    assert told in page and "widget-view" not in page
    assert 'alt="Figure: Maths"' in page and "data:image/png;base64" in page
    assert "<title>01 · Title of 01_first</title>" in page and "profile smoke" in page


def test_navigation(ordinary, tmp_path):
    forth = '<a rel="next" href="02_second.html">02 · Title of 02_second →</a>'
    assert ordinary.page("01_first").count(forth) == 2
    assert '<a rel="prev" href="01_first.html">← 01 · Title of 01_first</a>' in ordinary.page("02_second")
    for stem in ("01_a", "03_c"):
        (tmp_path / f"{stem}.html").write_text("<!--nav-->old<!--/nav-->")
    link_pages(tmp_path, {"01_a": "A", "03_c": "C & C"})
    first, last = ((tmp_path / f"{stem}.html").read_text() for stem in ("01_a", "03_c"))
    assert '<a rel="next" href="03_c.html">03 · C &amp; C →</a>' in first and "old" not in first and "→" not in last


def test_report(ordinary):
    report = (ordinary.out / "report.html").read_text()
    assert '<a href="pages/01_first.html">01_<wbr/>first</a>' in report  # its lines end at underscores
    assert "<td>Title of 01_first</td>" in report
    assert '<span class="badge passed">passed</span>' in report
    assert "0.1235" in report and "✓ holds" in report and "papermill" in report
