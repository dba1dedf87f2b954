"""The player: what it shows is what the package computes, and the page is small, whole and alone."""

import io
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dwflow_lite.course.markup import external_resources
from dwflow_lite.course.player import embed, making
from dwflow_lite.course.player.packing import packed, unpacked
from dwflow_lite.course.player.page import player_data, player_page, write_player
from dwflow_lite.course.player.telling import sentence
from dwflow_lite.course.player.trajectories import Family, Scene, Sizes, family, fitted_flow, scenes
from dwflow_lite.generate import GaussianCodes
from dwflow_lite.symmetry import Permutation, PermutationSpec, canonicalise
from dwflow_lite.tasks import load_task
from dwflow_lite.zoo import Zoo, evaluate

from .conftest import FILES, RECORD, Ran, cells, write_notebook

SIZES = Sizes(members=7, networks=5, epochs=10, flow_steps=60, times=6, widths=(16,))
KINDS = [(basis, kind) for basis in ("aligned", "not aligned") for kind in ("flow", "Gaussian")]


@pytest.fixture(scope="module")
def made():
    """Task, zoo, and the four scenes of one width."""
    task = load_task("digits", seed=0)
    of = family(task, 16, SIZES)
    return task, of, {(scene.basis, scene.kind): scene for scene in scenes(task, of, 16, SIZES)}


def in_basis(of, basis):
    return canonicalise(of.zoo, seed=0) if basis == "aligned" else of.zoo


def networks(of, scene, shares):
    """The weights (T, n, d) of the networks of a scene, as sums of members."""
    return shares @ in_basis(of, scene.basis).weights


@pytest.mark.parametrize("basis, kind", KINDS)
def test_the_last_moment_is_what_sample_gives(made, basis, kind):
    _, of, by_name = made
    scene, zoo = by_name[basis, kind], in_basis(of, basis)
    generator = fitted_flow(zoo, SIZES) if kind == "flow" else GaussianCodes().fit(zoo)
    sampled = generator.sample(SIZES.networks, seed=SIZES.seed + 1).weights
    shown = networks(of, scene, scene.shares)
    assert torch.allclose(shown[-1], sampled, atol=1e-5)
    assert not torch.allclose(shown[-2], sampled, atol=1e-3)  # controls
    assert not torch.allclose(shown[-1], generator.sample(SIZES.networks, seed=SIZES.seed + 2).weights, atol=1e-3)


@pytest.mark.parametrize("basis", ["aligned", "not aligned"])
def test_flow_and_gaussian_start_from_the_same_noise(made, basis):
    _, of, by_name = made
    flow, gaussian = (networks(of, by_name[basis, kind], by_name[basis, kind].shares) for kind in ("flow", "Gaussian"))
    assert torch.allclose(flow[0], gaussian[0], atol=1e-5)
    assert not torch.allclose(flow[-1], gaussian[-1], atol=1e-2)  # control


@pytest.mark.parametrize("basis, kind", KINDS)
def test_accuracy_and_points_are_those_of_the_decoded_networks(made, basis, kind):
    task, of, by_name = made
    scene = by_name[basis, kind]
    for moment in range(SIZES.times):
        weights = networks(of, scene, scene.shares)[moment]
        score = evaluate(Zoo(weights, of.zoo.layout, of.zoo.network, {}), task, "validation").score
        assert torch.allclose(score, scene.accuracy[moment], atol=1.5 / len(task.validation.y))  # one on the edge
    # an end of a flow lies where the member lies that it copies
    if kind == "flow":
        ends = scene.shares[-1].argmax(1)
        near = scene.distance[-1] < 0.1
        assert torch.allclose(scene.points[-1][near], scene.members[ends][near], atol=0.5)
    assert torch.allclose(scene.shares.sum(-1), torch.ones(SIZES.times, SIZES.networks), atol=1e-5)
    assert not torch.allclose(scene.accuracy[0], scene.accuracy[-1], atol=0.02) or kind == "Gaussian"  # control


