"""Labels of axes: which units an axis runs over, and which axes run over the same ones.

A label stands for the units along one axis of a tensor. At first every axis has a label of its own; then each operation
of a network says something about them, in one of four ways.

- *equal*: two axes run over the same units, so they are permuted together (``Labelling.unify``);
- *cut*: one axis is viewed as two, or sliced. Twelve units as 3 × 4 become a **product** of 3 outer units (heads) and 4
  inner ones; as 5 + 7 they become a **row** of two parts (``Labelling.divide``, ``Labelling.deal``);
- *joined*: the way back, two axes flattened or concatenated into one (``join``);
- *fixed*: these units stay where they are, for a reason (``Label.fix``).

A label that is not cut is an **atom**. A label is shared by all tensors that run over its units, so cutting it once
cuts it everywhere: the view that makes heads of a query also divides the rows of the layer that wrote it.

    >>> labelling = Labelling()
    >>> written, read = Label(12), Label(12)  # rows of a layer; columns of the next one
    >>> labelling.unify(written, read)
    12
    >>> heads, inside = labelling.deal([read], [3, 4], "product")  # as a view to 3 heads of 4 units
    >>> heads, inside, written
    (3, 4, (3 × 4))
    >>> heads.fix("called by number")
    >>> written
    (3 fixed × 4)

One thing more: the units inside a head need not stand in the same order in every head. So an inner label remembers the
outer labels that its order may depend on, and ``Label.place`` gives the label that it is at one place of an outer one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Literal

Kind = Literal["product", "row"]


class Label:
    """The units along an axis: an atom, a product of outer and inner units, or a row of two parts.

    Two labels are the same only if they are one object, or were made equal; ``root`` is the one that speaks for all
    labels that are equal.

    Args:
        size: number of units. A single unit cannot move, so it is fixed.
        kind: what the parts make; None for an atom.
        parts: outer and inner label of a product, or first and second of a row; none for an atom.
        stays: whether the units are fixed from the beginning.
        why: the reason, if they are.
        alike: whether all its places hold the same numbers (copies, zeros), so that it goes with units in any order.
    """

    def __init__(
        self,
        size: int,
        kind: Kind | None = None,
        parts: Sequence[Label] = (),
        *,
        stays: bool = False,
        why: str = "",
        alike: bool = False,
    ) -> None:
        self.size = size
        self.kind = kind
        self.parts = tuple(parts)
        self.stays = stays or size == 1  # of an atom; a label that is cut is fixed where its parts are
        self.why = why
        self.alike = alike
        self.equal_to: Label | None = None  # one step towards the root
        self.depends_on: tuple[Label, ...] = ()  # outer labels: inside each of their units the order may be another
        self.at_place: dict[tuple[Label, int], Label] = {}  # (outer atom, index) -> what it is there

    def __repr__(self) -> str:
        root = self.root
        if root.parts:
            sign = " × " if root.kind == "product" else " + "
            return f"({sign.join(map(repr, root.parts))})"
        return f"{root.size} fixed" if root.stays else f"{root.size}"

    @property
    def root(self) -> Label:
        """The label that speaks for all that are equal to this one."""
        label = self
        while label.equal_to is not None:
            label = label.equal_to
        return label

    @property
    def is_fixed(self) -> bool:
        """Whether no unit of it can move."""
        root = self.root
        return all(part.is_fixed for part in root.parts) if root.parts else root.stays

    @property
    def could_move(self) -> bool:
        """Whether units of a parameter move with it: not where it is fixed, or only runs over places that are alike."""
        root = self.root
        if root.parts:
            return any(part.could_move for part in root.parts)
        return not (root.stays or root.alike)

    @property
    def outer_atoms(self) -> list[Label]:
        """The atoms of outer labels that its order may depend on."""
        return [atom for outer in self.root.depends_on for atom in outer.leaves("product")]

    def fix(self, why: str = "") -> None:
        """Leave its units where they are, as a whole, in its parts, and at each place of an outer label.

        Args:
            why: for a reader of the spec; the first reason is kept.
        """
        root = self.root
        root.stays = True
        root.why = root.why or why
        for label in (*root.parts, *root.at_place.values()):
            if not label.is_fixed:
                label.fix(why)

    def fix_copies(self) -> None:
        """Fix what only runs over places that are alike: where they are summed, each may have a weight of its own."""
        root = self.root
        for part in root.parts:
            part.fix_copies()
        if root.alike and not root.parts:
            root.fix("reads copies of one number")

    @property
    def reasons(self) -> list[str]:
        """Why its units are fixed: the reason of each of its parts, each once; none for what moves."""
        root = self.root
        if root.parts:
            return list(dict.fromkeys(reason for part in root.parts for reason in part.reasons))
        return [root.why] if root.stays and root.why else []

    def leaves(self, kind: Kind) -> list[Label]:
        """Its parts, taken apart again and again as long as they are of this kind; only itself if it is not."""
        root = self.root
        if root.kind != kind:
            return [root]
        return [leaf for part in root.parts for leaf in part.leaves(kind)]

    def place(self, outer: Label, index: int) -> Label:
        """The units as they are at one place of an outer label: the units of head ``index``.

        Asked twice for one place, an atom gives the same label. Where its order does not depend on the outer label, it
        gives itself; and so does what is fixed, whose order is the same everywhere.

        Args:
            outer: fixed by now, since its places are called by number: so it is not cut or made equal to others later,
                and what ``at_place`` keeps under it holds to the end.
            index: which of its units.
        """
        root = self.root
        outer = outer.root
        if outer.kind == "product":  # of 3 × 4, place 7 is place 3 inside place 1
            first, second = outer.parts
            return root.place(first, index // second.size).place(second, index % second.size)
        if root.parts:
            return Label(root.size, root.kind, [part.place(outer, index) for part in root.parts])
        if root.is_fixed or outer not in root.outer_atoms:
            return root
        if (outer, index) not in root.at_place:
            label = Label(root.size, stays=root.stays, why=root.why, alike=root.alike)
            others = [atom for atom in root.outer_atoms if atom is not outer]
            label.depends_on = tuple(other.place(outer, index) for other in others)
            root.at_place[outer, index] = label
        return root.at_place[outer, index].root


TensorLabels = list[Label]  # the labels of one tensor, one for each axis


def fixed_axes(shape: Iterable[int], why: str = "") -> TensorLabels:
    """Labels of a tensor of which nothing moves, and why."""
    return [Label(size, stays=True, why=why) for size in shape]


def fix_all(axes: Iterable[Label], why: str = "") -> None:
    """Leave the units of all these labels where they are, and say why."""
    for label in axes:
        label.fix(why)


def first_reason(axes: Iterable[Label]) -> str:
    """The first reason that any of these labels has to be fixed; empty if there is none."""
    return next((reason for label in axes for reason in label.reasons), "")


def all_fixed(axes: Iterable[Label]) -> bool:
    """Whether nothing moves along any of these axes."""
    return all(label.is_fixed for label in axes)


def join(labels: Sequence[Label], kind: Kind) -> Label:
    """Several labels as one, nested to the right: ``(a, (b, c))``.

    Args:
        labels: outer before inner for a product; in their order for a row.
        kind: ``"product"``: all tuples of their units, as flattening gives; ``"row"``: one after another.
    """
    if not labels:
        return Label(1)
    whole = labels[-1]
    for label in reversed(labels[:-1]):
        size = label.size * whole.size if kind == "product" else label.size + whole.size
        whole = Label(size, kind, (label, whole))
    return whole


class Labelling:
    """What is decided about the labels of one network, and what was doubtful on the way.

    Attributes:
        here: what is being looked at, for messages: ``"linear in layers.0"``.
        doubts: what is not known to be safe; its units are fixed.
        notes: what is free, but not in a way that a spec can say; its units are fixed too.
    """

    def __init__(self) -> None:
        self.here = ""
        self.doubts: list[str] = []
        self.notes: list[str] = []

    def refuse(self, axes: Sequence[Label], why: str) -> None:
        """Fix these axes and say why; nothing is said where nothing could move."""
        if any(label.could_move for label in axes):
            self.doubts.append(f"{self.here} {why}")
        fix_all(axes, f"{self.here} {why}")

    def unify(self, a: Label, b: Label) -> Label:
        """Make two labels equal: both run over the same units, in one order.

        A single place goes with any units (it is broadcast to them). What is equal to something fixed is fixed; units
        of different numbers cannot be matched, so both are fixed.

        Returns:
            The label that an axis has on which both meet.
        """
        a, b = a.root, b.root
        if a.size == 1:
            return b
        if a is b or b.size == 1:
            return a
        if a.is_fixed or b.is_fixed:
            fix_all([a, b], first_reason([a, b]))
        elif a.size != b.size:
            fix_all([a, b], f"{self.here} meets other units, of another number")
        elif a.parts:
            self._unify_parts(a, b)
        elif b.parts:
            self._unify_parts(b, a)
        else:
            self._unify_atoms(a, b)
        return a.root

    def unify_all(self, labels: Iterable[Label]) -> Label:
        """Make one or more labels equal; the label of an axis on which all meet."""
        return reduce(self.unify, labels)

    def _unify_parts(self, whole: Label, other: Label) -> None:
        """Cut the other label as the whole is cut, and make the parts equal."""
        sizes = [part.size for part in whole.parts]
        parts = self.deal([other], sizes, whole.kind)
        for one, two in zip(whole.parts, parts, strict=True):
            self.unify(one, two)

    def _unify_atoms(self, a: Label, b: Label) -> None:
        """Let ``b`` speak for ``a``; its order may only depend on what both may depend on."""
        shared = tuple(atom for atom in a.outer_atoms if atom in b.outer_atoms)
        a.equal_to = b
        b.alike = a.alike and b.alike
        b.depends_on = shared
        # What was decided at one place holds for both labels; at all places, if the order no longer depends on them.
        for (outer, index), inner in [*a.at_place.items(), *b.at_place.items()]:
            self.unify(inner, b.place(outer, index))

    def deal(self, axes: TensorLabels, sizes: Sequence[int], kind: Kind) -> TensorLabels:
        """Deal the units of some axes out to axes of other sizes, cutting and joining labels where needed.

        Args:
            axes: labels of the axes that there are.
            sizes: of the axes that are asked for.
            kind: ``"product"``: as a view does, row-major; ``"row"``: as slices do, one after another.

        Returns:
            One label for each size. Where a unit would have to be torn, all axes are fixed, with a doubt.
        """
        leaves = [leaf for axis in axes for leaf in axis.leaves(kind)]
        if kind == "product":  # a view may add or drop axes of size 1 anywhere
            leaves = [leaf for leaf in leaves if leaf.size != 1]
        queue = deque(leaves)
        dealt: TensorLabels = []
        for size in sizes:
            labels = self._take(queue, size, kind)
            if labels is None:
                self.refuse(axes, "tears units apart" if kind == "product" else "takes a part of heads")
                return fixed_axes(sizes, first_reason(axes))
            dealt.append(join(labels, kind))
        return dealt

    def _take(self, queue: deque[Label], size: int, kind: Kind) -> TensorLabels | None:
        """Labels from the front of the queue that fill one axis; what is left of the last goes back to the front.

        How much of the axis is still to be filled is a factor for a product, a number of places for a row: after a
        label of 3 units, an axis of 12 wants a factor 4, or 9 further places. It is full at 1, or at 0.
        """
        labels: TensorLabels = []
        is_product = kind == "product"
        full = 1 if is_product else 0
        missing = size
        while missing > full:
            label = queue.popleft().root
            fits = missing % label.size == 0 if is_product else label.size <= missing
            if not fits:  # cut it: the first part fills the axis, the rest begins the next one
                halves = self.divide(label, missing, kind)
                if halves is None:
                    return None
                label, rest = halves
                queue.appendleft(rest)
            labels.append(label)
            missing = missing // label.size if is_product else missing - label.size
        return labels

    def divide(self, label: Label, size: int, kind: Kind) -> tuple[Label, Label] | None:
        """Cut an atom in two, everywhere that it is used.

        Args:
            label: not yet cut, or fixed.
            size: of the first part.
            kind: ``"product"``: outer and inner units; ``"row"``: two parts, one after the other.

        Returns:
            Both parts; None where that would tear units apart.
        """
        label = label.root
        rest = label.size // size if kind == "product" else label.size - size
        tears = kind == "product" and label.size % size != 0
        if label.is_fixed and not tears:
            first, second = fixed_axes([size, rest], first_reason([label]))
            return first, second
        if label.parts or tears:
            return None
        first, second = Label(size, alike=label.alike), Label(rest, alike=label.alike)
        first.depends_on = label.depends_on
        second.depends_on = (*label.depends_on, first) if kind == "product" else label.depends_on
        label.kind = kind
        label.parts = (first, second)
        for (outer, index), inner in label.at_place.items():
            self.unify(inner, label.place(outer, index))
        return first, second
