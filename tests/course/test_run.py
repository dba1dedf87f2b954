"""The runner against good, broken and interrupted notebooks."""

import errno
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from copy import copy
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

import dwflow_lite.course.run as run_module
from dwflow_lite.course.lessons import UsageError, code_digest, discover, fingerprints, literals
from dwflow_lite.course.paths import write_atomic
from dwflow_lite.course.report import Progress
from dwflow_lite.course.results import page_digest, sealed, unsealed
from dwflow_lite.course.run import run

from .conftest import RECORD, Ran, write_notebook

REPOSITORY = Path(__file__).resolve().parents[2]


def command(*words):
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-m", "dwflow_lite", *map(str, words)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(words[words.index("--out") + 1]).parent if "--out" in words else None,
    )


# -- what a good run leaves ------------------------------------------------------------------------


def test_good_run_passes_and_reports(ordinary):
    assert ordinary.code == 0 and ordinary.status() == {"01_first": "passed", "02_second": "passed"}
    first = ordinary.entries["01_first"]
    assert first["parameters"] == {"n": 6, "seed": 7, "rate": 0.001}, "-p wins over the profile, 1e-3 is a number"
    assert first["seed"] == 7 and first["peak_mb"] > 20 and first["minutes"] > 0
    assert list(first["metrics"].items()) == [("zeta", 6), ("alpha", 0.123456), ("names", "text")]
    assert first["claims"] == {"n is positive": True}
    assert first["widgets"] == {"controls": 2, "values": 5}
    assert ordinary.report["status"] == "passed" and ordinary.report["versions"]["papermill"]
    assert ordinary.report["threads"] >= 1 and ordinary.report["device"]
    assert "| [01_first](pages/01_first.html) | passed |" in (ordinary.out / "report.md").read_text()


def test_good_run_leaves_only_whole_things(ordinary):
    left = sorted(p.relative_to(ordinary.out).as_posix() for p in ordinary.out.rglob("*") if p.is_file())
    assert "api/index.html" in left and all(name.endswith(".html") for name in left if name.startswith("api/"))
    left = [name for name in left if not name.startswith("api/")]
    assert left == [
        ".lock",
        "artefacts/zoo.txt",
        "executed/01_first.ipynb",
        "executed/02_second.ipynb",
        "glossary.html",
        "index.html",
        "pages/01_first.html",
        "pages/02_second.html",
        "report.html",
        "report.json",
        "report.md",
        "search.js",
    ]


