"""The stream of a transformer: folded norms, rotations, and a planted basis that is found again."""

from dataclasses import replace

import pytest
import torch

from dwflow_lite import MLP, Recipe, Zoo, load_task, train_zoo
from dwflow_lite.networks import ViT
from dwflow_lite.symmetry import (
    PermutationSpec,
    basis_of,
    best_rotation,
    coordinate_descent,
    fold_norms,
    linear_barrier,
    match_stream,
    rotate_stream,
    unit_similarity,
    weight_matching,
)
from dwflow_lite.zoo import predict

NETWORK = ViT(8, 4, 12, 2, 3, hidden=10, channels=1).double()


def rng(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def zoo():
    spec = PermutationSpec.of(NETWORK)
    return Zoo(torch.randn(3, spec.layout.size, generator=rng(0), dtype=torch.float64) * 0.4, spec.layout, NETWORK)


@pytest.fixture
def spec():
    return PermutationSpec.of(NETWORK, stream=True)


X = torch.randn(7, 1, 8, 8, generator=rng(1), dtype=torch.float64)


def rotation(seed, n=12):
    """A random one that leaves the all-ones vector alone."""
    return best_rotation(torch.randn(n, n, generator=rng(seed), dtype=torch.float64))


def turned(zoo, spec, r, member=0):
    state = rotate_stream(spec.layout.unflatten(zoo.weights[member]), spec, r)
    return Zoo(spec.layout.flatten(state)[None], zoo.layout, zoo.network)


def test_folding_changes_no_output_and_empties_the_norms(zoo):
    kept = zoo.weights.clone()
    folded = fold_norms(zoo)
    torch.testing.assert_close(predict(folded, X), predict(zoo, X), rtol=1e-9, atol=1e-10)
    state = folded.layout.unflatten(folded.weights)
    for norm in ("norm", "blocks.0.norm1", "blocks.1.norm2"):
        assert (state[f"{norm}.weight"] == 1).all() and (state[f"{norm}.bias"] == 0).all()
    assert torch.equal(zoo.weights, kept) and basis_of(folded) != basis_of(zoo)
    torch.testing.assert_close(fold_norms(folded).weights, folded.weights)
    with pytest.raises(ValueError, match="only a ViT has norms to fold, not MLP"):
        fold_norms(train_zoo(load_task("digits"), MLP([64, 4, 10]), members=2, recipe=Recipe(epochs=1)))


def test_a_folded_stream_may_be_rotated_and_no_other(zoo, spec):
    folded, r = fold_norms(zoo), rotation(0)
    torch.testing.assert_close(r @ r.T, torch.eye(12, dtype=r.dtype))
    torch.testing.assert_close(r.sum(1), torch.ones(12, dtype=r.dtype))
    same = turned(folded, spec, r)
    torch.testing.assert_close(predict(same, X), predict(folded.take([0]), X), rtol=1e-8, atol=1e-9)
    assert (same.weights - folded.weights[0]).abs().max() > 0.1
    # controls: gains left in place; a rotation that moves the all-ones vector
    assert (predict(turned(zoo, spec, r), X) - predict(zoo.take([0]), X)).abs().max() > 1e-2
    other = torch.linalg.qr(torch.randn(12, 12, generator=rng(3), dtype=torch.float64))[0]
    assert (predict(turned(folded, spec, other), X) - predict(folded.take([0]), X)).abs().max() > 1e-2


def test_the_best_rotation_is_that_of_scipy(zoo):
    from scipy.linalg import orthogonal_procrustes

    a, b = torch.randn(2, 9, 30, generator=rng(0), dtype=torch.float64)
    a, b = a - a.mean(0), b - b.mean(0)  # nothing along all-ones, so the restriction costs nothing
    oracle = torch.from_numpy(orthogonal_procrustes(b.T.numpy(), a.T.numpy())[0]).T
    found = best_rotation(a @ b.T)
    assert float((found * (a @ b.T)).sum()) == pytest.approx(float((oracle * (a @ b.T)).sum()))
    assert float((rotation(5, 9) * (a @ b.T)).sum()) < float((found * (a @ b.T)).sum())


def test_a_planted_basis_is_found_again(zoo, spec):
    folded = fold_norms(zoo)
    a = folded.weights[0]
    hidden = turned(folded, spec, rotation(2)).weights[0]
    hidden = spec.fix("stream").apply(spec.fix("stream").random(rng(0)), hidden)
    matching = match_stream(a, hidden, spec)
    found = matching.apply(spec, hidden)
    pair = Zoo(torch.stack([a, hidden, found]), zoo.layout, zoo.network)
    outputs = predict(pair, X)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-7, atol=1e-8)
    cosine = float(torch.cosine_similarity(a, found, 0))
    permuted = weight_matching(a, hidden, spec).apply(spec, hidden)
    assert cosine > 0.9 and cosine > float(torch.cosine_similarity(a, permuted, 0)) + 0.1


