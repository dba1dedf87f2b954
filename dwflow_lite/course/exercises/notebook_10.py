"""Checks of 10_ensembles_and_transfer."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch

from dwflow_lite.course.exercises import exercise


@exercise("10.1")
def nll_of_the_mean(answer: Callable) -> None:
    """NLL of the mean of the probabilities of several networks, averaged over images."""
    generator = torch.Generator().manual_seed(0)
    for m, n, classes in ((2, 5, 3), (4, 7, 10), (1, 6, 4)):
        outputs = 2 * torch.randn(m, n, classes, generator=generator)
        y = torch.randint(classes, (n,), generator=generator)
        expected = 0.0
        for image in range(n):
            p = sum(float(outputs[k, image].softmax(0)[y[image]]) for k in range(m)) / m
            expected -= float(torch.tensor(p).log()) / n
        got = float(answer(outputs, y))
        assert abs(got - expected) < 1e-4, (
            f"of {m} networks, {n} images and {classes} classes the NLL of the mean is {expected:.4f}; got {got:.4f}. "
            "Softmax first, then the mean over networks, then the logarithm of the label's"
        )


@exercise("10.2")
def mean_disagreement(answer: Callable) -> None:
    """Share of images on which two networks name different classes, averaged over pairs of different networks."""
    generator = torch.Generator().manual_seed(0)
    for m, n, classes in ((2, 6, 3), (5, 8, 4), (4, 5, 2)):
        named = torch.randint(classes, (m, n), generator=generator)
        pairs = list(combinations(range(m), 2))
        expected = sum(float((named[i] != named[j]).float().mean()) for i, j in pairs) / len(pairs)
        got = float(answer(named, classes))
        assert abs(got - expected) < 1e-5, (
            f"{m} networks disagree on {expected:.3f} of {n} images, mean over {len(pairs)} pairs; got {got:.3f}. A "
            "network makes no pair with itself"
        )


@exercise("10.3")
def area_under_the_curve(answer: Callable) -> None:
    """Share of pairs in which the input outside has more doubt; pairs alike count half."""
    cases = (
        ("all outside have more", [0.1, 0.2], [0.3, 0.4, 0.5], 1.0),
        ("all outside have less", [0.6, 0.7], [0.3], 0.0),
        ("three of four pairs", [0.1, 0.4], [0.3, 0.5], 0.75),
        ("one of two pairs is alike", [0.1, 0.2], [0.1], 0.25),
        ("all are alike", [0.2, 0.2, 0.2], [0.2, 0.2], 0.5),
    )
    for what, inside, outside, expected in cases:
        got = float(answer(torch.tensor(inside), torch.tensor(outside)))
        assert abs(got - expected) < 1e-5, (
            f"{what} (inside {inside}, outside {outside}): {expected:g}; got {got:g}. Count every pair of one inside "
            "and one outside"
        )


@exercise("10.4")
def rows_by_name(answer: Callable) -> None:
    """The target's output layer: rows of shared names from the source, the others fresh."""
    generator = torch.Generator().manual_seed(0)
    cases = (
        (("0", "1", "2"), ("2", "1", "0")),
        (("cat", "dog"), ("dog", "fox", "cat", "owl")),
        (("A", "B"), ("C", "D", "E")),
        (("A", "B", "C"), ("C",)),
    )
    for known, wanted in cases:
        source, new = (torch.randn(len(names), 4, generator=generator) for names in (known, wanted))
        kept = source.clone(), new.clone()
        rows = {name: source[label] for label, name in enumerate(known)}
        expected = torch.stack([rows.get(name, new[label]) for label, name in enumerate(wanted)])
        got = answer(source, known, new, wanted)
        assert tuple(got.shape) == tuple(new.shape), (
            f"a layer for {len(wanted)} classes has the shape {tuple(new.shape)}; got {tuple(got.shape)}"
        )
        assert torch.equal(got, expected), (
            f"from the classes {', '.join(known)} to {', '.join(wanted)}: a row goes where its name is, whatever its "
            "number; rows of new names are the fresh ones"
        )
        assert torch.equal(source, kept[0]) and torch.equal(new, kept[1]), "a layer has changed: clone, then write"
