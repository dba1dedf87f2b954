"""Claims with a bar: what holds, what is shown, what the report keeps."""

import json
import math

import numpy as np
import pytest
import torch

from dwflow_lite.course import above, below, record
from dwflow_lite.course.claims import Comparison
from dwflow_lite.course.notebook import RECORD_MIME

from .conftest import Ran, write_notebook


@pytest.mark.parametrize(
    "claim, holds, words",
    [
        (above(0.93, 0.5), True, ["0.93 above 0.5, margin 0.43"]),
        (above(0.5, 0.5), False, ["0.5 not above 0.5, margin 0"]),
        (above(0.3, 0.5), False, ["0.3 not above 0.5, margin -0.2"]),
        (below(0.3, 0.5), True, ["0.3 below 0.5, margin 0.2"]),
        (below(7, 5), False, ["7 not below 5, margin -2"]),
        (above(np.float32(2.5), torch.tensor(2)), True, ["2.5 above 2, margin 0.5"]),
        (
            above(0.93, 0.5) & below(0.93, 0.9),
            False,
            ["0.93 above 0.5, margin 0.43", "0.93 not below 0.9, margin -0.03"],
        ),
        (
            above(3, 1) & below(3, 4) & below(3, 5),
            True,
            ["3 above 1, margin 2", "3 below 4, margin 1", "3 below 5, margin 2"],
        ),
        (above(math.nan, 0.5), False, ["nan not above 0.5: not a finite number"]),
        (above(math.inf, 0.5), False, ["inf not above 0.5: not a finite number"]),
        (below(1.0, math.inf), False, ["1 not below inf: not a finite number"]),
        (above(1.0, math.nan) & above(2, 1), False, ["1 not above nan: not a finite number", "2 above 1, margin 1"]),
    ],
)
def test_what_holds_and_how_it_reads(claim, holds, words):
    assert claim.holds is holds
    assert [comparison.describe() for comparison in claim.comparisons] == words
    copies = json.loads(json.dumps([c.as_json() for c in claim.comparisons], allow_nan=False))
    assert [Comparison.from_json(copy).describe() for copy in copies] == words


@pytest.mark.parametrize("value", [True, "0.5", None, np.zeros(2), torch.zeros(3)])
def test_only_single_numbers_are_compared(value):
    with pytest.raises(TypeError, match="value of a claim"):
        above(value, 0.5)
    with pytest.raises(TypeError, match="bar of a claim"):
        below(0.5, value)


def test_claims_are_joined_by_ampersand_only():
    with pytest.raises(TypeError, match="join claims with '&'"):
        above(1, 0) and below(1, 2)
    for join in (lambda: above(1, 0) & True, lambda: True & above(1, 0)):
        with pytest.raises(TypeError, match="a claim of its own"):
            join()


def test_record_shows_value_bar_and_margin(monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: displayed.append(data))
    record({"x": 1}, {"high": above(0.93, 0.5) & below(0.93, 0.95), "plain": True, "a<b": above(math.nan, 2)})
    (data,) = displayed
    assert data[RECORD_MIME]["claims"] == [["high", True], ["plain", True], ["a<b", False]]
    names = [name for name, _ in data[RECORD_MIME]["margins"]]
    assert names == ["high", "a<b"], "a bool has no margin"
    first = data[RECORD_MIME]["margins"][0][1][0]
    assert first == {"value": 0.93, "bar": 0.5, "direction": "above", "margin": pytest.approx(0.43)}
    assert "high: ✓ holds (0.93 above 0.5, margin 0.43; 0.93 below 0.95, margin 0.02)" in data["text/plain"]
    assert "plain: ✓ holds\n" in data["text/plain"]
    assert "<br><small>nan not above 2: not a finite number</small>" in data["text/html"]
    json.dumps(data, allow_nan=False)


def test_the_report_lists_margins(tmp_path):
    start = "from dwflow_lite.course import above, below, record\n"
    write_notebook(
        tmp_path / "nb", "01_holds", start + "record({'x': n}, {'n is fair': above(n, 2) & below(n, 9), 'b': True})"
    )
    write_notebook(tmp_path / "nb", "02_fails", start + "record({'x': n}, {'n is high': above(n, 9)})")
    write_notebook(tmp_path / "nb", "03_nan", start + "record({'x': n}, {'n is': above(float('nan'), 9)})")
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.status() == {"01_holds": "passed", "02_fails": "failed", "03_nan": "failed"}
    entry = ran.entries["01_holds"]
    assert entry["claims"] == {"n is fair": True, "b": True}
    assert entry["margins"] == {
        "n is fair": [
            {"value": 3, "bar": 2, "direction": "above", "margin": 1},
            {"value": 3, "bar": 9, "direction": "below", "margin": 6},
        ]
    }
    assert ran.error("02_fails")["evalue"] == "n is high (3 not above 9, margin -6)"
    assert ran.entries["03_nan"]["margins"]["n is"][0]["value"] == "nan"
    strict = (ran.out / "report.json").read_text()
    json.loads(strict, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    text = (ran.out / "report.md").read_text()
    assert "- ✓ holds: n is fair (3 above 2, margin 1; 3 below 9, margin 6)" in text and "- ✓ holds: b\n" in text
    assert "- ✗ does not hold: n is (nan not above 9: not a finite number)" in text
    assert "3 above 2, margin 1" in ran.page("01_holds") and "margin 6" in (ran.out / "report.html").read_text()
