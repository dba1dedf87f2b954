"""A generator in one safetensors file: what it has learned, and the settings that it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dwflow_lite.compress import DualPCA
from dwflow_lite.flow.field import VelocityField, make_field
from dwflow_lite.flow.path import GaussianSource
from dwflow_lite.flow.settings import FlowSettings
from dwflow_lite.networks import architecture_of
from dwflow_lite.networks.constants import constants_of, keys_of, packed, unpacked
from dwflow_lite.support.checks import failing_as
from dwflow_lite.support.files import ZooFileError, digest, read_safetensors, write_safetensors
from dwflow_lite.support.versions import versions
from dwflow_lite.zoo.layout import Entry, Layout
from dwflow_lite.zoo.older import constants_in_columns, constants_of_columns, weights_alone
from dwflow_lite.zoo.storage import Shards
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
    """

    settings: Mapping[str, Any]
    layout: Layout
    network: nn.Module
    record: Mapping[str, Any]
    pca: DualPCA
    scale: float
    source: GaussianSource
    field: VelocityField


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
    rows = fitted.pca.rows_
    if rows is not None:
        record["rows"] = {"folder": str(rows.folder), "rows": rows.rows, "storage": rows.storage}
        record["fingerprint"] = rows.fingerprint()
    text = json.dumps(record, sort_keys=True)
    return write_safetensors(tensors, path, {"format": FORMAT, "record": text, "sha256": digest(tensors, text)})


def _tensors_of_pca(pca: DualPCA) -> dict[str, Tensor]:
    """What a PCA needs to decode. Fitted on rows on disk it makes its components from them, and keeps how."""
    tensors = {"pca.singular_values": pca.singular_values_, "pca.ratio": pca.explained_variance_ratio_}
    if pca.rows_ is not None:
        return tensors | {"pca.combination": pca.combination_}
    return tensors | {"pca.components": pca.components_, "pca.mean": pca.mean_}


def _file(path: str | Path) -> Path:
    path = Path(path)
    if not path.suffix:
        raise ValueError(f"a generator is kept in one file: give {path} a suffix, as in {path.name}.safetensors")
    return path


# -- reading -----------------------------------------------------------------------------------------------------


def read_generator(path: str | Path, network: nn.Module | None = None) -> FittedFlow:
    """Read a generator and verify it.

    Args:
        path: a file that :func:`write_generator` wrote, of this version or an older one.
        network: a template; needed for a reader's own class, otherwise checked against the file.

    Raises:
        ValueError: ``path`` has no suffix.
        FileNotFoundError: no such file.
        ZooFileError: truncated, altered, of another format, not for ``network``, or without the zoo it decodes from.
    """
    path = _file(path)
    tensors, metadata = read_safetensors(path, FORMAT)
    text = metadata.get("record", "")
    if metadata.get("sha256") != digest(tensors, text):
        raise ZooFileError(f"{path.name} was altered after it was written: its hash does not match")
    record = json.loads(text)
    record.setdefault("memory", 1 << 28)
    layout = Layout.from_json(record["layout"])
    settings = {name: record[name] for name in PLAIN_SETTINGS}
    flow = FlowSettings.from_json(record["flow"])  # version 0.1.0 wrote fewer settings
    with failing_as(f"{path} was altered after it was written", ZooFileError):
        constants = unpacked(tensors, record.get("constants", {}))
    old_entries = constants_in_columns(layout, network)
    if old_entries:
        tensors, layout, constants = _without_constants(path, tensors, layout, old_entries, network)
    template = template_for(path, record["record"] | record, layout, network, constants)
    pca = _read_pca(path, tensors, record, layout)
    return FittedFlow(
        settings=settings | {"flow": flow},
        layout=Layout.of(template),
        network=template,
        record=record["record"],
        pca=pca,
        scale=record["scale"],
        source=GaussianSource(pca.n_components_, tensors["source.scale"], tensors["source.mean"]),
        field=_read_field(tensors, flow, pca.n_components_),
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


def _read_pca(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], layout: Layout) -> DualPCA:
    """The fitted PCA of a file."""
    pca = DualPCA(record["components"], memory=record["memory"])
    pca.components_ = tensors.get("pca.components")
    pca.mean_ = tensors.get("pca.mean")
    pca.combination_ = tensors.get("pca.combination")
    pca.singular_values_ = tensors["pca.singular_values"]
    pca.explained_variance_ratio_ = tensors["pca.ratio"]
    pca.n_components_ = len(pca.singular_values_)
    pca.n_samples_ = record["n_samples"]
    pca.n_features_in_ = layout.size
    pca.explained_variance_ = pca.singular_values_**2 / (pca.n_samples_ - 1)
    pca.rows_ = _rows_on_disk(path, record, layout) if "rows" in record else None
    return pca


def _rows_on_disk(path: Path, record: Mapping[str, Any], layout: Layout) -> Shards:
    """The aligned zoo that a generator decodes from; :class:`ZooFileError` unless it is there, and the same."""
    folder = record["rows"]["folder"]
    places = tuple((name, place) for name, place in record["rows"]["rows"])
    rows = Shards(Path(folder), places, layout.size, record["rows"]["storage"])
    with failing_as(f"{path} decodes from the zoo in {folder}: put it back, or fit anew", ZooFileError):
        if rows.fingerprint() != record["fingerprint"]:
            raise ValueError("which has changed")
    return rows


def _read_field(tensors: Mapping[str, Tensor], flow: FlowSettings, dim: int) -> VelocityField:
    """The trained field of a file, in eval mode."""
    field = make_field(dim, flow, seed=0)
    field.load_state_dict({name: tensors[f"field.{name}"] for name in field.state_dict()})
    return field.eval()
