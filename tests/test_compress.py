"""Dual PCA: scikit-learn's components without its matrix, a rotation at full rank, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from torch._subclasses.fake_tensor import FakeTensorMode

from dwflow_lite import compress
from dwflow_lite.compress import DualPCA
from dwflow_lite.support import products
from dwflow_lite.support.products import combined, gram_of, projected
from dwflow_lite.zoo import ZooFileError, append, read_folder, start_folder

N, D = 9, 40


def matrix(n=N, d=D, seed=0, dtype=torch.float64):
    """Rows with directions of quite different variance, about a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.linspace(3, 0.1, d, dtype=torch.float64)
    return (x + torch.randn(d, generator=generator, dtype=torch.float64)).to(dtype)


def on_disk(folder, x, storage="float32", rows_a_file=1):
    start_folder(folder, {"layout": [], "size": x.shape[1], "record": {}, "members": len(x)}, storage)
    for first in range(0, len(x), rows_a_file):
        part = x[first : first + rows_a_file]
        append(folder, first, part, [{}] * len(part))
    return read_folder(folder)[1]


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
    with pytest.raises(NotFittedError, match="not fitted yet"):
        DualPCA().transform(matrix())
    with pytest.raises(NotFittedError, match="not fitted yet"):
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


# -- rows on disk ------------------------------------------------------------------------------------------------


