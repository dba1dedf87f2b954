"""The audit's arithmetic, row by row, and the trivial generators by their moments."""

import json
import warnings
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from sklearn.base import clone
from torch import nn

from dwflow_lite import MLP, DeepWeightFlow, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import Audit, Row, codec_ceiling, nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.auditing.stored import stored_audits
from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import (
    NOISE_LADDER,
    TRIVIAL,
    ClosedFormFlow,
    GaussianCodes,
    GaussianWeights,
    MemberNoise,
    RandomWeights,
    Retrieval,
    Soup,
)
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.symmetry import PermutationSpec, basis_of, derive_spec, fix_gauge
from dwflow_lite.symmetry.scales import find_scales
from dwflow_lite.zoo import Layout, evaluate, predict

MEMBERS, HELD = 12, 3


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


@pytest.fixture(scope="module")
def zoo():
    """Random weights do: nothing here asks for good networks."""
    network = MLP([4, 6, 3])
    layout = Layout.of(network)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(MEMBERS + HELD, layout.size, generator=generator)
    for scale, columns in enumerate(layout.slices.values(), 1):
        weights[:, columns] = scale * weights[:, columns] + scale
    return Zoo(weights, layout, network, {"task": {"name": "iris"}}, (False,) * MEMBERS + (True,) * HELD)


# -- trivial generators ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRIVIAL | NOISE_LADDER)
def test_trivial_generators_are_reproducible(zoo, task, name):
    generator, kept = clone((TRIVIAL | NOISE_LADDER)[name]).fit(zoo), zoo.weights.clone()
    state, made = torch.get_rng_state(), generator.sample(5, seed=1)
    assert torch.equal(zoo.weights, kept)  # a baseline that changes the zoo spoils every later one
    assert torch.equal(made.weights, generator.sample(5, seed=1).weights)
    assert not torch.equal(made.weights, generator.sample(5, seed=2).weights)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.record["task"] == zoo.record["task"] and not any(made.held_out)
    assert made.module(4)(task.test.x).shape == (len(task.test), 3)


def test_a_soup_averages_that_many_members(zoo):
    weights = zoo.fitted.weights
    for made in Soup(3).fit(zoo).sample(4, seed=0).weights:
        coefficients = torch.linalg.lstsq(weights.T, made[:, None]).solution.flatten()
        torch.testing.assert_close(coefficients.sort().values, torch.tensor([0.0] * 9 + [1 / 3] * 3), rtol=0, atol=1e-4)
    assert Soup(99).fit(zoo).sample(1, seed=0).record["generated"]["by"] == "soup of 12"


def test_noise_is_in_units_of_each_tensor(zoo):
    weights = zoo.fitted.weights
    for level in (0.1, 0.5):
        made = MemberNoise(level).fit(zoo).sample(800, seed=0).weights
        near = torch.cdist(made, weights).argmin(1)
        assert len(near.unique()) == MEMBERS  # every member is copied
        for columns in zoo.layout.slices.values():
            size = (made - weights[near])[:, columns].std() / weights[:, columns].std()
            assert float(size) == pytest.approx(level, rel=0.06)


def test_random_weights_have_the_moments_of_each_tensor(zoo):
    made, weights = RandomWeights().fit(zoo).sample(2000, seed=0).weights, zoo.fitted.weights
    spreads = []
    for columns in zoo.layout.slices.values():
        spreads.append(float(weights[:, columns].std()))
        assert float(made[:, columns].std()) == pytest.approx(spreads[-1], rel=0.05)
        assert float(made[:, columns].mean()) == pytest.approx(float(weights[:, columns].mean()), abs=0.1 * spreads[-1])
    assert max(spreads) > 2 * min(spreads)  # one scale for all would not have done


def test_gaussian_codes_have_the_spread_of_the_codes(zoo):
    pca = DualPCA().fit(zoo.fitted.weights)
    made = pca.transform(GaussianCodes().fit(zoo).sample(4000, seed=0).weights)
    torch.testing.assert_close(made.std(0), pca.transform(zoo.fitted.weights).std(0), rtol=0.06, atol=0)
    assert float(made.std(0)[0] / made.std(0)[-1]) > 1.5  # not one scale for all
    few = GaussianCodes(2).fit(zoo).sample(5, seed=0).weights - pca.mean_
    assert int(torch.linalg.matrix_rank(few, rtol=1e-4)) == 2


