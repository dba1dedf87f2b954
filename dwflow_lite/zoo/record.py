"""What a record says: of all members, and of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dwflow_lite.networks.constants import keys_of
from dwflow_lite.support.checks import failing_as
from dwflow_lite.zoo.layout import Layout

# Entries with one item a member: a list, or (scores and losses) a list for each split, or (train_loss) for each epoch.
PER_MEMBER = ("members", "scores", "losses", "train_loss")
PER_SPLIT = ("scores", "losses")
PER_EPOCH = "train_loss"
# What a stage of the pipeline may say of each member.
PER_MEMBER_IN_STAGES = ("objective_before", "objective_after")


def split_record(record: Mapping[str, Any], members: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A record without what it says of single members, and that apart, for each member.

    :func:`join_record` undoes it.

    Args:
        record: of a zoo.
        members: how many networks the zoo has.

    Returns:
        What is common to all, and one dictionary of notes for each member.

    Example:
        >>> common, notes = split_record({"seed": 0, "scores": {"test": [0.8, 0.9]}}, members=2)
        >>> common, notes
        ({'seed': 0}, [{'scores': {'test': 0.8}}, {'scores': {'test': 0.9}}])
        >>> join_record(common, notes[1:])
        {'seed': 0, 'scores': {'test': [0.9]}}
    """
    per_member = [key for key in PER_MEMBER if record.get(key)]
    common = {key: value for key, value in record.items() if key not in per_member}
    notes = []
    with failing_as(f"the record must say {', '.join(per_member)} of each of {members} members"):
        for member in range(members):
            note = {key: _of_member(key, record[key], member) for key in per_member}
            notes.append(note)
    return common, notes


def record_text(record: Mapping[str, Any]) -> str:
    """A record as JSON; ``ValueError`` if it cannot be written so (NumPy's numbers and NaN cannot)."""
    with failing_as("the record of the zoo is not JSON-able: take plain numbers, texts, lists and dictionaries"):
        return json.dumps(dict(record), sort_keys=True, allow_nan=False)


def _of_member(key: str, value: Any, member: int) -> Any:
    """What one per-member entry of a record says of one member."""
    if key in PER_SPLIT:
        return {split: values[member] for split, values in value.items()}
    if key == PER_EPOCH:
        return [losses[member] for losses in value]
    return value[member]


def join_record(common: Mapping[str, Any], notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the members with these notes; a key that some notes lack is left out."""
    record = dict(common)
    for key in PER_MEMBER:
        if all(key in note for note in notes):
            record[key] = _of_all(key, [note[key] for note in notes])
    return record


def _of_all(key: str, values: list[Any]) -> Any:
    """One per-member entry of a record, from what the notes of the members say of it."""
    if key in PER_SPLIT:
        splits = values[0]
        return {split: [value[split] for value in values] for split in splits}
    if key == PER_EPOCH:
        return [list(losses) for losses in zip(*values, strict=True)]  # epochs of members, not members of epochs
    return values


def record_of_members(record: Mapping[str, Any], positions: Sequence[int], members: int) -> dict[str, Any]:
    """What the record of a zoo of ``members`` networks says of those at these positions, in this order."""
    common, notes = split_record(record, members)
    taken = join_record(common, [notes[position] for position in positions])
    return cut_stages(taken, positions, members)


def cut_stages(record: Mapping[str, Any], positions: Sequence[int], members: int) -> dict[str, Any]:
    """A record whose stages say of the members at these positions what they said of all ``members`` of them."""
    if "stages" not in record:
        return dict(record)
    stages = [_cut_stage(stage, positions, members) for stage in record["stages"]]
    return dict(record) | {"stages": stages}


def _cut_stage(stage: Mapping[str, Any], positions: Sequence[int], members: int) -> dict[str, Any]:
    stage = dict(stage)
    for key in PER_MEMBER_IN_STAGES:
        values = stage.get(key)
        if isinstance(values, list | tuple) and len(values) == members:
            stage[key] = [values[position] for position in positions]
    return stage


def folder_header(
    layout: Layout, common: Mapping[str, Any], members: int, constants: Mapping[str, Tensor] | None = None
) -> dict[str, Any]:
    """What ``zoo.json`` says of a zoo that is to have ``members`` members, whose networks share these constants."""
    header = {"layout": layout.to_json(), "size": layout.size, "record": dict(common), "members": members}
    if constants:
        header["constants"] = keys_of(constants)
    return header
