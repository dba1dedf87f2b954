"""Every row of the benchmarks at toy size: it runs, says what it must, and is right; and what a wrong row does."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch

from benchmarks import (
    basins,
    bench,
    claims,
    conditional,
    deep_networks,
    ensembles,
    ensembles_page,
    kept,
    new_and_accurate,
    precision,
    recipes,
    two_modes,
    why_width,
)
from benchmarks.measure import Measured, side_by_side, timed
from dwflow_lite import MLP, PermutationSpec, Recipe, Zoo, load_task
from dwflow_lite.auditing import rematched_distance
from dwflow_lite.flow import FlowSettings
from dwflow_lite.generate import MemberNoise
from dwflow_lite.networks import ResNet
from dwflow_lite.zoo import Layout, write_zoo

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Toy rows leave no garbage that another would be charged for; collecting it takes longer than they do."""
    monkeypatch.setattr(bench, "gc", types.SimpleNamespace(collect=lambda: None))


EVERY_ROW = [(stage, row) for stage in bench.all_stages() for row in bench.rows_of(stage)]


def check_shape(measured):
    assert isinstance(measured, Measured)
    assert measured.seconds > 0 and math.isfinite(measured.seconds) and measured.spread >= 1
    for name, seconds in measured.beside.items():
        assert isinstance(name, str) and isinstance(seconds, float) and seconds > 0, name
    for name, value in measured.checks.items():
        assert isinstance(name, str) and isinstance(value, int | float) and math.isfinite(value), name
    assert measured.beside and measured.holds  # something stands beside it, and something was checked
    assert all(isinstance(holds, bool) for holds in measured.holds.values())


@pytest.mark.parametrize(("stage", "row"), EVERY_ROW)
def test_every_row_runs_at_toy_size_and_is_right(stage, row):
    measured = bench.rows_of(stage)[row](True)
    check_shape(measured)
    assert all(measured.holds.values()), measured
    assert bench.is_good(bench.measure_row(lambda toy: measured, True))
    nowhere = replace(measured, checks={"error": math.nan})  # control: what JSON does not know
    assert "Out of range float" in bench.measure_row(lambda toy: nowhere, True)["error"]


GOOD = Measured(2.0, 1.1, {"floor": 1.0, "loop": 20.0}, {"error": 1e-7}, {"is right": True})
WRONG = Measured(2.0, 1.1, {"floor": 1.0}, {"error": 1.0}, {"is right": False, "is fast": True})


def a_stage(monkeypatch, rows):
    """Make ``rows`` the one stage there is; what was called is in the list that is returned."""
    called = []

    def function(name, given):
        def measure(toy):
            called.append(name)
            if isinstance(given, Exception):
                raise given
            return given

        return measure

    module = types.ModuleType("benchmarks.stages.made_up")
    module.ROWS = {name: function(name, given) for name, given in rows.items()}
    monkeypatch.setitem(sys.modules, "benchmarks.stages.made_up", module)
    monkeypatch.setattr(bench, "all_stages", lambda: ["made_up"])
    monkeypatch.setattr(bench, "code_digest", lambda stage: "0")
    return called