def test_retrieval_and_the_closed_form_return_members(zoo):
    members = {tuple(w) for w in zoo.fitted.weights.tolist()}
    assert {tuple(w) for w in Retrieval().fit(zoo).sample(40, seed=0).weights.tolist()} <= members
    near = nearest_distance(ClosedFormFlow().fit(zoo).sample(40, seed=0).weights, zoo.fitted.weights)
    gaussian = GaussianWeights().fit(zoo).sample(9, seed=0).weights
    assert float(near.max()) < 1e-3 < float(nearest_distance(gaussian, zoo.weights).min())
    assert not {tuple(w) for w in zoo.unseen.weights.tolist()} & members


def test_gaussian_weights_have_the_moments_of_each_weight(zoo):
    made, weights = GaussianWeights().fit(zoo).sample(5000, seed=0).weights, zoo.fitted.weights
    torch.testing.assert_close(made.std(0), weights.std(0), rtol=0.06, atol=0)
    assert float(((made.mean(0) - weights.mean(0)) / weights.std(0)).abs().max()) < 0.06
    assert float(weights.std(0).max() / weights.std(0).min()) > 3  # one scale for all would not have done


def soups(zoo, n, seed=0):
    return Soup().fit(zoo).sample(n, seed=seed)


# -- measures ----------------------------------------------------------------------------------------------------


def test_nearest_distance_is_the_smallest_of_all(zoo):
    a, b = zoo.weights[:5], zoo.weights[5:]
    expected = torch.tensor([min(float((x - y).norm()) for y in b) for x in a])
    torch.testing.assert_close(nearest_distance(a, b), expected)
    assert float(nearest_distance(b, b).max()) == 0
    alone = nearest_distance(b, b, skip_self=True)
    expected = [min(float((x - y).norm()) for j, y in enumerate(b) if j != i) for i, x in enumerate(b)]
    torch.testing.assert_close(alone, torch.tensor(expected))
    for first, second in ((a, b), (a[:1], a[:1])):
        with pytest.raises(ValueError, match="skip_self"):
            nearest_distance(first, second, skip_self=True)


def test_the_rows_hold_what_they_say(zoo, task):
    made = GaussianCodes().fit(zoo).sample(7, seed=3)
    report = audit({"mine": made}, zoo, task, seed=4, split="test")
    assert [r.name for r in report.rows] == ["zoo", "held-out networks", "mine", *TRIVIAL]
    assert [r.networks for r in report.rows] == [MEMBERS, HELD] + [7] * (1 + len(TRIVIAL))
    unit = nearest_distance(zoo.fitted.weights, zoo.fitted.weights, skip_self=True).median()
    kinds = {"zoo": zoo.fitted, "held-out networks": zoo.unseen, "mine": made}
    kinds |= {name: clone(g).fit(zoo).sample(7, seed=4) for name, g in TRIVIAL.items()}
    centre = zoo.fitted.weights.mean(0)
    spread = (zoo.fitted.weights - centre).square().sum(1).mean().sqrt()
    for name, networks in kinds.items():
        row, score = report[name], evaluate(networks, task, "test").score
        assert row.score == pytest.approx(float(score.mean())) and row.score_std == pytest.approx(float(score.std()))
        near = 1 if name == "zoo" else nearest_distance(networks.weights, zoo.fitted.weights).median() / unit
        assert row.nearest == pytest.approx(float(near))
        far = (networks.weights - centre).square().sum(1).mean().sqrt()
        assert row.dispersion == pytest.approx(float(far / spread), rel=1e-4)
    assert report == audit({"mine": made}, zoo, task, seed=4, split="test")
    assert report != audit({"mine": made}, zoo, task, seed=5, split="test")
    assert audit(made, zoo, task, controls={}, split="validation") == audit(made, zoo, task, controls={})
    assert audit(made, zoo, task, controls={}, split="validation")["generated"].score == pytest.approx(
        float(evaluate(made, task, "validation").score.mean())
    )


def test_copies_are_at_zero_and_held_out_networks_are_not(zoo, task):
    report = audit(MemberNoise(0.0).fit(zoo).sample(6, seed=0), zoo, task, controls={})
    assert report["generated"].nearest == 0 and report["zoo"].nearest == pytest.approx(1)
    assert 0.7 < report["held-out networks"].nearest < 1.4
    assert audit(zoo.take([0]), zoo, task, controls={})["generated"].score_std == 0


