"""The scoreboard: paths, intervals, verdicts, fingerprints; and that the table is what the stored results say."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from statistics import mean

import pytest
from scipy.stats import ttest_1samp

from benchmarks import scoreboard as writer
from dwflow_lite.course.paths import repository
from dwflow_lite.course.scoreboard import (
    COPIES,
    NOT_REPRODUCED,
    NOT_RUN,
    OPEN,
    REPRODUCED,
    VERDICTS,
    Row,
    changed_since,
    code_of,
    fingerprint,
    fingerprints,
    interval,
    is_old,
    judge,
    read_claims,
    read_row,
    read_rows,
    read_stored,
    select,
    short_table,
    what_is_old,
)

ROOT = repository()
ROWS = {row.name: row for row in read_rows()}
RUN = [name for name, row in ROWS.items() if row.numbers]


# -- numbers and verdicts --------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_student():
    for values in ([1.0, 2.0, 4.0], [0.1, -0.3], [5.0] * 4 + [6.0]):
        test = ttest_1samp(values, 0.0)
        low, high = interval(values, confidence=0.95)
        assert (low, high) == pytest.approx(tuple(test.confidence_interval(0.9)))  # each end at 95 %
        assert interval(values, confidence=0.99)[0] < low  # control
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert interval([7.0]) == (-math.inf, math.inf)


def test_a_verdict_needs_repeats_a_clear_side_and_distance():
    clear = [0.1, 0.0, 0.2]
    assert judge(clear, bar=-1) == REPRODUCED and judge(clear, bar=1) == NOT_REPRODUCED
    assert judge(clear, bar=0.1) == OPEN and judge([9.0], bar=-1) == OPEN and judge([-9.0], bar=-1) == OPEN
    assert judge(clear, bar=-1, distance=0.49) == COPIES and judge(clear, bar=-1, distance=0.5) == REPRODUCED
    assert judge(clear, bar=1, distance=0.1) == NOT_REPRODUCED  # a copy that is worse is no reproduction
    assert judge(clear, bar=-1, distance=0.3, near=0.2) == REPRODUCED


def test_paths_lead_to_numbers_in_the_order_of_the_file():
    table = ["| networks | score | nearest |", "|---|---|---|", "| zoo | 97 ± 1 % | 1.00 |", "| flow | -2.5 | 0.10 |"]
    content = {"b": {"rows": [{"name": "x", "n": 1}, {"name": "y", "n": 2}], "audit": table}, "a": {"rows": []}}
    assert select(content, ["*", "rows", {"name": "y"}, "n"]) == [2]
    assert select(content, ["b", "rows", 0, "n"]) == [1] and select(content, ["b", "rows", -1, "n"]) == [2]
    assert select(content, ["b", "audit", {"row": "flow", "column": "nearest"}]) == [0.1]
    assert select(content, ["b", "audit", {"row": "zoo", "column": "score"}]) == [97.0]
    assert select({"s 1": 1, "t 1": 5, "s 2": 2}, ["s *"]) == [1, 2]
    assert select(content, ["c"]) == [] and select(content, ["b", "rows", {"name": "z"}]) == []
    with pytest.raises(ValueError):
        select(content, ["b", "audit", {"row": "noise", "column": "nearest"}])


CLAIM = {
    "name": "made up", "claim": "a", "short": "a", "result": "r.json", "ours": ["*", "o"], "rival": ["*", "r"],
    "paper": {"where": "nowhere"}, "here": "", "same": False, "times": 100, "unit": "%", "generated": True, "bar": -1,
    "about": [], "code": [],
}  # fmt: skip


def row_of(content, tmp_path, **changes):
    (tmp_path / "r.json").write_text(json.dumps(content))
    return read_row(CLAIM | changes, tmp_path)


def test_a_row_of_a_result(tmp_path):
    content = {"s0": {"o": 0.96, "r": 0.95, "d": 0.02}, "s1": {"o": 0.94, "r": 0.94, "d": 0.04}}
    row = row_of(content, tmp_path, distance=["*", "d"])
    assert row.differences == pytest.approx([1.0, 0.0]) and row.repeats == 2 and row.distance == pytest.approx(0.03)
    assert row.networks is None and row_of(content, tmp_path, **{"lower is better": True}).differences == [
        pytest.approx(-1.0),
        0.0,
    ]
    assert row_of(content, tmp_path, rival=90).differences == pytest.approx([6.0, 4.0])  # a limit
    content["s2"] = {"o": 0.95, "r": 0.95, "d": 0.03}
    assert row_of(content, tmp_path, distance=["*", "d"]).verdict() == COPIES
    assert row_of(content, tmp_path, distance=["*", "d"]).verdict(distances=False) == REPRODUCED
    assert row_of(content, tmp_path).verdict() == OPEN  # of generated networks one wants to know
    assert row_of(content, tmp_path, generated=False).verdict() == REPRODUCED
    assert "no distance was stored" in row_of(content, tmp_path).why()


def test_a_row_names_all_days_and_processors_of_its_runs(tmp_path):
    run = {"o": 0.96, "r": 0.95, "date": "2026-01-02", "processor": "one", "command": "python x.py"}
    runs = {"s0": run, "s1": run | {"processor": "another"}, "s2": run | {"processor": "another"}}
    about = row_of(runs, tmp_path, about=["s*"]).about
    assert about == {"command": "python x.py", "date": "2026-01-02", "processor": "another and one"}
    assert row_of(runs, tmp_path, about=["s0"]).about["processor"] == "one"


def test_what_is_missing_is_said_and_what_does_not_fit_is_refused(tmp_path):
    missing = read_row(CLAIM | {"missing": "a GPU"}, tmp_path)
    assert missing.verdict() == NOT_RUN and missing.why() == "a GPU" and not missing.numbers
    content = {"s0": {"o": 0.96, "r": 0.95}, "s1": {"o": 0.94}}
    with pytest.raises(ValueError, match=r"made up: r\.json holds 2 of 'ours' and 1 of 'rival'"):
        row_of(content, tmp_path)
    with pytest.raises(ValueError, match="the path of 'ours' leads nowhere"):
        row_of(content, tmp_path, ours=["*", "score"])


# -- the claims ------------------------------------------------------------------------------------------------------


def test_every_claim_is_complete_and_its_code_is_there():
    names = [claim["name"] for claim in read_claims()]
    assert len(names) == len(set(names)) >= 20
    for claim in read_claims():
        assert claim["paper"]["where"] and claim["short"] and claim["claim"].endswith("."), claim["name"]
        assert len(claim["short"].split()) <= 7, claim["name"]
        if claim.get("result") is None:
            assert claim["missing"], claim["name"]
        elif claim["name"] in RUN:
            assert claim["code"] and all((ROOT / file).is_file() for file in claim["code"]), claim["name"]
        if "sides" in claim:
            assert {"ours", "rival"} <= claim["paper"].keys() and claim["unit"] == "%", claim["name"]


def test_no_number_of_ours_is_typed():
    """Where a path stands there is a list; numbers by hand are limits, bars, and what the paper says."""
    for claim in read_claims():
        for name in ("ours", "spread", "distance", "networks"):
            assert isinstance(claim.get(name, []), list), claim["name"]


def test_every_verdict_is_one_that_the_reader_knows():
    assert {row.verdict() for row in ROWS.values()} <= set(VERDICTS)
    for row in ROWS.values():
        assert row.why()
        if row.repeats == 1:
            assert row.verdict() == OPEN and row.why().startswith("seen once"), row.name
        if row.verdict() == REPRODUCED and row.claim["generated"]:
            assert row.distance >= 0.5, row.name


def test_without_distances_a_photocopier_passes_and_so_does_the_paper():
    content = json.loads((ROOT / "benchmarks" / "results" / "mnist.json").read_text())
    claim = ROWS["mnist"].claim

    def verdicts(generator):
        paths = {
            name: [step if step != {"name": "published"} else {"name": generator} for step in claim[name]]
            for name in ("ours", "distance", "spread", "networks")
        }
        row = Row(claim | paths, writer.numbers_of(claim | paths, content), {})
        return row.verdict(distances=False), row.verdict()

    assert verdicts("published") == verdicts("retrieval") == (REPRODUCED, COPIES)
    assert verdicts("held-out networks") == (REPRODUCED, REPRODUCED)  # control
    assert verdicts("random weights") == (NOT_REPRODUCED, NOT_REPRODUCED)  # control


# -- fingerprints ----------------------------------------------------------------------------------------------------

SOURCE = '"""What it is."""\n\nimport math\n\n\ndef area(r):\n    """Of a circle."""\n    return math.pi * r**2\n'


def test_a_fingerprint_sees_code_and_not_words():
    same = [
        SOURCE.replace("What it is", "Circles"),
        SOURCE.replace("Of a circle.", "Of a circle.\n\n    Longer now.\n    "),
        SOURCE.replace("    return", "    # by Archimedes\n    return"),
        SOURCE.replace("\n\n\ndef", "\n\n\n\ndef") + "\n",
        SOURCE.replace("\n", "\r\n"),
        SOURCE.replace("math.pi * r**2", "(\n        math.pi * (r ** 2)\n    )"),
    ]
    for text in same:
        assert fingerprint(text) == fingerprint(SOURCE), text
    for text in (SOURCE.replace("r**2", "r**3"), SOURCE.replace("import math", "import cmath as math")):
        assert fingerprint(text) != fingerprint(SOURCE)  # control
    told = SOURCE.replace("return math", 'x = """text"""\n    return math')
    assert fingerprint(told) != fingerprint(told.replace("text", "other"))  # a text that is no docstring is code
    cells = [{"cell_type": "markdown", "source": ["# no code"]}, {"cell_type": "code", "source": [SOURCE]}]
    assert fingerprint(code_of("a.ipynb", json.dumps({"cells": cells}))) == fingerprint(SOURCE)


def test_files_that_changed_came_or_went_are_named():
    now = {"a.py": "1", "b.py": "2", "gone.py": None, "new.py": "3"}
    assert changed_since({"a.py": "1", "b.py": "0", "gone.py": "4", "new.py": None}, now) == [
        "b.py", "gone.py", "new.py",
    ]  # fmt: skip
    assert changed_since({"gone.py": None}, {"gone.py": None}) == ["gone.py"]  # a row names what is there
    assert changed_since({"a.py": "1"}, {"a.py": "1"}) == []  # control
    assert fingerprints(["no.py"], ROOT) == {"no.py": None}


@pytest.fixture
def copy(tmp_path):
    """What the scoreboard reads, elsewhere, without history: every row is of today's code."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    for claim in read_claims():
        for file in claim["code"]:
            if (ROOT / file).is_file():
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, tmp_path / file)
    stored = read_stored(tmp_path)
    for name in RUN:
        stored[name]["code"] = fingerprints(ROWS[name].claim["code"], tmp_path)
    return tmp_path, stored


