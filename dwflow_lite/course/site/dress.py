"""The cells of a notebook, once they are HTML, as the site shows them: folds, tables, terms, and a list of headings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, NavigableString, Tag

from dwflow_lite.course.markup import parsed
from dwflow_lite.course.site.frame import Heading

NUMBER = re.compile(r"[-+−±~≈<>]?\s*[\d.,  ]*\d[\d.,]*(e[-+]?\d+)?(\s*[±/×x]\s*[\d.,]+)*\s*(%|[a-zµ]{1,3}|[KMG]B)?")
PERCENT = re.compile(r"(?<=\d) %")
BLANK = ("", "–", "-", "—", "·")
NO_TERMS = {
    "a",
    "code",
    "pre",
    "math",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "summary",
    "th",
    "td",
    "svg",
    "style",
    "button",
}


def dress(
    body: str | BeautifulSoup,
    number: str = "",
    terms: dict[str, str] | None = None,
    names: dict[str, str] | None = None,
) -> tuple[str, list[Heading]]:
    """The body as the site shows it, and the headings for its list of contents.

    Args:
        body: HTML that nothing is fetched or run by; a tree is changed.
        number: of the notebook, put before its title.
        terms: what to link at its first use in prose -> address.
        names: the same of names of the package, in code within prose.
    """
    soup = parsed(body)
    _fold_plumbing(soup)
    _frame_tables(soup)
    _mark_signature(soup)
    headings = list(_headings(soup))
    if number and soup.h1:
        soup.h1.insert(0, _tag(soup, "span", "number", number))
    _keep_percents(soup)
    if terms:
        _link_terms(soup, terms)
    if names:
        _link_names(soup, names)
    return str(soup), headings


def _tag(soup: BeautifulSoup, name: str, kind: str, text: str = "") -> Tag:
    tag = soup.new_tag(name, attrs={"class": kind})
    tag.string = text
    return tag


def _fold_plumbing(soup: BeautifulSoup) -> None:
    """Fold the code of cells that only build a sentence or record what was claimed; what they show stays."""
    for cell in soup.select(".celltag_plumbing"):
        code = cell.select_one(".input")
        if code is None:
            continue
        lines = len(code.get_text().strip().splitlines())
        fold = code.wrap(soup.new_tag("details", attrs={"class": "plumbing"}))
        how_long = "1 line" if lines == 1 else f"{lines} lines"
        fold.insert(0, _tag(soup, "summary", "folded", f"Code that tells of the run ({how_long})"))


def _frame_tables(soup: BeautifulSoup) -> None:
    """Let wide tables scroll in a frame of their own, and set columns of numbers to the right."""
    for table in soup.find_all("table"):
        if table.find_parent("table"):
            continue
        rows = [row.find_all(["td", "th"], recursive=False) for row in table.find_all("tr")]
        for cell in table.find_all("th"):
            cell.name = "th" if cell.get_text().strip() else "td"  # a heading that says nothing is none
        width = max((len(row) for row in rows), default=0)
        for column in range(1, width):
            cells = [row[column] for row in rows if column < len(row)]
            values = [cell.get_text().strip() for cell in cells if cell.name == "td"]
            if any(value not in BLANK for value in values) and all(v in BLANK or NUMBER.fullmatch(v) for v in values):
                for cell in cells:
                    cell["class"] = [*cell.get_attribute_list("class"), "num"] if cell.get("class") else ["num"]
        table.wrap(soup.new_tag("div", attrs={"class": "table", "role": "group", "aria-label": "Table"}))


def _mark_signature(soup: BeautifulSoup) -> None:
    """Mark the figure that stands for the notebook: of the cell tagged `signature`, else the richest one."""
    pictures = soup.select(".celltag_signature .output_png img") or soup.select(".output_png img")
    if pictures:
        richest = max(pictures, key=lambda picture: len(str(picture.get("src", ""))))
        richest["class"] = ["signature"]


def _headings(soup: BeautifulSoup) -> Iterator[Heading]:
    """Every h2 and h3, each with an id that no other element has."""
    taken: set[str] = set()
    for heading in soup.find_all(["h1", "h2", "h3", "h4"]):
        link = heading.find("a", class_="anchor-link")
        text = heading.get_text().removesuffix("¶").strip()
        wanted = str(heading.get("id") or re.sub(r"\s+", "-", text))
        anchor = wanted
        while anchor in taken:
            anchor = f"{wanted}-{sum(other.startswith(wanted) for other in taken) + 1}"
        taken.add(anchor)
        heading["id"] = anchor
        if link is not None:
            link["href"] = f"#{anchor}"
            link["aria-label"] = "Link to this section"
        if heading.name in ("h2", "h3") and heading.find_parent("details") is None:
            yield Heading(heading.name, anchor, text)


def _texts(soup: BeautifulSoup, beside: set[str]) -> Iterator[NavigableString]:
    """The pieces of text that stand in none of these elements."""
    for text in list(soup.find_all(string=True)):
        if type(text) is NavigableString and not any(parent.name in beside for parent in text.parents):
            yield text


def _keep_percents(soup: BeautifulSoup) -> None:
    """No line ends between a number and its percent sign."""
    for text in _texts(soup, {"pre", "code", "style"}):
        if PERCENT.search(text):
            text.replace_with(PERCENT.sub("\N{NO-BREAK SPACE}%", text))


def _link_terms(soup: BeautifulSoup, terms: dict[str, str]) -> None:
    """Link each term to its definition where the page first uses it, in any of its forms, or as a sentence begins."""
    forms = terms | {form[0].upper() + form[1:]: address for form, address in terms.items()}
    words = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")
    linked: set[str] = set()
    for text in _texts(soup, NO_TERMS):
        if text.find_parent(class_="widget") is not None:  # its controls are no negative controls
            continue
        parts: list[NavigableString | Tag] = []
        end = 0
        for match in pattern.finditer(text):
            address = forms[match[0]]
            if address in linked:
                continue
            linked.add(address)
            link = soup.new_tag("a", attrs={"class": "term", "href": address})
            link.string = match[0]
            parts += [NavigableString(text[end : match.start()]), link]
            end = match.end()
        if parts:
            text.replace_with(*parts, NavigableString(text[end:]))


def _link_names(soup: BeautifulSoup, names: dict[str, str]) -> None:
    """Link each name of the package to its reference where prose first has it: `evaluate`, `evaluate(zoo, task)`.

    What has a colon is what an object prints of itself, not a name.
    """
    linked: set[str] = set()
    for code in soup.find_all("code"):
        text = code.get_text()
        name = text.split("(")[0].removeprefix("dwflow_lite.")
        if ":" in text or name in linked or name not in names or code.find_parent(list(NO_TERMS)) is not None:
            continue
        linked.add(name)
        code.wrap(soup.new_tag("a", attrs={"class": "term", "href": names[name]}))