def test_matching_the_stream_never_lowers_similarity(zoo, spec):
    folded = fold_norms(zoo)
    a, b = folded.weights[:2]
    start = weight_matching(a, b, spec).permutation
    permuted = spec.apply(start, b)
    matching = match_stream(a, b, spec, start)
    found = matching.apply(spec, b)
    assert float(a @ found) > float(a @ permuted) > float(a @ b)
    history = torch.tensor(matching.objective, dtype=torch.float64)
    assert history[0] == pytest.approx(float(a @ permuted)) and history[-1] == pytest.approx(float(a @ found))
    assert (history.diff() >= -1e-9 * history[-1]).all() and len(history) > 3
    after = Zoo(torch.stack([b, found]), zoo.layout, zoo.network)
    outputs = predict(after, X)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-7, atol=1e-8)


def written_out(a, b, spec, start, seed):
    """What match_stream did to the tensors, step by step, before it returned a matching."""
    fixed, generator = spec.fix("stream"), rng(seed)
    one, other = spec.parameters(a), spec.permute(spec.parameters(b), start)
    best = -torch.inf
    while True:
        other = rotate_stream(other, spec, best_rotation(unit_similarity(one, other, spec, "stream")))
        descent = coordinate_descent(one, other, fixed, fixed.identity(), generator)
        other = fixed.permute(other, descent.permutation)
        if descent.objective[-1] <= best + 1e-9 * float(a @ a):
            return spec.layout.flatten(other)
        best = descent.objective[-1]


@pytest.mark.parametrize("begin", ["identity", "random"])
def test_one_rotation_and_one_permutation_say_all_that_was_done(zoo, spec, begin):
    """Each acts on other axes than the other, so all rotations make one, the order of the stream at the start too."""
    a, b = fold_norms(zoo).weights[:2]
    start = spec.identity() if begin == "identity" else spec.random(rng(8))
    matching = match_stream(a, b, spec, start, seed=3)
    expected = written_out(a, b, spec, start, seed=3)

    def distance(weights):
        return float((weights - expected).norm() / expected.norm())

    assert distance(matching.apply(spec, b)) < 1e-12
    assert distance(matching.apply(spec, torch.stack([a, b]))[1]) < 1e-12  # row by row
    eye = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(matching.rotation @ matching.rotation.T, eye)
    assert torch.equal(matching.permutation.indices["stream"], torch.arange(12))
    other_order = rotate_stream(spec.layout.unflatten(b), spec, matching.rotation)
    assert distance(spec.apply(matching.permutation, spec.layout.flatten(other_order))) < 1e-12  # they commute
    # controls: either one left out
    assert distance(spec.apply(matching.permutation, b)) > 0.1
    assert distance(replace(matching, permutation=spec.identity()).apply(spec, b)) > 0.1
    with pytest.raises(ValueError, match="holds the stream fixed"):
        rotate_stream(spec.layout.unflatten(b), spec.fix("stream"), matching.rotation)


def test_a_line_to_a_rotated_self_is_flat_only_when_matched():
    task, network = load_task("digits"), ViT(8, 4, 12, 1, 3, hidden=10, channels=1)
    zoo = fold_norms(train_zoo(task, network, members=2, recipe=Recipe(epochs=4, lr=4e-3)))
    free = PermutationSpec.of(network, stream=True)
    twin = turned(zoo, free, rotation(4)).weights[0]
    mended = match_stream(zoo.weights[0], twin, free).apply(free, twin)
    lines = Zoo(torch.stack([zoo.weights[0], twin, mended]), zoo.layout, network)
    curve = linear_barrier(lines, [(0, 1), (0, 2)], task, points=5, repaired=False)
    assert float(curve.loss_barrier[1]) < 0.05 < float(curve.loss_barrier[0])


def test_weights_that_are_not_finite_are_refused(zoo, spec):
    a, b = fold_norms(zoo).weights[:2]
    for careless in (b * float("nan"), b[None]):
        with pytest.raises(ValueError, match="b must be one finite weight vector"):
            match_stream(a, careless, spec, rounds=1)
    match_stream(a, b, spec, rounds=1)  # control
