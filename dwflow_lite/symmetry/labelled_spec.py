"""Write labels as a permutation spec: each axis as stretches of named groups.

After a forward pass has been followed (``dwflow_lite.symmetry.tracing``), every axis of every parameter has a label,
and what is not fixed is free. A spec has fewer words than labels have. It knows

- an axis, or a stretch of it, that runs over a group of units: an atom;
- a stretch in which each unit has ``each`` consecutive places: a product of units and something fixed inside;
- units inside heads, as a block of groups: a product of heads and of units whose order may differ from head to head.

What it has no words for is fixed, with a note that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from dwflow_lite.symmetry.axes import Axis, Stretch
from dwflow_lite.symmetry.labels import Label, Labelling, TensorLabels
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.layout import Entry, Layout

Key = tuple[Label, ...]  # what a group permutes: (units,), or (heads, units inside a head)


class Span(NamedTuple):
    """A ``Stretch`` (see ``axes.py``) whose group has no name yet, only the labels that it permutes (None: fixed)."""

    key: Key | None
    units: int
    each: int = 1


Spans = Mapping[str, list[list[Span]]]  # tensor name -> for each axis its spans in a row


def write_spec(layout: Layout, tensors: Mapping[str, TensorLabels], labelling: Labelling) -> PermutationSpec:
    """The spec that says what is free.

    Args:
        layout: the tensors of the network.
        tensors: name -> labels, of all of these tensors. What a spec cannot say is fixed in them.
        labelling: gets a note for everything fixed here.
    """
    while True:  # until all labels have words: what is fixed in one round may leave others without
        spans: dict[str, list[list[Span]]] = {}
        notes = len(labelling.notes)
        for entry in layout.entries:
            labelling.here = entry.name
            spans[entry.name] = [spans_of(label, labelling) for label in tensors[entry.name]]
        spans = heads_as_blocks(spans)
        reasons = labels_without_words(spans)
        if not reasons and len(labelling.notes) == notes:
            break
        for label, why in reasons.items():
            label.fix(why)
        labelling.notes += dict.fromkeys(reasons.values())  # each reason once
    names = group_names(layout, spans)
    axes = {name: tuple(axis_of(row, names) for row in rows) for name, rows in spans.items()}
    why = {name: "; ".join(reasons_of(tensors[name])) for name in axes}
    return PermutationSpec(layout, axes, blocks_of_heads(names), why)


def reasons_of(axes: TensorLabels) -> list[str]:
    """Why some units of a tensor are fixed, each reason once."""
    return list(dict.fromkeys(reason for label in axes for reason in label.reasons))


def spans_of(label: Label, labelling: Labelling) -> list[Span]:
    """An axis as spans in a row; what a spec has no word for is fixed, with a note."""
    root = label.root
    if root.is_fixed:
        return [Span(None, root.size)]
    if not root.parts:
        return [Span((root,), root.size)]
    if root.kind == "row":
        return [span for part in root.parts for span in spans_of(part, labelling)]
    outer, inner = (part.root for part in root.parts)
    if outer.is_fixed:  # the inner units of each place, one place after another
        places = [inner.place(outer, index) for index in range(outer.size)]
        return [span for place in places for span in spans_of(place, labelling)]
    if not inner.is_fixed:  # both move: units inside heads, if each head may have an order of its own
        if outer in inner.outer_atoms and not inner.parts:
            return [Span((outer, inner), root.size)]
        inner.fix("in an order that a spec has no word for")
        labelling.notes.append(f"{labelling.here}: in an order that a spec has no word for")
    # The inner units are fixed: each outer unit takes them along, as so many consecutive places.
    return [span._replace(each=span.each * inner.size) for span in spans_of(outer, labelling)]


def heads_as_blocks(spans: Spans) -> dict[str, list[list[Span]]]:
    """Heads that move as a whole in one tensor, where others also have units that move inside them.

    With rotary positions, say, the units of queries and keys stay in their order inside a head, those of values do not.
    Such a head is one unit, of a group that belongs to the same block: (heads,) becomes (heads, one unit inside).
    """
    inside = {key[0]: Label(1) for key in keys_in(spans) if len(key) == 2}

    def named(span: Span) -> Span:
        moves_alone = span.key is not None and len(span.key) == 1 and span.key[0] in inside
        return span._replace(key=(span.key[0], inside[span.key[0]])) if moves_alone else span

    return {name: [[named(span) for span in row] for row in rows] for name, rows in spans.items()}


# -- what a spec cannot say --------------------------------------------------------------------------------------------


def labels_without_words(spans: Spans) -> dict[Label, str]:
    """Labels that are free, but not in a way that a spec can say, and why."""
    keys = keys_in(spans)
    return shared_inside_heads(keys) | heads_used_alone(keys) | twice_in_a_tensor(spans)


def keys_in(spans: Spans) -> list[Key]:
    """What the groups of all tensors permute, each once, in the order in which tensors have them."""
    keys: dict[Key, None] = {}
    for axes in spans.values():
        for row in axes:
            keys |= {span.key: None for span in row if span.key is not None}
    return list(keys)


def shared_inside_heads(keys: Sequence[Key]) -> dict[Label, str]:
    """Units that stand inside heads in one tensor, and alone or inside other heads in another."""
    around: dict[Label, set[Key]] = {}  # units -> what they stand inside of: (), or (heads,)
    for *heads, units in keys:
        around.setdefault(units, set()).add(tuple(heads))
    shared = [units for units, places in around.items() if len(places) > 1]
    return dict.fromkeys(shared, "units inside heads, which other tensors share")


def heads_used_alone(keys: Sequence[Key]) -> dict[Label, str]:
    """Units inside heads where the heads are also a group of their own, or stand inside others."""
    innermost = {key[-1] for key in keys}
    inside_heads = [key for key in keys if len(key) == 2]
    units = [inner for heads, inner in inside_heads if heads in innermost]
    return dict.fromkeys(units, "units inside heads that are named elsewhere")


def twice_in_a_tensor(spans: Spans) -> dict[Label, str]:
    """Labels on two axes of one tensor: matching them is no linear assignment."""
    reasons: dict[Label, str] = {}
    for name, axes in spans.items():
        for one, other in combinations(axes, 2):
            others = labels_in(other)
            twice = [label for label in labels_in(one) if label in others]
            reasons |= dict.fromkeys(twice, f"on two axes of {name}")
    return reasons


def labels_in(row: Sequence[Span]) -> dict[Label, None]:
    """The labels that move along an axis, each once, in their order."""
    return {label: None for span in row for label in span.key or ()}


# -- names -------------------------------------------------------------------------------------------------------------


def group_names(layout: Layout, spans: Spans) -> dict[Key, str]:
    """A name for every group: the first layer that has it, with a number from the second group of a layer on."""
    matrices = [entry for entry in layout.entries if len(entry.shape) >= 2]
    vectors = [entry for entry in layout.entries if len(entry.shape) < 2]
    names: dict[Key, str] = {}
    groups_of_layer: dict[str, int] = {}
    for entry in [*matrices, *vectors]:  # a matrix comes first, so that groups are named after what writes to them
        layer = layer_of(entry)
        for key in (span.key for row in spans[entry.name] for span in row):
            if key is None or key in names:
                continue
            number = groups_of_layer.get(layer, 0)
            names[key] = f"{layer}[{number}]" if number else layer
            groups_of_layer[layer] = number + 1
    return names


def layer_of(entry: Entry) -> str:
    """``layers.0.weight`` -> ``layers.0``; a tensor of the network itself keeps its name."""
    return entry.name.rpartition(".")[0] or entry.name


def blocks_of_heads(names: Mapping[Key, str]) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Blocks as a spec has them, first group -> (number of heads, groups): those whose units are in the same heads."""
    blocks: dict[Label, list[str]] = {}
    for key, name in names.items():
        if len(key) == 2:
            heads = key[0]
            blocks.setdefault(heads, []).append(name)
    return {groups[0]: (heads.size, tuple(groups)) for heads, groups in blocks.items()}


def axis_of(row: Sequence[Span], names: Mapping[Key, str]) -> Axis:
    """An axis as a spec has it: a group, None, or stretches; fixed stretches side by side become one."""
    stretches: list[Stretch] = []
    for span in row:
        if span.key is not None:
            stretches.append(Stretch(names[span.key], span.units, span.each))
            continue
        places = span.units * span.each
        if stretches and stretches[-1].group is None:
            places += stretches.pop().units
        stretches.append(Stretch(None, places))
    if len(stretches) == 1 and stretches[0].each == 1:
        return stretches[0].group
    return tuple(stretches)
