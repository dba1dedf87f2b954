"""Checks of 03b_repair_and_width."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dwflow_lite.course.exercises import exercise


@exercise("03b.1")
def repair_layer(answer: Callable) -> None:
    """A layer whose units get another mean and deviation."""
    generator = torch.Generator().manual_seed(4)
    weight, bias, x = (torch.randn(*shape, generator=generator).double() for shape in ((3, 5), (3,), (200, 5)))
    kept, y = (weight.clone(), bias.clone()), x @ weight.T + bias
    mean, std = y.mean(0), y.std(0, correction=0)
    new_mean, new_std = torch.tensor([0.5, -2.0, 0.0]).double(), torch.tensor([1.0, 0.3, 2.5]).double()
    got = answer(weight, bias, mean, std, new_mean, new_std)
    assert len(got) == 2 and got[0].shape == (3, 5) and got[1].shape == (3,), "return (weight, bias), shaped as before"
    assert torch.equal(weight, kept[0]) and torch.equal(bias, kept[1]), "the given tensors must stay as they were"
    z = x @ got[0].T + got[1]
    assert torch.allclose(z.std(0, correction=0), new_std), (
        f"the deviations become {[round(v, 3) for v in z.std(0, correction=0).tolist()]}, not {new_std.tolist()}: "
        "one factor a row"
    )
    assert torch.allclose(z.mean(0), new_mean), (
        f"the means become {[round(v, 3) for v in z.mean(0).tolist()]}, not {new_mean.tolist()}: the factor scales the "
        "old mean too"
    )


@exercise("03b.2")
def correlations(answer: Callable) -> None:
    """Correlations of what the units of two layers answer."""
    generator = torch.Generator().manual_seed(5)
    x, noise = (torch.randn(50, 4, generator=generator).double() for _ in range(2))
    order = [2, 0, 3, 1]
    y = 3 * x[:, order] + noise + 7  # louder, shifted, in another order
    kept = x.clone(), y.clone()
    got, expected = answer(x, y), torch.corrcoef(torch.cat([x, y], 1).T)[:4, 4:]
    assert tuple(got.shape) == (4, 4), f"two layers of 4 units have a matrix (4, 4); got {tuple(got.shape)}"
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1]), "the given tensors must stay as they were"
    assert not torch.allclose(got, expected.T), "rows and columns are exchanged: rows are units of x"
    assert torch.allclose(answer(x, x).diagonal(), torch.ones(4).double()), "a unit correlates with itself by 1"
    assert torch.allclose(got, expected), (
        f"entries differ by up to {float((got - expected).abs().max()):.2g}: neither the mean nor the scale of a unit "
        "matters to a correlation"
    )
    silent = x.clone()
    silent[:, 1] = 0.0
    got = answer(silent, y)
    assert torch.isfinite(got).all() and float(got[1].abs().max()) < 1e-6, "a silent unit correlates by 0 with all"
    assert torch.allclose(got[[0, 2, 3]], expected[[0, 2, 3]]), "a silent unit must not change the others"
