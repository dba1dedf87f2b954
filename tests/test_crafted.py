"""Files with a right hash and nonsense in them: one sentence that names the file, and no memory is taken."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from dwflow_lite import DeepWeightFlow
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate.files import FORMAT as MODEL
from dwflow_lite.networks import MLP
from dwflow_lite.support.files import ZooFileError, digest, json_hash, read_safetensors, write_safetensors
from dwflow_lite.zoo import Zoo
from dwflow_lite.zoo.saving import FORMAT as ZOO
from dwflow_lite.zoo.shards import SHARD

QUICK = FlowSettings(hidden=4, time_dim=2, steps=2, solver_steps=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    zoo = Zoo.from_modules([MLP([4, 3, 2]) for _ in range(5)], held_out=[4])
    zoo.save(home / "a.zoo")
    zoo.save(home / "zoo")
    DeepWeightFlow(flow=QUICK).fit(zoo).save(home / "a.model")
    DeepWeightFlow(flow=QUICK).fit(Zoo.load(home / "zoo"), folder=home / "aligned").save(home / "disk.model")
    return home


def refused(load, path, message=""):
    with pytest.raises((ZooFileError, FileNotFoundError), match=message) as caught:
        load()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# -- a file of a zoo ---------------------------------------------------------------------------------------------


def crafted_zoo(home, change, weights=None, without=()):
    tensors, metadata = read_safetensors(home / "a.zoo", ZOO)
    record = json.loads(metadata["record"]) | change
    text = json.dumps({name: value for name, value in record.items() if name not in without})
    weights = tensors["weights"] if weights is None else weights
    signed = {"format": ZOO, "record": text, "sha256": digest(weights, text)}
    return write_safetensors({"weights": weights}, home / "crafted.zoo", signed)


def architecture(**change):
    return {"architecture": change}


MLP_432 = {"class": "MLP", "sizes": [4, 3, 2], "activation": "relu"}


@pytest.mark.parametrize(
    "change",
    [
        {"layout": 5}, {"layout": []}, {"layout": [{}]}, {"layout": "x"}, {"held_out": 5}, {"held_out": [1] * 5},
        {"held_out": [True] * 3}, {"held_out": "abcde"}, {"constants": 5}, {"constants": [1]},
        {"constants": {"x": {"shape": [1], "dtype": "load", "sha256": "0"}}}, {"architecture": []},
        architecture(), architecture(**{"class": "MLP"}), architecture(**MLP_432 | {"activation": ["relu"]}),
        architecture(**MLP_432 | {"sizes": [4, 10**9, 2]}), architecture(**MLP_432 | {"sizes": [4, -3, 2]}),
        architecture(**MLP_432 | {"more": 1}), architecture(**MLP_432 | {"sizes": [1] * 10**6}),
        architecture(**{"class": "ViT", "dim": 10**9}), architecture(**{"class": "ViT", "depth": "x"}),
        architecture(**{"class": "ViT", "depth": 1e300}), architecture(**{"class": "ResNet", "widths": [10**9]}),
        architecture(**{"class": "ResNet", "widths": [1] * 10**5}), architecture(**{"class": "Own", "custom": True}),
        {"behaviour": {"input": [10**6, 10**6], "outputs": [1]}}, {"behaviour": {"input": [4], "outputs": "x"}},
        {"behaviour": {"input": [4], "outputs": [None]}}, {"behaviour": {"x": 1}}, {"behaviour": [1]},
        {"behaviour": {"input": [4.5], "outputs": [1]}}, {"behaviour": {"input": [-1], "outputs": [1]}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)  # fmt: skip
def test_a_crafted_zoo_is_one_sentence(home, change):
    path = crafted_zoo(home, change)
    refused(lambda: Zoo.load(path), path)


@pytest.mark.parametrize("name", ["layout", "held_out", "architecture"])
def test_a_zoo_that_lacks_something_is_one_sentence(home, name):
    path = crafted_zoo(home, {}, without=[name])
    refused(lambda: Zoo.load(path), path)
    assert len(Zoo.load(crafted_zoo(home, {}))) == 5  # control


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[0], lambda w: w[None], lambda w: w.long(), lambda w: w.to(torch.complex64), lambda w: w[:0],
        lambda w: w * float("nan"), lambda w: w[:, :5], lambda w: w.bool(), lambda w: w.repeat(2, 1),
    ],
)  # fmt: skip
def test_weights_that_are_none_are_one_sentence(home, change):
    weights = Zoo.load(home / "a.zoo").weights
    path = crafted_zoo(home, {}, change(weights).contiguous())
    refused(lambda: Zoo.load(path), path)


# -- a generator -------------------------------------------------------------------------------------------------


def crafted_model(home, change=(), tensors=(), without=(), rows=(), name="a.model"):
    own, metadata = read_safetensors(home / name, MODEL)
    record = json.loads(metadata["record"]) | dict(change)
    if rows:
        record["rows"] |= rows
    record = {key: value for key, value in record.items() if key not in without}
    own = {key: tensor for key, tensor in (own | dict(tensors)).items() if key not in without}
    text = json.dumps(record)
    signed = {"format": MODEL, "record": text, "sha256": digest(own, text)}
    return write_safetensors(own, home / "crafted.model", signed)


NEEDED = ("align", "components", "fixed_source", "flow", "layout", "n_samples", "record", "rescale", "scale", "seed")


@pytest.mark.parametrize("name", NEEDED)
def test_a_generator_that_lacks_something_is_one_sentence(home, name):
    path = crafted_model(home, without=[name])
    refused(lambda: DeepWeightFlow.load(path), path)
    assert len(DeepWeightFlow.load(crafted_model(home)).sample(2, seed=1)) == 2  # control


@pytest.mark.parametrize("value", [None, "x", -1, [], {}, [1], 10**9])
@pytest.mark.parametrize("name", ["architecture", "flow", "layout", "n_samples", "scale"])
def test_a_crafted_generator_is_one_sentence(home, name, value):
    path = crafted_model(home, {name: value})
    if value == 10**9 and name in ("n_samples", "scale"):
        DeepWeightFlow.load(path)  # control: it may be
    else:
        refused(lambda: DeepWeightFlow.load(path), path)


@pytest.mark.parametrize("value", [None, "x", -1, 10**7, [], 0])
@pytest.mark.parametrize("name", ["hidden", "time_dim", "solver"])
def test_crafted_settings_of_a_flow_take_no_memory(home, name, value):
    flow = json.loads(read_safetensors(home / "a.model", MODEL)[1]["record"])["flow"]
    path = crafted_model(home, {"flow": flow | {name: value}})
    refused(lambda: DeepWeightFlow.load(path), path)


CHANGES = {
    "gone": None,
    "empty": lambda tensor: tensor[:0] if tensor.ndim else tensor[None],
    "whole numbers": lambda tensor: tensor.long(),
    "not finite": lambda tensor: tensor * float("nan"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_crafted_tensors_of_a_generator_are_one_sentence(home, change):
    tensors, _ = read_safetensors(home / "a.model", MODEL)
    for name, tensor in tensors.items():
        if change == "gone":
            path = crafted_model(home, without=[name])
        else:
            path = crafted_model(home, tensors={name: CHANGES[change](tensor).contiguous()})
        refused(lambda path=path: DeepWeightFlow.load(path), path)


FIRST = "members-00000000.safetensors"


@pytest.mark.parametrize(
    "rows",
    [
        {"folder": None}, {"folder": 5}, {"from here": 5}, {"storage": "float16"}, {"storage": "bfloat16"},
        {"storage": None}, {"rows": None}, {"rows": "x"}, {"rows": []}, {"rows": [[f"../zoo/{FIRST}", 0]] * 4},
        {"rows": [[FIRST, 9]] * 4}, {"rows": [[FIRST, -1]] * 4}, {"rows": [["x"]]}, {"rows": [[FIRST, 0]] * 4},
        {"rows": [["zoo.json", 0]] * 4}, {"rows": [["/dev/null", 0]] * 4},
    ],
)  # fmt: skip
def test_crafted_rows_of_a_generator_on_disk_are_one_sentence(home, rows):
    assert len(DeepWeightFlow.load(crafted_model(home, name="disk.model")).sample(2, seed=1)) == 2  # control
    path = crafted_model(home, rows=rows, name="disk.model")
    refused(lambda: DeepWeightFlow.load(path), path)


# -- shards ------------------------------------------------------------------------------------------------------


def crafted_shard(home, meta=(), notes=None, rows=None, sealed=True):
    folder = home / "crafted"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(home / "zoo", folder)
    path = folder / "members-00000001.safetensors"
    tensors, metadata = read_safetensors(path, SHARD)
    metadata = {name: text for name, text in metadata.items() if name not in ("version", "seal")} | dict(meta)
    rows = tensors["weights"] if rows is None else rows
    metadata["notes"] = metadata["notes"] if notes is None else notes
    metadata["sha256"] = digest({"weights": rows.view(torch.uint8)}, metadata["notes"])
    if sealed:
        metadata["seal"] = json_hash(metadata)
    write_safetensors({"weights": rows}, path, metadata)
    return folder


@pytest.mark.parametrize("sealed", [True, False])
def test_crafted_shards_are_one_sentence(home, sealed):
    rows = Zoo.load(home / "zoo").weights[1:2].columns(slice(None))
    assert len(Zoo.load(crafted_shard(home, sealed=sealed)).in_memory()) == 5  # control
    for craft in (
        *({"meta": {"first": first}} for first in ("-1", "x", "10", "1" * 30, "1.0", "", "2")),
        *({"notes": notes} for notes in ("[]", "5", "{}", "[5]", "[" * 9999, "[{}]", '[{"held_out": 5}]')),
        {"meta": {"zoo": ""}}, {"notes": '[{"held_out": false, "members": 5}]'},
        {"rows": rows.double()}, {"rows": rows.int()}, {"rows": rows[:, :4].contiguous()}, {"rows": rows[0]},
        {"rows": rows.repeat(2, 1)}, {"rows": rows[:0]}, {"rows": rows.bfloat16()},
    ):  # fmt: skip
        folder = crafted_shard(home, sealed=sealed, **craft)
        refused(lambda folder=folder: Zoo.load(folder).in_memory(), folder)


# -- files of forty gigabytes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zoo/zoo.json", f"zoo/{FIRST}", "a.zoo", "a.model"])
def test_a_file_that_is_far_too_long_is_refused_at_once(home, name):
    path = home / name
    content = path.read_bytes()
    load = DeepWeightFlow.load if path.suffix == ".model" else Zoo.load
    try:
        os.truncate(path, 40 << 30)  # of which nothing is on the disk
        refused(lambda: load(path if path.parent == home else path.parent), path)
    finally:
        path.write_bytes(content)
    load(path if path.parent == home else path.parent)  # control
