"""What a network is trained to do: data in four disjoint splits, a loss and a score."""

from dwflow_lite.tasks.checks import shared_classes
from dwflow_lite.tasks.datasets import TASKS, digits, iris, load_task, reviews, yelp
from dwflow_lite.tasks.glyphs import DOMAINS, Difficulty
from dwflow_lite.tasks.images import cifar10, data_folders, fashion_mnist, mnist
from dwflow_lite.tasks.measures import KINDS
from dwflow_lite.tasks.scaling import Preparation, Scale
from dwflow_lite.tasks.splits import FRACTIONS, SPLITS, Split
from dwflow_lite.tasks.strokes import SYMBOLS
from dwflow_lite.tasks.subsets import few_labels, of_classes
from dwflow_lite.tasks.task import DataNotFoundError, Task
from dwflow_lite.tasks.text import Vocabulary, made_vocabulary, make_reviews, read_reviews

__all__ = [
    "DOMAINS",
    "FRACTIONS",
    "KINDS",
    "SPLITS",
    "SYMBOLS",
    "TASKS",
    "DataNotFoundError",
    "Difficulty",
    "Preparation",
    "Scale",
    "Split",
    "Task",
    "Vocabulary",
    "cifar10",
    "data_folders",
    "digits",
    "fashion_mnist",
    "few_labels",
    "iris",
    "load_task",
    "made_vocabulary",
    "make_reviews",
    "mnist",
    "of_classes",
    "read_reviews",
    "reviews",
    "shared_classes",
    "yelp",
]
