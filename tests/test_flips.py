"""One flipped bit, in every kind of file, in every way of reading it: no load gives what was not written."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dwflow_lite import DeepWeightFlow
from dwflow_lite.compress import DualPCA
from dwflow_lite.flow import FlowSettings, GaussianSource, VelocityField, train_flow
from dwflow_lite.networks import MLP
from dwflow_lite.support import checkpoints
from dwflow_lite.support.files import json_hash
from dwflow_lite.symmetry import canonicalise
from dwflow_lite.tasks import Task
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import Zoo

OLD = Path(__file__).parent / "data" / "0.1.0" / "folder-float32"
FLIPS = 200  # of each kind of file, in each way of reading it
X = torch.linspace(-1, 1, 160).view(40, 4).sin()
TASK = Task.from_arrays(X, (X[:, 0] > 0).long(), name="flips")
FAST = {"members": 3, "held_out": 1, "recipe": Recipe(epochs=1, batch_size=20, lr=1e-2)}
QUICK = FlowSettings(hidden=4, time_dim=2, steps=2, solver_steps=2, dropout=0.0)


def network():
    return MLP([4, 3, 2])


class Masked(torch.nn.Module):
    """A network with constants: a mask and a table."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(4, 2)
        self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x):
        return self.out(x + self.table * self.mask.exp().sum(0))


