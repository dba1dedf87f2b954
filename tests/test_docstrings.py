"""What a caller has to expect: every function that raises an error names it in its docstring."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dwflow_lite"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Context managers that turn every error inside them into one kind: that of their second argument, or this one.
TURNED_INTO = {"failing_as": "ValueError", "understood": "ZooFileError"}


def public_functions(source):
    """Qualified name -> function, of all functions, and methods of classes, without an underscore."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, FUNCTIONS):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, FUNCTIONS)]
            found |= {f"{node.name}.{method.name}": method for method in methods}
    return {name: node for name, node in found.items() if not re.search(r"(^|\.)_", name)}


def name_of(node):
    """The last name of an expression: of ``errors.ZooFileError("…")`` the name of the class."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def turned_into(node):
    """The error that leaves a ``with`` block whatever is raised in it; None: the one that was raised."""
    for item in getattr(node, "items", ()):
        call = item.context_expr
        if isinstance(node, ast.With) and name_of(call) in TURNED_INTO:
            return name_of(call.args[1]) if len(call.args) > 1 else TURNED_INTO[name_of(call)]
    return None


def raised(node, kind=None):
    """Names of the errors that the statements of a function raise, those of functions inside it left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:  # a bare ``raise`` passes an error on
            yield kind or name_of(child.exc)
        yield from raised(child, turned_into(child) or kind)


def unnamed(source):
    """Qualified name -> errors that a function raises and does not name."""
    found = {}
    for name, function in public_functions(source).items():
        words = set(re.findall(r"\w+", ast.get_docstring(function) or ""))
        missing = sorted(set(raised(function)) - words)
        if missing:
            found[name] = missing
    return found


def rooms():
    files = sorted(PACKAGE.rglob("*.py"))
    return [file for file in files if file.relative_to(PACKAGE).parts[0] != "course"]


def test_every_error_that_is_raised_is_named():
    sources = {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in rooms()}
    found = {name: missing for name, source in sources.items() if (missing := unnamed(source))}
    assert found == {}
    assert len(sources) > 100


UNNAMED = {
    "a function": 'def f(x):\n    """Read x."""\n    if not x:\n        raise ValueError("no x")',
    "no docstring": 'def f(x):\n    raise ValueError("no x")',
    "a method": 'class A:\n    def f(self):\n        """Read."""\n        raise ValueError("no x")',
    "one of two": 'def f(x):\n    """``TypeError``."""\n    if x:\n        raise TypeError\n    raise ValueError',
    "of a module": 'def f(x):\n    """Read x."""\n    raise files.ValueError("no x")',
    "part of a word": 'def f(x):\n    """MyValueErrors."""\n    raise ValueError',
    "turned into another": 'def f(x):\n    """OSError."""\n    with failing_as("no"):\n        raise OSError("no x")',
}


@pytest.mark.parametrize("kind", UNNAMED)
def test_an_error_that_is_not_named_is_found(kind):
    """Control of the test above."""
    assert list(unnamed(UNNAMED[kind]).values()) == [["ValueError"]]


NAMED = {
    "a section": 'def f(x):\n    """Read x.\n\n    Raises:\n        ValueError: no x.\n    """\n    raise ValueError',
    "in the text": 'def f(x):\n    """``ValueError`` unless x."""\n    raise ValueError("x")',
    "private": 'def _f(x):\n    """Read x."""\n    raise ValueError("x")',
    "passed on": 'def f(x):\n    """Read x."""\n    try:\n        g(x)\n    except ValueError:\n        raise',
    "of a function inside": 'def f(x):\n    """Read x."""\n    def g():\n        raise ValueError("x")\n    return g',
    "turned into another": 'def f(x):\n    """OSError."""\n    with failing_as("", OSError):\n        raise ValueError',
}


@pytest.mark.parametrize("kind", NAMED)
def test_an_error_that_is_named_or_is_not_its_own_is_not_found(kind):
    assert unnamed(NAMED[kind]) == {}
