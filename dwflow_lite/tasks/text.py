"""Short reviews with stars, made or read, and their words as whole numbers: the text that networks are trained on.

Made reviews are simple English whose meaning lies in the order of the words. Each comes with its twin, in which two
words have changed places: the same bag of words, and mostly other stars. Counting words says little.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dwflow_lite.support.checks import is_whole, whole

# Tokens that are no words, as in BERT.
PADDING = 0  # fills up
FIRST = 1  # starts every text
UNKNOWN = 2  # stands for any word that is not known
SPECIAL = (PADDING, FIRST, UNKNOWN)

MOST = 100_000  # reviews at a time

GOOD = {"fine": 0.4, "good": 0.7, "nice": 0.7, "clean": 0.8, "fresh": 0.8, "great": 1.2, "lovely": 1.2, "friendly": 1.2,
        "superb": 1.6, "perfect": 1.6}  # fmt: skip

BAD = {"plain": -0.4, "bad": -0.7, "dull": -0.7, "dirty": -0.8, "stale": -0.8, "rude": -1.2, "noisy": -1.2,
       "nasty": -1.2, "horrible": -1.6, "terrible": -1.6}  # fmt: skip

HERE = {"here": 1.0}

ELSEWHERE = {"elsewhere": 0.0}

VALUES = GOOD | BAD | HERE | ELSEWHERE

THINGS = "room service staff bar bed view coffee breakfast dinner lobby pool garden soup wine menu bathroom".split()

ENDS = ("", "", "", " honestly", " overall", " this time")

# What is said of two things, how often, and what its first and its second opinion count.
SENTENCES = (
    ("it had a {x} {a} but a {y} {b}", 0.35, (0.2, 1.0)),
    ("we expected a {x} {a} and found a {y} {a}", 0.2, (-0.2, 1.0)),
    ("it had a {x} {a} despite a {y} {b}", 0.2, (1.0, 0.2)),
    ("the {a} was not {x} and the {b} was {y}", 0.075, (-0.6, 0.6)),
    ("the {a} was {x} and the {b} was not {y}", 0.075, (0.6, -0.6)),
    ("the {a} {x} was better than the {a} {y}", 0.05, (1.2, -1.2)),
    ("the {a} {x} was worse than the {a} {y}", 0.05, (-1.2, 1.2)),
)


# -- made reviews -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two opinions in one sentence, which may change places: what the twins of a review have in common.

    Attributes:
        pattern: the sentence, with places ``{a}``, ``{b}`` for things and ``{x}``, ``{y}`` for opinions.
        opinions: two words of ``VALUES``.
        things: two words of ``THINGS``.
        end: how the sentence ends.
        shares: what the first and the second opinion of this sentence count.
    """

    pattern: str
    opinions: tuple[str, str]
    things: tuple[str, str]
    end: str
    shares: tuple[float, float]

    @classmethod
    def draw(cls, kind: int, rng: np.random.Generator) -> Pair:
        """A sentence of this kind, a position in ``SENTENCES``, with words drawn at random."""
        pattern, _, shares = SENTENCES[kind]
        if "than" in pattern:
            sides = [HERE, ELSEWHERE]
        else:
            sides = [GOOD, BAD]
            if rng.random() < 0.2:  # both are good, or both are bad
                sides = [sides[rng.integers(2)]] * 2
        first, second = (list(side)[rng.integers(len(side))] for side in sides)
        one, other = rng.choice(len(THINGS), 2, replace=False)
        end = ENDS[rng.integers(len(ENDS))]
        return cls(pattern, (first, second), (THINGS[one], THINGS[other]), end, shares)

    def twins(self) -> list[tuple[str, float]]:
        """Text and sentiment (0: three stars) of the sentence, and of the one with its opinions exchanged."""
        a, b = self.things
        first, second = self.opinions
        twins = []
        for x, y in ((first, second), (second, first)):
            sentiment = 1.4 * (self.shares[0] * VALUES[x] + self.shares[1] * VALUES[y])
            twins.append((self.pattern.format(a=a, b=b, x=x, y=y) + self.end, sentiment))
        return twins


def make_reviews(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """``n`` different reviews, each next to its twin, and their stars.

    Stars are the rounded sentiment, with a little noise (standard deviation a quarter of a star) before rounding.

    Args:
        n: how many, from 1 to ``MOST``.
        seed: of words and noise; the first reviews of a seed are the same whatever ``n``.

    Returns:
        Texts, and stars 1 … 5 of shape (n,).

    Raises:
        ValueError: ``n`` is out of range.
    """
    if not is_whole(n, 1) or n > MOST:
        raise ValueError(f"the number of reviews must be from 1 to {MOST:,}, got {n!r}")
    n, seed = int(n), whole(seed, "seed")
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(SENTENCES), 2 * MOST, p=[frequency for _, frequency, _ in SENTENCES])
    stars_of: dict[str, int] = {}  # text -> stars; a text made again keeps its first
    for kind in kinds:
        for text, sentiment in Pair.draw(kind, rng).twins():
            noise = 0.25 * rng.normal()
            stars = int(np.clip(np.rint(3 + sentiment + noise), 1, 5))
            stars_of.setdefault(text, stars)
        if len(stars_of) >= n:
            break
    return list(stars_of)[:n], np.array(list(stars_of.values())[:n])


