"""A permutation spec read off a network's own forward pass: labels proposed by tracing, and tested by renaming."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dwflow_lite.layout import Layout
from dwflow_lite.symmetry.spec import Permutation, PermutationSpec, Stretch

BY_HAND = "write the spec by hand: PermutationSpec(layout, axes)"


def derive_spec(network: nn.Module, x: Tensor, *, unknown: str = "raise") -> PermutationSpec:
    """The permutation spec of a network of your own, from one traced forward pass in eval mode (``torch.export``).

    Every axis of every parameter gets a label. Operations make labels equal (a sum of both sides, a layer and what it
    reads), cut them (heads, slices) or put them in a row (concatenation); what reaches the output, meets inputs,
    positions or constants, or an operation that is not known, is fixed. What is left is a proposal. Each of its groups
    is then renamed alone, by renamings of which all others are made, in float64 and with random weights: one that
    changes outputs is fixed as well.

    Known: linear layers, convolutions (plain, depthwise), BatchNorm, LayerNorm, RMSNorm, GroupNorm of one group,
    elementwise functions, softmax, sums with broadcasting, products of matrices, attention (fused or not), pooling,
    means, reshaping, concatenation, slices, embeddings.

    Args:
        network: a module of one tensor in, one out; it is left as it is.
        x: inputs (n, ...), n >= 2, of the shape and dtype that the network takes.
        unknown: ``"raise"`` where an operation is not known or a group fails the test; ``"fix"``: leave these units
            where they are. A warning names them, and also units that could move but not by assignments (a group on
            both axes of one tensor) or not in the words of a spec.

    Returns:
        The spec; its groups are named after the first layer that writes to them.

    Raises:
        ValueError: the network cannot be traced, or see ``unknown``.
    """
    if unknown not in ("raise", "fix"):
        raise ValueError(f"unknown must be 'raise' or 'fix', got {unknown!r}")
    network, name = deepcopy(network).cpu().eval(), type(network).__name__
    try:
        program = torch.export.export(network, (x.cpu(),), strict=False)
    except Exception as error:  # whatever a reader's own code raises
        raise ValueError(f"{name} cannot be traced ({str(error).splitlines()[0]}); {BY_HAND}") from error
    if len(program.graph_signature.user_outputs) != 1:
        raise ValueError(f"{name} returns more than one tensor; derive the spec of a module that returns the one used")
    tracer = _Tracer(program, network)
    try:
        tracer.run()
        spec = tracer.spec(Layout.of(network))
    except Exception as error:
        raise ValueError(f"{name}: {tracer.here} is not understood ({type(error).__name__}); {BY_HAND}") from error
    failing = _failing(network, spec, x.cpu())
    doubts = tracer.doubts + [f"renaming {', '.join(groups)} changes outputs" for groups in failing]
    if doubts and unknown == "raise":
        raise ValueError(f"{name}: {'; '.join(doubts)}. unknown='fix' leaves these units where they are; or {BY_HAND}")
    if told := doubts + tracer.notes:
        warnings.warn(f"{name}: units left where they are: {'; '.join(told)}", stacklevel=2)
    return spec.fix(*(g for groups in failing for g in groups))


@torch.no_grad()
def _failing(network: nn.Module, spec: PermutationSpec, x: Tensor) -> list[tuple[str, ...]]:
    """The groups (or blocks of heads) that cannot be renamed alone without a change of outputs."""
    double, identity, failing = deepcopy(network).double().eval(), spec.identity(), {}
    x = x.double() if x.is_floating_point() else x
    for seed in range(4):  # in some networks, for some weights, hardly anything reaches the output
        generator = torch.Generator().manual_seed(seed)
        weights = 0.5 * torch.randn(spec.layout.size, generator=generator, dtype=torch.float64)
        for name, columns in spec.layout.slices.items():
            if name.endswith("running_var"):
                weights[columns] = weights[columns].abs() + 0.1
        before = functional_call(double, spec.layout.unflatten(weights), (x,))
        for heads, groups in (c for c in spec.coordinates if c[1] not in failing):
            for move in _generators(heads, {g: spec.groups[g] for g in groups}):
                moved = spec.apply(Permutation(dict(identity.indices) | move), weights)
                after = functional_call(double, spec.layout.unflatten(moved), (x,))
                if not torch.allclose(before, after, rtol=1e-6, atol=1e-8):
                    failing[groups] = None
                    break
    return list(failing)


def _generators(heads: int, sizes: dict[str, int]) -> Iterator[dict[str, Tensor]]:
    """Renamings of which all others are made: a cycle and a swap, of heads and inside the first head."""

    def moves(n: int) -> list[Tensor]:
        cycle, swap = torch.arange(n).roll(1), torch.arange(n)
        swap[:2] = swap[:2].flip(0)
        return [cycle, swap] if n > 1 else []

    for order in moves(heads):
        yield {g: torch.arange(size).view(heads, -1)[order].flatten() for g, size in sizes.items()}
    for group, size in sizes.items():
        for order in moves(size // heads):
            yield {group: torch.cat([order, torch.arange(size // heads, size)])}


class _Label:
    """Units of an axis: an atom, a ``product`` of outer and inner units, or a ``row`` of parts; fixed with a reason."""

    def __init__(self, size: int, kind: str = "", parts: Sequence[_Label] = (), why: str | None = None) -> None:
        self.size, self.kind, self.parts, self.why, self.same = size, kind, tuple(parts), why, None
        self.under: tuple[_Label, ...] = ()  # the outer units of the products that it is inside of
        self.at: dict[tuple[_Label, int], _Label] = {}  # what it is at one place of an outer label

    @property
    def root(self) -> _Label:
        return self.same.root if self.same else self

    @property
    def fixed(self) -> bool:
        root = self.root
        return all(p.fixed for p in root.parts) if root.parts else root.why is not None

    def fix(self, why: str) -> None:
        root = self.root
        root.why = root.why or why
        for part in (*root.parts, *root.at.values()):
            if not part.fixed:
                part.fix(why)

    def become(self, kind: str, parts: Sequence[_Label]) -> tuple[_Label, ...]:
        self.kind, self.parts = kind, tuple(parts)
        for part in parts:
            part.under = self.under
            if self.why is not None:
                part.fix(self.why)
        if kind == "product":
            parts[1].under = (*self.under, parts[0])
        return self.parts

    def cut(self, ends: Iterable[int]) -> list[_Label] | None:
        """Its parts in a row, with ends at least at these places; None if that would tear a product."""
        root, ends = self.root, sorted({e for e in ends if 0 < e < self.size})
        if root.kind == "row":
            starts = accumulate([0, *(p.size for p in root.parts[:-1])])
            found = [p.cut([e - s for e in ends]) for p, s in zip(root.parts, starts, strict=True)]
            return None if None in found else [label for part in found for label in part]
        if not ends or root.kind:
            return None if ends else [root]
        edges = [0, *ends, root.size]
        return list(root.become("row", [_Label(b - a) for a, b in zip(edges, edges[1:], strict=False)]))

    def place(self, outer: _Label, index: int) -> _Label:
        """The units as they are at one place of an outer label."""
        root = self.root
        if root.parts:
            return _Label(root.size, root.kind, [p.place(outer, index) for p in root.parts])
        if outer.root not in {u.root for u in root.under}:
            return root
        if (outer.root, index) not in root.at:
            root.at[outer.root, index] = label = _Label(root.size, why=root.why)
            label.under = tuple(u.place(outer, index) for u in root.under if u.root is not outer.root)
        return root.at[outer.root, index].root


Axis = list[tuple[_Label | None, int]]  # factors, outer first; None: fixed
Value = list[Axis]


def _size(axis: Axis) -> int:
    return prod(n for _, n in axis)


def _plain(shape: Sequence[int]) -> Value:
    return [[(None, n)] for n in shape]


def _factors(axis: Axis) -> Axis:
    """With products taken apart."""
    found: Axis = []
    for label, n in axis:
        if label is not None and label.root.kind == "product":
            found += _factors([(p, p.size) for p in label.root.parts])
        elif n != 1:
            found.append((label and label.root, n))
    return found


def _labels(axes: Iterable[Axis]) -> list[_Label]:
    return [label for axis in axes for label, _ in _factors(axis) if label is not None and not label.fixed]


VIEWS = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"}
TURNS = {"permute", "transpose", "t", "numpy_T", "mT"}
SAME = {"contiguous", "clone", "detach", "alias", "dropout", "feature_dropout", "_to_copy", "to", "softmax", "type_as",
        "log_softmax", "_softmax"}  # fmt: skip
MEANS = {"mean", "sum", "amax", "amin", "logsumexp", "var", "std"}


class _Tracer:
    """Walks through a traced forward pass and makes labels equal where an operation asks for it."""

    def __init__(self, program: torch.export.ExportedProgram, network: nn.Module) -> None:
        self.nodes, self.env, self.here = list(program.graph.nodes), {}, ""
        self.doubts: list[str] = []  # what is not known to be safe
        self.notes: list[str] = []  # what is free, but not in a way that a spec can say
        tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
        first = {id(t): n for n, t in reversed(tensors)}  # tied tensors have one name
        known = {n: first[id(t)] for n, t in tensors}
        signature = program.graph_signature
        given = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors: dict[str, Value] = {}
        for node in self.nodes:
            if (name := known.get(given.get(node.name))) is not None:
                shape = node.meta["val"].shape
                self.env[node] = self.tensors.setdefault(name, [[(_Label(n) if n > 1 else None, n)] for n in shape])
                if not node.users:
                    self.fix(self.env[node], f"{name} is not used")

    def fix(self, axes: Iterable[Axis], why: str) -> None:
        for label in _labels(axes):
            label.fix(why)

    def refuse(self, axes: Iterable[Axis], why: str = "is not known") -> None:
        """These units stay, and that is said; nothing is said where nothing moved."""
        if labels := _labels(axes):
            self.doubts.append(f"{self.here} {why}")
            for label in labels:
                label.fix(f"{self.here} {why}")

    # -- labels that are equal -------------------------------------------------------------------------------------

    def unify(self, a: _Label | None, b: _Label | None) -> None:
        a, b = a and a.root, b and b.root
        if a is b:
            return
        if a is None or b is None or a.fixed or b.fixed or a.size != b.size:
            for label in (a, b):
                if label is not None and not label.fixed:
                    label.fix(f"{self.here}: it meets what is fixed")
        elif a.parts and b.parts:
            cuts = [
                u.cut(accumulate(p.size for p in v.parts)) if u.kind == "row" else None for u, v in ((a, b), (b, a))
            ]
            if a.kind == b.kind == "product" and [p.size for p in a.parts] == [p.size for p in b.parts]:
                cuts = [a.parts, b.parts]
            if None in cuts:
                self.fix([[(a, a.size), (b, b.size)]], f"{self.here}: parts that do not fit")
                return
            for one, other in zip(*cuts, strict=True):
                self.unify(one, other)
        else:
            plain, other = (b, a) if a.parts else (a, b)
            plain.same = other
            self.free(other, {u.root for u in other.under} - {u.root for u in plain.under})
            for (outer, index), label in plain.at.items():
                self.unify(label, other.place(outer, index))

    def free(self, label: _Label, outers: set[_Label]) -> None:
        """From now on one order at all places of these outer units."""
        root = label.root
        root.under = tuple(u for u in root.under if u.root not in outers)
        for (outer, _), there in list(root.at.items()):
            if outer.root in outers:
                self.unify(there, root)
        for part in root.parts:
            self.free(part, outers)

    def join(self, a: Axis, b: Axis) -> Axis:
        """Both axes run over the same units: the factors they share."""
        if _size(a) == 1 or _size(b) == 1:
            return b if _size(a) == 1 else a
        left, right, found = _factors(a)[::-1], _factors(b)[::-1], []
        while left and right:
            (one, n), (other, m) = left.pop(), right.pop()
            for queue, label, size, wanted in ((left, one, n, m), (right, other, m, n)):
                if size > wanted and (parts := self.split(label, size, wanted)):
                    queue.append(parts[1])
                    one, other = (parts[0][0], other) if queue is left else (one, parts[0][0])
                    n = m = wanted
            if n != m:
                self.fix([a, b], f"{self.here}: sizes that do not fit")
                return [(None, _size(a))]
            self.unify(one, other)
            found.append((one if one is not None else other, n))
        return found

    def split(self, label: _Label | None, size: int, outer: int) -> Axis | None:
        """One factor as outer times inner ones."""
        if size % outer:
            return None
        if label is None or label.root.kind:
            if label is not None:
                self.refuse([[(label, size)]], "tears parts that lie in a row")
            return [(None, outer), (None, size // outer)]
        return [(p, p.size) for p in label.root.become("product", [_Label(outer), _Label(size // outer)])]

    def regroup(self, axis: Axis, shape: Sequence[int]) -> Value:
        """The factors of an axis dealt out to axes of these sizes, row-major."""
        queue, axes = _factors(axis)[::-1], []
        for size in shape:
            axes.append([])
            while size > 1:
                label, n = queue.pop()
                if size % n:
                    parts = self.split(label, n, size)
                    if parts is None:
                        self.refuse([axis], "tears units apart")
                        return _plain(shape)
                    (label, n), rest = parts
                    queue.append(rest)
                axes[-1].append((label, n))
                size //= n
        return axes

    # -- operations ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        for node in self.nodes:
            if node.op == "output":
                self.fix([axis for v in node.args[0] for axis in self.env.get(v) or []], "output")
            elif node not in self.env:
                self.env[node] = self.value(node)

    def value(self, node: torch.fx.Node) -> Any:
        val, schema = node.meta.get("val"), getattr(node.target, "_schema", None)
        if node.target is operator.getitem:
            return self.env[node.args[0]][node.args[1]]
        if node.op != "call_function" or schema is None or val is None:
            return _plain(val.shape) if isinstance(val, Tensor) else None
        shapes = [tuple(v.shape) for v in (val if isinstance(val, (list, tuple)) else [val])]
        name = schema.name.removeprefix("aten::").rstrip("_")
        module = [*(node.meta.get("nn_module_stack") or {"": ("", "")}).values()][-1][0]
        self.here = f"{name} in {module.removeprefix('L[self].') or 'forward'}"
        a = {s.name: s.default_value for s in schema.arguments if s.has_default_value()}
        a |= dict(zip([s.name for s in schema.arguments], node.args, strict=False)) | node.kwargs
        a = torch.fx.node.map_arg(a, lambda n: self.env[n])
        many, out = isinstance(val, (list, tuple)), [_plain(shape) for shape in shapes]
        values: list[Value] = []
        torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values.append(self.env[n]))
        if _labels(axis for v in values for axis in v):
            found = self.apply(name, node, a, values, shapes)
            if found is None or [tuple(map(_size, v)) for v in found] != shapes:
                self.refuse(axis for v in values for axis in v)
            else:
                out = found
        return out if many else out[0]

    def apply(
        self, name: str, node: torch.fx.Node, a: dict[str, Any], values: list[Value], shapes: list[tuple[int, ...]]
    ) -> list[Value] | None:
        """The labels of all that an operation returns; None if it is not known."""
        x, shape = values[0], shapes[0]
        n, dims = len(x), _dims(a, len(x))
        match name:
            case "linear":
                return [self.layer([*x[:-1]], x[-1], values[1][1], values[1][0], values[2:])]
            case "matmul" | "mm" | "bmm" if min(map(len, values)) > 1:
                return [self.matmul(*values)]
            case "addmm" | "baddbmm":
                return [self.broadcast(x, self.matmul(*values[1:]))]
            case "scaled_dot_product_attention" if not a.get("enable_gqa"):
                q, k, v = a["query"], a["key"], a["value"]
                scores = self.matmul(q, [*k[:-2], k[-1], k[-2]])
                if a.get("is_causal"):
                    self.refuse(scores[-2:], "orders its tokens")
                if a.get("attn_mask") is not None:
                    scores = self.broadcast(scores, a["attn_mask"])
                return [self.matmul(scores, v)]
            case "batch_norm" | "instance_norm" | "prelu" | "group_norm":
                if a.get("num_groups", 1) > 1:
                    self.refuse([x[1], *(v[0] for v in values[1:])], "ties channels to their neighbours in groups")
                for v in values[1:]:
                    self.join(x[1], v[0])
                return [x]
            case "layer_norm" | "rms_norm":
                return [self.broadcast(*values)]
            case "embedding":
                self.fix(x[:1], "entries of a table")
                return [[*values[1], x[1]]]
            case "cat":
                axes = [[] if d == dims[0] else self.joined(a) for d, a in enumerate(zip(*values, strict=True))]
                axes[dims[0]] = [(_row([_one(v[dims[0]]) for v in values]), shape[dims[0]])]
                return [axes]
            case "select":
                return [self.select(x, dims[0], a["index"] % _size(x[dims[0]]))]
            case "unbind":
                return [self.select(x, dims[0], i) for i in range(len(shapes))]
            case "split" | "split_with_sizes" | "chunk" | "tensor_split":
                ends = [0, *accumulate(s[dims[0]] for s in shapes)]
                return [self.slice(x, dims[0], *pair) for pair in zip(ends, ends[1:], strict=False)]
            case "slice" | "narrow" if a.get("step", 1) == 1:
                start = range(_size(x[dims[0]]))[slice(a.get("start"), None)].start
                return [self.slice(x, dims[0], start, start + shape[dims[0]])]
            case "expand":
                axes = [[]] * (len(shape) - n) + x
                return [[axis if m == _size(axis) else [(None, m)] for axis, m in zip(axes, shape, strict=True)]]
            case _ if name.startswith("conv") and name[-1] == "d":
                return self.convolution(a, values, shape, transposed="transpose" in name)
            case _ if name in VIEWS:
                return [self.regroup([factor for axis in x for factor in axis], shape)]
            case _ if name in TURNS:
                probe = torch.empty(*range(2, n + 2), device="meta")  # the size tells the axis
                return [[x[m - 2] for m in node.target(probe, *node.args[1:], **node.kwargs).shape]]
            case _ if name in SAME:
                return [x]
            case _ if torch.Tag.pointwise in node.target.tags:
                return [self.broadcast(*values)]
            case _ if name in MEANS and len(shapes) == 1:
                axes = [[] if d in dims else axis for d, axis in enumerate(x)]
                return [axes if len(shape) == n else [axis for d, axis in enumerate(x) if d not in dims]]
            case _ if "pool" in name and name[-1] == "d":
                sides = int(name[-2])
                self.refuse(x[-sides:], "mixes neighbours")
                return [[*x[:-sides], *_plain(shape[-sides:])]]
        return None

    def layer(self, before: Value, reads: Axis, columns: Axis, rows: Axis, bias: list[Value]) -> Value:
        """A matrix: its columns run over what it reads, its rows are new units, and so is its bias."""
        self.join(reads, columns)
        for v in bias:
            self.join(rows, v[0])
        return [*before, rows]

    def convolution(self, a: dict[str, Any], values: list[Value], shape: tuple, transposed: bool) -> list[Value]:
        x, w, *bias = values
        self.fix(w[2:], "places of a kernel")
        self.refuse(x[2:], "mixes neighbours")
        columns, rows = (w[0], w[1]) if transposed else (w[1], w[0])
        if a["groups"] == 1:
            out = self.layer(x[:1], x[1], columns, rows, bias)
        elif a["groups"] == _size(x[1]) == _size(w[0]) and _size(w[1]) == 1:  # depthwise
            out = self.layer(x[:1], x[1], w[0], w[0], bias)
        else:
            self.refuse([x[1], *w, *(v[0] for v in bias)], "has several groups of channels")
            out = _plain(shape[:2])
        return [[*out, *_plain(shape[2:])]]

    def matmul(self, a: Value, b: Value) -> Value:
        """Products of matrices, or of batches of them."""
        batch = self.broadcast(a[:-2], b[:-2])  # heads before the units inside them
        self.join(a[-1], b[-2])
        return [*batch, a[-2], b[-1]]

    def broadcast(self, *values: Value) -> Value:
        """Tensors on one another: axes joined from the right."""
        n = max(map(len, values))
        padded = [[[]] * (n - len(v)) + list(v) for v in values]
        return [self.joined(axes) for axes in zip(*padded, strict=True)]

    def joined(self, axes: Sequence[Axis]) -> Axis:
        first, *others = axes
        for other in others:
            first = self.join(first, other)
        return first

    def select(self, x: Value, dim: int, index: int) -> Value:
        """One place of an axis, which is fixed; what is inside of it is known by that place."""
        axes = [_factors(axis) for axis in x]
        for label, n in axes.pop(dim)[::-1]:
            if label is not None:
                label.fix(f"{self.here}: one place of it")
                axes = [[(u and u.place(label, index % n), m) for u, m in axis] for axis in axes]
            index //= n
        return axes

    def slice(self, x: Value, dim: int, start: int, stop: int) -> Value:
        """Consecutive places of an axis: parts of a row."""
        if (start, stop) == (0, _size(x[dim])):
            return x
        parts = None
        if len(factors := _factors(x[dim])) == 1 and factors[0][0] is not None:
            parts = factors[0][0].cut([start, stop])
        if parts is None:
            self.refuse([x[dim]], "takes a part of heads")
            return [*x[:dim], [(None, stop - start)], *x[dim + 1 :]]
        ends = list(accumulate(p.size for p in parts))
        inside = [p for p, end in zip(parts, ends, strict=True) if start < end <= stop]
        return [*x[:dim], [(_row(inside), stop - start)], *x[dim + 1 :]]

    # -- the spec --------------------------------------------------------------------------------------------------

    def spec(self, layout: Layout) -> PermutationSpec:
        """What is free, in the words of a spec; what those cannot say is fixed."""
        while True:
            rows = {}
            for self.here in (e.name for e in layout.entries):
                rows[self.here] = [self.words(_one(axis)) for axis in self.tensors[self.here]]
            keys = {key for axes in rows.values() for axis in axes for key, _, _ in axis if key}
            alone = {label for key in keys if len(key) == 1 for label in key}
            outer = {inner: {o for o, i in (k for k in keys if len(k) == 2) if i is inner}
                     for key in keys if len(key) == 2 for inner in key[1:]}  # fmt: skip
            bad = {
                i: "units inside heads, which other tensors share"
                for i, found in outer.items()
                if i in alone or len(found) > 1
            }
            bad |= {
                key[1]: "units inside heads that are named elsewhere"
                for key in keys
                if len(key) == 2 and key[0] in alone
            }
            for name, axes in rows.items():
                seen: dict[_Label, int] = {}
                for number, axis in enumerate(axes):
                    for label in {label for key, _, _ in axis for label in key}:
                        if seen.setdefault(label, number) != number:
                            bad[label] = f"on two axes of {name}"
            if not bad:
                break
            for label, why in bad.items():
                label.fix(why)
            self.notes += dict.fromkeys(bad.values())
        names: dict[tuple[_Label, ...], str] = {}
        for entry in sorted(layout.entries, key=lambda e: len(e.shape) < 2):  # matrices name what they write to
            path = entry.name.rpartition(".")[0] or entry.name
            for key in dict.fromkeys(
                key for axis in rows[entry.name] for key, _, _ in axis if key and key not in names
            ):
                number = sum(n == path or n.startswith(f"{path}[") for n in names.values())
                names[key] = f"{path}[{number}]" if number else path
        heads: dict[str, tuple[int, tuple[str, ...]]] = {}
        for key, name in names.items():
            if len(key) == 2 and not any(name in groups for _, groups in heads.values()):
                heads[name] = (
                    key[0].size,
                    tuple(other for k, other in names.items() if len(k) == 2 and k[0] is key[0]),
                )
        axes = {name: tuple(_axis(words, names) for words in rows[name]) for name in rows}
        return PermutationSpec(layout, axes, heads)

    def words(self, label: _Label) -> list[tuple[tuple[_Label, ...], int, int]]:
        """An axis as stretches: what moves, (atom,) or (head, unit inside) or (), how many, and places of each."""
        root = label.root
        if root.fixed or root.size == 1:
            return [((), root.size, 1)]
        if not root.parts:
            return [((root,), root.size, 1)]
        if root.kind == "row":
            return [word for part in root.parts for word in self.words(part)]
        outer, inner = (p.root for p in root.parts)
        if outer.fixed:
            return [word for k in range(outer.size) for word in self.words(inner.place(outer, k))]
        if not outer.parts and not inner.parts and not inner.fixed and outer in {u.root for u in inner.under}:
            return [((outer, inner), root.size, 1)]
        if not inner.fixed:
            inner.fix(f"{self.here}: in an order that a spec has no word for")
            self.notes.append(inner.why)
        return [(key, units, each * inner.size) for key, units, each in self.words(outer)]


def _dims(a: dict[str, Any], n: int) -> list[int]:
    """The axes that an operation names; all of them if it names none."""
    dims = a.get("dim", a.get("dims"))
    dims = range(n) if dims is None or dims == [] else dims if isinstance(dims, (list, tuple)) else [dims]
    return [d % max(n, 1) for d in dims]


def _one(axis: Axis) -> _Label:
    """All factors of an axis as one label."""
    labels = [label.root if label is not None else _Label(n, why="fixed") for label, n in axis if n > 1]
    while len(labels) > 1:
        *labels, outer, inner = labels
        labels.append(_Label(outer.size * inner.size, "product", (outer, inner)))
    return labels[0] if labels else _Label(1, why="fixed")


def _row(parts: Sequence[_Label]) -> _Label:
    return parts[0] if len(parts) == 1 else _Label(sum(p.size for p in parts), "row", parts)


def _axis(words: list[tuple[tuple[_Label, ...], int, int]], names: dict[tuple[_Label, ...], str]) -> Any:
    """A spec's axis: a group, None, or stretches."""
    found: list[Stretch] = []
    for key, units, each in words:
        stretch = Stretch(names[key], units, each) if key else Stretch(None, units * each)
        if not key and found and found[-1].group is None:
            found[-1] = Stretch(None, found[-1].units + stretch.units)
        else:
            found.append(stretch)
    return found[0].group if len(found) == 1 and found[0].each == 1 else tuple(found)