def test_a_changed_file_of_code_marks_the_rows_that_name_it_and_no_others(copy):
    root, stored = copy
    assert not [row.name for row in read_rows(root) if is_old(row, stored, root)]  # control: nothing has changed
    file = root / "dwflow_lite" / "flow" / "solver.py"
    file.write_text(file.read_text() + "\n# a comment\n")
    assert not [row.name for row in read_rows(root) if is_old(row, stored, root)]  # control: nor has code
    file.write_text(file.read_text() + "\nSTEPS = 1\n")
    old = {row.name: what_is_old(row, stored, root) for row in read_rows(root) if is_old(row, stored, root)}
    assert set(old) == {name for name in RUN if "dwflow_lite/flow/solver.py" in ROWS[name].claim["code"]}
    assert all(files == ["dwflow_lite/flow/solver.py"] for files in old.values())
    table = short_table(list(ROWS.values()), old)
    assert table.count("†") == len(old) and len(table.splitlines()) == len(ROWS) + 2  # marked, and none is hidden


def test_a_changed_result_marks_its_rows_until_the_table_is_written(copy):
    root, stored = copy
    path = root / "benchmarks" / "results" / "mnist.json"
    content = json.loads(path.read_text())
    (first,) = select(content, ["by seed", "0", "aligned", "rows", {"name": "published"}])
    first["score"] -= 0.2
    path.write_text(json.dumps(content))
    old = {row.name for row in read_rows(root) if is_old(row, stored, root)}
    assert "mnist" in old and "mnist small flow" not in old and "dual pca" not in old
    assert {row.name: row.verdict() for row in read_rows(root)}["mnist"] != COPIES  # and the verdict follows