def flow(home, checkpoint="flow.pt"):
    """A small flow, trained into a checkpoint, or read there."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(6, 2, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = VelocityField(2, hidden=4, time_dim=2, dropout=0.0)
    return train_flow(field, points, GaussianSource(2), QUICK, seed=1, checkpoint=home / checkpoint)


def interrupted(train, monkeypatch):
    """Stop a training after its first save."""

    class StopError(Exception):
        pass

    plain = checkpoints.Checkpoint.save

    def save(self, state):
        plain(self, state)
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "SAVE_EVERY_SECONDS", -1.0)
        patch.setattr(checkpoints.Checkpoint, "save", save)
        with pytest.raises(StopError):
            train()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Every kind of file, small."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(OLD, home / "old")
    with pytest.MonkeyPatch.context() as monkeypatch:
        zoo = train_zoo(TASK, network(), folder=home / "trained", **FAST).in_memory()
        zoo.save(home / "saved")
        zoo.save(home / "half", "bfloat16")
        zoo.save(home / "zoo.safetensors")
        train_zoo(TASK, network(), checkpoint=home / "done.safetensors", **FAST)
        interrupted(lambda: train_zoo(TASK, network(), checkpoint=home / "under.safetensors", **FAST), monkeypatch)
        flow(home)
        interrupted(lambda: flow(home, "under.pt"), monkeypatch)
        DeepWeightFlow(flow=QUICK).fit(zoo).save(home / "model.safetensors")
        masked = Zoo.from_modules([Masked() for _ in range(4)], held_out=[3])
        masked.save(home / "masked")
        masked.save(home / "masked.safetensors")
        DeepWeightFlow(flow=QUICK, align=None).fit(masked).save(home / "masked.model")
        on_disk = Zoo.load(home / "saved")
        DeepWeightFlow(flow=QUICK).fit(on_disk, folder=home / "aligned").save(home / "streamed.safetensors")
    return home


# -- ways of reading, each to something that can be compared -----------------------------------------------------


def all_of(zoo, weights=None):
    weights = zoo.in_memory().weights if weights is None else weights
    constants = {name: buffer.tolist() for name, buffer in zoo.network.named_buffers()}
    return weights.tolist(), zoo.record, zoo.held_out, zoo.layout, constants


def rows(zoo):
    return all_of(zoo, torch.stack([zoo.weights[row] for row in range(len(zoo))]))


def columns(zoo):
    size = zoo.layout.size
    parts = [zoo.weights.columns(slice(start, start + 7)) for start in range(0, size, 7)]
    return all_of(zoo, torch.cat(parts, 1))


def streamed(zoo, home):
    shutil.rmtree(home / "result", ignore_errors=True)
    aligned = canonicalise(zoo, folder=home / "result")
    return all_of(aligned)


def pca(zoo):
    fitted = DualPCA().fit(zoo.weights)
    return fitted.singular_values_.tolist(), fitted.transform(zoo.weights).tolist()


def sample(path, network=None):
    model = DeepWeightFlow.load(path, network)
    return all_of(model.sample(2, seed=1)), model.settings_


def trained(home, place):
    return all_of(train_zoo(TASK, network(), **place, **FAST))


def saved_again(home, folder):
    zoo = Zoo.load(home / "zoo.safetensors")
    zoo.save(home / folder)
    return all_of(Zoo.load(home / folder))


SHARDS = "members-0000000[0-3].safetensors"
WAYS = {
    "a file of a zoo": ("zoo.safetensors", lambda home: all_of(Zoo.load(home / "zoo.safetensors"))),
    "a finished checkpoint of a zoo": (
        "done.safetensors",
        lambda home: trained(home, {"checkpoint": home / "done.safetensors"}),
    ),
    "a half-done zoo": (
        "under.safetensors.partial",
        lambda home: trained(home, {"checkpoint": home / "under.safetensors"}),
    ),
    "a finished flow": ("flow.pt", lambda home: str(vars(flow(home)))),
    "a half-done flow": ("under.pt.partial", lambda home: str(vars(flow(home, "under.pt")))),
    "a generator": ("model.safetensors", lambda home: sample(home / "model.safetensors")),
    "a generator on disk": ("streamed.safetensors", lambda home: sample(home / "streamed.safetensors")),
    "shards of a generator": (
        "aligned/members-0000000[0-2].safetensors",  # it does not decode from the held-out one
        lambda home: sample(home / "streamed.safetensors"),
    ),
    "constants in a file": ("masked.safetensors", lambda home: all_of(Zoo.load(home / "masked.safetensors", Masked()))),
    "constants beside shards": (
        "masked/constants.safetensors",
        lambda home: all_of(Zoo.load(home / "masked", Masked())),
    ),
    "constants of a generator": ("masked.model", lambda home: sample(home / "masked.model", Masked())),
    "zoo.json": ("saved/zoo.json", lambda home: all_of(Zoo.load(home / "saved"))),
    "zoo.json, trained into": ("trained/zoo.json", lambda home: trained(home, {"folder": home / "trained"})),
    "zoo.json, saved into": ("saved/zoo.json", lambda home: saved_again(home, "saved")),
    "shards, verified": (f"saved/{SHARDS}", lambda home: all_of(Zoo.load(home / "saved", verify=True))),
    "shards, in memory": (f"saved/{SHARDS}", lambda home: all_of(Zoo.load(home / "saved"))),
    "shards in bfloat16": (f"half/{SHARDS}", lambda home: all_of(Zoo.load(home / "half"))),
    "shards of version 0.1.0": (f"old/{SHARDS}", lambda home: all_of(Zoo.load(home / "old"))),
    "zoo.json of version 0.1.0": ("old/zoo.json", lambda home: all_of(Zoo.load(home / "old"))),
    "shards, row by row": (f"saved/{SHARDS}", lambda home: rows(Zoo.load(home / "saved"))),
    "shards, by columns": (f"saved/{SHARDS}", lambda home: columns(Zoo.load(home / "saved"))),
    "shards, aligned": (f"saved/{SHARDS}", lambda home: streamed(Zoo.load(home / "saved"), home)),
    "shards, compressed": (f"saved/{SHARDS}", lambda home: pca(Zoo.load(home / "saved"))),
    "shards, trained into": (f"trained/{SHARDS}", lambda home: trained(home, {"folder": home / "trained"})),
    "shards, saved into": (f"saved/{SHARDS}", lambda home: saved_again(home, "saved")),
}
HALF_DONE = ("under.safetensors.partial", "under.pt.partial")
FINISHES = ("under.safetensors", "under.pt")  # reading what is half-done makes them


def outcome(read, home, expected):
    """``"refused"`` in one sentence of this package that names the file, ``"the same"``, or what is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a load that warns is no silent one, but none is expected here
            found = read(home)
    except (ValueError, OSError) as error:
        said = str(error)
        named = str(home) in said and "\n" not in said and type(error).__module__ in ("builtins", ZOO_FILE_ERROR)
        return "refused" if named else f"{type(error)}: {said}"
    finally:
        for name in FINISHES:
            (home / name).unlink(missing_ok=True)
    return "the same" if found == expected else "other numbers"


ZOO_FILE_ERROR = "dwflow_lite.support.files"


def survey(home, pattern, read, changes):
    """What comes of each change of a file, counted; files are put back."""
    paths = sorted(home.glob(pattern))
    contents = {path: path.read_bytes() for path in paths}
    for name in HALF_DONE:  # which a training deletes when it is done
        contents.setdefault(home / name, (home / name).read_bytes())

    def put_back(path):
        for changed in (path, *(home / name for name in HALF_DONE if not (home / name).exists())):
            changed.write_bytes(contents[changed])

    expected = read(home)
    put_back(paths[0])
    assert outcome(read, home, expected) == "the same"  # control: the file as it is
    put_back(paths[0])
    counts = {}
    for path, content in changes({path: contents[path] for path in paths}):
        path.write_bytes(content)
        what = outcome(read, home, expected)
        counts[what] = counts.get(what, 0) + 1
        put_back(path)
    return counts


