"""Dual PCA: fit and decode, in memory and from disk, beside the one float32 product that cannot be done without.

Of what lies on disk the floor is that product and the reading alone, chunk by chunk as the package reads.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.measure import Measured, side_by_side
from dwflow_lite import DualPCA, Zoo
from dwflow_lite.zoo import Layout, Shards, append, read_folder, start_folder

FIT_WITHIN = 3.0  # float32 products of the matrix with itself
DECODE_WITHIN = 1.3  # float32 products of coefficients with the matrix
VARIANCES_WITHIN = 1e-6  # of those of float64
WEIGHTS_WITHIN = 2e-6  # of the largest weight of a column
SIZES = {"in memory": (100, 2_000_000), "on disk": (25, 11_173_962)}  # (N, d); the latter as many as a ResNet-18
TOY = (8, 3000)


def rows_of(n: int, d: int, kind: str = "plain") -> Tensor:
    """Random rows (n, d), plain or such that single precision goes wrong."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    if kind == "columns over six decades":
        x *= torch.logspace(-3, 3, d)
    elif kind == "large means":
        x += 1e4 * torch.randn(d, generator=torch.Generator().manual_seed(1))
    elif kind == "repeated rows":
        x[n // 2 :] = x[: n - n // 2]
    elif kind == "near-copies":
        x[n // 2 :] = x[: n - n // 2] + 1e-4 * x[n // 2 :]
    return x


def exact_variances(x: Tensor) -> Tensor:
    """Of rows (N, d), the largest first, all in float64 and by another way: singular values of small matrices alone."""
    about = x.double()
    about -= about.mean(0)
    if about.shape[1] <= 20_000:
        return torch.linalg.svdvals(about).square() / (len(x) - 1)
    return torch.linalg.eigvalsh(about @ about.T).flip(0) / (len(x) - 1)


def error_of_variances(x: Tensor) -> float:
    """The largest relative difference of the variances of a fit to those of float64."""
    mine = DualPCA(copy=False).fit(x).explained_variance_
    return float((mine / exact_variances(x)[: len(mine)] - 1).abs().max())


def fit(toy: bool) -> Measured:
    x = rows_of(*(TOY if toy else SIZES["in memory"]))
    found = side_by_side({
        "fit": lambda: DualPCA(copy=False).fit(x),
        "with a copy of the rows": lambda: DualPCA().fit(x),
        "one product": lambda: x @ x.T,
    })  # fmt: skip
    seconds, spread = found.pop("fit")
    beside = {name: middle for name, (middle, _) in found.items()}
    checks = {"error of variances": error_of_variances(x)}
    small = (12, 6000)
    for kind in ("columns over six decades", "large means", "repeated rows", "near-copies"):
        checks[f"error of variances, {kind}"] = error_of_variances(rows_of(*small, kind))
    holds = {"variances are those of float64": max(checks.values()) < VARIANCES_WITHIN}
    if not toy:
        holds[f"within {FIT_WITHIN:g} products"] = seconds <= FIT_WITHIN * beside["one product"]
    return Measured(seconds, spread, beside, checks, holds)


def some_codes(pca: DualPCA, n: int) -> Tensor:
    """Codes (n, k) as spread as those of the rows."""
    noise = torch.randn(n, pca.n_components_, generator=torch.Generator().manual_seed(2))
    return noise * pca.explained_variance_.sqrt().float()


def decode(n: int, toy: bool) -> Measured:
    """``n`` networks from rows in memory, as the zoo that a generator gives, which is looked at for NaN."""
    d = TOY[1] if toy else SIZES["in memory"][1]
    x = rows_of(TOY[0] if toy else SIZES["in memory"][0], d)
    network = nn.Linear(d - 1, 1)
    layout = Layout.of(network)
    pca = DualPCA(copy=False).fit(x)
    codes = some_codes(pca, n)
    coefficients = codes @ pca.combination_.T.float()  # (n, N)
    found = side_by_side({
        "decode": lambda: Zoo(pca.inverse_transform(codes), layout, network),
        "one product": lambda: coefficients @ x,
    })  # fmt: skip
    seconds, spread = found["decode"]
    floor = found["one product"][0]
    weights = pca.inverse_transform(codes)
    few = slice(0, 1000)
    about = x[:, few].double()
    mean = about.mean(0)
    exact = mean + codes.double() @ pca.combination_.T @ (about - mean)  # (n, few)
    off = (weights[:, few] - exact).abs() / exact.abs().amax(0)
    checks = {"largest error of a weight": float(off.max())}
    holds = {"weights are those of float64": checks["largest error of a weight"] < WEIGHTS_WITHIN}
    if not toy:
        holds[f"within {DECODE_WITHIN:g} products"] = seconds <= DECODE_WITHIN * floor
    return Measured(seconds, spread, {"one product": floor}, checks, holds)


# -- from disk -------------------------------------------------------------------------------------------------------


@contextmanager
def rows_on_disk(n: int, d: int) -> Iterator[Shards]:
    """Random rows (n, d) in a folder that is gone afterwards."""
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as home:
        folder = f"{home}/rows"
        start_folder(folder, {"layout": [], "size": d, "record": {}, "members": n}, "float32")
        for row in range(n):
            append(folder, row, torch.randn(1, d, generator=generator), [{}])
        yield read_folder(folder, verify=True).weights


def beside_the_disk(
    rows: Shards, held: int, call: Callable[[], object], product: Callable[[Tensor], Tensor]
) -> tuple[float, float, dict[str, float]]:
    """Seconds and spread of a call, and beside it of reading and of the product alone, all three in turn."""
    seconds, readings, multiplyings = [], [], []
    for turn in range(4):
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        reading, multiplying = read_and_multiply(rows, held, product)
        if turn > 0:  # libraries and the disk have woken up
            seconds.append(took)
            readings.append(reading)
            multiplyings.append(multiplying)
    beside = {"reading": median(readings), "one product": median(multiplyings)}
    return median(seconds), max(seconds) / min(seconds), beside


def read_and_multiply(rows: Shards, held: int, product: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Seconds to read all columns, and to multiply what was read; in chunks of ``held`` rows, as the package does."""
    reading = multiplying = 0.0
    for columns in DualPCA()._chunks(held, rows.size):
        start = time.perf_counter()
        part = rows.columns(columns)
        middle = time.perf_counter()
        product(part)
        reading += middle - start
        multiplying += time.perf_counter() - middle
        del part
    return reading, multiplying


def fit_streamed(toy: bool) -> Measured:
    with rows_on_disk(*(TOY if toy else SIZES["in memory"])) as rows:
        pca = DualPCA()
        seconds, spread, beside = beside_the_disk(rows, len(rows), lambda: pca.fit(rows), lambda part: part @ part.T)
        exact = exact_variances(rows.columns(slice(None)))[: pca.n_components_]
    checks = {"error of variances": float((pca.explained_variance_ / exact - 1).abs().max())}
    holds = {"variances are those of float64": checks["error of variances"] < VARIANCES_WITHIN}
    return Measured(seconds, spread, beside, checks, holds)


def decode_streamed(n: int, toy: bool) -> Measured:
    """``n`` networks from rows on disk, chunk after chunk, none of which is kept."""
    with rows_on_disk(*(TOY if toy else SIZES["on disk"])) as rows:
        pca = DualPCA().fit(rows)
        codes = some_codes(pca, n)
        coefficients = codes @ pca.combination_.T.float()  # (n, N)
        first: list[Tensor] = []

        def all_blocks() -> None:
            first.clear()
            for _, block in pca.blocks(codes):
                if not first:
                    first.append(block[:, :1000].clone())

        held = len(rows) + n
        seconds, spread, beside = beside_the_disk(rows, held, all_blocks, lambda part: coefficients @ part)
        about = rows.columns(slice(0, 1000)).double()
    mean = about.mean(0)
    exact = mean + codes.double() @ pca.combination_.T @ (about - mean)  # (n, 1000)
    off = (first[0] - exact).abs() / exact.abs().amax(0)
    checks = {"largest error of a weight": float(off.max())}
    holds = {"weights are those of float64": checks["largest error of a weight"] < WEIGHTS_WITHIN}
    if not toy:
        holds[f"within {DECODE_WITHIN:g} of reading and product"] = seconds <= DECODE_WITHIN * sum(beside.values())
    return Measured(seconds, spread, beside, checks, holds)


ROWS: dict[str, Callable[[bool], Measured]] = {
    "fit 100 networks of 2 million weights": fit,
    "decode 10 of them": partial(decode, 10),
    "decode 100 of them": partial(decode, 100),
    "fit 100 networks of 2 million weights from disk": fit_streamed,
    "decode 10 ResNet-18 from disk": partial(decode_streamed, 10),
    "decode 100 ResNet-18 from disk": partial(decode_streamed, 100),
}
