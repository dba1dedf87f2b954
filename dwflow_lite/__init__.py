"""dwflow_lite: generate the weights of neural networks with re-basined flow matching.

One way through: tasks, networks, zoo, symmetry, compress, flow, generate, audit, use (arXiv 2601.05052).
Names below are imported on first use, so that ``python -m dwflow_lite check`` works on a broken install; an editor
reads the imports under ``TYPE_CHECKING`` and completes ``dwflow_lite.`` all the same.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dwflow_lite.support.versions import __version__

if TYPE_CHECKING:
    from dwflow_lite.auditing import audit
    from dwflow_lite.compress import DualPCA
    from dwflow_lite.flow import (
        ClosedFormField,
        FlowSettings,
        GaussianSource,
        StraightPath,
        VelocityField,
        integrate,
        train_flow,
    )
    from dwflow_lite.generate import DeepWeightFlow
    from dwflow_lite.networks import MLP
    from dwflow_lite.symmetry import (
        Matching,
        Permutation,
        PermutationSpec,
        canonicalise,
        derive_spec,
        linear_barrier,
        weight_matching,
    )
    from dwflow_lite.tasks import Task, load_task
    from dwflow_lite.training import Recipe, train_zoo
    from dwflow_lite.zoo import Layout, Zoo, evaluate, predict

# Room -> the names a reader has from ``dwflow_lite`` itself (a test holds this list and the imports above equal).
_HOME = {
    "tasks": ["Task", "load_task"],
    "networks": ["MLP"],
    "zoo": ["Layout", "Zoo", "evaluate", "predict"],
    "training": ["Recipe", "train_zoo"],
    "symmetry": ["Matching", "Permutation", "PermutationSpec", "canonicalise", "derive_spec", "linear_barrier",
                 "weight_matching"],
    "compress": ["DualPCA"],
    "flow": [
        "ClosedFormField",
        "FlowSettings",
        "GaussianSource",
        "StraightPath",
        "VelocityField",
        "integrate",
        "train_flow",
    ],
    "generate": ["DeepWeightFlow"],
    "auditing": ["audit"],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "MLP",
    "ClosedFormField",
    "DeepWeightFlow",
    "DualPCA",
    "FlowSettings",
    "GaussianSource",
    "Layout",
    "Matching",
    "Permutation",
    "PermutationSpec",
    "Recipe",
    "StraightPath",
    "Task",
    "VelocityField",
    "Zoo",
    "__version__",
    "audit",
    "canonicalise",
    "derive_spec",
    "evaluate",
    "integrate",
    "linear_barrier",
    "load_task",
    "predict",
    "train_flow",
    "train_zoo",
    "weight_matching",
]


def __getattr__(name: str) -> object:
    """Import a reader's name from its room when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dwflow_lite' has no attribute {name!r}")
    return getattr(import_module(f"dwflow_lite.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
