"""Audits of zoos on disk: the numbers of memory, and never more rows at a time than the memory that is allowed."""

import pytest
import torch

from dwflow_lite import MLP, Zoo, audit, load_task
from dwflow_lite.auditing import nearest_distance, rematched_distance
from dwflow_lite.auditing.streams import BESIDE, Moments, Rows, rows_at_once
from dwflow_lite.generate import GaussianCodes, MemberNoise, Soup
from dwflow_lite.symmetry import PermutationSpec
from dwflow_lite.zoo import Layout
from dwflow_lite.zoo.storage import Shards

MEMBERS, HELD = 9, 3


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


def made(activation, tmp_path_factory):
    """A zoo of random weights, and the same on disk."""
    network = MLP([4, 6, 5, 3], activation)
    layout = Layout.of(network)
    weights = torch.randn(MEMBERS + HELD, layout.size, generator=torch.Generator().manual_seed(0)) / 2
    zoo = Zoo(weights, layout, network, {}, (False,) * MEMBERS + (True,) * HELD)
    folder = tmp_path_factory.mktemp(activation) / "zoo"
    return zoo, Zoo.load(zoo.save(folder), network)


@pytest.fixture(scope="module", params=["relu", "tanh"])  # in one gauge, and in two
def both(request, tmp_path_factory):
    return made(request.param, tmp_path_factory)


def kinds(zoo):
    """A copy with its units in another order, and networks that are none."""
    spec = PermutationSpec.of(zoo.network)
    generator = torch.Generator().manual_seed(1)
    moved = torch.stack([spec.apply(spec.random(generator), row) for row in zoo.weights[:4]])
    return {"moved": Zoo(moved, zoo.layout, zoo.network), "noise": MemberNoise(0.5).fit(zoo).sample(5, seed=0)}


def assert_alike(found, expected):
    """Row by row and number by number, but for rounding."""
    assert found.names == expected.names and found.symmetries == expected.symmetries
    assert found.bars == pytest.approx(expected.bars, rel=1e-5)
    for row, other in zip(found.rows, expected.rows, strict=True):
        numbers, others = (one.numbers() | vars(one.values) for one in (row, other))
        assert numbers.pop("name") == others.pop("name")
        assert numbers.pop("barrier") is others.pop("barrier") is None  # not asked for
        for name, value in numbers.items():
            # Two members that are each other's nearest lie at one distance: where that is the bar, rounding decides.
            tie = 1 / MEMBERS if row.name == "zoo" and name == "accurate_and_new" else 0.0
            assert value == pytest.approx(others[name], rel=1e-5, abs=1e-6 + tie), (row.name, name)


def few_bytes(zoo, rows):
    return BESIDE * 4 * zoo.layout.size * rows


@pytest.fixture(scope="module")
def streamed(both, task):
    """Audits of the zoo on disk, in memory for few rows and for many; and the bytes of the largest block each read."""
    zoo, on_disk = both
    read, largest, found = Shards._read, [], {}

    def watched(self, rows, columns, dtype=torch.float32):
        block = read(self, rows, columns, dtype)
        largest.append(block.numel() * 4)
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shards, "_read", watched)
        for rows in (1, 2, 100):
            largest.clear()
            result = audit(kinds(zoo), on_disk, task, controls={}, memory=few_bytes(zoo, rows))
            found[rows] = result, max(largest)
    return found


def test_a_zoo_on_disk_is_measured_as_in_memory(both, streamed, task):
    zoo, on_disk = both
    assert isinstance(on_disk.weights, Shards) and isinstance(zoo.weights, torch.Tensor)
    expected = audit(kinds(zoo), zoo, task, controls={})
    for found, _ in streamed.values():
        assert_alike(found, expected)
        assert found["moved"].rematched < 1e-3 < 0.1 < found["moved"].nearest and found.flags("moved") == ("copy",)
    other = audit(kinds(zoo), zoo.take(range(MEMBERS - 1)), task, controls={})
    assert other["noise"].nearest != pytest.approx(expected["noise"].nearest, rel=1e-5)  # control


