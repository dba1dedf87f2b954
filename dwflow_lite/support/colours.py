"""The colours of what the course draws, in figures and in pages."""

from __future__ import annotations

# One name has one colour in every figure of the course.
COLOURS = {
    "zoo": "#4c566a",
    "held-out networks": "#8fa1b3",
    "generated": "#d1495b",
    "aligned": "#2a7f9e",
    "not aligned": "#e8963a",
    "soup of 10": "#6a994e",
    "Gaussian on codes": "#7b5ea7",
    "pair interpolation": "#3aa6a0",
    "zoo + noise": "#b5838d",
    "random weights": "#a0a0a0",
    "random permutation": "#8b5a83",
    "retrieval": "#1b1b1b",
    "closed-form flow": "#c9a227",
    "Gaussian on weights": "#b39ddb",
    "published": "#111e6c",
    "held-out, aligned": "#2a7f9e",
    "members, aligned": "#9cc5d6",
    "held-out, not aligned": "#e8963a",
    "members, not aligned": "#f3cfa0",
    "flow": "#d1495b",
    "flow, aligned": "#d1495b",
    "flow, matched source": "#e08a96",
    "flow on leading codes": "#c2408f",
    "Gaussian, not aligned": "#e8963a",
    "unit crossover": "#8a6d1f",
    "mixture of all": "#2a7f9e",
    "member + noise": "#b5838d",
    "heads matched, exact": "#2a7f9e",
    "heads matched, spectral": "#7b5ea7",
}