def test_executed_copy_has_values_but_no_hidden_cell_or_bars(ordinary):
    nb = ordinary.executed("01_first")
    injected = [c for c in nb.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and "n = 6" in injected[0].source
    assert not any("sweep" in c.source for c in nb.cells)
    assert len(nb.cells) == 10, "nine of its own and the injected one"
    state = nb.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    models = {s["model_name"] for s in state}
    assert "FloatSliderModel" in models and "FloatProgressModel" not in models
    slider = next(s["state"] for s in state if s["model_name"] == "FloatSliderModel")
    assert slider["value"] == 0.5, "the sweep puts controls back"
    assert "input_path" not in nb.metadata.papermill


def test_second_run_is_cached_and_changes_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr("dwflow_lite.course.lessons.code_digest", lambda: "this package")
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    write_notebook(tmp_path / "nb", "02_two", RECORD, needs=["01_one"])
    write_notebook(tmp_path / "nb", "03_three", RECORD)
    out = tmp_path / "out"
    first = Ran(tmp_path / "nb", out)
    again = Ran(tmp_path / "nb", out)
    assert again.code == 0 and set(again.status().values()) == {"cached"}
    assert again.entries["01_one"]["minutes"] == first.entries["01_one"]["minutes"]
    assert again.entries["01_one"]["metrics"] == {"score": 3}
    # another source: it and what needs it are stale, the third is not
    write_notebook(tmp_path / "nb", "01_one", RECORD, "m = 1")
    part = Ran(tmp_path / "nb", out, notebooks=["03"])
    assert part.status()["03_three"] == "cached" and part.report["selected"] == ["03_three"]
    assert [part.entries[s]["stale"] for s in ("01_one", "02_two", "03_three")] == [True, True, False]
    assert (out / "executed" / "01_one.ipynb").exists() and "stale" in (out / "index.html").read_text()
    changed = Ran(tmp_path / "nb", out, notebooks=["01_one", "03"], parameters={"n": 4})
    assert changed.status()["01_one"] == changed.status()["03_three"] == "passed"
    forced = Ran(tmp_path / "nb", out, notebooks=["03"], parameters={"n": 4}, force=True)
    assert forced.status()["03_three"] == "passed"


def test_fingerprint_follows_code_data_and_needs(tmp_path, monkeypatch):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    write_notebook(tmp_path / "nb", "02_two", RECORD, needs=["01_one"])
    write_notebook(tmp_path / "nb", "03_three", RECORD)
    lessons = discover(tmp_path / "nb")
    base = fingerprints(lessons, {}, "code")
    assert base == fingerprints(lessons, {"01_one": {"n": 3}}, "code"), "the default said aloud changes nothing"
    changed = fingerprints(lessons, {"01_one": {"n": 4}}, "code")
    assert [changed[s] != base[s] for s in base] == [True, True, False]
    assert all(fingerprints(lessons, {}, "other code")[s] != base[s] for s in base)
    package = tmp_path / "dwflow_lite" / "course"
    package.mkdir(parents=True)
    monkeypatch.setattr("dwflow_lite.course.lessons.__file__", str(package / "lessons.py"))
    digests = [code_digest()]
    downloads = (
        "data/MNIST/raw/a",
        "data/cifar-10-batches-py/test_batch",
        "data/cifar-10-python.tar.gz",
        "data/my/a.csv",
    )
    for name in ("dwflow_lite/zoo.py", "data/zoo.bin", *downloads, "dwflow_lite/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        digests.append(code_digest())
    assert [a != b for a, b in pairwise(digests)] == [True, True, *(False for _ in downloads), False]


def test_half_written_things_do_not_count(tmp_path):
    path = write_notebook(tmp_path / "nb", "01_one", RECORD)
    out = tmp_path / "out"
    for folder in ("executed", ".partial/01_one"):
        (out / folder).mkdir(parents=True)
    (out / ".partial/01_one/done.ipynb").write_text("{")
    (out / "executed/01_one.ipynb").write_text(path.read_text())  # no mark of a passed run
    (out / "report.json").write_text('{"notebooks": [{"stem": "01_one", "status": "passed"')
    ran = Ran(tmp_path / "nb", out)
    assert ran.status() == {"01_one": "passed"} and not (out / ".partial").exists()


CODE_DIGEST = "dwflow_lite.course.lessons.code_digest"


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """Two good notebooks that have passed."""
    home = tmp_path_factory.mktemp("kept")
    write_notebook(home / "nb", "01_one", RECORD)
    write_notebook(home / "nb", "02_two", RECORD)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CODE_DIGEST, lambda: "this package")
        ran = Ran(home / "nb", home / "out")
    assert ran.code == 0
    return ran


@pytest.fixture
def kept(tmp_path, monkeypatch, run_once):
    """A copy of them, and a package that does not change meanwhile."""
    monkeypatch.setattr(CODE_DIGEST, lambda: "this package")
    shutil.copytree(run_once.out.parent, tmp_path, dirs_exist_ok=True)
    ran = copy(run_once)
    ran.out = tmp_path / "out"
    return ran


def set_false(nb):
    for output in (o for c in nb["cells"] for o in c.get("outputs", [])):
        output["data"]["application/vnd.dwflow.record+json"]["claims"] = [["n is positive", False]]


def raise_score(nb):
    nb["metadata"]["dwflow_run"]["metrics"]["score"] = 99


def clear(nb):
    for cell in nb["cells"]:
        cell.pop("outputs", None)


@pytest.mark.parametrize(
    "alter",
    [
        set_false,
        raise_score,
        clear,
        lambda nb: nb["metadata"]["dwflow_run"].pop("title"),
        lambda nb: nb["metadata"]["dwflow_run"].pop("fingerprint"),
        lambda nb: nb["metadata"].update(dwflow_run=[None]),
        lambda nb: nb.update(metadata=None, cells=3),
    ],
)
def test_an_edited_result_is_run_again(kept, alter):
    path = kept.out / "executed/01_one.ipynb"
    nb = json.loads(path.read_text())
    alter(nb)
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n")
    again = Ran(kept.out.parent / "nb", kept.out)
    assert again.code == 0 and again.status() == {"01_one": "passed", "02_two": "cached"}
    assert again.entries["01_one"]["metrics"] == {"score": 3} and kept.page("01_one").endswith("</html>\n")


def test_a_kept_false_claim_never_counts(kept):
    path = kept.out / "executed/01_one.ipynb"
    nb = nbformat.read(path, as_version=4)
    set_false(nb)
    entry = dict(nb.metadata.dwflow_run)
    path.write_text(sealed(nb, entry))
    assert unsealed(path) is not None
    assert Ran(kept.out.parent / "nb", kept.out).status()["01_one"] == "passed"


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html><bo", b"\xff\xfe", None])
def test_a_broken_page_is_written_again(kept, content):
    page = kept.out / "pages/01_one.html"
    whole = page.read_text()
    page.unlink() if content is None else page.write_bytes(content)
    for chosen in ([], ["02"]):
        again = Ran(kept.out.parent / "nb", kept.out, notebooks=chosen)
        assert again.code == 0 and again.status()["02_two"] == "cached" and page.read_text() == whole


def test_a_report_of_the_wrong_shape_is_ignored(kept):
    for text in ('{"notebooks":[null]}', "[]", '{"notebooks":[{"stem":"01_one","status":"failed","error":5}]}', "null"):
        (kept.out / "report.json").write_text(text)
        assert set(Ran(kept.out.parent / "nb", kept.out).status().values()) == {"cached"}


# -- results that cannot be written ----------------------------------------------------------------


def results_of(ran, stem="01_one"):
    """Bytes of the result of one notebook: the executed copy and the page, which links to its neighbours."""
    executed, page = (ran.out / f"executed/{stem}.ipynb", ran.out / f"pages/{stem}.html")
    return executed.read_bytes(), page_digest(page.read_text())


@pytest.mark.parametrize("kind", ["executed", "pages"])
def test_a_full_disk_fails_that_notebook_only(kept, monkeypatch, kind):
    def full(path, text):
        if path.parent.name == kind and path.stem == "01_one":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomic(path, text)

    monkeypatch.setattr("dwflow_lite.course.results.write_atomic", full)
    good = results_of(kept)
    ran = Ran(kept.out.parent / "nb", kept.out, force=True)
    assert ran.code == 1 and ran.status() == {"01_one": "failed", "02_two": "passed"}
    assert ran.error("01_one")["ename"] == "OSError" and "No space left" in ran.text
    assert "No space left" in (kept.out / "report.md").read_text()
    assert results_of(kept) == good, "a good earlier result goes only when a new one is whole"
    assert ran.entries["01_one"]["kept"] and "is kept in executed/ and pages/" in (kept.out / "report.md").read_text()
    assert (kept.out / "failed/01_one.ipynb").exists() and not list(kept.out.rglob("*.draft"))
    assert not list(kept.out.rglob("*.new"))
    assert 'href="pages/01_one.html"' not in (kept.out / "index.html").read_text()


def test_a_disk_that_is_full_altogether_gives_one_error(kept, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dwflow_lite.course.paths.os.replace", full)
    good = results_of(kept)
    stream = io.StringIO()
    assert run(kept.out, source=kept.out.parent / "nb", force=True, stream=stream) == 1
    assert "01_one, OSError" in stream.getvalue() and "02_two, OSError" in stream.getvalue()
    assert stream.getvalue().count("the report could not be written: [Errno 28]") == 1
    assert not list(kept.out.rglob("*.draft")) and results_of(kept) == good
    monkeypatch.undo()
    monkeypatch.setattr("dwflow_lite.course.lessons.code_digest", lambda: "this package")
    assert set(Ran(kept.out.parent / "nb", kept.out).status().values()) == {"cached"}, "and it still counts"


@pytest.mark.parametrize("folder", ["executed", "failed", "pages", "."])
def test_a_folder_that_takes_no_files_is_refused(kept, monkeypatch, folder):
    """Also by the superuser, who may write into a read-only folder."""
    wanted = kept.out / folder

    def denied(dir):
        if Path(dir) == wanted:
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))
        return io.StringIO()

    wanted.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UsageError) as error:
        run(kept.out, source=kept.out.parent / "nb")
    assert str(error.value) == f"cannot write into {wanted}: Permission denied"