# -- words as numbers -------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words and marks of a text, in small letters."""
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower())


def _check_texts(texts: Sequence[str]) -> None:
    """Raise ``ValueError`` for one text alone, whose letters would pass for texts, and for what is no text."""
    if isinstance(texts, str):
        raise ValueError(f"texts are a list of them, not one alone: [{texts[:40]!r}]")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {position} is {text!r}, not a text: leave it out")


@dataclass(frozen=True)
class Vocabulary:
    """Words as whole numbers: 0 fills up, 1 starts every text, 2 is any other word; ``words`` follow, from 3 on."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words) + len(SPECIAL)

    @classmethod
    def of(cls, texts: Sequence[str], size: int | None = None) -> Vocabulary:
        """The words of these texts, most frequent first (ties: by the alphabet), at most ``size`` tokens in all.

        Raises:
            ValueError: a size that leaves no token for a word, or texts that are none.
        """
        _check_texts(texts)
        if size is not None and not is_whole(size, len(SPECIAL)):
            raise ValueError(
                f"a vocabulary is a whole number of tokens, 3 of which are no words, so a size of {size!r} is too small"
            )
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(words_of(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        if size is not None:
            ranked = ranked[: int(size) - len(SPECIAL)]
        return cls(tuple(ranked))

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Tokens of texts: cut, or filled up with zeros, at ``length``.

        Args:
            texts: n of them.
            length: tokens of each text, at least 1.

        Returns:
            Tokens (n, length), int64. Each text starts with the token 1.

        Raises:
            ValueError: ``length`` below 1, or texts that are none.

        Example:
            >>> Vocabulary(("good", "room")).encode(["A good room"], length=6)
            array([[1, 2, 3, 4, 0, 0]])
        """
        if not is_whole(length, 1):
            raise ValueError(f"a text has a length of at least 1 token, got {length!r}")
        length = int(length)
        _check_texts(texts)
        token_of = {word: token for token, word in enumerate(self.words, len(SPECIAL))}
        tokens = np.full((len(texts), length), PADDING)
        for row, text in zip(tokens, texts, strict=True):
            encoded = [FIRST, *(token_of.get(word, UNKNOWN) for word in words_of(text))]
            encoded = encoded[:length]
            row[: len(encoded)] = encoded
        return tokens


def made_vocabulary() -> Vocabulary:
    """Every word that :func:`make_reviews` can write, whatever its seed."""
    patterns = [pattern.format(a="", b="", x="", y="") for pattern, _, _ in SENTENCES]
    words: set[str] = set()
    for text in (*patterns, *ENDS, *THINGS, *VALUES):
        words.update(words_of(text))
    return Vocabulary(tuple(sorted(words)))


# -- files ------------------------------------------------------------------------------------------------


class CountedLines:
    """The lines of a file, counted as they are read, so that an error can name its line."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        for content in self.file:
            self.number += 1
            yield content


def read_reviews(path: str | Path, limit: int | None = None) -> tuple[list[str], np.ndarray]:
    """Texts and stars of a file of reviews: the first ``limit`` of them, or all.

    Args:
        path: ``.csv``: stars and text in each line, no header (``yelp_review_full``; its ``\\n`` are read as spaces);
            ``.json`` or ``.jsonl``: in each line an object with ``stars`` and ``text`` (Yelp's own files). Either may
            be packed, with ``.gz`` behind.
        limit: read no further.

    Returns:
        Texts, and stars 1 … 5 of shape (n,).

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, no review in it, or a line that is none, which is named; nothing is skipped.
    """
    path = Path(path)
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind not in (".csv", ".json", ".jsonl"):
        raise ValueError(f"{path} must end in .csv, .json or .jsonl, or one of these and .gz")
    if limit is not None and not is_whole(limit, 1):
        raise ValueError(f"limit must be a whole number >= 1 or None, got {limit!r}")
    opened = gzip.open if path.suffix == ".gz" else open
    texts: list[str] = []
    stars: list[int] = []
    limit = None if limit is None else int(limit)
    with opened(path, "rt", encoding="utf-8", newline="") as file:
        lines = CountedLines(file)
        try:
            for text, star in islice(_reviews_in(lines, kind), limit):
                texts.append(text)
                stars.append(star)
        except Exception as error:
            raise ValueError(f"{path}, line {lines.number}: no review, stars 1 … 5 and a text ({error})") from error
    if not texts:
        raise ValueError(f"{path} holds no reviews")
    return texts, np.array(stars)


def _reviews_in(lines: Iterable[str], kind: str) -> Iterator[tuple[str, int]]:
    """Text and stars of each review; raises whatever a line that is none makes of it."""
    rows = csv.reader(lines, strict=True) if kind == ".csv" else _json_rows(lines)
    for star, text in rows:
        if float(star) not in range(1, 6) or not text.strip():
            raise ValueError(f"stars {star!r}, text {text[:20]!r}")
        yield text.replace("\\n", " "), int(float(star))


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[Any, Any]]:
    """Stars and text of a JSON object in each line."""
    for content in lines:
        review = json.loads(content)
        yield review["stars"], review["text"]