# -- the table that is committed -------------------------------------------------------------------------------------


def test_the_committed_table_is_what_the_script_gives():
    content, page = writer.build()
    told = (
        "python -m benchmarks.scoreboard writes the table anew: a result, a claim, or code that a row names has changed"
    )
    assert json.loads(writer.OUT.read_text()) == json.loads(json.dumps(content)), told
    assert writer.OUT.with_suffix(".md").read_text() == page, told
    assert page.count("\n| ") == len(ROWS) + 1
    for row in ROWS.values():
        marked = is_old(row, content["rows"])
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row.claim['claim']} |")]
        assert ("†" in line) == marked, row.name
        assert row.verdict() in line and "/work" not in line and "/tmp" not in line


def test_numbers_of_the_table_are_those_of_the_results():
    entry = read_stored()["mnist"]
    content = json.loads((ROOT / "benchmarks" / "results" / "mnist.json").read_text())
    by_hand = [
        100 * next(r["score"] for r in run["aligned"]["rows"] if r["name"] == "published")
        for run in content["by seed"].values()
    ]
    assert entry["numbers"]["ours"] == pytest.approx(by_hand) and entry["repeats"] == 3 and entry["networks"] == 100
    assert entry["about"]["command"] == content["command"] and entry["about"]["date"] == content["date"]
    assert mean(by_hand) == pytest.approx(96.1, abs=0.05)