def test_held_out_members_change_only_their_own_row(zoo, task):
    made, changed = GaussianCodes().fit(zoo).sample(4, seed=0), zoo.weights.clone()
    changed[MEMBERS:] += 3
    other = Zoo(changed, zoo.layout, zoo.network, zoo.record, zoo.held_out)
    before, after = (audit(made, z, task, rematch=False).rows for z in (zoo, other))
    assert [a.name for a, b in zip(before, after, strict=True) if a != b] == ["held-out networks"]


def test_the_table_in_markdown_and_in_print(zoo, task):
    report = audit(soups(zoo, 3), zoo, task, controls={}, split="test")
    lines = report.markdown().splitlines()
    assert lines[0].startswith("| networks | accuracy (test) | nearest member | re-matched | wrong-set overlap |")
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1
    zoo_row = report["zoo"]
    score = f"{100 * zoo_row.score:.1f} ± {100 * zoo_row.score_std:.1f} %"
    assert score.replace(" ", "\N{NO-BREAK SPACE}") in lines[2] and "| 1.00 | 1.00 |" in lines[2]
    assert all(" " not in cell.strip() for line in lines[2:] for cell in line.split("|")[2:-1])  # no number is broken
    assert " " in lines[0] and score in str(report)  # the heading may be, and so it prints
    assert report._repr_markdown_() == report.markdown()
    printed = str(report).splitlines()
    assert len(printed) == 4 and "|" not in str(report) and "---" not in str(report)
    assert len({line.index(cell) for line, cell in zip(printed[1:], ("1.00", f"{report.rows[1].nearest:.2f}"),
                                                       strict=False)}) == 1  # fmt: skip
    with pytest.raises(KeyError, match=r"no row 'nobody'; there are \['zoo'"):
        report["nobody"]


@pytest.mark.parametrize("name", ["zoo", "held-out networks", "soup of 10"])
def test_no_row_takes_the_name_of_another(zoo, task, name):
    made = soups(zoo, 3)
    with pytest.raises(ValueError, match=f"two rows of the audit would be named '{name}'"):
        audit({name: made}, zoo, task)
    assert audit({"my " + name: made}, zoo, task)["my " + name].networks == 3


def test_audits_that_are_refused(zoo, task):
    with pytest.raises(ValueError, match="some generated networks"):
        audit({}, zoo, task)
    halves = Zoo(zoo.weights[[0] * 4 + [1]], zoo.layout, zoo.network)
    with pytest.raises(ValueError, match="exact copies"):
        audit(zoo, halves, task, controls={})
    pair = Zoo(zoo.weights[:2], zoo.layout, zoo.network)
    assert audit(zoo, pair, task, controls={})["zoo"].nearest == pytest.approx(1)


def test_permuted_copies_are_found_out(zoo):
    """A near copy of a member with its units permuted is far by the plain distance, and near once re-matched."""
    spec, weights = PermutationSpec.of(zoo.network), zoo.fitted.weights
    generator = torch.Generator().manual_seed(5)
    permuted = torch.stack([spec.apply(spec.random(generator), w) for w in weights[:5]])
    shaken = permuted + 0.01 * torch.randn(permuted.shape, generator=generator)
    plain, matched = nearest_distance(shaken, weights), rematched_distance(shaken, weights, spec)
    assert float(matched.max()) < 0.1 < 1 < float(plain.min())
    strangers = torch.randn(5, zoo.layout.size, generator=generator)
    far = rematched_distance(strangers, weights, spec)
    assert (far <= nearest_distance(strangers, weights) + 1e-5).all() and float(far.min()) > 1  # control
    own = rematched_distance(weights, weights, spec, skip_self=True)
    assert (own <= nearest_distance(weights, weights, skip_self=True) + 1e-5).all() and float(own.min()) > 0
    assert float(rematched_distance(weights, weights, spec).max()) == 0


def test_wrong_sets_by_hand():
    wrong = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    members = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    torch.testing.assert_close(wrong_set_overlap(wrong, members), torch.tensor([2 / 3, 2 / 3, 0.0]))
    assert wrong_set_overlap(wrong, wrong).tolist() == [1, 1, 1]  # with self every zoo reads one
    torch.testing.assert_close(wrong_set_overlap(wrong, wrong, skip_self=True), torch.tensor([1 / 3, 1 / 3, 0.0]))


