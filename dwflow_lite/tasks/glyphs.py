"""Glyphs: small images of digits and letters, drawn from a seed; as many as asked for, as hard as wished.

The same pixels on every machine. Random numbers come from the raw bits of PCG64, which NumPy keeps from version to
version (its distributions it does not). All else is + - * / and square roots of float64, element by element, which
IEEE 754 rounds alike everywhere; sines, matrix products and sums over axes are not, so none is here. Pixels are
rounded to bytes at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import torch

from dwflow_lite.support.checks import Range, check_ranges, is_choice, is_number, whole, whole_seed
from dwflow_lite.tasks.scaling import Preparation
from dwflow_lite.tasks.splits import SPLITS, Split
from dwflow_lite.tasks.strokes import SYMBOLS, Stroke
from dwflow_lite.tasks.task import Task

SMALLEST = 8  # pixels a side: below, 8 and 0 are the same
BOX = 0.68  # of the side: how large a glyph is drawn on average
DEGREE = 3.141592653589793 / 180
AT_ONCE = 250  # images that are drawn together: what fits the cache of a core


def _between(least: float, most: float) -> Range:
    """Numbers from ``least`` to ``most``."""
    return Range(f"a number from {least} to {most}", lambda value: is_number(value, least) and value <= most)


@dataclass(frozen=True)
class Difficulty:
    """How far glyphs differ from one another, and how well they are to be seen. Lengths are shares of the side.

    By default an MLP of 64 and 64 hidden units reads about 92 % of the digits, and a ResNet-8 about 97 %
    (``benchmarks/results/glyphs.json``): room for both to be told apart, and bettered.

    Attributes:
        tilt: largest turn to either side, in degrees.
        shear: largest slant, sideways by height.
        scale: largest change of width and of height, as a share of them.
        shift: largest move, sideways and up or down.
        jitter: standard deviation of each point of a stroke, as a share of the glyph.
        thickness: width of a stroke.
        uneven: largest change of that width, as a share of it.
        occlusion: side of a square that is wiped out, somewhere.
        noise: standard deviation of every pixel, which ink makes 1 and paper 0.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> Difficulty(noise=2)
        Traceback (most recent call last):
        ValueError: out of range: noise (noise must be a number from 0 to 1, got 2)
    """

    tilt: float = 12.0
    shear: float = 0.2
    scale: float = 0.15
    shift: float = 0.05
    jitter: float = 0.04
    thickness: float = 0.1
    uneven: float = 0.3
    occlusion: float = 0.3
    noise: float = 0.2

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        check_ranges(values, RANGES)
        for name, value in values.items():
            object.__setattr__(self, name, float(value))  # a frozen class has no other way


RANGES = {
    "tilt": _between(0, 45),
    "shear": _between(0, 1),
    "scale": _between(0, 0.5),
    "shift": _between(0, 0.3),
    "jitter": _between(0, 0.2),
    "thickness": _between(0.02, 0.3),
    "uneven": _between(0, 0.9),
    "occlusion": _between(0, 0.8),
    "noise": _between(0, 1),
}


@dataclass(frozen=True)
class Domain:
    """In what all glyphs of a domain differ from upright ones.

    Attributes:
        turn: of all, to the right, in degrees; by each one's tilt more or less.
        thickness: of strokes, as a multiple.
        noise: of pixels, as a multiple.
        inverted: ink is 0 and paper 1.
    """

    turn: float = 0.0
    thickness: float = 1.0
    noise: float = 1.0
    inverted: bool = False


DOMAINS = {
    "upright": Domain(),
    "rotated": Domain(turn=45),
    "thin": Domain(thickness=0.5),
    "noisy": Domain(noise=2),
    "inverted": Domain(inverted=True),
}


def glyphs(  # noqa: PLR0913 - a public door: what is drawn, how large, how many, how hard
    seed: int = 0,
    symbols: str = "digits",
    domain: str = "upright",
    *,
    size: int = 12,
    train: int = 6000,
    calibration: int = 1000,
    validation: int = 2000,
    test: int = 10_000,
    difficulty: Difficulty = Difficulty(),
) -> Task:
    """Digits and letters drawn from a few strokes each: grey images in [0, 1], with the names of their classes.

    6,000 images train a network in seconds; 10,000 tell accuracies of 90 % apart to 0.3 points (standard error), 2,000
    to 0.7, where choices are made. Classes are as frequent as each other, and take turns. The first images of a split
    are the same however many are asked for, and those of a digit the same in ``"digits"`` and in ``"both"``. Another
    domain, another split and another seed are other draws of the same shapes.

    Args:
        seed: of the images.
        symbols: ``"digits"`` (10 classes), ``"letters"`` (21 capitals that look like no digit) or ``"both"``.
        domain: ``"upright"``; ``"rotated"`` (by 45 degrees to the right), ``"thin"`` (half as wide strokes),
            ``"noisy"`` (twice the noise) or ``"inverted"`` (dark on bright).
        size: pixels a side, at least 8.
        train: images of each split, at least one for each class.
        calibration: as many.
        validation: as many.
        test: as many.
        difficulty: how far they differ from one another, and how well they are to be seen.

    Returns:
        A task ``glyphs-<symbols>-<domain>``, whose inputs are (1, size, size).

    Raises:
        ValueError: symbols or a domain that are not there, a size or number that is too small, or so little variation
            that two splits share an image.

    Example:
        >>> task = glyphs(symbols="letters", domain="thin", train=42, calibration=21, validation=21, test=21)
        >>> task.input_shape, task.outputs, task.class_names[:3], task.train.y[:3].tolist()
        ((1, 12, 12), 21, ('A', 'C', 'D'), [0, 1, 2])
    """
    if not is_choice(symbols, SYMBOLS):
        raise ValueError(f"no symbols {symbols!r} among the glyphs: choose one of {', '.join(SYMBOLS)}")
    if not is_choice(domain, DOMAINS):
        raise ValueError(f"no domain {domain!r} of glyphs: choose one of {', '.join(DOMAINS)}")
    if not isinstance(difficulty, Difficulty):
        raise ValueError(f"difficulty is a Difficulty(...), such as Difficulty(noise=0.3); got {difficulty!r}")
    seed, size = whole_seed(seed), whole(size, "the size of glyphs in pixels", SMALLEST)
    shapes = SYMBOLS[symbols]
    counts = dict(zip(SPLITS, (train, calibration, validation, test), strict=True))
    splits, indices, drawn = {}, {}, 0
    for split, count in counts.items():
        count = whole(count, f"{split} (images, one for each of {len(shapes)} classes or more)", len(shapes))
        y = np.arange(count, dtype=np.int64) % len(shapes)
        images = np.empty((count, size, size), np.uint8)
        for label, (name, strokes) in enumerate(shapes.items()):
            key = (seed, SPLITS.index(split), list(DOMAINS).index(domain), ord(name))
            wanted = int((y == label).sum())
            images[y == label] = draw(strokes, wanted, size, difficulty, DOMAINS[domain], key)
        splits[split] = Split(torch.from_numpy(images[:, None].astype(np.float32) / 255), torch.from_numpy(y))
        indices[split] = np.arange(drawn, drawn + count)
        drawn += count
    _check_all_differ(splits)
    name, preparation = f"glyphs-{symbols}-{domain}", Preparation(pixels=True)
    return Task(
        name, "classification", len(shapes), splits, indices, seed, preparation=preparation, classes=tuple(shapes)
    )


def _check_all_differ(splits: dict[str, Split]) -> None:
    """``ValueError`` if an image stands in two splits."""
    own = [np.unique(split.x.flatten(1).numpy(), axis=0) for split in splits.values()]
    shared = sum(map(len, own)) - len(np.unique(np.concatenate(own), axis=0))
    if shared:
        raise ValueError(
            f"{shared} images stand in more than one split: let them differ more, by noise or tilt of Difficulty"
        )


# -- random numbers ---------------------------------------------------------------------------------------


def rows_of_bits(key: Sequence[int], count: int, width: int) -> Iterator[np.ndarray]:
    """A row of random numbers for each image, (images, width) of 64 bits, ``AT_ONCE`` images at a time."""
    bits = np.random.PCG64(np.random.SeedSequence(key))
    for start in range(0, count, AT_ONCE):
        images = min(AT_ONCE, count - start)
        yield bits.random_raw(images * width).reshape(images, width)


def uniform(bits: np.ndarray) -> np.ndarray:
    """Numbers evenly spread in [-1, 1), of 64 random bits each, of which 53 count."""
    return (bits >> np.uint64(11)).astype(np.float64) / 2**52 - 1


def normal(bits: np.ndarray) -> np.ndarray:
    """Nearly normal numbers of mean 0 and variance 1, within ±4.9: sums of eight random bytes, of 64 bits each."""
    total = np.zeros(bits.shape, np.uint64)
    for byte in range(8):
        total += (bits >> np.uint64(8 * byte)) & np.uint64(255)
    variance = 8 * (256**2 - 1) / 12
    return (total.astype(np.float64) - 8 * 127.5) / np.sqrt(variance)


# -- drawing ----------------------------------------------------------------------------------------------

# What varies once an image; each has a random number of its own, in this order.
VARYING = ("tilt", "shear", "width", "height", "right", "down", "thickness", "patch right", "patch down")


def draw(
    strokes: Sequence[Stroke], count: int, size: int, difficulty: Difficulty, domain: Domain, key: Sequence[int]
) -> np.ndarray:
    """Images of one glyph, each drawn anew.

    Args:
        strokes: of the glyph.
        count: of images.
        size: pixels a side.
        difficulty: how far the images differ.
        domain: in what all of them differ from upright ones.
        key: seeds the random numbers.

    Returns:
        Bytes (count, size, size).
    """
    board = np.array([point for stroke in strokes for point in stroke.points])  # (points, 2), from 0 to 10
    ends = np.cumsum([len(VARYING), board.size, size * size])
    images = [np.empty((0, size, size), np.uint8)]
    for bits in rows_of_bits(key, count, int(ends[-1])):
        once, shake, grain = np.split(bits, ends[:-1], axis=1)
        varied = dict(zip(VARYING, uniform(once).T, strict=True))  # name -> (n,)
        points = (board - 5) / 10 + difficulty.jitter * normal(shake).reshape(-1, *board.shape)  # (n, points, 2)
        points = placed(points, varied, difficulty, domain)
        widths = difficulty.thickness * domain.thickness * (1 + difficulty.uneven * varied["thickness"])  # (n,)
        image = ink(strokes, points, widths, size)  # (n, pixels)
        image = wiped(image, varied, difficulty.occlusion, size)
        image = image + difficulty.noise * domain.noise * normal(grain)
        image = np.minimum(np.maximum(image, 0), 1)
        image = 1 - image if domain.inverted else image
        images.append(np.floor(255 * image + 0.5).astype(np.uint8).reshape(-1, size, size))
    return np.concatenate(images)


def placed(points: np.ndarray, varied: Mapping[str, np.ndarray], difficulty: Difficulty, domain: Domain) -> np.ndarray:
    """Points of glyphs (n, points, 2) around 0, slanted, sized, turned and moved into the unit square."""
    of = {name: values[:, None] for name, values in varied.items()}  # (n, 1)
    x, y = points[..., 0], points[..., 1]  # (n, points)
    x = x + difficulty.shear * of["shear"] * y
    x = BOX * (1 + difficulty.scale * of["width"]) * x
    y = BOX * (1 + difficulty.scale * of["height"]) * y
    cosine, sine = turn(domain.turn + difficulty.tilt * of["tilt"])
    x, y = cosine * x - sine * y, sine * x + cosine * y
    return np.stack(
        [0.5 + difficulty.shift * of["right"] + x, 0.5 + difficulty.shift * of["down"] + y],
        axis=-1,
    )


def turn(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of angles up to 90 degrees, to three digits, without the machine's own: a turn exactly, though.

    The tangent of half the angle is a fraction (Padé's), and any tangent t makes a point of the circle,
    ((1 - t²) / (1 + t²), 2t / (1 + t²)).
    """
    half = degrees * DEGREE / 2
    square = half * half
    tangent = half * (15 - square) / (15 - 6 * square)
    scale = 1 + tangent * tangent
    return (1 - tangent * tangent) / scale, 2 * tangent / scale


