"""The whole pipeline as one estimator, and the audit beside it."""

import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.overrides import TorchFunctionMode

from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, audit, load_task, train_zoo
from dwflow_lite.auditing import nearest_distance
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import (
    FORMAT,
    NOISE_LADDER,
    TRIVIAL,
    AffineMixture,
    BalancedUnits,
    ClosedFormFlow,
    ConditionalDeepWeightFlow,
    ConditionalGaussian,
    ConditionalRetrieval,
    DropoutMasks,
    GaussianCodes,
    GaussianWeights,
    Generator,
    LeadingFlow,
    MemberNoise,
    OwnCodesFlow,
    PairInterpolation,
    RandomWeights,
    Retrieval,
    Soup,
    UnitCrossover,
    fit_together,
)
from dwflow_lite.networks import ViT, initialise
from dwflow_lite.support.files import ZooFileError, read_safetensors, write_safetensors
from dwflow_lite.symmetry import PermutationSpec, canonicalise
from dwflow_lite.zoo import Layout, Shards, predict

QUICK = FlowSettings(hidden=32, steps=60, every=30)


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


@pytest.fixture(scope="module")
def zoo(task):
    return train_zoo(task, MLP([4, 6, 3]), members=12, held_out=4, recipe=Recipe(epochs=15, batch_size=16))


@pytest.fixture(scope="module")
def model(zoo):
    return DeepWeightFlow(flow=QUICK).fit(zoo)


def test_samples_are_reproducible_networks(model, zoo, task):
    kept = zoo.weights.clone()
    made = model.sample(5, seed=1)
    assert torch.equal(made.weights, model.sample(5, seed=1).weights)
    assert not torch.equal(made.weights, model.sample(5, seed=2).weights)
    assert torch.equal(zoo.weights, kept)
    x = task.validation.x
    module = made.module(3)
    assert isinstance(module, MLP)
    assert torch.allclose(module(x), predict(made, x)[3], atol=1e-5)
    end = model.trajectory(5, seed=1).end
    assert torch.equal(model.decode(end).weights, made.weights)
    assert "generated" in made.record and "scores" not in made.record


def test_two_fits_agree_and_another_seed_does_not(zoo, model):
    again = DeepWeightFlow(flow=QUICK).fit(zoo)
    other = DeepWeightFlow(flow=QUICK, seed=5).fit(zoo)
    assert torch.equal(again.sample(3, seed=1).weights, model.sample(3, seed=1).weights)
    assert not torch.equal(other.sample(3, seed=1).weights, model.sample(3, seed=1).weights)


def test_held_out_members_do_not_reach_the_generator(zoo, model):
    changed = zoo.weights.clone()
    changed[12:] += 5
    other = DeepWeightFlow(flow=QUICK).fit(Zoo(changed, zoo.layout, zoo.network, zoo.record, zoo.held_out))
    assert torch.equal(other.sample(3, seed=1).weights, model.sample(3, seed=1).weights)
    changed[3] += 5  # control: a fitted member does
    other = DeepWeightFlow(flow=QUICK).fit(Zoo(changed, zoo.layout, zoo.network, zoo.record, zoo.held_out))
    assert not torch.equal(other.sample(3, seed=1).weights, model.sample(3, seed=1).weights)


@pytest.mark.parametrize("source", [0.05, "matched", "kaiming"])
def test_save_and_load_give_the_same_networks(tmp_path, zoo, source):
    model = DeepWeightFlow(source=source, flow=QUICK, components=5).fit(zoo)
    path = model.save(tmp_path / "model.safetensors")
    again = DeepWeightFlow.load(path)
    assert torch.equal(again.sample(4, seed=1).weights, model.sample(4, seed=1).weights)
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    (tmp_path / "altered.safetensors").write_bytes(data)
    (tmp_path / "short.safetensors").write_bytes(data[:-300])
    with pytest.raises(ZooFileError, match="altered"):
        DeepWeightFlow.load(tmp_path / "altered.safetensors")
    with pytest.raises(ZooFileError, match="truncated"):
        DeepWeightFlow.load(tmp_path / "short.safetensors")
    with pytest.raises(ZooFileError, match="does not fit"):
        DeepWeightFlow.load(path, MLP([4, 7, 3]))
    with pytest.raises(ZooFileError, match="format"):
        DeepWeightFlow.load(zoo.save(tmp_path / "zoo.safetensors"))


def test_kaiming_source_is_fresh_networks_seen_through_the_pca(zoo):
    model = DeepWeightFlow(source="kaiming", flow=QUICK, align=None).fit(zoo)
    generator = torch.Generator().manual_seed(0)
    points = model.source_.sample(4000, generator)
    rows = []
    for _ in range(4000):
        state = zoo.layout.unflatten(model.pca_.mean_.clone())
        for name, tensor in state.items():
            if tensor.ndim == 2:
                state[name] = torch.randn(tensor.shape, generator=generator) * (2 / tensor.shape[1]) ** 0.5
        rows.append(zoo.layout.flatten(state))
    codes = model.pca_.transform(torch.stack(rows)) / model.scale_
    assert torch.allclose(points.mean(0), codes.mean(0), atol=0.15)
    assert torch.allclose(torch.cov(points.T), torch.cov(codes.T), atol=0.25)
    assert initialise(zoo.network, "kaiming", 0)["layers.0.weight"].std() < 1


def test_paper_style_fixed_noise_and_best_state_run(zoo):
    made = DeepWeightFlow(fixed_source=True, flow=replace(QUICK, keep="best", patience=1, path_noise=1e-3)).fit(zoo)
    assert made.sample(2, seed=0).weights.isfinite().all()


def test_bad_input_is_named(zoo, model):
    for options, message in (
        ({"source": 0.0}, "source must be"),
        ({"source": "magic"}, "source must be"),
        ({"source": float("nan")}, "source must be"),
        ({"align": "none"}, "align must be True, False, None or a PermutationSpec"),
    ):
        with pytest.raises(ValueError, match=message):
            DeepWeightFlow(**options).fit(zoo)
    for flow in ({"width": 3}, {"steps": 3}, FlowSettings):
        with pytest.raises(TypeError, match=r"given as FlowSettings\(steps=…, …\), not as"):
            DeepWeightFlow(flow=flow).fit(zoo)
    with pytest.raises(NotFittedError, match="not fitted"):
        DeepWeightFlow().sample(1, seed=0)
    with pytest.raises(ValueError, match="N-1 = 11"):
        DeepWeightFlow(components=12, flow=QUICK).fit(zoo)
    with pytest.raises(ValueError, match="at least two members"):
        DeepWeightFlow(flow=QUICK).fit(zoo.take([0]))
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match="whole number"):
            model.sample(n, seed=0)


def test_a_readers_own_network_goes_without_alignment(task):
    network = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3))
    zoo = train_zoo(task, network, members=5, recipe=Recipe(epochs=2))
    with pytest.raises(ValueError, match="align=None"):
        DeepWeightFlow(flow=QUICK).fit(zoo)
    made = DeepWeightFlow(align=None, flow=QUICK).fit(zoo).sample(2, seed=0)
    assert made.module(0)(task.test.x).shape == (len(task.test), 3)


def test_a_regression_task_goes_all_the_way():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    task = Task.from_arrays(x, x.sum(1), kind="regression")
    zoo = train_zoo(task, MLP([3, 8, 1]), members=6, held_out=2, recipe=Recipe(epochs=20, lr=1e-2))
    model = DeepWeightFlow(flow=QUICK).fit(zoo)
    report = audit(model.sample(4, seed=0), model.zoo_, task, split="test")
    assert report["zoo"].score > 0.5 and report.score_name == "R²" and "R²" in str(report)


# -- the audit ---------------------------------------------------------------------------------------------------


def made(name, zoo, n, seed):
    return clone(TRIVIAL[name]).fit(zoo).sample(n, seed=seed)


