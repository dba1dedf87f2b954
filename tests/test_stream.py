"""The stream of a transformer: folded norms, rotations, and a planted basis that is found again."""

import pytest
import torch

from dwflow_lite import MLP, Recipe, Zoo, load_task, train_zoo
from dwflow_lite.networks import ViT
from dwflow_lite.symmetry import (
    PermutationSpec,
    basis_of,
    best_rotation,
    fold_norms,
    linear_barrier,
    match_stream,
    rotate_stream,
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
    found = match_stream(a, hidden, spec)
    pair = Zoo(torch.stack([a, hidden, found]), zoo.layout, zoo.network)
    outputs = predict(pair, X)
    torch.testing.assert_close(outputs[2], outputs[0], rtol=1e-7, atol=1e-8)
    cosine = float(torch.cosine_similarity(a, found, 0))
    renumbered = spec.apply(weight_matching(a, hidden, spec).permutation, hidden)
    assert cosine > 0.9 and cosine > float(torch.cosine_similarity(a, renumbered, 0)) + 0.1


def test_matching_the_stream_never_lowers_similarity(zoo, spec):
    folded = fold_norms(zoo)
    a, b = folded.weights[:2]
    start = weight_matching(a, b, spec).permutation
    renumbered = spec.apply(start, b)
    found = match_stream(a, b, spec, start)
    assert float(a @ found) > float(a @ renumbered) > float(a @ b)
    after = Zoo(torch.stack([b, found]), zoo.layout, zoo.network)
    outputs = predict(after, X)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-7, atol=1e-8)


def test_a_line_to_a_rotated_self_is_flat_only_when_matched():
    task, network = load_task("digits"), ViT(8, 4, 12, 1, 3, hidden=10, channels=1)
    zoo = fold_norms(train_zoo(task, network, members=2, recipe=Recipe(epochs=4, lr=4e-3)))
    free = PermutationSpec.of(network, stream=True)
    twin = turned(zoo, free, rotation(4)).weights[0]
    mended = match_stream(zoo.weights[0], twin, free)
    lines = Zoo(torch.stack([zoo.weights[0], twin, mended]), zoo.layout, network)
    curve = linear_barrier(lines, [(0, 1), (0, 2)], task, points=5, repaired=False)
    assert float(curve.loss_barrier[1]) < 0.05 < float(curve.loss_barrier[0])