def test_a_wrong_row_and_one_that_raises_are_named_and_the_others_run(monkeypatch, tmp_path, capsys):
    out = tmp_path / "bench.json"
    a_stage(monkeypatch, {"first": GOOD})
    assert bench.main(["--out", str(out)]) == 0  # control
    assert "1 of 1 rows hold\n" in capsys.readouterr().out
    a_stage(monkeypatch, {"breaks": RuntimeError("no memory"), "wrong": WRONG, "good": GOOD})
    assert bench.main(["--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "made_up: breaks: FAILED, RuntimeError: no memory" in said and "DOES NOT HOLD: is right\n" in said
    assert "1 of 3 rows hold; not: made_up: breaks; made_up: wrong\n" in said
    rows = json.loads(out.read_text())["rows"]
    assert set(rows) == {"made_up: first", "made_up: wrong", "made_up: good"}
    page = out.with_suffix(".md").read_text()
    assert "**no**: is right<br>yes: is fast" in page
    assert "| good | 2 | 1.1 | 2 × floor (1 s)<br>loop: 10 × as long (20 s) | error 1e-07 | yes: is right |" in page


def test_a_run_goes_on_where_it_was(monkeypatch, tmp_path):
    out = tmp_path / "bench.json"
    called = a_stage(monkeypatch, {"breaks": RuntimeError("interrupted"), "good": GOOD})
    run = ["--out", str(out)]
    assert bench.main(run) == 1 and called == ["breaks", "good"]
    assert bench.main(run) == 1 and called == ["breaks", "good", "breaks"]  # what failed is tried again
    called = a_stage(monkeypatch, {"breaks": GOOD, "good": GOOD})
    assert bench.main(run) == 0 and called == ["breaks"]
    assert bench.main([*run, "--again"]) == 0 and called == ["breaks", "breaks", "good"]
    monkeypatch.setattr(bench, "code_digest", lambda stage: "1")  # control: other code
    assert bench.main(run) == 0 and called[3:] == ["breaks", "good"]
    plain = bench.surroundings()
    monkeypatch.setattr(bench, "surroundings", lambda: plain | {"threads": 99})  # and another machine
    assert bench.main(run) == 0 and called[5:] == ["breaks", "good"]


def test_a_stage_that_cannot_be_read_is_named(monkeypatch, tmp_path, capsys):
    a_stage(monkeypatch, {"good": GOOD})
    monkeypatch.setattr(bench, "all_stages", lambda: ["gone", "made_up"])
    assert bench.main(["--out", str(tmp_path / "bench.json")]) == 1
    assert "1 of 2 rows hold; not: gone: (all)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--stages", "nowhere"])
    assert "no stage nowhere: choose from gone, made_up" in capsys.readouterr().err


def test_the_card_is_measured_where_there_is_one(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert ("card" in bench.default_stages()) is there
    assert set(bench.all_stages()) - set(bench.default_stages()) == {"card"}


def test_what_a_result_depends_on_names_code_and_machine_but_no_host(monkeypatch):
    digests = [bench.code_digest(stage) for stage in bench.all_stages()]
    assert len(set(digests)) == len(digests) and digests[0] == bench.code_digest(bench.all_stages()[0])
    monkeypatch.setattr(platform, "node", lambda: "host")
    assert set(bench.surroundings()) - {"card"} == {"processor", "system", "cores", "threads", "versions"}
    assert "host" not in json.dumps(bench.surroundings())


def test_the_clock():
    calls = []
    seconds, spread, result = timed(lambda: calls.append(0) or len(calls), repeats=4, warm=2)
    assert result == 6 and seconds > 0 and spread >= 1
    order = []
    found = side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warm=1)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"} and all(spread >= 1 for _, spread in found.values())


# -- questions ---------------------------------------------------------------------------------------------------------


def test_the_peak_of_a_pca_is_that_of_its_process(tmp_path):
    network = torch.nn.Linear(39_999, 1)
    parts = (torch.randn(1, 40_000) for _ in range(20))  # 3 MB
    write_zoo(tmp_path / "zoo", parts, Layout.of(network), network, {}, (False,) * 20, "float32")
    script = [sys.executable, str(ROOT / "benchmarks" / "peak_of_pca.py")]
    found = {}
    for bound in ("1", "0"):
        done = subprocess.run([*script, str(tmp_path / "zoo"), bound], capture_output=True, text=True, check=True)
        seconds, found[bound] = json.loads(done.stdout)
        assert seconds > 0 <= found[bound]
    assert found["0"] > found["1"]  # in memory it takes more
    lost = subprocess.run([*script, str(tmp_path / "none"), "1"], capture_output=True, text=True)
    assert lost.returncode and not lost.stdout  # control


