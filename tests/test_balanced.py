"""Units chosen so that they make up for one another."""

import inspect

import pytest
import torch

from dwflow_lite import MLP, Zoo, load_task
from dwflow_lite.generate import BalancedUnits, GaussianWeights, Retrieval, UnitCrossover, balanced
from dwflow_lite.generate.balanced import MLPLayers, balance
from dwflow_lite.networks import ResNet
from dwflow_lite.zoo import Layout, predict

MEMBERS = 8


def zoo_of(sizes, members=MEMBERS, activation="relu"):
    """Networks of random weights: what is chosen from them needs no training."""
    network = MLP(sizes, activation)
    layout = Layout.of(network)
    return Zoo(torch.randn(members, layout.size, generator=torch.Generator().manual_seed(0)), layout, network)


@pytest.fixture(scope="module")
def x():
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_contributions_of_all_units_and_the_bias_are_the_outputs(x, activation):
    zoo = zoo_of([4, 6, 3], activation=activation)
    layers = MLPLayers(zoo, x)
    state = layers.layout.unflatten(zoo.weights)
    activations = layers.activations(state, 0, x.expand(MEMBERS, *x.shape))
    sums = layers.contributions(state, 0, activations).sum(1).unflatten(1, (len(x), 3))
    outputs = predict(zoo, x)  # (N, b, 3)
    torch.testing.assert_close(sums + state["layers.1.bias"].unsqueeze(1), outputs)
    assert (sums - outputs).abs().max() > 0.1  # control: without the bias they are not


def test_an_ensemble_is_what_children_are_held_against(x):
    """Averages of all units, and of the last bias, are the mean output of the members; also behind a second layer."""
    for sizes in ([4, 6, 3], [4, 6, 5, 3]):
        zoo = zoo_of(sizes)
        average = MLPLayers(zoo, x).averages[-1].sum(0).view(len(x), 3)
        bias = zoo.layout.unflatten(zoo.weights)[f"layers.{len(sizes) - 2}.bias"].mean(0)
        torch.testing.assert_close(average + bias, predict(zoo, x).mean(0), atol=1e-4, rtol=1e-4)


def test_choices_are_greedy_in_the_given_order():
    """Against a plain loop, of one child and one unit at a time."""
    generator = torch.Generator().manual_seed(2)
    deviations = torch.randn(5, 3, 7, 4, generator=generator)
    order = torch.rand(5, 7, generator=generator).argsort(1)
    chosen = balance(deviations, order)
    for child in range(5):
        total = torch.zeros(4)
        for unit in order[child].tolist():
            sums = [total + deviations[child, k, unit] for k in range(3)]
            best = min(range(3), key=lambda k: float(sums[k].norm()))
            assert int(chosen[child, unit]) == best
            total = sums[best]
    other = balance(deviations, order.flip(1))
    assert not torch.equal(other, chosen)  # control: the order does count


def test_sums_stay_small_where_there_is_a_choice():
    """Of independent deviations the sum grows by the root of their number; of chosen ones it hardly grows."""
    generator = torch.Generator().manual_seed(3)
    length = {}
    for units in (50, 800):
        deviations = torch.randn(20, 2, units, 3, generator=generator)
        order = torch.rand(20, units, generator=generator).argsort(1)
        chosen = balance(deviations, order)
        child, unit = torch.arange(20).unsqueeze(1), torch.arange(units)
        length[units] = float(deviations[child, chosen, unit].sum(1).norm(dim=1).mean())
        first = float(deviations[:, 0].sum(1).norm(dim=1).mean())
        assert length[units] < 0.4 * first and first > 0.6 * (3 * units) ** 0.5  # control: nothing chosen
    assert length[800] < 2 * length[50]  # a factor of 4 where nothing is chosen