def test_orders_of_units_align_the_zoo(made):
    _, of, _ = made
    spec = PermutationSpec.of(of.zoo.network)
    for member in range(SIZES.members):
        order = Permutation({group: rows[member] for group, rows in of.orders.items()})
        assert torch.equal(spec.apply(order, of.zoo.weights[member]), in_basis(of, "aligned").weights[member])
    assert not torch.equal(of.zoo.weights, in_basis(of, "aligned").weights)  # control


def test_alignment_is_what_makes_the_average_read(made):
    _, _, by_name = made
    start = {basis: by_name[basis, "flow"].accuracy[0].median() for basis in ("aligned", "not aligned")}
    assert start["aligned"] > start["not aligned"] + 0.1


def test_what_the_page_decodes_reads_as_the_networks_do(made):
    """By NumPy, in the steps of networks.js: one or two bytes a number cost next to nothing."""
    task, of, by_name = made
    data = player_data(task, {16: of}, list(by_name.values()))
    layout = of.zoo.layout
    tensors = [unpacked(pack) for pack in data["zoos"][16]["tensors"]]
    members = torch.tensor(np.concatenate([t.reshape(SIZES.members, -1) for t in tensors], 1)).float()
    assert members.shape == of.zoo.weights.shape and list(layout.slices) == [e.name for e in layout.entries]
    aside = [scene for scene in data["scenes"] if scene["basis"] == "not aligned"]
    for scene in aside:
        shares = torch.tensor(unpacked(scene["shares"])).float() + 1 / SIZES.members
        decoded = Zoo((shares @ members).flatten(0, 1), layout, of.zoo.network, {})
        exact = by_name["not aligned", scene["kind"]]
        score = evaluate(decoded, task, "validation").score.reshape(exact.accuracy.shape)
        assert (score - exact.accuracy).abs().mean() < 0.01
        assert (score.flip(0) - exact.accuracy).abs().mean() > 0.01 or scene["kind"] == "Gaussian"  # control


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_numbers_are_off_by_half_a_step(bits):
    sizes = torch.tensor([1, 1e-3, 50, 0])[:, None, None]
    numbers = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * sizes
    steps = numbers.abs().amax((1, 2)) / (2 ** (bits - 1) - 1)
    off = (torch.tensor(unpacked(packed(numbers, bits))) - numbers).abs().amax((1, 2))
    assert (off <= 0.501 * steps + 1e-12).all() and off[2] > 0.01 * steps[2]


# -- words -----------------------------------------------------------------------------------------------------------


def scene_of(accuracy, distance, basis="aligned"):
    """A scene whose networks all have these accuracies in time, and this distance at the end."""
    rows = torch.tensor(accuracy)[:, None].expand(-1, 3)
    nothing = torch.zeros(len(accuracy), 3, 2)
    return Scene(8, basis, "flow", nothing, nothing, nothing[0], rows, torch.full(rows.shape, distance))


