"""The package, and a notebook, on a card made of the processor, which refuses what a card refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from dwflow_lite import (
    MLP,
    DeepWeightFlow,
    DualPCA,
    PermutationSpec,
    Recipe,
    Zoo,
    audit,
    canonicalise,
    evaluate,
    load_task,
    train_zoo,
)
from dwflow_lite.auditing import codec_ceiling
from dwflow_lite.batchnorm import recalibrate
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import AffineMixture, ConditionalDeepWeightFlow, align_together, fit_together
from dwflow_lite.networks import ResNet, ViT
from dwflow_lite.support.devices import said, usable_device
from dwflow_lite.symmetry import activation_matching, linear_barrier, weight_matching
from dwflow_lite.use import ensemble, uncertainty

CARD = Path(__file__).parent / "card"
sys.path.insert(0, str(CARD))
from pretended import pretended_card  # noqa: E402 - it lies beside, for kernels

FLOW = FlowSettings(hidden=16, steps=5)
SHORT = Recipe(epochs=1, batch_size=400)
refused = pytest.raises(RuntimeError, match="to be on the same device")


@pytest.fixture
def card():
    with pretended_card():
        yield torch.device("cuda", 0)


# -- what it refuses ---------------------------------------------------------------------------------------------------


def test_it_is_found_and_is_gone_afterwards():
    with pretended_card():
        assert usable_device() == torch.device("cuda", 0) and said(usable_device()) == "a pretended card"
        assert torch.zeros(2, device="cuda").device.type == "cuda" and torch.zeros(2).device.type == "cpu"
    assert torch.cuda.is_available() or usable_device().type == "cpu"


MIXED = {
    "a sum": lambda there, here: there + here,
    "a product": lambda there, here: here @ there,
    "a concatenation": lambda there, here: torch.cat([there, here]),
    "an index on the card": lambda there, here: here[there.long()],
    "in place": lambda there, here: there.add_(here),
    "a module": lambda there, here: torch.nn.Linear(3, 3)(there),
    "vmap": lambda there, here: torch.vmap(torch.dot)(there, here),
}


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
def test_what_is_mixed_is_refused(card, mixed):
    there, here = torch.ones(3, 3, device=card), torch.ones(3, 3)
    with refused:
        mixed(there, here)
    mixed(there.cpu(), here)  # control
    if mixed is not MIXED["a module"]:
        assert mixed(there, here.to(card)).device == card


def test_what_a_card_allows_is_allowed(card):
    there = torch.ones(3, 3, device=card)
    assert (there + torch.tensor(1.0)).device == card  # a number
    assert there[torch.tensor([0, 2])].device == card  # indices from the CPU
    assert there.copy_(torch.zeros(3, 3)).device == card
    module = torch.nn.Linear(3, 3).to(card)
    assert module(there).device == card
    module(there).sum().backward()
    assert module.weight.grad.device == card and module.cpu().weight.device.type == "cpu"
    with pytest.raises(TypeError, match="to numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.randn(2, generator=torch.Generator(), device=card)


# -- the package -------------------------------------------------------------------------------------------------------


def small_zoo(task, card, network=None, **options):
    network = MLP([64, 6, 6, 10]) if network is None else network
    return train_zoo(task, network, members=5, held_out=2, recipe=SHORT, device=card, **options)


def test_a_zoo_is_the_one_of_the_cpu(card, tmp_path):
    task = load_task("digits").to(card)
    zoo = small_zoo(task, card, checkpoint=tmp_path)
    assert zoo.device == card and small_zoo(task, card, checkpoint=tmp_path).device == card
    assert torch.equal(zoo.weights.cpu(), small_zoo(load_task("digits"), "cpu").weights)  # numbers are the CPU's
    alone = small_zoo(task, card, method="loop")
    assert alone.device == card and torch.allclose(alone.weights, zoo.weights, atol=1e-4)
    on_disk = small_zoo(task, card, folder=tmp_path / "zoo", members_at_once=3)
    assert on_disk.in_memory().device == card
    assert Zoo.load(zoo.save(tmp_path / "zoo.safetensors"), device=card).device == card


def test_from_alignment_to_audit(card, tmp_path):
    task = load_task("digits").to(card)
    zoo = small_zoo(task, card)
    aligned = canonicalise(zoo, rounds=2, restarts=2)
    spec = PermutationSpec.of(zoo.network)
    a, b = zoo.weights[:2]
    matched = (weight_matching(a, b, spec), activation_matching(a, b, spec, zoo.network, task.train.x[:50]))
    assert all(spec.apply(matching.permutation, b).device == card for matching in matched)
    assert linear_barrier(aligned, [(0, 1)], task).loss_barrier.shape == (1,)

    model = DeepWeightFlow(align=None, flow=FLOW).fit(aligned)
    made = model.sample(4, seed=1)
    again = DeepWeightFlow.load(model.save(tmp_path / "flow.safetensors"), device=card).sample(4, seed=1)
    assert made.device == again.device == card and torch.equal(made.weights, again.weights)
    assert model.sample(4, seed=1, folder=tmp_path / "made").in_memory().device == card
    assert model.trajectory(3, seed=0, steps=2).end.device == card
    together = fit_together({h: (DeepWeightFlow(align=None, flow=FLOW), aligned) for h in (1, 2)})
    made_by = {f"flow {h}": flow.sample(3, seed=0) for h, flow in together.items()}
    table = audit(made_by | {"flow": made}, aligned, task, split="test")
    assert table["flow"].networks == 4
    assert codec_ceiling(aligned, task, (2, 4))[0].held_out_share < 1
    assert ensemble(made, task).counts[-1] == 4
    assert uncertainty(made, task.test.x).mutual_information.min() >= 0


@pytest.mark.parametrize("components", [None, 2])
def test_every_question_to_a_pca(card, components):
    x, new = torch.randn(6, 40).to(card), torch.randn(3, 40).to(card)
    pca = DualPCA(components).fit(x)
    assert pca.inverse_transform(pca.transform(new)).device == card
    assert pca.reconstruction(new).device == card and pca.components_.device == card
    here = DualPCA(components).fit(x.cpu())
    assert torch.allclose(pca.reconstruction(new).cpu(), here.reconstruction(new.cpu()))  # and numbers are right


def test_residual_networks_and_transformers(card):
    task = load_task("digits").to(card)
    zoo = small_zoo(task, card, ResNet((4, 4), 1, channels=1))
    aligned = canonicalise(zoo)
    assert recalibrate(aligned, task).device == card
    made = DeepWeightFlow(align=None, flow=FLOW).fit(aligned).sample(2, seed=0)
    assert recalibrate(made, task).device == card
    transformers = small_zoo(task, card, ViT(8, 4, 8, 1, 2, channels=1))
    assert evaluate(canonicalise(transformers), task).score.device == card


def test_conditions_and_mixtures(card):
    zoos = {}
    for seed in (0, 1):
        zoos[f"seed {seed}"] = small_zoo(load_task("digits").to(card), card, seed=seed)
    aligned = align_together(zoos)
    model = ConditionalDeepWeightFlow(align=None, flow=FLOW).fit(aligned)
    assert model.sample(2, condition="seed 1", seed=0).device == card
    assert AffineMixture().fit(aligned["seed 0"]).sample(2, seed=0).device == card


# -- a notebook --------------------------------------------------------------------------------------------------------


def run(source):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    path = os.pathsep.join([str(CARD), str(CARD.parents[1]), os.environ.get("PYTHONPATH", "")])
    NotebookClient(nb, kernel_name="python3", timeout=200).execute(env=os.environ | {"PYTHONPATH": path})


def test_kernels_have_the_card_and_nothing_else_has():
    run("import torch\nassert torch.ones(2).to('cuda').device.type == 'cuda'")
    with pytest.raises(CellExecutionError, match="to be on the same device"):
        run("import torch\ntorch.ones(2).to('cuda') + torch.ones(2)")
    assert torch.ones(2).device.type == "cpu"
