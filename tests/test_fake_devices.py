"""Every stage on a GPU that is not there: fake CUDA tensors refuse another device, and to be read before they are done.

A fake tensor has shape, dtype and device, and no numbers: ``float(x)``, ``bool(x)`` or ``x.tolist()`` is an error, just
as no step of an inner loop may wait for a GPU. What a stage asks once, before or after (are weights finite? do networks
run at once?), is answered for it here.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
)

from dwflow_lite import batchnorm, compress
from dwflow_lite.auditing import measures
from dwflow_lite.auditing.measures import nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.batchnorm import measure_statistics, recalibrate
from dwflow_lite.figures.style import on_cpu
from dwflow_lite.flow import FlowSettings, solver, train
from dwflow_lite.flow.conditional import ConditionalField, guided
from dwflow_lite.flow.field import make_field
from dwflow_lite.flow.path import GaussianSource, StraightPath
from dwflow_lite.generate import AffineMixture, LeadingFlow, mixtures, simple
from dwflow_lite.generate.balanced import MLPLayers
from dwflow_lite.generate.mixtures import COEFFICIENTS
from dwflow_lite.networks import BERT, MLP, ResNet, ViT
from dwflow_lite.support.products import combined, gram_of, projected
from dwflow_lite.symmetry import activations, gauge, matching, repairing, scales
from dwflow_lite.symmetry.barrier import interpolate, linear_barrier
from dwflow_lite.symmetry.many import permute_rows
from dwflow_lite.symmetry.permutation import Permutation
from dwflow_lite.symmetry.places import products_at
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.tasks import Split, Task
from dwflow_lite.training import Recipe, batched, loop
from dwflow_lite.training.plan import Plan
from dwflow_lite.use import ensemble, ensembles, uncertainty
from dwflow_lite.zoo import Zoo, batched_forward, evaluate, forward, predict
from dwflow_lite.zoo.layout import Layout

N, EXAMPLES = 3, 40
NETWORKS = {
    "MLP": (lambda: MLP([16, 5, 3]), (1, 4, 4)),
    "ResNet": (lambda: ResNet((4, 4), blocks=1, channels=1, outputs=3), (1, 8, 8)),
    "ViT": (lambda: ViT(4, 2, 8, 1, 2, channels=1, outputs=3), (1, 4, 4)),
    "BERT": (lambda: BERT(vocabulary=9, dim=8, depth=1, heads=2, hidden=12, length=6, outputs=3), (6,)),
}
IMAGES = ("MLP", "ResNet", "ViT")
elsewhere = pytest.raises(RuntimeError, match="to be on the same device")


# PyTorch copies and moves modules by storages and swaps that fake tensors do not have.


def copied(tensor, memo):
    if id(tensor) not in memo:
        copy = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
    return memo[id(tensor)]


def moved(module, change, recurse=True):
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = change(buffer)
    return module


def counted_from_zero(norm):
    norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=norm.running_mean.device)


@pytest.fixture
def fake(monkeypatch):
    """In here tensors are fake; and what is asked once is answered."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode() as mode:
        monkeypatch.setattr(torch.Tensor, "__deepcopy__", copied)
        monkeypatch.setattr(nn.Parameter, "__deepcopy__", copied)
        monkeypatch.setattr(nn.Module, "_apply", moved)
        monkeypatch.setattr(nn.BatchNorm2d, "reset_running_stats", counted_from_zero)
        monkeypatch.setattr(Zoo, "_check_finite", lambda zoo: None)
        for module in (forward, batchnorm, repairing):
            monkeypatch.setattr(module, "runs_batched", lambda *arguments, **named: True)
        for module in (simple, mixtures):
            monkeypatch.setattr(module, "measured", lambda measure, tensor: measure(tensor))
        monkeypatch.setattr(solver, "_check_finite", lambda *arguments: None)
        monkeypatch.setattr(measures, "in_range", lambda weights, zoo: (weights, zoo, 1.0))
        yield mode


def network_on(device, name):
    with torch.device(device):
        return NETWORKS[name][0]()


def zoo_on(device, name, held_out=()):
    network = network_on(device, name)
    layout = Layout.of(network)
    weights = torch.rand(N, layout.size, device=device)
    return Zoo(weights, layout, network, {}, tuple(member in held_out for member in range(N)))


