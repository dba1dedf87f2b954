"""Whatever a reader hands to check(): one sentence, and never a traceback."""

import math
import pkgutil
from importlib import import_module

import pytest
import torch

from dwflow_lite.course import exercises
from dwflow_lite.course.exercises import CHECKS, check

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
    assert "your function returned None, which is not what was asked for: Share of right" in capsys.readouterr().out
    check("03.1", returning(torch.zeros(6, 6)))
    assert "a Tensor of shape (6, 6) and type torch.float32" in capsys.readouterr().out
    check("00.1", 0.75)
    assert "hand over the function itself, not 0.75 (float)" in capsys.readouterr().out
    check("00.1", raising(AssertionError("mine")))
    assert "your code raised AssertionError: mine" in capsys.readouterr().out


def test_control_a_right_answer_and_an_unknown_exercise(capsys):
    assert check("00.1", lambda outputs, labels: (outputs.argmax(-1) == labels).double().mean())
    assert capsys.readouterr().out == "✓ 00.1: right.\n"
    for unknown in ("99.1", "../x", 21, ""):
        with pytest.raises(ValueError, match="no exercise"):
            check(unknown, len)
