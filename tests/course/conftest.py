"""The notebooks of the course; tiny ones made on the fly, and the runner over them."""

import io
import json
import re
from pathlib import Path

import nbformat
import pytest

from dwflow_lite.course.lessons import discover
from dwflow_lite.course.paths import notebooks_folder
from dwflow_lite.course.run import run
from dwflow_lite.course.site.frame import LOOK

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
RECORD = "from dwflow_lite.course import note, record\nrecord({'score': n}, {'n is positive': n > 0})"

FILES = [lesson.path for lesson in discover(notebooks_folder())]  # of the course, in its order


def cells(path, kind):
    """The cells of one kind ("code", "markdown") of a notebook."""
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def prose(path):
    """All that is written in a notebook."""
    return "\n\n".join(c.source for c in cells(path, "markdown"))


def write_notebook(folder, stem, *cells, kernel="python3", parameters="n = 3", **own):
    """Cells are source; 'md:' starts markdown. A cell tagged parameters comes second unless None."""
    folder.mkdir(parents=True, exist_ok=True)
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {**KERNEL, "name": kernel}, "dwflow": own})
    nb.cells.append(nbformat.v4.new_markdown_cell(f"# Title of {stem}"))
    if parameters is not None:
        nb.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for i, source in enumerate(cells):
        make = nbformat.v4.new_markdown_cell if source.startswith("md:") else nbformat.v4.new_code_cell
        nb.cells.append(make(source.removeprefix("md:"), id=f"c{i}"))
    nbformat.write(nb, folder / f"{stem}.ipynb")
    return folder / f"{stem}.ipynb"


def without_own_scripts(page):
    """The page without the site's own three scripts, each of which stands in it once, letter for letter."""
    (nonce,) = re.findall(r"script-src 'nonce-([0-9a-f]{32})';", page)
    root = re.search(r'<html lang="en" data-root="(|\.\./)">', page)[1]
    own = (">" + LOOK["theme.js"], f' src="{root}search.js">', ">" + LOOK["page.js"])
    for inside in own:
        script = f'<script nonce="{nonce}"{inside}</script>'
        assert page.count(script) == 1
        page = page.replace(script, "")
    assert page.count(nonce) == 1, "in the policy"
    return page


class Ran:
    """A finished run: its exit code, what it printed, its report. No notebook of a test takes minutes."""

    def __init__(self, source: Path, out: Path, **options):
        stream = io.StringIO()
        self.out = out
        limits = {"cell_timeout": 60, "notebook_timeout": 100}
        self.code = run(out, source=source, **{"stream": stream, **limits, **options})
        self.text = stream.getvalue()
        self.report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        self.entries = {e["stem"]: e for e in self.report["notebooks"]}

    def status(self):
        return {stem: e["status"] for stem, e in self.entries.items()}

    def error(self, stem):
        return self.entries[stem]["error"]

    def executed(self, stem, kind="executed"):
        return nbformat.read(self.out / kind / f"{stem}.ipynb", as_version=4)

    def page(self, stem):
        return (self.out / "pages" / f"{stem}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory):
    """One run of two good notebooks with parameters from a profile and from -p."""
    folder = tmp_path_factory.mktemp("ordinary course")
    source = folder / "notes"
    write_notebook(
        source,
        "01_first",
        "md:## Maths\n\nInline $x_t = (1-t)x_0 + t x_1$, a display\n\n$$\\|v_\\theta(x_t, t) - u_t\\|^2$$\n\n"
        "and [the next](02_second.ipynb#There).\n\n<details><summary>Hint</summary>\n\nLook at *this*:\n\n"
        "```python\nanswer = 42\n```\n\n</details>",
        "import os\nfrom pathlib import Path\nfrom dwflow_lite.course import artefacts, note, record\n"
        "(artefacts() / 'zoo.txt').write_text('shared')\n"
        "assert list(Path.cwd().iterdir()) == [], 'starts in an empty folder'",
        "from tqdm.auto import tqdm, trange\nfor _ in tqdm(range(5)):\n    pass\nfor _ in trange(5):\n    pass",
        "from IPython.display import Math, display\ndisplay(Math(r'\\alpha^2'))\nnote(f'n was **{n}** and $n^2$ more')",
        "import matplotlib.pyplot as plt\nplt.plot([n, 2])\nplt.show()",
        "from ipywidgets import interact\n@interact(time=(0.0, 1.0), kind=['a', 'b'])\n"
        "def draw(time=0.5, kind='a'):\n"
        "    print(time, kind)",
        "record({'zeta': n, 'alpha': 0.123456, 'names': 'text'}, {'n is positive': n > 0})",
        parameters="n = 3\nseed = 7\nrate = 0.1",
        minutes={"laptop": 1, "smoke": 1},
    )
    write_notebook(
        source,
        "02_second",
        "from dwflow_lite.course import artefacts\nassert (artefacts() / 'zoo.txt').read_text() == 'shared'",
        RECORD,
        needs=["01_first"],
    )
    (source / "profiles.yaml").write_text("laptop:\nsmoke:\n  01_first: {n: 5, rate: 1e-3}\n")
    return Ran(source, folder / "my out", profile="smoke", parameters={"n": 6})
