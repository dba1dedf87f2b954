"""What notebooks use: record, note, folders."""

import math

import numpy as np
import pytest
import torch

from dwflow_lite.course import artefacts, record, repository, runs_on
from dwflow_lite.course.notebook import RECORD_MIME
from dwflow_lite.course.sweep import machine


@pytest.fixture
def displayed(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw=False: shown.append(data))
    return shown


def test_record_shows_and_carries(displayed):
    record({"loss": np.float32(0.25), "n": np.int64(3), "who": "a<b"}, {"it learns": np.bool_(True), "no": False})
    said = displayed[0]
    assert said[RECORD_MIME]["metrics"] == [["loss", 0.25], ["n", 3], ["who", "a<b"]]
    assert said[RECORD_MIME]["claims"] == [["it learns", True], ["no", False]]
    assert "a&lt;b" in said["text/html"] and "no: ✗ does not hold" in said["text/plain"]


@pytest.mark.parametrize("bad, kind", [(math.nan, ValueError), (math.inf, ValueError), (True, TypeError)])
def test_record_refuses(displayed, bad, kind):
    with pytest.raises(kind, match="'x'"):
        record({"x": bad})
    with pytest.raises(TypeError, match="'x'"):
        record({"x": np.zeros(2)})
    with pytest.raises(TypeError, match="claim 'c'"):
        record({}, {"c": 1})
    assert displayed == []


def test_a_notebook_says_where_it_runs():
    threads = torch.get_num_threads()
    assert f"the CPU, {threads} thread" in runs_on(torch.device("cpu"))
    assert machine(torch.device("mps")) == {"device": "mps", "threads": threads}
    assert machine("at home") == machine(None) == machine()  # control


def test_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("DWFLOW_ARTEFACTS", str(tmp_path / "a" / "b"))
    assert artefacts() == tmp_path / "a" / "b" and artefacts().is_dir()
    assert (repository() / "pyproject.toml").exists()
    monkeypatch.setattr("dwflow_lite.course.paths.__file__", str(tmp_path / "lib" / "dwflow_lite" / "course" / "p.py"))
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        repository()
