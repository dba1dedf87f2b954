"""What an audit measures beside distance: calibration, mistakes beyond chance, Z_U, directions; curves and flags."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import cohen_kappa_score

from dwflow_lite import MLP, Zoo, audit, canonicalise, load_task, train_zoo
from dwflow_lite.auditing import Audit, Row, copying_statistic, effective_rank, error_consistency
from dwflow_lite.auditing.drawing import LINE, frontier_of
from dwflow_lite.course.markup import external_resources
from dwflow_lite.generate import MemberNoise, RandomWeights, Retrieval, Soup
from dwflow_lite.tasks import Task
from dwflow_lite.tasks.measures import calibration_error
from dwflow_lite.training import Recipe
from dwflow_lite.zoo import evaluate, forward, predict

MEMBERS, HELD = 16, 5


def line_task():
    """A regression."""
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(0))
    return Task.from_arrays(x, x.sum(1, keepdim=True), kind="regression")


@pytest.fixture(scope="module")
def task():
    return load_task("iris")


@pytest.fixture(scope="module")
def zoo(task):
    trained = train_zoo(task, MLP([4, 16, 3]), members=MEMBERS, held_out=HELD, recipe=Recipe(epochs=30, lr=0.02))
    return canonicalise(trained)


@pytest.fixture(scope="module")
def found(zoo, task):
    """An audit of what the flags are about."""
    made = {
        "mine": MemberNoise(0.4).fit(zoo).sample(20, seed=1),
        "mean network": Soup(MEMBERS).fit(zoo).sample(20, seed=0),
    }
    return audit(made, zoo, task)


# -- calibration ---------------------------------------------------------------------------------------------------


def plain_calibration_error(outputs, y, bins=15):
    """Guo et al. 2017, eq. 3, example by example."""
    content = [[] for _ in range(bins)]
    for logits, label in zip(outputs.double().softmax(-1), y, strict=True):
        confidence, named = logits.max(0)
        b = next(b for b in range(bins) if float(confidence) <= (b + 1) / bins + 1e-12)
        content[b].append((float(confidence), float(named == label)))
    gaps = [abs(np.mean([c for c, _ in one]) - np.mean([r for _, r in one])) * len(one) for one in content if one]
    return sum(gaps) / len(y)


@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0, 200.0])
def test_calibration_error_is_that_of_a_plain_loop(scale):
    generator = torch.Generator().manual_seed(0)
    outputs = scale * torch.randn(3, 70, 4, generator=generator)
    y = torch.randint(4, (70,), generator=generator)
    expected = [plain_calibration_error(one, y) for one in outputs]
    assert calibration_error(outputs, y).tolist() == pytest.approx(expected, abs=1e-5)
    assert calibration_error(outputs[0], y).shape == ()


def test_calibrated_outputs_have_none_and_boasting_ones_have_much():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20_000, 3, generator=generator)
    y = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)  # as often right as they say
    assert float(calibration_error(logits, y)) < 0.02
    assert float(calibration_error(5 * logits, y)) > 0.15  # control
    assert float(calibration_error(torch.eye(3) * 1e4, torch.arange(3))) == 0  # sure, and right
    assert float(calibration_error(torch.eye(3) * 1e4, (torch.arange(3) + 1) % 3)) == 1  # sure, and wrong


def test_evaluations_measure_a_few_members_at_a_time(zoo, task, monkeypatch):
    held, of_all = [], evaluate(zoo, task)
    assert torch.allclose(of_all.ece, calibration_error(predict(zoo, task.validation.x), task.validation.y), atol=1e-6)

    def watched(outputs, y):
        held.append(len(outputs))
        return calibration_error(outputs, y)

    monkeypatch.setattr(forward, "calibration_error", watched)
    for at_once in (1, 4, MEMBERS + HELD):
        held.clear()
        few = evaluate(zoo, task, members_at_once=at_once)
        assert max(held) == at_once and sum(held) == MEMBERS + HELD  # never the outputs of more
        for name in ("loss", "score", "ece"):
            torch.testing.assert_close(getattr(few, name), getattr(of_all, name), rtol=1e-5, atol=1e-6)
        assert torch.equal(few.wrong, of_all.wrong)
    other = evaluate(Zoo.from_modules([MLP([3, 4, 1])]), line_task())
    assert other.ece is None and other.wrong is None  # control


# -- mistakes beyond chance ----------------------------------------------------------------------------------------


def test_error_consistency_is_cohens_kappa_with_the_most_similar_member():
    generator = torch.Generator().manual_seed(0)
    wrong, members = (torch.rand(n, 60, generator=generator) < 0.3 for n in (4, 3))
    every = [[cohen_kappa_score(a, b) for b in members] for a in wrong]
    assert error_consistency(wrong, members).tolist() == pytest.approx([max(row) for row in every], abs=1e-5)
    itself = [[cohen_kappa_score(a, b) for j, b in enumerate(wrong) if j != i] for i, a in enumerate(wrong)]
    found = error_consistency(wrong, wrong, skip_self=True).tolist()
    assert found == pytest.approx([max(row) for row in itself], abs=1e-5)
    assert error_consistency(wrong, wrong).tolist() == pytest.approx([1.0] * 4)  # control: with itself
    right = torch.zeros(2, 60, dtype=torch.bool)
    assert error_consistency(right, right[:1]).tolist() == [1.0, 1.0]  # no mistakes at all: one behaviour
    assert error_consistency(right, ~right[:1]).tolist() == [0.0, 0.0]


def test_independent_mistakes_agree_often_and_have_no_kappa():
    """Two networks that err seldom are both right nearly always; kappa is not taken in."""
    generator = torch.Generator().manual_seed(1)
    wrong, member = (torch.rand(200, 5000, generator=generator) < 0.03).split([199, 1])
    agreement = (wrong == member).float().mean()
    assert float(agreement) > 0.9 and abs(float(error_consistency(wrong, member).mean())) < 0.02
    same = member ^ (torch.rand(1, 5000, generator=generator) < 0.005)
    assert float(error_consistency(same, member)) > 0.7  # control


# -- distances beside held-out ones --------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_the_copying_statistic_is_that_of_mann_and_whitney(ties):
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.7, -2.0):
        ours, theirs = rng.normal(shift, 1, 30), rng.normal(0, 1, 12)
        if ties:
            ours, theirs = ours.round(), theirs.round()
        n, m = len(ours), len(theirs)
        u = mannwhitneyu(ours, theirs, method="asymptotic").statistic
        expected = (u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12)
        assert copying_statistic(ours.tolist(), theirs.tolist()) == pytest.approx(expected)
        assert copying_statistic(theirs, ours) == pytest.approx(-expected)  # antisymmetric
    assert abs(expected) > 1  # control: it saw the shift


def test_z_u_is_far_below_for_copies_and_needs_held_out_networks(found, zoo, task):
    assert found["retrieval"].z_u < -3 and found["closed-form flow"].z_u < -3
    assert found["held-out networks"].z_u == 0 and abs(found["zoo"].z_u) < 3
    assert found["random weights"].z_u > 3
    alone = audit(zoo.unseen, zoo.fitted, task, controls={}, rematch=False)
    assert all(row.z_u is None for row in alone.rows)  # control


# -- directions ----------------------------------------------------------------------------------------------------


def test_effective_rank_counts_directions():
    generator = torch.Generator().manual_seed(0)
    points = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64)).Q
    points = points - points.mean(0)
    for k in (1, 3, 12):
        left, _, right = torch.linalg.svd(points, full_matrices=False)
        alike = left[:, :k] @ right[:k]  # k equal singular values
        assert effective_rank(alike @ alike.T) == pytest.approx(k)
        moved = alike + torch.randn(40, generator=generator, dtype=torch.float64)  # the origin does not matter
        assert effective_rank(moved @ moved.T) == pytest.approx(k, rel=1e-6)
    variances = torch.linalg.eigvalsh(torch.cov(torch.randn(9, 30, generator=generator).double(), correction=0))
    uneven = points[:, :9] * torch.arange(1, 10)
    shares = torch.linalg.svdvals(uneven - uneven.mean(0)).square()
    shares = shares / shares.sum()
    assert effective_rank(uneven @ uneven.T) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))
    assert 1 < effective_rank(uneven @ uneven.T) < 9 and len(variances) == 9
    assert effective_rank(torch.ones(5, 5)) == 0.0


def test_directions_are_beside_those_of_as_many_members(found, zoo, task):
    assert found["zoo"].effective_rank == 1 and 0.7 < found["held-out networks"].effective_rank < 1.3
    few = audit({"two copies": zoo.take([0, 0]), "two": zoo.take([0, 1]), "one": zoo.take([0])}, zoo, task,
                controls={}, rematch=False)  # fmt: skip
    assert few["two copies"].effective_rank == 0 and few["two"].effective_rank == pytest.approx(1)
    assert few["one"].effective_rank is None and few["two copies"].nearest == few["two"].nearest == 0  # control


# -- curves, areas, flags ------------------------------------------------------------------------------------------


def test_a_curve_falls_and_passes_through_the_share_at_the_bar(found):
    thresholds = np.linspace(0, 3, 61).tolist()
    for row in found.rows:
        curve = found.curve(row.name, thresholds)
        assert all(a >= b for a, b in zip(curve, curve[1:], strict=False))
        assert curve[0] == pytest.approx(np.mean(row.values.accurate))
        assert found.curve(row.name, [found.bars.distance])[0] == pytest.approx(row.accurate_and_new)
        fine = np.linspace(0, 1.5, 6001)
        assert found.area(row.name) == pytest.approx(np.trapezoid(found.curve(row.name, fine.tolist()), fine), abs=1e-3)
    assert found.area("retrieval") < 0.02 and found.area("random weights") < 0.1
    assert found.area("held-out networks") > 0.5 and found.area("zoo") > 0.5  # control


def test_values_are_those_the_averages_are_of(found, zoo, task):
    row, score = found["mine"], evaluate(MemberNoise(0.4).fit(zoo).sample(20, seed=1), task)
    assert row.values.score == tuple(score.score.tolist()) and row.nll == pytest.approx(float(score.loss.mean()))
    assert np.mean(row.values.overlap) == pytest.approx(row.overlap) and row.ece == pytest.approx(
        float(score.ece.mean())
    )
    assert sorted(row.values.distance)[9] == pytest.approx(row.rematched)
    assert sorted(row.values.nearest)[9] == pytest.approx(row.nearest)
    assert row.rematched != row.nearest and row.distance == row.rematched  # control: they are two


def test_bars_are_the_members_own(found, zoo, task):
    own = evaluate(zoo.fitted, task).score
    assert found.bars.score == pytest.approx(float(own.quantile(0.05)))
    assert found.bars.distance == pytest.approx(np.quantile(found["zoo"].values.distance, 0.05))
    assert found.bars.chance == pytest.approx(float(task.validation.y.bincount().max()) / len(task.validation))
    other = audit(RandomWeights().fit(zoo).sample(3, seed=0), zoo, task, controls={})
    assert other.bars == found.bars  # whatever is audited
    assert audit(zoo.unseen, zoo.take(range(8)), task, controls={}).bars != found.bars  # control


def test_flags_fire_by_name(found):
    assert found.flags("zoo") == found.flags("held-out networks") == ()
    assert "copy" in found.flags("retrieval") and "copy" in found.flags("closed-form flow")
    assert "collapse" in found.flags("mean network") and "noise" in found.flags("random weights")
    for name, not_so in (("retrieval", "noise"), ("retrieval", "collapse"), ("mean network", "noise"),
                         ("random weights", "copy"), ("random weights", "collapse")):  # fmt: skip
        assert not_so not in found.flags(name)  # controls
    with pytest.raises(KeyError, match="no row 'nobody'"):
        found.flags("nobody")


def test_a_spread_in_few_directions_is_a_collapse(zoo, task):
    """Two far groups of networks spread as widely as the zoo, in one direction."""
    centre = zoo.fitted.weights.mean(0)
    far = zoo.fitted.weights[0] - centre
    signs = torch.tensor([1.0, -1.0] * 8)[:, None]
    line, control = (Zoo(centre + part, zoo.layout, zoo.network, zoo.record)
                     for part in (signs * far, zoo.fitted.weights - centre))  # fmt: skip
    found = audit({"line": line, "control": control}, zoo, task, controls={}, rematch=False)
    assert found["line"].dispersion > 0.5 and "collapse" in found.flags("line")
    assert "collapse" not in found.flags("control")


def test_regressions_are_flagged_by_the_mean_of_targets():
    task = line_task()
    zoo = train_zoo(task, MLP([3, 8, 1]), members=8, held_out=2, recipe=Recipe(epochs=30, lr=0.01))
    found = audit(
        zoo.unseen, zoo, task, rematch=False, controls={"random weights": RandomWeights(), "copy": Retrieval()}
    )
    assert found.bars.chance == 0 and found.bars.score > 0.2
    assert "noise" in found.flags("random weights") and "noise" not in found.flags("copy")
    assert found["zoo"].ece is None and found["zoo"].kappa is None and found["zoo"].values.overlap is None
    assert found.markdown(["NLL", "kappa"]).splitlines()[0].endswith("| loss | kappa |")


# -- tables, old and new -------------------------------------------------------------------------------------------


def test_columns_are_added_on_request_alone(found):
    today = found.markdown().splitlines()
    assert today[0].count("|") == 8 and "kappa" not in today[0]
    wide = found.markdown(["kappa", "NLL", "ECE", "Z_U", "effective rank", "flags"]).splitlines()
    assert wide[0].startswith(today[0][:-1]) and wide[0].endswith(
        "| kappa | NLL | ECE | Z_U | effective rank | flags |"
    )
    assert len({line.count("|") for line in wide}) == 1
    assert next(line for line in wide if line.startswith("| random weights")).endswith("| noise |")
    with pytest.raises(ValueError, match="no column 'colour': add some of kappa, NLL"):
        found.markdown(["colour"])


def test_rows_travel_through_json_and_older_ones_still_make_a_table(found):
    rows = tuple(Row(**json.loads(json.dumps(asdict(row)))) for row in found.rows)
    again = Audit(rows, found.score_name, found.split, found.symmetries, found.bars)
    assert again == found and [r.values for r in again.rows] == [r.values for r in found.rows]
    assert again.area("mine") == found.area("mine")
    names = ("name", "networks", "score", "score_std", "nearest", "rematched", "overlap", "dispersion",
             "accurate_and_new")  # fmt: skip
    older = Audit(tuple(Row(**{n: asdict(r)[n] for n in names}) for r in found.rows), found.score_name, found.split,
                  found.symmetries)  # fmt: skip
    assert older.markdown() == found.markdown() and "copy" in older.flags("retrieval")
    assert "noise" not in older.flags("random weights")  # no bars
    assert "–" in older.markdown(["kappa"]) and Audit.mean([older, older]).bars is None
    with pytest.raises(ValueError, match="holds averages alone"):
        older.curve("zoo", [0.5])
    numbers = found["zoo"].numbers()
    assert json.loads(json.dumps(numbers)) == numbers and "values" not in numbers and Row(**numbers) == found["zoo"]


def test_seeds_pool_their_values(found, zoo, task):
    other = audit(
        {"mine": MemberNoise(0.4).fit(zoo).sample(20, seed=9)}, zoo, task, controls={"retrieval": Retrieval()}
    )
    mean = Audit.mean([found, other])
    assert mean.names == ["zoo", "held-out networks", "mine", "retrieval"] and mean.bars == pytest.approx(found.bars)
    assert mean["mine"].values.score == found["mine"].values.score + other["mine"].values.score
    for thresholds in ([0.3], [0.9]):
        both = [one.curve("mine", thresholds)[0] for one in (found, other)]
        assert mean.curve("mine", thresholds)[0] == pytest.approx(np.mean(both))
    assert mean["mine"].kappa == pytest.approx((found["mine"].kappa + other["mine"].kappa) / 2)


# -- the page ------------------------------------------------------------------------------------------------------


def test_a_page_has_every_network_and_fetches_nothing(found, tmp_path):
    page = found.report(tmp_path / "deep" / "audit.html").read_text(encoding="utf-8")
    assert external_resources(page) == [] and "default-src 'none'" in page and "prefers-color-scheme: dark" in page
    assert external_resources(page.replace("<svg", '<img src="https://there.org/a.png"><svg', 1))  # control
    frontier, distances, curves = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert frontier.count('class="mark faint"') == sum(row.networks for row in found.rows)
    assert frontier.count('class="mark ring"') == len(found.rows) == curves.count("<polyline")
    assert [picture.count('class="bar"') for picture in (frontier, distances, curves)] == [2, 1, 1]
    for row in found.rows:
        for part in (page[: page.index("<svg")], frontier, distances, curves):
            assert f">{row.name}<" in part
    for column in ("kappa", "NLL", "ECE", "Z_U", "effective rank", "flags"):
        assert f'<th scope="col">{column}</th>' in page
    assert '<td class="flag">noise</td>' in page and [p.name for p in (tmp_path / "deep").iterdir()] == ["audit.html"]


def test_names_in_figures_do_not_collide(found):
    """Even of kinds that all lie at one point."""
    crowd = tuple(replace(found["zoo"], name=f"kind {i}") for i in range(18))
    svg = frontier_of(crowd, found.bars, "accuracy, test", set())
    heights = [float(y) for y in re.findall(r'y="([\d.]+)" text-anchor="start">kind', svg)]
    assert len(heights) == 18 and min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= LINE - 0.2
    assert 0 < min(heights) and max(heights) < 450
    points = {float(y) for y in re.findall(r'class="mark ring" .*?cy="([\d.]+)"', svg)}
    assert len(points) == 1  # control: they do lie there


def test_names_are_text_whatever_they_say(found, tmp_path):
    name = "<script>alert('$x$')</script>"
    rows = (*found.rows, replace(found["mine"], name=name))
    page = replace(found, rows=rows).report(tmp_path / "a.html").read_text()
    assert "<script" not in page and external_resources(page) == [] and "&lt;script&gt;" in page


def test_pages_that_cannot_be_drawn_are_refused(found, tmp_path):
    older = replace(found, rows=tuple(replace(row, values=None) for row in found.rows))
    with pytest.raises(ValueError, match="holds averages alone"):
        older.report(tmp_path / "a.html")
    with pytest.raises(ValueError, match="no bars"):
        replace(found, bars=None).report(tmp_path / "a.html")
    with pytest.raises(OSError, match="it is a folder"):
        found.report(tmp_path)
    nan = replace(found["mine"], values=replace(found["mine"].values, score=(float("nan"),) * 20), score=float("nan"))
    page = replace(found, rows=(*found.rows[:2], nan)).report(tmp_path / "a.html").read_text()
    assert "nan" not in re.sub(r"<table>.*</table>", "", page, flags=re.DOTALL) and "mine" in page
