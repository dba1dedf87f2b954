"""What can be tried of Windows elsewhere: its locks, its refusal to replace an open file, its names and its letters."""

import ast
import errno
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path, PureWindowsPath

import pytest

from dwflow_lite.course.paths import notebooks_folder, write_atomic
from dwflow_lite.support import locks, replacing
from dwflow_lite.support.locks import LOCK, FolderInUseError, one_writer
from dwflow_lite.support.paths import partial_of, written_whole

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = set('<>:"|?*\\')  # in names of files there
DEVICES = {"con", "prn", "aux", "nul"} | {f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10)}


# -- locks ---------------------------------------------------------------------------------------------------------


class Msvcrt(types.ModuleType):
    """``msvcrt.locking`` for one process: a byte of a file, at the place where the descriptor stands."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self):
        super().__init__("msvcrt")
        self.locked = {}  # (file, byte) -> descriptor

    def locking(self, file, mode, length):
        byte = os.fstat(file).st_ino, os.lseek(file, 0, os.SEEK_CUR)
        if mode == self.LK_UNLCK:
            if self.locked.get(byte) != file:
                raise PermissionError(errno.EACCES, "not locked here")
            del self.locked[byte]
        elif byte in self.locked:
            raise PermissionError(errno.EACCES, "locked")
        else:
            self.locked[byte] = file


@pytest.fixture
def windows(monkeypatch):
    """No fcntl, but msvcrt; and no file is removed while it is open."""
    msvcrt = Msvcrt()
    plain = Path.unlink

    def unlink(path, missing_ok=False):
        if path.exists() and path.stat().st_ino in {number for number, _ in msvcrt.locked}:
            raise PermissionError(errno.EACCES, "in use")
        plain(path, missing_ok=missing_ok)

    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    monkeypatch.setattr(Path, "unlink", unlink)
    return msvcrt


def test_one_writer_by_the_locks_of_windows(tmp_path, windows):
    for _ in range(2):  # and again, once it is free
        with one_writer(tmp_path):
            holder = json.loads((tmp_path / LOCK).read_text())
            assert holder["process"] == os.getpid()
            (_, byte) = next(iter(windows.locked))
            assert byte > 1000, "what is locked nobody else reads there, and the signature is to be read"
            with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on"), one_writer(tmp_path):
                pass
        assert not windows.locked and list(tmp_path.iterdir()) == []


def test_a_lock_that_was_left_behind_is_taken_over(tmp_path, windows):
    (tmp_path / LOCK).write_text("{}")  # its process was killed: Windows unlocked it, and nobody removed it
    with one_writer(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    with one_writer(tmp_path), pytest.raises(FolderInUseError), one_writer(tmp_path):
        pass  # control


# -- files that somebody has open ----------------------------------------------------------------------------------


def busy(monkeypatch, times, system="nt"):
    """`os.replace` refuses so many times, as Windows does for an open file."""
    plain, calls = os.replace, []

    def refuse(source, target):
        calls.append(target)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, "in use")
        plain(source, target)

    fake = types.SimpleNamespace(name=system, replace=refuse)
    monkeypatch.setattr(replacing, "os", fake)
    monkeypatch.setattr(replacing, "PATIENCE", 0.3)
    return calls


def test_a_file_that_is_open_for_a_moment_is_replaced(tmp_path, monkeypatch):
    calls = busy(monkeypatch, times=2)
    write_atomic(tmp_path / "report.md", "new")
    assert (tmp_path / "report.md").read_text() == "new" and len(calls) == 3
    with written_whole(tmp_path / "zoo.safetensors") as partial:
        partial.write_bytes(b"whole")
    assert (tmp_path / "zoo.safetensors").read_bytes() == b"whole"


@pytest.mark.parametrize(("times", "system"), [(10**6, "nt"), (1, "posix")])
def test_one_that_stays_open_is_an_error_and_nothing_is_left(tmp_path, monkeypatch, times, system):
    (tmp_path / "report.md").write_text("old")
    calls = busy(monkeypatch, times, system)
    with pytest.raises(PermissionError):
        write_atomic(tmp_path / "report.md", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "old"
    assert (len(calls) == 1) == (system == "posix")  # elsewhere the first refusal is meant


# -- names, letters, bytes -----------------------------------------------------------------------------------------


def wrong_on_windows(name):
    """What Windows has against a path of the repository."""
    parts = PureWindowsPath(name.replace("/", "\\")).parts
    bad = [part for part in parts if FORBIDDEN & set(part) or part[-1] in " ." or part.split(".")[0].lower() in DEVICES]
    return bad + ([name] if len(name) > 120 else [])  # of 260 letters the reader's folder needs some


def test_names_of_files_are_allowed():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not tracked:
        tracked = [path.relative_to(ROOT).as_posix() for path in (ROOT / "dwflow_lite").rglob("*.py")]
    assert not [name for name in tracked if wrong_on_windows(name)]
    assert len({name.lower() for name in tracked}) == len(tracked), "two names that differ in case alone"
    for name in ("a/b:c", "x/aux.py", "x/a.", "x/" + 130 * "y", "what?"):
        assert wrong_on_windows(name)  # control


def test_names_that_the_package_makes_are_allowed(tmp_path):
    assert not wrong_on_windows(partial_of(tmp_path / "a zoo.safetensors").name)
    for path in notebooks_folder().glob("*.ipynb"):
        assert not wrong_on_windows(f".{path.name}.{os.getpid()}.draft")


def unsaid(source):
    """Lines that read or write text, and leave the encoding to the system."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        said = {keyword.arg for keyword in node.keywords}
        modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        is_text = name in ("read_text", "write_text") or (name == "open" and not any("b" in mode for mode in modes))
        of_another = ast.unparse(node.func) in ("os.open", "gzip.open", "webbrowser.open", "Image.open")
        if is_text and not of_another and "encoding" not in said and None not in said:
            found.append(node.lineno)
    return found