@pytest.mark.parametrize("folder", ["executed", "pages", "."])
def test_a_read_only_folder_is_refused(kept, folder):
    (kept.out / folder).chmod(0o500)
    if os.access(kept.out / folder, os.W_OK):
        pytest.skip("nothing is read-only for the superuser")
    try:
        with pytest.raises(UsageError, match="cannot write into"):
            run(kept.out, source=kept.out.parent / "nb", force=True)
    finally:
        (kept.out / folder).chmod(0o700)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/executed").write_text("")
    assert "cannot write into" in refused(tmp_path / "nb", tmp_path / "out")


# -- what must fail --------------------------------------------------------------------------------

INTERACT = "from ipywidgets import interact\n@interact(a=(0, 4))\ndef draw(a=2):\n    print(1 / (a - {bad}))"
OBSERVE = (
    "import ipywidgets as w\nslider = w.IntSlider(2, 0, 4, description='Steps')\n"
    "slider.observe(lambda change: print(1 / (change['new'] - {bad})), 'value')\nslider"
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """One run over many broken notebooks, each with its good twin where the difference is small."""
    folder = tmp_path_factory.mktemp("broken")
    source, out = folder / "nb", folder / "out"

    def make(stem, *cells, **own):
        write_notebook(source, stem, *cells, **own)

    make("01_raises", "md:## Where it breaks", "a = 1\nraise ValueError('on purpose')", RECORD)
    make("02_blocked", RECORD, needs=["01_raises"])
    make("03_blocked_too", RECORD, needs=["02_blocked"])
    make("04_hangs", RECORD, "import time\ntime.sleep(60)")
    make("05_dies", RECORD, "import os\nos._exit(1)")
    make("06_interact", RECORD, INTERACT.format(bad=4))
    make("07_interact_good", RECORD, INTERACT.format(bad=9))
    make("08_observe", RECORD, OBSERVE.format(bad=0))
    make("09_observe_good", RECORD, OBSERVE.format(bad=9))
    make("10_first_draw", RECORD, "from ipywidgets import interact\n@interact(a=['x'])\ndef f(a):\n    1 / 0")
    make("11_false_claim", RECORD, "record({'x': 1}, {'pigs fly': False})")
    make("12_no_metric", "n")
    make("13_twice", RECORD, "record({'score': 4})")
    make("14_stops", "import sys", "sys.exit(0)", RECORD)
    make("15_nan", "from dwflow_lite.course import record\nrecord({'loss': float('nan')})")
    make("16_formula", "md:Here $\\frobnicate x$ is.", RECORD)
    make(
        "17_fetches",
        RECORD,
        "from IPython.display import HTML\nHTML('<img src=\"https://example.org/a.png\">')",
    )
    make(
        "18_child",
        RECORD,
        "import subprocess, sys\np = subprocess.Popen(['sleep', '300'])\nrecord({'pid': p.pid})",
    )
    out.joinpath("executed").mkdir(parents=True)
    out.joinpath("executed/01_raises.ipynb").write_text("an older copy")
    return Ran(source, out, cell_timeout=2)


def test_a_failure_does_not_stop_the_others(broken):
    assert broken.code == 1
    good = [s for s, status in broken.status().items() if status == "passed"]
    assert good == ["07_interact_good", "09_observe_good", "18_child"]
    assert broken.status()["02_blocked"] == broken.status()["03_blocked_too"] == "blocked"
    assert broken.entries["03_blocked_too"]["blocked_by"] == ["02_blocked"]
    assert "01_raises, cell 4 («Where it breaks»): ValueError: on purpose" in broken.text


def test_raising_cell_is_named(broken):
    error = broken.error("01_raises")
    assert (error["cell"], error["id"], error["heading"]) == (4, "c1", "Where it breaks")
    assert "raise ValueError" in error["source"] and "\x1b" not in error["traceback"]
    assert not (broken.out / "executed/01_raises.ipynb").exists()
    failed = broken.executed("01_raises", "failed")
    assert "This run failed" in failed.cells[0].source and len(failed.cells) == 6


@pytest.mark.parametrize(
    "stem, ename, says",
    [
        ("04_hangs", "CellTimeout", "longer than 2 s"),
        ("05_dies", "KernelDied", "the kernel died"),
        ("06_interact", "WidgetError", "'a' (IntSlider) set to 4: ZeroDivisionError"),
        ("08_observe", "WidgetError", "'Steps' (IntSlider) set to 0: ZeroDivisionError"),
        ("10_first_draw", "WidgetError", "ZeroDivisionError"),
        ("11_false_claim", "ClaimFalse", "pigs fly"),
        ("12_no_metric", "NoMetrics", "no metric"),
        ("13_twice", "RecordConflict", "'score' was recorded as 3 and as 4"),
        ("14_stops", "StoppedEarly", "before its last cell"),
        ("15_nan", "ValueError", "metric 'loss' is nan"),
        ("16_formula", "PageError", "frobnicate"),
        ("17_fetches", "PageError", "https://example.org/a.png"),
    ],
)
def test_each_breakage_is_named(broken, stem, ename, says):
    error = broken.error(stem)
    assert error["ename"] == ename and says in error["evalue"]
    assert not (broken.out / f"executed/{stem}.ipynb").exists()
    assert (broken.out / f"failed/{stem}.ipynb").exists()


def test_the_cell_of_a_broken_widget_is_found(broken):
    assert broken.error("06_interact")["cell"] == broken.error("08_observe")["cell"] == 4
    assert broken.error("10_first_draw")["cell"] == broken.error("11_false_claim")["cell"] == 4
    assert "print(1 / " in broken.error("06_interact")["traceback"]


def test_no_process_outlives_its_notebook(broken):
    assert not psutil.pid_exists(broken.entries["18_child"]["metrics"]["pid"]) or (
        psutil.Process(broken.entries["18_child"]["metrics"]["pid"]).status() == psutil.STATUS_ZOMBIE
    )


PASTED = "md:A picture:\n\n![x](attachment:image.png)"
DISPLAYED = "from IPython.display import Markdown, display\ndisplay(Markdown('![x](attachment:image.png)'))"


@pytest.mark.parametrize("cell, number", [(PASTED, 3), (DISPLAYED, 3)])
def test_a_picture_that_is_missing_fails_its_notebook_only(tmp_path, cell, number):
    write_notebook(tmp_path / "nb", "01_pasted", cell, RECORD)
    write_notebook(tmp_path / "nb", "02_good", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.code == 1 and ran.status() == {"01_pasted": "failed", "02_good": "passed"}
    error = ran.error("01_pasted")
    assert error["ename"] == "PageError" and error["evalue"].startswith(f"cell {number}: ")
    assert "image.png" in error["evalue"] and ran.report["status"] == "failed"


@pytest.mark.parametrize("part", ["execute", "checked_body"])
def test_an_error_of_the_runner_fails_its_notebook_only(tmp_path, monkeypatch, part):
    original = getattr(run_module, part)

    def breaks(first, *args, **kwargs):
        if "01_one" in (getattr(first, "stem", ""), args[0].get("stem")):
            raise KeyError("nobody thought of this")
        return original(first, *args, **kwargs)

    monkeypatch.setattr(run_module, part, breaks)
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    write_notebook(tmp_path / "nb", "02_two", RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.status() == {"01_one": "failed", "02_two": "passed"}
    error = ran.error("01_one")
    assert error["ename"] == "KeyError" and "in breaks" in error["traceback"], "who mends it sees where"
    assert "nobody thought of this" in (ran.out / "report.md").read_text()


def test_notebook_timeout(tmp_path):
    write_notebook(tmp_path / "nb", "01_slow", RECORD, *["import time\ntime.sleep(1)"] * 9)
    write_notebook(tmp_path / "nb", "02_quick", RECORD)
    start = time.monotonic()
    ran = Ran(tmp_path / "nb", tmp_path / "out", notebook_timeout=3)
    assert time.monotonic() - start < 12
    assert ran.error("01_slow")["ename"] == "NotebookTimeout" and ran.status()["02_quick"] == "passed"


# -- bad usage: one message, nothing runs ----------------------------------------------------------


def refused(source, out, **options):
    with pytest.raises(UsageError) as error:
        run(out, source=source, **options)
    assert not (out / "report.json").exists() and not list(out.glob("*/*.ipynb"))
    return str(error.value)


@pytest.mark.parametrize(
    "profiles, options, says",
    [
        ("", {"profile": "huge"}, "no profile 'huge'"),
        ("smoke: {01_one: {m: 1}}", {}, "has no parameter 'm'; it has: n"),
        ("smoke: {09_gone: {n: 1}}", {}, "no notebook '09_gone'"),
        ("smoke: {01_one: {n: many}}", {}, "'n' is int (default 3), but 'many' is str"),
        ("smoke: {01_one: {n: 1.5}}", {}, "'n' is int"),
        ("smoke: {01_one: {n: true}}", {}, "'n' is int"),
        ("smoke: {01_one: [n", {}, "not valid YAML"),
        ("- smoke", {}, "must map"),
        ("", {"notebooks": ["07"]}, "no notebook 07; there are:\n  01_one"),
        ("", {"parameters": {"m": 1}}, "-p: 01_one.ipynb has no parameter 'm'"),
        ("smoke: {01_one: n}", {}, "must map"),
        ("", {"cell_timeout": 0}, "above 0"),
        ("", {"cell_timeout": math.inf}, "finite"),
        ("", {"notebook_timeout": math.nan}, "finite"),
    ],
)
def test_bad_usage(tmp_path, profiles, options, says):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    (tmp_path / "nb" / "profiles.yaml").write_text(profiles)
    assert says in refused(tmp_path / "nb", tmp_path / "out", **options)


@pytest.mark.parametrize(
    "own, says",
    [
        ({"parameters": "n = 3\nm = n * 2"}, "'m' is computed"),
        ({"parameters": "n = 3\nprint(n)"}, "line 2"),
        ({"parameters": None}, "exactly one code cell tagged 'parameters', has 0"),
        ({"kernel": "julia-1.9"}, "kernel 'julia-1.9', but the course runs on 'python3'"),
        ({"needs": ["05_later"]}, "needs '05_later', which is no earlier notebook"),
    ],
)
def test_a_notebook_that_cannot_be_run_is_refused(tmp_path, own, says):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    write_notebook(tmp_path / "nb", "02_bad", RECORD, **own)
    assert says in refused(tmp_path / "nb", tmp_path / "out")


def test_no_notebooks_at_all(tmp_path):
    assert "no notebooks" in refused(tmp_path, tmp_path / "out")


def test_literals():
    assert literals("a = -1\nb: list = [1, (2.0, 'x')]\n# comment\nc = None") == {
        "a": -1,
        "b": [1, (2.0, "x")],
        "c": None,
    }


def test_command_line_exit_codes(tmp_path):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    bad = command("run", "--source", tmp_path / "nb", "--out", tmp_path / "out", "-p", "m", "1")
    out, err = bad.communicate(timeout=60)
    assert bad.returncode == 2 and err.startswith("error: -p") and "Traceback" not in err and out == ""
    for words in (("--out", ""), ("--cell-timeout", "nan"), ("--notebook-timeout", "inf")):
        bad = command("run", "--source", tmp_path / "nb", "--out", tmp_path / "out", *words)
        out, err = bad.communicate(timeout=60)
        assert bad.returncode == 2 and err.startswith("error: ") and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "out").exists() and not (tmp_path / ".lock").exists()
    help_text, _ = command("run", "--help").communicate(timeout=60)
    assert "--profile" in help_text


# -- interruption ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_goes_on_where_it_was(tmp_path, number):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    flag = tmp_path / "started"
    slow = (
        f"from pathlib import Path\nimport os, time\nflag = Path({str(flag)!r})\nif not flag.exists():\n"
        "    flag.write_text(str(os.getpid()))\n    time.sleep(60)"
    )
    write_notebook(tmp_path / "nb", "02_two", slow, RECORD)
    out = tmp_path / "out"
    going = command("run", "--source", tmp_path / "nb", "--out", out)
    for _ in range(300):
        if flag.exists() and flag.read_text():
            break
        time.sleep(0.1)
    with pytest.raises(UsageError, match="another run"):
        run(out, source=tmp_path / "nb")
    going.send_signal(number)
    _, err = going.communicate(timeout=30)
    assert going.returncode == 130 and "Traceback" not in err, err
    assert not psutil.pid_exists(int(flag.read_text())), "the kernel is gone"
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert [e["status"] for e in report["notebooks"]] == ["passed", "interrupted"]
    assert not (out / ".partial").exists() and not (out / "executed/02_two.ipynb").exists()
    if number == signal.SIGINT:
        again = Ran(tmp_path / "nb", out)
        assert again.code == 0 and again.status() == {"01_one": "cached", "02_two": "passed"}


# -- progress --------------------------------------------------------------------------------------


class Terminal:
    def __init__(self, tty):
        self.tty, self.text = tty, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_progress_is_one_line_on_a_terminal_and_few_in_a_log(monkeypatch):
    clock = SimpleNamespace(monotonic=count(step=0.01).__next__)  # a hundredth of a second a look
    monkeypatch.setattr("dwflow_lite.course.report.time", clock)
    for tty, lines in ((True, 0), (False, 2)):
        stream = Terminal(tty)
        progress = Progress(stream, {"01_a": 2.0, "02_b": 3.0}, every=0.2)
        progress.begin("[1/2] 01_a", ["01_a", "02_b"])
        for _ in range(30):
            progress.tick("cell 3/9  Heading", 60.0)
        assert stream.text.count("\n") == lines
        assert "about 4 min left" in stream.text and "1:00" in stream.text
    unknown = Progress(Terminal(True), {})
    unknown.begin("[1/2] 01_a", ["01_a"])
    unknown.tick("cell 1/9", 1.0)
    assert "left" not in unknown.stream.text
