"""The house: who imports whom, how long its functions are, what an editor completes, and that its files agree."""

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Literal, get_args, get_overloads, get_type_hints, overload

import pytest
import yaml

import dwflow_lite
from dwflow_lite.tasks import TASKS, load_task

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dwflow_lite"
# Each room imports only what stands before it; the course stands beside them.
ORDER = [
    "support", "tasks", "networks", "zoo", "batchnorm", "training", "symmetry", "compress", "flow", "generate",
    "auditing", "use", "figures", "widgets",
]  # fmt: skip
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
# What imports by a name that is made at run time, or asks importlib for something else: module -> why.
LATE = {
    "dwflow_lite": "a reader's names come when they are first asked for",
    "dwflow_lite.course.check": "asks for versions",
    "dwflow_lite.course.exercises": "the checks of a notebook come with its first exercise",
    "dwflow_lite.course.report": "asks for versions",
    "dwflow_lite.course.run": "asks whether there is a kernel, and does not import it",
}


# -- who imports whom --------------------------------------------------------------------------------------------


def module_of(path, package=PACKAGE):
    """Dotted name of a file: dwflow_lite/zoo/__init__.py -> dwflow_lite.zoo."""
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(package=PACKAGE):
    """Dotted name -> file, of every module of a package."""
    return {module_of(path, package): path for path in sorted(package.rglob("*.py"))}


def imports(path, known, package=PACKAGE):
    """Modules of the package that a file imports by any statement, wherever it stands in the file.

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
    return {module for name in names if (module := nearest_module(name, known))} - {own}


def nearest_module(name, known):
    """The module that an imported name is, or lies in; None outside the package."""
    while name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


def imports_by_call(path):
    """Whether a file uses importlib or ``__import__``: what they import no reader of the file can know."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            named = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named = {alias.name for alias in node.names} | {(node.module or "").partition(".")[0]}
        elif isinstance(node, ast.Name | ast.Attribute):
            named = {node.id if isinstance(node, ast.Name) else node.attr}
        else:
            continue
        if named & {"importlib", "import_module", "__import__"}:
            return True
    return False


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def complaints(package=PACKAGE, order=ORDER):
    """Every import that goes up, leaves the house's order, or is a call, which may go anywhere."""
    known = modules(package)
    found = []
    for module, path in known.items():
        room = room_of(module)
        if imports_by_call(path) and module not in LATE:
            found.append(f"{module} imports by a call: write an import, or a reason into LATE")
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
    assert {module for module, path in modules().items() if imports_by_call(path)} == LATE.keys()  # no idle excuse


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
        'import_module(name="dwflow_lite.flow")',
        'import_module(f"dwflow_lite.{x}")',
        'from importlib import import_module as load; load("dwflow_lite.flow")',
        "import importlib.util as u",
        "__import__('dwflow_lite.flow')",
        "builtins.__import__('dwflow_lite.flow')",
        "from builtins import __import__ as load",
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
        if room_of(module) in ("", "__main__"):
            continue
        graph[module] = {m for m in imports(path, known, package) if room_of(m)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("room", ["zoo", "course"])
def test_no_circle_of_files(tmp_path, room):
    assert circle() == []
    package = tmp_path / "dwflow_lite"
    (package / room).mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / room / "__init__.py").write_text(f"from dwflow_lite.{room}.a import Zoo\n")
    (package / room / "a.py").write_text("def late():\n    from .b import Layout\n")
    (package / room / "b.py").write_text("")
    assert circle(package) == []
    (package / room / "b.py").write_text("def late():\n    from . import Layout\n")
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


def past_doors(package=PACKAGE):
    """Course file -> inner files of rooms that it imports; the files of support are doors themselves."""
    known = modules(package)
    found = {}
    for module, path in known.items():
        if room_of(module) == "course":
            inner = {m for m in imports(path, known, package) if m.count(".") > 1}
            inner = {m for m in inner if room_of(m) not in ("course", "support")}
            found |= {module: inner} if inner else {}
    return found


def test_the_course_enters_rooms_by_their_doors(tmp_path):
    assert past_doors() == {}
    package = tmp_path / "dwflow_lite"
    for name in ("__init__", "flow/__init__", "flow/solver", "support/paths", "course/a", "course/b"):
        (package / name).with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
        (package / name).with_suffix(".py").write_text("")
    (package / "course" / "a.py").write_text(
        "from dwflow_lite.flow import x\nfrom dwflow_lite.support.paths import y\n"
    )
    assert past_doors(package) == {}
    for line in ("from dwflow_lite.flow.solver import integrate", "from dwflow_lite.flow import solver"):
        (package / "course" / "b.py").write_text(line)
        assert past_doors(package) == {"dwflow_lite.course.b": {"dwflow_lite.flow.solver"}}  # control


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


def options_of(function):
    """Parameter -> type and default, without the task's name; whether it may be positional is each maker's own."""
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return {name: (hints[name], parameter.default) for name, parameter in parameters.items() if name != "name"}


def options_by_task(function):
    """Task -> the options that an editor completes for it; the last overload, of any name, is none of them."""
    said = [(get_args(get_type_hints(one)["name"]), options_of(one)) for one in get_overloads(function)]
    tasks = [task for names, _ in said for task in names]
    assert len(tasks) == len(set(tasks)), "a task has two overloads"
    return {task: options for names, options in said for task in names}


def test_an_editor_completes_the_options_of_every_task():
    made = {task: options_of(maker) for task, maker in TASKS.items()}
    assert options_by_task(load_task) == made

    @overload
    def load(name: Literal["digits", "iris"], seed: int = 0) -> None: ...
    @overload
    def load(name: Literal["reviews"], seed: int = 0, *, examples: int = 700) -> None: ...
    def load(name, seed=0, **options): ...

    said = options_by_task(load)
    assert said["iris"] == made["iris"] and said["reviews"] != made["reviews"] and "yelp" not in said  # control


# Functions of any keyword: `explore` names its controls, and what `load_task` does not know it refuses by name.
TAKE_ANY = {"dwflow_lite.widgets.explore", "dwflow_lite.tasks.datasets.load_task"}


def take_any_keyword(source):
    """Functions that take any keyword, with methods and functions within functions."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, FUNCTIONS) and node.args.kwarg)
    return {getattr(node, "name", "lambda") for node in functions}


def test_no_function_swallows_keywords_it_does_not_name():
    # The course's own files stand in for Jupyter's.
    rooms = {module: path for module, path in modules().items() if room_of(module) != "course"}
    found = {f"{module}.{name}" for module, path in rooms.items() for name in take_any_keyword(path.read_text())}
    assert found == TAKE_ANY
    source = "def f(a, **o): pass\ndef g(*, a): pass\nclass A:\n async def __call__(self, **o): pass\nh = lambda **o: o"
    assert take_any_keyword(source) == {"f", "__call__", "lambda"}  # control


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
