"""Glyphs: the same pixels everywhere, disjoint and balanced, in domains and difficulties that are what they say."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from benchmarks import glyphs as benchmark
from dwflow_lite.tasks import DOMAINS, SPLITS, SYMBOLS, Difficulty, Task, load_task, shared_classes
from dwflow_lite.tasks.glyphs import ink, normal, rows_of_bits, squared_distance, turn, uniform
from dwflow_lite.tasks.strokes import DIGITS, line, loop

SMALL = {"train": 1000, "calibration": 31, "validation": 31, "test": 2000}
PLAIN = Difficulty(tilt=0, shear=0, scale=0, shift=0, jitter=0, uneven=0, occlusion=0, noise=0)


def small(**options):
    return load_task("glyphs", **(SMALL | options))


def pixels(split):
    return (split.x * 255).round().byte().numpy()


def digest(task):
    """SHA-256 of all pixels as bytes, and of all labels."""
    found = hashlib.sha256()
    for name in SPLITS:
        found.update(np.ascontiguousarray(pixels(task.split(name))).tobytes())
        found.update(task.split(name).y.numpy().astype("<i8").tobytes())
    return found.hexdigest()[:16]


def centroid_accuracy(task, images=None, of=None):
    """Share of test images whose nearest class mean (of the training images of ``of``) is their own."""
    train = (of or task).train
    means = torch.stack([train.x[train.y == label].flatten(1).mean(0) for label in range(task.outputs)])
    images = task.test.x if images is None else images
    return float((torch.cdist(images.flatten(1), means).argmin(1) == task.test.y).float().mean())


# -- the same everywhere ------------------------------------------------------------------------------------

# Of seed 0, at default: what any machine draws.
DIGESTS = {
    ("digits", "upright"): "7ec8a8902036f7b8",
    ("letters", "rotated"): "5030f1a8fc65eec7",
}


@pytest.mark.parametrize(("symbols", "domain"), DIGESTS)
def test_every_machine_draws_the_same_pixels(symbols, domain):
    assert digest(load_task("glyphs", symbols=symbols, domain=domain)) == DIGESTS[symbols, domain]
    assert digest(load_task("glyphs", seed=1, symbols=symbols, domain=domain)) != DIGESTS[symbols, domain]  # control


def test_threads_and_global_generators_do_not_matter():
    alone = digest(small())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        with ThreadPoolExecutor(2) as pool:
            together = list(pool.map(lambda seed: digest(small(seed=seed)), [0, 5]))
    finally:
        torch.set_num_threads(threads)
    assert together[0] == alone != together[1]


def test_no_value_lies_so_near_a_rounding_edge_that_a_last_digit_could_move_it(monkeypatch):
    """Were float64 off by a thousand units in its last place, the pixels would be the same all the same."""
    task = small()

    def nudged(degrees):
        cosine, sine = turn(degrees)
        return cosine * (1 + 2e-13), sine * (1 - 2e-13)

    monkeypatch.setattr("dwflow_lite.tasks.glyphs.turn", nudged)
    assert digest(small()) == digest(task)
    monkeypatch.setattr("dwflow_lite.tasks.glyphs.turn", lambda degrees: turn(degrees + 0.1))
    assert digest(small()) != digest(task)  # control


def test_the_first_images_are_the_same_however_many_are_drawn():
    few, many = small(train=40), small(train=2500, test=100)
    for name in SPLITS:
        n = min(len(few.split(name)), len(many.split(name)))
        assert torch.equal(few.split(name).x[:n], many.split(name).x[:n])
    assert not torch.equal(few.train.x[:31], few.validation.x)  # control: another split is another draw


def test_a_digit_among_letters_is_the_digit_among_digits():
    digits, both = small(), small(symbols="both", train=3100)
    for label in (0, 7):
        assert torch.equal(digits.train.x[digits.train.y == label], both.train.x[both.train.y == label])
    letters = small(symbols="letters")
    a = both.train.x[both.train.y == both.class_names.index("A")]
    assert torch.equal(a[:40], letters.train.x[letters.train.y == 0][:40])
    assert not torch.equal(a[:40], digits.train.x[digits.train.y == 0][:40])  # control


# -- what a task must be ------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", SYMBOLS)
def test_classes_are_named_and_as_frequent_as_each_other(symbols):
    task = small(symbols=symbols)
    assert task.class_names == tuple(SYMBOLS[symbols]) and task.outputs == len(task.class_names)
    for name in SPLITS:
        counts = torch.bincount(task.split(name).y, minlength=task.outputs)
        assert counts.min() >= 1 and counts.max() - counts.min() <= 1
    assert task.input_shape == (1, 12, 12) and task.train.x.dtype == torch.float32 and task.train.y.dtype == torch.int64


def test_by_default_there_are_as_many_as_the_docs_say():
    task = load_task("glyphs")
    assert [len(task.split(name)) for name in SPLITS] == [6000, 1000, 2000, 10_000]
    assert task.name == "glyphs-digits-upright" and task.train.x.min() == 0 and task.train.x.max() == 1


def test_symbols_share_classes_by_name():
    digits, letters, both = (small(symbols=symbols) for symbols in SYMBOLS)
    assert shared_classes(digits, both) == [(label, label) for label in range(10)]
    assert shared_classes(both, letters) == [(10 + label, label) for label in range(21)]
    assert len(shared_classes(load_task("digits"), digits)) == 10
    with pytest.raises(ValueError, match="no class of task 'glyphs-letters-upright'"):
        shared_classes(digits, letters)


def test_no_image_stands_in_two_splits_nor_in_two_domains():
    task = small()
    everything = [pixels(task.split(name)) for name in SPLITS] + [pixels(small(domain=d).train) for d in DOMAINS][1:]
    everything.append(255 - pixels(small(domain="inverted").train))
    rows = np.concatenate(everything).reshape(-1, 144)
    assert len(np.unique(rows, axis=0)) == len(rows)
    with pytest.raises(ValueError, match="images stand in more than one split: let them differ more"):
        small(difficulty=PLAIN)  # control: drawn alike they are the same


def test_new_images_are_prepared_as_those_of_the_task():
    task = small()
    assert torch.equal(task.prepare(pixels(task.test)), task.test.x)


@pytest.mark.parametrize("size", [8, 12, 28])
def test_any_size_shows_the_same(size):
    task = small(size=size, difficulty=Difficulty(noise=0))
    assert task.input_shape == (1, size, size)
    assert abs(task.train.x.mean() - small(difficulty=Difficulty(noise=0)).train.x.mean()) < 0.01  # ink by area
    assert abs(task.train.x.mean() - small(difficulty=Difficulty(noise=0, thickness=0.13)).train.x.mean()) > 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symbols": "greek"}, "no symbols 'greek' among the glyphs: choose one of digits, letters, both"),
        ({"symbols": ["digits"]}, "no symbols"),
        ({"domain": "upside-down"}, "no domain 'upside-down' of glyphs: choose one of upright, rotated, thin, noisy"),
        ({"size": 7}, "the size of glyphs in pixels must be a whole number >= 8, got 7"),
        ({"size": 12.0}, "must be a whole number >= 8"),
        ({"train": 9}, r"train \(images, one for each of 10 classes or more\) must be a whole number >= 10, got 9"),
        ({"symbols": "both", "calibration": 30}, r"calibration .* must be a whole number >= 31"),
        ({"test": 0}, "test .* must be a whole number >= 10"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"difficulty": {"noise": 1}}, r"difficulty is a Difficulty\(...\), such as Difficulty\(noise=0.3\)"),
    ],
)
def test_each_bad_wish_is_named_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("knob", [field.name for field in fields(Difficulty)])
@pytest.mark.parametrize("value", [-0.1, 46, float("nan"), "0.1", None, True])
def test_each_knob_out_of_range_is_named(knob, value):
    with pytest.raises(ValueError, match=f"out of range: {knob}"):
        Difficulty(**{knob: value})
    assert Difficulty(**{knob: np.float32(0.1)}) == Difficulty(**{knob: float(np.float32(0.1))})  # control


def test_an_option_that_glyphs_do_not_have_is_named():
    with pytest.raises(TypeError, match=r"load_task\('glyphs'\) has no option 'noise': choose from seed, symbols"):
        load_task("glyphs", noise=0.1)


# -- domains --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_domain() -> dict[str, Task]:
    return {domain: small(domain=domain) for domain in DOMAINS}


def test_inverted_is_one_minus_upright(in_domain):
    upright, inverted = in_domain["upright"].train.x, in_domain["inverted"].train.x
    for quantile in (0.1, 0.5, 0.9):
        assert abs(inverted.flatten().quantile(quantile) + upright.flatten().quantile(1 - quantile) - 1) < 0.02
    torch.testing.assert_close(inverted.mean(0), 1 - upright.mean(0), atol=0.05, rtol=0)
    assert (inverted.mean(0) - upright.mean(0)).abs().max() > 0.3  # control


def test_thin_has_less_ink_and_noisy_more_grain(in_domain):
    without_noise = {d: small(domain=d, difficulty=Difficulty(noise=0)).train.x for d in ("upright", "thin", "noisy")}
    assert without_noise["thin"].mean() < 0.75 * without_noise["upright"].mean()
    assert abs(without_noise["noisy"].mean() / without_noise["upright"].mean() - 1) < 0.03  # control: grain alone
    corner = {d: in_domain[d].train.x[:, 0, 0, 0] for d in ("upright", "thin", "noisy")}
    assert corner["noisy"].mean() > 1.5 * corner["upright"].mean()
    assert corner["thin"].mean() < 1.2 * corner["upright"].mean()  # control


def test_rotated_is_turned_by_an_eighth_to_the_right(in_domain):
    task, upright = in_domain["rotated"], in_domain["upright"]

    def turned(degrees):  # to the left, as seen, where rows go down
        images = rotate(task.test.x.numpy(), degrees, axes=(3, 2), reshape=False, order=1)
        return centroid_accuracy(task, torch.from_numpy(images), of=upright)

    accuracy = {degrees: turned(degrees) for degrees in (-45, 0, 45)}
    best = max(accuracy, key=accuracy.get)
    assert best in (-45, 45) and accuracy[best] > accuracy[0] + 0.2 > accuracy[-best], accuracy


def test_domains_show_the_same_shapes(in_domain):
    for domain in ("thin", "noisy"):
        assert centroid_accuracy(in_domain[domain], of=in_domain["upright"]) > 0.45
    assert centroid_accuracy(in_domain["inverted"], of=in_domain["upright"]) < 0.3  # control
    inverted = in_domain["inverted"]
    assert centroid_accuracy(inverted, 1 - inverted.test.x, of=in_domain["upright"]) > 0.45


# -- difficulty -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knob", "values"),
    [
        ("tilt", (0, 25, 45)),
        ("shear", (0, 0.5, 1)),
        ("scale", (0, 0.25, 0.5)),
        ("shift", (0, 0.1, 0.25)),
        ("jitter", (0, 0.06, 0.12)),
        ("occlusion", (0, 0.4, 0.7)),
        ("noise", (0, 0.3, 0.7)),
    ],
)
def test_the_higher_a_knob_the_harder_are_glyphs_to_read(knob, values):
    accuracy = [centroid_accuracy(small(difficulty=Difficulty(**{knob: value}))) for value in values]
    assert all(easier > harder + 0.02 for easier, harder in pairwise(accuracy)), accuracy
    easy = replace(PLAIN, noise=0.1, tilt=5)
    assert centroid_accuracy(small(difficulty=easy)) > 0.97  # control: without them there is nothing hard


# -- how they are drawn ---------------------------------------------------------------------------------------


def test_random_numbers_have_the_moments_that_they_say():
    bits = np.concatenate(list(rows_of_bits((3,), 1000, 200)))
    even, bell = uniform(bits), normal(bits)
    assert even.min() >= -1 and even.max() < 1
    assert abs(even.mean()) < 0.005 and abs(even.var() - 1 / 3) < 0.005
    assert abs(bell.mean()) < 0.01 and abs(bell.var() - 1) < 0.02
    assert abs((np.abs(bell) < 1).mean() - 0.683) < 0.01  # as a normal has; of even numbers it would be all or 0.577
    assert not np.array_equal(bits[:50], next(rows_of_bits((4,), 50, 200)))


def test_rows_of_random_numbers_go_on_where_pieces_end(monkeypatch):
    whole = np.concatenate(list(rows_of_bits((3,), 25, 7)))
    monkeypatch.setattr("dwflow_lite.tasks.glyphs.AT_ONCE", 10)
    assert np.array_equal(whole, np.concatenate(list(rows_of_bits((3,), 25, 7))))


def test_a_turn_is_a_turn():
    degrees = np.linspace(-90, 90, 181)
    cosine, sine = turn(degrees)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=1e-14)
    np.testing.assert_allclose(cosine, np.cos(np.radians(degrees)), atol=1e-3)
    np.testing.assert_allclose(sine, np.sin(np.radians(degrees)), atol=1e-3)


def test_distances_are_those_of_densely_sampled_pieces():
    rng = np.random.default_rng(0)
    start, end, x, y = rng.random((5, 2)), rng.random((5, 2)), rng.random(30), rng.random(30)
    share = np.linspace(0, 1, 2001)[:, None, None]
    sampled = start + share * (end - start)  # (2001, 5, 2)
    squares = (sampled[..., None, 0] - x) ** 2 + (sampled[..., None, 1] - y) ** 2  # (2001, 5, 30)
    np.testing.assert_allclose(squared_distance(x, y, start, end), squares.min(0), atol=1e-6)
    point = squared_distance(x, y, start, start)  # no length: the distance from a point
    np.testing.assert_allclose(point, (x - start[:, :1]) ** 2 + (y - start[:, 1:]) ** 2)


@pytest.mark.parametrize("height", [0.3, 0.47, 0.5])
def test_a_straight_stroke_has_as_much_ink_as_it_is_wide(height):
    across = line((0, 0), (1, 0))
    points = np.array([[[-1.0, height], [2.0, height]]])
    for width in (0.1, 0.23):
        image = ink([across], points, np.array([width]), 20).reshape(20, 20)
        np.testing.assert_allclose(image.sum(0), width * 20, rtol=1e-12)  # each column, wherever pixels lie


def test_a_loop_of_four_points_is_nearly_a_circle():
    circle = loop((1, 0), (0, 1), (-1, 0), (0, -1))
    corners = np.concatenate(circle.corners(np.array([circle.points], float)))
    radius = np.hypot(*corners.T)
    assert abs(radius - 1).max() < 0.03 and np.array_equal(corners[0], corners[-1])
    square = np.concatenate(line(*circle.points).corners(np.array([circle.points], float)))
    assert np.array_equal(square, circle.points)  # control: a line passes the points alone


def test_no_two_symbols_have_the_same_shape():
    """Drawn plainly, each is nearest to itself even where it is turned a little."""
    task = small(symbols="both", difficulty=replace(PLAIN, tilt=10, noise=0.05))
    assert centroid_accuracy(task) > 0.99
    assert set(DIGITS) == set("0123456789") and not set("BIOSZ") & set(task.class_names)


# -- the benchmark --------------------------------------------------------------------------------------------


def test_the_benchmark_at_toy_size(tmp_path):
    for name in benchmark.NETWORKS:
        found = benchmark.read(name, 0, members=1, toy=True)
        assert len(found["accuracy"]) == 1 and 0 <= found["accuracy"][0] <= 1
    assert set(benchmark.drawn(toy=True)) == set(SYMBOLS)
    benchmark.draw_glyphs(rows=1).savefig(tmp_path / "glyphs.png", dpi=40)
    assert (tmp_path / "glyphs.png").stat().st_size > 1000
