"""Whatever a notebook holds: it fails by itself, with its cell named; the others run, and every output is JSON."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from dwflow_lite.course.reading import NotebookError, read_notebook

from .conftest import RECORD, Ran, without_own_scripts, write_notebook

SHOW = "from IPython.display import *\n"


def raw_display(data):
    return SHOW + f"display({data}, raw=True)"


def altered(path, alter):
    """The notebook at `path` with its JSON changed by hand, where nbformat would refuse to write it."""
    nb = json.loads(path.read_text())
    alter(nb)
    path.write_text(json.dumps(nb))


def set_in(*keys, value):
    def alter(nb):
        part = nb
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value

    return alter


# -- files that hold no notebook that could be run: read, not run ---------------------------------------------------

UNREADABLE = {
    "text": ("{", "Expecting property name"),
    "empty": ("", "Expecting value"),
    "list": ("[]", "no 'nbformat'"),
    "null": ("null", "no 'nbformat'"),
    "future": ('{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}', "Unsupported nbformat version 99"),
    "cell-less": ('{"nbformat": 4, "nbformat_minor": 4, "metadata": {}}', "cells"),
    "bytes": (b"\xff\xfe\x00", "decode"),
    "nested": ("[" * 100_000, "recursion"),
}
MISSHAPEN = {
    "metadata-list": (set_in("metadata", value=[]), "its metadata are no mapping"),
    "metadata-nan": (set_in("metadata", value={"x": float("nan")}), "holds NaN, which JSON does not know"),
    "dwflow-text": (set_in("metadata", "dwflow", value="x"), "metadata 'dwflow' are no mapping"),
    "needs-number": (set_in("metadata", "dwflow", value={"needs": 5}), "'needs' are no list"),
    "needs-word": (set_in("metadata", "dwflow", value={"needs": "01_a"}), "'needs' are no list"),
    "minutes-text": (set_in("metadata", "dwflow", value={"minutes": {"laptop": "long"}}), "do not map profiles"),
    "minutes-list": (set_in("metadata", "dwflow", value={"minutes": [1]}), "do not map profiles"),
    "kernelspec-text": (set_in("metadata", "kernelspec", value="python3"), "python3"),
    "cell-unknown": (set_in("cells", 2, "cell_type", value="foo"), "cell 3: its type 'foo' is not known"),
    "cell-number": (set_in("cells", 2, value=5), "cell 3 is no mapping"),
    "tags-none": (set_in("cells", 2, "metadata", value={"tags": None}), "cell 3: its tags"),
    "cell-metadata": (set_in("cells", 2, "metadata", value=3), "cell 3 is no mapping, or its metadata are none"),
    "source-none": (set_in("cells", 2, "source", value=None), "cell 3: "),
    "infinity": (set_in("cells", 1, "source", value="n = 1e999"), "cell 2: the parameter 'n' is inf"),
    "set": (set_in("cells", 1, "source", value="n = {1, 2}"), "cell 2: the parameter 'n' is of type set"),
    "bytes-default": (set_in("cells", 1, "source", value="n = b'x'"), "cell 2: the parameter 'n' is of type bytes"),
}


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory):
    """One run over all of them, with two good notebooks among them and a parameter that only those can take."""
    folder = tmp_path_factory.mktemp("unreadable")
    source = folder / "nb"
    write_notebook(source, "00_good", RECORD)
    for number, (name, (content, _)) in enumerate(UNREADABLE.items(), 1):
        path = source / f"{number:02d}_{name.replace('-', '_')}.ipynb"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for number, (name, (alter, _)) in enumerate(MISSHAPEN.items(), 30):
        altered(write_notebook(source, f"{number:02d}_{name.replace('-', '_')}", RECORD), alter)
    (source / "90_folder.ipynb").mkdir()
    (source / "91_gone.ipynb").symlink_to(folder / "nowhere")
    altered(write_notebook(source, "98_double_ids", RECORD, "1"), set_in("cells", 2, "id", value="c1"))
    return Ran(source, folder / "out", parameters={"n": 4})


def test_only_what_cannot_be_read_fails(unreadable):
    assert unreadable.code == 1 and unreadable.report["status"] == "failed"
    good = [stem for stem, status in unreadable.status().items() if status == "passed"]
    assert good == ["00_good", "98_double_ids"]
    assert set(unreadable.status().values()) == {"passed", "failed"}
    assert unreadable.entries["00_good"]["metrics"] == {"score": 4}


@pytest.mark.parametrize("name, says", [(n, s) for n, (_, s) in {**UNREADABLE, **MISSHAPEN}.items()])
def test_each_says_in_one_sentence_what_is_wrong(unreadable, name, says):
    stem = next(stem for stem in unreadable.entries if stem[3:] == name.replace("-", "_"))
    error = unreadable.error(stem)
    assert error["ename"] == "NotebookError" and says in error["evalue"] and error["traceback"] == ""
    assert "\n" not in error["evalue"] and (unreadable.out / f"failed/{stem}.ipynb").exists()


@pytest.mark.parametrize("stem", ["90_folder", "91_gone"])
def test_what_is_no_file_is_not_opened(unreadable, stem):
    assert "no file" in unreadable.error(stem)["evalue"]


def test_an_old_format_and_traces_of_a_run_are_read_as_the_author_wrote_them(tmp_path):
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"metadata": {}, "cells": []}]}
    code = {"cell_type": "code", "input": "n = 3", "outputs": [], "language": "python", "metadata": {}}
    old["worksheets"][0]["cells"].append(code)
    (tmp_path / "old.ipynb").write_text(json.dumps(old))
    assert read_notebook(tmp_path / "old.ipynb").cells[0].source == "n = 3"

    run = nbformat.v4.new_notebook(metadata={"widgets": {"x": 5}, "papermill": 3})
    run.cells = [nbformat.v4.new_code_cell("1", execution_count=4)]
    run.cells.append(nbformat.v4.new_code_cell("n = 9", metadata={"tags": ["injected-parameters"]}))
    run.cells[0].outputs = [nbformat.v4.new_output("display_data", {"text/latex": r"$\oops$"})]
    nbformat.write(run, tmp_path / "run.ipynb")
    read = read_notebook(tmp_path / "run.ipynb")
    assert [cell.source for cell in read.cells] == ["1"] and read.cells[0].outputs == [] and not read.metadata


def test_reading_names_the_cell(tmp_path):
    altered(write_notebook(tmp_path, "01_one", RECORD), set_in("cells", 2, "source", value=7))
    with pytest.raises(NotebookError, match=r"^cell 3: "):
        read_notebook(tmp_path / "01_one.ipynb")


# -- cells that do what no cell should ------------------------------------------------------------------------------

RECORD_MIME = "application/vnd.dwflow.record+json"
# What must not keep a notebook from passing: all in one, cell by cell.
HARMLESS = [
    "md:## Half \ud800 a letter",
    "print('a\\0b \\ud800')",
    SHOW + "display({'application/json': {'x': float('nan')}}, raw=True)",
    raw_display({"application/x-foo": "bar"}),
    SHOW + r"display(Latex(r'$\text{<script>alert(4)</script>}$'))",
    "from dwflow_lite.course import note\nnote('<script>alert(1)</script> <b onclick=x>b</b>')",
    "md:[x](javascript:alert(1)) <b onmouseover=alert(1)>b</b> <a href='java\nscript:x'>y</a>",
    "import ipywidgets as w\na = w.VBox()\na.children = [a]\na",
    "import os, shutil\nshutil.rmtree(os.getcwd())",
    "import sys\nsys.stdout = None",
    "md:<div><p <b></details>",
]
TOO_MUCH = [
    "for _ in range(500):\n    print('x' * 100_000)",
    "import subprocess\nsubprocess.run('yes | head -c 20000000', shell=True)",
    SHOW + "for i in range(5000):\n    display(i)",
    "'x' * 50_000_000",
]
CONTENT = {
    "harmless": ("passed", HARMLESS),
    "too_much": ("passed", TOO_MUCH),
    "surrogate": ("cell 3", ["x = '\ud800'"]),
    "record_list": ("cell 3", [raw_display({RECORD_MIME: [1, 2]})]),
    "record_bool": ("cell 3", [raw_display({RECORD_MIME: {"metrics": [["x", True]]}})]),
    "picture_number": ("cell 3", [raw_display({"image/png": 5})]),
    "picture_markup": ("cell 3", [raw_display({"image/png": '"><script>alert(1)</script>'})]),
    "script": ("cell 3", [SHOW + "display(Javascript('alert(1)'))"]),
    "frame": ("cell 3", ["md:<iframe srcdoc='x'></iframe>"]),
    "input": ("cell 3", ["input()"]),
    "long_error": ("cell 3", ["raise ValueError('x' * 5_000_000)"]),
}
TAGGED = {
    "honoured": ("passed", "raises-exception", ("1 / 0", "print('after')")),
    "only_that_cell": ("cell 4", "raises-exception", ("1 / 0", "2 + 'a'")),
    "no_death": ("cell 3", "raises-exception", ("import os\nos._exit(1)",)),
    "no_false_claim": ("cell 3", "raises-exception", ("record({}, {'pigs fly': False})",)),
    "not_skipped": ("cell 3", "skip-execution", ("1 / 0",)),
    "untagged": ("cell 3", "raises", ("1 / 0",)),
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """One run over all of them; a good notebook comes last."""
    folder = tmp_path_factory.mktemp("content")
    for number, (name, (_, cells)) in enumerate(CONTENT.items(), 10):
        path = write_notebook(folder / "nb", f"{number}_{name}", *["pass" for _ in cells], RECORD)
        for place, cell in enumerate(cells):
            kind = "markdown" if cell.startswith("md:") else "code"
            new = {"cell_type": kind, "source": cell.removeprefix("md:"), "metadata": {}, "id": f"c{place}"}
            new |= {} if kind == "markdown" else {"outputs": [], "execution_count": None}
            altered(path, set_in("cells", 2 + place, value=new))
    for number, (name, (_, tag, cells)) in enumerate(TAGGED.items(), 50):
        head = ["from dwflow_lite.course import record"] if name == "no_false_claim" else []
        path = write_notebook(folder / "nb", f"{number}_{name}", *cells, RECORD)
        altered(path, set_in("cells", 2, "metadata", value={"tags": [tag]}))
        altered(path, set_in("cells", 2, "source", value="\n".join([*head, cells[0]])))
    write_notebook(folder / "nb", "99_good", RECORD)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST")  # ipykernel would not take up what child processes print
        return Ran(folder / "nb", folder / "out", cell_timeout=50)


def stem_of(ran, name):
    return next(stem for stem in ran.entries if stem[3:] == name)


@pytest.mark.parametrize("name, wanted", [(n, w) for n, (w, *_) in {**CONTENT, **TAGGED}.items()])
def test_each_notebook_passes_or_fails_by_itself(content, name, wanted):
    entry = content.entries[stem_of(content, name)]
    if wanted == "passed":
        assert entry["status"] == "passed", entry["error"]
    else:
        error = entry["error"]
        assert entry["status"] == "failed"
        assert f"cell {error['cell']}" == wanted or error["evalue"].startswith(wanted + ": "), error
    assert content.status()["99_good"] == "passed"


def test_every_output_is_json(content, unreadable):
    def refuse(name):
        raise AssertionError(f"{name} in a JSON file")

    for ran in (content, unreadable):
        files = [ran.out / "report.json", *ran.out.glob("*/*.ipynb")]
        assert len(files) > 15
        for file in files:
            json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
            assert file.stat().st_size < 10_000_000


def test_the_next_run_reads_all_that_this_one_left(content):
    """Also records that are none, in the copies of notebooks that failed."""
    again = Ran(content.out.parent / "nb", content.out, notebooks=["99"])
    assert again.code == 0 and again.status()["99_good"] == "cached"
    assert again.status()[stem_of(again, "record_list")] == "failed"


def test_nothing_in_a_page_runs(content):
    for page in content.out.glob("pages/*.html"):
        text = without_own_scripts(page.read_text(encoding="utf-8", errors="replace"))
        assert "<script" not in text and not tags_with_handlers(text), page
        assert "Content-Security-Policy" in text and "default-src 'none'" in text
    page = without_own_scripts(content.page(stem_of(content, "harmless")))
    shown = re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)  # without the source of the cells
    assert "&lt;script&gt;alert(1)" in shown and "&lt;script&gt;alert(4)" in shown and "<b onclick" not in shown
    assert ">b</b>" in shown and "onmouseover" not in shown and "script:" not in shown


def tags_with_handlers(text):
    """Tags with an event handler."""
    from bs4 import BeautifulSoup

    return [
        tag for tag in BeautifulSoup(text, "html.parser").find_all(True) if any(n.startswith("on") for n in tag.attrs)
    ]


def test_what_is_cut_is_said(content):
    entry = content.entries[stem_of(content, "too_much")]
    page = content.page(entry["stem"])
    printed, by_child, displayed, result = entry["cut"]
    assert printed.startswith("cell 3 printed 50,000,500 letters, of which a run keeps 1,000,000")
    assert by_child.startswith("cell 4 printed 20,000,000 letters")
    assert displayed.startswith("cell 5 displayed 4,000 times more than a run keeps")
    assert result.startswith("cell 6 displayed 1 times more")
    report = (content.out / "report.md").read_text()
    for sentence in entry["cut"]:
        assert sentence in content.text and f"Cut: {sentence}." in report
    assert page.count("[cut: this cell") == 4 and len(page) < 4_000_000
    assert content.entries["99_good"]["cut"] == []
    assert "[cut: 4,995,000 more letters]" in content.error(stem_of(content, "long_error"))["evalue"]


def test_a_tagged_error_is_shown_and_the_run_goes_on(content):
    nb = content.executed(stem_of(content, "honoured"))
    kinds = [[output.output_type for output in cell.get("outputs", ())] for cell in nb.cells]
    assert kinds[2:4] == [["error"], ["stream"]] and "ZeroDivisionError" in content.page(stem_of(content, "honoured"))
    assert content.error(stem_of(content, "only_that_cell"))["ename"] == "TypeError"
    assert content.error(stem_of(content, "no_false_claim"))["ename"] == "ClaimFalse"
    assert content.error(stem_of(content, "no_death"))["ename"] == "KernelDied"
    assert content.error(stem_of(content, "not_skipped"))["ename"] == "ZeroDivisionError"


def test_importing_the_reading_of_notebooks_is_enough_to_refuse_a_pipe(tmp_path):
    """A named pipe would be waited for: it is no file."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "01_pipe.ipynb")
    code = "import sys; from pathlib import Path; from dwflow_lite.course.reading import read_notebook\n"
    code += f"try: read_notebook(Path({str(tmp_path / '01_pipe.ipynb')!r}))\nexcept ValueError: sys.exit(7)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 7
