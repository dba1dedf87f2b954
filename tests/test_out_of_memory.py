"""Out of memory at a public door: one sentence says which number to lower; any other error goes through as it is."""

from __future__ import annotations

from importlib import import_module
from inspect import getmembers, isclass

import pytest
import torch
from sklearn.base import BaseEstimator

from dwflow_lite import compress
from dwflow_lite.auditing import audit, measures, nearest_distance, rematched_distance, wrong_set_overlap
from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import FlowSettings, integrate, train
from dwflow_lite.flow.field import make_field
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.generate import DeepWeightFlow, deepweightflow, fit_together, mixtures, simple
from dwflow_lite.networks import MLP
from dwflow_lite.support.devices import is_out_of_memory
from dwflow_lite.symmetry import (
    PermutationSpec,
    canonical,
    canonicalise,
    many,
    match_all,
    straight_through,
    straight_through_matching,
    weight_matching,
)
from dwflow_lite.tasks import load_task
from dwflow_lite.training import Recipe, loop, plan, train_zoo
from dwflow_lite.use import ensemble, uncertainty
from dwflow_lite.zoo import batching, forward

auditing = import_module("dwflow_lite.auditing.audit")  # the package has a function of this name
TASK = load_task("iris")
ZOO = train_zoo(TASK, MLP([4, 5, 3]), members=5, held_out=1, recipe=Recipe(epochs=1))
SPEC, WEIGHTS, CODES = PermutationSpec.of(ZOO.network), ZOO.weights, torch.zeros(2, 4)
WRONG = WEIGHTS > 0
SETTINGS = FlowSettings(hidden=8, steps=2)
MODEL = DeepWeightFlow(flow=SETTINGS).fit(ZOO)
PCA = DualPCA().fit(ZOO.fitted.weights)
GENERATED = simple.Retrieval().fit(ZOO).sample(2, seed=0)


def train_a_flow():
    train.train_flow(make_field(3, SETTINGS, seed=0), torch.randn(5, 3), GaussianSource(3), SETTINGS)


# Door -> the function inside that finds no memory, what the sentence says, and a call.
DOORS = {
    "audit: distances": (auditing, "nearest_distance", "fewer generated networks", lambda: audit(GENERATED, ZOO, TASK)),
    "audit: matching": (measures, "match_all", "or rematch=False", lambda: audit(GENERATED, ZOO, TASK)),
    "audit: scores": (auditing, "evaluate", "fewer generated networks", lambda: audit(GENERATED, ZOO, TASK)),
    "audit: a control": (simple, "as_zoo", "fewer generated networks", lambda: audit(GENERATED, ZOO, TASK)),
    "distance": (measures, "in_range", "fewer at a time", lambda: nearest_distance(WEIGHTS, WEIGHTS)),
    "matched": (measures, "match_all", "or fewer candidates", lambda: rematched_distance(WEIGHTS, WEIGHTS, SPEC)),
    "overlap": (torch, "where", "fewer at a time", lambda: wrong_set_overlap(WRONG, WRONG)),
    "PCA: fit": (compress, "gram_of", "smaller memory=", lambda: DualPCA().fit(WEIGHTS)),
    "PCA: fit and codes": (compress, "gram_of", "smaller memory=", lambda: DualPCA().fit_transform(WEIGHTS)),
    "PCA: codes": (compress, "projected", "smaller memory=", lambda: PCA.transform(WEIGHTS)),
    "PCA: shares": (compress, "projected", "smaller memory=", lambda: PCA.reconstruction(WEIGHTS)),
    "PCA: decoding": (compress, "combined", "fewer at a time", lambda: PCA.inverse_transform(CODES)),
    "flow: training": (train, "flow_matching_loss", "smaller batch_size", train_a_flow),
    "flow: points": (torch, "linspace", "fewer x0 at a time", lambda: integrate(lambda x, t: x, CODES)),
    "generator: alignment": (canonical, "match_rows", "fewer members", lambda: DeepWeightFlow().fit(ZOO)),
    "generator: PCA": (compress, "gram_of", "smaller memory=", lambda: DeepWeightFlow().fit(ZOO)),
    "generator: training": (train, "couple", "smaller batch_size", lambda: DeepWeightFlow(flow=SETTINGS).fit(ZOO)),
    "generator: points": (deepweightflow, "integrate", "smaller n", lambda: MODEL.sample(2, seed=0)),
    "generator: path": (torch, "linspace", "smaller n", lambda: MODEL.trajectory(2, seed=0)),
    "generator: networks": (compress, "combined", "smaller n", lambda: MODEL.sample(2, seed=0)),
    "generator: decoding": (compress, "combined", "fewer codes", lambda: MODEL.decode(CODES)),
    "generator: codes": (compress, "projected", "pass fewer", lambda: MODEL.encode(MODEL.zoo_)),
    "flows side by side": (train, "couple", "smaller at_once", lambda: fit_together({0: (MODEL, ZOO)})),
    "alignment": (canonical, "permute_rows", "fewer restarts", lambda: canonicalise(ZOO)),
    "matching": (many, "match_rows", "fewer restarts", lambda: weight_matching(*WEIGHTS[:2], SPEC)),
    "matchings": (many, "match_rows", "fewer at a time", lambda: match_all(WEIGHTS[0], WEIGHTS, SPEC)),
    "ensemble": (forward, "forward_all", "smaller members_at_once", lambda: ensemble(ZOO, TASK)),
    "ensemble: sums": (torch, "logaddexp", "smaller members_at_once", lambda: ensemble(ZOO, TASK)),
    "doubt": (forward, "forward_all", "smaller members_at_once", lambda: uncertainty(ZOO, TASK.test.x)),
    "doubt: sums": (torch, "logaddexp", "smaller members_at_once", lambda: uncertainty(ZOO, TASK.test.x)),
    "training: examples": (plan, "moved", 'device="cpu"', lambda: train_zoo(TASK, MLP([4, 3, 3]), members=2)),
    "training: one by one": (
        loop, "step_noise", "smaller batch_size", lambda: train_zoo(TASK, MLP([4, 3, 3]), members=2, method="loop")
    ),
    "straight through": (
        straight_through, "functional_call", "smaller batch_size",
        lambda: straight_through_matching(*WEIGHTS[:2], SPEC, ZOO.network, TASK, steps=1),
    ),
}  # fmt: skip


