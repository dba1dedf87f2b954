"""Train a zoo: every member its own start and its own data order, all of them in one batched computation."""

from dwflow_lite.training.recipe import Recipe
from dwflow_lite.training.train import DivergedError, train_zoo

__all__ = ["DivergedError", "Recipe", "train_zoo"]