def whole(blocks):
    columns, parts = zip(*blocks, strict=True)
    assert [c.start for c in columns] == [0, *(c.stop for c in columns)][:-1] and columns[-1].stop == D
    return torch.cat(parts, -1)


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("columns", [1, 7, D, 10 * D])
def test_rows_on_disk_give_what_a_tensor_gives(tmp_path, storage, columns):
    x = matrix(dtype=torch.float32)
    rows = on_disk(tmp_path, x, storage, rows_a_file=2)
    x = x if storage == "float32" else x.bfloat16().float()
    here = DualPCA(5).fit(x)
    there = DualPCA(5, memory=columns * 12 * (3 * N + 5))
    close, codes = {"rtol": 0, "atol": 1e-5}, there.fit_transform(rows)
    assert there.components_ is None and there.mean_ is None and codes.dtype == torch.float32
    for name in ("singular_values_", "explained_variance_ratio_", "combination_"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(whole((c, b) for c, _, b in there.basis()).float(), here.components_, **close)
    torch.testing.assert_close(whole((c, m) for c, m, _ in there.basis()).float(), here.mean_, **close)
    for given in (rows, x, rows[[3, 1]], x[[3, 1]], x[4], x.view(3, 3, D)):
        expected = here.transform(given.columns(slice(None)) if hasattr(given, "columns") else given)
        torch.testing.assert_close(there.transform(given), expected, **close)
        torch.testing.assert_close(here.transform(given), expected, **close)
    torch.testing.assert_close(codes, there.transform(rows), **close)
    new = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(there.inverse_transform(new), here.inverse_transform(new), **close)
    torch.testing.assert_close(whole(there.blocks(new)), here.inverse_transform(new), **close)
    other = DualPCA(5).fit(matrix(seed=1, dtype=torch.float32))  # control
    assert (other.inverse_transform(new) - here.inverse_transform(new)).abs().max() > 0.5


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_rows_on_disk_agree_with_scikit_learn(tmp_path, precision):
    x = matrix(20, 3000, dtype=torch.float32) + 10  # far from the origin
    theirs = PCA(19, svd_solver="full").fit(x.double().numpy())

    def error(values, components):
        signs = aligned_signs(components, theirs.components_)
        off = np.abs(components.numpy() * signs[:, None] - theirs.components_).max()
        return max(off, np.abs(values.numpy() / theirs.singular_values_ - 1).max())

    mine = DualPCA(19, precision=precision, memory=1 << 17).fit(on_disk(tmp_path, x))
    components = torch.cat([b for _, _, b in mine.basis()], 1).double()
    bound = 1e-10 if precision == torch.float64 else 1e-4
    assert error(mine.singular_values_, components) < bound
    half = x - x.mean(0)  # control: the same sums in half precision
    values, vectors = torch.linalg.eigh((half.bfloat16() @ half.bfloat16().T).double())
    values, vectors = values.flip(0)[:19].clamp_min(1e-9), vectors.flip(1)[:, :19]
    assert error(values.sqrt(), (vectors / values.sqrt()).T @ half.double()) > 50 * bound


@pytest.mark.parametrize(("precision", "smallest"), [(torch.float64, 1e-5), (torch.float32, 1e-2)])
def test_small_components_are_found_down_to_the_precision(precision, smallest):
    # The Gram matrix squares singular values, so that a precision of eps resolves them down to its root.
    def relative_error(least):
        sizes = torch.logspace(0, float(np.log10(least)), 8, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        rows = torch.linalg.qr(torch.randn(12, 8, generator=generator, dtype=torch.float64)).Q
        columns = torch.linalg.qr(torch.randn(2000, 8, generator=generator, dtype=torch.float64)).Q
        x = (rows * sizes) @ columns.T
        exact = torch.linalg.svdvals(x - x.mean(0))[:8]
        mine = DualPCA(precision=precision).fit(x)
        k = min(8, mine.n_components_)
        return float((mine.singular_values_[:k] / exact[:k] - 1).abs().max()) if k == 8 else 1.0

    assert relative_error(smallest) < 1e-2 < relative_error(smallest * 1e-3)


def test_what_each_row_keeps(tmp_path):
    x, new = matrix(dtype=torch.float32), matrix(4, seed=1, dtype=torch.float32)
    for pca in (DualPCA(6).fit(x), DualPCA(6, memory=12 * 60).fit(on_disk(tmp_path / "a", x))):
        kept = pca.reconstruction(new)
        about = new - x.mean(0)
        for k in range(1, 7):
            some = DualPCA(k).fit(x)
            back = some.inverse_transform(some.transform(new)) - x.mean(0)
            expected = back.square().sum(1) / about.square().sum(1)
            torch.testing.assert_close(kept[:, k - 1].float(), expected, atol=1e-4, rtol=0)
        assert kept.shape == (4, 6) and (kept.diff(dim=1) >= 0).all()
        torch.testing.assert_close(pca.reconstruction(on_disk(tmp_path / f"b{pca.memory}", new)), kept)
    own = DualPCA().fit(x).reconstruction(x)
    torch.testing.assert_close(own[:, -1], torch.ones(N, dtype=torch.float64), atol=1e-5, rtol=0)
    assert own[:, 2].max() < 0.999 and kept[:, -1].max() < 0.99  # control


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_repeated_rows_on_disk_span_less(tmp_path, storage):
    x = matrix(5, dtype=torch.float32)
    with pytest.raises(ValueError, match="all networks of the zoo are the same"):
        DualPCA().fit(on_disk(tmp_path / "same", x[:1].repeat(4, 1), storage))
    assert DualPCA().fit(on_disk(tmp_path / "twice", x.repeat(2, 1), storage)).n_components_ == 4


def test_too_little_memory_is_said_wherever_it_is_too_little(tmp_path):
    x = matrix(dtype=torch.float32)
    pca = DualPCA(5, memory=12 * N).fit(on_disk(tmp_path, x))  # enough for the Gram matrix, column after column
    for use in (lambda: pca.transform(x), lambda: next(pca.basis()), lambda: pca.inverse_transform(torch.ones(1, 5))):
        with pytest.raises(ValueError, match=r"memory must be a whole number of bytes, >= \d+ for one column, got 108"):
            use()
    pca.memory = 12 * (3 * N + 5)
    torch.testing.assert_close(pca.transform(x), DualPCA(5).fit(x).transform(x), rtol=0, atol=1e-5)


def test_rows_that_went_after_the_fit_are_named(tmp_path):
    x = matrix(dtype=torch.float32)
    pca = DualPCA(5).fit(on_disk(tmp_path / "zoo", x))
    shutil.rmtree(tmp_path / "zoo")
    for use in (lambda: pca.transform(x), lambda: pca.inverse_transform(torch.ones(1, 5))):
        with pytest.raises(ZooFileError, match=r"cannot read .*zoo/members-00000000\.safetensors"):
            use()
    assert DualPCA(5).fit(x).transform(x).shape == (N, 5)  # control: of a tensor nothing is needed


@pytest.mark.parametrize("memory", [12 * N, 12 * N * 7 + 5, 12 * N * D])
def test_chunks_are_as_large_as_memory_allows(tmp_path, monkeypatch, memory):
    seen, plain = [], compress._columns
    monkeypatch.setattr(compress, "_columns", lambda *a: seen.append(plain(*a)) or seen[-1])
    DualPCA(memory=memory).fit(on_disk(tmp_path, matrix(dtype=torch.float32)))
    assert sum(part.shape[1] for part in seen) == D  # each column once
    largest = max(part.numel() for part in seen)
    assert largest * 12 <= memory < (largest + N) * 12


MEASURE = """
import ctypes, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from test_compress import on_disk
from dwflow_lite.compress import DualPCA
from dwflow_lite.zoo import append, read_folder, rows_of_columns, start_folder

def status(name):
    return int(next(l for l in Path("/proc/self/status").open() if l.startswith(name)).split()[1]) << 10

def rise(work):
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return (status("VmHWM") - before) / memory

torch.set_num_threads(1)
memory, folder, n, d = 16 << 20, Path(sys.argv[2]), 24, 1 << 20
start_folder(folder / "large", {"layout": [], "size": d, "record": {}, "members": n}, "float32")
for row in range(n):
    append(folder / "large", row, torch.randn(1, d), [{}])
rows = read_folder(folder / "large")[1]

small = DualPCA()  # what libraries take once
list(small.blocks(small.fit_transform(on_disk(folder / "small", torch.randn(4, 1000)))))
pca = DualPCA(memory=memory)
found = {"fit": rise(lambda: pca.fit(rows)), "transform": rise(lambda: pca.transform(rows[:8]))}
codes = torch.randn(8, n - 1)
def decode():
    for row in rows_of_columns(folder / "large", 8, pca.blocks(codes)):
        del row
found["decode"] = rise(decode)
found["in memory"] = rise(lambda: DualPCA(memory=memory).fit(rows.columns(slice(None))))
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_memory_is_the_peak_and_the_zoo_may_be_larger(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), str(tmp_path)]
    # Chunks of the usual size go back to the system when they are freed; of small ones glibc would keep some.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # in units of what was allowed; the zoo takes 6
    assert found.pop("in memory") > 6, found  # control
    assert max(found.values()) < 1.15 and found["fit"] > 0.3, found


# -- precision, and where it is computed -------------------------------------------------------------------------


def ill_scaled(kind, n=12, d=6000):
    """Float32 rows on which products in single precision go wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if kind == "columns over six decades":
        x *= torch.logspace(-3, 3, d, dtype=torch.float64)
    elif kind == "large means beside small spreads":
        x += 1e4 * torch.randn(d, generator=generator, dtype=torch.float64)
    elif kind == "repeated rows":
        x[7:] = x[:5]
    elif kind == "near-copies":
        x[6:] = x[:6] + torch.linspace(3e-4, 2e-3, 6, dtype=torch.float64)[:, None] * x[6:]  # no two vary alike
    elif kind == "a first row far away":
        x[0] *= 1e4
    return x.float()


ILL_SCALED = (
    "columns over six decades",
    "large means beside small spreads",
    "repeated rows",
    "near-copies",
    "a first row far away",
)


def largest_error_of_variances(gram, exact):
    """Relative, of the eigenvalues of a Gram matrix, against exact variances of a fit (k,)."""
    values = torch.linalg.eigvalsh(gram.double()).flip(0)[: len(exact)].numpy() / (len(gram) - 1)
    return float(np.abs(values / exact - 1).max())


@pytest.mark.parametrize("kind", ILL_SCALED)
def test_ill_scaled_rows_have_the_variances_of_float64(kind, tmp_path):
    x = ill_scaled(kind)
    rank = 6 if kind == "repeated rows" else 11
    theirs = PCA(rank, svd_solver="full").fit(x.double().numpy())
    exact = theirs.explained_variance_[:rank]
    for mine in (DualPCA().fit(x), DualPCA(copy=False).fit(x), DualPCA(memory=1 << 16).fit(on_disk(tmp_path, x))):
        assert mine.n_components_ == rank
        np.testing.assert_allclose(mine.explained_variance_.numpy(), exact, rtol=1e-6)
        # Weights come back to a few units in the last place of the largest ones of a column, codes to those of float64.
        codes = mine.transform(x.double())
        size = x.abs().amax(0)
        assert ((mine.inverse_transform(codes.float()) - x).abs() / size).max() < 2e-6
        signs = np.sign((codes.numpy() * theirs.transform(x.double().numpy())).sum(0))
        off = np.abs(codes.numpy() * signs - theirs.transform(x.double().numpy())).max(0)
        assert (off / np.sqrt(exact)).max() < 1e-5
    half = (x - x.mean(0)).bfloat16()
    assert largest_error_of_variances(half @ half.T, exact) > 1e-4  # control: the same in half precision
    if kind == "large means beside small spreads":  # control: float32 about the origin
        assert largest_error_of_variances(x @ x.T, exact) > 1e-4


def test_near_copies_decode_from_their_own_direction_too():
    # A code of usual size along a direction in which rows hardly differ: coefficients cancel, single precision fails.
    x = ill_scaled("near-copies")
    pca = DualPCA().fit(x)
    codes = torch.zeros(1, 11)
    codes[0, -1] = pca.explained_variance_[0].sqrt()
    exact = pca.mean_.double() + codes.double() @ DualPCA().fit(x.double()).components_
    size = (exact - pca.mean_).norm()
    assert (pca.inverse_transform(codes) - exact).norm() / size < 1e-6
    rows, coefficients, _ = pca._as_combinations(codes)
    assert coefficients.dtype == torch.float64
    assert (coefficients.float() @ rows - exact).norm() / size > 1e-5  # control
    usual = pca.transform(x)  # of these, single precision keeps all
    assert pca._as_combinations(usual)[1].dtype == torch.float32


def test_rows_kept_without_a_copy_are_watched():
    x = matrix()
    kept = DualPCA(copy=False).fit(x)
    copied = DualPCA().fit(x)
    codes = kept.transform(x)
    assert kept.rows_.data_ptr() == x.data_ptr() != copied.rows_.data_ptr()
    torch.testing.assert_close(kept.inverse_transform(codes), copied.inverse_transform(codes), rtol=0, atol=0)
    for again in (deepcopy(kept), pickle.loads(pickle.dumps(kept)), clone(kept).fit(x)):
        torch.testing.assert_close(again.inverse_transform(codes), kept.inverse_transform(codes), rtol=0, atol=0)
    before = copied.inverse_transform(codes)
    x += 1
    for use in (lambda: kept.inverse_transform(codes), lambda: kept.transform(x), lambda: kept.components_):
        with pytest.raises(ValueError, match="rows were changed in place after the fit: fit anew, or fit with copy"):
            use()
    torch.testing.assert_close(copied.inverse_transform(codes), before, rtol=0, atol=0)  # control
    with torch.inference_mode():
        inside = DualPCA().fit(matrix())
        assert inside.inverse_transform(inside.transform(matrix())).shape == (N, D)


def test_threads_that_share_the_columns_find_what_one_finds(monkeypatch):
    x = torch.randn(20, 3001, generator=torch.Generator().manual_seed(0))
    alone = [gram_of(x, torch.float64), projected(x[:3], x, None, torch.float64)]
    monkeypatch.setattr(products, "WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    used = set()
    plain = products._parts_of
    monkeypatch.setattr(products, "_parts_of", lambda *a, **k: used.add(threading.get_ident()) or plain(*a, **k))
    try:
        torch.set_num_threads(3)
        together = [gram_of(x, torch.float64), projected(x[:3], x, None, torch.float64)]
        assert torch.get_num_threads() == 3  # given back
    finally:
        torch.set_num_threads(before)
    assert threading.get_ident() not in used  # control: other threads did it
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)


def test_a_chunk_is_computed_where_it_is():
    with FakeTensorMode(), torch.device("cuda"):
        rows, x = torch.randn(9, 40), torch.randn(3, 40)
        coefficients = torch.randn(3, 9)
        here = torch.randn(3, 9, device="cpu")
        found = [*gram_of(rows, torch.float64), *projected(x, rows, None, torch.float64)]
        found += projected(x, rows, torch.randn(40), torch.float32)
        found += [combined(coefficients, rows), combined(coefficients.double(), rows, torch.randn(40).double())]
        assert [t.device.type for t in found] == ["cuda"] * len(found)
        assert [tuple(t.shape) for t in found[:2]] == [(9, 9), (40,)]
        with pytest.raises(RuntimeError, match="device"):  # control
            combined(here, rows)
        with pytest.raises(RuntimeError, match="device"):
            projected(x.to("cpu"), rows, None, torch.float64)


def test_a_pca_moves_as_a_whole_and_counts_changes_anew():
    """Rows that were filled in place before the fit are no changed rows where they are copied to."""
    rows = torch.empty(6, 40)
    rows.normal_(generator=torch.Generator().manual_seed(0))
    pca = DualPCA(copy=False).fit(rows)
    there = pca.to("meta")  # stands for a GPU: its tensors have no numbers
    parts = [there.rows_, there.components_, there.mean_]
    assert [part.device.type for part in parts] == ["meta"] * 3 and there.components_.shape == (5, 40)
    assert pca.rows_.data_ptr() == rows.data_ptr() and pca.mean_.device.type == "cpu"  # the first stays as it is
    torch.testing.assert_close(pca.to("cpu").inverse_transform(pca.transform(rows)), rows)
    rows.zero_()  # control
    with pytest.raises(ValueError, match="changed in place"):
        pca.inverse_transform(torch.zeros(1, 5))