@pytest.mark.parametrize("name", TRIVIAL)
def test_trivial_generators_leave_the_zoo_and_never_see_held_out_members(zoo, name):
    kept = zoo.weights.clone()
    first = made(name, zoo, 6, 3).weights
    assert torch.equal(zoo.weights, kept) and first.shape == (6, zoo.layout.size)
    changed = kept.clone()
    changed[12:] = 99
    other = Zoo(changed, zoo.layout, zoo.network, zoo.record, zoo.held_out)
    assert torch.equal(made(name, other, 6, 3).weights, first)
    assert not torch.equal(made(name, zoo, 6, 4).weights, first)


def test_trivial_generators_are_what_they_say(zoo):
    weights = zoo.fitted.weights
    assert torch.allclose(Soup(12).fit(zoo).sample(2, seed=0).weights, weights.mean(0).expand(2, -1), atol=1e-5)
    for point in PairInterpolation().fit(zoo).sample(5, seed=0).weights:
        to = (weights - point).norm(dim=1)
        best = min(to[i] + to[j] - (weights[i] - weights[j]).norm() for i in range(12) for j in range(i))
        assert float(best) < 1e-4
    assert float(nearest_distance(MemberNoise(0.0).fit(zoo).sample(4, seed=0).weights, weights).max()) == 0
    with pytest.raises(ValueError, match="at least 2"):
        Soup().fit(zoo.take([0]))


def test_audit_tells_copies_from_new_networks(zoo, task):
    copies, strangers = zoo.fitted, zoo.unseen
    report = audit({"copies": copies, "strangers": strangers}, zoo, task, controls={}, split="test")
    assert report["copies"].nearest == 0 and report["zoo"].nearest == pytest.approx(1, rel=1e-5)
    assert report["strangers"].nearest == report["held-out networks"].nearest > 0.5
    assert report["copies"].score == report["zoo"].score and report["zoo"].dispersion == pytest.approx(1)
    assert [r.name for r in report.rows] == ["zoo", "held-out networks", "copies", "strangers"]
    assert report.markdown().count("\n") == 5 and "copies" in str(report)
    with pytest.raises(KeyError, match="no row"):
        report["nobody"]


def test_audit_refuses_what_it_cannot_compare(zoo, task):
    other = train_zoo(task, MLP([4, 5, 3]), members=2, recipe=Recipe(epochs=1))
    with pytest.raises(ValueError, match="another architecture"):
        audit(other, zoo, task)
    same = Zoo(zoo.weights[:1].repeat(5, 1), zoo.layout, zoo.network)
    with pytest.raises(ValueError, match="exact copies"):
        audit(zoo, same, task, controls={})
    with pytest.raises(ValueError, match="two fitted"):
        audit(zoo, zoo.take([0]), task)


# -- further properties ------------------------------------------------------------------------------------------


def test_a_generator_of_one_activation_is_not_loaded_as_another(tmp_path, model):
    path = model.save(tmp_path / "model.safetensors")
    x = torch.randn(3, 4)
    again = DeepWeightFlow.load(path, MLP([4, 6, 3])).sample(2, seed=0)
    assert torch.equal(predict(again, x), predict(model.sample(2, seed=0), x))
    with pytest.raises(ZooFileError, match=r"relu.* networks, not .*tanh"):
        DeepWeightFlow.load(path, MLP([4, 6, 3], "tanh"))


def test_a_file_reshaped_or_without_its_hash_is_refused(tmp_path, model):
    path = model.save(tmp_path / "model.safetensors")
    tensors, metadata = read_safetensors(path, FORMAT)
    write_safetensors(tensors, path, metadata)
    assert DeepWeightFlow.load(path).scale_ == model.scale_  # written again unchanged it loads
    turned = tensors["pca.rows"].T.shape
    write_safetensors(tensors | {"pca.rows": tensors["pca.rows"].reshape(turned)}, path, metadata)
    with pytest.raises(ZooFileError, match="altered"):
        DeepWeightFlow.load(path)
    for missing in ("sha256", "record"):
        write_safetensors(tensors, path, {k: v for k, v in metadata.items() if k != missing})
        with pytest.raises(ZooFileError, match="altered"):
            DeepWeightFlow.load(path)


def test_solver_settings_are_checked_before_training_and_heeded(model):
    with pytest.raises(ValueError, match=r"solver must be one of .* got 'rk5'"):
        DeepWeightFlow(flow=FlowSettings(solver="rk5"))
    with pytest.raises(ValueError, match="no solver"):
        model.trajectory(1, seed=0, solver="")
    with pytest.raises(ValueError, match="steps"):
        model.trajectory(1, seed=0, steps=0)
    assert model.trajectory(1, seed=0).calls == 2 * 20
    assert model.trajectory(1, seed=0, steps=3, solver="rk4").calls == 4 * 3


def test_a_trajectory_runs_from_the_source_to_the_sample(model):
    path = model.trajectory(4, seed=3)
    start = model.source_.sample(4, torch.Generator().manual_seed(3))
    assert torch.equal(path.points[0], start) and not torch.equal(path.end, start)
    assert torch.equal(model.decode(path.end).weights, model.sample(4, seed=3).weights)


def test_codes_have_unit_size_and_sources_the_spread_asked_for(zoo):
    fitted = {s: DeepWeightFlow(source=s, flow=QUICK, align=None).fit(zoo) for s in (0.2, "matched")}
    codes = fitted["matched"].pca_.transform(zoo.fitted.weights) / fitted["matched"].scale_
    assert float(codes.square().mean()) == pytest.approx(1, rel=1e-5)
    spread = {s: m.source_.sample(20_000, torch.Generator().manual_seed(0)).std(0) for s, m in fitted.items()}
    assert torch.allclose(spread["matched"], codes.std(0), rtol=0.05)
    assert torch.allclose(spread[0.2], torch.full_like(spread[0.2], 0.2), rtol=0.05)


def test_a_spec_of_ones_own_aligns_a_custom_network(task):
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    zoo = train_zoo(task, network, members=5, recipe=Recipe(epochs=2))
    axes = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h"), "2.bias": (None,)}
    model = DeepWeightFlow(align=PermutationSpec(zoo.layout, axes), flow=QUICK).fit(zoo)
    assert not torch.equal(model.zoo_.weights, zoo.weights)
    assert torch.allclose(predict(model.zoo_, task.test.x), predict(zoo, task.test.x), atol=1e-5)


def test_the_published_settings_are_a_preset(tmp_path, zoo):
    flow = replace(FlowSettings.published(), steps=30, hidden=16, every=10)
    model = DeepWeightFlow.published(flow=flow)
    assert (model.source, model.fixed_source, model.rescale, model.flow.batch_size) == (0.01, True, False, 8)
    assert (model.flow.solver, model.flow.solver_steps, model.flow.keep) == ("rk4", 99, "lowest")
    assert DeepWeightFlow.published().flow.steps == 30_000 and FlowSettings().steps != 30_000
    model.fit(zoo)
    assert model.scale_ == 1.0  # the source is in weight units
    assert float(model.trajectory(200, seed=0).points[0].std()) == pytest.approx(0.01, rel=0.1)
    state = model.field_.state_dict()
    assert all(torch.equal(state[k], model.training_.lowest[k]) for k in state)
    again = DeepWeightFlow.load(model.save(tmp_path / "published.safetensors"))
    assert torch.equal(again.sample(3, seed=1).weights, model.sample(3, seed=1).weights) and not again.rescale
    assert DeepWeightFlow(flow=QUICK).fit(zoo).scale_ != 1.0  # control