def test_accurate_and_new_needs_both(zoo, task):
    """Copies are accurate, noise is new, held-out networks are both; the shares follow the definition."""
    report = audit(Retrieval().fit(zoo).sample(30, seed=0), zoo, task, rematch=False, split="test")
    score, near = evaluate(zoo.fitted, task, "test").score, nearest_distance(*[zoo.fitted.weights] * 2, skip_self=True)
    both = (score >= score.quantile(0.05)) & (near >= near.quantile(0.05))
    assert report["zoo"].accurate_and_new == pytest.approx(float(both.float().mean())) and both.any()
    assert report["generated"].accurate_and_new == 0 and report["generated"].overlap == 1
    assert report["zoo"].rematched is None and "–" in report.markdown()


def test_audits_of_seeds_are_averaged(zoo, task):
    one, two = (audit(soups(zoo, 4, s), zoo, task, controls={}, rematch=False) for s in (0, 1))
    mean = Audit.mean([one, two])
    assert [r.name for r in mean.rows] == [r.name for r in one.rows]
    assert mean["generated"].score == pytest.approx((one["generated"].score + two["generated"].score) / 2)
    assert mean["zoo"] == one["zoo"] and mean["zoo"].rematched is None
    other = audit({"mine": soups(zoo, 4)}, zoo, task, controls={}, rematch=False)
    assert "mine" not in [r.name for r in Audit.mean([one, other]).rows]


def test_the_ceiling_of_a_pca(zoo, task):
    few, all_ = codec_ceiling(zoo, task, (2, MEMBERS - 1))
    assert all_.fitted_share == pytest.approx(1, abs=1e-5) and few.fitted_share < 0.9
    assert all_.fitted_score == pytest.approx(float(evaluate(zoo.fitted, task).score.mean()), abs=0.02)
    assert few.held_out_share < all_.held_out_share < 0.9  # networks that it has not seen are cut down
    with pytest.raises(ValueError, match="no held-out members"):
        codec_ceiling(zoo.fitted, task, (2,))


class Quiet:
    """A generator whose ``fit`` gives nothing back, and whose networks may be no zoo."""

    def __init__(self, as_zoo=True):
        self.as_zoo = as_zoo

    def fit(self, zoo):
        self.zoo = zoo.fitted

    def sample(self, n, *, seed):
        networks = self.zoo.take([0] * n)
        return networks if self.as_zoo else networks.weights


def test_some_rows_of_an_audit_are_an_audit(zoo, task):
    whole = audit({"mine": zoo.take([0, 1])}, zoo, task, controls={}, split="test")
    some = whole.take(["mine", "zoo"])
    assert some.names == ["mine", "zoo"] and some["mine"] is whole["mine"]
    assert (some.bars, some.symmetries, some.split) == (whole.bars, whole.symmetries, whole.split)
    assert whole.take(whole.names) == whole and some != whole  # control
    with pytest.raises(KeyError, match="no row 'yours'"):
        whole.take(["yours"])


def test_stored_audits_are_means_over_seeds(tmp_path):
    def row(name, score):
        return Row(name, 3, score, 0.1, 0.5, None, 0.2, 1.0, 0.0).numbers()

    def run(score):
        return {"seconds": 3.0, "aligned": {"rows": [row("zoo", score)], "ceiling": []}}

    path = tmp_path / "stored.json"
    path.write_text(json.dumps({"command": "x", "by seed": {"0": run(0.5), "1": run(0.7)}}))
    found = stored_audits(path, split="test")
    assert list(found) == ["aligned"] and found["aligned"].split == "test"
    assert found["aligned"]["zoo"].score == pytest.approx(0.6)
    for content in ({}, {"by seed": {}}, {"by seed": {"0": {"seconds": 3.0}}}):  # control
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="holds no audits by seed"):
            stored_audits(path, split="test")


def test_controls_that_cannot_be_meant_are_refused(zoo, task):
    def names(controls, against=zoo):
        return audit(zoo.unseen, against, task, controls=controls, rematch=False).names

    for controls in ([Soup()], Soup(), "soup"):
        with pytest.raises(TypeError, match=r"controls are generators by name, such as .*, not "):
            names(controls)
    with pytest.raises(TypeError, match=r"control 'quiet': sample\(n, seed=…\) must give a Zoo, not Tensor"):
        names({"quiet": Quiet(as_zoo=False)})
    with pytest.raises(TypeError, match=r"audited against a Zoo, such as model\.zoo_, not against Soup"):
        names({}, against=Soup())
    with pytest.raises(ValueError, match="has no member that a generator may be fitted on: all are held out"):
        names({}, against=zoo.unseen)
    assert names({"quiet": Quiet(), "soup": Soup()})[-2:] == ["quiet", "soup"]  # control