def test_the_question_why_width_helps_is_asked_as_it_says():
    generator = torch.Generator().manual_seed(0)
    c = why_width.points_of_sphere(50, 30, "signs", generator)
    torch.testing.assert_close(c.norm(dim=1), torch.ones(50))
    for overlap in (-1.0, 0.0, 0.5, 1.0):
        other = why_width.at_overlap(c, overlap, generator)
        torch.testing.assert_close(other.norm(dim=1), torch.ones(50))
        torch.testing.assert_close((other * c).sum(1), torch.full((50,), overlap), atol=1e-5, rtol=0)
    assert (why_width.points_of_sphere(50, 30, "signs", generator) * c).sum(
        1
    ).abs().max() > 0.1  # control: not by itself
    run = why_width.one_run("digits", "8x8", 0, toy=True)
    by_itself = {"each unit by itself", "each weight by itself"}
    for basis in ("aligned", "not aligned"):
        assert set(run[basis]) >= {"mean", "overlap -1", "overlap 1", "linearised", *by_itself}
        assert all(0 <= share <= 1 for share in run[basis].values())
    zoo = Zoo(torch.randn(30, 7, generator=generator), Layout.of(MLP([2, 1, 2])), MLP([2, 1, 2]))
    whole = why_width.mixed_by_layer(zoo, 1.0, 4, seed=0).weights  # one c for all layers: a combination of members
    about = zoo.weights - zoo.weights.mean(0)
    shares = why_width.points_of_sphere(4, 30, "signs", torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole, zoo.weights.mean(0) + shares @ about, atol=1e-4, rtol=1e-4)
    apart = why_width.mixed_by_layer(zoo, 0.0, 4, seed=0).weights
    assert (apart - whole).abs().max() > 0.1  # control


def test_results_of_a_card_do_not_go_into_those_of_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.result_here().name == "bench-cpu.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, file in (("NVIDIA H200", "bench-h200.json"), ("NVIDIA A100-SXM4-40GB", "bench-a100-sxm4-40gb.json")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert bench.result_here().name == file


def test_two_modes_at_toy_size():
    task = load_task("digits", seed=0)
    moved = two_modes.moved_on(task)
    assert ((moved.test.y - task.test.y) % 10 == 1).all() and moved.test.x is task.test.x
    found = two_modes.one_seed(0, toy=True)
    rows = [row for name, row in found.items() if name not in ("bars", "zoo")]
    assert len(rows) == 10
    for row in rows:
        assert 0 <= row["accurate and new"] <= row["accurate"] <= 1
    assert found["flow, default"]["distance"] < found["Gaussian on codes"]["distance"]
    lines = two_modes.page({"seed 0": found, "seed 1": found}).splitlines()
    assert len(lines) == 4 + 10 and all(line.count("|") == 6 and line.count(", ") >= 1 for line in lines[4:])


def test_the_rival_of_a_flow_has_leading_codes_of_members_and_others_of_its_own():
    zoo = Zoo.from_modules([MLP([3, 4, 2]) for _ in range(8)])
    model = two_modes.LeadingRetrieval(2, neighbours=4).fit(zoo)
    codes = model.pca_.transform(model.sample(6, seed=0).weights)
    of_members = torch.cat([model.leading_, model.rest_], 1)
    assert float(torch.cdist(codes[:, :2], of_members[:, :2]).amin(1).max()) < 1e-3
    assert float(torch.cdist(codes, of_members).amin(1).min()) > 0.1  # control: no copies


@pytest.mark.parametrize("case", conditional.CASES)
def test_conditional_at_toy_size(case, monkeypatch):
    monkeypatch.setattr(conditional, "DEFAULT", FlowSettings(hidden=16, steps=10))
    monkeypatch.setattr(conditional, "SPREAD_OUT", FlowSettings(hidden=16, steps=10, keep="best"))
    run = conditional.timed_case(case, 8, 0, toy=True)
    assert {"flow", "flow, guidance 0", "flow, conditions shuffled", "retrieval of the nearest"} <= set(run)
    assert run["retrieval of the nearest"]["distance"] < 1e-5
    text = conditional.page({f"{case}, width 8, seed {seed}": run for seed in (0, 1)})
    assert f"## {case}, width 8" in text and "2 seeds" in text
    zoos = {"a": conditional.trained(load_task("digits"), 4, 3, 1, 0, 1), "b": None}
    zoos["b"] = replace(zoos["a"], weights=zoos["a"].weights + 1)
    members = torch.cat([zoo.weights for zoo in zoos.values()])
    dealt = torch.cat([zoo.weights for zoo in conditional.dealt(zoos, 0).values()])
    assert torch.equal(dealt.sum(1).sort().values, members.sum(1).sort().values)  # the same members
    assert not torch.equal(dealt, members)


