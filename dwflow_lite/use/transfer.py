"""Fine-tuning on another task: do generated networks make better starts than a member of the zoo, or the mean?

Three things decide whether such a comparison means anything, and all three are seen to here: labels are matched by the
*names* of classes, never by their numbers, which another task counts otherwise; the i-th start of every kind sees the
same examples in the same order; and statistics of BatchNorm are measured on training images of the target, never on
those that score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dwflow_lite.batchnorm import norms_with_statistics, recalibrate
from dwflow_lite.networks import initialise
from dwflow_lite.networks.outputs import output_layer, with_outputs
from dwflow_lite.support.checks import COUNT, brief, check_ranges, failing_as, is_whole
from dwflow_lite.tasks.checks import shared_classes
from dwflow_lite.tasks.measures import accuracy
from dwflow_lite.tasks.subsets import few_labels, require_classes
from dwflow_lite.tasks.task import Task
from dwflow_lite.training.randomness import member_seed
from dwflow_lite.training.recipe import Recipe
from dwflow_lite.training.train import DivergedError, train_zoo
from dwflow_lite.training.trainable import check_trainable
from dwflow_lite.use.curves import Transfer
from dwflow_lite.zoo.batching import module_with
from dwflow_lite.zoo.checks import require_zoo
from dwflow_lite.zoo.forward import predict
from dwflow_lite.zoo.inputs import check_taken
from dwflow_lite.zoo.layout import Layout
from dwflow_lite.zoo.zoo import Zoo


def transfer(  # noqa: PLR0913 - a public door: from what, to what, how, how often looked at, and where it is kept
    starts: Mapping[str, Zoo],
    task: Task,
    source: Task,
    *,
    epochs: Sequence[int] = (0, 1, 3, 10),
    labels_per_class: int | None = None,
    recipe: Recipe = Recipe(),
    split: str = "validation",
    seed: int = 0,
    head: str | None = None,
    members_at_once: int | None = None,
    device: torch.device | str = "cpu",
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Transfer:
    """Fine-tune many starts on another task, all of a kind in one batched computation, and score them on the way.

    The output layer keeps the rows of classes whose *name* both tasks have; rows of new classes are drawn afresh. Each
    number of epochs is a training of its own, of the same orders of the data, so that one is the beginning of the next:
    (1, 3, 10) costs 14 epochs.

    Args:
        starts: kind of start -> n networks that were made for ``source``: ``{"a member": …, "generated": …}``. A single
            network is given as often as it is to be tried, ``mean.take([0] * 20)``.
        task: the target, a classification whose classes have names. Trained on its training split; statistics of
            BatchNorm are measured there too.
        source: the task that the starts know; it gives names to their outputs, and its data is not read.
        epochs: when to score, increasing. At 0, before any training, examples of the classes that both tasks share are
            scored, by the largest output among these classes (see :class:`Transfer`).
        labels_per_class: train on so many examples of each class, drawn by ``seed``; None: on the training split.
        recipe: of the fine-tuning; its number of epochs is not used.
        split: on which accuracies are measured.
        seed: of new rows, orders of the data, and few labels: the same for the i-th start of every kind.
        head: the name of the output layer, an ``nn.Linear``; None: found by :func:`~networks.outputs.output_layer`.
        members_at_once: how many starts are trained in one computation (None: all of a kind).
        device: where to train.
        checkpoint: a folder in which finished and half-done trainings are kept, as of ``train_zoo``.
        progress: show bars.

    Returns:
        For each kind a table of accuracies, epochs × starts.

    Raises:
        ValueError: no starts, networks that do not fit the task or have other outputs than the source has classes, an
            output layer that cannot be told, classes without names, without an example, or of which none is shared
            though epoch 0 is asked for, or epochs that do not increase.
        TypeError: a start that is no zoo, or a task that is none.
        DivergedError: fine-tuned networks became NaN; a note names their kind.

    Example:
        >>> from dwflow_lite import MLP, load_task
        >>> from dwflow_lite.tasks import of_classes
        >>> digits = load_task("digits")
        >>> low, high = (of_classes(digits, names) for names in ("0123", "3456"))
        >>> starts = {"random": random_starts(MLP([64, 8, 4]), 2, seed=0)}
        >>> found = transfer(starts, high, low, epochs=(0, 1))
        >>> found.shared, len(found.mean("random"))
        (('3',), 2)
    """
    _check_epochs(epochs)
    _check_tasks(task, source, epochs)
    task.split(split)
    if not isinstance(starts, Mapping) or not starts:
        raise ValueError(f"starts are a dictionary of one or more kinds, name -> Zoo; got {brief(starts)}")
    if labels_per_class is not None:
        task = few_labels(task, labels_per_class, seed)

    # All kinds are looked at before the first is trained.
    carried = {}
    for kind, zoo in starts.items():
        require_zoo(zoo)
        with failing_as(f"starts {kind!r} cannot be fine-tuned on task {task.name!r}"):
            carried[kind] = carry_over(zoo, task, source, head=head, init=recipe.init_of, seed=seed).to(device)
            check_trainable(task, carried[kind].network, recipe.batch_size)
    options = {"recipe": recipe, "seed": seed, "members_at_once": members_at_once, "checkpoint": checkpoint}
    scores = {}
    for kind, zoo in carried.items():
        table = []
        for number in epochs:
            if number == 0:
                table.append(zero_shot(zoo, task, source, split))
            else:
                table.append(_fine_tuned(kind, zoo, task, number, split, options | {"progress": progress}))
        scores[kind] = [row.tolist() for row in table]
    shared = tuple(name for name in task.class_names if name in source.class_names)
    return Transfer(source.name, task.name, split, tuple(epochs), scores, shared, len(task.train), labels_per_class)


def _fine_tuned(kind: str, starts: Zoo, task: Task, epochs: int, split: str, options: dict) -> Tensor:
    """Accuracy of n networks after fine-tuning, (n,)."""
    options = options | {"recipe": replace(options["recipe"], epochs=epochs)}
    try:
        tuned = train_zoo(
            task,
            starts.network,
            members=len(starts),
            start=starts,
            scored=(split,),
            device=starts.device,
            **options,
        )
    except DivergedError as error:
        error.add_note(f"these are the starts {kind!r}, after {epochs} epochs on task {task.name!r}")
        raise
    return tuned.scores(split)


def zero_shot(zoo: Zoo, task: Task, source: Task, split: str = "validation") -> Tensor:
    """Accuracy of networks that were carried over and not trained, on the classes that both tasks share.

    Examples of other classes are left out, and the largest output among the shared classes is the answer. Statistics of
    BatchNorm are measured on the training split of the task first.

    Args:
        zoo: n networks, as :func:`carry_over` makes them.
        task: the target.
        source: the task that the networks know.
        split: of the target, on which they are scored.

    Returns:
        Accuracy of each, (n,).

    Raises:
        ValueError: no class is shared, or none that is has an example in the split.
    """
    if norms_with_statistics(zoo.network):
        zoo = recalibrate(zoo, task, "train")
    labels = torch.tensor([label for _, label in shared_classes(source, task)])  # (s,), increasing
    examples = task.split(split)
    is_shared = torch.isin(examples.y, labels.to(examples.y))  # (n examples,)
    if not is_shared.any():
        raise ValueError(f"no {split} example of task {task.name!r} is of a class that {source.name!r} has too")
    outputs = predict(zoo, examples.x[is_shared])[..., labels.to(zoo.device)]  # (n, examples, s)
    answers = torch.searchsorted(labels.to(examples.y), examples.y[is_shared])  # (examples,): places among the shared
    return accuracy(outputs, answers.to(outputs.device))


def carry_over(
    zoo: Zoo,
    task: Task,
    source: Task,
    *,
    head: str | None = None,
    init: str | Callable[[int], str] = "default",
    seed: int = 0,
) -> Zoo:
    """Networks of one task with the outputs of another: rows of shared names are kept, rows of new classes drawn.

    Args:
        zoo: n networks with an output for each class of ``source``; not changed.
        task: whose classes they are to name.
        source: the task that they know.
        head: the name of their output layer; None: it is found.
        init: how new rows are drawn (``networks.INITS``), or a function that says so of each network's number.
        seed: of new rows: those of the i-th network hang on ``seed`` and i alone.

    Returns:
        n networks with an output for each class of ``task``, in its order. All other weights are as they were.

    Raises:
        ValueError: they do not take the inputs of the task, have other outputs than ``source`` has classes, or their
            output layer cannot be told.

    Example:
        >>> from dwflow_lite import MLP, load_task
        >>> from dwflow_lite.tasks import of_classes
        >>> digits = load_task("digits")
        >>> source, target = of_classes(digits, "37"), of_classes(digits, "173")
        >>> zoo = Zoo.from_modules([MLP([64, 5, 2])])
        >>> carried = carry_over(zoo, target, source).module(0)
        >>> torch.equal(carried.layers[1].weight[1:], zoo.module(0).layers[1].weight.flip(0))
        True
    """
    x = task.train.inputs(zoo.weights)[:2]
    check_taken(zoo, x, f"inputs of shape {task.input_shape}")
    name = output_layer(zoo.network, x) if head is None else head
    network = with_outputs(zoo.network, name, task.outputs)
    outputs = zoo.network.get_submodule(name).out_features
    if outputs != source.outputs:
        raise ValueError(f"the networks have {outputs} outputs, and their source {source.name!r} {source.outputs}")
    label_of = {name: label for label, name in enumerate(source.class_names)}
    pairs = [(label_of[each], label) for label, each in enumerate(task.class_names) if each in label_of]
    known, kept = (list(labels) for labels in zip(*pairs, strict=True)) if pairs else ([], [])

    fresh = []
    for number in range(len(zoo)):
        law = init(number) if callable(init) else init
        fresh.append(initialise(network, law, member_seed(seed, number)))
    state = zoo.layout.unflatten(zoo.in_memory().weights)  # each (n, *shape)
    for parameter, _ in network.get_submodule(name).named_parameters():
        tensor = f"{name}.{parameter}" if name else parameter
        rows = torch.stack([start[tensor] for start in fresh]).to(state[tensor])  # (n, outputs, …)
        rows[:, kept] = state[tensor][:, known]
        state[tensor] = rows
    layout = Layout.of(network)
    return Zoo(layout.flatten(state), layout, network)


def random_starts(network: nn.Module, n: int, seed: int = 0, init: str = "default") -> Zoo:
    """``n`` networks as they are before any training: the start that everybody has.

    Args:
        network: the template.
        n: how many.
        seed: the i-th network hangs on ``seed`` and i alone.
        init: one of ``networks.INITS``.

    Example:
        >>> random_starts(nn.Linear(3, 2), 5)
        Zoo(5 Linear networks x 8 weights, 0 held out)
    """
    check_ranges({"n": n}, {"n": COUNT})
    return Zoo.from_modules([module_with(network, initialise(network, init, member_seed(seed, i))) for i in range(n)])


# -- check -------------------------------------------------------------------------------------------------------


def _check_epochs(epochs: Sequence[int]) -> None:
    numbers = list(epochs) if isinstance(epochs, Sequence) and not isinstance(epochs, str) else []
    increases = all(is_whole(number) for number in numbers) and sorted(set(numbers)) == numbers
    if not numbers or not increases:
        raise ValueError(f"epochs are whole numbers >= 0 that increase, as (0, 1, 3, 10); got {brief(epochs)}")


def _check_tasks(task: Task, source: Task, epochs: Sequence[int]) -> None:
    """Both have classes with names; each class of the target can be learnt; some are shared, if that is asked for."""
    for each in (task, source):
        require_classes(each)
        if not each.classes:
            raise ValueError(f"task {each.name!r} names no classes, by which labels are matched: give it classes=[…]")
    counts = task.train.y.bincount(minlength=task.outputs).tolist()
    empty = [name for name, count in zip(task.class_names, counts, strict=True) if count == 0]
    if empty:
        raise ValueError(f"class {empty[0]!r} of task {task.name!r} has no training example: leave it out (of_classes)")
    if 0 in epochs:
        with failing_as("before training, classes that both tasks have are scored: leave 0 out of epochs"):
            shared_classes(source, task)
