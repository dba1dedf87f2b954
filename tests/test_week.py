"""A teacher's week: bands of what runs record, the parts of INSTRUCTORS.md that come from files, what it names."""

import copy
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import bands, week
from benchmarks.claims import source_digest
from dwflow_lite.__main__ import _parser
from dwflow_lite.course.lessons import discover
from dwflow_lite.course.paths import notebooks_folder

ROOT = Path(__file__).resolve().parents[1]
LESSONS = discover(notebooks_folder())
STEMS = [lesson.stem for lesson in LESSONS]
WEEK = yaml.safe_load(week.WEEK.read_text(encoding="utf-8"))
RESULT = json.loads(week.RESULT.read_text(encoding="utf-8"))
COSTS = {lesson.stem: week.cost_of(lesson, RESULT) for lesson in LESSONS}
GUIDE = week.GUIDE.read_text(encoding="utf-8")


# -- bands ---------------------------------------------------------------------------------------------------------


def a_run(value, margin=0.2, status="passed", stem=STEMS[0], **metrics):
    comparisons = [{"value": value, "bar": value - margin, "direction": "above", "margin": margin}]
    return {
        "status": status,
        "source": source_digest("smoke", stem),
        "metrics": {"accuracy": value, **metrics},
        "margins": {"it works": comparisons},
    }


def stored(*runs, stem=STEMS[0]):
    return {f"smoke {stem} seed={seed} threads=1 native": run for seed, run in enumerate(runs)}


def test_a_band_holds_all_stored_runs_and_reaches_further_by_the_rule():
    found = bands.bands_of(stored(a_run(0.8, 0.01), a_run(0.9, 0.3)))["smoke"][STEMS[0]]
    seen = found.pop("usual")  # smallest, median, largest: inside the band, and tighter
    assert seen == {"metrics": {"accuracy": [0.8, 0.85, 0.9]}, "margins": {"it works": [0.01, 0.155, 0.3]}}
    assert found == {"runs": 2, "metrics": {"accuracy": [0.6, 1.1]}, "margins": {"it works": [0.0, 0.88]}}
    assert bands.band_of([5.0, 5.0]) == [4.5, 5.5]  # a tenth
    assert bands.band_of([1e-9, 2e-9]) == pytest.approx([-1e-6, 1e-6], rel=0.01)  # a millionth: rounding


def test_only_runs_that_passed_on_the_notebook_of_today_count():
    runs = stored(a_run(0.8), a_run(0.9), a_run(99.0, status="failed"), a_run(77.0) | {"source": "an older one"})
    runs |= {"smoke 99_gone seed=0 threads=1 native": a_run(1.0)}
    found = bands.bands_of(runs)
    assert list(found["smoke"]) == [STEMS[0]] and found["smoke"][STEMS[0]]["runs"] == 2
    assert bands.without_runs(found, "smoke", STEMS) == STEMS[1:]
    assert bands.without_runs(found, "gpu", STEMS) == STEMS


def test_what_the_machine_decides_and_what_is_no_number_has_no_band():
    free = {
        "seconds to align": 3.0,
        "loop time / batched time": 2.0,
        "peak memory (MB)": 9.0,
        "name": "x",
        "nan": "nan",
    }
    found = bands.bands_of(stored(a_run(0.8, **free), a_run(0.9, **free)))["smoke"][STEMS[0]]
    assert list(found["metrics"]) == ["accuracy"]
    assert bands.is_banded("times seen", 3) and not bands.is_banded("holds", True)  # control, and a bool


def test_a_run_outside_is_told_by_name():
    found = bands.bands_of(stored(a_run(0.8), a_run(0.9)))["smoke"][STEMS[0]]
    assert bands.outside(a_run(0.85), found) == []
    assert bands.outside(a_run(0.3), found) == ["metric 'accuracy' is 0.3, expected between 0.6 and 1.1"]
    assert "margin 'it works' is 0.9" in bands.outside(a_run(0.85, margin=0.9), found)[0]
    assert bands.outside(a_run(0.85, new=1.0), found) == ["metric 'new' has no band"]
    less = a_run(0.85) | {"metrics": {}}
    assert bands.outside(less, found) == ["metric 'accuracy' is expected between 0.6 and 1.1, and was not recorded"]


