"""Flow room: paths, sources, coupling, fields, solvers, training. Oracles: torchdiffeq, POT, brute force."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import ot
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torchdiffeq import odeint

from dwflow_lite.flow import (
    SOLVERS,
    ClosedFormField,
    FixedSource,
    FlowSettings,
    GaussianSource,
    StraightPath,
    VelocityField,
    couple,
    dispersion_ratio,
    flow_matching_loss,
    integrate,
    train_flow,
)
from dwflow_lite.flow.field import Dropout, dropout_from, grid_velocities
from dwflow_lite.flow.train import Batches, make_optimizer
from dwflow_lite.flow.watch import Watch


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# -- path, sources, coupling -------------------------------------------------------------------------------------


def test_straight_path_joins_its_ends_at_constant_velocity():
    x0, x1 = torch.randn(5, 3, generator=rng(0)), torch.randn(5, 3, generator=rng(1))
    for t, expected in ((0.0, x0), (1.0, x1), (0.5, (x0 + x1) / 2)):
        x, u = StraightPath().sample(x0, x1, torch.full((5,), t))
        assert torch.allclose(x, expected) and torch.equal(u, x1 - x0)
    assert not torch.allclose(StraightPath().sample(x0, x1, torch.full((5,), 0.4))[0], (x0 + x1) / 2)


def test_path_noise_has_the_stated_size_and_leaves_the_velocity():
    x0 = x1 = torch.zeros(20000, 2)
    x, u = StraightPath(0.3).sample(x0, x1, torch.rand(20000, generator=rng()), rng())
    assert abs(float(x.std()) - 0.3) < 0.01 and torch.equal(u, x0)
    with pytest.raises(ValueError, match="noise"):
        StraightPath(-1)
    with pytest.raises(ValueError, match="shapes do not fit"):
        StraightPath().sample(x0, x1[:3], torch.zeros(3))


def test_gaussian_source_has_the_covariance_asked_for():
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    for scale, covariance in (
        (0.5, 0.25 * torch.eye(2)),
        (torch.tensor([1.0, 3.0]), torch.diag(torch.tensor([1.0, 9.0]))),
        (factor, factor @ factor.T),
    ):
        x = GaussianSource(2, scale, torch.tensor([4.0, -1.0])).sample(50000, rng())
        assert torch.allclose(x.mean(0), torch.tensor([4.0, -1.0]), atol=0.06)
        assert torch.allclose(torch.cov(x.T), covariance, atol=0.15)
    for bad in (0.0, -1.0, float("nan"), torch.ones(3), torch.ones(2, 3)):
        with pytest.raises(ValueError):
            GaussianSource(2, bad)


def test_fixed_source_repeats_in_training_only():
    source = FixedSource(GaussianSource(2), 4, rng())
    known = {tuple(p) for p in source.points.tolist()}
    generator = rng(1)
    assert {tuple(p) for p in source.sample(9, generator, training=True).tolist()} == known
    assert not {tuple(p) for p in source.sample(9, generator).tolist()} & known
    draws = [GaussianSource(2).sample(4, generator, training=True) for _ in range(2)]
    assert not torch.equal(*draws)  # control: the default source is fresh


def test_assignment_coupling_is_optimal_transport():
    x0, x1 = torch.randn(12, 3, generator=rng(0)), torch.randn(12, 3, generator=rng(1))
    _, paired = couple(x0, x1, "assignment")
    assert torch.equal(paired.sort(0).values, x1.sort(0).values)
    cost = (x0 - paired).double().square().sum(-1).mean()
    matrix = torch.cdist(x0.double(), x1.double()).square().numpy()
    assert float(cost) == pytest.approx(ot.emd2([], [], matrix), rel=1e-5)
    assert float((x0 - x1).square().sum(-1).mean()) > float(cost)  # control: as they come costs more
    with pytest.raises(ValueError, match="no coupling"):
        couple(x0, x1, "magic")
    with pytest.raises(ValueError, match="one size"):
        couple(x0, x1[:5], "assignment")


# -- fields ------------------------------------------------------------------------------------------------------


def test_velocity_field_starts_at_rest_and_has_the_papers_size():
    field = VelocityField(99, hidden=64)
    assert torch.equal(field(torch.randn(4, 99), torch.rand(4)), torch.zeros(4, 99))
    inputs = 99 + 64
    sizes = [(1, 64), (64, 64), (inputs, 64), (64, 32), (32, 64), (64, 99)]
    expected = sum(m * n + n for m, n in sizes) + 2 * (64 + 32 + 64)
    assert sum(p.numel() for p in field.parameters()) == expected
    with pytest.raises(ValueError):
        VelocityField(0)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_closed_form_field_is_the_conditional_expectation(noise):
    """Brute force: average x1 - x0 over simulated paths that pass near a point."""
    targets, scale, t = torch.tensor([[1.0], [-2.0]]), 1.5, 0.6
    n = 2_000_000
    generator = rng()
    x0 = scale * torch.randn(n, 1, generator=generator)
    x1 = targets[torch.randint(2, (n,), generator=generator)]
    x, u = StraightPath(noise).sample(x0, x1, torch.full((n,), t), generator)
    for at in (-0.9, -0.2, 0.3):
        near = (x[:, 0] - at).abs() < 0.01
        exact = float(ClosedFormField(targets, scale, noise)(torch.tensor([[at]]), torch.tensor(t)))
        assert exact == pytest.approx(float(u[near].mean()), abs=0.05)


def test_closed_form_flow_returns_its_targets():
    targets = 3 * torch.randn(6, 4, generator=rng())
    start = torch.randn(40, 4, generator=rng(1))
    end = integrate(ClosedFormField(targets), start, steps=200).end
    distance = torch.cdist(end, targets).min(1).values
    assert float(distance.median()) < 0.05
    assert float(torch.cdist(start, targets).min(1).values.median()) > 1  # control
    one = integrate(ClosedFormField(targets[:1]), start, steps=7, solver="euler").end
    assert torch.allclose(one, targets[:1].expand(40, 4), atol=1e-4)


# -- solvers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver, order, calls", [("euler", 1, 1), ("midpoint", 2, 2), ("heun", 2, 2), ("rk4", 4, 4)])
def test_order_of_convergence_and_counted_calls(solver, order, calls):
    x0 = torch.tensor([[1.0, 2.0]], dtype=torch.float64)

    def field(x, t):
        return -2 * x + t

    exact = (x0 + 0.25) * math.exp(-2) + 0.5 - 0.25
    errors = []
    for steps in (20, 40):
        path = integrate(field, x0, steps=steps, solver=solver)
        assert path.calls == calls * steps and path.points.shape == (steps + 1, 1, 2)
        errors.append(float((path.end - exact).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.2)
    assert torch.equal(x0, torch.tensor([[1.0, 2.0]], dtype=torch.float64))


def test_rk4_agrees_with_torchdiffeq():
    matrix = torch.randn(3, 3, generator=rng(), dtype=torch.float64)
    x0 = torch.randn(5, 3, generator=rng(1), dtype=torch.float64)
    ours = integrate(lambda x, t: x @ matrix + t, x0, steps=50, solver="rk4")
    theirs = odeint(lambda t, x: x @ matrix + t, x0, ours.times, method="rk4")  # their 3/8 rule: order 4 too
    assert torch.allclose(ours.points, theirs, atol=1e-6)
    assert not torch.allclose(integrate(lambda x, t: x @ matrix + t, x0, steps=50, solver="euler").end, theirs[-1])


def test_solver_refuses_nonsense_and_divergence():
    x0 = torch.ones(1, 1)
    with pytest.raises(ValueError, match="no solver"):
        integrate(lambda x, t: x, x0, solver="magic")
    with pytest.raises(ValueError, match="steps"):
        integrate(lambda x, t: x, x0, steps=0)
    with pytest.raises(FloatingPointError, match="diverged"):
        integrate(lambda x, t: 1e30 * x * x, x0, steps=5)
    assert integrate(lambda x, t: x, x0, steps=5, keep=False).points.shape == (1, 1, 1)


# -- training ----------------------------------------------------------------------------------------------------


def toy(seed=0, held_out=None, **options):
    torch.manual_seed(3)
    field = VelocityField(2, hidden=64, time_dim=8, dropout=0.0)
    points = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    settings = FlowSettings(**{"steps": 400, "every": 100, "batch_size": 64, "lr": 3e-3} | options)
    return field, points, train_flow(field, points, GaussianSource(2), settings, held_out=held_out, seed=seed)


def test_training_learns_two_points_and_watches_itself():
    field, points, log = toy()
    end = integrate(field, torch.randn(200, 2, generator=rng(5)), steps=20).end
    assert float(torch.cdist(end, points).min(1).values.median()) < 0.5
    assert log.loss[-1] < log.loss[0] and log.steps == [100, 200, 300, 400]
    assert 0.7 < log.dispersion[-1] < 1.3 and log.stopped == "all steps taken"
    assert all(torch.equal(v, field.state_dict()[k]) for k, v in log.last.items())


def test_training_is_seeded_and_leaves_the_global_generator():
    torch.manual_seed(11)
    expected = torch.rand(3)
    states = []
    for seed in (0, 0, 1):
        field, _, log = toy(seed, steps=20)
        states.append(log.last["head.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    field = VelocityField(2)
    torch.manual_seed(11)
    train_flow(field, torch.randn(4, 2, generator=rng()), GaussianSource(2), FlowSettings(steps=5))
    assert torch.equal(torch.rand(3), expected)


def test_held_out_loss_chooses_best_and_stops():
    _, _, log = toy(held_out=torch.tensor([[0.0, 5.0]]), steps=2000, every=50, patience=2)
    assert log.stopped.startswith("held-out") and log.steps[-1] < 2000
    assert log.best_step == log.steps[log.held_out_loss.index(min(log.held_out_loss))]
    assert not torch.equal(log.best["head.weight"], log.last["head.weight"])


def test_training_refuses_what_does_not_fit():
    field, points = VelocityField(2), torch.zeros(3, 2)
    for bad in (torch.zeros(3, 5), torch.full((3, 2), float("nan")), torch.zeros(2)):
        with pytest.raises(ValueError, match="points must be"):
            train_flow(field, bad, GaussianSource(2))
    with pytest.raises(ValueError, match="patience"):
        train_flow(field, points, GaussianSource(2), FlowSettings(patience=3))
    with pytest.raises(ValueError, match="held_out"):
        train_flow(field, points, GaussianSource(2), held_out=torch.zeros(3, 5))
    with pytest.raises(ValueError, match="steps"):
        train_flow(field, points, GaussianSource(2), FlowSettings(steps=0))


def test_dispersion_ratio():
    reference = torch.randn(400, 5, generator=rng()) + 3
    assert dispersion_ratio(reference, reference) == pytest.approx(1)
    assert dispersion_ratio(reference.mean(0).expand(7, 5), reference) < 1e-5
    soups = torch.stack([reference[torch.randperm(400, generator=rng(s))[:16]].mean(0) for s in range(300)])
    assert dispersion_ratio(soups, reference) == pytest.approx(0.25, abs=0.03)


# -- further properties ------------------------------------------------------------------------------------------


def test_closed_form_field_minimises_the_loss():
    """Whatever is added to the exact field, the flow-matching loss grows by its mean square."""
    targets, n, generator = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.0, -2.0]]), 100_000, rng()
    x0, x1 = torch.randn(n, 2, generator=generator), targets[torch.randint(3, (n,), generator=generator)]
    t = torch.rand(n, generator=generator)
    x, u = StraightPath().sample(x0, x1, t)
    exact = torch.cat([ClosedFormField(targets)(a, b) for a, b in zip(x.split(20_000), t.split(20_000), strict=True)])
    lowest = float((exact - u).square().sum(-1).mean())
    for change in (torch.full_like(x, 0.2), 0.2 * x, 0.3 * t[:, None] * x.flip(-1), 0.3 * torch.sin(3 * x)):
        loss = float((exact + change - u).square().sum(-1).mean())
        assert loss - lowest == pytest.approx(float(change.square().sum(-1).mean()), rel=0.25) and loss > lowest
    assert float((x1 - x0 - u).abs().max()) == 0 < lowest  # the paths cross: the minimum is not zero
    for bad in ({"targets": targets[0]}, {"targets": targets, "scale": 0}, {"targets": targets, "noise": -1}):
        with pytest.raises(ValueError, match="targets must be"):
            ClosedFormField(**bad)


def test_one_target_is_reached_in_a_straight_line():
    start, target = torch.randn(5, 3, generator=rng()), torch.tensor([[1.0, -2.0, 3.0]])
    for solver in ("euler", "midpoint"):  # heun and rk4 ask at t = 1 itself, where the exact field jumps
        path = integrate(ClosedFormField(target), start, steps=8, solver=solver)
        line = start + path.times[:, None, None] * (target - start)
        assert torch.allclose(path.points, line, atol=1e-4)
    two = integrate(ClosedFormField(torch.cat([target, -target])), start, steps=8, solver="euler")
    ends = two.end - start
    assert not torch.allclose(two.points, start + two.times[:, None, None] * ends, atol=1e-2)  # control


def test_a_flow_kept_or_not_ends_in_one_place():
    x0 = torch.randn(3, 2, generator=rng())
    before = x0.clone()
    kept, last = (integrate(lambda x, t: torch.sin(x) + t, x0, steps=6, keep=k) for k in (True, False))
    assert torch.equal(kept.points[0], x0) and torch.equal(kept.end, last.end) and torch.equal(x0, before)
    assert kept.times.tolist() == torch.linspace(0, 1, 7).tolist() and last.times.tolist() == [1.0]
    assert not torch.equal(kept.points[0], kept.end) and kept.calls == last.calls == 12


def test_dropout_sleeps_while_a_flow_is_followed():
    field = VelocityField(2, hidden=16, time_dim=8, dropout=0.5).train()
    torch.nn.init.normal_(field.head.weight)
    x0 = torch.randn(4, 2, generator=rng())
    assert torch.equal(integrate(field, x0).end, integrate(field, x0).end) and field.training
    assert not torch.equal(field(x0, torch.tensor(0.5)), field(x0, torch.tensor(0.5)))  # awake outside
    with pytest.raises(RuntimeError):
        integrate(field, torch.zeros(4, 3))
    assert field.training  # also after an error


def test_training_seeds_no_other_device(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(0)
    assert seeded == [0]  # the global function would
    train_flow(VelocityField(2, 16, 8), torch.randn(4, 2), GaussianSource(2), FlowSettings(steps=2))
    assert seeded == [0]


def test_held_out_points_must_be_finite():
    with pytest.raises(ValueError, match="held_out must be finite"):
        train_flow(VelocityField(2), torch.randn(4, 2), GaussianSource(2), held_out=torch.full((2, 2), float("nan")))


def test_the_loss_is_that_of_the_pairs():
    x0, x1, t = (
        torch.randn(6, 3, generator=rng(0)),
        torch.randn(6, 3, generator=rng(1)),
        torch.rand(6, generator=rng(2)),
    )
    right = flow_matching_loss(lambda x, t: x1 - x0, StraightPath(), x0, x1, t)
    still = flow_matching_loss(lambda x, t: torch.zeros_like(x), StraightPath(), x0, x1, t)
    assert float(right) == 0 and float(still) == pytest.approx(float((x1 - x0).square().mean()))
    seen = []
    flow_matching_loss(lambda x, t: seen.append((x, t)) or x, StraightPath(), x0, x1, t)
    torch.testing.assert_close(seen[0][0], torch.lerp(x0, x1, t[:, None]))
    assert torch.equal(seen[0][1], t)


def test_the_luckiest_batch_is_kept_where_asked():
    points = torch.randn(20, 2, generator=rng())
    settings = FlowSettings(steps=40, batch_size=2, every=10)
    logs = [train_flow(VelocityField(2, 16), points, GaussianSource(2), replace(settings, keep=keep))
            for keep in ("lowest", "last")]  # fmt: skip
    assert logs[1].lowest == {}
    lowest, last = logs[0].lowest, logs[0].last
    assert lowest.keys() == last.keys() and any(not torch.equal(lowest[k], last[k]) for k in last)


def test_small_fields_train_on_one_thread_and_give_the_threads_back(monkeypatch):
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        source = GaussianSource(2)
        sample = source.sample
        source.sample = lambda *a, **k: seen.append(torch.get_num_threads()) or sample(*a, **k)
        points = torch.randn(8, 2, generator=rng())
        train_flow(VelocityField(2, 8), points, source, FlowSettings(steps=2))
        assert seen[-1] == 1 and torch.get_num_threads() == 2
        monkeypatch.setattr("dwflow_lite.flow.train.ONE_THREAD_BELOW", 1)  # control: a large field keeps them
        train_flow(VelocityField(2, 8), points, source, FlowSettings(steps=2))
        assert seen[-1] == 2
    finally:
        torch.set_num_threads(before)


def test_grid_velocities_cover_the_square():
    points, velocities = grid_velocities(lambda x, t: x * t, 0.5, -1.0, 1.0, 5)
    assert points.shape == velocities.shape == (25, 2)
    assert float(points.min()) == -1 and float(points.max()) == 1
    torch.testing.assert_close(velocities, points / 2)


class Interrupting(GaussianSource):
    """A source that stops the training at one draw."""

    def sample(self, n, generator, *, training=False):
        if training:
            self.draws = getattr(self, "draws", 0) + 1
            if self.draws == getattr(self, "stop_at", None):
                raise KeyboardInterrupt
        return super().sample(n, generator, training=training)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def test_an_interrupted_flow_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch, device):
    monkeypatch.setattr("dwflow_lite.support.checkpoints.SAVE_EVERY_SECONDS", -1.0)
    points, held_out = (torch.randn(n, 3, generator=rng(s)).to(device) for s, n in enumerate((20, 5)))
    file = tmp_path / "flow.pt"

    def fresh():
        torch.manual_seed(0)
        return VelocityField(3, 16).to(device)

    def train(source, checkpoint=None, **changed):
        settings = replace(FlowSettings(steps=30, batch_size=8, every=7, keep="lowest"), **changed)
        return train_flow(fresh(), points, source, settings, held_out=held_out, checkpoint=checkpoint)

    whole = train(GaussianSource(3))
    stopping = Interrupting(3)
    stopping.stop_at = 18
    with pytest.raises(KeyboardInterrupt):
        train(stopping, checkpoint=file)
    partial = file.with_name("flow.pt.partial")
    assert partial.is_file() and not file.exists()
    with pytest.raises(ValueError, match="another training"):
        train(GaussianSource(3), checkpoint=file, lr=2e-3)
    counting = Interrupting(3)
    resumed = train(counting, checkpoint=file)
    assert counting.draws == 30 - 17 and file.is_file() and not partial.exists()
    assert (resumed.steps, resumed.loss, resumed.held_out_loss) == (whole.steps, whole.loss, whole.held_out_loss)
    for kept in ("last", "best", "lowest"):
        one, other = getattr(whole, kept), getattr(resumed, kept)
        assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    file.unlink()
    stopping.draws = 0
    with pytest.raises(KeyboardInterrupt):
        train(stopping, checkpoint=file)
    partial.write_bytes(partial.read_bytes()[:-40])
    with pytest.raises(ValueError, match="truncated or was altered"):
        train(GaussianSource(3), checkpoint=file)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_finished_flow_is_given_back(tmp_path):
    """A folder keeps a file for each training; what is there is not trained again, and not mixed up."""
    points = torch.randn(20, 3, generator=rng(0))
    settings = FlowSettings(steps=12, batch_size=8, every=4, keep="lowest")

    def train(settings=settings, source=None, seed=0, points=points):
        torch.manual_seed(0)
        field, source = VelocityField(3, 16), source or Interrupting(3)
        log = train_flow(field, points, source, settings, seed=seed, checkpoint=tmp_path / "flows")
        return field, log, getattr(source, "draws", 0)

    field, log, draws = train()
    again, same_log, no_draws = train()
    assert draws == 12 and no_draws == 0 and len(list((tmp_path / "flows").iterdir())) == 1
    assert same(field.state_dict(), again.state_dict()) and not again.training
    assert same_log.loss == log.loss and same_log.steps == log.steps and same(same_log.last, log.last)
    assert train(replace(settings, solver="rk4", solver_steps=3))[2] == 0  # how it is followed comes after training
    others = [
        {"settings": replace(settings, lr=2e-3)},
        {"settings": replace(settings, keep="last")},
        {"seed": 1},
        {"points": points + 1},
        {"source": FixedSource(GaussianSource(3), 20, rng())},  # generates as the first does, but trains otherwise
        {"source": FixedSource(GaussianSource(3), 20, rng(1))},
        {"source": GaussianSource(3, 2.0)},
    ]
    for number, other in enumerate(others, 2):
        train(**other)
        assert len(list((tmp_path / "flows").iterdir())) == number, other
    for left in (tmp_path / "flows").iterdir():
        left.write_bytes(left.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated or was altered"):
        train()


def test_a_place_that_cannot_be_written_is_named_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    source = Interrupting(2)
    with pytest.raises(OSError, match="cannot write"):
        train_flow(VelocityField(2), torch.randn(4, 2), source, checkpoint=tmp_path / "file" / "flow.pt")
    assert not hasattr(source, "draws")


# -- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", "a"), ("steps", 2.5), ("hidden", "x"), ("hidden", 8.0), ("hidden", 1), ("time_dim", 0),
        ("dropout", 1.0), ("dropout", -0.1), ("lr", -1), ("lr", 0), ("lr", float("nan")), ("lr", float("inf")),
        ("final_lr", -1e-6), ("weight_decay", -1), ("weight_decay", None), ("path_noise", -0.1), ("patience", 0),
        ("every", 0), ("batch_size", True), ("solver_steps", 0), ("coupling", "magic"), ("keep", "first"),
        ("solver", "rk5"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(name, value):
    with pytest.raises(ValueError, match=f"flow {name} must be .*, got {value!r}"):
        FlowSettings(**{name: value})
    with pytest.raises(ValueError, match=f"flow {name} must be"):
        replace(FlowSettings(), **{name: value})


def test_settings_are_values():
    settings = FlowSettings(steps=7, lr=2)
    assert settings == FlowSettings(lr=2.0, steps=7) != FlowSettings() and len({settings, replace(settings)}) == 1
    with pytest.raises(FrozenInstanceError):
        settings.steps = 8
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        FlowSettings(width=3)
    written = json.loads(json.dumps(settings.to_json()))
    assert FlowSettings.from_json(written) == settings and list(written) == [f.name for f in fields(FlowSettings)]
    assert FlowSettings.from_json({}) == FlowSettings()
    with pytest.raises(ValueError, match=r"unknown flow settings \['width'\]; there are hidden, "):
        FlowSettings.from_json({"width": 3})
    published = FlowSettings.published()
    assert (published.steps, published.batch_size, published.lr) == (30_000, 8, 5e-4)
    assert (published.path_noise, published.keep) == (0.001, "lowest")
    assert (published.solver, published.solver_steps) == ("rk4", 99)


def test_numbers_of_numpy_become_those_of_python():
    settings = FlowSettings(steps=np.int64(7), lr=np.float32(0.5))
    assert type(settings.steps) is int and type(settings.lr) is float and settings == FlowSettings(steps=7, lr=0.5)
    json.dumps(settings.to_json())


def test_a_dictionary_is_no_settings():
    with pytest.raises(TypeError, match=r"given as FlowSettings\(steps=…, …\), not as dict"):
        train_flow(VelocityField(2), torch.randn(4, 2), GaussianSource(2), {"steps": 2})


@pytest.mark.parametrize("keep", ["last", "best", "lowest"])
def test_the_field_ends_in_the_state_that_is_asked_for(keep):
    field, _, log = toy(held_out=torch.tensor([[0.0, 5.0]]), steps=100, every=10, batch_size=8, keep=keep)
    assert same(field.state_dict(), log.state(keep)) and not field.training
    others = [log.state(other) for other in {"last", "best", "lowest"} - {keep}]
    assert not any(same(field.state_dict(), other) for other in others)  # control: the three are different
    if keep == "best":
        with pytest.raises(ValueError, match="keep='best' goes by the held-out loss"):
            toy(keep=keep)


def test_batches_pass_over_all_points():
    points = torch.arange(10.0)[:, None]
    batches = Batches(points, 4, rng())
    drawn = torch.cat([batches.draw() for _ in range(5)]).flatten()
    for one_pass in drawn.split(10):
        assert torch.equal(one_pass.sort().values, points.flatten())
    kept = batches.state_dict()
    other = Batches(points, 4, rng())
    other.generator.set_state(batches.generator.get_state())
    other.load_state_dict(kept)
    assert torch.equal(torch.cat([batches.draw() for _ in range(3)]), torch.cat([other.draw() for _ in range(3)]))
    assert len(Batches(points, 25, rng()).draw()) == 25  # larger than a pass
    assert not torch.equal(drawn[:10], points.flatten())  # control: in an order of its own


@pytest.mark.parametrize("coupling", [["independent"], np.array(["independent"]), np.array(["a", "b"]), None])
def test_a_choice_is_text(coupling):
    with pytest.raises(ValueError, match="flow coupling must be one of 'independent', 'assignment', got"):
        FlowSettings(coupling=coupling)
    with pytest.raises(ValueError, match="flow lr must be a number >= 0, got 1000"):
        FlowSettings(lr=10**400)
    assert FlowSettings(coupling="assignment").coupling == "assignment"  # control


def test_a_held_out_loss_that_is_never_finite_gives_no_best_state():
    points, far = torch.randn(8, 2), torch.full((2, 2), 1e30)
    settings = FlowSettings(hidden=8, steps=4, every=2)
    for keep, fits in (("last", True), ("best", False)):
        arguments = (VelocityField(2, 8), points, GaussianSource(2), replace(settings, keep=keep))
        if fits:
            train_flow(*arguments, held_out=far)  # control: nobody asks for the best
            continue
        with pytest.raises(FloatingPointError, match="held-out loss, which was never finite"):
            train_flow(*arguments, held_out=far)


def test_a_field_and_its_settings_have_one_default():
    field, settings = VelocityField(3), FlowSettings()
    assert field.head.in_features == settings.hidden and field.time[0].out_features == settings.time_dim
    for sizes in ((2.0, 8), (2, 8.5), (True, 8), (2, 1)):
        with pytest.raises(ValueError, match="whole numbers"):
            VelocityField(*sizes)


def test_all_that_is_wrong_in_settings_is_named_at_once():
    with pytest.raises(ValueError, match=r"out of range: flow steps, flow solver \("):
        FlowSettings(steps=0, solver="rk5")


# -- dropout and devices -----------------------------------------------------------------------------------------


def test_dropout_draws_from_the_generator_it_is_given():
    layer, x = Dropout(0.25), torch.ones(400, 50)

    def masks(seed):
        with dropout_from(layer, rng(seed)):
            return layer(x)

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = masks(0), masks(0), masks(1)
    assert torch.equal(torch.rand(3), expected)  # nobody else's draws change
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(first.mean()) == pytest.approx(1, abs=0.01)  # the mean stays
    reference = torch.nn.functional.dropout(x, 0.25)
    assert float((first == 0).float().mean()) == pytest.approx(float((reference == 0).float().mean()), abs=0.01)
    assert layer.generator is None and torch.equal(layer.eval()(x), x)
    x.requires_grad_()
    layer.train()(x).sum().backward()
    assert set(x.grad.unique().tolist()) == set(first.unique().tolist())


def one_step(field, points, settings):
    """What train_flow does at each step, and what it notes of it."""
    generator, path = rng(), StraightPath(settings.path_noise)
    optimizer, _ = make_optimizer(field, settings)
    watch = Watch(points, points, None, settings)
    x1 = Batches(points, settings.batch_size, generator).draw()
    x0 = GaussianSource(points.shape[1], 0.05).sample(len(x1), generator, training=True).to(x1)
    t = torch.rand(len(x1), generator=generator).to(x1)
    with dropout_from(field.train(), generator):
        loss = flow_matching_loss(field, path, x0, x1, t, generator)
    for parameter in field.parameters():  # backward() would ask the driver of the card, and there is none
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    watch.note_loss(field, loss.detach())
    return loss, watch


def test_a_step_runs_on_the_device_of_the_points():
    """Fake CUDA tensors refuse any mixing of devices, and any question that Python asks of a number on the device."""
    settings = FlowSettings(hidden=16, time_dim=8, batch_size=8, path_noise=0.1, keep="lowest")
    with FakeTensorMode():
        with torch.device("cuda"):
            field, points = VelocityField(3, 16, 8), torch.zeros(20, 3)
        loss, watch = one_step(field, points, settings)
        tensors = [loss, watch.lowest_loss, *watch.log.lowest.values(), *field.parameters()]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}
        for solver in ("euler", "midpoint", "heun", "rk4"):
            step = SOLVERS[solver](field, points, torch.tensor(0.0, device="cuda"), torch.tensor(0.1, device="cuda"))
            assert step.device.type == "cuda" and step.shape == (20, 3)
        with pytest.raises(RuntimeError, match="device"):  # control: points stay behind
            one_step(field, torch.zeros(20, 3), settings)
        field.head.weight = torch.nn.Parameter(torch.zeros(3, 16))  # control: one tensor stays behind
        with pytest.raises(RuntimeError, match="device"):
            SOLVERS["euler"](field, points, torch.tensor(0.0, device="cuda"), torch.tensor(0.1, device="cuda"))


@pytest.mark.parametrize("scale", [torch.ones(3), torch.eye(3)])
def test_sources_draw_on_the_cpu_and_lie_where_their_scale_does(scale):
    source = GaussianSource(3, scale)
    fixed = FixedSource(source, 4, rng())
    assert torch.equal(source.sample(4, rng()), GaussianSource(3).sample(4, rng()))  # one seed, the same numbers
    with FakeTensorMode():
        source.scale, source.mean, fixed.points = (torch.ones(n, device="cuda") for n in (scale.shape, 3, (4, 3)))
        for points in (source.sample(4, rng()), fixed.sample(9, rng()), fixed.sample(9, rng(), training=True)):
            assert points.device.type == "cuda" and points.shape[1] == 3
        source.mean = torch.zeros(3)
        with pytest.raises(RuntimeError, match="device"):  # control: the mean stays behind
            source.sample(4, rng())