def flipped(contents, seed=0):
    draws = random.Random(seed)
    for _ in range(FLIPS):
        path = draws.choice(sorted(contents))
        content = bytearray(contents[path])
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        yield path, bytes(content)


def cut_or_longer(contents, seed=0):
    draws = random.Random(seed)
    for path, content in contents.items():
        for keep in (0, 7, 8, *(draws.randrange(len(content)) for _ in range(5)), len(content) - 1):
            yield path, content[:keep]
        for more in (b"\0", b"x", bytes(100), content):
            yield path, content + more


@pytest.mark.parametrize("way", WAYS)
def test_no_flipped_bit_gives_other_numbers(home, way):
    pattern, read = WAYS[way]
    counts = survey(home, pattern, read, flipped)
    assert set(counts) <= {"refused", "the same"} and sum(counts.values()) == FLIPS, counts
    assert counts["refused"] > 0.9 * FLIPS


@pytest.mark.parametrize("way", WAYS)
def test_no_cut_or_longer_file_gives_other_numbers(home, way):
    pattern, read = WAYS[way]
    counts = survey(home, pattern, read, cut_or_longer)
    assert set(counts) <= {"refused", "the same"}, counts
    assert counts.get("the same", 0) == 0 or pattern.endswith(".json")  # of which a cut blank line is no part


@pytest.mark.parametrize("pattern", ["zoo.safetensors", f"saved/{SHARDS}", "model.safetensors"])
def test_a_plain_reader_takes_most_of_them(home, pattern):
    contents = {path: path.read_bytes() for path in home.glob(pattern)}
    taken = 0
    for path, content in flipped(contents):
        expected = {name: tensor.tolist() for name, tensor in load_file(path).items()}
        path.write_bytes(content)
        try:
            taken += {name: tensor.tolist() for name, tensor in load_file(path).items()} != expected
        except Exception:
            pass
        finally:
            path.write_bytes(contents[path])
    assert taken > 0.1 * FLIPS


# -- files that are whole, and elsewhere -------------------------------------------------------------------------


def swapped(one: Path, other: Path):
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("saved/members-00000001.safetensors", "saved/members-00000003.safetensors"),
        ("saved/members-00000001.safetensors", "again/members-00000001.safetensors"),
        ("saved/members-00000001.safetensors", "other/members-00000001.safetensors"),
        ("saved/members-00000001.safetensors", "trained/members-00000001.safetensors"),
        ("saved/members-00000001.safetensors", "half/members-00000001.safetensors"),
        ("saved/zoo.json", "other/zoo.json"),
        ("saved/zoo.json", "again/zoo.json"),
        ("saved/zoo.json", "half/zoo.json"),
        ("saved/members-00000001.safetensors", "zoo.safetensors"),
        ("model.safetensors", "zoo.safetensors"),
        ("flow.pt", "under.pt.partial"),
        ("flow.pt", "under.safetensors.partial"),
    ],
)
def test_swapped_files_are_refused(home, one, other):
    zoo = Zoo.load(home / "zoo.safetensors")
    if not (home / "other").exists():  # a zoo of the same record, and the same zoo in another folder
        Zoo(zoo.weights + 1, zoo.layout, zoo.network, zoo.record, zoo.held_out).save(home / "other")
        zoo.save(home / "again")
    ways = [read for pattern, read in WAYS.values() if home / one in home.glob(pattern)]
    expected = [read(home) for read in ways]
    swapped(home / one, home / other)
    try:
        for read, right in zip(ways, expected, strict=True):
            assert outcome(read, home, right) == "refused"
    finally:
        swapped(home / one, home / other)
    assert [read(home) for read in ways] == expected  # control


def test_a_file_that_is_replaced_after_a_zoo_was_opened_is_refused(home):
    path = home / "saved/members-00000001.safetensors"
    content = path.read_bytes()
    zoo = Zoo.load(home / "saved")
    before = zoo.weights[1]
    changed = bytearray(content)
    changed[-1] ^= 1
    try:
        for altered in (changed, (home / "saved/members-00000002.safetensors").read_bytes()):
            path.write_bytes(altered)
            with pytest.raises(ValueError, match=r"cannot read .*00000001\.safetensors"):
                zoo.weights[1]
    finally:
        path.write_bytes(content)
    assert torch.equal(zoo.weights[1], before)  # control: it is read whole once more


