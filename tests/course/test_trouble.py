"""Parameters that cannot be meant, streams and disks that fail, runners that are killed."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import dwflow_lite.__main__ as command_line
from dwflow_lite.course import execute as execute_module
from dwflow_lite.course.outputs import records
from dwflow_lite.course.pages import mathml
from dwflow_lite.course.parameters import UsageError, fit, from_yaml, objection
from dwflow_lite.course.paths import json_text, sweep_drafts, write_atomic
from dwflow_lite.course.report import Progress, _fence, _plain
from dwflow_lite.course.results import Results
from dwflow_lite.course.run import run
from dwflow_lite.course.site.frame import frame
from dwflow_lite.course.site.home import HOME_TITLE
from dwflow_lite.course.watch import Watch

from .conftest import RECORD, Ran, without_own_scripts, write_notebook

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULTS = {"n": 3, "rate": 0.5, "name": "x", "sizes": [1, 2], "any": None, "flag": True, "pair": (1, 2)}


# -- parameters --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("rate", "nan", "'rate' is nan, and no finite number"),
        ("rate", ".nan", "no finite number"),
        ("rate", "1e999", "'rate' is inf"),
        ("rate", "-.inf", "'rate' is -inf"),
        ("rate", "9" * 400, "beyond 64 bits"),
        ("n", ".nan", "no finite number"),
        ("n", "nan", "'n' is int (default 3), but 'nan' is str"),
        ("n", "three", "but 'three' is str"),
        ("n", "9" * 5000, "no valid YAML"),
        ("n", "9" * 30, "beyond 64 bits"),
        ("any", "[1, [2, {a: .inf}]]", "'any' is inf"),
        ("any", "2020-01-01", "of type date"),
        ("any", "2020-13-45", "no valid YAML"),
        ("any", "!!binary aGk=", "of type bytes"),
        ("any", "!!set {a}", "of type set"),
        ("any", "{1: 2}", "keys are not all text"),
        ("any", "&a [*a]", "more than 10,000 values"),
        ("any", "[" * 3000, "no valid YAML"),
        ("any", '"\\ud800"', "no UTF-8"),
        ("any", "\udcff", "no valid YAML"),
        ("any", "!!python/object/apply:os.system [ls]", "no valid YAML"),
        ("sizes", "[1, .nan]", "no finite number"),
        ("sizes", "[1, a]", "'sizes' is a list of int (default [1, 2]), but 'a' is str"),
        ("sizes", "[[1]]", "but [1] is list"),
        ("pair", "[1, a]", "but 'a' is str"),
        ("flag", "1", "but 1 is int"),
        ("bogus", "1", "has no parameter 'bogus'"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_a_usage_error(name, text, says):
    with pytest.raises(UsageError, match=re.escape(says)) as error:
        fit(DEFAULTS, {name: from_yaml(name, text)}, "-p: 01_one.ipynb")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("rate", "-1e-3", -0.001),
        ("rate", "2", 2.0),
        ("n", "-4", -4),
        ("sizes", "[]", []),
        ("pair", "[3, 4]", [3, 4]),
        ("any", "{a: [1, 2.5, null, {}]}", {"a": [1, 2.5, None, {}]}),
        ("name", "ü {x} %s", "ü {x} %s"),
        ("name", '"a\\nb\\0"', "a\nb\0"),
        ("n", str(2**63), 2**63),
    ],
)
def test_control_a_parameter_that_can_be_meant_is_taken(name, text, value):
    assert fit(DEFAULTS, {name: from_yaml(name, text)}, "") == {name: value}


def test_numbers_of_numpy_are_taken_and_its_nan_is_not():
    fitted = fit(DEFAULTS, {"n": np.int64(4), "rate": np.float32(0.25), "sizes": (np.int32(1),)}, "")
    assert fitted == {"n": 4, "rate": 0.25, "sizes": [1]} and type(fitted["n"]) is int and type(fitted["rate"]) is float
    with pytest.raises(UsageError, match="nan"):
        fit(DEFAULTS, {"rate": np.float64("nan")}, "")
    assert objection(np.zeros(2)) and objection(1j) and objection(object())


def test_nothing_runs_with_such_a_parameter_and_words_like_options_are_read(tmp_path, capsys, monkeypatch):
    write_notebook(tmp_path / "nb", "01_one", RECORD, parameters="n = 3\ntolerance = 0.5")
    call = ["run", "--source", str(tmp_path / "nb"), "--out", str(tmp_path / "out"), "-p"]
    for value in ("nan", ".inf", "-.inf", "-1e999"):
        assert command_line.main([*call, "tolerance", value]) == 2
        assert "no finite number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        command_line.main([*call, "tolerance", "--force"])
    taken = {}
    monkeypatch.setattr("dwflow_lite.course.run.run", lambda *args, **options: taken.update(args[3]) or 0)
    assert command_line.main([*call, "tolerance", "-1e-3"]) == 0 and taken == {"tolerance": "-1e-3"}


def test_a_parameter_in_a_profile_is_checked_alike(tmp_path):
    write_notebook(tmp_path / "nb", "01_one", RECORD, parameters="n = 3\nrate = 0.5")
    (tmp_path / "nb/profiles.yaml").write_text("smoke: {01_one: {rate: .nan}}")
    with pytest.raises(UsageError, match=r"profile 'smoke': 01_one\.ipynb: 'rate' is nan"):
        run(tmp_path / "out", source=tmp_path / "nb")


def test_what_is_written_is_json_whatever_was_measured(tmp_path):
    def refuse(name):
        raise AssertionError(name)

    text = json_text({"a": [math.nan, -math.inf], "b": {"c": math.inf}, "half": "\ud800"})
    write_atomic(tmp_path / "x.json", text)
    read = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert read == {"a": ["nan", "-inf"], "b": {"c": "inf"}, "half": "\ud800"}


@pytest.mark.parametrize(
    "pairs", [[], "x", {"metrics": [["x"]]}, {"metrics": [["x", math.nan]]}, {"margins": [["x", [{"value": "a"}]]]}]
)
def test_a_record_that_record_did_not_make_is_seen(pairs):
    cells = [{"outputs": [{"data": {"application/vnd.dwflow.record+json": pairs}}]}]
    found = records(cells)
    assert found.malformed and found.cell == 0 and found.content() == {"metrics": {}, "claims": {}, "margins": {}}


# -- folders -----------------------------------------------------------------------------------------------------


def test_braces_blanks_and_letters_in_names(tmp_path):
    write_notebook(tmp_path / "a {draft} {0}", "01_one", RECORD)
    ran = Ran(tmp_path / "a {draft} {0}", tmp_path / "out {n} ü %s {", parameters={"n": 4})
    assert ran.code == 0 and ran.entries["01_one"]["metrics"] == {"score": 4}


def test_an_index_of_somebody_else_is_not_overwritten(tmp_path):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<h1>My own</h1>")
    with pytest.raises(UsageError, match=r"index\.html is not of a run"):
        run(tmp_path / "site", source=tmp_path / "nb")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    (tmp_path / "site/index.html").write_text(frame(HOME_TITLE, "of a run"))
    assert Ran(tmp_path / "nb", tmp_path / "site").code == 0


@pytest.mark.parametrize("name", ["report.json", "index.html", "report.html", "glossary.html", "search.js"])
def test_a_folder_in_the_place_of_the_report(tmp_path, name):
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    (tmp_path / "out" / name).mkdir(parents=True)
    stream = Stream()
    assert run(tmp_path / "out", source=tmp_path / "nb", stream=stream) == 1
    assert "failed: error: the report could not be written: " in stream.text and "\npassed:" not in stream.text
    others = {"report.json", "report.md", "index.html", "report.html", "glossary.html", "search.js"} - {name}
    assert all((tmp_path / "out" / other).is_file() for other in others), "one keeps none from the others"
    assert "Course run: failed" in (tmp_path / "out/report.md").read_text()


def test_what_a_notebook_left_and_nobody_can_delete_stops_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr("dwflow_lite.course.run.shutil.rmtree", lambda *args, **options: None)
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    write_notebook(tmp_path / "nb", "02_two", "import os\nassert os.listdir() == []", RECORD)
    assert Ran(tmp_path / "nb", tmp_path / "out").code == 0


# -- streams -----------------------------------------------------------------------------------------------------


class Stream:
    def __init__(self, fails=None):
        self.text = ""
        self.fails = fails

    def write(self, text):
        if self.fails:
            raise self.fails
        self.text += text

    def flush(self):
        pass


class Ascii(Stream):
    encoding = "ascii"

    def write(self, text):
        text.encode("ascii")
        super().write(text)


def test_progress_goes_on_whatever_its_stream_does():
    for stream in (
        None,
        Stream(BrokenPipeError()),
        Stream(ValueError("closed")),
        Stream(OSError(errno.ENOSPC, "full")),
    ):
        progress = Progress(stream, {}, every=0)
        progress.begin("[1/1] 01_a", ["01_a"])
        progress.tick("cell 1", 1.0)
        progress.line("done")
    plain = Ascii()
    Progress(plain, {}).line("read ü/index.html")
    assert plain.text == "read \\xfc/index.html\n"


STREAMS = {
    "closed": "{run} --out {out} >&- 2>&- <&-",
    "full": "{run} --out {out} >/dev/full 2>/dev/full",
    "nobody_reads": "set -o pipefail; {run} --out {out} | head -c 1 >/dev/null",
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_trouble_with_standard_output_costs_no_report(tmp_path):
    """A child process that prints, too: ipykernel would write that to the terminal, and stop where it cannot."""
    child = "import subprocess\nsubprocess.run('yes | head -c 300000', shell=True)\nprint('ü')"
    write_notebook(tmp_path / "nb", "01_one", child, RECORD)
    call = f"{sys.executable} -m dwflow_lite run --cell-timeout 60 --source '{tmp_path / 'nb'}'"
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    env["PYTHONPATH"] = str(REPOSITORY)
    started = {}
    for name, line in STREAMS.items():
        command = line.format(run=call, out=tmp_path / name)
        started[name] = subprocess.Popen(["bash", "-c", command], env=env, stderr=subprocess.PIPE)
    for name, process in started.items():
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, (name, err)
        assert b"Exception ignored" not in err, (name, err)
    for name in STREAMS:
        report = json.loads((tmp_path / name / "report.json").read_text())
        assert report["status"] == "passed" and len(report["notebooks"]) == 1


# -- disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MB."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only the superuser mounts a disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_really_full(small_disk, tmp_path):
    """Good results stay, the cell that filled the disk is named, and later there is a reason, too."""
    fills = f"import os\nif os.path.exists({str(tmp_path / 'now')!r}):\n"
    fills += "    open(artefacts() / 'b', 'wb').write(bytes(10**8))"
    write_notebook(tmp_path / "nb", "01_one", "from dwflow_lite.course import artefacts", fills, RECORD)
    write_notebook(tmp_path / "nb", "02_two", RECORD, "print('x' * 500_000)")
    out = small_disk / "out"
    assert Ran(tmp_path / "nb", out).code == 0
    good = {path: path.read_bytes() for path in out.glob("executed/*")}
    (tmp_path / "now").touch()
    stream = Stream()
    assert run(out, source=tmp_path / "nb", force=True, stream=stream) == 1
    assert "01_one, cell 4 («Title of 01_one»): OSError: [Errno 28] No space left on device" in stream.text
    assert "02_two, OSError: [Errno 28] No space left on device" in stream.text
    assert "JSON" not in stream.text and "Traceback" not in stream.text
    assert {path: path.read_bytes() for path in out.glob("executed/*")} == good and len(good) == 2
    assert len(list(out.glob("pages/*.html"))) == 2
    (out / "artefacts/b").unlink()
    (tmp_path / "now").unlink()
    assert set(Ran(tmp_path / "nb", out).status().values()) <= {"cached", "passed"}


def test_no_room_for_a_kernel_is_said_before_it_starts(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(execute_module.Path, "write_bytes", full)
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    assert "No space left" in Ran(tmp_path / "nb", tmp_path / "out").error("01_one")["evalue"]


def test_a_good_result_stays_when_a_later_run_fails_and_goes_when_one_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("dwflow_lite.course.lessons.code_digest", lambda: "this package")
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    out = tmp_path / "out"
    first = Ran(tmp_path / "nb", out)
    kept = (out / "executed/01_one.ipynb").read_bytes()
    write_notebook(tmp_path / "nb", "01_one", RECORD, "1 / 0")
    failed = Ran(tmp_path / "nb", out)
    assert failed.status() == {"01_one": "failed"} and (out / "executed/01_one.ipynb").read_bytes() == kept
    assert failed.entries["01_one"]["kept"] == first.entries["01_one"]["date"] and (out / "pages/01_one.html").exists()
    write_notebook(tmp_path / "nb", "00_zero", RECORD)
    assert Ran(tmp_path / "nb", out, notebooks=["00"]).status() == {"00_zero": "passed", "01_one": "failed"}
    write_notebook(tmp_path / "nb", "01_one", RECORD, "m = 2")
    assert Ran(tmp_path / "nb", out).status() == {"00_zero": "cached", "01_one": "passed"}
    assert (out / "executed/01_one.ipynb").read_bytes() != kept and not (out / "failed/01_one.ipynb").exists()


# -- processes ---------------------------------------------------------------------------------------------------


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no groups of processes here")
def test_a_kernel_and_its_children_end_with_a_killed_runner(tmp_path):
    flag = tmp_path / "pids"
    cell = "import os, subprocess, time\nchild = subprocess.Popen(['sleep', '300'])\n"
    cell += f"open({str(flag)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}\\n')\ntime.sleep(300)"
    write_notebook(tmp_path / "nb", "01_one", cell, RECORD)
    words = ["run", "--source", tmp_path / "nb", "--out", tmp_path / "out"]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runner = subprocess.Popen([sys.executable, "-m", "dwflow_lite", *map(str, words)], env=env, stdout=subprocess.PIPE)
    until(lambda: flag.exists() and flag.read_text().endswith("\n"), 60)
    pids = [int(pid) for pid in flag.read_text().split()]
    assert all(alive(pid) for pid in pids)
    runner.kill()
    runner.communicate()
    assert until(lambda: not any(alive(pid) for pid in pids), 20), "they would live for ever"
    assert (tmp_path / "out/.partial").exists()
    write_notebook(tmp_path / "nb", "01_one", RECORD)
    assert Ran(tmp_path / "nb", tmp_path / "out").code == 0 and not (tmp_path / "out/.partial").exists()


def until(condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_the_guard_ends_with_the_watch():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    before = {child.pid for child in psutil.Process().children()}
    watch = Watch(60, lambda label, elapsed: None)
    watch.kernel_started(process.pid)
    watch.start()
    watch.finish()
    assert process.wait(timeout=20) == -signal.SIGKILL
    assert {child.pid for child in psutil.Process().children()} <= before


def test_drafts_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".zoo.json.{dead.pid}.draft": False,
        f".members.safetensors.{dead.pid}.partial": False,
        f".zoo.json.{os.getpid()}.partial": True,
        ".lock": True,
        "zoo.partial": True,
        f"zoo.{dead.pid}.partial": True,
    }
    for name in names:
        (tmp_path / name).write_text("")
    sweep_drafts(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names
    sweep_drafts(tmp_path / "nowhere")


# -- pages and reports -------------------------------------------------------------------------------------------


def test_a_formula_that_holds_html_shows_it():
    shown = mathml(r"\text{<script>alert(1)</script> & <b onclick=x>} < \alpha")
    assert "<script" not in shown and "&lt;script&gt;alert(1)" in shown and "α" in shown
    assert "<b" not in mathml(r"\color{red\"><b>}x")


def test_text_in_the_report_begins_no_html_and_ends_no_fence():
    assert _plain("a\n<script> 1 < 2 </b>") == "a \\<script> 1 < 2 \\</b>"
    assert _fence("x ```` y ``` z") == "`````" and _fence("plain") == "```"


def test_a_report_of_odd_names_can_be_written(tmp_path):
    odd = "from dwflow_lite.course import record\nrecord({'a|b\\n<script>': '```'}, {'<b>|': True})"
    path = write_notebook(tmp_path / "nb", "01_one", odd, RECORD)
    path.write_text(path.read_text().replace("# Title of 01_one", "# T](javascript:x) | <i> ```"))
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.code == 0
    for name in ("index.html", "report.html"):
        page = without_own_scripts((ran.out / name).read_text())
        assert "<script" not in page and 'href="javascript' not in page and 'href="pages/01_one.html"' in page


def test_publishing_a_report_names_what_failed(tmp_path):
    assert "(report.md)" in Results(tmp_path).publish_report({"notebooks": []}, {})
    assert (tmp_path / "report.json").exists()
