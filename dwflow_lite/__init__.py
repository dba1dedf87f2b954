"""dwflow_lite: generate the weights of neural networks with re-basined flow matching.

One way through: tasks, networks, zoo, symmetry, compress, flow, generate, audit (arXiv 2601.05052).
Names below are imported on first use, so that ``python -m dwflow_lite check`` works on a broken install.
"""

from importlib import import_module

from dwflow_lite.support.versions import __version__

_HOME = {
    "tasks": ["Task", "load_task"],
    "networks": ["MLP"],
    "zoo": ["Layout", "Zoo", "evaluate", "predict"],
    "training": ["train_zoo"],
    "symmetry": ["Permutation", "PermutationSpec", "canonicalise", "linear_barrier", "weight_matching"],
    "compress": ["DualPCA"],
    "flow": ["ClosedFormField", "GaussianSource", "StraightPath", "VelocityField", "integrate", "train_flow"],
    "generate": ["DeepWeightFlow"],
    "auditing": ["audit"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dwflow_lite' has no attribute {name!r}")
    return getattr(import_module(f"dwflow_lite.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