def test_the_width_of_a_generator_is_set_by_distance_alone():
    zoo = Zoo(
        torch.randn(20, 27, generator=torch.Generator().manual_seed(0)), Layout.of(MLP([4, 3, 3])), MLP([4, 3, 3])
    )
    factor = new_and_accurate.as_new(MemberNoise, zoo, new_and_accurate.reading_of(zoo), 0.0, 4.0, steps=6)
    spec = PermutationSpec.of(zoo.network)
    bar = rematched_distance(zoo.weights, zoo.weights, spec, skip_self=True).quantile(0.05)
    far, near = (MemberNoise(f).fit(zoo).sample(40, seed=0).weights for f in (factor, 0.7 * factor))
    assert rematched_distance(far, zoo.weights, spec).quantile(0.05) >= bar
    assert rematched_distance(near, zoo.weights, spec).quantile(0.05) < bar  # control: no wider than need be


def test_ensembles_at_toy_size():
    """Whether it runs; and that the page compares with trained networks that cost no more."""
    name = "1000 images, seed 0"
    runs = {f"{name}, trained": ensembles.all_trained(1000, 0, toy=True)}
    runs[f"{name}, 3 members"] = ensembles.one_zoo(1000, 0, 3, toy=True)
    ways, trained = runs[f"{name}, 3 members"]["ways"], runs[f"{name}, trained"]["trained"]
    for name in ("accuracy", "nll", "ece", "disagreement"):  # the members are the first of the trained networks
        assert ways["members"][name][-1] == trained["3"][name][-1]
    for way in ways.values():
        assert 0 <= way["accuracy"][-1] <= 1 and all(seconds >= 0 for seconds in way["seconds"].values())
        assert 0 <= way["detected"]["letters"]["entropy"] <= 1
    assert ways["soup of all"]["counts"] == [1] and ways["one wide network"]["counts"] == [1]
    assert ways["members, and zoo + noise"]["counts"][0] == 3  # those that are there anyway
    page = ensembles_page.page(runs)
    assert "## From 3 members" in page and "Of the generated, validation chooses: " in page
    assert all(f"| {name} |" in page for name in ways)
    run = {"seconds of one network": 2.0}
    cost, other = ensembles_page.at_equal_cost({"seconds": {"train": 7.0, "fit": 1.5}}, run, trained)
    assert cost == 4.25 and other is trained["4"]
    cost, other = ensembles_page.at_equal_cost({"seconds": {"train": 7.0, "fit": 3.5}}, run, trained)  # control
    assert cost == 5.25 and other is trained["5"]


def test_what_is_kept_is_not_run_again_and_processes_may_share_a_file(tmp_path):
    out, ran = tmp_path / "runs.json", []

    def job(name: str, *meanwhile: str) -> dict:
        ran.append(name)
        for other in meanwhile:  # as another process would, while this one works
            kept.run_missing(out, "python", {other: partial(job, other)})
        return {"value": name}

    jobs = {"first": partial(job, "first", "other"), "second": partial(job, "second"), "other": partial(job, "other")}
    kept.run_missing(out, "python", jobs, page=lambda runs: ", ".join(sorted(runs)))
    assert json.loads(out.read_text())["runs"] == {name: {"value": name} for name in jobs}  # none is lost
    assert ran == ["first", "other", "second"]  # each once
    assert out.with_suffix(".md").read_text() == "first, other, second"
    kept.run_missing(out, "python", {"third": partial(job, "third")})  # control: what is missing is run
    assert ran[-1] == "third"


TINY = new_and_accurate.Regime("digits", (8,), "fast1", epochs=2, members=6, held_out=3)