# -- copies that do not look it ----------------------------------------------------------------------------------


def scaled_copies(zoo, kind, seed=0, wrong=False):
    """The same functions with other scales or signs of units; ``wrong``: what reads them is not scaled back."""
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in zoo.layout.unflatten(zoo.weights).items()}

    def factors(units):
        draws = torch.rand(len(zoo), units, generator=generator)
        return torch.where(draws < 0.5, -1.0, 1.0) if kind == "tanh" else torch.exp(4 * draws - 2)

    def scale(name, c, axis):
        if name in state:
            shape = [len(zoo), *[1] * (state[name].ndim - 1)]
            shape[axis + 1] = c.shape[1]
            state[name] = state[name] * c.view(shape)

    for weight, bias, after in UNITS[kind]:  # a unit behind a ReLU or tanh
        c = factors(state[weight].shape[1])
        scale(weight, c, 0), scale(bias, c, 0)
        if not wrong:
            scale(after, 1 / c, 1)
    for norm, before in NORMS.get(kind, []):  # a filter before BatchNorm
        c = factors(state[f"{norm}.weight"].shape[1])
        for name, power in ((f"{before}.weight", 1), (f"{before}.bias", 1), (f"{norm}.running_mean", 1)):
            scale(name, c**power, 0)
        state[f"{norm}.weight"] = state[f"{norm}.weight"] / (1 if wrong else c)
    return Zoo(zoo.layout.flatten(state), zoo.layout, zoo.network)


# What scales units: weight and bias into them, weight out of them.
UNITS = {
    "mlp": [("layers.0.weight", "layers.0.bias", "layers.1.weight")],
    "tanh": [("layers.0.weight", "layers.0.bias", "layers.1.weight")],
    "sequential": [("1.weight", "1.bias", "3.weight")],
    "resnet": [("stages.0.0.norm1.weight", "stages.0.0.norm1.bias", "stages.0.0.conv2.weight")],
}
NORMS = {"resnet": [("stem_norm", "stem"), ("stages.0.0.norm2", "stages.0.0.conv2")], "sequential": [("1", "0")]}
KINDS = {
    "mlp": (lambda: MLP([4, 6, 5, 3]), ("permutation", "scale")),
    "tanh": (lambda: MLP([4, 6, 3], "tanh"), ("permutation", "sign")),
    "sequential": (lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
                   ("permutation", "BatchNorm", "scale")),
    "resnet": (lambda: ResNet((4, 6), 1, channels=1), ("permutation", "BatchNorm", "scale")),
}  # fmt: skip


def random_zoo(network, members=6, seed=0):
    layout = Layout.of(network)
    weights = torch.randn(members, layout.size, generator=torch.Generator().manual_seed(seed)) / 2
    for name, columns in layout.slices.items():
        if name.endswith("running_var"):
            weights[:, columns] = weights[:, columns].exp()
    return Zoo(weights, layout, network)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_with_other_scales_and_units_in_another_order_is_a_copy(task, kind):
    network, symmetries = KINDS[kind][0](), KINDS[kind][1]
    if kind == "resnet":
        task = load_task("digits")
    zoo, x = random_zoo(network), task.validation.x
    spec = PermutationSpec.of(network) if kind != "sequential" else derive_spec(network, x)
    generator = torch.Generator().manual_seed(7)
    scaled = scaled_copies(zoo, kind)
    moved = torch.stack([spec.apply(spec.random(generator), row) for row in scaled.weights])
    kinds = {"scaled": scaled, "scaled and moved": Zoo(moved, zoo.layout, network)}
    for copies in kinds.values():
        torch.testing.assert_close(predict(copies, x), predict(zoo, x), rtol=1e-3, atol=1e-3)
    kinds |= {"strangers": random_zoo(network, 6, seed=1), "wrong": scaled_copies(zoo, kind, wrong=True)}
    found = audit(kinds, zoo, task, controls={})
    assert found.symmetries == symmetries and ", ".join(symmetries) in found.markdown()
    for name in ("scaled", "scaled and moved"):
        assert found[name].rematched < 0.01 and found[name].accurate_and_new == 0 and found[name].nearest > 0.1
    for name in ("strangers", "wrong"):  # controls
        assert found[name].rematched > 0.1
    plain = audit(kinds, zoo, task, controls={}, gauge=False)  # control: not told to look, it is fooled
    assert plain.symmetries == ("permutation",) and plain["scaled"].rematched > 0.1
    assert [row.nearest for row in plain.rows] == [row.nearest for row in found.rows]
    assert audit(kinds, zoo, task, controls={}, rematch=False).symmetries == ()


