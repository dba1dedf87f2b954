"""Reviews: made ones that counting words does not solve, files of others, and words as numbers."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge

from dwflow_lite.networks import BERT
from dwflow_lite.tasks import SPLITS, DataNotFoundError, load_task
from dwflow_lite.tasks.text import (
    FIRST,
    MOST,
    PADDING,
    UNKNOWN,
    Vocabulary,
    made_vocabulary,
    make_reviews,
    read_reviews,
    words_of,
)
from dwflow_lite.training import Recipe, train_zoo
from dwflow_lite.zoo import predict

# -- made reviews ---------------------------------------------------------------------------------------


def test_one_seed_one_set_and_no_review_twice():
    texts, stars = make_reviews(3000, 1)
    again, same = make_reviews(3000, 1)
    assert texts == again and np.array_equal(stars, same) and texts != make_reviews(3000, 2)[0]
    assert len(set(texts)) == len(texts) == len(stars) == 3000
    assert make_reviews(501, 1)[0] == texts[:501]
    shares = np.bincount(stars, minlength=6)[1:] / len(stars)
    assert shares.sum() == 1 and shares.min() > 0.05 and shares.max() < 0.3


@pytest.mark.parametrize("n", [0, -1, MOST + 1])
def test_a_number_that_cannot_be_made(n):
    with pytest.raises(ValueError, match="from 1 to 100,000"):
        make_reviews(n)


@pytest.fixture(scope="module")
def most():
    """As many as can be made."""
    return make_reviews(MOST, 1)


def test_the_largest_number_can_be_made(most):
    assert len(set(most[0])) == MOST


def test_twins_have_one_bag_of_words_and_mostly_other_stars(most):
    texts, stars = make_reviews(4000, 0)
    bags = {}
    for text, star in zip(texts, stars, strict=True):
        bags.setdefault(tuple(sorted(words_of(text))), []).append(star)
    twins = [s for s in bags.values() if len(s) > 1]
    assert sum(map(len, twins)) > 0.95 * len(texts)
    differ = np.mean([max(s) - min(s) > 0 for s in twins])
    apart = np.mean([max(s) - min(s) for s in twins])
    assert differ > 0.7 and apart > 1.5
    # Control: what differs is order, not noise; two makings of one text differ by less than a star.
    one, other = (dict(zip(*made, strict=True)) for made in (most, make_reviews(MOST, 2)))
    common = one.keys() & other.keys()
    assert len(common) > 1000 and np.mean([abs(one[t] - other[t]) for t in common]) < 0.4


def linear(task_texts, stars, ngrams):
    half = len(task_texts) // 2
    count = CountVectorizer(ngram_range=ngrams, token_pattern=r"\S+")
    fit = Ridge(3.0).fit(count.fit_transform(task_texts[:half]), stars[:half])
    found = count.transform(task_texts[half:])
    return fit.score(found, stars[half:]), spearmanr(fit.predict(found), stars[half:])[0]


def test_counting_words_or_pairs_of_words_does_not_solve_them():
    texts, stars = make_reviews(6000, 0)
    (r2, rho), (pairs, _), (triples, _) = (linear(texts, stars, (1, n)) for n in (1, 2, 3))
    assert r2 < 0.3 and rho < 0.5 and pairs < 0.4
    assert triples > 0.8  # control: the order of the words decides, and there is something to be learnt


def test_every_word_is_known_and_every_review_fits():
    vocabulary, (texts, _) = made_vocabulary(), make_reviews(20_000, 3)
    assert {w for t in texts for w in words_of(t)} == set(vocabulary.words)
    tokens = vocabulary.encode(texts, 14)
    assert 55 <= len(vocabulary) <= 120 and tokens.max() == len(vocabulary) - 1
    assert (tokens != UNKNOWN).all() and (tokens[:, 13] == PADDING).all() and (tokens[:, 12] != PADDING).any()


# -- words as numbers -----------------------------------------------------------------------------------


def test_words_and_marks():
    assert words_of("It's GOOD, isn't it?!") == ["it's", "good", ",", "isn't", "it", "?", "!"]
    assert words_of("Crème brûlée 10/10") == ["crème", "brûlée", "10", "/", "10"]


def test_frequent_words_come_first_and_ties_go_by_the_alphabet():
    vocabulary = Vocabulary.of(["b a b", "c a b d"])
    assert vocabulary.words == ("b", "a", "c", "d") and len(vocabulary) == 7
    assert Vocabulary.of(["b a b", "c a b d"], 6).words == ("b", "a", "c")
    tokens = vocabulary.encode(["A b zebra", "", "d c b a"], 4)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [[FIRST, 4, 3, UNKNOWN], [FIRST, 0, 0, 0], [FIRST, 6, 5, 3]]
    assert FIRST == 1 and PADDING == 0  # as the tokens of BERT
    with pytest.raises(ValueError, match="size of 2 is too small"):
        Vocabulary.of(["a"], 2)
    with pytest.raises(ValueError, match="length of at least 1 token"):
        vocabulary.encode(["a"], 0)


# -- files of reviews -----------------------------------------------------------------------------------

ROWS = [(5, 'Say "wow",\\ntwice'), (1, "No."), (3, "Naïve & ok, it's fine")]


def csv_text(rows):
    return "".join('"{}","{}"\n'.format(s, t.replace('"', '""')) for s, t in rows)


def json_text(rows):
    return "".join(json.dumps({"review_id": "x", "stars": float(s), "text": t}) + "\n" for s, t in rows)


def write(path, text):
    (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8", newline="").write(text)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.json", "a.jsonl", "a.jsonl.gz"])
def test_files_are_read(tmp_path, name):
    path = write(tmp_path / name, (csv_text if ".csv" in name else json_text)(ROWS))
    texts, stars = read_reviews(path)
    assert texts == ['Say "wow", twice', "No.", "Naïve & ok, it's fine"] and stars.tolist() == [5, 1, 3]
    assert read_reviews(path, 2)[0] == texts[:2] and read_reviews(str(path), 99)[0] == texts


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("a.csv", '"label","text"\n'),
        ("a.csv", '"6","too good"\n'),
        ("a.csv", '"2.5","half"\n'),
        ("a.csv", '"2"\n'),
        ("a.csv", '"2","a","b"\n'),
        ("a.csv", '"2","  "\n'),
        ("a.csv", "\n"),
        ("a.csv", '"2","not closed\n'),
        ("a.json", "{not json}\n"),
        ("a.json", '{"stars": 3}\n'),
        ("a.json", '{"stars": null, "text": "a"}\n'),
        ("a.json", '{"stars": 3, "text": 4}\n'),
        ("a.json", "\n"),
        ("a.jsonl", "[1, 2]\n"),
    ],
)
def test_a_line_that_is_no_review_is_named(tmp_path, name, bad):
    good = (csv_text if ".csv" in name else json_text)(ROWS)
    path = write(tmp_path / name, good + bad)
    assert len(read_reviews(path, 3)[0]) == 3  # control: so far it is good
    with pytest.raises(ValueError, match=rf"{name}, line 4: no review"):
        read_reviews(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_reviews(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"must end in \.csv, \.json or \.jsonl"):
        read_reviews(write(tmp_path / "a.txt", csv_text(ROWS)))
    with pytest.raises(ValueError, match="holds no reviews"):
        read_reviews(write(tmp_path / "empty.csv", ""))
    with pytest.raises(ValueError, match="limit must be"):
        read_reviews(write(tmp_path / "a.csv", csv_text(ROWS)), 0)
    packed = write(tmp_path / "b.csv.gz", csv_text(ROWS * 500)).read_bytes()
    (tmp_path / "half.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "plain.csv.gz").write_text(csv_text(ROWS))
    (tmp_path / "latin.csv").write_bytes(csv_text(ROWS).encode("latin-1"))
    for name in ("half.csv.gz", "plain.csv.gz", "latin.csv"):
        with pytest.raises(ValueError, match=rf"{name}, line \d+: no review"):
            read_reviews(tmp_path / name)


# -- as tasks -------------------------------------------------------------------------------------------


def rows_of(task, split):
    return set(map(tuple, task.split(split).x.tolist()))


def test_made_reviews_are_a_task_of_ranks():
    task = load_task("reviews")
    assert task.kind == "regression" and task.score_name == "Spearman" and task.outputs == 1
    assert task.input_shape == (13,) and task.train.x.dtype == torch.int64 and len(task.train) == 4200
    assert sorted(task.train.y.unique().tolist()) == [0, 0.25, 0.5, 0.75, 1]
    splits = [rows_of(task, s) for s in SPLITS]
    assert sum(map(len, splits)) == len(set().union(*splits)) == 7000  # no text in two splits
    assert load_task("reviews").fingerprint == task.fingerprint != load_task("reviews", seed=1).fingerprint
    assert sum(len(load_task("reviews", examples=500).split(s)) for s in SPLITS) == 500


def yelp_file(path, n, seed, extra=()):
    texts, stars = make_reviews(n, seed)
    return write(path, csv_text([*zip(stars, texts, strict=True), *extra]))


def test_a_file_becomes_a_task_whose_vocabulary_is_that_of_train(tmp_path):
    odd = [(3, f"unheard{i} and rare") for i in range(60)]
    path = yelp_file(tmp_path / "train.csv", 300, 0, odd)
    task = load_task("yelp", file=path, length=12)
    assert task.name == "yelp" and task.score_name == "Spearman" and task.input_shape == (12,)
    assert sum(len(task.split(s)) for s in SPLITS) == 360
    texts, stars = read_reviews(path)
    for split in SPLITS:  # tokens, stars and positions belong together
        rows = task.indices[split]
        assert torch.equal(task.split(split).y[:, 0], torch.from_numpy((stars[rows] - 1) / 4).float())
    vocabulary = Vocabulary.of([texts[i] for i in task.indices["train"]])
    assert (task.train.x != UNKNOWN).all() and (task.test.x == UNKNOWN).any()
    assert np.array_equal(task.test.x, vocabulary.encode([texts[i] for i in task.indices["test"]], 12))
    small = load_task("yelp", file=path, words=10, examples=200)
    assert small.train.x.max() == 9 and small.input_shape == (128,)
    assert sum(len(small.split(s)) for s in SPLITS) == 200


def test_an_official_test_set_shares_no_text_with_what_is_trained_on(tmp_path):
    shared = list(zip(*make_reviews(40, 7)[::-1], strict=True))
    train = yelp_file(tmp_path / "train.csv", 300, 0, shared + shared)
    test = yelp_file(tmp_path / "test.csv", 50, 9, shared)
    task = load_task("yelp", file=train, test_file=test)
    told = set(read_reviews(train)[0]) - set(read_reviews(test)[0])
    assert len(task.test) == len(set(read_reviews(test)[0])) and len(read_reviews(train)[0]) == 380
    assert sum(len(task.split(s)) for s in SPLITS[:3]) == len(told)
    alone = load_task("yelp", file=train)
    splits = [rows_of(alone, s) for s in SPLITS]
    counted = Counter(row for split in splits for row in split)
    assert max(counted.values()) == 1  # of the texts told twice, one was kept


def test_without_a_file_it_is_said_which_one_to_get(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"yelp_review_full .*load_task\('yelp', file='train.csv'"):
        load_task("yelp")
    for options in ({"file": tmp_path / "no.csv"}, {"file": __file__, "test_file": tmp_path / "no.csv"}):
        with pytest.raises(DataNotFoundError, match=r"no file .*no\.csv: get train\.csv"):
            load_task("yelp", **options)


def test_a_small_transformer_reads_them_and_needs_their_order():
    task = load_task("reviews")
    network = BERT(len(made_vocabulary()), 32, 2, 2, 64, 13)
    assert sum(p.numel() for p in network.parameters()) < 40_000
    zoo = train_zoo(task, network, members=1, recipe=Recipe(epochs=5, batch_size=32, lr=4e-3), scored=("validation",))
    assert min(zoo.record["scores"]["validation"]) >= 0.85
    shuffled, draw = task.validation.x.clone(), np.random.default_rng(0)
    for row in shuffled:
        said = row[row != PADDING][1:]
        row[1 : 1 + len(said)] = said[torch.from_numpy(draw.permutation(len(said)))]
    assert task.score(predict(zoo, shuffled), task.validation.y) < 0.6