def test_a_fit_that_fails_leaves_the_estimator_as_it_was(zoo, monkeypatch):
    alone = zoo.take(range(12))
    for flow in (replace(QUICK, patience=3), replace(QUICK, keep="best")):
        model = DeepWeightFlow(flow=flow)
        with pytest.raises(ValueError, match="this zoo has none"):
            model.fit(alone)
        with pytest.raises(NotFittedError, match="not fitted"):
            model.sample(1, seed=0)
        assert model.fit(zoo).sample(1, seed=0)  # control
    before = model.sample(2, seed=0).weights

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dwflow_lite.generate.deepweightflow.train_flow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(zoo.take(range(8, 16)))
    assert torch.equal(model.sample(2, seed=0).weights, before)


def test_an_audit_is_of_one_basis_one_cut_and_one_architecture(model, zoo, task):
    made = model.sample(4, seed=0)
    quick = {"controls": {}, "rematch": False}
    assert audit(made, model.zoo_, task, **quick)["generated"].networks == 4
    with pytest.raises(ValueError, match=r"another basis.*model\.zoo_"):
        audit(made, zoo, task, **quick)
    with pytest.raises(ValueError, match="another cut of 'iris'"):
        audit(made, model.zoo_, load_task("iris", seed=5), **quick)
    with pytest.raises(ValueError, match="do not take inputs of shape"):
        audit(made, model.zoo_, load_task("digits"), **quick)
    tanh = Zoo(made.weights, made.layout, MLP([4, 6, 3], "tanh"))
    with pytest.raises(ValueError, match="another architecture"):
        audit(tanh, model.zoo_, task, **quick)
    for wrong in ([made], made.weights, model, {"a": made.weights}):
        with pytest.raises(ValueError, match="generated must be a Zoo"):
            audit(wrong, model.zoo_, task, **quick)
    assert "| a/b |" in audit({"a|b": made}, model.zoo_, task, **quick).markdown()


# -- a zoo on disk -----------------------------------------------------------------------------------------------

LITTLE = 12 * 7 * (12 + 12 + 4)  # seven columns of the rows, components and networks there are at once


@pytest.fixture(scope="module")
def on_disk(zoo, tmp_path_factory):
    return Zoo.load(zoo.save(tmp_path_factory.mktemp("zoo")), zoo.network)


@pytest.fixture(scope="module")
def streamed(on_disk, tmp_path_factory):
    return DeepWeightFlow(flow=QUICK, memory=LITTLE).fit(on_disk, folder=tmp_path_factory.mktemp("aligned") / "zoo")


def test_a_generator_of_a_zoo_on_disk_is_the_one_of_the_zoo_in_memory(model, streamed):
    assert isinstance(streamed.zoo_.weights, Shards) and streamed.pca_.components_ is None
    assert torch.equal(streamed.zoo_.in_memory().weights, model.zoo_.weights)
    assert streamed.scale_ == pytest.approx(model.scale_) and streamed.record_ == model.record_
    made, expected = streamed.sample(4, seed=1), model.sample(4, seed=1)
    torch.testing.assert_close(made.weights, expected.weights, atol=1e-3, rtol=1e-3)
    assert made.record == expected.record
    assert (made.weights - model.sample(4, seed=2).weights).abs().max() > 0.1  # control


@pytest.mark.parametrize("source", ["kaiming", "matched"])
def test_sources_on_disk_are_those_in_memory(zoo, on_disk, source):
    options = {"source": source, "flow": QUICK, "align": None, "memory": LITTLE}
    there, here = DeepWeightFlow(**options).fit(on_disk), DeepWeightFlow(**options).fit(zoo)  # no alignment, no folder
    torch.testing.assert_close(there.source_.mean, here.source_.mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(there.source_.scale, here.source_.scale, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here.source_.scale, DeepWeightFlow(flow=QUICK, align=None).fit(zoo).source_.scale)


def test_alignment_on_disk_wants_a_folder(on_disk):
    with pytest.raises(ValueError, match="lives on disk: name a folder"):
        DeepWeightFlow(flow=QUICK).fit(on_disk)


@pytest.mark.parametrize("which", ["model", "streamed"])
def test_samples_are_written_as_they_are_made(tmp_path, request, which):
    model = request.getfixturevalue(which)
    made, expected = model.sample(4, seed=1, folder=tmp_path / "made"), model.sample(4, seed=1)
    assert isinstance(made.weights, Shards) and made.record == expected.record
    torch.testing.assert_close(made.in_memory().weights, expected.weights, atol=1e-6, rtol=1e-5)
    again = Zoo.load(tmp_path / "made", verify=True)
    assert again.record == expected.record and len(list((tmp_path / "made").iterdir())) == 5
    before = [p.stat().st_mtime_ns for p in sorted((tmp_path / "made").iterdir())]
    model.sample(4, seed=1, folder=tmp_path / "made")  # control: the same is there already
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "made").iterdir())] == before
    for other in (lambda f: model.sample(4, seed=2, folder=f), lambda f: model.decode(torch.ones(4, 11), f)):
        with pytest.raises(ValueError, match="holds another zoo"):
            other(tmp_path / "made")
    assert torch.equal(Zoo.load(tmp_path / "made").in_memory().weights, again.in_memory().weights)


def test_two_decodings_of_one_record_are_two_zoos(tmp_path, model):
    model.decode(torch.ones(2, 11), tmp_path)
    with pytest.raises(ValueError, match=r"holds another zoo \(see member 0\)"):
        model.decode(torch.zeros(2, 11), tmp_path)


def test_a_zoo_in_bfloat16_makes_networks_in_bfloat16(tmp_path, zoo):
    half = Zoo.load(zoo.save(tmp_path / "zoo", "bfloat16"), zoo.network)
    model = DeepWeightFlow(flow=QUICK).fit(half, folder=tmp_path / "aligned")
    made = model.sample(3, seed=0, folder=tmp_path / "made")
    assert model.zoo_.weights.storage == made.weights.storage == "bfloat16"
    torch.testing.assert_close(made.in_memory().weights, model.sample(3, seed=0).weights.bfloat16().float())


def test_a_generator_of_a_zoo_on_disk_is_saved_and_needs_the_zoo(tmp_path, zoo, model):
    model = DeepWeightFlow(flow=QUICK, memory=LITTLE).fit(
        Zoo.load(zoo.save(tmp_path / "zoo"), zoo.network), folder=tmp_path / "aligned"
    )
    path = model.save(tmp_path / "model.safetensors")
    again = DeepWeightFlow.load(path)
    assert again.memory == again.pca_.memory == LITTLE
    assert torch.equal(again.sample(4, seed=1).weights, model.sample(4, seed=1).weights)
    assert not any(k in read_safetensors(path, FORMAT)[0] for k in ("pca.components", "pca.mean", "pca.rows"))
    shutil.rmtree(tmp_path / "zoo")  # only the aligned zoo is needed
    DeepWeightFlow.load(path)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "aligned", kept)
    message = r"model\.safetensors decodes from the zoo in .*aligned: put it back, or fit anew"
    for damage in (
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "members-00000003.safetensors").unlink(),
        lambda folder: shutil.copy(folder / "members-00000004.safetensors", folder / "members-00000003.safetensors"),
        lambda folder: (shutil.rmtree(folder), Zoo(zoo.weights + 1, zoo.layout, zoo.network).save(folder)),
    ):
        damage(tmp_path / "aligned")
        with pytest.raises(ZooFileError, match=message):
            DeepWeightFlow.load(path)
        shutil.rmtree(tmp_path / "aligned", ignore_errors=True)
        shutil.copytree(kept, tmp_path / "aligned")
        DeepWeightFlow.load(path)  # control
    shutil.rmtree(tmp_path / "aligned")
    with pytest.raises(ZooFileError, match=r"cannot read .*aligned/members-0000000"):
        again.sample(1, seed=0)


# -- one interface -----------------------------------------------------------------------------------------------