def state_on(device, name):
    zoo = zoo_on(device, name)
    return zoo.network, zoo.layout.unflatten(zoo.weights)


def inputs_on(device, name, *axes):
    shape = (*axes, *NETWORKS[name][1])
    return torch.ones(shape, dtype=torch.long, device=device) if name == "BERT" else torch.rand(shape, device=device)


def task_on(device, name):
    splits = {}
    for split in ("train", "calibration", "validation", "test"):
        splits[split] = Split(inputs_on(device, name, EXAMPLES), torch.zeros(EXAMPLES, dtype=torch.long, device=device))
    positions = {split: range(i * EXAMPLES, (i + 1) * EXAMPLES) for i, split in enumerate(splits)}
    return Task("fake", "classification", 3, splits, positions)


def plan_on(device, name):
    network = batchnorm.without_statistics(network_on(device, name)).train()
    recipe = Recipe(batch_size=8)
    task = task_on(device, name)
    return Plan(task, network, recipe, 0, "batched", torch.device(device), N, N, None)


def is_there(tensor):
    return tensor.device == torch.device("cuda:0")


def test_a_fake_tensor_is_not_read(fake):  # the control of all that follows
    for read in (float, bool, lambda number: number.tolist()):
        with pytest.raises(DataDependentOutputException):
            read(torch.ones((), device="cuda:0").sum())


# -- zoo ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_pass(fake, name):
    network, state = state_on("cuda:0", name)
    outputs = batched_forward(network.eval(), state, inputs_on("cuda:0", name, N, 2))
    assert is_there(outputs) and outputs.shape == (N, 2, 3)
    with elsewhere:
        batched_forward(network, state, inputs_on("cpu", name, N, 2))
    stays_behind = list(state)[-1]
    with elsewhere:
        batched_forward(network, state | {stays_behind: state[stays_behind].cpu()}, inputs_on("cuda:0", name, N, 2))


@pytest.mark.parametrize("name", NETWORKS)
def test_predict_and_evaluate_where_the_zoo_is(fake, name):
    zoo = zoo_on("cuda:0", name)
    assert is_there(predict(zoo, inputs_on("cpu", name, 5)))
    for task in (task_on("cpu", name), task_on("cuda:0", name)):
        found = evaluate(zoo, task)
        assert is_there(found.loss) and is_there(found.score) and is_there(found.wrong)
    on_cpu_still = Zoo(zoo.weights, zoo.layout, network_on("cpu", name))  # the template follows the weights
    assert is_there(predict(on_cpu_still, inputs_on("cpu", name, 5)))
    network, state = state_on("cuda:0", name)
    with elsewhere:
        forward.forward_all(network, state, inputs_on("cpu", name, 5))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_zoo_moves_with_its_template_and_its_members(fake, name):
    zoo = zoo_on("cpu", name, held_out=[1])
    there = zoo.to("cuda:0")
    assert is_there(there.weights) and is_there(there.fitted.weights) and is_there(there.take([0, 2]).weights)
    assert there.device == torch.device("cuda:0") and zoo.device == torch.device("cpu")
    tensors = [*there.network.parameters(), *there.network.buffers(), *there.module(1).parameters()]
    assert all(is_there(tensor) for tensor in tensors) and there.held_out == zoo.held_out
    assert all(tensor.device.type == "cpu" for tensor in zoo.network.parameters())
    back = there.to("cpu")
    assert back.weights.device.type == "cpu" and next(back.module(0).parameters()).device.type == "cpu"


def test_ensembles_where_the_zoo_is(fake, monkeypatch):
    with pytest.raises(DataDependentOutputException):  # control: what is asked once
        ensemble(zoo_on("cuda:0", "MLP"), task_on("cpu", "MLP"))
    monkeypatch.setattr(ensembles, "check_finite", lambda outputs, before: None)
    zoo = zoo_on("cuda:0", "MLP")
    for task in (task_on("cpu", "MLP"), task_on("cuda:0", "MLP")):
        found = ensemble(zoo, task)
        assert is_there(found.probabilities) and is_there(found.nll) and is_there(found.kappa)
    assert is_there(uncertainty(zoo, inputs_on("cpu", "MLP", 5)).mutual_information)


# -- training ----------------------------------------------------------------------------------------------------------


