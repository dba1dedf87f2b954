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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import TextIO

import numpy as np

PADDING, FIRST, UNKNOWN = range(3)  # as in BERT: to fill up, to start every text, for unknown words


MOST = 100_000  # reviews at a time


GOOD = {"fine": 0.4, "good": 0.7, "nice": 0.7, "clean": 0.8, "fresh": 0.8, "great": 1.2, "lovely": 1.2, "friendly": 1.2,
        "superb": 1.6, "perfect": 1.6}  # fmt: skip


BAD = {"plain": -0.4, "bad": -0.7, "dull": -0.7, "dirty": -0.8, "stale": -0.8, "rude": -1.2, "noisy": -1.2,
       "nasty": -1.2, "horrible": -1.6, "terrible": -1.6}  # fmt: skip


HERE, ELSEWHERE = {"here": 1.0}, {"elsewhere": 0.0}


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


def make_reviews(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """``n`` different reviews, each next to its twin, and their stars 1 … 5 (n,); ``ValueError`` for n above ``MOST``.

    Stars are the rounded sentiment, with a little noise (standard deviation a quarter of a star) before rounding.
    """
    if not 1 <= n <= MOST:
        raise ValueError(f"the number of reviews must be from 1 to {MOST:,}, got {n!r}")
    rng, found = np.random.default_rng(seed), {}
    kinds = rng.choice(len(SENTENCES), 2 * MOST, p=[share for _, share, _ in SENTENCES])
    for kind in kinds:
        pattern, _, (first, second) = SENTENCES[kind]
        sides = [HERE, ELSEWHERE] if "than" in pattern else [GOOD, BAD]
        if sides[0] is GOOD and rng.random() < 0.2:  # both are good, or both are bad
            sides = [sides[rng.integers(2)]] * 2
        one, other = (list(side)[rng.integers(len(side))] for side in sides)
        a, b = (THINGS[i] for i in rng.choice(len(THINGS), 2, replace=False))
        end = ENDS[rng.integers(len(ENDS))]
        for x, y in ((one, other), (other, one)):
            sentiment = 1.4 * (first * VALUES[x] + second * VALUES[y]) + 0.25 * rng.normal()
            found.setdefault(pattern.format(a=a, b=b, x=x, y=y) + end, int(np.clip(np.rint(3 + sentiment), 1, 5)))
        if len(found) >= n:
            break
    return list(found)[:n], np.array(list(found.values())[:n])


def words_of(text: str) -> list[str]:
    """The words and marks of a text, in small letters."""
    return re.findall(r"\w+(?:'\w+)?|[^\w\s]", text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Words as whole numbers: 0 fills up, 1 starts every text, 2 is any other word; ``words`` follow, from 3 on."""

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words) + 3

    @classmethod
    def of(cls, texts: Sequence[str], size: int | None = None) -> Vocabulary:
        """The words of these texts, most frequent first (ties: by the alphabet), at most ``size`` tokens in all."""
        if size is not None and size < 3:
            raise ValueError(f"a vocabulary has 3 tokens that are no words, so a size of {size!r} is too small")
        counts = Counter(chain.from_iterable(map(words_of, texts)))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(tuple(ranked[: None if size is None else size - 3]))

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Tokens (n, length) of texts, int64: cut, or filled up with zeros, at ``length`` >= 1."""
        if length < 1:
            raise ValueError(f"a text has a length of at least 1 token, got {length!r}")
        known = {word: i for i, word in enumerate(self.words, 3)}
        tokens = np.full((len(texts), length), PADDING)
        for row, text in zip(tokens, texts, strict=True):
            found = [FIRST, *(known.get(word, UNKNOWN) for word in words_of(text))][:length]
            row[: len(found)] = found
        return tokens


def made_vocabulary() -> Vocabulary:
    """Every word that :func:`make_reviews` can write, whatever its seed."""
    patterns = [pattern.format(a="", b="", x="", y="") for pattern, _, _ in SENTENCES]
    return Vocabulary(tuple(sorted({w for t in (*patterns, *ENDS, *THINGS, *VALUES) for w in words_of(t)})))


def read_reviews(path: str | Path, limit: int | None = None) -> tuple[list[str], np.ndarray]:
    """Texts and stars (n,) of a file of reviews: the first ``limit`` of them, or all.

    Args:
        path: ``.csv``: stars and text in each line, no header (``yelp_review_full``; its ``\\n`` are read as spaces);
            ``.json`` or ``.jsonl``: in each line an object with ``stars`` and ``text`` (Yelp's own files). Either may
            be packed, with ``.gz`` behind.
        limit: read no further.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, no review in it, or a line that is none, which is named; nothing is skipped.
    """
    path, texts, stars, line = Path(path), [], [], 0
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind not in (".csv", ".json", ".jsonl"):
        raise ValueError(f"{path} must end in .csv, .json or .jsonl, or one of these and .gz")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be a whole number >= 1 or None, got {limit!r}")

    def counted(file: TextIO) -> Iterator[str]:
        nonlocal line
        for line, content in enumerate(file, 1):  # noqa: B007
            yield content

    pick = itemgetter("stars", "text")
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="") as file:
            lines = counted(file)
            rows = csv.reader(lines, strict=True) if kind == ".csv" else (pick(json.loads(item)) for item in lines)
            for star, text in islice(rows, limit):
                if float(star) not in range(1, 6) or not text.strip():
                    raise ValueError(f"stars {star!r}, text {text[:20]!r}")
                texts.append(text.replace("\\n", " "))
                stars.append(int(float(star)))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}, line {line}: no review, stars 1 … 5 and a text ({error})") from error
    if not texts:
        raise ValueError(f"{path} holds no reviews")
    return texts, np.array(stars)
