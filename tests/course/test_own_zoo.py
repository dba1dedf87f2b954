"""Notebook 13 promises ten lines: they are ten, and all that they call of the package is at its front door."""

import ast

import nbformat

import dwflow_lite
from dwflow_lite.course.paths import notebooks_folder

NOTEBOOK = nbformat.read(notebooks_folder() / "13_your_own_zoo.ipynb", as_version=4)
(TEN,) = [cell.source for cell in NOTEBOOK.cells if "ten-lines" in cell.metadata.get("tags", ())]
STEPS = ["Task", "train_zoo", "derive_spec", "DeepWeightFlow", "audit"]


def called(source):
    """Names that are called in a piece of code, in the order in which they stand."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    roots = []
    for function in calls:
        while isinstance(function, ast.Attribute):
            function = function.value
        if isinstance(function, ast.Name):
            roots.append((function.lineno, function.id))
    return [name for _, name in sorted(roots)]


def test_ten_lines_are_ten():
    lines = TEN.splitlines()
    assert len(lines) <= 10 and "" not in lines
    assert max(len(line) for line in lines) <= 100  # and no line is two


def test_ten_lines_go_the_whole_way_through_the_front_door():
    names = called(TEN)
    assert [name for name in dict.fromkeys(names) if name in STEPS] == STEPS
    assert ".save(" in TEN and ".load(" in TEN
    own = {name for name in names if name[0].isupper() or name in STEPS}
    assert own <= set(dwflow_lite.__all__)
    assert "canonical_basis" not in dwflow_lite.__all__ and called("canonical_basis(zoo)") == [
        "canonical_basis"
    ]  # control
