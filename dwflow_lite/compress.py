"""Dual (Gram) PCA: few networks of many weights, so the N x N Gram matrix instead of the d x d covariance."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import Executor
from math import isfinite

import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.support.devices import out_of_memory_as
from dwflow_lite.support.jobs import by_position, run_jobs
from dwflow_lite.support.products import centred, combined, gram_of, projected, row_shares
from dwflow_lite.zoo.storage import Shards

PRECISIONS = (torch.float32, torch.float64)
NO_MEMORY = "no memory for so many rows: pass fewer at a time, or make the PCA with a smaller memory= or n_components="
LARGEST_IN_FLOAT32 = 16.0  # of coefficients: larger ones cancel, and what is left would have few digits


class DualPCA(BaseEstimator):
    """Principal components of a zoo, in scikit-learn's estimator conventions.

    With N rows and d >> N columns the components are Xᵀu/σ for the eigenvectors u of the Gram matrix X Xᵀ (X centred):
    O(N²d) time, and no d x d matrix. The Gram matrix is summed over chunks of columns, each of which is read once. A
    few columns at a time are made float64, centred and multiplied while they are in the processor's cache. So variances
    are those of float64, and take two to three times one float32 product of the whole matrix with itself.

    At k = N-1 this is a rotation: nothing is lost, every decoded point is an affine combination of the rows, and so it
    is made: by one product of its coefficients with the rows, in their precision (to a few units in the last place of
    the largest weights of a column). Components, a second zoo in size, are written down only where they are fewer.

    Args:
        n_components: a number k <= N-1; a share of the total variance in (0, 1), reached by the fewest components;
            or None for all that carry variance.
        memory: bytes that chunks of columns may take, beside what is asked for (codes, decoded rows, components) and
            a few matrices (N, N). (Of chunks below 32 MB the C library may keep two more when they are freed.)
        precision: of a fit and of codes, ``torch.float64`` or ``torch.float32`` (for devices that have no other: it
            loses components of less than a millionth of the variance; half precision loses more and is refused).
        device: where chunks are multiplied; None: where ``x`` is.
        copy: whether rows in a tensor are copied if the fit must keep them. False keeps the tensor itself, which nobody
            may change (as a zoo's): half the memory, a quarter less time. Changed in place, it is refused later.

    Attributes:
        components_: (k, d), orthonormal rows. mean_: (d,). Both None where fitted on rows on disk.
        combination_: (N, k): components are ``combination_.T`` times centred rows.
        singular_values_, explained_variance_: (k,). explained_variance_ratio_: (k,), shares of the *total* variance.
        n_components_, n_samples_, n_features_in_: k, N, d. rows_: (N, d), of which points are made: a
            tensor, or on disk; None where it is components that are kept.

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
        copy: bool = True,
    ) -> None:
        self.n_components = n_components
        self.memory = memory
        self.precision = precision
        self.device = device
        self.copy = copy

    @out_of_memory_as(NO_MEMORY)
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
            MemoryError: too many rows, or ``memory`` is too large.
        """
        self._check_arguments(x)
        n = len(x)
        gram, mean = self._gram_matrix(x, executor, progress)  # (N, N), (d,)
        values, vectors = _eigenvectors(gram)  # (N,), (N, N), the largest first
        total = float(gram.diagonal().sum())
        k = self._count(values, total)
        values = values[:k]
        self.combination_ = (vectors[:, :k] / values.sqrt()).contiguous()  # (N, k)
        self.singular_values_ = values.sqrt()
        self.explained_variance_ = values / (n - 1)
        self.explained_variance_ratio_ = values / total
        self.n_components_ = k
        self.n_samples_, self.n_features_in_ = x.shape
        self.mean_ = mean
        self._keep(x)
        if isinstance(x, Tensor) and k < n - 1:
            self._keep(None, self.components_)  # fewer than rows
        elif isinstance(x, Tensor):
            x = x.detach().contiguous()
            self._keep(x.clone() if self.copy else x)
        return self

    @property
    def components_(self) -> Tensor | None:
        """(k, d), orthonormal rows, at k = N-1 made whenever they are asked for; None where fitted on rows on disk."""
        self._check_fitted()
        if not isinstance(self.rows_, Tensor):
            return self._components
        components = self.rows_.new_empty(self.n_components_, self.n_features_in_)
        for columns, _, basis in self.basis():
            components[:, columns] = basis.to(components)
        return components

    def fit_transform(self, x: Tensor | Shards, *, executor: Executor | None = None, progress: bool = False) -> Tensor:
        """Fit, and the codes (N, k) of the rows, which the fit knows without another pass; arguments as of ``fit``."""
        self.fit(x, executor=executor, progress=progress)
        squares = self.explained_variance_ * (self.n_samples_ - 1)  # (k,), of the singular values
        # A code is X times a component Xᵀu/σ: X Xᵀ u/σ = σ² u/σ, and u/σ is the combination.
        return (self.combination_ * squares).to(x.device, x.dtype)

    def transform(self, x: Tensor | Shards) -> Tensor:
        """Codes (..., k) of weights (..., d)."""
        return self._project(x)[0]

    @out_of_memory_as(NO_MEMORY)
    def inverse_transform(self, codes: Tensor) -> Tensor:
        """Weights (..., d) of codes (..., k)."""
        self._check_columns(codes, "n_components_")
        flat = codes.reshape(-1, self.n_components_)  # (n, k)
        rows, coefficients, origin = self._as_combinations(flat)
        if isinstance(rows, Tensor) and (rows.dtype, rows.device) == (coefficients.dtype, coefficients.device):
            weights = combined(coefficients, rows, origin).to(codes.device, codes.dtype)  # (n, d)
        else:
            weights = codes.new_empty(len(flat), self.n_features_in_)
            for columns, part in self.blocks(flat):
                weights[:, columns] = part
        return weights.reshape(*codes.shape[:-1], self.n_features_in_)

    def blocks(self, codes: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Decode codes (n, k) chunk by chunk: columns, and the weights there (n, columns)."""
        self._check_columns(codes, "n_components_")
        rows, coefficients, origin = self._as_combinations(codes)
        for columns in self._chunks(len(rows) + len(codes), self.n_features_in_):
            part = _columns(rows, columns, coefficients.device)  # (N, c)
            part = combined(coefficients, part, None if origin is None else origin[columns])  # (n, c)
            yield columns, part.to(codes.device, codes.dtype)
            part = None  # before the next is read

    def reconstruction(self, x: Tensor | Shards) -> Tensor:
        """What the first 1 … k components keep of each row (m, d): (m, k), shares of its squared distance to the mean.

        For the rows of the fit the mean over rows is the cumulated variance ratio; for held-out rows it says how many
        components carry over to networks that the fit has not seen.
        """
        codes, squares = self._project(x)
        return codes.double().square().cumsum(-1) / squares.to(codes.device)[..., None].clamp_min(1e-300)

    def basis(self, others: int = 0) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunk after chunk of columns: which, mean (c,) and components (k, c); one pass over rows that are on disk.

        ``others``: how many further rows the caller holds for the same columns, so that all keep to ``memory``.
        """
        self._check_fitted()
        rows = self._rows()
        device = self._device(rows)
        for columns in self._chunks(len(rows) + self.n_components_ + others, self.n_features_in_):
            part = _columns(rows, columns, device).to(self.precision, copy=True)  # (N, c)
            if self.rows_ is None:
                mean, basis = self.mean_[columns].to(part), part
            else:
                part, mean = centred(part)
                basis = self.combination_.T.to(part) @ part  # (k, c)
            yield columns, mean, basis
            part = mean = basis = None  # before the next are made

    # -- the steps of a fit ---------------------------------------------------------------------------------------

    def _check_arguments(self, x: Tensor | Shards) -> None:
        _check_dtype(x)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"PCA needs at least two networks in a matrix (N, d), got shape {tuple(x.shape)}")
        self.check(len(x))

    def check(self, members: int, others: int = 0, name: str = "n_components") -> None:
        """Whether the arguments make sense for so many rows, before there are any.

        Args:
            members: N rows.
            others: further rows that are held for the same columns, such as components.
            name: what the caller's reader calls ``n_components``.

        Raises:
            ValueError: k >= N, or less memory than one column of all rows takes.
            TypeError: another precision than float64 or float32.
        """
        if self.precision not in PRECISIONS:
            raise TypeError(f"products are summed in float64 or float32, not in {self.precision}: precision=")
        most = members - 1
        k = self.n_components
        if not (k is None or (is_whole(k, 1) and k <= most) or self._is_share()):
            raise ValueError(
                f"{name} must be a whole number from 1 to N-1 = {most} (N networks span N-1 directions around "
                f"their mean), a share of variance in (0, 1), or None; got {k!r}"
            )
        self._chunks(members + others, 1)

    def _is_share(self) -> bool:
        return is_number(self.n_components, 0) and 0 < self.n_components < 1

    def _gram_matrix(self, x: Tensor | Shards, executor: Executor | None, progress: bool) -> tuple[Tensor, ...]:
        """Inner products (N, N) of centred rows, summed over chunks of columns; and the mean (d,) of a tensor."""
        n, d = x.shape
        device = self._device(x)
        jobs = []
        in_place = isinstance(x, Tensor) and x.device == device and executor is None  # only their mean is made
        for columns in self._chunks(1 if in_place else n, d):
            if executor is not None and isinstance(x, Tensor):  # a view would travel with the whole matrix
                jobs.append((x[:, columns].clone(), slice(None), self.precision, device))
            else:
                jobs.append((x, columns, self.precision, device))
        parts = run_jobs(_gram_part, jobs, executor, progress=progress, desc="Gram matrix", unit="chunk")
        gram = torch.zeros(n, n, dtype=torch.float64)
        means = []
        for part, mean in by_position(parts):
            gram += part
            if isinstance(x, Tensor):
                means.append(mean)
        if not gram.isfinite().all():
            raise ValueError("the matrix holds NaN or infinite values")
        return gram, torch.cat(means) if means else None

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

    # -- the rows of a fit ----------------------------------------------------------------------------------------

    def _keep(self, rows: Tensor | Shards | None, components: Tensor | None = None) -> None:
        """What points are made of: rows of a fit, or components."""
        self.rows_ = rows
        self._components = components
        self._changes = _changes(rows)

    def to(self, device: torch.device | str) -> DualPCA:
        """The same PCA, decoding on a device: its mean, and the rows or components, lie there, or are read onto it."""
        self._check_fitted()
        moved = copy.copy(self)
        moved.mean_ = None if self.mean_ is None else self.mean_.to(device)
        rows, components = (None if part is None else part.to(device) for part in (self.rows_, self._components))
        moved._keep(rows, components)
        return moved

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "rows_" in state:  # a copy of them, whose changes are counted from here
            self._changes = _changes(self.rows_)

    def _rows(self) -> Tensor | Shards:
        """The matrix that decoded points are combinations of: the rows (N, d), or else the components (k, d)."""
        if self.rows_ is None:
            return self._components
        if _changes(self.rows_) != self._changes:
            raise ValueError("the rows were changed in place after the fit: fit anew, or fit with copy=True")
        return self.rows_

    def _as_combinations(self, codes: Tensor) -> tuple[Tensor | Shards, Tensor, Tensor | None]:
        """How codes (n, k) become weights: a matrix (M, d), coefficients (n, M), and what is added (d,), if any."""
        rows = self._rows()
        device = self._device(rows)
        dtype = torch.promote_types(codes.dtype, rows.dtype)
        if self.rows_ is None:
            return rows, codes.to(device, dtype), self.mean_.to(device, dtype)
        coefficients = row_shares(codes, self.combination_)  # (n, N)
        if bool((coefficients.abs() > LARGEST_IN_FLOAT32).any()):
            dtype = self.precision
        return rows, coefficients.to(device, dtype), None

    # -- chunks of columns ----------------------------------------------------------------------------------------

    @out_of_memory_as(NO_MEMORY)
    def _project(self, x: Tensor | Shards) -> tuple[Tensor, Tensor]:
        """Codes (..., k), and squared distances to the mean (...,)."""
        self._check_columns(x, "n_features_in_")
        rows = self._rows()
        device = self._device(rows)
        flat = x.reshape(-1, x.shape[-1]) if isinstance(x, Tensor) else x  # (m, d)
        products = torch.zeros(len(flat), len(rows), dtype=torch.float64)  # with rows, or with components
        squares = torch.zeros(len(flat), dtype=torch.float64)
        for columns in self._chunks(len(flat) + len(rows), self.n_features_in_):
            mean = self.mean_[columns].to(device) if self.rows_ is None else None
            part, there = (_columns(matrix, columns, device) for matrix in (flat, rows))  # (m, c), (N, c)
            more, more_squares = projected(part, there, mean, self.precision)
            products += more.cpu()
            squares += more_squares.cpu()
            part = there = None  # before the next are read
        codes = products if self.rows_ is None else products @ self.combination_  # (m, k)
        return codes.to(x.device, x.dtype).reshape(*x.shape[:-1], -1), squares.reshape(x.shape[:-1])

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
    is_held = size > 0 and isfinite(size)  # squares may be more, or less, than single precision can hold
    return size if is_held else float(codes.double().square().mean().sqrt())


def _check_dtype(x: Tensor | Shards) -> None:
    if not isinstance(x, Tensor | Shards):
        raise TypeError(f"PCA takes a tensor, got {type(x).__name__}: torch.as_tensor(x) makes one")
    if x.dtype not in PRECISIONS:
        raise TypeError(f"PCA takes float32 or float64, got {x.dtype}: convert to float32, x.float()")


def _changes(rows: Tensor | Shards | None) -> int:
    """How often a tensor was changed in place; of what is made under ``torch.inference_mode`` that is not counted."""
    return rows._version if isinstance(rows, Tensor) and not rows.is_inference() else 0


def _columns(x: Tensor | Shards, columns: slice, device: torch.device) -> Tensor:
    """Some columns of all rows (N, c): of a tensor a view, if it is on this device; those on disk are read, once."""
    if isinstance(x, Shards):
        return x.to(device).columns(columns)
    return x[:, columns].to(device)


def _eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N,), none below zero, and eigenvectors (N, N) in columns, the largest first.

    Signs make a fit reproducible: the row that is farthest along an eigenvector has a positive code.
    """
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    farthest = vectors.abs().argmax(0, keepdim=True)  # (1, N)
    return values, vectors * vectors.gather(0, farthest).sign()


def _gram_part(
    x: Tensor | Shards, columns: slice, precision: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A job: the share of some columns in the Gram matrix of centred rows, (N, N), and their mean (c,)."""
    gram, mean = gram_of(_columns(x, columns, device), precision)
    return gram.double().cpu(), mean.to(x.device, x.dtype)