def test_a_vit_in_other_bases_of_its_circuits_is_a_copy():
    task, network = load_task("digits"), ViT(image=8, patch=4, dim=12, depth=1, heads=3, hidden=10, channels=1)
    zoo = random_zoo(network, 5)
    state = {name: tensor.clone().double() for name, tensor in zoo.layout.unflatten(zoo.weights).items()}
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2 * torch.eye(4)
    for layer, by in (("query", mix), ("key", mix.inverse().T)):
        for part in ("weight", "bias"):
            name = f"blocks.0.{layer}.{part}"
            heads = state[name].reshape(5, 3, 4, -1)
            state[name] = (by @ heads).reshape_as(state[name])
    state["blocks.0.norm2.weight"] *= 3.0
    state["blocks.0.up.weight"] /= 3.0
    state["blocks.0.up.bias"] += 0
    state["blocks.0.norm2.bias"] *= 3.0
    copies = Zoo(zoo.layout.flatten(state).float(), zoo.layout, network)
    torch.testing.assert_close(predict(copies, task.test.x), predict(zoo, task.test.x), rtol=1e-2, atol=1e-2)
    kinds = {"copies": copies, "strangers": random_zoo(network, 5, seed=1),
             "noise": MemberNoise(0.02).fit(zoo).sample(5, seed=0)}  # fmt: skip
    found = audit(kinds, zoo, task, controls={})
    assert found.symmetries[-1] == "attention circuits" and found["copies"].rematched < 0.01
    assert found["noise"].rematched < 0.1 and found["strangers"].rematched > 0.5  # seen as they stand; control
    assert audit(kinds, zoo, task, controls={}, gauge=False)["copies"].rematched > 0.1  # control


@pytest.mark.parametrize(("activation", "seen"), [(nn.GELU, ()), (nn.ReLU6, ()), (nn.LeakyReLU, ("scale",)),
                                                  (nn.Softsign, ("sign",)), (nn.Softplus, ())])  # fmt: skip
def test_scales_are_found_by_a_try_and_not_by_names(task, activation, seen):
    network = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3))
    assert find_scales(network, derive_spec(network, task.validation.x), task.validation.x).names == seen


def test_a_network_of_which_nothing_is_known_is_audited_as_it_stands(task):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.last(torch.linalg.qr(self.first(x).T @ self.first(x))[0][0].expand(len(x), -1))

    zoo = random_zoo(Own())
    found = audit(zoo.take([0, 1]), zoo, task, controls={})
    assert found.symmetries == () and found["zoo"].rematched is None and found["generated"].nearest == 0


# -- one basis ---------------------------------------------------------------------------------------------------


def test_bases_that_differ_in_fact_are_refused(task):
    zoo = random_zoo(MLP([4, 6, 3]))
    first, second = (canonicalise(zoo, reference=zoo.weights[member]) for member in (0, 1))
    labels = [{k: v for k, v in z.record["stages"][0].items() if k in ("method", "reference")} for z in (first, second)]
    assert labels[0] == labels[1]  # in name they agree
    for rematch in (False, True):
        with pytest.raises(ValueError, match=r"another basis .*the references differ.*: audit against model\.zoo_"):
            audit(second, first, task, controls={}, rematch=rematch)
    known = PermutationSpec.of(zoo.network)
    fixed = PermutationSpec(zoo.layout, {name: (None,) * len(axes) for name, axes in known.axes.items()})
    for other, difference in (
        (canonicalise(zoo, fixed, reference=zoo.weights[0]), "the specs of what moves together differ"),
        (fix_gauge(first), "balance relu"),
        (canonicalise(zoo, reference=zoo.weights[0], seed=1), "the seeds"),
    ):
        with pytest.raises(ValueError, match=difference):
            audit(other, first, task, controls={})
    for same in (canonicalise(zoo), first.take([1, 2]), Zoo(first.weights, zoo.layout, zoo.network)):  # controls
        assert audit(same, first, task, controls={}, rematch=False)["generated"].nearest == 0
    generated = DeepWeightFlow(flow=FlowSettings(hidden=8, steps=4), align=None).fit(first).sample(3, seed=0)
    for networks in (generated, Soup(3).fit(first).sample(3, seed=0)):
        assert basis_of(networks) == basis_of(first)
        with pytest.raises(ValueError, match="another basis"):
            audit(networks, second, task, controls={})


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_a_basis_outlives_its_file(tmp_path, task, storage):
    zoo = random_zoo(MLP([4, 6, 3]))
    aligned = canonicalise(zoo, rounds=3)
    for place in (tmp_path / "zoo.safetensors", tmp_path / "zoo"):
        again = Zoo.load(aligned.save(place, storage), zoo.network).in_memory()
        assert basis_of(again) == basis_of(aligned)
        assert audit(again.take([0]), aligned, task, controls={}, rematch=False)["generated"].nearest < 0.05
    assert basis_of(canonicalise(zoo, rounds=0)) != basis_of(aligned)  # control


