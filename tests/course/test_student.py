"""The student's copy, the scores that are kept in it, and a class's table."""

import csv
import json
import os
import re
import shutil

import nbformat
import pytest

from dwflow_lite import __version__
from dwflow_lite.__main__ import main
from dwflow_lite.course import data_folder, notebooks_folder, paths, repository
from dwflow_lite.course import exercises as exercises_package
from dwflow_lite.course.classroom.copying import course_notebooks, student_notebook, write_copy
from dwflow_lite.course.classroom.rerunning import handed_in
from dwflow_lite.course.classroom.scores import ScoreError, read_scores
from dwflow_lite.course.classroom.students import Student
from dwflow_lite.course.exercises import check, left
from dwflow_lite.course.parameters import UsageError
from dwflow_lite.course.paths import checkout
from dwflow_lite.course.reading import NotebookError
from dwflow_lite.course.run import run
from dwflow_lite.course.scoreboard import fingerprints

from .conftest import FILES, cells, prose
from .test_notebooks import WRONG, answer_name, exercises, solution

SOLUTIONS = {
    "00.1": "def accuracy(outputs, labels):\n    return (outputs.argmax(-1) == labels).float().mean()",
    "00.2": "def nearest(point, zoo_weights):\n    return (zoo_weights - point).norm(dim=-1).min()",
}
MISTAKES = {
    "00.1": "def accuracy(outputs, labels):\n    return (outputs.argmin(-1) == labels).float().mean()",
    "00.2": "def nearest(point, zoo_weights):\n    return (zoo_weights - point).square().sum(-1).min()",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The copy as a teacher gives it away; nothing may be written into it."""
    out = tmp_path_factory.mktemp("given") / "copy"
    write_copy(out)
    return out


@pytest.fixture
def copy(given, tmp_path, monkeypatch):
    """A student's own, in whose notebooks we stand, in a fresh kernel."""
    shutil.copytree(given, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy" / "notebooks")
    monkeypatch.setattr(exercises_package, "_STATUS", {})
    monkeypatch.setattr(exercises_package, "_SAID", set())
    return tmp_path / "copy"


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_answers(folder, answers, name="00_a_network_from_noise.ipynb"):
    """Put code into the stubs of a notebook, above the call of check."""
    path = folder / name
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        for tag in cell.metadata.get("tags", ()):
            code = answers.get(tag.removeprefix("exercise:"))
            if code is not None:
                cell.source = code + "\n\n\n" + cell.source[cell.source.index("check(") :]
    nbformat.write(nb, path)


# -- the copy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_copy_lacks_the_answers_and_nothing_else(path, given):
    ours, theirs = (nbformat.read(p, as_version=4) for p in (path, given / "notebooks" / path.name))
    nbformat.validate(theirs)
    numbers = [p.values[1] for p in exercises() if p.values[0] == path]
    last = theirs.cells.pop()
    assert last.metadata.tags == ["left"] and [f'"{number}"' in last.source for number in numbers] == [True] * len(
        numbers
    )
    kept = {cell.id: cell for cell in theirs.cells}
    assert list(kept) == [cell.id for cell in ours.cells if cell.id in kept]
    for cell in ours.cells:
        if cell.cell_type == "code":
            assert kept[cell.id] == cell
        elif "<details" not in cell.source:
            assert kept[cell.id].source == cell.source
        else:
            words = [line for line in kept[cell.id].source.splitlines() if line] if cell.id in kept else []
            assert words == [line for line in cell.source.splitlines() if line in words]
    text = "\n".join(cell.source for cell in theirs.cells)
    assert "<details" not in text and not re.search(r"(Solution|Hint|A thought on) \d\d", text)
    for number in numbers:
        answer = solution(path, number).strip()
        assert answer not in text and answer.splitlines()[-1] not in text and answer in prose(path)
        assert f"**{number} · " in text
    assert re.findall(r"^## .*", text, re.MULTILINE) == re.findall(r"^## .*", prose(path), re.MULTILINE)


def test_two_copies_are_the_same_to_the_byte(given, tmp_path):
    write_copy(tmp_path / "other")
    assert files_in(tmp_path / "other") == files_in(given)
    write_copy(given)  # once more changes nothing
    assert files_in(tmp_path / "other") == files_in(given)
    (given / "README.md").unlink()
    write_copy(given)
    assert files_in(tmp_path / "other") == files_in(given), "what is missing is added"


def test_the_work_of_a_student_is_never_written_over(copy):
    write_answers(copy / "notebooks", SOLUTIONS)
    (copy / "README.md").unlink()
    before = files_in(copy)
    with pytest.raises(UsageError, match=r"00_a_network_from_noise.ipynb in .* differ.* nothing was written"):
        write_copy(copy)
    assert files_in(copy) == before


def test_only_an_empty_folder_or_a_copy_is_written_into(tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        write_copy(tmp_path / "home")
    with pytest.raises(UsageError, match="is no folder"):
        write_copy(tmp_path / "home" / "letter.txt")
    with pytest.raises(UsageError, match="cannot write into"):
        write_copy(tmp_path / "home" / "letter.txt" / "copy")
    assert main(["student", str(tmp_path / "home")]) == 2 and main(["student", " "]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert list((tmp_path / "home").iterdir()) == [tmp_path / "home" / "letter.txt"]
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / ".git").mkdir()  # control: a new repository is empty
    assert main(["student", str(tmp_path / "class")]) == 0
    assert "notebooks with" in capsys.readouterr().out


STUB = 'def f(x):\n    raise NotImplementedError\n\n\ncheck("00.1", f);'
FOLD = "<details><summary>Solution 00.1</summary>\n\nx\n\n</details>"


def notebook(text, stub=STUB):
    nb = nbformat.v4.new_notebook()
    nb.cells.append(
        nbformat.v4.new_markdown_cell("# Title\n\n<details><summary>A proof</summary>\n\nshort\n\n</details>")
    )
    nb.cells.append(nbformat.v4.new_markdown_cell("## Exercises\n\n**00.1 · Do** it."))
    nb.cells.append(nbformat.v4.new_code_cell(stub, metadata={"tags": ["exercise:00.1"]}))
    nb.cells.append(nbformat.v4.new_markdown_cell(text))
    return nb


@pytest.mark.parametrize(
    "text, stub, complaint",
    [
        (FOLD.replace("Solution", "Soluton"), STUB, "cell 4: the fold 'Soluton 00.1' of an exercise must be called"),
        (FOLD.replace("</details>", ""), STUB, "cell 4: a fold of an exercise, <details>, has no end"),
        (FOLD + "\n\n<details>\n\nx\n\n</details>", STUB, "cell 4: a fold of an exercise, <details>, has no end"),
        (
            FOLD.replace("</details>", "**00.2** " + FOLD),
            STUB,
            "cell 4: the fold 'Solution 00.1' of an exercise has no end",
        ),
        (FOLD, STUB.replace("raise NotImplementedError", "return x"), "exercise 00.1 is no stub: its cell must raise"),
        (FOLD, STUB.replace("00.1", "00.2"), "exercise 00.1 is no stub: its cell must raise"),
        (FOLD, "def f(x:", "exercise 00.1 is no stub: its cell must raise"),
    ],
)
def test_what_might_give_an_answer_away_is_refused(text, stub, complaint):
    with pytest.raises(NotebookError, match=re.escape(complaint)):
        student_notebook(notebook(text, stub))


def test_control_other_folds_and_text_stay():
    nb = notebook(FOLD + "\n\n**00.2 · Next.**\n\n" + FOLD.replace("Solution 00.1", "A thought on 00.2"))
    before = nbformat.writes(nb)
    copied = student_notebook(nb)
    assert nbformat.writes(nb) == before
    assert copied.exercises == ("00.1",)
    assert [cell.source for cell in copied.notebook.cells[:2]] == [cell.source for cell in nb.cells[:2]]
    assert copied.notebook.cells[3].source == "**00.2 · Next.**"
    alone = student_notebook(notebook(FOLD)).notebook
    assert len(alone.cells) == 4 and alone.cells[3].metadata.tags == ["left"], "a cell that held nothing else is gone"


# -- in a student's notebook ---------------------------------------------------------------------------------------


def test_check_keeps_what_it_said(copy, capsys):
    score = copy / "notebooks" / "scores" / "00.json"
    stub = nbformat.read(copy / "notebooks" / "00_a_network_from_noise.ipynb", as_version=4)
    (stub,) = [cell.source for cell in stub.cells if cell.metadata.get("tags") == ["exercise:00.1"]]
    exec(stub, {"check": check})
    assert read_scores(score).scores["00.1"][:3] == (
        "not yet",
        "not started. Replace the line that raises, and run the cell again.",
        0,
    )
    for code, status, attempts in (
        (MISTAKES, "wrong", 1),
        (MISTAKES, "wrong", 2),
        (SOLUTIONS, "right", 3),
        (SOLUTIONS, "right", 3),
    ):
        namespace = {}
        exec(code["00.1"], namespace)
        check("00.1", namespace["accuracy"])
        kept = read_scores(score)
        assert kept.scores["00.1"].status == status and kept.scores["00.1"].attempts == attempts
        assert kept.scores["00.1"].message in capsys.readouterr().out
    assert kept.notebook == "00_a_network_from_noise" and kept.version == __version__
    assert kept.digest == course_notebooks(checkout() / "notebooks")[kept.notebook].digest
    check("03.1", len)
    assert {path.name for path in score.parent.iterdir()} == {"00.json", "03.json"}, (
        "a file for each notebook, no drafts"
    )


def test_every_right_answer_stub_and_planted_mistake_is_kept_as_such(copy, capsys):
    for parameter in exercises():
        file, number, stub = parameter.values
        name, namespace = answer_name(stub, number), {"check": check}
        stem = file.stem
        path = copy / "notebooks" / "scores" / f"{stem.partition('_')[0]}.json"
        exec(stub, namespace)
        assert read_scores(path).scores[number].status == "not yet"
        for wrong in WRONG[number]:
            check(number, eval(wrong))
            score = read_scores(path).scores[number]
            assert (
                score.status == "wrong"
                and len(score.message) > 10
                and f"✗ {number}: {score.message}\n" in capsys.readouterr().out
            )
        exec(solution(file, number), namespace)
        check(number, namespace[name])
        assert read_scores(path).scores[number].status == "right"
        assert read_scores(path).scores[number].attempts == len(WRONG[number]) + 1


def test_left_lists_what_is_left(copy, capsys):
    check("00.1", len)
    check("00.2", lambda point, zoo: (zoo - point).norm(dim=-1).min())
    capsys.readouterr()
    left("00.1", "00.2", "00.3")
    said = "exercises: 1 of 3 right; wrong: 00.1; not yet: 00.3 (kept in scores/00.json)\n"
    assert capsys.readouterr().out == said
    exercises_package._STATUS.clear()  # of another kernel, on another day
    left("00.1", "00.2", "00.3")
    assert capsys.readouterr().out == said
    shutil.rmtree(copy / "notebooks" / "scores")
    check("00.2", lambda point, zoo: (zoo - point).norm(dim=-1).min())
    capsys.readouterr()
    left("00.1", "00.2", "00.3")
    assert capsys.readouterr().out.startswith("exercises: 1 of 3 right; not yet: 00.1, 00.3"), "what the file says"


def test_elsewhere_nothing_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check("00.1", len)
    left("00.1")
    said = "exercises: 0 of 1 right; wrong: 00.1 (not kept: no file dwflow_copy.json lies beside the notebook)\n"
    assert capsys.readouterr().out.endswith(said) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", ["no room", "damaged", "list gone", "list foreign"])
def test_whatever_is_wrong_with_the_files_a_student_can_work(copy, capsys, spoil):
    folder = copy / "notebooks" / "scores"
    if spoil == "no room":
        folder.write_text("a file is in the way, as a folder without rights would be")
    elif spoil == "damaged":
        folder.mkdir()
        (folder / "00.json").write_text('{"format": "dwflow_lite.sco')
    elif spoil == "list gone":
        (copy / "notebooks" / "dwflow_copy.json").write_text("")
    else:
        (copy / "notebooks" / "dwflow_copy.json").write_text('{"notebooks": []}')
    assert not check("00.1", len) and not check("00.1", len)
    lines = capsys.readouterr().out.splitlines()
    about = [line for line in lines if line.startswith("(")]
    assert len(lines) == 3 and len(about) == 1, "one sentence, once"
    expected = {"damaged": "it begins anew"}.get(spoil, "not kept")
    assert expected in about[0]
    left("00.1")
    assert "wrong: 00.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"format": "other"}, "is no score file"),
        ({"format": "dwflow_lite.scores/9"}, "is of another format"),
        ({"scores": []}, "holds no scores"),
        ({"scores": {"00.1": {"status": "right"}}}, "no whole entry"),
        (
            {"scores": {"00.1": {"status": "best", "message": "", "attempts": 1, "date": "2026-01-01T00:00:00+00:00"}}},
            "entry",
        ),
        (
            {"scores": {"00.1": {"status": "right", "message": 5, "attempts": 1, "date": "2026-01-01T00:00:00+00:00"}}},
            "entry",
        ),
        (
            {
                "scores": {
                    "00.1": {"status": "right", "message": "", "attempts": -1, "date": "2026-01-01T00:00:00+00:00"}
                }
            },
            "entry",
        ),
        ({"scores": {"00.1": {"status": "right", "message": "", "attempts": 1, "date": "yesterday"}}}, "entry"),
        (
            {"scores": {"x": {"status": "right", "message": "", "attempts": 1, "date": "2026-01-01T00:00:00+00:00"}}},
            "entry",
        ),
    ],
)
def test_a_score_file_is_read_whole_or_refused(tmp_path, change, complaint):
    entry = {"status": "right", "message": "a\x1b[31m\nb", "attempts": 1, "date": "2026-01-01T00:00:00+00:00"}
    good = {"format": "dwflow_lite.scores/1", "notebook": "n", "digest": "d", "version": "v", "scores": {"00.1": entry}}
    path = tmp_path / "00.json"
    path.write_text(json.dumps(good))
    assert read_scores(path).scores["00.1"].message == "a?[31m b"  # control; and nothing steers a terminal
    path.write_text(json.dumps(good | change))
    with pytest.raises(ScoreError, match=complaint):
        read_scores(path)


def test_a_copy_stands_alone_where_the_package_was_installed(copy, monkeypatch):
    """As with `pip install` from a wheel: no repository beside the package."""
    files = ["dwflow_lite/compress.py", "notebooks/02_permutation_symmetry.ipynb", "benchmarks/mnist.py", "no.py"]
    ours = fingerprints(files, repository())
    monkeypatch.setattr(
        "dwflow_lite.course.paths.__file__", str(copy.parent / "lib" / "dwflow_lite" / "course" / "p.py")
    )
    assert repository() == copy and paths.data_folder() == copy / "data"
    monkeypatch.delenv("DWFLOW_ARTEFACTS", raising=False)
    assert paths.artefacts() == copy / "build" / "artefacts"
    write_answers(copy / "notebooks", {"02.1": "def swap_units("}, "02_permutation_symmetry.ipynb")
    assert fingerprints(files, copy) == ours, "what a student writes makes no result old"
    with pytest.raises(UsageError, match="a student's copy already"):
        write_copy(copy.parent / "another")
    monkeypatch.chdir(copy)
    assert repository() == copy
    shutil.rmtree(copy / "data")
    with pytest.raises(FileNotFoundError, match="has lost its folder 'data'"):
        repository()
    monkeypatch.chdir(copy.parent)
    with pytest.raises(FileNotFoundError, match="in no student's copy"):  # control
        repository()


def test_in_a_copy_the_copy_is_used_wherever_the_package_comes_from(copy, monkeypatch, tmp_path):
    """Also where it was installed from a clone: else a student runs the course's notebooks, and loses all scores."""
    monkeypatch.delenv("DWFLOW_ARTEFACTS", raising=False)
    assert repository() == copy and notebooks_folder() == copy / "notebooks" and data_folder() == copy / "data"
    assert paths.artefacts() == copy / "build" / "artefacts"
    assert main(["student", str(tmp_path / "another")]) == 0, "a teacher who stands in it gives away the course's"
    assert files_in(tmp_path / "another") == files_in(copy)
    monkeypatch.chdir(tmp_path)
    assert repository() == checkout()  # control
    monkeypatch.setenv("DWFLOW_COPY", str(copy / "notebooks"))  # as the runner says to its kernels
    assert repository() == copy


@pytest.mark.timeout(280)
def test_run_all_of_a_copy_reaches_its_end_and_lists_what_is_left(copy):
    """By papermill, at smoke size; the kernel stands below the copy, and `check` keeps the scores there."""
    name = "02_permutation_symmetry"  # of all the quickest
    mistake = "def count_symmetries(sizes):\n    return sum(sizes)"
    (file,) = [path for path in FILES if path.stem == name]
    answers = {"02.1": solution(file, "02.1"), "02.2": mistake}
    write_answers(copy / "notebooks", answers, f"{name}.ipynb")
    out = copy.parent / "build elsewhere"
    limits = {"cell_timeout": 240, "notebook_timeout": 240}
    code = run(out=out, profile="smoke", notebooks=["02"], source=copy / "notebooks", **limits)
    assert code == 0, (out / "report.md").read_text(encoding="utf-8")
    (last,) = cells(out / "executed" / f"{name}.ipynb", "code")[-1].outputs
    assert last.text == "exercises: 1 of 3 right; wrong: 02.2; not yet: 02.3 (kept in scores/02.json)\n"
    scores = read_scores(copy / "notebooks" / "scores" / "02.json").scores
    assert {number: score.status for number, score in scores.items()} == {
        "02.1": "right",
        "02.2": "wrong",
        "02.3": "not yet",
    }


# -- a class -------------------------------------------------------------------------------------------------------


def hand_in(folder, scores, stem="00_a_network_from_noise", date="2026-01-01T10:00:00+00:00", digest=None):
    """A score file as a student hands it in."""
    digest = course_notebooks(checkout() / "notebooks")[stem].digest if digest is None else digest
    entries = {
        number: {"status": status, "message": message, "attempts": 2, "date": date}
        for number, (status, message) in scores.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": "dwflow_lite.scores/1", "notebook": stem, "digest": digest, "version": "0", "scores": entries}
    path = folder / f"{stem.partition('_')[0]}.json"
    path.write_text(json.dumps(content))
    return path


def test_a_class_is_a_table_and_a_file(tmp_path, capsys):
    right, begun = ("right", "right."), ("not yet", "not started.")
    hand_in(tmp_path / "Anna" / "notebooks" / "scores", {"00.1": right, "00.2": ("wrong", "got 9"), "00.3": begun})
    hand_in(tmp_path / "Ben" / "scores", {"00.1": right, "00.2": ("wrong", "got 2.5e-3"), "00.3": right})
    hand_in(tmp_path / "Cara" / "scores", {"00.2": ("wrong", "your code raised NameError: x")})
    assert main(["grade", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    rows = said.splitlines()
    assert rows[0].split()[:3] == ["student", "00", "01"]
    assert [row.split()[:2] for row in rows[1:4]] == [["Anna", "✓✗○"], ["Ben", "✓✗✓"], ["Cara", "·✗·"]]
    assert "00.1  2 of 3 right (after 2 tries, at the median)\n" in said
    assert "00.2  0 of 3 right, 3 wrong; most often (2): got 9\n" in said
    assert "00.3  1 of 3 right (after 2 tries, at the median), 1 not yet\n" in said
    assert "\nchecked by nobody: all of 01, all of 02" in said and "not read" not in said and "to look at" not in said
    with (tmp_path / "grades.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["student"] for row in table] == ["Anna", "Ben", "Cara"]
    assert [row["00.2"] for row in table] == ["wrong"] * 3 and [row["00.1"] for row in table] == ["right", "right", ""]
    assert [(row["right"], row["wrong"], row["not yet"]) for row in table] == [
        ("1", "1", "1"),
        ("2", "1", "0"),
        ("0", "1", "0"),
    ]
    assert main(["grade", str(tmp_path), "--notebooks", "00"]) == 0, "written once more"
    assert "checked by nobody" not in capsys.readouterr().out
    assert (
        (tmp_path / "grades.csv")
        .read_text(encoding="utf-8-sig")
        .startswith("student,00.1,00.2,00.3,right,wrong,not yet\n")
    )


def test_what_cannot_be_read_is_a_sentence_and_stops_nobody(tmp_path, capsys):
    right = {"00.1": ("right", "right.")}
    hand_in(tmp_path / "Anna" / "scores", right)
    (tmp_path / "Ben").mkdir()
    (tmp_path / "Ben" / "hand in.zip").write_bytes(b"PK")
    (tmp_path / "Cara" / "scores").mkdir(parents=True)
    (tmp_path / "Cara" / "scores" / "00.json").write_text('{"format":')
    (tmp_path / "Cara" / "scores" / "01.json").write_text('{"name": "package", "version": "1"}')
    (tmp_path / "Cara" / "scores" / "02.json").write_bytes(b"\xff\xfe\x00")
    hand_in(tmp_path / "Dora" / "scores", {"77.7": ("right", "")} | right)
    hand_in(tmp_path / "=1+1" / "scores", {"00.1": ("wrong", "\x1b[2Jgot 1")})
    hand_in(tmp_path / "=1+1" / "scores" / "\x1b[2J" / "scores", {"88.8": ("wrong", "")})
    (tmp_path / "Emil").mkdir()
    (tmp_path / "late.zip").write_bytes(b"PK")
    (tmp_path / "00.json").write_text("{}")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["grade", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    for sentence in (
        "  Ben: no score files (scores/*.json): unpack hand in.zip first",
        "  Cara: scores/00.json is damaged: it is not whole JSON",
        "  Cara: scores/01.json is no score file of this course",
        "  Cara: scores/02.json is damaged",
        "  Dora: scores/00.json names 77.7, which is no exercise of this course",
        "  Emil: no score files (scores/*.json): nothing was checked, or the folder was not handed in",
        "  late.zip lies in no student's folder: unpack it into one",
        "  00.json lies in no student's folder: put it into one",
    ):
        assert said.count(sentence) == 1, sentence
    assert said.count("\n  ") == 9 and "\x1b" not in said
    assert "00.1  2 of 6 right" in said, "Anna and Dora"
    assert "\n'=1+1," in (tmp_path / "grades.csv").read_text(encoding="utf-8-sig"), "a spreadsheet computes nothing"


def test_what_a_teacher_should_know_is_a_remark(tmp_path, capsys):
    right, wrong = {"00.1": ("right", "right.")}, {"00.1": ("wrong", "got 1"), "00.2": ("right", "right.")}
    path = hand_in(tmp_path / "Anna" / "scores", right)
    hand_in(tmp_path / "Anna" / "again" / "scores", wrong, date="2026-01-01T11:00:00+00:00")
    (tmp_path / "Ben" / "scores").mkdir(parents=True)
    shutil.copy(path, tmp_path / "Ben" / "scores")
    hand_in(tmp_path / "Cara" / "scores", right, digest="of another term")
    hand_in(tmp_path / "Dora" / "scores", right)
    hand_in(tmp_path / "Dora" / "old" / "scores", wrong, date="2026-01-01T11:30:00+02:00")  # two hours east
    assert main(["grade", str(tmp_path), "--notebooks", "00"]) == 0, "all was read"
    said = capsys.readouterr().out
    assert "  Anna: scores/00.json has 00.1 once more: the newer counts" in said
    assert "  Ben: scores/00.json is the same file, to the second, as one of Anna's" in said
    assert "  Cara: scores/00.json was made with another version of 00_a_network_from_noise" in said
    assert [line.split()[:2] for line in said.splitlines()[1:4]] == [["Anna", "✗✓·"], ["Ben", "✓··"], ["Cara", "✓··"]]
    assert said.splitlines()[4].split()[:2] == ["Dora", "✓✓·"]


def test_a_teachers_own_table_is_not_written_over(tmp_path, capsys):
    hand_in(tmp_path / "Anna" / "scores", {"00.1": ("right", "right.")})
    (tmp_path / "grades.csv").write_text("student,00.1,right,wrong,not yet,my mark\nAnna,right,1,0,0,A\n")
    assert main(["grade", str(tmp_path)]) == 2
    assert "columns of its own: move it away" in capsys.readouterr().err
    assert "my mark" in (tmp_path / "grades.csv").read_text()


def test_what_cannot_be_meant_is_said(given, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    hand_in(tmp_path / "class" / "Anna" / "scores", {"00.1": ("right", "right.")})
    for words, said in (
        (["grade", ""], "names no folder"),
        (["grade", str(tmp_path / "none")], "no folder"),
        (["grade", str(tmp_path / "empty")], "no student's folder"),
        (["grade", str(given)], "the copy of one student"),
        (["grade", str(given / "notebooks")], "the copy of one student"),
        (["grade", str(tmp_path / "class"), "--notebooks", "77"], "no notebook 77"),
        (["grade", str(tmp_path / "class"), "--cell-timeout", "0"], "seconds above 0"),
    ):
        assert main(words) == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "class" / "grades.csv").exists()


@pytest.mark.timeout(280)
def test_running_again_finds_what_a_score_file_hides(copy, tmp_path, capsys):
    """A file written by hand, an answer that never ends, one that is no Python; and the imports of the cells above."""
    folder = tmp_path / "class" / "Anna"
    shutil.copytree(copy / "notebooks", folder)
    answers = {
        "00.1": SOLUTIONS["00.1"].replace("outputs.argmax(-1)", "torch.argmax(outputs, -1)"),
        "00.2": "import time\nwhile True:\n    time.sleep(0.1)",
        "00.3": "def ensemble(outputs:",
    }
    write_answers(folder, answers)
    nbformat.write(nbformat.v4.new_notebook(), folder / "of mine.ipynb")
    (folder / "broken.ipynb").write_text("{")
    hand_in(folder / "scores", dict.fromkeys(answers, ("right", "right.")))
    hand_in(tmp_path / "class" / "Ben" / "scores", {"00.1": ("right", "right.")})
    before = files_in(folder)
    assert main(["grade", str(tmp_path / "class"), "--rerun", "--notebooks", "00", "--cell-timeout", "12"]) == 1
    said = capsys.readouterr().out
    assert "Anna: 00_a_network_from_noise\n" in said
    assert ["Anna", "✓✗✗", "1", "of", "3"] in [line.split() for line in said.splitlines()]
    assert "  Anna: 00.2 is 'wrong' when run again; the score file says 'right'" in said
    assert "00.2  0 of 2 right, 1 wrong; most often (1): the cell ran longer than 12 s" in said
    assert "most often (1): the cell raised SyntaxError" in said
    assert "  Anna: broken.ipynb cannot be read as a notebook" in said and "of mine" not in said
    assert "  Ben: 00_a_network_from_noise.ipynb was not handed in: its scores are as the file says" in said
    assert files_in(folder) == before, "what was handed in stays as it is"


def test_of_two_notebooks_the_newer_counts(copy, tmp_path):
    """As where a folder is copied onto one that was handed in before."""
    course = course_notebooks(checkout() / "notebooks")
    first = copy / "notebooks" / "00_a_network_from_noise.ipynb"
    again = copy / "notebooks" / "notebooks" / first.name
    again.parent.mkdir()
    shutil.copy(first, again)
    write_answers(again.parent, {"00.1": SOLUTIONS["00.1"]})
    for newer, older in ((again, first), (first, again)):  # the second: control
        os.utime(older, (1e9, 1e9))
        os.utime(newer, (2e9, 2e9))
        student = Student("Anna", copy / "notebooks")
        found = handed_in(student, course)["00_a_network_from_noise"]
        assert (found == nbformat.read(newer, as_version=4)) and found != nbformat.read(older, as_version=4)
        assert any(remark.endswith(f"{newer.relative_to(copy / 'notebooks')} counts") for remark in student.remarks)
