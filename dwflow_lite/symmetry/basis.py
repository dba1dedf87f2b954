"""Which basis a zoo is in: to what its units were aligned, and how; and whether two zoos agree in this.

Weights of two networks are comparable one by one only in one basis. So the record of an aligned zoo holds facts and not
names: "member 0" is another network in another zoo, so the network itself is named, by a hash of its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dwflow_lite.networks import architecture_of
from dwflow_lite.support.files import digest, json_hash
from dwflow_lite.symmetry.axes import stretches
from dwflow_lite.symmetry.spec import PermutationSpec
from dwflow_lite.zoo.zoo import Zoo

# One entry for each step that chose a basis, in their order; JSON-able.
Basis = list[dict[str, Any]]

ALIGNED_BY = "weight matching"
# What an alignment is known by, and how an error names it.
FACTS = {
    "reference": "the references differ",
    "spec": "the specs of what moves together differ",
    "rounds": "the rounds of matching to the mean differ",
    "restarts": "the restarts of the matching differ",
    "seed": "the seeds of the matching differ",
}
GIVEN = "given weights"  # what older versions called any reference that was no member
# An entry as older versions wrote it: a list of these.
OLD_ENTRY = ("method", "reference", "restarts", "seed", "rounds", "fitted")


# -- what is recorded --------------------------------------------------------------------------------------------------


def facts_of_alignment(target: Tensor, spec: PermutationSpec, rounds: int) -> dict[str, Any]:
    """What tells one alignment from another, beside its seed and restarts.

    Args:
        target: weights (d,) that every member was matched to: a member, weights that were given, or the last mean.
        spec: what moved together.
        rounds: how often the members were matched to their mean.

    Returns:
        ``target`` and ``spec`` as hashes, ``rounds`` as it is.
    """
    return {"target": digest_of_parameters(target, spec), "spec": digest_of_spec(spec), "rounds": rounds}


def digest_of_parameters(weights: Tensor, spec: PermutationSpec) -> str:
    """A hash of the parameters among weights (d,), whatever precision they are kept in.

    Running statistics have no say in matching, and none in the basis: they may be measured afresh.
    """
    parameters = spec.parameters(weights.detach().cpu().to(torch.float64))
    return digest({name: tensor + 0.0 for name, tensor in parameters.items()}, "")  # -0.0 becomes 0.0


def digest_of_spec(spec: PermutationSpec) -> str:
    """A hash of which axis runs over which group, and of the heads."""
    axes = {}
    for name, of_tensor in spec.axes.items():
        sizes = spec.layout[name].shape
        axes[name] = [list(map(list, stretches(axis, size))) for axis, size in zip(of_tensor, sizes, strict=True)]
    heads = {block: [number, list(groups)] for block, (number, groups) in spec.heads.items()}
    return json_hash([axes, heads])


# -- what the record says ----------------------------------------------------------------------------------------------


def basis_of(zoo: Zoo) -> Basis:
    """The alignments and gauges a zoo went through: its weights are comparable, one by one, with those of its like.

    Generated networks are in the basis of the zoo that their generator was fitted on. A zoo as it was trained, or of
    which the record says nothing, has an empty list.

    Example:
        >>> from dwflow_lite import MLP, Zoo, canonicalise
        >>> zoo = Zoo.from_modules([MLP([2, 4, 1]) for _ in range(3)])
        >>> first, second = (canonicalise(zoo, reference=member) for member in (0, 1))
        >>> basis_of(zoo), basis_of(first) == basis_of(first.take([2, 0])), basis_of(first) == basis_of(second)
        ([], True, False)
    """
    basis = [_read_entry(entry) for entry in zoo.record.get("basis", [])]
    for stage in zoo.record.get("stages", []):
        if stage.get("stage") == "fix gauge":
            basis.append({"method": stage.get("method")})
        elif stage.get("stage") == "canonicalise":
            basis.append(_entry_of_alignment(stage))
    # To align once more to the same reference in the same way changes nothing.
    return [entry for i, entry in enumerate(basis) if i == 0 or entry != basis[i - 1]]


def _entry_of_alignment(stage: dict[str, Any]) -> dict[str, Any]:
    """The entry of a stage of alignment; one that an older version recorded has names instead of facts."""
    settings = {key: stage.get(key, 0) for key in ("restarts", "seed")}
    facts = stage.get("basis")
    if facts is None:
        names = {key: stage.get(key, 0) for key in ("reference", "rounds", "fitted")}
        if not names["rounds"]:
            names["fitted"] = 0
        return {"method": stage.get("method"), **settings, "named": names}
    return {
        "method": stage.get("method"),
        "reference": facts["target"],
        "spec": facts["spec"],
        "rounds": facts["rounds"],
        **settings,
    }


def _read_entry(entry: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """An entry of a generator's record; older versions wrote lists."""
    if isinstance(entry, dict):
        return entry
    old = dict(zip(OLD_ENTRY, entry, strict=False))
    if old["method"] != ALIGNED_BY:
        return {"method": old["method"]}
    return _entry_of_alignment(old)


