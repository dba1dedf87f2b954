"""Dual (Gram) PCA: few networks of many weights, so the N x N Gram matrix instead of the d x d covariance."""

from __future__ import annotations

import torch
from torch import Tensor


class DualPCA:
    """Principal components of a zoo, in scikit-learn's estimator conventions.

    With N rows and d >> N columns the components are Xᵀu/σ for the eigenvectors u of the Gram matrix X Xᵀ (X centred):
    O(N²d) time, and no d x d matrix. The Gram matrix is summed in float64 over chunks of columns.

    At k = N-1 this is a rotation: nothing is lost, and every decoded point is an affine combination of the rows.

    Args:
        n_components: a number k <= N-1; a share of the total variance in (0, 1), reached by the fewest components;
            or None for all that carry variance.
        chunk: columns held in float64 at a time.

    Attributes:
        components_: (k, d), orthonormal rows. mean_: (d,). singular_values_: (k,).
        explained_variance_: (k,). explained_variance_ratio_: (k,), shares of the *total* variance.
        n_components_, n_samples_, n_features_in_: k, N, d.
    """

    def __init__(self, n_components: int | float | None = None, *, chunk: int = 1 << 20) -> None:
        self.n_components = n_components
        self.chunk = chunk

    def fit(self, x: Tensor) -> DualPCA:
        """Learn mean and components of ``x`` (N, d).

        Raises:
            ValueError: fewer than two rows, NaN, k >= N, or more components than carry variance.
            TypeError: anything but a tensor in float32 or float64.
        """
        _check_dtype(x)
        if not isinstance(self.chunk, int) or self.chunk < 1:
            raise ValueError(f"chunk must be a whole number of columns >= 1, got {self.chunk!r}")
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"PCA needs at least two networks in a matrix (N, d), got shape {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            raise ValueError("the matrix holds NaN or infinite values")
        n, d = x.shape
        wanted = self.n_components
        whole = isinstance(wanted, int) and not isinstance(wanted, bool)
        share = isinstance(wanted, float) and 0 < wanted < 1
        if not (wanted is None or share or (whole and 1 <= wanted < n)):
            raise ValueError(
                f"n_components must be a whole number from 1 to N-1 = {n - 1} (N networks span N-1 directions around "
                f"their mean), a share of variance in (0, 1), or None; got {wanted!r}"
            )
        mean = torch.empty(d, dtype=torch.float64, device=x.device)
        gram = torch.zeros(n, n, dtype=torch.float64, device=x.device)
        for columns in _chunks(d, self.chunk):
            part = x[:, columns].double()
            first = part[0].clone()
            part = part - first  # exactly zero for repeated rows, which a rounded mean would not be
            mean[columns] = first + part.mean(0)
            part = part - part.mean(0)
            gram += part @ part.T
        values, vectors = torch.linalg.eigh(gram)
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
        total = float(gram.diagonal().sum())
        rank = min(n - 1, int((values > max(total, 1e-300) * 1e-13).sum()))
        if rank == 0:
            raise ValueError("all networks of the zoo are the same; there is no direction to keep")
        k = rank if wanted is None else wanted
        if share:
            k = int((values.cumsum(0) / total < wanted - 1e-12).sum()) + 1
        if k > rank:
            raise ValueError(f"{k} components asked for, but only {rank} carry variance (repeated networks?)")
        values, vectors = values[:k], vectors[:, :k]
        components = torch.empty(k, d, dtype=x.dtype, device=x.device)
        for columns in _chunks(d, self.chunk):
            part = x[:, columns].double() - mean[columns]
            components[:, columns] = ((vectors.T @ part) / values.sqrt()[:, None]).to(x.dtype)
        # Sign convention: the entry of largest size in each component is positive, so that a fit is reproducible.
        largest = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
        self.components_ = components * largest
        self.mean_ = mean.to(x.dtype)
        self.singular_values_ = values.sqrt()
        self.explained_variance_ = values / (n - 1)
        self.explained_variance_ratio_ = values / total
        self.n_components_, self.n_samples_, self.n_features_in_ = k, n, d
        return self

    def transform(self, x: Tensor) -> Tensor:
        """Codes (..., k) of weights (..., d)."""
        self._check(x, "n_features_in_")
        codes = torch.zeros(*x.shape[:-1], self.n_components_, dtype=torch.float64, device=x.device)
        for columns in _chunks(self.n_features_in_, self.chunk):
            part = x[..., columns].double() - self.mean_[columns].double()
            codes += part @ self.components_[:, columns].double().T
        return codes.to(x.dtype)

    def inverse_transform(self, codes: Tensor) -> Tensor:
        """Weights (..., d) of codes (..., k)."""
        self._check(codes, "n_components_")
        out = torch.empty(*codes.shape[:-1], self.n_features_in_, dtype=codes.dtype, device=codes.device)
        for columns in _chunks(self.n_features_in_, self.chunk):
            part = codes.double() @ self.components_[:, columns].double() + self.mean_[columns].double()
            out[..., columns] = part.to(codes.dtype)
        return out

    def fit_transform(self, x: Tensor) -> Tensor:
        """Fit, and the codes of the rows."""
        return self.fit(x).transform(x)

    def _check(self, x: Tensor, width: str) -> None:
        if not hasattr(self, "components_"):
            raise RuntimeError("this DualPCA is not fitted yet: call fit(x) first")
        _check_dtype(x)
        if x.shape[-1] != getattr(self, width):
            raise ValueError(f"expected {getattr(self, width)} columns, got shape {tuple(x.shape)}")


def _check_dtype(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"PCA takes a tensor, got {type(x).__name__}: torch.as_tensor(x) makes one")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"PCA takes float32 or float64, got {x.dtype}: convert to float32, x.float()")


def _chunks(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]