def no_gradients(losses, chunk):
    """``backward`` of a card that is not there: PyTorch asks the driver for its stream."""
    for parameter in chunk:
        parameter.grad = torch.zeros_like(parameter)


def start_of(plan, member):
    return {name: parameter.detach().cpu() for name, parameter in plan.network.named_parameters()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step(fake, monkeypatch, name):
    monkeypatch.setattr(Plan, "start", start_of)
    plan = plan_on("cuda:0", name)
    chunk = batched.Chunk(plan, range(N))
    monkeypatch.setattr(torch.Tensor, "backward", lambda losses: no_gradients(losses, chunk.parameters.values()))
    rows = torch.zeros(N, 8, dtype=torch.long, device="cuda:0")
    batched.take_step(plan, chunk, plan.network, rows)
    assert is_there(chunk.loss_sums) and all(is_there(parameter) for parameter in chunk.parameters.values())
    with elsewhere:
        batched.take_step(replace(plan, task=task_on("cpu", name)), chunk, plan.network, rows.cpu())
    trainee = loop.Trainee(plan, 0)
    monkeypatch.setattr(torch.Tensor, "backward", lambda losses: no_gradients(losses, trainee.network.parameters()))
    loop.take_step(plan, trainee, rows[0])
    assert is_there(trainee.loss_sum)
    with elsewhere:
        loop.take_step(replace(plan, task=task_on("cpu", name)), trainee, rows[0].cpu())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_lie_where_the_parameters_do(fake, monkeypatch, name):
    """On a device for which the engine of autograd asks no driver."""
    monkeypatch.setattr(Plan, "start", start_of)
    plan = replace(plan_on("lazy", name), recipe=PlainRecipe(batch_size=8))
    chunk = batched.Chunk(plan, range(N))
    batched.take_step(plan, chunk, plan.network, torch.zeros(N, 8, dtype=torch.long, device="lazy"))
    assert {parameter.grad.device.type for parameter in chunk.parameters.values()} == {"lazy"}


class PlainRecipe(Recipe):
    """Without a fused optimizer and autocast, which only real devices have."""

    def optimizer_for(self, parameters):
        return torch.optim.SGD(list(parameters), lr=self.lr)

    def autocast(self, device):
        return nullcontext()


# -- BatchNorm, lines between networks, statistics of units ------------------------------------------------------------


def test_statistics_of_batchnorm(fake):
    zoo = zoo_on("cuda:0", "ResNet")
    assert is_there(recalibrate(zoo, task_on("cpu", "ResNet"), batch_size=16).weights)
    network, state = state_on("cuda:0", "ResNet")
    measured = measure_statistics(network, state, [inputs_on("cuda:0", "ResNet", 8)] * 2)
    assert all(is_there(tensor) for tensor in measured.values())
    with elsewhere:
        measure_statistics(network, state, [inputs_on("cpu", "ResNet", 8)])


@pytest.mark.parametrize("name", ["MLP", "ResNet", "ViT"])
def test_barriers(fake, name):
    zoo = zoo_on("cuda:0", name)
    curve = linear_barrier(zoo, [(0, 1), (1, 2)], task_on("cpu", name), points=3)
    assert {part.device.type for part in (curve.t, curve.loss, curve.repaired.loss)} == {"cpu"}  # to be drawn
    a, b = zoo.weights[:1], zoo.weights[1:2]
    assert is_there(interpolate(a, b, torch.linspace(0, 1, 3).to(a)))
    with elsewhere:
        interpolate(a, b, torch.linspace(0, 1, 3))


@pytest.mark.parametrize("name", ["MLP", "ViT"])
def test_units_are_measured_and_repaired(fake, name):
    zoo, task, spec = zoo_on("cuda:0", name), task_on("cpu", name), PermutationSpec.of(NETWORKS[name][0]())
    statistics = repairing.unit_statistics(zoo, task, spec)
    assert is_there(statistics)
    assert is_there(repairing.repair(zoo, statistics.cpu(), task, spec).weights)
    x, hidden = inputs_on("cuda:0", name, 8), repairing._hidden_modules(zoo, spec, inputs_on("cuda:0", name, 2))
    with elsewhere:
        repairing._statistics(zoo, x.cpu(), hidden, None)


@pytest.mark.parametrize("name", ["MLP", "ViT"])
def test_correlations_of_units(fake, name):
    network, spec = network_on("cuda:0", name).eval(), PermutationSpec.of(NETWORKS[name][0]())
    writers, watched = activations._writers(spec, network, inputs_on("cuda:0", name, 2))
    correlations = activations._correlations(network, network, [inputs_on("cuda:0", name, 8)] * 2, watched)
    for uses in writers.values():
        for use in uses:
            assert is_there(activations._between_units(correlations[use.name.removesuffix(".weight")], use))
    with elsewhere:
        activations._correlations(network, network_on("cpu", name).eval(), [inputs_on("cuda:0", name, 8)], watched)


# -- gauges ------------------------------------------------------------------------------------------------------------


def test_gauges(fake):
    weight, bias, after = (torch.rand(*shape, device="cuda:0") for shape in ((N, 5, 4), (N, 5), (N, 3, 5)))
    assert is_there(gauge.balance_layer(weight, bias, after))
    with elsewhere:
        gauge.balance_layer(weight, bias.cpu(), after)
    for name in ("ViT", "BERT"):
        assert is_there(gauge.fix_circuits(zoo_on("cuda:0", name)).weights)
    with elsewhere:
        gauge._share_singular_values(weight, weight.cpu())


def test_gauge_of_filters(fake):
    _, state = state_on("cuda:0", "ResNet")
    norms = {"stages.0.0.conv1": "stages.0.0.norm1", "stem": "stem_norm"}
    gauge.normalise(state, norms, dict.fromkeys(norms.values(), 1e-5))
    assert all(is_there(tensor) for tensor in state.values())
    with elsewhere:
        gauge.normalise(state | {"stem.weight": state["stem.weight"].cpu()}, norms, dict.fromkeys(norms.values(), 1e-5))


def test_hidden_scales(fake):
    _, state = state_on("cuda:0", "MLP")
    layer, bias, reader = (
        scales.Use(name, axis, 0, 5, 1)
        for name, axis in (("layers.0.weight", 0), ("layers.0.bias", 0), ("layers.1.weight", 1))
    )
    sides = scales.Sides((layer, bias), (reader,))
    assert is_there(scales.balance_group(state, sides)) and is_there(scales.choose_signs(state, sides))
    with elsewhere:
        scales.balance_group(state | {"layers.0.bias": state["layers.0.bias"].cpu()}, sides)
    _, state = state_on("cuda:0", "ResNet")
    scales.fold_statistics(state, "stem_norm", 1e-5)
    scales.fold_gain(state, "stem_norm", "stem")
    assert all(is_there(tensor) for tensor in state.values())


# -- audit, simple generators, figures ---------------------------------------------------------------------------------


def test_measures_of_the_audit(fake):
    weights, zoo = torch.rand(4, 7, device="cuda:0"), torch.rand(N, 7, device="cuda:0")
    assert is_there(nearest_distance(weights, zoo)) and is_there(nearest_distance(zoo, zoo, skip_self=True))
    assert is_there(wrong_set_overlap(weights > 0.5, zoo > 0.5))
    with elsewhere:
        nearest_distance(weights, zoo.cpu())
    with elsewhere:
        wrong_set_overlap(weights > 0.5, (zoo > 0.5).cpu())


ON_WEIGHTS = [name for name in simple.TRIVIAL if name not in ("closed-form flow", "Gaussian on codes")]


@pytest.mark.parametrize("name", ON_WEIGHTS)
def test_simple_generators(fake, name):
    generator = type(simple.TRIVIAL[name])()
    generated = generator.fit(zoo_on("cuda:0", "MLP")).sample(4, seed=0)
    assert is_there(generated.weights) and len(generated) == 4


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
def test_mixtures(fake, coefficients):
    generator = AffineMixture(None, coefficients).fit(zoo_on("cuda:0", "MLP"))
    assert is_there(generator.sample(4, seed=0).weights)
    generator.mean_ = generator.mean_.cpu()
    with elsewhere:
        generator.sample(4, seed=0)


def test_units_in_balance(fake):
    zoo = zoo_on("cuda:0", "MLP")
    candidates = torch.rand(3, 2, zoo.layout.size, device="cuda:0")
    inputs = torch.rand(5, zoo.network.sizes[0], device="cuda:0")
    layers = MLPLayers(zoo, inputs)
    orders = [torch.rand(3, units).argsort(1) for units in layers.hidden]  # drawn on the CPU, as all that is random
    assert is_there(layers.put_together(candidates, orders))
    layers.x = layers.x.cpu()
    with elsewhere:
        layers.put_together(candidates, orders)


@pytest.mark.parametrize("neighbours", [None, 2])
def test_codes_that_are_drawn_beside_those_of_a_flow(fake, neighbours):
    model = LeadingFlow(2)
    model.leading_, model.rest_, model.std_ = (torch.rand(*size, device="cuda:0") for size in ((N, 2), (N, 4), (4,)))
    model.factor_, model.neighbours_ = 1.2, neighbours
    x1 = torch.rand(5, 2, device="cuda:0")
    assert is_there(model._others(x1, torch.Generator()))
    if neighbours:
        with elsewhere:
            model._others(x1.cpu(), torch.Generator())


def test_a_flow_that_is_told_a_condition(fake, monkeypatch):
    codes, conditions = torch.rand(N, 5, device="cuda:0"), torch.rand(N, 2, device="cuda:0")
    settings = FlowSettings(hidden=8)
    field = ConditionalField(5, 2, settings.hidden, label_dropout=0.5).to("cuda:0")
    assert is_there(flow_step(monkeypatch, field, codes, settings, conditions))
    x0 = torch.rand(N, 5, device="cuda:0")
    for guidance in (0.0, 1.0, 2.0):
        assert is_there(solver.integrate(guided(field.eval(), conditions, guidance), x0, steps=2).end)
    with elsewhere:
        solver.integrate(guided(field, conditions.cpu(), 2.0), x0, steps=2)


def test_figures_draw_what_is_on_the_cpu(fake):
    there = torch.ones(2, device="cuda:0")
    drawn = on_cpu({"a": (there, [there]), "b": 1.0})
    assert drawn["a"][0].device.type == drawn["a"][1][0].device.type == "cpu" and drawn["b"] == 1.0


# -- alignment ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_descent_multiplies_there_and_assigns_here(fake, monkeypatch, name):
    spec, gains = PermutationSpec.of(NETWORKS[name][0]()), iter([1.0])

    def best_orders(similarity, heads):  # the first visit gains, no other does
        assert all(units.device.type == "cpu" for units in similarity.values())  # SciPy takes no others
        return {group: torch.arange(len(units)).flip(0) for group, units in similarity.items()}, next(gains, 0.0)

    monkeypatch.setattr(Permutation, "__post_init__", lambda permutation: None)
    monkeypatch.setattr(torch, "randperm", lambda count, **named: SimpleNamespace(tolist=lambda: list(range(count))))
    monkeypatch.setattr(matching, "best_orders", best_orders)
    for number in ("inner_product", "rounding_error"):
        monkeypatch.setattr(matching, number, lambda *states: 0.0)
    a, b = (spec.parameters(weights) for weights in zoo_on("cuda:0", name).weights[:2])
    start = Permutation({group: torch.arange(units) for group, units in spec.groups.items()})
    found = matching.coordinate_descent(a, b, spec, start, torch.Generator())
    assert found.objective[:2] == [0.0, 1.0] and next(gains, None) is None
    assert all(order.device.type == "cpu" for order in found.permutation.indices.values())
    assert all(is_there(tensor) for tensor in spec.permute(b, found.permutation).values())
    stays_behind = spec.uses[next(iter(spec.groups))][0].name
    with elsewhere:
        matching.coordinate_descent(a, b | {stays_behind: b[stays_behind].cpu()}, spec, start, torch.Generator())


# -- from a zoo to the audit -------------------------------------------------------------------------------------------


def orders_of(spec, rows):
    """What assignments on the CPU would give for so many rows: here every group turned round."""
    return {group: torch.arange(units).flip(0).expand(rows, units) for group, units in spec.groups.items()}


def similarities(spec, reference, weights):
    """Of the units of a reference (d,) to those of each row (N, d): the first visit of each group, on the device."""
    a, b = spec.parameters(reference), spec.parameters(weights)
    orders = orders_of(spec, len(weights))
    for group, places in spec.places.items():
        for place in places:
            yield products_at(place.rows(a, 0), place.rows(b, 1), spec.groups[group], place.others, None, orders)


def flow_step(monkeypatch, field, codes, settings, conditions=None):
    """One step of training, as train_flow takes it; gives the loss."""
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: no_gradients(loss, field.parameters()))
    generator = torch.Generator()
    batches = train.Batches(codes, 8, generator, conditions)
    optimizer, _ = train.make_optimizer(field, settings)
    source = GaussianSource(codes.shape[1])
    return train.take_step(field, StraightPath(0.001), source, batches, optimizer, "independent", generator)