def test_generated_networks_may_lie_on_disk_too(both, task):
    zoo, on_disk = both
    generated = on_disk.take(range(5))
    found = audit(generated, on_disk, task, controls={}, memory=few_bytes(zoo, 2))
    assert_alike(found, audit(zoo.take(range(5)), zoo, task, controls={}))
    assert_alike(found, audit(generated, zoo, task, controls={}))
    assert found["generated"].nearest == 0 != found["held-out networks"].nearest  # control


def test_no_more_is_read_at_a_time_than_memory_allows(both, streamed):
    zoo, _ = both
    sizes = {rows: largest for rows, (_, largest) in streamed.items()}
    for rows, largest in sizes.items():
        assert largest <= few_bytes(zoo, rows) / BESIDE * 3  # whole rows, or columns of all of them
    row = 4 * zoo.layout.size
    assert sizes[1] < MEMBERS * row and sizes[1] <= sizes[2] < sizes[100]
    assert sizes[100] == MEMBERS * row  # control: what would be read at once


def test_trivial_generators_of_a_zoo_on_disk_are_those_that_read_it_there(both, task):
    zoo, on_disk = both
    generated = GaussianCodes().fit(zoo).sample(4, seed=1)
    found = audit(generated, on_disk, task)
    names = ["zoo", "held-out networks", "generated"]
    assert found.names == [*names, "closed-form flow", "Gaussian on codes"]
    assert "copy" in found.flags("closed-form flow") and "copy" not in found.flags("Gaussian on codes")
    with pytest.raises(ValueError, match=r"lives on disk, and Soup draws from all of it: take zoo\.in_memory"):
        audit(generated, on_disk, task, controls={"soup": Soup()})
    assert len(audit(generated, zoo, task).names) > len(found.names)  # control


@pytest.mark.parametrize("memory", [0, -1, 1.5, "all", True])
def test_memory_that_is_no_number_of_bytes_is_refused(both, task, memory):
    with pytest.raises(ValueError, match="memory must be a whole number"):
        audit(both[0].unseen, both[0], task, controls={}, memory=memory)


# -- the pieces ----------------------------------------------------------------------------------------------------


def test_distances_by_blocks_are_those_of_all_at_once(both):
    zoo, on_disk = both
    spec = PermutationSpec.of(zoo.network)
    for at_once in (1, 4, 50):
        rows = Rows(on_disk.weights, at_once)
        near = nearest_distance(rows, rows, skip_self=True)
        assert torch.equal(near, nearest_distance(zoo.weights, zoo.weights, skip_self=True))
        matched = rematched_distance(rows, rows, spec, skip_self=True)
        torch.testing.assert_close(matched, rematched_distance(zoo.weights, zoo.weights, spec, skip_self=True))
        assert (matched <= near).all() and not torch.equal(matched, near)  # control


def test_moments_by_columns_are_those_of_all(both):
    zoo, on_disk = both
    weights = zoo.weights.double()
    centre = weights.mean(0)
    for memory in (1, 2000, 1 << 28):
        for source in (zoo.weights, on_disk.weights):
            moments = Moments.of(source, memory)
            torch.testing.assert_close(moments.mean, centre)
            torch.testing.assert_close(moments.gram, (weights - centre) @ (weights - centre).T)
            point = torch.ones_like(centre)
            assert moments.squared_spread(point) == pytest.approx(float((weights - point).square().sum(1).mean()))
            assert moments.squared_spread(point) > 1.1 * moments.squared_spread(centre)  # control


def test_changes_of_rows_are_made_as_they_are_read(both):
    zoo, on_disk = both

    def change(rows, positions):
        return rows * torch.tensor([float(position) for position in positions])[:, None]

    expected = change(zoo.weights, range(len(zoo)))
    for rows in (Rows(zoo.weights), Rows(on_disk.weights, 5)):
        blocks = torch.cat([block for _, block in rows.changed(change).blocks()])
        assert torch.equal(blocks, expected) and torch.equal(rows.changed(change)[[7, 2]], expected[[7, 2]])
        assert not torch.equal(rows[[7, 2]], expected[[7, 2]])  # control: the rows themselves stay as they are
    assert rows_at_once(few_bytes(zoo, 3), zoo.layout.size) == 3 and rows_at_once(1, 10**9) == 1
