"""Whatever a reader hands to check(): one sentence, and never a traceback."""

import math
import pkgutil
from importlib import import_module

import pytest
import torch

from dwflow_lite.course import exercises
from dwflow_lite.course.exercises import CHECKS, check

from .test_notebooks import answer_name, solution
from .test_notebooks import exercises as exercises_of_the_course

for _module in pkgutil.iter_modules(exercises.__path__):
    import_module(f"dwflow_lite.course.exercises.{_module.name}")


class Odd:
    shape = 5

    def __repr__(self):
        raise RuntimeError("no repr")


def raising(error):
    def answer(*args):
        raise error

    return answer


def returning(value):
    return lambda *args: value


ANSWERS = {
    "None": returning(None),
    "text": returning("x"),
    "NaN": returning(math.nan),
    "infinity": returning(math.inf),
    "huge": returning(10**5000),
    "complex": returning(1j),
    "bool": returning(True),
    "NaN tensor": returning(torch.tensor(math.nan)),
    "NaN matrix": returning(torch.full((6, 6), math.nan, dtype=torch.float64)),
    "empty": returning(torch.zeros(0)),
    "matrix": returning(torch.zeros(3, 4)),
    "whole numbers": returning(torch.zeros(6, 6, dtype=torch.long)),
    "gradient": returning(torch.zeros(3, requires_grad=True)),
    "list": returning([1, 2]),
    "dict": returning({}),
    "two Nones": returning((None, None)),
    "three": returning((torch.zeros(5, 3), None, "x")),
    "four": returning((None,) * 4),
    "object": returning(object()),
    "odd": returning(Odd()),
    "generator": returning(iter(())),
    "first argument": lambda *args: args[0] if args else None,
    "no arguments": lambda: 1,
    "raises": raising(ValueError("two\nlines")),
    "asserts": raising(AssertionError()),
    "ends Python": raising(SystemExit(3)),
    "no function": 5,
    "nothing": None,
    "a tensor": torch.zeros(2),
}


TAKE_NOTHING = {"13.2"}  # exercises whose answer is a function without arguments


@pytest.mark.parametrize("number", sorted(CHECKS))
def test_a_bad_answer_gets_one_sentence(number, capsys):
    for name, answer in ANSWERS.items():
        assert check(number, answer) is False, name
        said = capsys.readouterr().out
        assert said.startswith(f"✗ {number}: ") and said.count("\n") == 1 and len(said) < 700, (name, said)
        blamed = "your code raised" in said
        by_itself = {"raises", "asserts", "ends Python"} | ({"no arguments"} if number not in TAKE_NOTHING else set())
        assert blamed == (name in by_itself), (name, said)


def test_what_came_is_described(capsys):
    check("00.1", returning(None))
    said = capsys.readouterr().out
    assert "your function returned None, with which nothing could be checked (TypeError: float() argument" in said
    assert said.endswith("Share of right answers, from outputs (n, classes) and labels (n,).\n")
    check("03.1", returning({"similarity": torch.zeros(6, 6)}))
    assert (
        "(dict), with which nothing could be checked (AttributeError: 'dict' object has no" in capsys.readouterr().out
    )
    check("00.1", 0.75)
    assert "hand over the function itself, not 0.75 (float)" in capsys.readouterr().out
    check("00.1", raising(AssertionError("mine")))
    assert "your code raised AssertionError: mine" in capsys.readouterr().out


def kinds_of(numbers):
    """The same numbers as an array, as a list, and with more digits."""
    return numbers.numpy(), numbers.tolist(), numbers.double(), numbers.float()


@pytest.mark.parametrize("number", ["00.3", "03.1", "03b.2", "05.3"])
def test_right_numbers_of_another_kind_are_right_and_wrong_ones_are_not(number, capsys):
    namespace = {}
    ((file, _, stub),) = [found.values for found in exercises_of_the_course() if found.values[1] == number]
    exec(solution(file, number), namespace)
    right = namespace[answer_name(stub, number)]
    for kind in range(4):
        assert check(number, lambda *given, kind=kind: kinds_of(right(*given))[kind]), (kind, capsys.readouterr().out)
        capsys.readouterr()
        assert not check(number, lambda *given, kind=kind: kinds_of(1 + right(*given))[kind])  # control
        said = capsys.readouterr().out
        assert "nothing could be checked" not in said, said


def test_counts_are_whole_numbers(capsys):
    assert not check("02.2", lambda sizes: math.prod(map(math.gamma, (n + 1.0 for n in sizes[1:-1]))))
    assert "a count is exact: return a whole number (int), not 20922789888000.0 (float)" in capsys.readouterr().out
    right = lambda heads, units: math.factorial(heads) * math.factorial(units) ** (2 * heads)  # noqa: E731
    assert not check("04.2", lambda heads, units: right(heads, units) + (units == 64))
    assert "expected about 10^2147." in capsys.readouterr().out
    assert check("04.2", right)  # control


def test_a_spec_says_itself_what_does_not_fit(capsys):
    axes = {f"{layer}.{what}": ("h",) for layer in ("left", "right", "last") for what in ("weight", "bias")}
    check("13.2", returning(axes | {"last.bias": None}))
    assert "last.bias: a tuple with one entry for each axis, as ('h',) or (None,)" in capsys.readouterr().out
    weights = {"left.weight": (None, "h"), "right.weight": ("h", None), "last.weight": (None, "h")}
    check("13.2", returning(axes | weights | {"last.bias": (None,)}))
    assert "group 'h' has 3 units in 'left.weight' but 5 in" in capsys.readouterr().out


def test_control_a_right_answer_and_an_unknown_exercise(capsys):
    assert check("00.1", lambda outputs, labels: (outputs.argmax(-1) == labels).double().mean())
    assert capsys.readouterr().out == "✓ 00.1: right.\n"
    for unknown in ("99.1", "../x", 21, ""):
        with pytest.raises(ValueError, match="no exercise"):
            check(unknown, len)