def test_a_record_of_an_older_version_is_of_no_known_basis(task):
    aligned = canonicalise(random_zoo(MLP([4, 6, 3])))
    stage = {k: v for k, v in aligned.record["stages"][0].items() if k != "basis"}
    old = replace(aligned, record=dict(aligned.record) | {"stages": [stage]})
    with pytest.raises(ValueError, match=r"another basis .*older version"):
        audit(aligned, old, task, controls={})
    model = replace(aligned, record={"basis": [["weight matching", 0, 0, 0, 0, 0]]})  # as its generator kept it
    assert audit(model, old, task, controls={}, rematch=False)["generated"].nearest == 0  # names agree
    given = replace(old, record={"stages": [stage | {"reference": "given weights"}]})
    with pytest.raises(ValueError, match="older version does not say"):
        audit(given, given, task, controls={})


# -- whatever numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_zoos_of_every_precision_are_audited(zoo, task, dtype):
    weights = (4 * zoo.weights).round()  # whole numbers, which all of them hold
    expected = audit(Zoo(weights[:3], zoo.layout, zoo.network), replace(zoo, weights=weights), task)
    network = deepcopy(zoo.network).to(dtype)
    other = Zoo(weights.to(dtype), Layout.of(network), network, zoo.record, zoo.held_out)
    found = audit(other.take([0, 1, 2]), other, task)
    assert found.names == expected.names and zoo.weights.dtype == torch.float32
    for name in ("zoo", "generated", "retrieval"):
        assert found[name].nearest == pytest.approx(expected[name].nearest, abs=1e-5)
        assert found[name].rematched == pytest.approx(expected[name].rematched, abs=1e-5)
        assert found[name].score == pytest.approx(expected[name].score)


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e36])
@pytest.mark.filterwarnings("ignore:.* have no finite loss")
def test_distances_do_not_depend_on_the_size_of_weights(zoo, task, size):
    spec = PermutationSpec.of(zoo.network)
    plain = nearest_distance(zoo.weights[:4], zoo.weights[4:])
    torch.testing.assert_close(nearest_distance(size * zoo.weights[:4], size * zoo.weights[4:]) / size, plain.double(),
                               rtol=1e-4, atol=0)  # fmt: skip
    matched = rematched_distance(zoo.weights[:4], zoo.weights[4:], spec)
    found = rematched_distance(size * zoo.weights[:4], size * zoo.weights[4:], spec) / size
    torch.testing.assert_close(found, matched.double(), rtol=1e-4, atol=0)
    assert float(matched.min()) > 0.1
    table = audit(replace(zoo, weights=size * zoo.weights).take([0]), replace(zoo, weights=size * zoo.weights), task)
    assert table["generated"].nearest == 0 and table["zoo"].nearest == pytest.approx(1)
    assert table["zoo + noise"].nearest > 0.01


def test_networks_that_return_no_numbers_are_said(zoo, task):
    weights = zoo.weights[:3].clone()
    weights[1] = 3e38
    says = r"1 of 3 networks of 'generated' have no finite loss \(positions \[1\]\)"
    with pytest.warns(RuntimeWarning, match=says) as told:
        audit(Zoo(weights, zoo.layout, zoo.network), zoo, task, controls={})
    assert told[0].filename == __file__  # the line that asked for the audit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(zoo.take([0]), zoo, task, controls={})  # control


def test_a_soup_is_named_by_what_it_is_made_of(zoo, task):
    few = zoo.take([0, 1, 2, 3, 4, 5])
    assert "soup of 6" in audit(few.take([0]), few, task, rematch=False).names
    assert "soup of 10" in audit(few.take([0]), zoo, task, rematch=False).names  # control


