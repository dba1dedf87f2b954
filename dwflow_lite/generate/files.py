"""A generator in one safetensors file: what it has learned, and the settings that it was made with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow.conditional import make_conditional_field
from dwflow_lite.flow.field import VelocityField, make_field
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.generate.conditions import Conditions
from dwflow_lite.networks import architecture_of
from dwflow_lite.networks.constants import PREFIX as CONSTANTS
from dwflow_lite.networks.constants import constants_of, keys_of, moved, packed, unpacked
from dwflow_lite.support.checks import is_number, is_whole
from dwflow_lite.support.files import ZooFileError, digest, read_safetensors, understood, write_safetensors
from dwflow_lite.support.paths import as_path, at_end_of_links
from dwflow_lite.support.versions import versions
from dwflow_lite.zoo.layout import Entry, Layout
from dwflow_lite.zoo.older import constants_in_columns, constants_of_columns, weights_alone
from dwflow_lite.zoo.storage import Shards, rows_of_files
from dwflow_lite.zoo.template import template_for

FORMAT = "dwflow_lite.model/1"
PLAIN_SETTINGS = ("align", "components", "source", "fixed_source", "rescale", "seed", "memory")  # all but ``flow``


@dataclass(frozen=True)
class FittedFlow:
    """All that a fitted generator needs in order to sample, and to be written down.

    Attributes:
        settings: the arguments it was fitted with, JSON-able but for ``flow``, its ``FlowSettings``.
        layout: of the networks it makes.
        network: a template of them.
        record: what is known of the zoo it was fitted on.
        pca: between weights and codes.
        scale: by which codes are divided.
        source: of the flow.
        field: from noise to codes.
        conditions: that the field is told, or None; then ``settings`` has ``label_dropout`` too.
    """

    settings: Mapping[str, Any]
    layout: Layout
    network: nn.Module
    record: Mapping[str, Any]
    pca: DualPCA
    scale: float
    source: GaussianSource
    field: VelocityField
    conditions: Conditions | None = None


def on_device(fitted: FittedFlow, device: torch.device) -> FittedFlow:
    """The same generator with its field and all that it decodes with on a device. (Its noise is drawn on the CPU.)"""
    field = deepcopy(fitted.field).to(device)
    return replace(fitted, network=moved(fitted.network, device), pca=fitted.pca.to(device), field=field)


# -- writing -----------------------------------------------------------------------------------------------------


def write_generator(path: str | Path, fitted: FittedFlow) -> Path:
    """Write a fitted generator.

    Args:
        path: a file.
        fitted: what it has learned.

    Raises:
        ValueError: ``path`` has no suffix.
        OSError: it cannot be written.
    """
    path = _file(path)
    tensors = {f"field.{name}": tensor for name, tensor in fitted.field.state_dict().items()}
    tensors |= _tensors_of_pca(fitted.pca)
    tensors |= {"source.scale": fitted.source.scale, "source.mean": fitted.source.mean}
    constants = constants_of(fitted.network)
    tensors |= packed(constants)
    record = {name: fitted.settings[name] for name in PLAIN_SETTINGS} | {
        "flow": fitted.settings["flow"].to_json(),
        "layout": fitted.layout.to_json(),
        "architecture": architecture_of(fitted.network),
        "record": dict(fitted.record),
        "scale": fitted.scale,
        "n_samples": fitted.pca.n_samples_,
        "versions": versions(),
    }
    if constants:
        record["constants"] = keys_of(constants)
    if fitted.conditions is not None:
        record["conditions"] = fitted.conditions.to_json() | {"label_dropout": fitted.settings["label_dropout"]}
    rows = fitted.pca.rows_
    if isinstance(rows, Shards):
        record["rows"] = {"folder": str(rows.folder), "rows": rows.rows, "storage": rows.storage}
        record["rows"] |= _relative(rows.folder, path)
        record["fingerprint"] = rows.fingerprint()
    text = json.dumps(record, sort_keys=True)
    return write_safetensors(tensors, path, {"format": FORMAT, "record": text, "sha256": digest(tensors, text)})


def _tensors_of_pca(pca: DualPCA) -> dict[str, Tensor]:
    """What a PCA needs to decode: components, or rows, or which rows on disk; of rows, how they are combined."""
    tensors = {"pca.singular_values": pca.singular_values_, "pca.ratio": pca.explained_variance_ratio_}
    if isinstance(pca.rows_, Shards):
        return tensors | {"pca.combination": pca.combination_}
    tensors["pca.mean"] = pca.mean_
    if pca.rows_ is None:
        return tensors | {"pca.components": pca.components_}
    return tensors | {"pca.combination": pca.combination_, "pca.rows": pca.rows_}


def _relative(folder: Path, path: Path) -> dict[str, str]:
    """The way from a file to the folder it decodes from, so that both may be moved together."""
    with suppress(ValueError):  # there is none between two drives
        return {"from here": Path(os.path.relpath(folder, at_end_of_links(path).parent)).as_posix()}
    return {}


def _file(path: str | Path) -> Path:
    path = as_path(path)
    if not path.suffix:
        raise ValueError(f"a generator is kept in one file: give {path} a suffix, as in {path.name}.safetensors")
    return path


# -- reading -----------------------------------------------------------------------------------------------------


def read_generator(
    path: str | Path, network: nn.Module | None = None, folder: str | Path | None = None, conditional: bool = False
) -> FittedFlow:
    """Read a generator and verify it.

    Args:
        path: a file that :func:`write_generator` wrote, of this version or an older one.
        network: a template; needed for a reader's own class, otherwise checked against the file.
        folder: where the zoo is that it decodes from, if it was fitted on one on disk; None: where the file says, seen
            from where it is now or from where it was written.
        conditional: whether its flow is to be one that is told conditions; a file of the other kind is refused.

    Raises:
        ValueError: ``path`` has no suffix, or a folder is named that no zoo is needed from.
        FileNotFoundError: no such file.
        ZooFileError: truncated, altered, of another format, not for ``network``, or without the zoo it decodes from.
    """
    path = _file(path)
    tensors, metadata = read_safetensors(path, FORMAT)
    text = metadata.get("record", "")
    if metadata.get("sha256") != digest(tensors, text):
        raise ZooFileError(f"{path} was altered after it was written (its hash does not match): save it again")
    with understood(path):
        record = dict(json.loads(text))
    if ("conditions" in record) != conditional:
        kinds = ("DeepWeightFlow", "ConditionalDeepWeightFlow")
        raise ZooFileError(f"{path} holds a {kinds[not conditional]}: read it by {kinds[not conditional]}.load")
    with understood(path):
        record.setdefault("memory", 1 << 28)
        layout = Layout.from_json(record["layout"])
        settings = {name: record[name] for name in PLAIN_SETTINGS}
        flow = FlowSettings.from_json(record["flow"])  # version 0.1.0 wrote fewer settings
        about = dict(record["record"]) | {"architecture": record["architecture"]}
        constants = unpacked(tensors, record.get("constants", {}))
        conditions = Conditions.from_json(record["conditions"]) if conditional else None
        if conditional:
            settings["label_dropout"] = record["conditions"]["label_dropout"]
    old_entries = constants_in_columns(layout, network)
    if old_entries:
        tensors, layout, constants = _without_constants(path, tensors, layout, old_entries, network)
    with understood(path):
        pca = _read_pca(tensors, record, layout)
    if folder is not None and "rows" not in record:
        raise ValueError(f"{path} holds all that it decodes from: name no folder")
    if "rows" in record:
        pca._keep(_rows_on_disk(path, record, layout, folder))
    template = template_for(path, about, layout, network, constants)
    with understood(path):
        return FittedFlow(
            settings=settings | {"flow": flow},
            layout=Layout.of(template),
            network=template,
            record=dict(record["record"]),
            pca=pca,
            scale=float(record["scale"]),
            source=GaussianSource(pca.n_components_, tensors["source.scale"], tensors["source.mean"].float()),
            field=_read_field(tensors, flow, pca.n_components_, conditions, settings.get("label_dropout", 0.0)),
            conditions=conditions,
        )


def _without_constants(
    path: Path, tensors: Mapping[str, Tensor], layout: Layout, entries: list[Entry], network: nn.Module
) -> tuple[dict[str, Tensor], Layout, dict[str, Tensor]]:
    """Tensors and layout of a file of before version 0.2.0, without the columns that are constants; and these."""
    components, mean = tensors.get("pca.components"), tensors.get("pca.mean")  # (k, d), (d,)
    if components is None:
        raise ZooFileError(
            f"{path} was written by a version before 0.2.0, which kept the constant {entries[0].name!r} as weights, "
            "and it decodes from a zoo on disk: fit anew"
        )
    # The mean network, and one as far from it as members are: constants are the same in both, up to rounding.
    far = mean + tensors["pca.singular_values"].to(components) @ components
    made = torch.stack([mean, torch.where(torch.isclose(far, mean, rtol=1e-4), mean, far)])
    constants = constants_of_columns(path, made, layout, entries, network)
    layout, columns = weights_alone(layout, entries)
    alone = {"pca.components": components[:, columns], "pca.mean": mean[columns]}
    return dict(tensors) | alone, layout, constants


def _read_pca(tensors: Mapping[str, Tensor], record: Mapping[str, Any], layout: Layout) -> DualPCA:
    """The fitted PCA of a file, but for the rows on disk that it may need."""
    pca = DualPCA(record["components"], memory=record["memory"])
    pca.mean_ = tensors.get("pca.mean")
    pca.combination_ = tensors.get("pca.combination")
    pca.singular_values_ = tensors["pca.singular_values"]
    pca.explained_variance_ratio_ = tensors["pca.ratio"]
    pca.n_components_ = len(pca.singular_values_)
    pca.n_samples_ = record["n_samples"]
    pca.n_features_in_ = layout.size
    if not is_whole(pca.n_samples_, 2) or not is_number(record["scale"]) or not record["scale"] > 0:
        raise ValueError(
            f"it was fitted on {pca.n_samples_!r} networks, whose codes are divided by {record['scale']!r}"
        )
    pca.explained_variance_ = pca.singular_values_**2 / (pca.n_samples_ - 1)
    pca._keep(tensors.get("pca.rows"), tensors.get("pca.components"))
    k = pca.n_components_
    shapes = {"pca.components": (k, layout.size), "pca.mean": (layout.size,)}
    if "pca.rows" in tensors:
        members = len(tensors["pca.rows"])
        shapes = {"pca.rows": (members, layout.size), "pca.combination": (members, k), "pca.mean": (layout.size,)}
    if "rows" in record:
        shapes = {"pca.combination": (len(record["rows"]["rows"]), k)}
    shapes |= {"source.mean": (k,), "pca.ratio": (k,), "pca.singular_values": (k,)}
    for name, tensor in tensors.items():
        is_plain = tensor.is_floating_point() and bool(tensor.isfinite().all())
        if not name.startswith(CONSTANTS) and not is_plain:
            raise ValueError(f"{name} holds {tensor.dtype}, not all of it finite numbers")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} is of shape {tuple(tensors[name].shape)}, not {shape}")
    return pca


def _rows_on_disk(path: Path, record: Mapping[str, Any], layout: Layout, folder: str | Path | None) -> Shards:
    """The aligned zoo that a generator decodes from; :class:`ZooFileError` unless it is there, and the same."""
    with understood(path):
        written = record["rows"]
        rows = [(str(name), int(at)) for name, at in written["rows"]]
        places = [Path(written["folder"])]
        if "from here" in written:
            places.insert(0, at_end_of_links(path).parent / written["from here"])
    if folder is not None:
        places = [as_path(folder)]
    there = [place for place in places if place.is_dir()] or places[-1:]
    failure: Exception | None = None
    for place in there:
        try:
            shards = rows_of_files(place, rows, layout.size, written["storage"])
        except (OSError, ValueError) as error:
            failure = failure or error
            continue
        if shards.fingerprint() == record["fingerprint"]:
            return shards
        failure = failure or ValueError("which has changed")
    message = f"{path} decodes from the zoo in {there[0]}: put it back, or fit anew, or name where it is (folder=)"
    raise ZooFileError(f"{message} ({failure})") from failure


def _read_field(
    tensors: Mapping[str, Tensor], flow: FlowSettings, dim: int, conditions: Conditions | None, label_dropout: float
) -> VelocityField:
    """The trained field of a file, in eval mode; ``ValueError``, before it takes memory, where its tensors differ."""
    state = {name.removeprefix("field."): tensor for name, tensor in tensors.items() if name.startswith("field.")}
    make = partial(make_field, dim, flow, seed=0)
    if conditions is not None:
        make = partial(make_conditional_field, dim, conditions.size, flow, label_dropout, seed=0)
    with torch.device("meta"):
        outline = make()
    expected = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    if expected != {name: tuple(tensor.shape) for name, tensor in state.items()}:
        raise ValueError("its field is of another size than its settings say")
    field = make()
    field.load_state_dict(state)
    return field.eval()