def ink(strokes: Sequence[Stroke], points: np.ndarray, widths: np.ndarray, size: int) -> np.ndarray:
    """How much ink is on each pixel, from 0 to 1; it fades over one pixel at the edge of a stroke.

    Args:
        strokes: of the glyph.
        points: where they pass in each image, in the unit square, (n, points, 2).
        widths: of the strokes of each image (n,).
        size: pixels a side.

    Returns:
        Ink (n, size²), row by row.
    """
    x, y = centres(size)
    nearest = np.full((len(points), size * size), np.inf)  # squared distance of a pixel from the next stroke
    passed = 0
    for stroke in strokes:
        corners = stroke.corners(points[:, passed : passed + len(stroke.points)])
        passed += len(stroke.points)
        for start, end in pairwise(corners):
            nearest = np.minimum(nearest, squared_distance(x, y, start, end))
    inside = widths[:, None] / 2 - np.sqrt(nearest)
    return np.minimum(np.maximum(size * inside + 0.5, 0), 1)


def centres(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the middle of each pixel (size²,), row by row, in the unit square."""
    middles = (np.arange(size) + 0.5) / size
    return np.tile(middles, size), np.repeat(middles, size)


def squared_distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Squared distance of pixels at x, y (pixels,) from the straight pieces between (n, 2) and (n, 2): (n, pixels)."""
    along_x, along_y = end[:, :1] - start[:, :1], end[:, 1:] - start[:, 1:]  # (n, 1)
    from_x, from_y = x - start[:, :1], y - start[:, 1:]  # (n, pixels)
    squared_length = np.maximum(along_x * along_x + along_y * along_y, 1e-12)
    share = (from_x * along_x + from_y * along_y) / squared_length  # of the way, where the foot stands
    share = np.minimum(np.maximum(share, 0), 1)
    off_x, off_y = from_x - share * along_x, from_y - share * along_y
    return off_x * off_x + off_y * off_y


def wiped(image: np.ndarray, varied: Mapping[str, np.ndarray], side: float, size: int) -> np.ndarray:
    """Images (n, size²) without the ink in a square of this side, whose middle is anywhere in the unit square."""
    x, y = centres(size)
    middle_x, middle_y = ((1 + varied[name][:, None]) / 2 for name in ("patch right", "patch down"))  # (n, 1)
    outside = np.maximum(np.abs(x - middle_x), np.abs(y - middle_y)) >= side / 2
    return image * outside