@pytest.mark.parametrize("sizes", [[4, 40, 3], [4, 40, 40, 3]])
def test_children_are_nearer_to_what_the_ensemble_says(x, sizes):
    zoo = zoo_of(sizes, members=20)
    told = predict(zoo, x).mean(0)
    lost = {}
    for candidates in (1, 2, 6):
        children = BalancedUnits(UnitCrossover(20), x, candidates).fit(zoo).sample(30, seed=0)
        lost[candidates] = float((predict(children, x) - told).square().mean())
    assert lost[6] < 0.8 * lost[2] and lost[2] < 0.8 * lost[1]
    plain = UnitCrossover(20).fit(zoo).sample(30, seed=0)
    assert lost[1] == pytest.approx(float((predict(plain, x) - told).square().mean()), rel=0.35)  # control: no choice


def test_units_are_taken_as_they_are(x):
    """Every candidate writes its own number everywhere: whole units come from one, and what reads the last ones too."""
    network = MLP([4, 6, 5, 3])
    layout = Layout.of(network)
    zoo = Zoo(torch.arange(1.0, 9.0)[:, None].expand(8, layout.size).clone() / 8, layout, network)
    children = BalancedUnits(Retrieval(), x.abs(), candidates=3).fit(zoo).sample(20, seed=0)
    several = 0
    for child in children.weights:
        state = layout.unflatten(child)
        first, second = state["layers.0.weight"], state["layers.1.weight"]
        for weight, bias in ((first, state["layers.0.bias"]), (second, state["layers.1.bias"])):
            assert torch.equal(weight, bias[:, None].expand_as(weight))
        head = state["layers.2.weight"]
        assert torch.equal(head, second[:, 0].expand_as(head))
        assert set(child.unique().tolist()) <= set(zoo.weights[:, 0].tolist())
        several += len(child.unique()) > 1
    assert several > 10  # control: children are not members


def test_one_candidate_leaves_nothing_to_choose(x):
    zoo = zoo_of([4, 6, 3])
    generator = BalancedUnits(Retrieval(), x, candidates=1).fit(zoo)
    made = generator.sample(9, seed=0).weights
    assert all((zoo.weights == row).all(1).any() for row in made)
    chosen = generator.set_params(candidates=2).fit(zoo).sample(9, seed=0).weights
    assert not all((zoo.weights == row).all(1).any() for row in chosen)  # control


@pytest.mark.parametrize("sizes", [[4, 6, 3], [4, 6, 5, 3]])
def test_how_much_is_done_at_once_changes_nothing(x, sizes, monkeypatch):
    zoo = zoo_of(sizes)
    expected = BalancedUnits(UnitCrossover(4), x).fit(zoo).sample(7, seed=0).weights
    monkeypatch.setattr(balanced, "NUMBERS_AT_ONCE", 3 * 2 * 6 * 5 * len(x))
    generator = BalancedUnits(UnitCrossover(4), x).fit(zoo)
    assert generator.layers_.at_once(2) < 7  # control: there are several parts
    torch.testing.assert_close(generator.sample(7, seed=0).weights, expected)


def test_candidates_are_drawn_for_a_few_children_at_a_time(x):
    """So that a thousand children of many candidates need no more memory than a few."""

    drawn = []

    class Counting(UnitCrossover):
        def sample(self, n, *, seed):
            drawn.append((n, seed))
            return super().sample(n, seed=seed)

    generator = BalancedUnits(Counting(4), x, candidates=3).fit(zoo_of([4, 6, 3]))
    made = generator.sample(70, seed=0).weights
    assert [n for n, _ in drawn] == [96, 96, 18] and len({seed for _, seed in drawn}) == 3
    assert len(made.unique(dim=0)) > 60  # control: they differ from part to part
    assert torch.equal(made[:32], generator.sample(32, seed=0).weights)


def test_any_generator_and_network_of_its_own_inputs(x):
    """Candidates may be any generator's; images are flattened; the caller's generator stays unfitted."""
    task = load_task("digits")
    zoo = zoo_of([64, 5, 10])
    of = GaussianWeights()
    generator = BalancedUnits(of, task.calibration.x[:8]).fit(zoo)
    assert len(generator.sample(3, seed=0)) == 3 and not hasattr(of, "members_") and hasattr(generator.of_, "members_")

    class Own:
        """Has the two methods, and nothing else."""

        def fit(self, zoo):
            self.zoo = zoo
            return self

        def sample(self, n, *, seed):
            return self.zoo.take([seed % len(self.zoo)] * n)

    assert len(BalancedUnits(Own(), task.calibration.x[:8]).fit(zoo).sample(3, seed=0)) == 3
    assert "y" not in inspect.signature(BalancedUnits).parameters  # labels are never asked for


