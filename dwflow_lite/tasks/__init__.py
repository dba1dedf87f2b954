"""What a network is trained to do: data in four disjoint splits, a loss and a score."""

from dwflow_lite.tasks.datasets import (
    TASKS,
    cifar10,
    data_folders,
    digits,
    fashion_mnist,
    iris,
    load_task,
    mnist,
    reviews,
    yelp,
)
from dwflow_lite.tasks.task import FRACTIONS, KINDS, SPLITS, DataNotFoundError, Split, Task

__all__ = [
    "FRACTIONS",
    "KINDS",
    "SPLITS",
    "TASKS",
    "DataNotFoundError",
    "Split",
    "Task",
    "cifar10",
    "data_folders",
    "digits",
    "fashion_mnist",
    "iris",
    "load_task",
    "mnist",
    "reviews",
    "yelp",
]