@pytest.mark.parametrize(
    "accuracy, distance, says, never",
    [
        ([0.1, 0.1, 0.1, 0.8, 0.9], 0.05, ["10", "guessing", "up to 90", "0.75", "copies: 0.05"], "no member"),
        ([0.7, 0.8, 0.9, 0.9, 0.9], 0.9, ["70", "up to 90", "t = 0.25", "no member", "0.90"], "copies"),
        ([0.92, 0.92, 0.9], 0.9, ["92", "keep it, 90"], "fall"),
        ([0.7, 0.6, 0.5], 0.9, ["70", "fall to 50"], "keep"),
        ([0.1, 0.1, 0.2], 0.9, ["10", "never get far, 20"], "half of the way"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_numbers_say(accuracy, distance, says, never):
    told = sentence(scene_of(accuracy, distance), chance=0.1)
    assert all(part in told for part in says) and never not in told
    assert "zoo, aligned," in told and "zoo, not aligned," in sentence(scene_of(accuracy, distance, "not aligned"), 0.1)


def test_every_scene_comes_with_its_own_sentence(made):
    task, of, by_name = made
    data = player_data(task, {16: of}, list(by_name.values()))
    for scene in data["scenes"]:
        exact = by_name[scene["basis"], scene["kind"]]
        start, end = (100 * np.median(exact.accuracy[i].numpy()) for i in (0, -1))
        assert f"read {start:.0f}\N{NO-BREAK SPACE}%" in scene["says"]
        assert f"{end:.0f}\N{NO-BREAK SPACE}%" in scene["says"]
    assert len({scene["says"] for scene in data["scenes"]}) == len(KINDS)


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_and_runs_its_own_scripts_alone(made):
    task, of, by_name = made
    page = player_page(task, {16: of}, list(by_name.values()))
    (nonce,) = re.findall(r"script-src 'nonce-([0-9a-f]{32})'", page)
    own = re.compile(
        rf'<script nonce="{nonce}">.*?</script>|<script type="application/json" id="data">.*?</script>', re.S
    )
    assert len(own.findall(page)) == 3 and "default-src 'none'" in page
    assert external_resources(own.sub("", page)) == []
    addresses = re.findall(r"\w+://[^\s\"')]+", page)
    assert addresses == ["http://www.w3.org/2000/svg"]  # the name of a language; nothing is fetched from there
    assert "$" not in re.sub(r"\$\{[^}]*\}?", "", own.sub("", page)), "nothing was left to be filled in"
    assert external_resources(page.replace("<main", '<img src="https://there.org/a.png"><main')) != []  # control


def test_the_page_of_a_course_run_is_below_600_kilobytes(made):
    """Its size does not depend on the numbers in it, so these are drawn."""
    task, of, _ = made
    sizes = Sizes()
    members, networks, times = sizes.members, sizes.networks, sizes.times
    families, shown = {}, []
    for width in sizes.widths:
        zoo = Zoo.from_modules([type(of.zoo.network)([64, width, width, 10]) for _ in range(members)])
        order = torch.stack([torch.randperm(width) for _ in range(members)])
        families[width] = Family(zoo, {"hidden0": order, "hidden1": order}, torch.rand(members))
        for basis, kind in KINDS:
            rows = torch.linspace(0, 1, times)[:, None].expand(-1, networks)
            points = rows[..., None] * torch.randn(networks, 2)
            shares = torch.randn(times, networks, members)
            shown.append(Scene(width, basis, kind, shares, points, torch.randn(members, 2), rows, rows))
    assert 300_000 < len(player_page(task, families, shown).encode()) < 600_000


def test_the_same_seed_makes_the_same_page(tmp_path):
    small = replace(SIZES, epochs=1, flow_steps=3)
    pages = [
        write_player(tmp_path / f"{i}.html", replace(small, seed=seed)).read_text() for i, seed in enumerate((0, 0, 1))
    ]
    assert pages[0] == pages[1] != pages[2]


# -- as a step of a run ----------------------------------------------------------------------------------------------

SHOWN_IN = "00_a_network_from_noise"
WIDGET = "import ipywidgets\nipywidgets.IntSlider(description='time')"


def page_of_player(made=""):
    still = '<img class="signature" alt="still" src="data:image/png;base64,AA">'
    return f'<html><head><meta name="made" content="{made}"></head><body><noscript>{still}</noscript></body></html>\n'


def test_home_and_the_page_of_its_notebook_show_the_player(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "make", lambda path, profile, stop: path.write_text(page_of_player()) and "")
    write_notebook(tmp_path / "nb", SHOWN_IN, WIDGET, WIDGET, RECORD)
    write_notebook(tmp_path / "nb", "01_other", WIDGET, RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.code == 0 and "player.html, the player" in ran.text
    page = ran.page(SHOWN_IN)
    assert page.count("<iframe") == 1 and f'src="../player.html#{embed.PLACES[SHOWN_IN].replace("&", "&amp;")}"' in page
    told = "work in Jupyter only: time."
    assert page.index(told) < page.index("<iframe") < page.rindex(told) and "not those of the cells above" in page
    assert "<iframe" not in ran.page("01_other")
    home = (tmp_path / "out" / "index.html").read_text()
    assert '<a href="player.html">The player</a>' in home and home.count('alt="still"') == 1
    (tmp_path / "out" / "player.html").unlink()
    monkeypatch.setattr(making, "make", lambda path, profile, stop: "")
    again = Ran(tmp_path / "nb", tmp_path / "out")
    assert again.status() == {SHOWN_IN: "cached", "01_other": "cached"}, (
        "a page is the same with the player and without"
    )
    assert "<iframe" not in again.page(SHOWN_IN) and "player.html" not in (tmp_path / "out" / "index.html").read_text()


def test_a_player_that_cannot_be_made_fails_the_run_aloud(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "make", lambda path, profile, stop: "no luck today")
    write_notebook(tmp_path / "nb", SHOWN_IN, RECORD)
    ran = Ran(tmp_path / "nb", tmp_path / "out")
    assert ran.code == 1 and ran.report["status"] == "failed" and ran.status() == {SHOWN_IN: "passed"}
    assert "error: player.html could not be made: no luck today" in ran.text
    monkeypatch.setattr(making, "make", lambda path, profile, stop: "")
    assert Ran(tmp_path / "nb", tmp_path / "out").code == 0  # control


def test_a_course_without_its_notebooks_has_no_player(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "make", lambda *_: pytest.fail("nobody shows it"))
    write_notebook(tmp_path / "nb", "01_other", RECORD)
    write_notebook(tmp_path / "nb", SHOWN_IN, "1 / 0")
    assert Ran(tmp_path / "nb", tmp_path / "out").code == 1


def test_it_is_made_once_and_again_when_something_changed(tmp_path, monkeypatch):
    path = tmp_path / "player.html"
    started = []

    class Process:
        pid, returncode, kill = 0, None, staticmethod(lambda: None)

        def __init__(self, command, **_):
            started.append(command)
            path.write_text(page_of_player(command[command.index("--made") + 1]))

        def communicate(self, timeout=None):
            self.returncode = 0
            return "", ""

    monkeypatch.setattr(making.subprocess, "Popen", Process)
    monkeypatch.setattr(making, "guard", lambda pid: None)
    assert making.make(path, "laptop", lambda: False) == making.make(path, "laptop", lambda: False) == ""
    assert len(started) == 1 and "--small" not in started[0]
    assert making.make(path, "smoke", lambda: False) == "" and len(started) == 2 and "--small" in started[1]
    path.write_text(path.read_text()[:-9])  # cut short
    assert making.make(path, "smoke", lambda: False) == "" and len(started) == 3
    monkeypatch.setattr(making, "code_digest", lambda: "of other code")
    assert making.make(path, "smoke", lambda: False) == "" and len(started) == 4


def test_its_process_is_stopped_and_its_errors_are_told(tmp_path):
    assert making.make(tmp_path / "player.html", "smoke", lambda: True) == "interrupted"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "player.html").mkdir()
    told = making.make(tmp_path / "player.html", "smoke", lambda: False)
    assert told.startswith("error: cannot write") and "\n" not in told


def test_the_command_makes_it_anywhere(tmp_path):
    words = [sys.executable, "-m", "dwflow_lite", "player", str(tmp_path / "a.html"), "--small"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "a.html").read_text()
    assert page.endswith("</html>\n") and io.StringIO(page).readline() == "<!DOCTYPE html>\n"
    assert "href=" not in page, "alone it leads nowhere"


def test_its_notebooks_are_there_and_have_a_slider():
    sliders = {path.stem for path in FILES if any("widgets.explore(" in cell.source for cell in cells(path, "code"))}
    assert set(embed.PLACES) <= sliders
    widget = "<p class='widget'>Live</p>"
    assert all(embed.marked(widget, stem) != widget for stem in embed.PLACES)
    assert embed.marked(widget, "12_scoreboard") == widget  # control
