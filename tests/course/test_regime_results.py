"""What notebook 09 shows of the zoos whose test split was read: in words that fit them, and numbers of the files."""

import copy
from statistics import mean

import pytest

from benchmarks import new_and_accurate, recipes
from dwflow_lite.course import regime_results
from dwflow_lite.course.regime_results import (
    DECAYS,
    LEAST_LOST,
    ZOOS,
    accuracy_table,
    below_the_best,
    decay_table,
    points_lost,
    share_table,
)

from .test_large_results import rows_of


def test_each_zoo_is_described_as_it_was_trained():
    for name, (words, epochs, recipe) in ZOOS.items():
        regime = new_and_accurate.REGIMES[name]
        own = new_and_accurate.RECIPES[regime.recipe]
        decay = f"decay {own.weight_decay:g}" if own.weight_decay else "no decay"
        units = f"{regime.hidden[0]:,}"
        assert words == f"{regime.task if regime.task == 'digits' else 'MNIST'} {units}, {decay}"
        assert len(regime.hidden) == 1 and epochs == regime.epochs
        if recipe is not None:
            width, _, compared = recipe.partition("; ")
            known = recipes.RECIPES[regime.task][compared]
            prefix = "" if regime.task == "digits" else f"{regime.task}, "
            assert width == f"{prefix}width {regime.hidden[0]}" and known.epochs == regime.epochs
            assert known.batch_size == own.batch_size
            assert (known.optimizer, known.lr, known.weight_decay) == (own.optimizer, own.lr, own.weight_decay)


def test_tables_have_a_line_for_every_zoo_and_a_number_for_every_seed():
    seeds = [int(row[2]) for row in rows_of(accuracy_table())[2:]]
    shares = rows_of(share_table())[2:]
    named = [row[0].replace("\N{NO-BREAK SPACE}", " ") for row in shares]
    assert named == [words for words, _, _ in ZOOS.values()] and len(seeds) == len(ZOOS)
    for count, row in zip(seeds, shares, strict=True):
        assert all(len(cell.split("/")) == count for cell in row[1:])
        numbers = [number for cell in row[1:] for number in cell.split("/")]
        assert all(0 <= int(number) <= 100 for number in numbers if number != "–") and numbers.count("–") <= count


def test_numbers_are_those_of_the_file(monkeypatch):
    stored = {name: regime_results._stored(name) for name in ("new_and_accurate", "recipes")}
    for run in stored["new_and_accurate"].values():
        apart = {row["name"]: row["accurate_and_new"] for row in run["not aligned"]}
        best = regime_results.best_without_alignment(run)
        assert best == new_and_accurate.luckiest(run["not aligned"])["accurate_and_new"]
        assert best >= apart["mixture of all"]
    changed = copy.deepcopy(stored)
    for run in changed["new_and_accurate"].values():
        for row in run["universe"]:
            row["accurate_and_new"] = 0.5 * (row["name"] == "mixture of all")
    monkeypatch.setattr(regime_results, "_stored", changed.__getitem__)
    for row in rows_of(share_table())[2:]:  # control: it is read from the file
        assert set(row[2].split("/")) == {"50"} and set(row[1].split("/") + row[7].split("/")) == {"0"}
    monkeypatch.setattr(regime_results, "_stored", lambda name: stored[name] | {"digits-8-new, seed 0": {}})
    with pytest.raises(KeyError, match="digits-8-new"):  # a zoo without words is not left out
        share_table()


def test_the_best_recipe_of_a_width_is_the_best_mean_over_seeds():
    own = "width 256; adamw 0.003, decay 0.3, 120 epochs"
    at_256 = {key: run for key, run in regime_results._stored("recipes").items() if key.startswith("width 256,")}
    of_each: dict[str, list[float]] = {}
    for key, run in at_256.items():
        of_each.setdefault(key.split("; ")[1], []).append(mean(run["accuracy"]))
    means = {name: mean(scores) for name, scores in of_each.items()}
    assert below_the_best(own) == pytest.approx(100 * (max(means.values()) - means[own.split("; ")[1]]))
    best = max(means, key=means.get)
    assert below_the_best(f"width 256; {best}") == 0 < below_the_best("width 256; adamw 0.003, decay 3, 60 epochs")


@pytest.mark.parametrize("task, file", [("digits", "why_width"), ("mnist", "why_width_mnist")])
def test_what_is_lost_by_width_is_that_of_the_file(task, file, monkeypatch):
    runs = regime_results._stored(file)
    widths, points = points_lost(task, "overlap 0")
    assert widths == sorted({int(key.split(",")[0]) for key in runs if "x" not in key})
    of_first = [run for key, run in runs.items() if key.startswith(f"{widths[0]},")]
    assert points[0] == pytest.approx(mean(100 * (run["zoo"] - run["aligned"]["overlap 0"]) for run in of_first))
    assert points != points_lost(task, "overlap 1")[1] != points_lost(task, "overlap 1", "not aligned")[1]
    better = {key: run | {"aligned": {"overlap 0": 1.0}} for key, run in runs.items()}
    monkeypatch.setattr(regime_results, "_stored", {file: better}.__getitem__)
    assert set(points_lost(task, "overlap 0")[1]) == {LEAST_LOST}  # control: gains, which no logarithm has


def test_decay_is_that_of_the_recipe_and_numbers_are_those_of_the_file(monkeypatch):
    for decay, name in DECAYS.items():
        regime = new_and_accurate.REGIMES[name]
        assert new_and_accurate.RECIPES[regime.recipe].weight_decay == decay
        assert (regime.task, regime.hidden) == ("digits", (128,))
    rows = rows_of(decay_table())[2:]
    assert [float(row[0]) for row in rows] == sorted(DECAYS)
    mixed = [int(row[4]) for row in rows]
    rivals = [int(row[7]) for row in rows]
    assert mixed == sorted(mixed) and rivals == sorted(rivals) and mixed[1] > 10 * rivals[1]  # what 09b says
    assert rivals[-1] > 50
    stored = copy.deepcopy(regime_results._stored("new_and_accurate_few_validation"))
    for run in stored.values():
        for row in run.get("universe", ()):
            row["accurate_and_new"] = 0.5
    monkeypatch.setattr(regime_results, "_stored", lambda name: stored)
    assert all(row[3:7] == ["50"] * 4 for row in rows_of(decay_table())[2:])  # control