def test_text_is_utf_8_and_not_what_the_system_thinks():
    of_teachers = [ROOT / "benchmarks" / f"{name}.py" for name in ("bands", "week", "course_times", "scoreboard")]
    files = [*(ROOT / "dwflow_lite").rglob("*.py"), *of_teachers]  # other benchmarks are measured on Linux
    assert {
        str(path.relative_to(ROOT)): lines for path in files if (lines := unsaid(path.read_text(encoding="utf-8")))
    } == {}
    for source in ("p.read_text()", "p.write_text('x')", "open(p)", "p.open('w')"):
        assert unsaid(source)  # control


def test_written_text_has_the_same_bytes_everywhere(tmp_path, monkeypatch):
    plain, said = Path.write_text, []

    def write_text(path, text, **options):
        said.append(options)
        return plain(path, text, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    write_atomic(tmp_path / "page.html", "a\nb\n")
    assert [options["newline"] for options in said] == ["\n"]  # where nothing is said, Windows writes \r\n
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8")
    assert "* text=auto eol=lf" in attributes  # nor does git: results know their code by its bytes
    kept = {f"*{path.suffix}" for path in (ROOT / "data").iterdir() if b"\0" in path.read_bytes()}
    assert kept and kept <= set(re.findall(r"^(\S+) binary$", attributes, re.MULTILINE))


@pytest.mark.parametrize("letters", ["cp1252", "ascii"])
def test_the_console_need_not_know_every_letter(tmp_path, letters):
    """A run that fails with letters beyond the console's says so, and ends as it should."""
    (tmp_path / "99_ёж.ipynb").write_text("{}", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": letters, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "dwflow_lite", "run", "--source", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (1, 2) and "UnicodeEncodeError" not in done.stderr
    assert "99_" in done.stdout + done.stderr