def history(tmp_path, monkeypatch):
    """A repository in which a result came with its code, the file was touched, and then the code changed."""

    def commit(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_py", ".py").replace("_json", ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
        person = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *person, "commit", "-qm", "."], cwd=tmp_path, check=True)
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(benchmarks__results__r_json='{"s0": {"o": 0.9, "r": 0.9}}', a_py="x = 0\n")
    made = commit(benchmarks__results__r_json='{"s0": {"o": 0.96, "r": 0.95}}', a_py="x = 1\n")
    commit(benchmarks__results__r_json='{"s0": {"o": 0.96, "r": 0.95}, "note": {}}', a_py="x = 2\n")
    monkeypatch.setattr(writer, "ROOT", tmp_path)
    claim = CLAIM | {"code": ["a.py"], "about": ["s0"]}
    return made, read_row(claim, tmp_path / "benchmarks" / "results")


def test_a_row_is_of_the_code_with_which_its_numbers_came(tmp_path, monkeypatch):
    made, row = history(tmp_path, monkeypatch)
    assert writer.commit_of(row) == made
    entry = writer.entry_of(row, {})
    assert entry["since"] == made[:12] and entry["code"] == {"a.py": fingerprint("x = 1")}
    assert what_is_old(row, {row.name: entry}, tmp_path) == ["a.py"]
    kept = writer.entry_of(row, {row.name: entry | {"since": "earlier"}})
    assert kept["since"] == "earlier"  # as long as numbers stay, history is not asked again
    fresh = replace(row, numbers=row.numbers | {"ours": [99.0]})  # in no commit yet: of the code as it is
    entry = writer.entry_of(fresh, {})
    assert entry["since"] is None and entry["code"] == {"a.py": fingerprint("x = 2")}
    monkeypatch.setattr(writer, "git", lambda *arguments: None)  # control: nor where there is no git
    assert writer.entry_of(row, {})["code"] == {"a.py": fingerprint("x = 2")}
