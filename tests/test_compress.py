"""Dual PCA: scikit-learn's components without its matrix, a rotation at full rank, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from dwflow_lite.compress import DualPCA

N, D = 9, 40


def matrix(n=N, d=D, seed=0, dtype=torch.float64):
    """Rows with directions of quite different variance, about a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(3, 0.1, d, dtype=torch.float64)
    return (x + torch.randn(d, generator=generator, dtype=torch.float64)).to(dtype)


def aligned_signs(mine, theirs):
    return np.sign((mine.numpy() * theirs).sum(1))


@pytest.mark.parametrize("k", [1, 3, N - 1])
def test_agreement_with_scikit_learn(k):
    x = matrix()
    mine, theirs = DualPCA(k).fit(x), PCA(k, svd_solver="full").fit(x.numpy())
    signs = aligned_signs(mine.components_, theirs.components_)
    np.testing.assert_allclose(mine.components_.numpy(), theirs.components_ * signs[:, None], atol=1e-9)
    np.testing.assert_allclose(mine.mean_.numpy(), theirs.mean_, atol=1e-12)
    for name in ("explained_variance_ratio_", "explained_variance_", "singular_values_"):
        np.testing.assert_allclose(getattr(mine, name).numpy(), getattr(theirs, name), rtol=1e-9)
    new = matrix(4, seed=1)
    np.testing.assert_allclose(mine.transform(new).numpy(), theirs.transform(new.numpy()) * signs, atol=1e-9)
    codes = torch.randn(4, k, dtype=torch.float64)
    expected = theirs.inverse_transform(codes.numpy() * signs)
    np.testing.assert_allclose(mine.inverse_transform(codes).numpy(), expected, atol=1e-9)
    assert (mine.n_components_, mine.n_samples_, mine.n_features_in_) == (k, N, D)
    # PCA about the origin is something else: the agreement is not for free
    assert not np.allclose(np.linalg.svd(x.numpy())[1][:k], theirs.singular_values_, rtol=1e-3)


