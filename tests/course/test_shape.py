"""The shape of every notebook: what stands where, how long it may be, and what is folded away."""

import ast
import copy
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from dwflow_lite.course.lessons import discover, fit_lesson, read_profile, select
from dwflow_lite.course.pages import link_pages
from dwflow_lite.course.parameters import UsageError
from dwflow_lite.course.paths import notebooks_folder, number_of

from .conftest import FILES, RECORD, cells, prose, write_notebook

SECTIONS = ("**Claim.**", "After this notebook you can", "**You need**", "**Time**")
STEMS = [path.stem for path in FILES]


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def path(request):
    return request.param


# -- what stands where -------------------------------------------------------------------------------------------


def test_first_screen_says_what_to_expect(path):
    first = cells(path, "markdown")[0].source
    assert first.startswith("# ")
    assert not [s for s in SECTIONS if s not in first]


def test_ends_with_limits_exercises_summary_and_references(path):
    text = prose(path)
    order = [text.find(s) for s in ("\n## Limits", "\n## Exercises", "\n## Summary", "**References.**")]
    assert -1 not in order and order == sorted(order)


def test_code_cells_are_short_and_source_is_stripped(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.id
            assert cell.outputs == [] and cell.execution_count is None
            assert not re.search(r"sys\.path|%pip|!pip|\.\./data", cell.source), cell.id
    assert "widgets" not in nb.metadata


def code_lines(path):
    """Of cells, and of the code that stands in text: solutions and examples."""
    in_text = re.findall(r"```python\n(.*?)```", prose(path), re.DOTALL)
    return [line for block in [cell.source for cell in cells(path, "code")] + in_text for line in block.splitlines()]


def test_a_page_shows_code_without_scrolling(path):
    assert [line for line in code_lines(path) if len(line) > 96] == []


def test_notebooks_are_stripped_by_the_tool_too():
    command = [sys.executable, "-m", "nbstripout", "--verify", *map(str, FILES)]
    assert subprocess.run(command, capture_output=True).returncode == 0


def test_every_widget_stands_after_a_picture_drawn_by_the_same_function(path):
    seen = ""
    for cell in cells(path, "code"):
        if "widgets.explore(" in cell.source:
            assert "widgets.explore(\n    draw" in cell.source or "widgets.explore(draw" in cell.source
            assert re.search(r"figures\.show\(\s*draw\(", seen + cell.source)
        seen += cell.source


def test_every_picture_has_a_text_alternative(path):
    for cell in cells(path, "code"):
        for call in ast.walk(ast.parse(cell.source)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("figures.show", "widgets.explore"):
                assert "alt" in [k.arg for k in call.keywords], cell.id


def test_links_between_notebooks_lead_somewhere(path):
    targets = re.findall(r"\]\((\d\d[a-z]?_\w+\.ipynb)\)", prose(path))
    assert targets
    for target in targets:
        assert (path.parent / target).is_file(), target


def test_notebooks_say_where_they_run(path):
    code = "\n".join(c.source for c in cells(path, "code"))
    assert "where = usable_device(device)" in code and "runs_on(where)" in code


# -- rules, each beside a change that breaks it ------------------------------------------------------------------

MOST_CELLS = 60
MOST_LINES = 200  # of code beside plumbing
WORDS_PER_LINE = (5, 16)  # good courses have 6 to 14; formulas and tables of the prose are counted as words
LONGEST_TELLING = 3  # lines of a note that may stand among what computes
TELLING = {"note", "record", "above", "below"}
WORK = {"backward", "fit", "fit_predict", "fit_transform", "sample", "step", "transform"}  # methods of anything
CHANCE = re.compile(r"(torch|np\.random)\.(manual_seed|rand\w*|normal|bernoulli|multinomial|Generator)")
PLACE = re.compile(
    r"\b(eq|sec|ch|app|fig|prop)s?\. ?\(?[A-Z\d]|\b(algorithm|theorem|table|figure|section) [A-Z\d]", re.I
)


def tags(cell):
    return cell.metadata.get("tags", ())


def is_hidden(cell):
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def code_of(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def lines_beside_plumbing(nb):
    return sum(len(lines_of(cell)) for cell in code_of(nb) if "plumbing" not in tags(cell))


def text_of(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def called(tree):
    """Every call in it: the name or the dotted path that is called, and the call."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def names_in(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def too_many_cells(nb, stem):
    return [f"{len(nb.cells)} cells"] if len(nb.cells) > MOST_CELLS else []


def too_much_code(nb, stem):
    lines = lines_beside_plumbing(nb)
    return [f"{lines} lines of code beside plumbing"] if lines > MOST_LINES else []


def too_few_or_too_many_words(nb, stem):
    ratio = len(text_of(nb).split()) / lines_beside_plumbing(nb)
    low, high = WORDS_PER_LINE
    return [] if low <= ratio <= high else [f"{ratio:.1f} words for a line of code"]


def does_not_lead_on(nb, stem):
    """The link after 'Next' is the notebook after this one; after the last one, the first."""
    following = (STEMS[STEMS.index(stem) + 1 :] + STEMS)[0]
    next_line = re.search(r"^\*\*Next:\*\* .*?\]\((\w+)\.ipynb\)", nb.cells[-1].source, re.MULTILINE)
    leads_to = next_line[1] if next_line else "nowhere"
    return [] if leads_to == following else [f"'Next' leads to {leads_to}, not to {following}"]


def objectives_out_of_number(nb, stem):
    listed = nb.cells[0].source.partition("After this notebook you can")[2].partition("**You need**")[0]
    number = len(re.findall(r"^- ", listed, re.MULTILINE))
    return [] if 4 <= number <= 7 else [f"{number} objectives"]


def claim_too_long(nb, stem):
    claim = nb.cells[0].source.partition("**Claim.**")[2].partition("\n\n")[0]
    faults = [f"a claim of {len(claim.split())} words"] if len(claim.split()) > 40 else []
    return faults + (["a claim of several sentences"] if re.search(r"[.?!] +[A-Z*]", claim) else [])


def references_without_places(nb, stem):
    """Where in a paper: an equation, a table, an algorithm."""
    references = text_of(nb).partition("**References.**")[2].partition("\n\n")[0]
    return [] if PLACE.search(references) else ["references name no equation, table or algorithm"]


def folded_wrongly(nb, stem):
    """Plumbing is folded in JupyterLab too, and nothing else is; what a reader is to see or to fill in is neither."""
    seen = re.compile("parameters|signature|exercise:|source:")
    faults = [c.id for c in nb.cells if is_hidden(c) != ("plumbing" in tags(c))]
    faults += [c.id for c in nb.cells if "plumbing" in tags(c) and any(seen.match(tag) for tag in tags(c))]
    return [f"cell {cell} is folded, or is not, against its tags" for cell in faults]


def own_names(nb):
    """Names that a notebook imports from the package, beside the helpers of the course."""
    own = set()
    for cell in code_of(nb):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom) and re.match(r"dwflow_lite(?!\.course|\.support)", node.module or ""):
                own |= {alias.asname or alias.name for alias in node.names}
    return own


def plumbing_that_works(nb, stem):
    """Folded code calls nothing of the package, fits nothing and draws nothing: what is learnt here stays in sight."""
    own = own_names(nb)
    faults = []
    for cell in code_of(nb):
        if "plumbing" in tags(cell):
            for name, _ in called(ast.parse(cell.source)):
                works = name.split(".")[0] in own or name.split(".")[-1] in WORK or CHANCE.match(name)
                faults += [f"plumbing {cell.id} calls {name}"] if works else []
    return faults


def plumbing_that_does_not_tell(nb, stem):
    """Folded code says or records something, only imports, or prepares what `record` takes."""
    recorded = set()
    for cell in code_of(nb):
        for name, call in called(ast.parse(cell.source)):
            recorded |= names_in(call) if name == "record" else set()
    faults = []
    for cell in code_of(nb):
        tree = ast.parse(cell.source)
        tells = TELLING & {name for name, _ in called(tree)}
        imports = all(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
        assigned = {
            node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        if "plumbing" in tags(cell) and not (tells or imports or assigned & recorded):
            faults.append(f"plumbing {cell.id} neither tells nor records")
    return faults


def telling_in_sight(nb, stem):
    """What records, and notes of more than a few lines, stand in plumbing."""
    faults = []
    for cell in code_of(nb):
        if "plumbing" not in tags(cell):
            for name, call in called(ast.parse(cell.source)):
                is_long = call.end_lineno - call.lineno >= LONGEST_TELLING
                faults += [f"cell {cell.id} tells in sight"] if name == "record" or (name == "note" and is_long) else []
    return faults


# Rule -> changes that break it in a notebook that keeps it.
PLUMBING = {"tags": ["plumbing"], "jupyter": {"source_hidden": True}}
BREAKS = {
    too_many_cells: [lambda nb: nb.cells.extend(nbformat.v4.new_markdown_cell("x") for _ in range(MOST_CELLS))],
    too_much_code: [lambda nb: add(nb, "x = 1\n" * (MOST_LINES + 1))],
    too_few_or_too_many_words: [
        lambda nb: nb.cells.append(nbformat.v4.new_markdown_cell("word " * 16 * lines_beside_plumbing(nb))),
        lambda nb: add(nb, "x = 1\n" * 2000),
    ],
    does_not_lead_on: [
        lambda nb: replace(nb.cells[-1], r"\*\*Next:", "**Later:"),
        lambda nb: replace(nb.cells[-1], r"\(\d\d[a-z]?_\w+\.ipynb\)", "(nowhere.ipynb)"),
    ],
    objectives_out_of_number: [
        lambda nb: replace(nb.cells[0], r"^- .*\n", ""),
        lambda nb: replace(nb.cells[0], r"^- ", "- a\n- b\n- "),
    ],
    claim_too_long: [
        lambda nb: replace(nb.cells[0], r"\*\*Claim\.\*\*", "**Claim.** " + "word " * 40),
        lambda nb: replace(nb.cells[0], r"\*\*Claim\.\*\*", "**Claim.** So it is. And"),
    ],
    references_without_places: [lambda nb: [replace(cell, PLACE.pattern, "") for cell in nb.cells]],
    folded_wrongly: [
        lambda nb: add(nb, "note('x')", tags=["plumbing"]),
        lambda nb: add(nb, "x = 1", jupyter={"source_hidden": True}),
        lambda nb: add(nb, "x = 1", tags=["plumbing", "exercise:00.1"], jupyter={"source_hidden": True}),
    ],
    plumbing_that_works: [
        lambda nb: add(nb, "from dwflow_lite.zoo import train_zoo\nnote(train_zoo())", **PLUMBING),
        lambda nb: add(nb, "note(model.sample(3, seed=1))", **PLUMBING),
        lambda nb: add(nb, "note(torch.randn(3))", **PLUMBING),
    ],
    plumbing_that_does_not_tell: [lambda nb: add(nb, "unused = sorted([2, 1])", **PLUMBING)],
    telling_in_sight: [
        lambda nb: add(nb, "record({}, {})"),
        lambda nb: add(nb, "note(\n    'a'\n    'b'\n    'c'\n)"),
    ],
}


def add(nb, source, **metadata):
    nb.cells.insert(-1, nbformat.v4.new_code_cell(source, metadata=metadata))


def replace(cell, pattern, by):
    cell.source = re.sub(pattern, by, cell.source, flags=re.MULTILINE | re.IGNORECASE)


def faults_of(path):
    nb = nbformat.read(path, as_version=4)
    return [fault for rule in BREAKS for fault in rule(nb, path.stem)]


def test_notebook_keeps_every_rule(path):
    faults = faults_of(path)
    assert faults == []


@pytest.mark.parametrize("rule, number", [(rule, i) for rule, many in BREAKS.items() for i in range(len(many))])
def test_a_rule_sees_what_breaks_it(rule, number):
    """Control: in every notebook that keeps this rule."""
    seen = 0
    for path in FILES:
        nb = nbformat.read(path, as_version=4)
        if rule(nb, path.stem) == []:
            BREAKS[rule][number](nb)
            assert rule(nb, path.stem), path.stem
            seen += 1
    assert seen


def test_folding_survives_stripping(tmp_path):
    """Of a notebook that ran in JupyterLab."""
    nb = nbformat.v4.new_notebook()
    output = nbformat.v4.new_output("stream", text="said")
    nb.cells = [
        nbformat.v4.new_code_cell("note('x')", metadata=copy.deepcopy(PLUMBING), outputs=[output], execution_count=3),
        nbformat.v4.new_code_cell("x = 1", metadata={"scrolled": True, "collapsed": False}),
    ]
    nbformat.write(nb, tmp_path / "a.ipynb")
    subprocess.run([sys.executable, "-m", "nbstripout", str(tmp_path / "a.ipynb")], check=True)
    first, second = nbformat.read(tmp_path / "a.ipynb", as_version=4).cells
    assert is_hidden(first) and "plumbing" in tags(first) and first.outputs == [] and first.execution_count is None
    assert second.metadata == {}  # control: it strips what is not the author's


# -- profiles ----------------------------------------------------------------------------------------------------


def test_profiles_name_the_notebooks_there_are():
    profiles = yaml.safe_load((notebooks_folder() / "profiles.yaml").read_text())
    assert {"smoke", "laptop", "gpu"} <= set(profiles)
    assert set(profiles["smoke"]) == set(profiles["gpu"]) == {p.stem for p in FILES}
    assert {values["device"] for values in profiles["gpu"].values()} == {"cuda"}  # says so where there is none


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu"])
def test_profiles_fit_the_parameters_of_the_notebooks(profile):
    lessons = discover(notebooks_folder())
    values = read_profile(notebooks_folder() / "profiles.yaml", profile, lessons)
    for lesson in lessons:
        fit_lesson(lesson, values.get(lesson.stem, {}), profile)
        assert lesson.defaults["device"] == "auto"  # every notebook runs where the reader says
    with pytest.raises(UsageError):
        fit_lesson(lessons[0], {"device": 0}, profile)  # control


# -- a notebook in two parts -------------------------------------------------------------------------------------


def test_a_second_part_stands_after_the_first_and_is_chosen_alone(tmp_path):
    for stem in ("04_c", "03b_second", "03_first", "03bb_no_number"):
        write_notebook(tmp_path, stem, RECORD)
    lessons = discover(tmp_path)
    assert [lesson.stem for lesson in lessons] == ["03_first", "03b_second", "04_c"]
    assert [number_of(lesson.stem) for lesson in lessons] == ["03", "03b", "04"]

    def chosen(*names):
        return [lesson.stem for lesson in select(lessons, names)]

    assert chosen("03") == ["03_first"] and chosen("03b") == ["03b_second"]
    assert chosen("03b_second.ipynb", "04") == ["03b_second", "04_c"] and len(chosen()) == 3
    with pytest.raises(UsageError, match="no notebook 03c"):
        chosen("03c")


def test_pages_of_two_parts_lead_to_each_other(tmp_path):
    titles = {"03_first": "First", "03b_second": "Second"}
    for stem in titles:
        (tmp_path / f"{stem}.html").write_text("<!--nav--><!--/nav-->")
    link_pages(tmp_path, titles)
    assert 'href="03b_second.html">03b · Second' in (tmp_path / "03_first.html").read_text()
    assert 'href="03_first.html">← 03 · First' in (tmp_path / "03b_second.html").read_text()