def test_regimes_are_compared_on_validation_and_reported_on_test(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where zoos are kept
    bisect = new_and_accurate.least_width
    monkeypatch.setattr(new_and_accurate, "least_width", lambda *given: bisect(*given[:-1], 1))  # one turn is enough
    task = load_task("digits", seed=0)
    runs = {}
    all_bases = ("universe", "reference", "universe, scales fixed", "not aligned")
    for split, bases in (("validation", all_bases), ("test", ("universe", "not aligned"))):
        run = new_and_accurate.one_seed(TINY, task, 0, 4, False, bases, few=True, split=split)
        assert set(bases) == set(run) & set(new_and_accurate.BASES)
        assert [row["name"] for row in run["universe"]][2:] == list(new_and_accurate.FEW)
        assert set(run["widths, universe"]["mixture of all"]) == {"factor"}
        runs[f"{TINY.name}, seed 0, {split}"] = run
    first, second = (run["universe"][0]["score"] for run in runs.values())
    assert first != second  # control: another split
    zoo = new_and_accurate.BASES["universe"](TINY.zoo(task, 0), 0)
    assert first == pytest.approx(float(zoo.fitted.scores("validation").mean()), abs=1e-4)
    for key, head in zip(runs, ("Validation split", "Test split"), strict=True):
        page = new_and_accurate.page({key: runs[key]})
        assert head in page and page.count(f"| {TINY.name} |") == 1 and "| **not aligned** |" in page
    del run["universe"]
    assert f"| {TINY.name} |" not in new_and_accurate.page({key: run})  # no line for what was not measured


def test_recipes_come_in_the_order_of_their_accuracy():
    run = recipes.one_recipe("digits", "adam 0.001, 60 epochs", 8, 0, 3, toy=True)
    assert len(run["accuracy"]) == 3 and all(0 <= value <= 1 for value in run["accuracy"])
    runs = {
        f"width 8; {name}; seed {seed}": {"accuracy": [mean + 0.001 * seed] * 2, "nll": 0.1}
        for name, mean in (("worse", 0.90), ("better", 0.95))
        for seed in (0, 2)
    }
    lines = recipes.page(runs).splitlines()
    assert lines[-2].startswith("| better | 95.10 % | 0.00 | 95.0, 95.2 |")
    assert lines[-1].startswith("| worse | 90.10 % | 5.00 |")


def test_basins_are_told_by_lines_that_see_through_the_order_of_units(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = basins.one_seed(0, toy=True)
    assert "| held-out networks, not aligned |" in basins.page({"seed 0": run})
    as_made, shuffled = (run[f"mixture of all{name}"] for name in ("", ", units shuffled"))
    assert shuffled["as they stand"]["distance"] > as_made["as they stand"]["distance"]  # control
    for way in ("as they stand", "matched", "to the mean"):
        assert run["held-out networks"][way]["lowest score"] <= 1
        assert run["held-out networks"][way]["fall"] >= 0
    task = load_task("digits", seed=0)
    zoo = TINY.zoo(task, 0)
    spec = PermutationSpec.of(zoo.network)
    moved = torch.stack([spec.apply(spec.random(torch.Generator().manual_seed(1)), row) for row in zoo.weights])
    torch.testing.assert_close(basins.matched_each(zoo.weights, moved, spec), zoo.weights)
    assert (moved - zoo.weights).abs().max() > 0.1  # control
    torch.testing.assert_close(basins.nearest_member(zoo.weights[[2]] + 1e-3, zoo.weights), zoo.weights[[2]])


def test_the_law_with_width_is_read_off_the_runs():
    def run(lost):
        return {"zoo": 0.9, **{basis: {"overlap 1": 0.9 - lost, "mean": 0.5} for basis in ("aligned", "not aligned")}}

    runs = {f"{w}x{w}, seed {seed}": run(0.4 * (8 / w) * (1 + 0.1 * seed)) for w in (8, 32, 16) for seed in (0, 1)}
    runs["8, seed 0"] = run(0.0)
    curves = {(c["networks"], c["basis"], c["hidden layers"]): c for c in why_width.law(runs)}
    assert len(curves) == 12
    two = curves["mixture of all", "aligned", 2]
    assert two["width"] == [8, 16, 32] and two["slope"] == pytest.approx(-1)
    assert two["points lost"] == pytest.approx([42, 21, 10.5]) and two["each seed"][0] == pytest.approx([40, 44])
    assert curves["mean", "aligned", 2]["slope"] == pytest.approx(0)  # control: no law
    assert curves["mixture of all", "aligned", 1]["slope"] is None  # one width, nothing lost
    assert curves["mixture of all", "aligned", 3]["width"] == []


def test_deep_networks_at_toy_size(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    bisect = deep_networks.least_width
    monkeypatch.setattr(deep_networks, "least_width", lambda *given: bisect(*given[:-1], 1))  # one turn is enough
    monkeypatch.setattr(deep_networks, "SAMPLES", 4)
    small = ResNet((4, 8), 1, channels=1, norm="batch")
    setup = deep_networks.Setup(small, Recipe(1))
    monkeypatch.setitem(deep_networks.SETUPS, "small", setup)
    run = deep_networks.one_run("small", 0, "validation", True, toy=True)
    assert set(run["points lost"]) == {"weights", "activations", "activations, then weights", "not aligned"}
    assert run["basis"] in run["points lost"]
    assert {"held-out networks", "mixture of all", "zoo + noise"} <= set(run["shares"])
    assert "| small | " in deep_networks.page({"small": run})
    task = load_task("digits", seed=0)
    zoo = replace(setup, shared=("stem", "stages.0")).zoo(task, 3, 0, 0)
    for name, tensor in zoo.layout.unflatten(zoo.weights).items():
        if zoo.layout[name].role != "parameter":
            continue
        is_shared = bool((tensor == tensor[0]).all())
        assert is_shared == name.startswith(("stem", "stages.0")), name  # the control is in it: others differ


def test_each_precision_and_layout_at_toy_size(monkeypatch, tmp_path):
    ways = {(case.network, case.precision, case.channels_last, case.members > 0): case for case in precision.CASES}
    monkeypatch.setattr(precision, "CASES", [replace(case, batch=2) for case in ways.values()])
    monkeypatch.setattr(precision, "STEPS", 1)
    precision.main(["--toy", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["cases"]) == len(ways) and all(case["images a second"] > 0 for case in found["cases"])
    committed = json.loads(precision.OUT.read_text())
    assert set(committed["cases"][0]) == set(found["cases"][0]) and "H200" in committed["machine"]["card"]
    monkeypatch.setattr(precision, "step_of", lambda *given: lambda: torch.tensor(math.nan))
    with pytest.raises(ValueError, match="the loss is nan"):  # control
        precision.images_a_second(precision.CASES[0], torch.device("cpu"), toy=True)


def test_runs_of_claims_carry_over_an_edit_that_changes_no_claim(monkeypatch):
    def run_of(margin, source="old"):
        claims = {"a": True, "b": True}
        margins = {"a": [{"margin": margin}]}
        return {
            "status": "passed",
            "claims": claims,
            "margins": margins,
            "metrics": {},
            "minutes": 1.0,
            "source": source,
        }

    stem = claims.stems(["00"])[0]
    digest = claims.source_digest("smoke", stem)
    for margin, carried in ((0.500001, True), (0.6, False)):  # as before; and an edit that changed something (control)
        runs = {f"smoke {stem} seed={seed} threads=1 native": run_of(0.5 + seed) for seed in range(3)}
        monkeypatch.setattr(claims, "run", lambda *asked, margin=margin: run_of(margin))
        claims.carry(runs, ["00"])
        assert all((entry["source"] == digest) is carried for entry in runs.values())
    # A notebook that was cut in two: each part takes the claims that it makes.
    first, second = claims.stems(["03"])[0], claims.stems(["03b"])[0]
    runs = {f"smoke {first} seed=0 threads=1 native": run_of(0.5)}
    made = {first: ({"a": True}, {"a": [{"margin": 0.5}]}), second: ({"b": True}, {})}
    monkeypatch.setattr(
        claims, "run", lambda _, stem, *asked: run_of(0.5) | {"claims": made[stem][0], "margins": made[stem][1]}
    )
    claims.carry(runs, [])
    assert {key.split()[1]: entry["claims"] for key, entry in runs.items()} == {first: {"a": True}, second: {"b": True}}
    assert not claims.measures_the_same(run_of(0.5), run_of(0.5) | {"claims": {"a": True, "b": False}})
    assert not claims.measures_the_same(run_of(0.5), run_of(0.5) | {"margins": {}})


def test_layout_is_not_code(monkeypatch, tmp_path):
    def digest_of(*cells, profiles="smoke: {n: {steps: 3}}"):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(nb, tmp_path / "n.ipynb")
        (tmp_path / "profiles.yaml").write_text(profiles)
        return claims.source_digest.__wrapped__("smoke", "n")  # not out of its memory

    monkeypatch.setattr(claims, "notebooks_folder", lambda: tmp_path)
    before = digest_of('note(f"{a} of " "b")\nprint(1)')
    assert digest_of('note(\n    f"{a} "\n    "of b"  # as it was\n)', "", "print(1)") == before
    changed = ['note(f"{a} of " "c")\nprint(1)', 'note(f"{b} of " "b")\nprint(1)', 'note(f"{a} of " "b")\nprint(1.0)']
    assert all(digest_of(cell) != before for cell in changed)
    assert digest_of('note(f"{a} of " "b")\nprint(1)', profiles="smoke: {n: {steps: 4}}") != before


def test_runs_with_one_thread_count_for_two_where_threads_change_no_digit():
    def run_of(margin):
        return {"status": "passed", "claims": {"a": True}, "margins": {} if margin is None else {"a": [margin]}}

    for margin, other, counted in ((0.5, 0.5, True), (0.5, 0.5 + 1e-15, False), (None, None, False)):  # two controls
        runs = {f"smoke 00 seed={seed} threads=1 native": run_of(margin) for seed in range(3)}
        runs["smoke 00 seed=0 threads=2 native"] = run_of(other)
        claims.count_for_other_threads(runs)
        assert ("smoke 00 seed=2 threads=2 native" in runs) is counted
        claims.count_for_other_threads(runs)  # what was counted is no evidence
        assert sum("alike" in entry for entry in runs.values()) == 2 * counted
    # Runs of two processors say nothing about threads, equal or not.
    for margin in (0.5, 0.7):
        runs = {f"smoke 00 seed={seed} threads=1 native": run_of(0.5) | {"processor": "one"} for seed in range(3)}
        runs["smoke 00 seed=0 threads=2 native"] = run_of(margin) | {"processor": "another"}
        claims.count_for_other_threads(runs)
        assert "smoke 00 seed=2 threads=2 native" not in runs
        runs["smoke 00 seed=1 threads=2 native"] = run_of(0.5) | {"processor": "one"}
        claims.count_for_other_threads(runs)
        assert "smoke 00 seed=2 threads=2 native" in runs
    failed = run_of(0.5) | {"status": "failed"}
    runs = {"smoke 00 seed=0 threads=1 native": run_of(0.5), "smoke 00 seed=0 threads=2 native": run_of(0.5)}
    claims.count_for_other_threads(runs | {"smoke 00 seed=1 threads=1 native": failed})
    assert len(runs) == 2


def test_what_failed_is_run_again_and_what_counts_is_not(monkeypatch, tmp_path):
    stem, made = claims.stems(["00"])[0], []
    of_today = {
        "source": claims.source_digest("smoke", stem),
        "minutes": 1.0,
        "processor": "p",
        "error": "",
        "metrics": {},
    }
    good = of_today | {"status": "passed", "claims": {"a": True}, "margins": {}}
    runs = {str(claims.Run("smoke", stem, seed, 1, "native")): good for seed in (0, 1)}
    failed, counted = claims.Run("smoke", stem, 2, 1, "native"), claims.Run("smoke", stem, 3, 1, "native")
    runs |= {str(failed): good | {"status": "failed"}, str(counted): good | {"alike": "threads=1"}}
    (tmp_path / "claims.json").write_text(json.dumps(runs))
    monkeypatch.setattr(claims, "run", lambda *job: made.append(job) or good)
    asked = ["claims", "--seeds", "0-4", "--notebooks", "00", "--results", str(tmp_path / "claims.json")]
    for more, wanted in ([[], [4]], [["--retry"], [2]], [["--retry"], []]):
        monkeypatch.setattr(sys, "argv", asked + more)
        assert claims.main() == 0
        assert [seed for _, _, seed, _, _ in made] == wanted
        made.clear()