def test_what_cannot_be_balanced_is_said(x):
    zoo = zoo_of([4, 6, 3])
    wrong = x.clone()
    wrong[3, 2] = float("nan")
    of = UnitCrossover(3)
    for generator, networks, error, message in (
        (BalancedUnits(of, x, candidates=0), zoo, ValueError, "candidates must be a whole number >= 1"),
        (BalancedUnits(of, x, candidates=1.5), zoo, ValueError, "candidates must be a whole number >= 1"),
        (BalancedUnits("units", x), zoo, TypeError, "of must be a generator, such as .*, got str"),
        (BalancedUnits(UnitCrossover, x), zoo, TypeError, "of must be a generator, such as .*, got type"),
        (
            BalancedUnits(of, [[1.0]]),
            zoo,
            TypeError,
            "inputs must be a dense tensor of floating-point numbers.*got list",
        ),
        (BalancedUnits(of, x.long()), zoo, TypeError, "floating-point numbers.*got torch.int64"),
        (BalancedUnits(of, x.to_sparse()), zoo, TypeError, "dense tensor .* got torch.float32, torch.sparse_coo"),
        (BalancedUnits(of, 1e25 * x), zoo, ValueError, "too large for sums"),
        (BalancedUnits(of, x[:, :3]), zoo, ValueError, r"take 4 numbers an example, got inputs of shape \(12, 3\)"),
        (BalancedUnits(of, x[0]), zoo, ValueError, r"got inputs of shape \(4,\)"),
        (BalancedUnits(of, x[:0]), zoo, ValueError, r"got inputs of shape \(0, 4\)"),
        (BalancedUnits(of, wrong), zoo, ValueError, "NaN or infinite"),
        (BalancedUnits(of, x), zoo.weights, TypeError, "learns from a Zoo"),
        (BalancedUnits(of, x), zoo_of([4, 3]), ValueError, "MLPs with a hidden layer, not in this MLP"),
        (BalancedUnits(of, x), zoo_of([4, 6, 3], members=1), ValueError, "at least 2 fitted members, got 1"),
        (BalancedUnits(UnitCrossover(1), x), zoo, ValueError, "parents must be a whole number >= 2"),
    ):
        with pytest.raises(error, match=message):
            generator.fit(networks)

    class Own(MLP):
        def forward(self, x):
            return -super().forward(x)

    class Few(UnitCrossover):
        def sample(self, n, *, seed):
            return super().sample(1, seed=seed)

    with pytest.raises(ValueError, match="Few made 1 of 6 networks"):
        BalancedUnits(Few(), x).fit(zoo).sample(3, seed=0)
    network = MLP([4, 6, 3])
    torch.nn.utils.parametrizations.weight_norm(network.layers[0])
    for other in (Own([4, 6, 3]), network):
        with pytest.raises(ValueError, match=f"plain MLPs with a hidden layer, not in this {type(other).__name__}"):
            BalancedUnits(of, x).fit(Zoo.from_modules([other, other]))
    network = ResNet((2,), 1)
    resnets = Zoo.from_modules([network, network])
    with pytest.raises(ValueError, match="not in this ResNet"):
        BalancedUnits(of, x).fit(resnets)
    assert len(BalancedUnits(of, x).fit(zoo).sample(2, seed=0)) == 2  # control


def test_precision_is_the_zoo_s(x):
    zoo = zoo_of([4, 6, 3])
    double = Zoo(zoo.weights.double(), zoo.layout, zoo.network)
    of = UnitCrossover(4)
    expected = BalancedUnits(of, x).fit(zoo).sample(4, seed=0).weights
    made = BalancedUnits(of, x).fit(double).sample(4, seed=0).weights
    assert made.dtype == torch.float64
    torch.testing.assert_close(made.float(), expected)
