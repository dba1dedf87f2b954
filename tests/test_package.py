"""The house: who imports whom, how long its functions are, what an editor completes, and that its files agree."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

import dwflow_lite

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dwflow_lite"
# Each room imports only what stands before it; the course stands beside them.
ORDER = [
    "support", "tasks", "networks", "zoo", "batchnorm", "training", "symmetry", "compress", "flow", "generate",
    "auditing", "use", "figures", "widgets",
]  # fmt: skip


# -- who imports whom --------------------------------------------------------------------------------------------


def module_of(path, package=PACKAGE):
    """Dotted name of a file: dwflow_lite/zoo/__init__.py -> dwflow_lite.zoo."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package=PACKAGE):
    """Dotted name -> file, of every module of a package."""
    return {module_of(path, package): path for path in sorted(package.rglob("*.py"))}


def imports(path, known, package=PACKAGE):
    """Modules of the package that a file imports by any form of import, wherever it stands in the file.

    ``if TYPE_CHECKING`` counts too: a name that is only needed for a hint ties two files together all the same.
    """
    own = module_of(path, package)
    folder = own if path.name == "__init__.py" else own.rpartition(".")[0]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # from .x import y, from .. import x
                above = folder.split(".")[: len(folder.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return {module for name in names if (module := nearest_module(name, known))} - {own}


def nearest_module(name, known):
    """The module that an imported name is, or lies in; None outside the package."""
    while name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def complaints(package=PACKAGE, order=ORDER):
    """Every import that goes up, or leaves the house's order."""
    known = modules(package)
    found = []
    for module, path in known.items():
        room = room_of(module)
        if room in ("", "__main__", "course"):
            continue
        if room not in order:
            found.append(f"{room} has no place in the house: name it in ORDER")
            continue
        for other in imports(path, known, package):
            above = room_of(other) not in order or order.index(room_of(other)) > order.index(room)
            if above:
                found.append(f"{module} imports {other}")
    return found


def test_no_room_imports_one_above_it():
    assert complaints() == []


@pytest.mark.parametrize(
    "line",
    [
        "from dwflow_lite.flow import train_flow",
        "from dwflow_lite import flow",
        "from dwflow_lite import flow as f",
        "import dwflow_lite.flow",
        "import dwflow_lite.flow.train as t",
        "from ..flow import train",
        "from ..flow.train import train_flow",
        "from .. import flow",
        "def late():\n    from .. import flow",
        "if TYPE_CHECKING:\n    from dwflow_lite.flow import Field",
        "import_module('dwflow_lite.flow')",
    ],
)
def test_an_import_that_goes_up_is_seen_in_every_form(tmp_path, line):
    """Control: the test above would see it."""
    package = tmp_path / "dwflow_lite"
    for name in ("__init__", "zoo/__init__", "zoo/zoo", "flow/__init__", "flow/train"):
        (package / name).with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
        (package / name).with_suffix(".py").write_text("")
    assert complaints(package) == []
    (package / "zoo" / "zoo.py").write_text(line + "\n")
    assert complaints(package), line


def circle(package=PACKAGE):
    """Files that import each other in a circle; rooms export their files, so a file may not import its own room."""
    known = modules(package)
    graph = {}
    for module, path in known.items():
        if room_of(module) in ("", "__main__", "course"):
            continue
        graph[module] = {m for m in imports(path, known, package) if room_of(m)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_files(tmp_path):
    assert circle() == []
    package = tmp_path / "dwflow_lite"
    (package / "zoo").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "zoo" / "__init__.py").write_text("from dwflow_lite.zoo.zoo import Zoo\n")
    (package / "zoo" / "zoo.py").write_text("def late():\n    from . import Layout\n")
    assert circle(package)  # control


def test_the_course_uses_no_room():
    """Runner and pages run where torch is broken. Exercises are read in a notebook, where it is there, and the player
    is computed by a process of its own, whose files no other file of the course imports.
    """
    known = modules()
    own_process = {f"dwflow_lite.course.player.{name}" for name in ("page", "packing", "telling", "trajectories")}
    assert own_process <= known.keys()
    for module, path in known.items():
        if room_of(module) == "course" and ".exercises." not in module and module not in own_process:
            imported = imports(path, known)
            rooms = {room_of(other) for other in imported} - {"", "course"}
            assert rooms <= {"support"} and not imported & own_process, module


def test_lower_rooms_do_not_plot():
    for path in PACKAGE.rglob("*.py"):
        if not {"figures", "widgets", "course"} & set(path.relative_to(PACKAGE).with_suffix("").parts):
            assert "matplotlib" not in path.read_text(), path


# -- how long ----------------------------------------------------------------------------------------------------

LINES_OF_A_FUNCTION, LINES_OF_A_FILE = 60, 400
# What may be longer, and why.
LONGER = {}


def functions(path):
    """Qualified name -> lines beside its docstring, of every function of a file."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    docstring = len((ast.get_docstring(child, clean=False) or "").splitlines())
                    yield name, child.end_lineno - child.lineno + 1 - docstring
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    return dict(walk(ast.parse(path.read_text()), ""))


def too_long(package=PACKAGE):
    long = {}
    for module, path in modules(package).items():
        lines = len(path.read_text().splitlines())
        if lines > LINES_OF_A_FILE:
            long[module] = lines
        long |= {f"{module}.{name}": n for name, n in functions(path).items() if n > LINES_OF_A_FUNCTION}
    return long


def test_functions_and_files_can_be_read_at_once(tmp_path):
    assert too_long().keys() <= LONGER.keys(), too_long()
    assert LONGER.keys() <= too_long().keys()  # what has become short needs no excuse
    package = tmp_path / "dwflow_lite"
    package.mkdir()
    (package / "a.py").write_text("def f():\n" + "    x = 1\n" * 60)
    (package / "b.py").write_text("class A:\n    def f():\n        '''A\n        B.'''\n" + "        x = 1\n" * 58)
    assert too_long(package) == {"dwflow_lite.a.f": 61}  # control


# -- what a reader and an editor see -----------------------------------------------------------------------------


def test_readers_names_import_whatever_was_imported_before():
    code = (
        "import dwflow_lite.auditing.audit, dwflow_lite.zoo, dwflow_lite as d\n"
        "assert all(callable(getattr(d, n)) for n in d.__all__ if n != '__version__')"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'trains_zoo'"):
        dwflow_lite.trains_zoo  # noqa: B018


def test_an_editor_sees_the_same_names_as_a_reader():
    """A type checker reads the imports under TYPE_CHECKING and ``__all__`` as literals; Python reads ``_HOME``."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (checking,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {room: [] for room in dwflow_lite._HOME}
    for node in checking.body:
        seen[node.module.removeprefix("dwflow_lite.")] += [alias.name for alias in node.names]
    assert {room: sorted(names) for room, names in seen.items()} == {
        room: sorted(names) for room, names in dwflow_lite._HOME.items()
    }
    assert sorted(dwflow_lite.__all__) == sorted(["__version__", *dwflow_lite._MODULE_OF])
    assert (PACKAGE / "py.typed").is_file()


def test_importing_the_course_runner_needs_no_torch():
    code = "import sys, dwflow_lite, dwflow_lite.course.run; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_function_swallows_keywords_it_does_not_name():
    """``**`` in a signature only where the names are the reader's own (controls of a widget, options of a task)."""
    allowed = {"dwflow_lite.widgets.explore", "dwflow_lite.tasks.datasets.load_task"}
    catching = set()
    for module, path in modules().items():
        if ".course" in module:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.args.kwarg:
                catching.add(f"{module}.{node.name}")
    assert catching <= allowed


# -- files that agree --------------------------------------------------------------------------------------------


def bounds(requirements):
    found = (re.fullmatch(r"([A-Za-z0-9_-]+)(>=[\d.]+(?:,!=[\d.*]+)*)?", r) for r in requirements)
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


# -- what a function takes -------------------------------------------------------------------------------

# Functions of any keyword: what `load_task` does not know it refuses by name, and `explore` names its controls.
TAKE_ANY = {"load_task", "explore"}


def take_any_keyword(source):
    """Functions that take any keyword; methods of two underscores are called by Python or by PyTorch."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if node.args.kwarg is not None and not node.name.startswith("__")}


def test_no_function_takes_what_it_does_not_name():
    assert take_any_keyword("def f(a, **others): pass\ndef g(*, a): pass") == {"f"}  # control
    # The course's own files stand in for Jupyter's.
    rooms = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "course"]
    found = set().union(*(take_any_keyword(path.read_text()) for path in rooms))
    assert found == TAKE_ANY