GENERATORS = (
    TRIVIAL
    | NOISE_LADDER
    | {
        "DeepWeightFlow": DeepWeightFlow(flow=QUICK),
        "a flow of other settings": DeepWeightFlow(align=None, components=0.9, source="matched", flow=QUICK, seed=3),
        "the published flow": DeepWeightFlow.published(flow=replace(FlowSettings.published(), hidden=8, steps=20)),
        "few components": GaussianCodes(components=3),
        "a wider Gaussian": GaussianCodes(factor=1.3),
        "mixtures of 5": AffineMixture(),
        "mixtures of all": AffineMixture(size=100),
        "flow on 2 codes": LeadingFlow(2, flow=FlowSettings(hidden=8, steps=5)),
        "children of 2": UnitCrossover(),
        "children of 4": UnitCrossover(parents=4),
        "children in balance": BalancedUnits(UnitCrossover(), torch.linspace(-1, 1, 12).view(3, 4)),
        "a wide source": ClosedFormFlow(source=1.0, steps=5),
    }
)


def check_generator(generator, zoo):
    """What ``Generator`` promises, and scikit-learn of its estimators."""
    weights, record, state = zoo.weights.clone(), deepcopy(dict(zoo.record)), torch.get_rng_state()
    assert isinstance(generator, Generator)
    mine = clone(generator)
    assert repr(mine) == repr(generator) and repr(mine).startswith(type(mine).__name__ + "(")
    with pytest.raises(NotFittedError, match="not fitted"):
        mine.sample(1, seed=0)
    arguments = mine.get_params(deep=False)
    assert mine.fit(zoo) is mine
    assert all(value is arguments[name] for name, value in mine.get_params(deep=False).items())
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="whole number >= 1"):
            mine.sample(n, seed=0)
    for n in (1, 5):
        made = mine.sample(n, seed=1)
        assert isinstance(made, Zoo) and len(made) == n and made.layout == zoo.layout and not any(made.held_out)
        assert made.weights.isfinite().all() and "generated" in made.record
        assert isinstance(made.module(n - 1), type(zoo.network))
    assert torch.equal(mine.sample(5, seed=1).weights, made.weights)
    assert not torch.equal(mine.sample(5, seed=2).weights, made.weights)
    again = clone(mine)  # of one that is fitted
    with pytest.raises(NotFittedError):
        again.sample(1, seed=0)
    assert torch.equal(again.fit(zoo).sample(5, seed=1).weights, made.weights)
    changed = zoo.weights.clone()
    changed[torch.tensor(zoo.held_out)] += 5
    other = Zoo(changed, zoo.layout, zoo.network, zoo.record, zoo.held_out)
    assert torch.equal(again.fit(other).sample(5, seed=1).weights, made.weights)  # held-out members are not seen
    assert torch.equal(zoo.weights, weights) and dict(zoo.record) == record
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_has_one_interface(zoo, name):
    check_generator(GENERATORS[name], zoo)


class Unchecked(Retrieval):
    """Samples before it is fitted."""

    def sample(self, n, *, seed):
        return super().sample(n, seed=seed) if hasattr(self, "members_") else None


class Silent(Retrieval):
    """Does not give itself back."""

    def fit(self, zoo):
        super().fit(zoo)


class Unseeded(Retrieval):
    """Draws what it likes."""

    def sample(self, n, *, seed):
        return super().sample(n, seed=0)


class Global(Retrieval):
    """Draws from the global generator."""

    def sample(self, n, *, seed):
        torch.rand(1)
        return super().sample(n, seed=seed)


class Peeking(Retrieval):
    """Sees held-out members."""

    def fit(self, zoo):
        return super().fit(replace(zoo, held_out=(False,) * len(zoo)))


class Spoiling(Retrieval):
    """Changes the zoo."""

    def fit(self, zoo):
        zoo.weights.mul_(1.01)
        return super().fit(zoo)


class Short(Retrieval):
    """Makes one network too few."""

    def sample(self, n, *, seed):
        return super().sample(max(1, n - 1), seed=seed)


class Correcting(Soup):
    """Changes its arguments."""

    def fit(self, zoo):
        self.size = min(self.size, 3)
        return super().fit(zoo)


class Converting(Soup):
    """Does not store its arguments as they are."""

    def __init__(self, size=10):
        super().__init__(np.int64(size))


class Remembering(Retrieval):
    """Makes what it made before."""

    def sample(self, n, *, seed):
        made = super().sample(n, seed=seed + getattr(self, "calls", 0))
        self.calls = getattr(self, "calls", 0) + 1
        return made


@pytest.mark.parametrize(
    "broken",
    [Unchecked, Silent, Unseeded, Global, Peeking, Spoiling, Short, Correcting, Converting, Remembering],
)
def test_a_generator_that_breaks_a_promise_is_found_out(zoo, broken):
    """Control of the test above."""
    copy = Zoo(zoo.weights.clone(), zoo.layout, zoo.network, zoo.record, zoo.held_out)
    with pytest.raises((AssertionError, pytest.fail.Exception, RuntimeError, AttributeError, ValueError)):
        check_generator(broken(), copy)


# -- a fit that stops --------------------------------------------------------------------------------------------


