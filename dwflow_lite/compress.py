"""Dual (Gram) PCA: few networks of many weights, so the N x N Gram matrix instead of the d x d covariance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from math import isfinite, prod

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.support.jobs import run_jobs
from dwflow_lite.zoo.storage import Shards

PRECISIONS = (torch.float32, torch.float64)


class DualPCA(BaseEstimator):
    """Principal components of a zoo, in scikit-learn's estimator conventions.

    With N rows and d >> N columns the components are Xᵀu/σ for the eigenvectors u of the Gram matrix X Xᵀ (X centred):
    O(N²d) time, and no d x d matrix. The Gram matrix is summed over chunks of columns, each of which is read once.

    At k = N-1 this is a rotation: nothing is lost, and every decoded point is an affine combination of the rows. For
    rows on disk the components, a second zoo in size, are never written down: they are combinations of the rows, and
    are made chunk by chunk from them (``combination_``).

    Args:
        n_components: a number k <= N-1; a share of the total variance in (0, 1), reached by the fewest components;
            or None for all that carry variance.
        memory: bytes that chunks of columns may take, beside what is asked for (codes, decoded rows, components) and
            a few matrices (N, N). (Of chunks below 32 MB the C library may keep two more when they are freed.)
        precision: of products and sums, ``torch.float64`` or ``torch.float32`` (for devices that have no other; half
            precision loses the small components and is refused).
        device: where chunks are multiplied; None: where ``x`` is.

    Attributes:
        components_: (k, d), orthonormal rows. mean_: (d,). Both only where fitted on a tensor.
        combination_: (N, k): components are ``combination_.T`` times centred rows.
        singular_values_: (k,).
        explained_variance_: (k,). explained_variance_ratio_: (k,), shares of the *total* variance.
        n_components_, n_samples_, n_features_in_: k, N, d.
        rows_: the rows on disk that the components are made from, or None.

    Example:
        Three points on a line have one component, and one code each:

        >>> points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> pca = DualPCA().fit(points)
        >>> pca.n_components_
        1
        >>> codes = pca.transform(points)  # signed distances from the mean
        >>> codes.flatten().abs().round().tolist()
        [5.0, 0.0, 5.0]
        >>> torch.allclose(pca.inverse_transform(codes), points, atol=1e-5)
        True
    """

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        memory: int = 1 << 28,
        precision: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        self.n_components = n_components
        self.memory = memory
        self.precision = precision
        self.device = device

    def fit(self, x: Tensor | Shards, *, executor: Executor | None = None, progress: bool = False) -> DualPCA:
        """Learn mean and components of ``x`` (N, d).

        Args:
            x: a tensor, or rows on disk.
            executor: where chunks are multiplied, one a job; partial sums are added in the order of the columns, so
                that the result does not depend on who was first.
            progress: show a bar.

        Raises:
            ValueError: fewer than two rows, NaN, k >= N, more components than carry variance, or too little memory.
            TypeError: anything but rows on disk or a tensor in float32 or float64; another precision.
        """
        self._check_arguments(x)
        n, d = x.shape
        gram = self._gram_matrix(x, executor, progress)  # (N, N)
        values, vectors = _eigenvectors(gram)  # (N,), (N, N), the largest first
        total = float(gram.diagonal().sum())
        k = self._count(values, total)
        values = values[:k]
        vectors = _with_fixed_signs(vectors[:, :k])
        combination = vectors / values.sqrt()  # (N, k)
        mean = components = None
        if isinstance(x, Tensor):
            mean, components = self._written_down(x, combination)  # (d,), (k, d)

        self.combination_ = combination
        self.singular_values_ = values.sqrt()
        self.explained_variance_ = values / (n - 1)
        self.explained_variance_ratio_ = values / total
        self.n_components_ = k
        self.n_samples_ = n
        self.n_features_in_ = d
        self.mean_ = mean
        self.components_ = components
        self.rows_ = None if isinstance(x, Tensor) else x
        return self

    def fit_transform(self, x: Tensor | Shards, *, executor: Executor | None = None, progress: bool = False) -> Tensor:
        """Fit, and the codes (N, k) of the rows, which the fit knows without another pass; arguments as of ``fit``."""
        self.fit(x, executor=executor, progress=progress)
        squares = self.explained_variance_ * (self.n_samples_ - 1)  # (k,), of the singular values
        # A code is X times a component Xᵀu/σ: X Xᵀ u/σ = σ² u/σ, and u/σ is the combination.
        return (self.combination_ * squares).to(x.device, x.dtype)

    def transform(self, x: Tensor | Shards) -> Tensor:
        """Codes (..., k) of weights (..., d)."""
        codes, _ = self._project(x)
        return codes

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """Weights (..., d) of codes (..., k)."""
        self._check_columns(codes, "n_components_")
        weights = codes.new_empty(*codes.shape[:-1], self.n_features_in_)
        for columns, part in self.blocks(codes.reshape(-1, self.n_components_)):
            weights[..., columns] = part.reshape(*codes.shape[:-1], part.shape[-1])
        return weights

    def blocks(self, codes: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Decode codes (n, k) chunk by chunk: columns, and the weights there (n, columns)."""
        self._check_columns(codes, "n_components_")
        for columns, mean, basis in self.basis(len(codes)):
            yield columns, (codes.to(basis) @ basis).add_(mean).to(codes.device, codes.dtype)

    def reconstruction(self, x: Tensor | Shards) -> Tensor:
        """What the first 1 … k components keep of each row (m, d): (m, k), shares of its squared distance to the mean.

        For the rows of the fit the mean over rows is the cumulated variance ratio; for held-out rows it says how many
        components carry over to networks that the fit has not seen.
        """
        codes, squares = self._project(x)
        return codes.double().square().cumsum(-1) / squares[..., None].clamp_min(1e-300)

    def basis(self, others: int = 0) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunk after chunk of columns: which, mean (c,) and components (k, c); one pass over rows that are on disk.

        ``others``: how many further rows the caller holds for the same columns, so that all keep to ``memory``.
        """
        self._check_fitted()
        if self.rows_ is not None:
            yield from self._combined(self.rows_, self.combination_, others)
            return
        device = self._device(self.components_)
        for columns in self._chunks(self.n_components_ + others, self.n_features_in_):
            mean = self.mean_[columns].to(device, self.precision)
            basis = self.components_[:, columns].to(device, self.precision)
            yield columns, mean, basis
            mean = basis = None  # before the next are made

    # -- the steps of a fit ---------------------------------------------------------------------------------------

    def _check_arguments(self, x: Tensor | Shards) -> None:
        _check_dtype(x)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"PCA needs at least two networks in a matrix (N, d), got shape {tuple(x.shape)}")
        self.check(len(x))

    def check(self, members: int, others: int = 0) -> None:
        """Whether the arguments make sense for so many rows, before there are any.

        Args:
            members: N rows.
            others: further rows that are held for the same columns, such as components.

        Raises:
            ValueError: k >= N, or less memory than one column of all rows takes.
            TypeError: another precision than float64 or float32.
        """
        if self.precision not in PRECISIONS:
            raise TypeError(f"products are summed in float64 or float32, not in {self.precision}: precision=")
        most = members - 1
        k = self.n_components
        is_count = is_whole(k, 1) and k <= most
        if not (k is None or is_count or self._is_share()):
            raise ValueError(
                f"n_components must be a whole number from 1 to N-1 = {most} (N networks span N-1 directions around "
                f"their mean), a share of variance in (0, 1), or None; got {k!r}"
            )
        self._chunks(members + others, 1)

    def _is_share(self) -> bool:
        return is_number(self.n_components, 0) and 0 < self.n_components < 1

    def _gram_matrix(self, x: Tensor | Shards, executor: Executor | None, progress: bool) -> Tensor:
        """Inner products (N, N) of the centred rows, summed over chunks of columns."""
        n, d = x.shape
        device = self._device(x)
        jobs = []
        for columns in self._chunks(n, d):
            if executor is not None and isinstance(x, Tensor):  # a view would travel with the whole matrix
                jobs.append((x[:, columns].clone(), slice(None), self.precision, device))
            else:
                jobs.append((x, columns, self.precision, device))
        parts = run_jobs(_gram_part, jobs, executor, progress=progress, desc="Gram matrix", unit="chunk")
        gram = torch.zeros(n, n, dtype=torch.float64)
        for part in _in_order(parts):
            gram += part
        if not gram.isfinite().all():
            raise ValueError("the matrix holds NaN or infinite values")
        return gram

    def _count(self, values: Tensor, total: float) -> int:
        """How many components to keep, of eigenvalues (N,) with this sum."""
        smallest = 1e-13 if self.precision == torch.float64 else 1e-6  # of what rounding leaves
        carrying = int((values > max(total, 1e-300) * smallest).sum())
        rank = min(len(values) - 1, carrying)
        if rank == 0:
            raise ValueError("all networks of the zoo are the same; there is no direction to keep")
        if self.n_components is None:
            return rank
        if self._is_share():
            k = int((values.cumsum(0) / total < self.n_components - 1e-12).sum()) + 1
        else:
            k = int(self.n_components)
        if k > rank:
            raise ValueError(f"{k} components asked for, but only {rank} carry variance (repeated networks?)")
        return k

    def _written_down(self, x: Tensor, combination: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (d,) and components (k, d) in one piece."""
        mean = x.new_empty(x.shape[1])
        components = x.new_empty(combination.shape[1], x.shape[1])
        for columns, part_of_mean, basis in self._combined(x, combination):
            mean[columns] = part_of_mean.to(mean)
            components[:, columns] = basis.to(components)
        return mean, components

    # -- chunks of columns ----------------------------------------------------------------------------------------

    def _combined(
        self, rows: Tensor | Shards, combination: Tensor, others: int = 0
    ) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunk after chunk: columns, mean (c,), and components (k, c) as combinations (N, k) of centred rows."""
        n, k = combination.shape
        device = self._device(rows)
        for columns in self._chunks(k + others + n, rows.shape[1]):
            part, mean = centred(_columns(rows, columns, self.precision, device))  # (N, c), (c,)
            basis = combination.T.to(part) @ part  # (k, c)
            yield columns, mean, basis
            part = mean = basis = None  # before the next are read

    def _project(self, x: Tensor | Shards) -> tuple[Tensor, Tensor]:
        """Codes (..., k), and squared distances to the mean (...,)."""
        self._check_columns(x, "n_features_in_")
        codes = torch.zeros((), dtype=torch.float64)
        squares = torch.zeros((), dtype=torch.float64)
        rows = prod(x.shape[:-1])
        for columns, mean, basis in self.basis(2 * rows):  # the rows, and their squares
            part = _columns(x, columns, basis.dtype, basis.device).sub_(mean)  # (..., c)
            codes = codes + (part @ basis.T).double().cpu()
            squares = squares + part.square().sum(-1).double().cpu()
        return codes.to(x.device, x.dtype), squares

    def _chunks(self, rows: int, d: int) -> list[slice]:
        """The d columns in chunks of which ``rows`` rows take at most ``memory``, with what is made on the way."""
        need = rows * (4 + self.precision.itemsize)  # of one column: as read, in float32, and in this precision
        if not is_whole(self.memory, need):
            raise ValueError(f"memory must be a whole number of bytes, >= {need} for one column, got {self.memory!r}")
        step = int(self.memory) // need
        return [slice(start, min(start + step, d)) for start in range(0, d, step)]

    def _device(self, x: Tensor | Shards) -> torch.device:
        return x.device if self.device is None else torch.device(self.device)

    def _check_fitted(self) -> None:
        check_is_fitted(self, msg="this %(name)s is not fitted yet: call fit(x) first")

    def _check_columns(self, x: Tensor | Shards, width: str) -> None:
        """``width``: the attribute that says how many columns ``x`` must have."""
        self._check_fitted()
        _check_dtype(x)
        if tuple(x.shape[-1:]) != (getattr(self, width),):
            raise ValueError(f"expected {getattr(self, width)} columns, got shape {tuple(x.shape)}")


def root_mean_square(codes: Tensor) -> float:
    """Of all numbers of codes (N, k): by which they are divided to have size about 1."""
    size = float(codes.square().mean().sqrt())
    if size > 0 and isfinite(size):
        return size
    return float(codes.double().square().mean().sqrt())  # squares that single precision cannot hold


def _check_dtype(x: Tensor | Shards) -> None:
    if not isinstance(x, Tensor | Shards):
        raise TypeError(f"PCA takes a tensor, got {type(x).__name__}: torch.as_tensor(x) makes one")
    if x.dtype not in PRECISIONS:
        raise TypeError(f"PCA takes float32 or float64, got {x.dtype}: convert to float32, x.float()")


def _columns(x: Tensor | Shards, columns: slice, precision: torch.dtype, device: torch.device) -> Tensor:
    """Some columns of all rows, to do with as one likes; those on disk are read in this precision, and once."""
    if isinstance(x, Shards):
        return x.to(device).columns(columns, precision)
    return x[..., columns].to(device, precision, copy=True)


def centred(part: Tensor) -> tuple[Tensor, Tensor]:
    """Rows about their mean, in place, and it. Repeated rows give exact zeros, which a rounded mean would not."""
    first = part[0].clone()
    part -= first
    mean = part.mean(0)
    part -= mean
    return part, first + mean


def _eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N,), none below zero, and eigenvectors (N, N) in columns, the largest first."""
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _with_fixed_signs(vectors: Tensor) -> Tensor:
    """Columns of (N, k) with signs that make a fit reproducible: the row farthest along one has a positive code."""
    farthest = vectors.abs().argmax(0, keepdim=True)  # (1, k)
    return vectors * vectors.gather(0, farthest).sign()


def _gram_part(x: Tensor | Shards, columns: slice, precision: torch.dtype, device: torch.device) -> Tensor:
    """A job: the share of some columns in the Gram matrix of centred rows, (N, N)."""
    part, _ = centred(_columns(x, columns, precision, device))
    return (part @ part.T).double().cpu()


def _in_order(parts: Iterable[tuple[int, Tensor]]) -> Iterator[Tensor]:
    """Results by position, each as soon as all before it are there."""
    early: dict[int, Tensor] = {}  # what came before its turn
    turn = 0
    for position, part in parts:
        early[position] = part
        while turn in early:
            yield early.pop(turn)
            turn += 1
