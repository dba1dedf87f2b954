"""The house: who imports whom, how large it is, and that the two environment files agree."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml

import dwflow_lite

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dwflow_lite"
# Each room imports only what stands before it; the course uses none of the rooms at import time.
ORDER = [
    "support", "tasks", "networks", "zoo", "batchnorm", "training", "symmetry", "compress", "flow", "generate",
    "auditing",
    "figures", "widgets",
]  # fmt: skip


def imports(path):
    """Rooms that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            parts = name.split(".")
            if parts[0] == "dwflow_lite" and len(parts) > 1:
                yield parts[1]


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        yield pytest.param(room, path, id=str(path.relative_to(PACKAGE)))


@pytest.mark.parametrize("room, path", list(rooms()))
def test_no_room_imports_one_above_it(room, path):
    if room in ("__init__", "__main__"):
        return
    if room == "course":
        assert set(imports(path)) <= {"course"}
        return
    assert room in ORDER, f"{room} has no place in the house: name it in ORDER"
    assert all(ORDER.index(other) <= ORDER.index(room) for other in imports(path) if other in ORDER)
    assert set(imports(path)) <= set(ORDER)


def test_lower_rooms_do_not_plot():
    for path in PACKAGE.rglob("*.py"):
        if path.stem not in ("figures", "widgets") and "course" not in path.parts:
            assert "matplotlib" not in path.read_text(), path


def lines_of_code(path):
    """Lines that hold code: not blank, not only comment, not docstring."""
    source = path.read_text()
    nothing = {"COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER", "ENCODING"}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, clean=False):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_package_stays_small(tmp_path):
    (tmp_path / "a.py").write_text('"""Doc\nstring."""\n\nx = (1,\n     2)  # both\n# none\n')
    assert lines_of_code(tmp_path / "a.py") == 2  # control
    rooms = [p for p in PACKAGE.rglob("*.py") if "course" not in p.parts]
    runner = [p for p in (PACKAGE / "course").rglob("*.py") if "exercises" not in p.parts]
    assert sum(map(lines_of_code, rooms)) < 4400
    assert sum(map(lines_of_code, runner)) < 1100


def test_readers_names_import_whatever_was_imported_before():
    code = (
        "import dwflow_lite.auditing, dwflow_lite.zoo, dwflow_lite as d\n"
        "assert all(callable(getattr(d, n)) for n in d.__all__ if n != '__version__')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'trains_zoo'"):
        dwflow_lite.trains_zoo  # noqa: B018


def test_importing_the_course_runner_needs_no_torch():
    code = "import sys, dwflow_lite, dwflow_lite.course.run; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def bounds(requirements):
    found = (re.fullmatch(r"([A-Za-z0-9_-]+)(>=[\d.]+)?", r) for r in requirements)
    return {m[1].lower(): m[2] for m in found if m}


def test_environment_and_pyproject_name_the_same_packages_and_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = bounds(project["dependencies"] + project["optional-dependencies"]["test"])
    wanted["python"] = project["requires-python"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    listed = bounds(d for d in environment if isinstance(d, str))
    assert listed.pop("pip", "absent") is None
    listed["torch"] = listed.pop("pytorch")  # conda-forge's name
    assert listed == wanted
    assert listed != wanted | {"torch": ">=0.1"}  # control


def test_style_is_clean():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
