"""What a record says: of all members, and of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dwflow_lite.zoo.layout import Layout

PER_MEMBER = ("members", "scores", "losses", "train_loss")


def split_record(record: Mapping[str, Any], members: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A record without, and for each member with, what it says of single members; :func:`join_record` undoes it."""

    def of(member: int, value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: each[member] for name, each in value.items()}
        return [epoch[member] for epoch in value] if key == "train_loss" else value[member]

    notes = [{k: of(m, record[k], k) for k in PER_MEMBER if record.get(k)} for m in range(members)]
    return {k: v for k, v in record.items() if not (k in PER_MEMBER and v)}, notes


def join_record(common: Mapping[str, Any], notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The record of the members with these notes."""
    record = dict(common)
    for key in (k for k in PER_MEMBER if all(k in note for note in notes)):
        values = [note[key] for note in notes]
        if key in ("scores", "losses"):
            record[key] = {name: [value[name] for value in values] for name in values[0]}
        else:
            record[key] = [list(epoch) for epoch in zip(*values, strict=True)] if key == "train_loss" else values
    return record


def folder_header(layout: Layout, common: Mapping[str, Any], members: int) -> dict[str, Any]:
    """What ``zoo.json`` says of a zoo that is to have ``members`` members."""
    return {"layout": layout.to_json(), "size": layout.size, "record": dict(common), "members": members}