def test_a_report_is_compared_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bands, "BANDS", tmp_path / "bands.json")
    (tmp_path / "bands.json").write_text(json.dumps(bands.bands_of(stored(a_run(0.8), a_run(0.9)))))

    def compared(*entries):
        (tmp_path / "report.json").write_text(json.dumps({"profile": "smoke", "notebooks": entries}))
        monkeypatch.setattr(sys, "argv", ["bands", str(tmp_path / "report.json")])
        return bands.main(), capsys.readouterr().out

    known = {"stem": STEMS[0], "profile": "smoke"}
    code, said = compared(a_run(0.85) | known, a_run(0.85) | known | {"stem": STEMS[1]})
    assert code == 0 and "inside all bands" in said
    assert f"{STEMS[1]}: no stored run of today's notebook for profile smoke" in said
    code, said = compared(a_run(0.85) | known, {"stem": STEMS[1], "status": "pending", "metrics": {}, "profile": None})
    assert code == 0 and f"nothing recorded: {STEMS[1]} (pending)" in said
    code, said = compared(a_run(0.1) | known)
    assert code == 1 and "1 outside\n  metric 'accuracy' is 0.1" in said  # control
    (tmp_path / "report.json").write_text("[]")
    assert bands.main() == 2


# -- what is written -------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_stored_runs_give():
    """After a change of notebooks or results: python -m benchmarks.week."""
    texts, found = week.parts()
    assert json.loads(bands.BANDS.read_text(encoding="utf-8")) == found
    assert week.filled(GUIDE, texts) == GUIDE
    moved = copy.deepcopy(found)
    moved.setdefault("smoke", {})[STEMS[0]] = {"runs": 2, "metrics": {"a control": [0.0, 1.0]}, "margins": {}}
    assert week.bands_part(moved, LESSONS) not in GUIDE  # control


def test_notebooks_without_a_stored_run_are_named():
    _, found = week.parts()
    for profile in found:
        missing = bands.without_runs(found, profile, STEMS)
        (line,) = re.findall(rf"^- `{profile}`: (.+)\.$", GUIDE, re.MULTILINE)
        assert [stem for stem in STEMS if stem in line] == missing
        assert set(missing) | set(found[profile]) == set(STEMS)


def test_marks_that_are_missing_or_double_are_refused():
    for guide in ("", "<!-- begin x -->\n<!-- begin x -->\n\n<!-- end x -->"):
        with pytest.raises(ValueError, match="needs one <!-- begin x -->"):
            week.filled(guide, {"x": "new"})


@pytest.mark.parametrize(
    ("words", "minutes"),
    [("about ten minutes", 10), ("about forty minutes", 40), ("thirty-five minutes", 35), ("about half an hour", 30)],
)
def test_minutes_to_read(words, minutes):
    assert week.reading_minutes(f"**Time** {words} to read, a minute to run") == minutes
    for other in (f"{words} to read", "**Time** a while to read"):
        with pytest.raises(ValueError, match="no time to read"):
            week.reading_minutes(other)


# -- the week ------------------------------------------------------------------------------------------------------


def placed(week_of, stems):
    """Notebook -> how often it is read, and how often its exercises are done."""
    meetings = week.meetings_of(week_of, stems)
    weekend = week.chosen(week_of["weekend"], stems, week.named(week_of))
    read = [stem for meeting in meetings for stem in meeting.read + meeting.home_read] + weekend
    done = [stem for meeting in meetings for stem in meeting.exercises + meeting.home_exercises] + weekend
    return {stem: (read.count(stem), done.count(stem)) for stem in stems}


def test_every_notebook_and_its_exercises_have_their_place_once():
    assert set(placed(WEEK, STEMS).values()) == {(1, 1)}
    assert placed(WEEK, [*STEMS, "14_new"])["14_new"] == (0, 0)  # control
    split = placed(WEEK, ["02_a", "03_b", "03b_c", "05b_d"])  # with a second part that is named, and one that is not
    assert set(split.values()) == {(1, 1)}
    assert all(cost.exercises for cost in COSTS.values())


