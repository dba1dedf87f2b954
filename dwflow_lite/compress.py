"""Dual (Gram) PCA: few networks of many weights, so the N x N Gram matrix instead of the d x d covariance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from math import prod

import torch
from torch import Tensor

from dwflow_lite.support.jobs import run_jobs
from dwflow_lite.zoo.storage import Shards

PRECISIONS = (torch.float32, torch.float64)


class DualPCA:
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
    """

    def __init__(
        self,
        n_components: int | float | None = None,
        *,
        memory: int = 1 << 28,
        precision: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        self.n_components, self.memory, self.precision, self.device = n_components, memory, precision, device

    def fit(self, x: Tensor | Shards, *, executor: Executor | None = None, progress: bool = False) -> DualPCA:
        """Learn mean and components of ``x`` (N, d).

        Args:
            x: a tensor, or rows on disk. executor: where chunks are multiplied, one a job; partial sums are added in
                the order of the columns, so that the result does not depend on who was first. progress: show a bar.

        Raises:
            ValueError: fewer than two rows, NaN, k >= N, more components than carry variance, or too little memory.
            TypeError: anything but rows on disk or a tensor in float32 or float64; another precision.
        """
        _check_dtype(x)
        if self.precision not in PRECISIONS:
            raise TypeError(f"products are summed in float64 or float32, not in {self.precision}: precision=")
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"PCA needs at least two networks in a matrix (N, d), got shape {tuple(x.shape)}")
        n, d = x.shape
        wanted = self.n_components
        whole = isinstance(wanted, int) and not isinstance(wanted, bool)
        share = isinstance(wanted, float) and 0 < wanted < 1
        if not (wanted is None or share or (whole and 1 <= wanted < n)):
            raise ValueError(
                f"n_components must be a whole number from 1 to N-1 = {n - 1} (N networks span N-1 directions around "
                f"their mean), a share of variance in (0, 1), or None; got {wanted!r}"
            )
        gram = torch.zeros(n, n, dtype=torch.float64)
        device = x.device if self.device is None else torch.device(self.device)
        pieces = [(x, c) for c in self._chunks(n, d)]
        if executor is not None and isinstance(x, Tensor):
            pieces = [(x[:, c].clone(), slice(None)) for x, c in pieces]  # a view would travel with the whole matrix
        jobs = [(*piece, self.precision, device) for piece in pieces]
        parts = run_jobs(_gram, jobs, executor, progress=progress, desc="Gram matrix", unit="chunk")
        for part in _in_order(parts):
            gram += part
        if not gram.isfinite().all():
            raise ValueError("the matrix holds NaN or infinite values")
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        total = float(gram.diagonal().sum())
        smallest = 1e-13 if self.precision == torch.float64 else 1e-6
        rank = min(n - 1, int((values > max(total, 1e-300) * smallest).sum()))
        if rank == 0:
            raise ValueError("all networks of the zoo are the same; there is no direction to keep")
        k = rank if wanted is None else wanted
        if share:
            k = int((values.cumsum(0) / total < wanted - 1e-12).sum()) + 1
        if k > rank:
            raise ValueError(f"{k} components asked for, but only {rank} carry variance (repeated networks?)")
        values, vectors = values[:k], vectors[:, :k]
        # Sign convention, so that a fit is reproducible: the row farthest along a component has a positive code.
        vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        self.combination_, self.singular_values_ = vectors / values.sqrt(), values.sqrt()
        self.explained_variance_ = values / (n - 1)
        self.explained_variance_ratio_ = values / total
        self.n_components_, self.n_samples_, self.n_features_in_ = k, n, d
        self.rows_, self.mean_, self.components_ = x, None, None
        if isinstance(x, Tensor):
            mean, components = x.new_empty(d), x.new_empty(k, d)
            for columns, middle, basis in self.basis():
                mean[columns], components[:, columns] = middle.to(mean), basis.to(mean)
            self.rows_, self.mean_, self.components_ = None, mean, components
        return self

    def basis(self, others: int = 0) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunk after chunk of columns: which, mean (c,) and components (k, c); one pass over rows that are on disk.

        ``others``: how many further rows the caller holds for the same columns, so that all keep to ``memory``.
        """
        self._check(None)
        source = self.components_ if self.rows_ is None else self.rows_
        device = source.device if self.device is None else torch.device(self.device)
        for columns in self._chunks(self.n_components_ + others + (0 if self.rows_ is None else self.n_samples_)):
            if self.rows_ is None:
                mean, basis = (t[..., columns].to(device, self.precision) for t in (self.mean_, self.components_))
            else:
                rows, mean = centred(_columns(self.rows_, columns, self.precision, device))
                basis = self.combination_.T.to(rows) @ rows
            yield columns, mean, basis
            rows = mean = basis = None  # before the next are read

    def transform(self, x: Tensor | Shards) -> Tensor:
        """Codes (..., k) of weights (..., d)."""
        return self._project(x)[0]

    def reconstruction(self, x: Tensor | Shards) -> Tensor:
        """What the first 1 … k components keep of each row (m, d): (m, k), shares of its squared distance to the mean.

        For the rows of the fit the mean over rows is the cumulated variance ratio; for held-out rows it says how many
        components carry over to networks that the fit has not seen.
        """
        codes, squares = self._project(x)
        return codes.double().square().cumsum(-1) / squares[..., None].clamp_min(1e-300)

    def blocks(self, codes: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Decode codes (n, k) chunk by chunk: columns, and the weights there (n, columns)."""
        self._check(codes, "n_components_")
        for columns, mean, basis in self.basis(len(codes)):
            yield columns, (codes.to(basis) @ basis).add_(mean).to(codes.device, codes.dtype)

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """Weights (..., d) of codes (..., k)."""
        self._check(codes, "n_components_")
        out = codes.new_empty(*codes.shape[:-1], self.n_features_in_)
        for columns, part in self.blocks(codes.reshape(-1, self.n_components_)):
            out[..., columns] = part.unflatten(0, codes.shape[:-1]) if codes.ndim > 1 else part[0]
        return out

    def fit_transform(self, x: Tensor | Shards, **how: Executor | bool | None) -> Tensor:
        """Fit, and the codes (N, k) of the rows, which the fit knows without another pass. ``how``: as for ``fit``."""
        self.fit(x, **how)
        return (self.combination_ * self.explained_variance_ * (self.n_samples_ - 1)).to(x.device, x.dtype)

    def _project(self, x: Tensor | Shards) -> tuple[Tensor, Tensor]:
        """Codes (..., k), and squared distances to the mean (...,)."""
        self._check(x, "n_features_in_")
        codes, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for columns, mean, basis in self.basis(2 * prod(x.shape[:-1])):
            part = _columns(x, columns, basis.dtype, basis.device).sub_(mean)
            codes, squares = codes + (part @ basis.T).double().cpu(), squares + part.square().sum(-1).double().cpu()
        return codes.to(x.device, x.dtype), squares

    def _chunks(self, rows: int, d: int | None = None) -> list[slice]:
        """Columns in chunks of which ``rows`` rows take no more than ``memory``, with what is made on the way."""
        d = self.n_features_in_ if d is None else d
        need = rows * (4 + self.precision.itemsize)
        if not isinstance(self.memory, int) or self.memory < need:
            raise ValueError(f"memory must be a whole number of bytes, >= {need} for one column, got {self.memory!r}")
        step = self.memory // need
        return [slice(start, min(start + step, d)) for start in range(0, d, step)]

    def _check(self, x: Tensor | Shards | None, width: str = "") -> None:
        if not hasattr(self, "combination_"):
            raise RuntimeError("this DualPCA is not fitted yet: call fit(x) first")
        if width:
            _check_dtype(x)
            if x.shape[-1] != getattr(self, width):
                raise ValueError(f"expected {getattr(self, width)} columns, got shape {tuple(x.shape)}")


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


def _gram(x: Tensor | Shards, columns: slice, precision: torch.dtype, device: torch.device) -> Tensor:
    """A job: the share of some columns in the Gram matrix of centred rows, (N, N)."""
    part, _ = centred(_columns(x, columns, precision, device))
    return (part @ part.T).double().cpu()


def _in_order(parts: Iterable[tuple[int, Tensor]]) -> Iterator[Tensor]:
    """Results by position, each as soon as all before it are there."""
    early, wanted = {}, 0
    for position, part in parts:
        early[position] = part
        while wanted in early:
            yield early.pop(wanted)
            wanted += 1