class Interrupting(TorchFunctionMode):
    """Counts calls of PyTorch, and stops the one of this number, as a reader may at any time; None: none."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.calls = at, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not torch._C._set_grad_enabled:  # stopped on its way out, no_grad would last
            self.calls += 1
            if self.calls == self.at:
                raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


def check_stopped_fit(generator, learned, others, **asked):
    """Stopped anywhere, a fit leaves an estimator that is not fitted, or as it was fitted before."""
    mine = clone(generator)
    with Interrupting() as whole:
        mine.fit(learned)
    before, kept = mine.sample(3, seed=0, **asked).weights, dict(vars(mine))
    for at in sorted({1, whole.calls // 2, *range(max(1, whole.calls - 5), whole.calls + 1)}):
        fresh = clone(generator)
        for estimator, what in ((fresh, learned), (mine, others)):
            with pytest.raises(KeyboardInterrupt), Interrupting(at):
                estimator.fit(what)
        with pytest.raises(NotFittedError):
            fresh.sample(1, seed=0, **asked)
        assert vars(mine).keys() == kept.keys() and all(vars(mine)[name] is value for name, value in kept.items())
        assert torch.equal(mine.sample(3, seed=0, **asked).weights, before)
    assert not torch.equal(mine.fit(others).sample(3, seed=0, **asked).weights, before)  # control: one that is not


def twice_as_large(zoo):
    return replace(zoo, weights=2 * zoo.weights)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_fit_that_stops_anywhere_leaves_the_estimator_as_it_was(zoo, name):
    check_stopped_fit(GENERATORS[name], zoo, twice_as_large(zoo))


def test_a_fit_of_dropout_masks_that_stops_leaves_them_as_they_were():
    zoo = Zoo.from_modules([MLP([4, 6, 3], dropout=0.5) for _ in range(3)], held_out=[2])
    check_stopped_fit(DropoutMasks(), zoo, twice_as_large(zoo))


@pytest.mark.parametrize(
    "generator",
    [
        ConditionalDeepWeightFlow(align=None, flow=FlowSettings(hidden=8, steps=5)),
        ConditionalGaussian(),
        ConditionalRetrieval(),
        OwnCodesFlow(align=False, flow=FlowSettings(hidden=8, steps=5)),
    ],
)
def test_a_conditional_fit_that_stops_anywhere_leaves_the_estimator_as_it_was(zoo, generator):
    zoos = {"one": zoo.take(range(7)), "other": zoo.take(range(7, 16))}
    others = {name: twice_as_large(part) for name, part in zoos.items()}
    check_stopped_fit(generator, zoos, others, condition="one")


class Early(Retrieval):
    """Remembers members before it has measured them."""

    def fit(self, zoo):
        super().fit(zoo)
        self.mean_ = self.members_.weights.mean(0)
        return self


def test_an_estimator_that_is_half_fitted_is_found_out(zoo):
    """Control of the tests above."""
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check_stopped_fit(Early(), zoo, twice_as_large(zoo))


def test_a_spec_survives_a_clone(zoo):
    """``clone`` wants the very object back that it gave; a spec is copied, and is the same spec."""
    spec = PermutationSpec.of(zoo.network)
    model = DeepWeightFlow(align=spec, flow=QUICK)
    copy = clone(model)
    assert copy.align is not spec and copy.align.layout == spec.layout and copy.flow == QUICK
    made = [m.fit(zoo).sample(2, seed=0).weights for m in (model, copy)]
    assert torch.equal(*made) and "align=PermutationSpec(" in repr(model)
    assert repr(DeepWeightFlow(seed=3)) == "DeepWeightFlow(seed=3)"
    assert repr(DeepWeightFlow(flow=FlowSettings(steps=7))).startswith("DeepWeightFlow(flow=FlowSettings(")
    assert "DeepWeightFlow" in model._repr_html_()


def test_arguments_are_checked_by_fit_and_changed_by_set_params(zoo):
    model = DeepWeightFlow(source="magic", flow={"steps": 3})  # nothing is checked here, as scikit-learn wants it
    with pytest.raises(TypeError, match="FlowSettings"):
        model.fit(zoo)
    model.set_params(source=0.1, flow=QUICK).fit(zoo)
    before = model.sample(2, seed=0)
    model.set_params(flow=replace(QUICK, solver="euler"), source="matched")  # of the next fit
    after = model.sample(2, seed=0)
    assert torch.equal(after.weights, before.weights) and after.record == before.record
    assert before.record["generated"]["source"] == 0.1
    for generator, message in (
        (Soup(0), "size must be a whole number >= 1"),
        (MemberNoise(-0.1), "level must be a number >= 0"),
        (ClosedFormFlow(source=0), "source must be a number > 0"),
        (ClosedFormFlow(steps=0), "steps must be a whole number >= 1"),
        (GaussianCodes(12), "N-1 = 11"),
        (GaussianCodes(factor=-1), "factor must be a number >= 0"),
        (GaussianWeights(factor=float("nan")), "factor must be a number >= 0"),
        (AffineMixture(0), "size must be None or a whole number >= 1"),
        (AffineMixture(coefficients="sings"), "coefficients must be one of sphere, signs"),
        (AffineMixture(factor=-1), "factor must be a number >= 0"),
        (LeadingFlow(12), "components must be a whole number from 0 to 11"),
        (LeadingFlow(neighbours=1), "neighbours must be None or a whole number >= 2"),
        (LeadingFlow(factor=-1), "factor must be a number >= 0"),
        (UnitCrossover(1), "parents must be a whole number >= 2"),
        (UnitCrossover(factor=-1.0), "factor must be a number >= 0"),
        (UnitCrossover(factor="wide"), "factor must be a number >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            generator.fit(zoo)


@pytest.mark.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
@pytest.mark.parametrize("name", TRIVIAL)
def test_networks_are_made_where_the_zoo_is_and_in_its_precision(zoo, name, device):
    double = Zoo(zoo.weights.double().to(device), zoo.layout, zoo.network, {}, zoo.held_out)
    expected = made(name, zoo, 5, 3).weights
    weights = made(name, double, 5, 3).weights
    assert weights.dtype == torch.float64 and weights.device == double.weights.device
    torch.testing.assert_close(weights.cpu().float(), expected, atol=1e-4, rtol=1e-4)  # the draws are the same
    assert (weights.cpu().float() - made(name, zoo, 5, 4).weights).abs().max() > 1e-2  # control


def test_generators_of_a_zoo_on_disk(zoo, on_disk):
    """Those that draw from all weights want it in memory, and say so; those of codes read it chunk by chunk."""
    for name, generator in TRIVIAL.items():
        generator = clone(generator)
        if name in ("Gaussian on codes", "closed-form flow"):
            expected = clone(generator).fit(zoo).sample(3, seed=0).weights
            torch.testing.assert_close(generator.fit(on_disk).sample(3, seed=0).weights, expected, atol=1e-3, rtol=1e-3)
        else:
            with pytest.raises(ValueError, match=rf"lives on disk, and {type(generator).__name__} draws .*in_memory"):
                generator.fit(on_disk)


def test_a_control_is_a_generator_and_stays_unfitted(model, zoo, task):
    class Loose:
        """No estimator, but a generator all the same."""

        def fit(self, zoo):
            self.zoo = zoo
            return self

        def sample(self, n, *, seed):
            return self.zoo.take(range(n))

    made, loose, soup = model.sample(4, seed=0), Loose(), Soup()
    report = audit(made, model.zoo_, task, controls={"loose": loose, "soup": soup}, rematch=False)
    assert report["loose"].networks == report["soup"].networks == 4 and report["loose"].nearest == 0
    assert not hasattr(loose, "zoo") and not hasattr(soup, "members_")
    for wrong in (Soup, lambda zoo, n, seed: zoo, "soup"):
        with pytest.raises(TypeError, match=r"control 'a' must be a generator with fit\(zoo\) and sample"):
            audit(made, model.zoo_, task, controls={"a": wrong})
    assert all(not hasattr(g, "members_") for g in (TRIVIAL | NOISE_LADDER).values())


def test_a_generator_is_saved_to_a_file_with_a_suffix(tmp_path, model):
    with pytest.raises(ValueError, match=r"kept in one file: give .*model a suffix, as in model\.safetensors"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"give .*model a suffix"):
        DeepWeightFlow.load(tmp_path / "model")
    again = DeepWeightFlow.load(model.save(tmp_path / "model.safetensors"))
    assert again.get_params()["flow"] == QUICK and again.settings_ == model.settings_
    assert clone(again).get_params() == again.get_params()


def test_a_finished_flow_is_not_trained_again(tmp_path, zoo, model, monkeypatch):
    folder = tmp_path / "flows"
    first = DeepWeightFlow(flow=QUICK).fit(zoo, checkpoint=folder)
    assert torch.equal(first.sample(2, seed=0).weights, model.sample(2, seed=0).weights)
    monkeypatch.setattr("dwflow_lite.flow.train.Batches", None)  # nobody can train now
    again = DeepWeightFlow(flow=QUICK).fit(zoo, checkpoint=folder)
    assert torch.equal(again.sample(2, seed=0).weights, model.sample(2, seed=0).weights)
    assert again.training_.loss == model.training_.loss
    for other in ({"seed": 1}, {"source": 0.2}, {"fixed_source": True}, {"flow": replace(QUICK, hidden=16)}):
        with pytest.raises(TypeError, match="NoneType"):  # control: another flow is another training
            DeepWeightFlow(**{"flow": QUICK} | other).fit(zoo, checkpoint=folder)


# -- what careless hands pass in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, -1, 1.5, "1", True, 2**63])
def test_a_seed_that_is_none_is_refused_in_one_sentence(model, zoo, seed):
    message = rf"seed must be a whole number from 0 to 2\*\*63 - 1, got {seed!r}"
    with pytest.raises(ValueError, match=message):
        model.sample(1, seed=seed)
    with pytest.raises(ValueError, match=message):
        Soup().fit(zoo).sample(1, seed=seed)
    with pytest.raises(ValueError, match=message):
        DeepWeightFlow(seed=seed, flow=QUICK).fit(zoo)


def test_numpy_numbers_do_what_plain_ones_do(zoo, tmp_path):
    """In every argument, in seeds, and in what is written: a model that was trained can be saved."""
    plain = DeepWeightFlow(components=2, source=0.25, fixed_source=True, seed=3, memory=1 << 20, flow=QUICK)
    numpy = DeepWeightFlow(
        align=np.True_, components=np.int64(2), source=np.float32(0.25), fixed_source=np.True_, rescale=np.True_,
        seed=np.int64(3), memory=np.int64(1 << 20), flow=QUICK,
    )  # fmt: skip
    expected = plain.fit(zoo).sample(3, seed=5)
    made = numpy.fit(zoo).sample(np.int64(3), seed=np.int64(5))
    assert torch.equal(made.weights, expected.weights)
    assert Zoo.load(made.save(tmp_path / "made.safetensors")).record == expected.record
    loaded = DeepWeightFlow.load(numpy.save(tmp_path / "model.safetensors"))
    assert torch.equal(loaded.sample(3, seed=5).weights, expected.weights)
    share = DeepWeightFlow(components=np.float32(0.5), flow=QUICK).fit(zoo)
    assert share.pca_.n_components_ == DeepWeightFlow(components=0.5, flow=QUICK).fit(zoo).pca_.n_components_
    for generator in (Soup(), MemberNoise()):
        drawn = clone(generator).fit(zoo).sample(3, seed=np.int64(5))
        assert torch.equal(drawn.weights, clone(generator).fit(zoo).sample(3, seed=5).weights)


@pytest.mark.parametrize("name", ["fixed_source", "rescale"])
def test_a_switch_is_on_or_off(zoo, name):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'no'"):
        DeepWeightFlow(**{name: "no"}, flow=QUICK).fit(zoo)


@pytest.mark.parametrize(
    ("generator", "changed"),
    [(Soup(2), {"size": -1}), (MemberNoise(0.1), {"level": 5.0}), (ClosedFormFlow(), {"source": 3.0, "steps": 1})],
)
def test_settings_that_are_changed_after_fit_wait_for_the_next_fit(zoo, generator, changed):
    before = generator.fit(zoo).sample(4, seed=0)
    after = generator.set_params(**changed).sample(4, seed=0)
    assert torch.equal(after.weights, before.weights) and after.record == before.record


def test_soups_fitted_again_take_the_new_size(zoo):  # control of the test above
    soup = Soup(2).fit(zoo)
    assert soup.sample(1, seed=0).record["generated"]["by"] == "soup of 2"
    assert soup.set_params(size=3).fit(zoo).sample(1, seed=0).record["generated"]["by"] == "soup of 3"


@pytest.mark.parametrize("generator", [*TRIVIAL.values(), DeepWeightFlow()])
def test_a_generator_learns_from_a_zoo_that_has_members_to_show(zoo, generator):
    with pytest.raises(TypeError, match=r"a generator learns from a Zoo .*, not from Tensor"):
        clone(generator).fit(zoo.weights)
    with pytest.raises(ValueError, match=r"Zoo\(4 .*4 held out\)"):
        clone(generator).fit(zoo.unseen)


def test_noise_needs_no_second_member():
    """A tensor of one number has no spread in a zoo of one; it was NaN, and blamed on the members."""
    one = Zoo.from_modules([MLP([4, 5, 1])])
    bias = one.layout.slices["layers.1.bias"]
    noisy = MemberNoise(0.1).fit(one).sample(3, seed=0)
    assert torch.equal(noisy.weights[:, bias], one.weights[:, bias].expand(3, 1))
    assert not torch.equal(noisy.weights, one.weights.expand(3, -1))  # control: all other tensors are noisy
    assert RandomWeights().fit(one).sample(3, seed=0).weights.isfinite().all()


# -- one basis, any precision, early refusals -----------------------------------------------------------------------


def test_codes_are_taken_in_the_basis_of_the_generator_and_back(zoo, model):
    codes = model.encode(model.zoo_.fitted)
    expected = model.pca_.transform(model.zoo_.fitted.weights) / model.scale_
    assert torch.equal(codes, expected)
    torch.testing.assert_close(model.decode(codes).weights, model.zoo_.fitted.weights, atol=1e-4, rtol=1e-3)
    own = Zoo(zoo.weights, zoo.layout, zoo.network)  # at the reader's word
    assert not torch.allclose(model.encode(own.take(range(12))), codes, atol=1e-2)
    with pytest.raises(ValueError, match=r"another basis .*as trained.*weight matching.*model\.zoo_"):
        model.encode(zoo)
    with pytest.raises(ValueError, match=r"another basis .*the references differ"):
        model.encode(canonicalise(zoo, reference=1))
    with pytest.raises(ValueError, match="another architecture"):
        model.encode(Zoo.from_modules([MLP([4, 5, 3])] * 2))


@pytest.mark.parametrize(
    ("codes", "kind", "message"),
    [
        (torch.zeros(2, 3), ValueError, r"shape \(n >= 1, 11\), got \(2, 3\)"),
        (torch.zeros(11), ValueError, r"got \(11,\)"),
        (torch.zeros(0, 11), ValueError, r"got \(0, 11\)"),
        (torch.full((2, 11), torch.nan), ValueError, "NaN or infinite"),
        (np.zeros((2, 11)), TypeError, "not ndarray"),
        (torch.zeros(2, 11).long(), TypeError, r"not torch\.int64"),
    ],
)
def test_codes_that_are_none_are_said(model, codes, kind, message):
    with pytest.raises(kind, match=message):
        model.decode(codes)
    assert len(model.decode(torch.zeros(2, 11, dtype=torch.float64))) == 2  # control


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_come_in_a_precision_that_is_told(tmp_path, zoo, task, dtype):
    network = deepcopy(zoo.network).to(dtype)
    other = Zoo(zoo.weights.to(dtype), Layout.of(network), network, zoo.record, zoo.held_out)
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    for generator in (DeepWeightFlow(flow=QUICK), *map(clone, TRIVIAL.values())):
        generator.fit(other)
        made = generator.sample(2, seed=0)
        assert made.weights.dtype == expected
        module = made.module(0)
        assert next(module.parameters()).dtype == dtype and module(task.test.x.to(dtype)).isfinite().all()
    model = DeepWeightFlow(flow=QUICK).fit(other)
    again = DeepWeightFlow.load(model.save(tmp_path / "model.safetensors"))
    assert torch.equal(again.sample(2, seed=0).weights, model.sample(2, seed=0).weights)
    assert model.training_.last["head.weight"].dtype == torch.float32  # the flow is in single precision


def test_what_makes_no_sense_is_refused_before_anything_is_aligned(tmp_path, zoo, monkeypatch):
    def aligned(*_, **__):
        raise AssertionError("aligned before the settings were checked")

    monkeypatch.setattr("dwflow_lite.generate.deepweightflow.canonicalise", aligned)
    for options, message in (({"components": 12}, "N-1 = 11"), ({"components": "all"}, "^components must be"),
                             ({"memory": 1}, "memory must be"), ({"memory": None}, "memory must be")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            DeepWeightFlow(flow=QUICK, **options).fit(zoo)
    for align in (None, False):
        with pytest.raises(ValueError, match="folder is where the aligned zoo is written"):
            DeepWeightFlow(flow=QUICK, align=align).fit(zoo, folder=tmp_path / "aligned")
    assert not (tmp_path / "aligned").exists()
    with pytest.raises(AssertionError):  # control
        DeepWeightFlow(flow=QUICK).fit(zoo)


class Ambiguous(nn.Module):
    def __init__(self, sign=1.0):
        super().__init__()
        self.first, self.last, self.sign = nn.Linear(4, 5), nn.Linear(5, 3), sign

    def forward(self, x):
        return self.last(torch.tanh(self.first(x) + self.sign * x.sum(-1, keepdim=True)))


def test_a_generator_is_not_loaded_for_another_forward_pass(tmp_path, task):
    zoo = train_zoo(task, Ambiguous(), members=4, recipe=Recipe(epochs=1))
    model = DeepWeightFlow(align=None, flow=QUICK).fit(zoo)
    path = model.save(tmp_path / "model.safetensors")
    assert len(DeepWeightFlow.load(path, Ambiguous()).sample(2, seed=0)) == 2  # control
    with pytest.raises(ZooFileError, match="another forward pass"):
        DeepWeightFlow.load(path, Ambiguous(-1.0))
    made = model.sample(2, seed=0).save(tmp_path / "made.safetensors")
    with pytest.raises(ZooFileError, match="another forward pass"):
        Zoo.load(made, Ambiguous(-1.0))


@pytest.mark.parametrize("size", [1e-36, 1e-30, 1e36])
def test_zoos_of_any_size_of_weights_are_learned(zoo, size):
    other = Zoo(size * zoo.weights, zoo.layout, zoo.network, zoo.record, zoo.held_out)
    expected = DeepWeightFlow(flow=QUICK).fit(zoo).sample(4, seed=0).weights
    model = DeepWeightFlow(flow=QUICK).fit(other)
    torch.testing.assert_close(model.sample(4, seed=0).weights / size, expected, atol=1e-2, rtol=1e-2)
    for generator in TRIVIAL.values():
        made = clone(generator).fit(other).sample(4, seed=0).weights / size
        torch.testing.assert_close(made, clone(generator).fit(zoo).sample(4, seed=0).weights, atol=1e-3, rtol=1e-3)
    assert (expected - DeepWeightFlow(flow=QUICK).fit(zoo).sample(4, seed=1).weights).abs().max() > 0.1  # control


@pytest.mark.parametrize("members", [2, 3])
def test_the_smallest_zoos_are_learned(zoo, members):
    small = zoo.take(range(members))
    constant = small.weights.clone()
    constant[:, 3] = 1.0
    for networks in (small, Zoo(constant, zoo.layout, zoo.network)):
        for source in (0.05, "matched", "kaiming"):
            made = DeepWeightFlow(flow=QUICK, components=1, source=source).fit(networks).sample(np.int64(3), seed=0)
            assert made.weights.isfinite().all() and len(made) == 3
    with pytest.raises(ValueError, match="all networks of the zoo are the same"):
        DeepWeightFlow(flow=QUICK).fit(zoo.take([0, 0, 0]))


def test_files_of_another_kind_are_told_who_reads_them(tmp_path, zoo, model):
    with pytest.raises(ZooFileError, match=r"format 'dwflow_lite\.zoo/1', .*: Zoo\.load reads it"):
        DeepWeightFlow.load(zoo.save(tmp_path / "zoo.safetensors"))
    with pytest.raises(ZooFileError, match=r"format 'dwflow_lite\.model/1', .*: DeepWeightFlow\.load reads it"):
        Zoo.load(model.save(tmp_path / "model.safetensors"))


def test_a_generator_of_a_readers_own_networks_asks_for_one_by_the_argument_it_has(tmp_path):
    zoo = Zoo.from_modules([nn.Sequential(nn.Linear(3, 2)) for _ in range(4)])
    path = DeepWeightFlow(align=None, flow=FlowSettings(hidden=8, steps=4)).fit(zoo).save(tmp_path / "own.safetensors")
    with pytest.raises(
        ZooFileError, match=r"'Sequential' network from its record, .*: pass a module of that class, net"
    ):
        DeepWeightFlow.load(path)
    assert len(DeepWeightFlow.load(path, network=zoo.network).sample(2, seed=0)) == 2  # control
    assert repr(Zoo(zoo.weights, zoo.layout, zoo.network)) == repr(zoo)  # named without a record, too


def test_generators_fitted_together_are_those_fitted_alone(zoo):
    """Side by side in two threads, every flow draws from generators of its own: same losses, same networks."""
    aligned = canonicalise(zoo)

    def models(seed=0):
        wide = replace(QUICK, hidden=48)
        return {
            "a": (DeepWeightFlow(align=None, flow=QUICK, seed=seed), zoo),
            "b": (DeepWeightFlow(align=None, flow=QUICK, seed=seed), aligned),
            "wide": (DeepWeightFlow(flow=wide, source="matched", seed=seed), zoo),
            "fixed": (DeepWeightFlow(align=None, flow=QUICK, fixed_source=True, components=5, seed=seed), aligned),
        }

    torch.manual_seed(0)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(0)
    together, others = fit_together(models(), at_once=2), fit_together(models(seed=1), at_once=2)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads
    assert list(together) == ["a", "b", "wide", "fixed"]
    for name, (model, its_zoo) in models().items():
        alone = model.fit(its_zoo)
        assert together[name].training_.loss == pytest.approx(alone.training_.loss, rel=1e-5), name
        same, other = (m[name].sample(3, seed=1).weights for m in (together, others))
        torch.testing.assert_close(same, alone.sample(3, seed=1).weights, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other, same, atol=1e-3)  # control: another seed
        assert together[name].zoo_.fitted.weights.equal(model.zoo_.fitted.weights)


def test_what_cannot_be_fitted_together_is_named_and_changes_nothing(zoo, monkeypatch):
    model = DeepWeightFlow(flow=QUICK)
    for work, message in (({}, "at least one"), ({"a": (model, zoo), "b": (model, zoo)}, "a new one for each name")):
        with pytest.raises(ValueError, match=message):
            fit_together(work)
    with pytest.raises(ValueError, match="at_once must be"):
        fit_together({"a": (model, zoo)}, at_once=0)
    other = DeepWeightFlow(flow=replace(QUICK, lr=1e30))  # diverges
    with pytest.raises(FloatingPointError):
        fit_together({"a": (model, zoo), "b": (other, zoo)}, at_once=2)
    with pytest.raises(NotFittedError):
        model.sample(1, seed=0)
    assert fit_together({"a": (model, zoo)})["a"] is model and model.sample(1, seed=0)  # control


# -- mixtures ----------------------------------------------------------------------------------------------------


def orthogonal_zoo(members):
    """Members at one distance from their mean, in directions that are as different as they can be."""
    network = MLP([4, 6, 3])
    size = Layout.of(network).size
    weights = torch.zeros(members, size)
    weights[range(members), range(members)] = 3.0
    return Zoo(weights, Layout.of(network), network)


def test_mixtures_keep_the_spread_that_soups_lose():
    zoo = orthogonal_zoo(20)
    mean = zoo.weights.mean(0)
    spread = lambda weights: float((weights - mean).square().sum(1).mean() ** 0.5)  # noqa: E731
    members = spread(zoo.weights)
    for size in (2, 5, 20):
        mixed = AffineMixture(size).fit(zoo).sample(4000, seed=0)
        assert 0.93 < spread(mixed.weights) / members < 1.07
        soups = Soup(size).fit(zoo).sample(4000, seed=0)
        assert spread(soups.weights) / members < 1.1 * size**-0.5  # control: the chord
    # Nothing but members, and their mirror images about the mean, comes of one.
    one = AffineMixture(1).fit(zoo).sample(50, seed=0).weights - mean
    assert torch.cdist(one.abs(), (zoo.weights - mean).abs()).min(1).values.max() < 0.02


def test_mixtures_are_affine_combinations_of_as_many_members_as_are_named():
    zoo = orthogonal_zoo(10)
    mixed = AffineMixture(3).fit(zoo).sample(50, seed=1).weights
    shares = mixed[:, :10] / 3.0  # of each member; the mean has a tenth of each
    torch.testing.assert_close(shares.sum(1), torch.ones(50))
    common = shares.median(1, keepdim=True).values  # of members that were not drawn
    assert ((shares - common).abs() > 1e-4).sum(1).max() == 3
    all_of_them = AffineMixture(10).fit(zoo).sample(50, seed=1).weights[:, :10] / 3.0
    assert ((all_of_them - all_of_them.median(1, keepdim=True).values).abs() > 1e-4).sum(1).max() > 3  # control


def test_of_mixtures_with_equal_shares_the_nearest_member_is_farther():
    """‖w - wⱼ‖² is 2R²(1 - cⱼ) where members are orthogonal: the largest share decides, and signs keep it least."""
    zoo = orthogonal_zoo(40)
    nearest = {}
    for coefficients in ("sphere", "signs"):
        mixed = AffineMixture(None, coefficients).fit(zoo).sample(200, seed=0).weights
        nearest[coefficients] = torch.cdist(mixed, zoo.weights).min(1).values
    assert nearest["signs"].min() > nearest["sphere"].median()
    expected = (18 * (1 - 40**-0.5)) ** 0.5
    assert abs(float(nearest["signs"].median()) / expected - 1) < 0.06
    # A sphere of twice the radius: the same draws, twice as far from the mean.
    mean = zoo.weights.mean(0)
    near, far = (AffineMixture(7, "signs", f).fit(zoo).sample(9, seed=3).weights - mean for f in (1.0, 2.0))
    torch.testing.assert_close(far, 2 * near, atol=1e-4, rtol=1e-4)
    assert near.norm() > 1  # control: there is something to widen


def test_a_flow_on_leading_codes_keeps_two_clusters_apart():
    """A Gaussian of all codes puts networks between clusters, where nobody is; without a flow it is that Gaussian."""
    network = MLP([4, 6, 3])
    layout = Layout.of(network)
    noise = torch.randn(40, layout.size, generator=torch.Generator().manual_seed(0))
    side = torch.tensor([-1.0, 1.0]).repeat(20)  # (40,)
    apart = torch.zeros(layout.size)
    apart[0] = 20.0
    zoo = Zoo(noise + side[:, None] * apart, layout, network)
    flow = FlowSettings(hidden=32, steps=300, dropout=0.0)
    between = {}
    for name, generator in {"flow": LeadingFlow(1, flow=flow), "Gaussian": GaussianCodes()}.items():
        first = generator.fit(zoo).sample(400, seed=1).weights[:, 0]
        between[name] = float((first.abs() < 10).float().mean())
        assert 0.35 < float((first > 0).float().mean()) < 0.65  # both sides
    assert between["flow"] < 0.1
    assert between["Gaussian"] > 0.3  # control
    # On one side members differ widely in another weight, on the other side they do not.
    widely = torch.where(side > 0, 8.0, 0.2)
    noise[:, 1] *= widely
    uneven = Zoo(noise + side[:, None] * apart, layout, network)
    ratio = {}
    for neighbours in (None, 15):
        drawn = LeadingFlow(1, flow=flow, neighbours=neighbours).fit(uneven).sample(400, seed=1).weights
        is_right = drawn[:, 0] > 0
        ratio[neighbours] = float(drawn[is_right, 1].std() / drawn[~is_right, 1].std())
    assert ratio[15] > 5
    assert ratio[None] < 1.5  # control: drawn from all members alike
    drawn = LeadingFlow(0, factor=1.2).fit(zoo).sample(5, seed=2).weights
    torch.testing.assert_close(drawn, GaussianCodes(factor=1.2).fit(zoo).sample(5, seed=2).weights)


def test_a_flow_on_all_codes_of_a_few_members_draws_no_others_and_does_not_warn(recwarn):
    zoo = Zoo.from_modules([MLP([3, 2, 1]) for _ in range(3)])  # two codes
    model = LeadingFlow(2, flow=FlowSettings(hidden=8, steps=5)).fit(zoo)
    assert model.std_.shape == (0,) and model.sample(4, seed=0).weights.isfinite().all()
    assert not recwarn.list
    assert LeadingFlow(1, flow=FlowSettings(hidden=8, steps=5)).fit(zoo).std_.shape == (1,)  # control


@pytest.mark.parametrize("gaussian", [GaussianCodes, GaussianWeights])
def test_a_wider_gaussian_is_the_same_draw_farther_out(zoo, gaussian):
    mean = gaussian(factor=0).fit(zoo).sample(4, seed=0).weights
    torch.testing.assert_close(mean, zoo.fitted.weights.mean(0).expand(4, -1), atol=1e-4, rtol=1e-4)
    narrow, wide = (gaussian(factor=f).fit(zoo).sample(4, seed=0).weights - mean for f in (1.0, 1.3))
    torch.testing.assert_close(wide, 1.3 * narrow, atol=1e-3, rtol=1e-3)
    assert narrow.norm() > 1  # control: there is something to widen


def test_children_take_whole_units_from_their_parents():
    """Every member writes its own number everywhere, so that a child shows whose weights it has."""
    network = MLP([4, 6, 5, 3])
    layout = Layout.of(network)
    zoo = Zoo(torch.arange(8.0)[:, None].expand(8, layout.size).clone(), layout, network)
    children = UnitCrossover(parents=3).fit(zoo).sample(200, seed=0)
    for child in children.weights[:20]:
        state = layout.unflatten(child)
        first, second = state["layers.0.weight"], state["layers.1.weight"]
        for weight, bias in ((first, state["layers.0.bias"]), (second, state["layers.1.bias"])):
            assert torch.equal(weight, bias[:, None].expand_as(weight))  # a unit, and all that it is computed from
        head = state["layers.2.weight"]
        assert torch.equal(head, second[:, 0].expand_as(head))  # what reads a unit goes with it
        assert len(child.unique()) <= 3
    assert max(len(child.unique()) for child in children.weights) == 3  # control: units do come from all parents
    assert {len(child.unique()) for child in UnitCrossover().fit(zoo).sample(200, seed=0).weights} == {2}


def test_children_are_moved_away_from_the_mean_of_all_members(zoo):
    mean = zoo.fitted.weights.mean(0)
    plain, wide, none = (
        UnitCrossover(3, factor=factor).fit(zoo).sample(5, seed=0).weights for factor in (1.0, 1.3, 0.0)
    )
    torch.testing.assert_close(wide - mean, 1.3 * (plain - mean), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(none, mean.expand_as(none))
    assert torch.equal(plain, UnitCrossover(3).fit(zoo).sample(5, seed=0).weights)
    assert (wide - plain).norm(dim=1).min() > 0.1 * (plain - mean).norm(dim=1).max()  # control: they did move


def test_heads_are_handed_down_whole():
    network = ViT(image=8, patch=4, channels=1, dim=8, depth=1, heads=2, outputs=3)
    layout = Layout.of(network)
    zoo = Zoo(torch.arange(4.0)[:, None].expand(4, layout.size).clone(), layout, network)
    spec = PermutationSpec.of(network)
    children = UnitCrossover(parents=2).fit(zoo).sample(40, seed=0)
    mixed = 0
    for child in children.weights:
        state = layout.unflatten(child)
        for heads, groups in spec.heads.values():
            of_head = [set() for _ in range(heads)]
            for group in groups:
                for use in spec.uses[group]:
                    if use.axis == 0:
                        for head, rows in enumerate(use.rows(state[use.name]).unflatten(0, (heads, -1))):
                            of_head[head] |= set(rows.unique().tolist())
            assert all(len(whose) == 1 for whose in of_head)
            mixed += of_head[0] != of_head[1]
    assert mixed > 5  # control: two heads do come from two parents


def test_a_reader_gives_a_spec_of_their_own_for_children(task):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.two(self.one(x).relu())

    zoo = Zoo.from_modules([Own() for _ in range(3)])
    with pytest.raises(
        ValueError, match=r"of Own networks make up a unit is not known: UnitCrossover\(spec=derive_spec"
    ):
        UnitCrossover().fit(zoo)
    with pytest.raises(ValueError, match="another layout"):
        UnitCrossover(spec=PermutationSpec.of(MLP([4, 5, 3]))).fit(zoo)
    axes = {"one.weight": ("a", None), "one.bias": ("a",), "two.weight": (None, "a"), "two.bias": (None,)}
    spec = PermutationSpec(zoo.layout, axes)
    assert len(UnitCrossover(spec=spec).fit(zoo).sample(3, seed=0)) == 3
