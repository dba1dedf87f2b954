"""The price of a round zoo, asked at toy size."""

from benchmarks import roundness
from dwflow_lite import Recipe


def test_a_round_zoo_is_asked_for_on_the_validation_split(monkeypatch):
    splits = []
    evaluate = roundness.evaluate

    def noted(zoo, task, split):
        splits.append(split)
        return evaluate(zoo, task, split=split)

    monkeypatch.setattr(roundness, "evaluate", noted)
    run = roundness.one_zoo("iris", 8, Recipe(epochs=10, lr=1e-2), members=6, seed=0)
    assert set(splits) == {"validation"}  # recipes are chosen here, so test data is not read
    assert set(roundness.DRAWN) < set(run) and all(0 <= run[name] <= 1 for name in ("zoo", *roundness.DRAWN))
    untrained = roundness.one_zoo("iris", 8, Recipe(epochs=1, lr=1e-9), members=6, seed=0)
    assert run["zoo"] > untrained["zoo"] + 0.2  # control
    page = roundness.page({"iris, 8 units": run})
    assert "iris, 8 units" in page and f"{100 * run['zoo']:.2f}" in page