def test_what_is_no_task_no_split_or_no_name_is_said(zoo, task):
    for wrong in ("iris", None, zoo):
        with pytest.raises(TypeError, match="a task is made by load_task"):
            audit(zoo.unseen, zoo, wrong, controls={})
        with pytest.raises(TypeError, match="a task is made by load_task"):
            train_zoo(wrong, MLP([4, 6, 3]), members=2)
    with pytest.raises(ValueError, match="no split 'tset'"):
        audit(zoo.unseen, zoo, task, controls={}, split="tset")
    with pytest.raises(TypeError, match="named by a text, not by 3"):
        audit({3: zoo.unseen}, zoo, task, controls={})
    other = random_zoo(MLP([4, 5, 3]))

    class Elsewhere(Quiet):
        def sample(self, n, *, seed):
            return other

    with pytest.raises(ValueError, match="'mine' has another architecture"):
        audit(zoo.unseen, zoo, task, controls={"mine": Elsewhere()})


def test_audits_of_other_symmetries_are_not_averaged(zoo, task):
    one, two = (audit(zoo.unseen, zoo, task, controls={}, gauge=gauge) for gauge in (True, False))
    assert Audit.mean([one, one]).symmetries == one.symmetries and isinstance(
        Audit.mean([one, one])["zoo"].networks, int
    )
    for audits in ([one, two], []):
        with pytest.raises(ValueError, match="audits"):
            Audit.mean(audits)


def test_a_permuted_copy_that_one_start_does_not_find_is_found():
    """Streams are tied: from one start a copy of a narrow residual network is missed now and then."""
    network = ResNet((4, 8, 16), 1, channels=1)
    zoo, spec, generator = random_zoo(network, 6), PermutationSpec.of(network), torch.Generator().manual_seed(0)
    copies = torch.stack([spec.apply(spec.random(generator), row) for row in zoo.weights.repeat(4, 1)])
    assert float(rematched_distance(copies, zoo.weights, spec).max()) < 1e-3
    strangers = random_zoo(network, 6, seed=1).weights
    assert float(rematched_distance(strangers, zoo.weights, spec).min()) > 1  # control


def test_switches_specs_and_components_that_are_none_are_said(zoo, task):
    for options, kind, message in (
        ({"gauge": "no"}, ValueError, "gauge must be True or False, got 'no'"),
        ({"rematch": None}, ValueError, "rematch must be True or False"),
        ({"spec": "mlp"}, TypeError, "spec must be a PermutationSpec"),
        ({"spec": PermutationSpec.of(MLP([4, 5, 3]))}, ValueError, "another layout than the zoo's"),
    ):
        with pytest.raises(kind, match=message):
            audit(zoo.unseen, zoo, task, controls={}, **options)
    with pytest.raises(TypeError, match="components are several"):
        codec_ceiling(zoo, task, 3)
    with pytest.raises(TypeError, match="a task is made by"):
        codec_ceiling(zoo, "iris", (2,))
    assert codec_ceiling(replace(zoo, weights=zoo.weights.half()), task, (2,))[0].fitted_share > 0.1  # control


def test_a_control_that_aligns_an_aligned_zoo_anew_stays_in_its_basis(zoo, task):
    aligned, flow = canonicalise(zoo), DeepWeightFlow(flow=FlowSettings(hidden=8, steps=4))
    assert basis_of(canonicalise(aligned)) == basis_of(aligned)
    assert "flow" in audit(aligned.unseen, aligned, task, controls={"flow": flow}, rematch=False).names
    with pytest.raises(ValueError, match="'flow' is in another basis"):  # control: this zoo is not aligned
        audit(zoo.unseen, replace(zoo, record={"recipe": {}}), task, controls={"flow": flow}, rematch=False)


def test_a_generated_zoo_in_the_place_of_the_trained_one_is_refused(zoo, task):
    generated = GaussianWeights().fit(zoo).sample(4, seed=0)
    with pytest.raises(ValueError, match=r"the zoo was generated: audit\(generated, zoo, task\) is the order"):
        audit(zoo, generated, task, controls={}, rematch=False)
    assert audit(
        generated, zoo, task, controls={}, rematch=False
    ).names  # controls: the right order, and a second round
    second = GaussianWeights().fit(generated).sample(4, seed=0)
    assert audit(second, generated, task, controls={}, rematch=False).names