def failing(error):
    def fail(*arguments, **named):
        raise error

    return fail


def check_door(monkeypatch, module, function, says, call):
    with monkeypatch.context() as patched:
        patched.setattr(module, function, failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")))
        with pytest.raises(MemoryError) as raised:
            call()
    message = str(raised.value)
    assert message.startswith("no memory") and ": pass " in message and says in message
    assert ". " not in message and not message.endswith(".") and len(message) <= 120  # one sentence, one line
    other = RuntimeError("shapes do not fit")  # control
    with monkeypatch.context() as patched:
        patched.setattr(module, function, failing(other))
        with pytest.raises(RuntimeError) as raised:
            call()
    assert raised.value is other


@pytest.mark.parametrize("door", DOORS)
def test_a_door_says_which_number_to_lower(monkeypatch, door):
    check_door(monkeypatch, *DOORS[door])


@pytest.mark.parametrize(
    "says",
    [
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB)",
    ],
)
def test_each_device_has_its_own_words_for_it(says):
    assert is_out_of_memory(RuntimeError(says))
    for other in (ValueError(says), RuntimeError("shapes do not fit")):  # controls
        assert not is_out_of_memory(other)


def test_no_memory_for_two_at_once_does_not_make_a_loop_of_it(monkeypatch):
    network, state = MLP([4, 3, 3]), {n: torch.stack([t, t]) for n, t in MLP([4, 3, 3]).state_dict().items()}
    with monkeypatch.context() as patched:
        patched.setattr(batching.Attempt, "together", failing(torch.OutOfMemoryError()))
        with pytest.raises(torch.OutOfMemoryError):
            batching.runs_batched(network, state, torch.zeros(2, 4))
        with pytest.raises(MemoryError, match="2 members at once: pass a smaller members_at_once"):
            train_zoo(TASK, network, members=3)
    with monkeypatch.context() as patched, pytest.warns(UserWarning):  # control: it cannot be done at once
        patched.setattr(batching.Attempt, "together", failing(RuntimeError("no batching rule")))
        patched.setattr(batching, "_noted", set())
        assert not batching.runs_batched(network, state, torch.zeros(2, 4))


GENERATORS = [
    (module, name)
    for module in (simple, mixtures)
    for name, kind in getmembers(module, isclass)
    if issubclass(kind, BaseEstimator) and kind.__module__ == module.__name__
]


@pytest.mark.parametrize(("module", "name"), GENERATORS, ids=[name for _, name in GENERATORS])
def test_a_simple_generator_says_which_number_to_lower(monkeypatch, module, name):
    generator = getattr(module, name)()
    fitted = getattr(module, name)().fit(ZOO)
    check_door(monkeypatch, simple, "computable", "a zoo of fewer", lambda: generator.fit(ZOO))
    check_door(monkeypatch, module, "as_zoo", "smaller n", lambda: fitted.sample(2, seed=0))


def test_a_fit_that_found_no_memory_can_be_tried_again(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(compress, "gram_of", failing(torch.OutOfMemoryError()))
        pca = DualPCA()
        with pytest.raises(MemoryError):
            pca.fit(WEIGHTS)
    assert not hasattr(pca, "n_components_") and pca.fit(WEIGHTS).n_components_ == len(WEIGHTS) - 1