@pytest.mark.parametrize("change", ["another copied over it", "cut"])
def test_a_zoo_and_a_generator_in_memory_are_not_their_files(home, tmp_path, change):
    """What safetensors gives of a file is the file: whoever writes into that changes it, after it was verified."""
    shutil.copy(home / "zoo.safetensors", tmp_path / "zoo.safetensors")
    shutil.copy(home / "model.safetensors", tmp_path / "model.safetensors")
    zoo, plain = Zoo.load(tmp_path / "zoo.safetensors"), load_file(tmp_path / "zoo.safetensors")["weights"]
    model = DeepWeightFlow.load(tmp_path / "model.safetensors")
    before, sampled = zoo.weights.clone(), model.sample(2, seed=0).weights
    for name in ("zoo.safetensors", "model.safetensors"):
        size = (tmp_path / name).stat().st_size
        with (tmp_path / name).open("r+b") as file:
            file.write(b"\1" * size) if change != "cut" else file.truncate(size // 4096 * 4096 + 8)
    assert torch.equal(zoo.weights, before) and torch.equal(model.sample(2, seed=0).weights, sampled)
    assert not torch.equal(plain, before)  # control: a plain reader's are others now


# -- what is crafted: a right hash, and nonsense -----------------------------------------------------------------


def signed(header):
    header = {name: value for name, value in header.items() if name != "sha256"}
    return json.dumps(header | {"sha256": json_hash(header)})


@pytest.mark.parametrize(
    "change",
    [
        {"members": 10**40}, {"members": -1}, {"members": "4"}, {"members": 0}, {"members": True},
        {"members": 2}, {"size": 10**12}, {"size": 22}, {"size": "23"}, {"size": 2.5}, {"storage": "float16"},
        {"storage": ["float32"]}, {"storage": "bfloat16"}, {"record": []}, {"record": None}, {"layout": {}},
        {"layout": []}, {"layout": [1]}, {"layout": [{"name": "w", "shape": [10**12], "dtype": "x", "role": "y"}]},
        {"layout": [{"name": "w", "shape": [-1, -23], "dtype": "float32", "role": "parameter"}]},
        {"record": {"architecture": {"class": "MLP", "sizes": [10**6, 10**6]}}},
        {"record": {"architecture": {"class": "MLP", "sizes": "many"}}},
        {"record": {"architecture": {"class": ["MLP"]}}}, {"record": {"architecture": 5}},
        {"record": {"architecture": {"class": "ViT", "depth": 10**9}}},
        {"record": {"architecture": {"class": "ResNet", "blocks": 10**9}}},
        {"record": {"architecture": {"class": "BERT", "depth": 10**9}}},
        {"record": {"architecture": {"class": "MLP", "sizes": [4, 3, 2]}, "behaviour": {"input": [10**6, 10**6]}}},
        {"record": {"architecture": {"class": "MLP", "sizes": [4, 3, 2]}, "behaviour": {"input": ["x"]}}},
        {"record": {"architecture": {"class": "MLP", "sizes": [4, 3, 2]}, "behaviour": [1]}},
        {"record": {"architecture": {"class": "MLP", "sizes": [4, 3, 2]}, "stages": 5}},
        {"identity": 5}, {"identity": "other"}, {"format": 5}, {"format": "dwflow_lite.folder/99"},
    ],
    ids=lambda change: json.dumps(change)[:60],
)  # fmt: skip
def test_a_crafted_zoo_json_is_one_sentence(home, change):
    path = home / "saved/zoo.json"
    content = path.read_bytes()
    expected = all_of(Zoo.load(home / "saved"))
    try:
        path.write_text(signed(json.loads(content) | change))
        assert outcome(lambda home: all_of(Zoo.load(home / "saved")), home, expected) == "refused"
    finally:
        path.write_bytes(content)
    assert outcome(lambda home: all_of(Zoo.load(home / "saved")), home, expected) == "the same"  # control


def test_a_million_of_millions_of_members_takes_no_memory(home):
    path = home / "saved/zoo.json"
    content = path.read_bytes()
    try:
        path.write_text(signed(json.loads(content) | {"members": 10**12}))
        with pytest.warns(RuntimeWarning, match=r"holds 4 of 1000000000000 members; missing: \[4, .*, 23\] and more"):
            Zoo.load(home / "saved")
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "[" * 100_000, "{}", "NaN", '{"format": NaN}', "1" * 5000])
def test_a_zoo_json_that_is_no_dictionary_is_one_sentence(home, text):
    path = home / "saved/zoo.json"
    content = path.read_bytes()
    try:
        path.write_text(text)
        assert outcome(lambda home: all_of(Zoo.load(home / "saved")), home, None) == "refused"
    finally:
        path.write_bytes(content)