def distances_up_to_permutation(monkeypatch, spec, weights, zoo):
    """As the audit measures them; which pairs are matched, and how, is answered."""
    monkeypatch.setattr(measures, "_nearest_pairs", lambda distances, candidates: {(0, 0), (0, 1), (3, 2)})
    monkeypatch.setattr(measures, "_suspected_copies", lambda at_least, best: {(1, 2)})
    matched_on = []

    def match_all(reference, rows, spec, **named):
        matched_on.extend([reference, rows, *similarities(spec, reference, rows)])
        return orders_of(spec, len(rows))

    monkeypatch.setattr(measures, "match_all", match_all)
    monkeypatch.setattr(measures, "permute_all", permute_rows)
    found = rematched_distance(weights, zoo, spec)
    assert all(is_there(tensor) for tensor in matched_on)
    return found


def chain(monkeypatch, name, left_behind=None):
    """Zoo, alignment, PCA, flow, networks, BatchNorm, predictions, audit: each takes what the one before gives."""

    def handed_on(stage, tensor):
        assert is_there(tensor) or left_behind, stage
        return tensor.cpu() if stage == left_behind else tensor

    zoo, task, spec = zoo_on("cuda:0", name), task_on("cpu", name), PermutationSpec.of(NETWORKS[name][0]())
    for similarity in similarities(spec, zoo.weights[0], handed_on("zoo", zoo.weights)):
        assert is_there(similarity)
    weights = handed_on("alignment", permute_rows(orders_of(spec, N), spec, zoo.weights))  # (N, d)
    aligned = Zoo(weights, zoo.layout, zoo.network)

    gram, mean = gram_of(aligned.weights, torch.float64)
    handed_on("Gram matrix", gram), handed_on("mean", mean)
    values, vectors = compress._eigenvectors(gram.cpu())  # (N,), (N, N): small, and decomposed on the CPU
    combination = vectors[:, : N - 1] / values[: N - 1].sqrt()  # (N, k)
    products, _ = projected(aligned.weights, aligned.weights, None, torch.float64)
    codes = handed_on("PCA", products @ combination.to(products)).float()  # (N, k)

    settings = FlowSettings(hidden=8)
    field = make_field(N - 1, settings, seed=0).to(zoo.device)
    handed_on("loss", flow_step(monkeypatch, field, codes, settings))
    x0 = GaussianSource(N - 1).sample(4, torch.Generator()).to(field.head.weight)
    points = handed_on("flow", solver.integrate(field.eval(), x0, steps=2).end)  # (4, k)

    coefficients = points @ combination.T.to(zoo.weights)  # (4, N)
    decoded = handed_on("decoding", combined(coefficients, aligned.weights))  # (4, d)
    generated = Zoo(decoded, zoo.layout, zoo.network)
    if name == "ResNet":
        recalibrated = recalibrate(generated, task, batch_size=16).weights
        generated = generated.with_weights(handed_on("BatchNorm", recalibrated), {}, keep_scores=False)
    handed_on("outputs", predict(generated, task.test.x))
    wrong, wrong_of_zoo = (evaluate(networks, task).wrong for networks in (generated, aligned))
    handed_on("overlap", wrong_set_overlap(handed_on("scores", wrong), wrong_of_zoo))
    handed_on("distance", nearest_distance(generated.weights, aligned.weights))
    found = distances_up_to_permutation(monkeypatch, spec, generated.weights, aligned.weights)
    assert found.device.type == "cpu" and found.shape == (4,)  # numbers for a table


@pytest.mark.parametrize("name", NETWORKS)
def test_from_a_zoo_to_the_audit(fake, monkeypatch, name):
    chain(monkeypatch, name)


@pytest.mark.parametrize("stage", ["zoo", "alignment", "PCA", "flow", "decoding", "BatchNorm", "scores"])
def test_what_stays_behind_between_two_stages_is_refused(fake, monkeypatch, stage):
    with elsewhere:
        chain(monkeypatch, "ResNet", left_behind=stage)
