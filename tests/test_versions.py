"""What version 0.1.0 wrote is read as it was, every file says which version wrote it, and others are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dwflow_lite import DeepWeightFlow, Zoo, __version__
from dwflow_lite.support.files import ZooFileError, json_hash
from dwflow_lite.zoo import FOLDER, Shards, read_header

# Written by version 0.1.0 (commit a9c0612): MLP([4, 3, 2]) on 80 random points, two epochs. zoo.safetensors and
# written/ are one aligned zoo of 3 + 2 members (Zoo.save, Zoo.write); the folders are of train_zoo; expected.json is
# what that version read in them, and what its generator made.
OLD = Path(__file__).parent / "data" / "0.1.0"
EXPECTED = json.loads((OLD / "expected.json").read_text())


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


# -- of version 0.1.0 --------------------------------------------------------------------------------------------


def test_the_file_of_an_old_zoo_is_read():
    zoo = Zoo.load(OLD / "zoo.safetensors")
    assert "version" not in metadata(OLD / "zoo.safetensors")
    assert torch.equal(zoo.weights, torch.tensor(EXPECTED["zoo"]["weights"]))
    assert zoo.record == EXPECTED["zoo"]["record"]
    assert zoo.held_out == (False, False, False, True, True) and len(zoo.unseen) == 2
    stage = zoo.take([4, 1]).record["stages"][-1]
    whole = EXPECTED["zoo"]["record"]["stages"][-1]
    assert stage["objective_after"] == [whole["objective_after"][4], whole["objective_after"][1]]


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_the_folder_of_an_old_zoo_is_read(tmp_path, storage):
    zoo = Zoo.load(OLD / f"folder-{storage}", verify=True)
    assert isinstance(zoo.weights, Shards) and zoo.weights.storage == storage
    assert torch.equal(zoo.in_memory().weights, torch.tensor(EXPECTED["folders"][storage]))
    assert zoo.held_out == (False, False, True) and len(zoo.scores("test")) == 3


def test_the_folder_of_an_old_zoo_is_gone_on_with(tmp_path):
    folder = Path(shutil.copytree(OLD / "written", tmp_path / "written"))
    lost = folder / "members-00000003.safetensors"
    lost.unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.warns(RuntimeWarning, match=r"holds 4 of 5 members; missing: \[3\]"):
        assert len(Zoo.load(folder).record["stages"][-1]["objective_after"]) == 4
    zoo = Zoo.load(OLD / "zoo.safetensors")
    again = Zoo.load(zoo.save(folder), verify=True)
    assert torch.equal(again.in_memory().weights, zoo.weights) and again.record == zoo.record
    assert metadata(lost)["version"] == __version__
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(ValueError, match="holds another zoo"):  # control
        zoo.take([1, 0, 2, 3, 4]).save(folder)


def test_an_old_generator_makes_the_networks_it_made():
    model = DeepWeightFlow.load(OLD / "model.safetensors")
    expected = torch.tensor(EXPECTED["samples"])
    torch.testing.assert_close(model.sample(2, seed=1).weights, expected, atol=1e-5, rtol=1e-5)
    assert (model.sample(2, seed=2).weights - expected).abs().max() > 1e-3  # control


def test_old_files_are_still_verified(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    for name, read in (
        ("zoo.safetensors", lambda: Zoo.load(tmp_path / "old" / "zoo.safetensors")),
        ("model.safetensors", lambda: DeepWeightFlow.load(tmp_path / "old" / "model.safetensors")),
        ("folder-float32/members-00000002.safetensors", lambda: Zoo.load(tmp_path / "old/folder-float32", verify=True)),
    ):
        read()  # control
        path = tmp_path / "old" / name
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(ZooFileError, match="was altered"):
            read()


# -- of this version, and of others ------------------------------------------------------------------------------


def test_every_file_says_which_version_wrote_it(tmp_path):
    zoo = Zoo.load(OLD / "zoo.safetensors")
    folder = zoo.save(tmp_path / "zoo")
    files = [zoo.save(tmp_path / "zoo.safetensors"), *folder.glob("members-*")]
    files.append(DeepWeightFlow.load(OLD / "model.safetensors").save(tmp_path / "model.safetensors"))
    assert len(files) == 7 and {metadata(path)["version"] for path in files} == {__version__}
    assert read_header(folder)["version"] == __version__
    assert "version" not in read_header(OLD / "folder-float32")  # control


def sign(path, **metadata):
    save_file({"weights": torch.zeros(2, 23)}, path, metadata=metadata or None)


READS = rf"this version, {__version__}, reads 'dwflow_lite\.zoo/1' here$"


@pytest.mark.parametrize(
    ("signed", "message"),
    [
        ({"format": "dwflow_lite.zoo/9", "version": "7.0"}, rf"'dwflow_lite\.zoo/9', .* version 7\.0 of .*{READS}"),
        ({"format": "dwflow_lite.zoo/0"}, rf"'dwflow_lite\.zoo/0', .* version 0\.1\.0 or before of .*{READS}"),
        ({"format": "pt"}, r"is of format 'pt', .*: dwflow_lite did not write it$"),
        ({}, r"is of format None, .*: dwflow_lite did not write it$"),
    ],
)
def test_a_file_of_an_unknown_format_is_refused_by_version(tmp_path, signed, message):
    sign(tmp_path / "zoo.safetensors", **signed)
    with pytest.raises(ZooFileError, match=message):
        Zoo.load(tmp_path / "zoo.safetensors")


def test_a_folder_of_an_unknown_format_is_refused_by_version_and_not_called_damaged(tmp_path):
    folder = Zoo.load(OLD / "zoo.safetensors").save(tmp_path / "zoo")
    path = folder / "zoo.json"
    header = read_header(folder)
    for version, words in (({"version": "7.0"}, r"version 7\.0 of"), ({}, r"version 0\.1\.0 or before of")):
        other = {k: v for k, v in header.items() if k != "version"} | {"format": "dwflow_lite.folder/9"} | version
        path.write_text(json.dumps(other | {"sha256": json_hash(other)}))
        with pytest.raises(ZooFileError, match=rf"zoo\.json is of format 'dwflow_lite\.folder/9', .*{words}"):
            Zoo.load(folder)
    path.write_text(json.dumps(header | {"sha256": json_hash(header)}))
    assert header["format"] == FOLDER and len(Zoo.load(folder)) == 5  # control
    sign(folder / "members-00000001.safetensors", format="dwflow_lite.shard/9", version="7.0")
    with pytest.raises(ZooFileError, match=r"00001\.safetensors is of format 'dwflow_lite\.shard/9', .*version 7\.0"):
        Zoo.load(folder)
