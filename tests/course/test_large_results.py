"""What notebooks show of the result file of large networks: tables whose numbers are those of the file."""

import json

import pytest

from dwflow_lite.course import large_results, markdown_table
from dwflow_lite.course.paths import repository

FILE = json.loads((repository() / "benchmarks" / "results" / "large.json").read_text(encoding="utf-8"))
TABLES = ("networks", "resnet", "stages", "bounds", "pca", "cluster")


def rows_of(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_whole(name):
    heading, line, *rows = rows_of(getattr(large_results, f"{name}_table")())
    assert set(line) == {"---"} and rows and all(heading)
    assert {len(row) for row in rows} == {len(heading)}


def test_one_network_has_one_size():
    sizes = large_results.sizes()
    assert list(sizes.values()) == sorted(sizes.values()) and "BERT-base" in sizes
    shown = {row[0].partition(",")[0]: row[1] for row in rows_of(large_results.networks_table())[2:]}
    assert shown and all(shown[name] == f"{sizes[name]:,}" for name in shown)
    assert f"{sizes['ResNet-18']:,} weights" in large_results.resnet_words()
    assert f"{sizes['BERT-base']:,} weights" in large_results.base_words()


def test_what_comes_on_top_of_a_bound_is_what_the_table_says(monkeypatch):
    least, most = large_results.on_top()
    on_top = [int(row[2].removesuffix(" MB")) for row in rows_of(large_results.bounds_table())[2:]]
    assert (least, most) == (min(on_top), max(on_top)) and least < most
    changed = json.loads(json.dumps(FILE))
    changed["bound"]["results"]["bounds"]["64 MB"]["peak MB"] = 64 + 7 * most
    monkeypatch.setattr(large_results, "_stored", lambda: changed)
    assert large_results.on_top() == (min(on_top[1:]), 7 * most)  # control: it is read from the file


@pytest.mark.parametrize("curves", ["seconds_by_weights", "seconds_by_members"])
def test_a_pass_takes_longer_than_reading(curves):
    found = getattr(large_results, curves)()
    for label, (x, seconds) in found.items():
        assert len(x) == len(seconds) > 1 and list(x) == sorted(x)
        if not label.endswith("reading alone"):
            reading = found.get(f"{label}: reading alone") or found["reading alone"]
            assert all(a > b for a, b in zip(seconds, reading[1], strict=True))


def test_a_markdown_table_refuses_a_row_of_another_length():
    assert markdown_table(["a", "b"], [[1, "x"]]).splitlines()[2] == "| 1 | x |"
    with pytest.raises(ValueError, match="a row of 1 cells under a heading of 2"):
        markdown_table(["a", "b"], [[1]])