def test_a_class_leaves_time_to_open_and_to_close():
    assert len(WEEK["classes"]) == 6 and WEEK["minutes"] == 90
    for meeting in week.meetings_of(WEEK, STEMS):
        assert meeting.minutes(COSTS) <= 84 and meeting.home_minutes(COSTS) <= 45, meeting
    assert week.Meeting(STEMS, STEMS, STEMS, []).minutes(COSTS) > 84  # control


def test_sections_that_may_be_left_out_are_there():
    for one, meeting in zip(WEEK["classes"], week.meetings_of(WEEK, STEMS), strict=True):
        files = [lesson.path for lesson in LESSONS if lesson.stem in meeting.read]
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for heading in one["optional"]:
            assert f"## {heading}" in text, heading
        assert one["optional"] and "## No such section" not in text  # control


def test_a_notebook_that_was_not_measured_has_a_dash():
    without = {**RESULT, "notebooks": {k: v for k, v in RESULT["notebooks"].items() if k != STEMS[0]}}
    costs = {lesson.stem: week.cost_of(lesson, without) for lesson in LESSONS}
    part = week.notebooks_part(LESSONS, costs, without)
    assert f"Not in that run, a dash: {STEMS[0]}" in part and "| – | – |" in part


def test_colab_gets_what_it_lacks_and_keeps_what_it_has():
    cell = week.colab_part()
    names = set(re.findall(r'"([\w-]+)', cell))
    assert {"papermill", "safetensors", "filelock", "transformers", "distributed"} <= names
    assert not names & {"torch", "torchvision", "ipykernel"}
    assert cell.splitlines()[-2] == "%cd /content/course" and cell in GUIDE


# -- what a teacher is told to type ----------------------------------------------------------------------------------


def targets():
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def code_in(text):
    """The blocks and spans of code of a Markdown text."""
    blocks = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(blocks + re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)))


def wrong_commands(text):
    """What code names and the repository does not have: make's targets, modules, commands and options of ours."""
    wrong = [f"make {t}" for t in re.findall(r"\bmake ([a-z]+)\b", text) if t not in targets()]
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        if not (ROOT / f"{module.replace('.', '/')}.py").is_file():
            wrong.append(module)
    (commands,) = (a.choices for a in _parser()._actions if a.dest == "command")
    for command, rest in re.findall(r"-m dwflow_lite (\w+)([^`\n#&]*)", text):
        if command not in commands:
            wrong.append(f"dwflow_lite {command}")
            continue
        known = set(commands[command]._option_string_actions)
        wrong += [option for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest) if option not in known]
    return wrong


TEXTS = [
    "INSTRUCTORS.md",
    "README.md",
    ".gitlab-ci.yml",
    *(f".github/workflows/{n}.yml" for n in ("ci", "nightly", "gpu")),
]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert wrong_commands(code_in(text) if name.endswith(".md") else text) == []


def test_commands_that_are_not_there_are_seen():
    """Control."""
    assert code_in("as we make do, `make course`:\n```sh\nmake test\n```") == "make test\n\nmake course"
    for text in (
        "make courses",
        "python -m benchmarks.weeks",
        "python -m dwflow_lite rum",
        "-m dwflow_lite run --prof x",
    ):
        assert wrong_commands(text), text


def test_links_of_the_guide_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", GUIDE):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif "://" not in target:
            assert (ROOT / target).exists(), target
    for path in re.findall(r"`((?:benchmarks|notebooks|tests|\.github)/[\w./-]+\.\w+|\.ci/run)`", GUIDE):
        assert (ROOT / path).exists(), path
    assert "what-a-class-gets" not in anchors  # control


def test_messages_that_the_guide_explains_are_those_of_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "dwflow_lite").rglob("*.py"))
    for name in ("KernelDied", "CellTimeout", "NotebookTimeout", "ClaimFalse", "another run is using", "waits for "):
        assert name in GUIDE and name in code, name
    for sentence in ("not started", "is being written by", "your code raised", "your function returned", ": right."):
        assert sentence in GUIDE and sentence in code, sentence
    assert "All is well." in GUIDE and "All is well." in code
    assert "KernelDrowned" not in code  # control