def test_components_are_orthonormal_and_reproducible():
    x = matrix()
    pca = DualPCA().fit(x)
    assert pca.n_components_ == N - 1
    torch.testing.assert_close(pca.components_ @ pca.components_.T, torch.eye(N - 1, dtype=torch.float64))
    codes = pca.transform(x)
    assert (codes.gather(0, codes.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(DualPCA().fit(x.flip(0)).components_, pca.components_, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_nothing_is_lost_at_full_rank(dtype, tolerance):
    x = matrix(dtype=dtype)
    pca = DualPCA(N - 1)
    codes = pca.fit_transform(x)
    assert codes.dtype == pca.components_.dtype == pca.inverse_transform(codes).dtype == dtype
    torch.testing.assert_close(pca.inverse_transform(codes), x, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.cdist(codes, codes), torch.cdist(x, x), rtol=1e-4, atol=10 * tolerance)
    few = DualPCA(2)
    kept = few.fit_transform(x)
    assert (few.inverse_transform(kept) - x).abs().max() > 0.5
    assert (torch.cdist(kept, kept) - torch.cdist(x, x)).abs().max() > 0.5


def test_decoded_points_are_affine_combinations_of_the_rows():
    x = matrix()
    decoded = DualPCA().fit(x).inverse_transform(torch.randn(3, N - 1, dtype=torch.float64))
    system = torch.cat([x.T, torch.ones(1, N, dtype=torch.float64)])  # coefficients that sum to 1
    wanted = torch.cat([decoded.T, torch.ones(1, 3, dtype=torch.float64)])
    solution = torch.linalg.lstsq(system, wanted, driver="gelsd").solution
    torch.testing.assert_close(system @ solution, wanted, rtol=0, atol=1e-9)
    outside = torch.cat([torch.randn(D, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)])
    best = torch.linalg.lstsq(system, outside, driver="gelsd").solution
    assert (system @ best - outside).abs().max() > 0.1


def test_shares_are_of_the_total_variance():
    x = matrix()
    full = DualPCA().fit(x).explained_variance_ratio_
    assert float(full.sum()) == pytest.approx(1) and (full.diff() <= 0).all()
    few = DualPCA(3).fit(x)
    torch.testing.assert_close(few.explained_variance_ratio_, full[:3])
    assert float(few.explained_variance_ratio_.sum()) < 0.99
    lost = (x - few.inverse_transform(few.transform(x))).square().sum() / (x - x.mean(0)).square().sum()
    assert float(lost) == pytest.approx(1 - float(few.explained_variance_ratio_.sum()))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.8, 0.9, 0.99, 0.999999])
def test_a_share_of_variance_takes_the_fewest_components(share):
    x = matrix()
    mine = DualPCA(share).fit(x)
    assert mine.n_components_ == PCA(share, svd_solver="full").fit(x.numpy()).n_components_
    ratios = DualPCA().fit(x).explained_variance_ratio_
    k = mine.n_components_
    assert ratios[:k].sum() >= share > ratios[: k - 1].sum()


def test_the_chunk_does_not_matter():
    x, codes = matrix(), torch.randn(2, 5, dtype=torch.float64)
    whole = DualPCA(5).fit(x)
    for columns in (1, 7, D - 1, D):
        part = DualPCA(5, memory=columns * 12 * (2 * N + 5)).fit(x)
        torch.testing.assert_close(part.components_, whole.components_, rtol=0, atol=1e-9)
        torch.testing.assert_close(part.transform(x), whole.transform(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(part.inverse_transform(codes), whole.inverse_transform(codes), rtol=0, atol=1e-9)


@pytest.mark.parametrize("wanted", [N, N + 5, 0, -1, True, False, 1.5, 1.0, 0.0, -0.5, "all"])
def test_numbers_of_components_that_make_no_sense(wanted):
    with pytest.raises(ValueError, match="from 1 to N-1 = 8"):
        DualPCA(wanted).fit(matrix())


def test_a_tall_matrix_has_no_more_directions_than_columns():
    x = matrix(20, 3)
    assert DualPCA().fit(x).n_components_ == 3
    with pytest.raises(ValueError, match="10 components asked for, but only 3 carry variance"):
        DualPCA(10).fit(x)


def test_what_is_no_matrix_of_floats_is_refused():
    x = matrix(dtype=torch.float32)
    pca = DualPCA().fit(x)  # control
    with pytest.raises(TypeError, match=r"takes a tensor, got ndarray: torch\.as_tensor"):
        DualPCA().fit(x.numpy())
    for dtype in (torch.int64, torch.float16, torch.bfloat16):
        for use in (DualPCA().fit, pca.transform):
            with pytest.raises(TypeError, match="convert to float32"):
                use(x.to(dtype))
        with pytest.raises(TypeError, match="convert to float32"):
            pca.inverse_transform(torch.ones(2, pca.n_components_, dtype=dtype))
    for memory in (0, -1, 1.5, 12 * N - 1):
        with pytest.raises(ValueError, match=f"memory must be a whole number of bytes, >= {12 * N} for one column"):
            DualPCA(memory=memory).fit(x)
    for precision in (torch.float16, torch.bfloat16, torch.int64):
        with pytest.raises(TypeError, match="summed in float64 or float32, not in"):
            DualPCA(precision=precision).fit(x)


def test_matrices_that_are_refused():
    x = matrix()
    for shape in (x[:1], x[0], x[None]):
        with pytest.raises(ValueError, match="at least two networks"):
            DualPCA().fit(shape)
    for value in (float("nan"), float("inf")):
        bad = x.clone()
        bad[2, 3] = value
        with pytest.raises(ValueError, match="NaN or infinite"):
            DualPCA().fit(bad)
    assert DualPCA().fit(x[:2]).n_components_ == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 7, 10, 49])
def test_identical_networks_have_no_direction(n, dtype):
    x = matrix(dtype=dtype)[:1].expand(n, D)
    with pytest.raises(ValueError, match="all networks of the zoo are the same"):
        DualPCA().fit(x)
    moved = x.clone()
    moved[0, 0] += 1e-3
    assert DualPCA().fit(moved).n_components_ == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_networks_span_less(dtype):
    x = matrix(5, dtype=dtype)
    doubled = torch.cat([x, x, x[:2]])
    assert DualPCA().fit(doubled).n_components_ == 4
    assert DualPCA(4).fit(doubled).n_components_ == 4
    with pytest.raises(ValueError, match=r"5 components asked for, but only 4 carry variance \(repeated networks"):
        DualPCA(5).fit(doubled)


def test_use_before_fitting_and_of_the_wrong_width():
    with pytest.raises(RuntimeError, match="not fitted yet"):
        DualPCA().transform(matrix())
    with pytest.raises(RuntimeError, match="not fitted yet"):
        DualPCA().inverse_transform(matrix())
    pca = DualPCA(3).fit(matrix())
    with pytest.raises(ValueError, match="expected 40 columns"):
        pca.transform(matrix()[:, :-1])
    with pytest.raises(ValueError, match="expected 3 columns"):
        pca.inverse_transform(torch.zeros(2, 4))


def test_one_vector_and_batches_of_any_shape():
    x = matrix()
    pca = DualPCA(3).fit(x)
    codes = pca.transform(x)
    torch.testing.assert_close(pca.transform(x[4]), codes[4])
    torch.testing.assert_close(pca.inverse_transform(codes[4]), pca.inverse_transform(codes)[4])
    assert pca.transform(x.view(3, 3, D)).shape == (3, 3, 3)
    assert pca.transform(x[4]).shape == (3,) and pca.inverse_transform(codes[4]).shape == (D,)


def test_the_input_is_not_changed():
    x = matrix()
    kept = x.clone()
    pca = DualPCA(3).fit(x)
    codes = pca.transform(x)
    before = codes.clone()
    pca.inverse_transform(codes)
    assert torch.equal(x, kept) and torch.equal(codes, before)
    x += 1  # nor does the fit look at the caller's tensor later
    torch.testing.assert_close(pca.mean_, kept.mean(0))