# -- whether two agree -------------------------------------------------------------------------------------------------


def check_same_basis(first: Zoo, second: Zoo, what: str, remedy: str) -> None:
    """Refuse to compare networks of two bases.

    A zoo whose record says nothing of how it was made (a reader's own weights) is taken at the reader's word.

    Args:
        first: networks.
        second: others.
        what: the beginning of the error, such as "these networks are in another basis than those".
        remedy: what to do.

    Raises:
        ValueError: the bases differ; it says in what.
    """
    if says_nothing(first) or says_nothing(second):
        return
    difference = difference_of(basis_of(first), basis_of(second))
    if difference:
        raise ValueError(f"{what} ({difference}): {remedy}")


def says_nothing(zoo: Zoo) -> bool:
    """Whether a record tells neither a basis, nor that the zoo is as it was trained."""
    is_trained = "recipe" in zoo.record or "identity" in zoo.record
    return "basis" not in zoo.record and not basis_of(zoo) and not is_trained


def difference_of(one: Basis, other: Basis) -> str:
    """In what two bases differ, in words; empty if they agree."""
    if len(one) != len(other):
        return f"{_in_words(one)} here, {_in_words(other)} there"
    for mine, theirs in zip(one, other, strict=True):
        if mine.get("method") != theirs.get("method"):
            return f"{_in_words(one)} here, {_in_words(other)} there"
        if "named" in mine or "named" in theirs:
            names = mine.get("named"), theirs.get("named")
            if mine != theirs or names[0]["reference"] == GIVEN:
                return "a record of an older version does not say to which weights it was aligned"
        for fact, words in FACTS.items():
            if mine.get(fact) != theirs.get(fact):
                return words
    return ""


def _in_words(basis: Basis) -> str:
    return ", then ".join(str(entry.get("method")) for entry in basis) or "as trained"


# -- two zoos in one basis ---------------------------------------------------------------------------------------------


def joined(zoo: Zoo, other: Zoo) -> Zoo:
    """The members of one zoo and, after them, those of another in the same basis, in memory; without their records.

    Raises:
        ValueError: networks of another architecture, or in another basis.
    """
    if other.layout != zoo.layout or architecture_of(other.network) != architecture_of(zoo.network):
        raise ValueError(f"{other!r} has another architecture than {zoo!r}")
    what = "the two zoos are not in one basis"
    check_same_basis(zoo, other, what, "align both to one reference: canonicalise(…, reference=…)")
    zoo, other = zoo.in_memory(), other.in_memory()
    weights = torch.cat([zoo.weights, other.weights.to(zoo.weights)])
    return Zoo(weights, zoo.layout, zoo.network, {}, zoo.held_out + other.held_out)


def pairs_of_joined(zoo: Zoo, other: Zoo, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs (position in ``zoo``, position in ``other``) as positions in both, joined.

    Raises:
        ValueError: members that are not there.
    """
    for first, second in pairs:
        if not (0 <= first < len(zoo) and 0 <= second < len(other)):
            raise ValueError(f"no pair {first, second}: there are {len(zoo)} and {len(other)} members")
    return [(first, len(zoo) + second) for first, second in pairs]
