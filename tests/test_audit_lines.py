"""One basin or another: what an audit says of the straight lines to the nearest members."""

import pytest
import torch

from dwflow_lite import MLP, PermutationSpec, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing.lines import POINTS, barrier_to_nearest
from dwflow_lite.generate import MemberNoise, Retrieval
from dwflow_lite.networks import ResNet
from dwflow_lite.symmetry import linear_barrier
from dwflow_lite.training import Recipe


@pytest.fixture(scope="module")
def task():
    return load_task("digits", seed=0)


@pytest.fixture(scope="module")
def trained(task):
    return train_zoo(task, MLP([64, 32, 10]), members=6, held_out=3, recipe=Recipe(epochs=12, lr=3e-3))


def by_hand(networks, members, task, spec=None, repaired=False):
    """Line by line, each member matched to its network by itself."""
    falls = []
    for network in networks.weights:
        nearest = members.weights[(members.weights - network).norm(dim=1).argmin()]
        pair = Zoo(torch.stack([network, nearest]), networks.layout, networks.network)
        if spec is not None:
            pair = canonicalise(pair, spec, reference=0)
        curve = linear_barrier(pair, [(0, 1)], task, points=POINTS, repaired=repaired)
        falls.append(float((curve.repaired or curve).score_barrier))
    return torch.tensor(falls)


def test_the_barrier_is_that_of_each_line_by_itself(trained, task):
    spec = PermutationSpec.of(trained.network)
    for used in (spec, None):
        expected = by_hand(trained.unseen, trained.fitted, task, used)
        for at_once in (1, 20, 1000):
            found = barrier_to_nearest(trained.unseen, trained.fitted, task, "validation", used, at_once=at_once)
            assert found.tolist() == pytest.approx(expected.tolist(), abs=0.006)  # two of 360 images


def test_units_in_another_order_are_no_barrier_and_were_one_before(trained, task):
    spec = PermutationSpec.of(trained.network)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([spec.apply(spec.random(generator), row) for row in trained.fitted.weights])
    made = {
        "shuffled": Zoo(shuffled, trained.layout, trained.network),
        "noise": MemberNoise(0.05).fit(trained).sample(6, seed=0),
    }
    found = audit(made, trained, task, controls={"retrieval": Retrieval()}, barrier=True)
    assert found["retrieval"].barrier == pytest.approx(0, abs=1e-6) and 0 <= found["noise"].barrier < 0.02
    assert found["shuffled"].barrier < 0.02
    unmatched = audit(made, trained, task, controls={}, rematch=False, barrier=True)
    assert unmatched["shuffled"].barrier > found["shuffled"].barrier + 0.03  # control
    assert unmatched["zoo"].barrier > found["zoo"].barrier  # members beside each other, not beside themselves
    cells = found.markdown(["barrier"]).splitlines()
    assert cells[0].endswith("| barrier (points) |") and f"| {100 * found['zoo'].barrier:.2f} |" in cells[2]


def test_it_is_measured_on_request_alone(trained, task):
    found = audit(trained.unseen, trained, task, controls={}, rematch=False)
    assert found["zoo"].barrier is None and found.markdown(["barrier"]).splitlines()[2].endswith("| – |")
    with pytest.raises(ValueError, match="barrier must be True or False, got 'yes'"):
        audit(trained.unseen, trained, task, controls={}, barrier="yes")


def test_a_page_has_its_column_where_it_was_measured(trained, task, tmp_path):
    for asked in (True, False):
        found = audit(trained.unseen, trained, task, controls={}, rematch=False, barrier=asked)
        page = found.report(tmp_path / "audit.html").read_text(encoding="utf-8")
        assert ('<th scope="col">barrier (points)</th>' in page) is asked


def test_statistics_of_batchnorm_are_measured_on_the_line(task):
    network = ResNet((4, 6), 1, channels=1)
    zoo = train_zoo(task, network, members=3, held_out=2, recipe=Recipe(epochs=3, lr=0.02))
    found = barrier_to_nearest(zoo.unseen, zoo.fitted, task, "validation", None, at_once=1000)
    assert found.tolist() == pytest.approx(by_hand(zoo.unseen, zoo.fitted, task, repaired=True).tolist(), abs=0.006)
    interpolated = by_hand(zoo.unseen, zoo.fitted, task)  # control: with statistics as they lie on the line
    assert found.mean() != pytest.approx(float(interpolated.mean()), abs=0.006)


def test_zoos_on_disk_read_the_same(trained, task, tmp_path):
    on_disk = Zoo.load(trained.save(tmp_path / "zoo"), trained.network)
    asked = {"controls": {}, "rematch": False, "barrier": True}
    there = audit({"unseen": trained.unseen}, on_disk, task, memory=8 * 4 * 12 * trained.layout.size, **asked)
    here = audit({"unseen": trained.unseen}, trained, task, **asked)
    for row, expected in zip(there.rows, here.rows, strict=True):
        assert row.barrier == pytest.approx(expected.barrier, abs=0.006)
