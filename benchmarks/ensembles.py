"""Ensembles of generated networks against each other, and against the trivial way: training a few more.

    python -m benchmarks.ensembles [--images 1000 6000] [--seeds 0 1 2] [--members 3 10 30 100] [--toy]

From zoos of N networks that know glyphs (digits, drawn anew for each seed), every way makes 100 further ones. At equal
number: 100 trained networks. At equal cost: as many trained networks as the same seconds give. Counted are seconds of
the processor, on one thread, of training, aligning, fitting and generating; not of measuring, or of trying out a width.
Widths, temperatures, and how many generated networks join the members are chosen on validation; the test split is read
once, to report. Besides: letters and noisy digits, to be told from digits by how unsure the networks are, and noisy
digits, to be read. What the file holds is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, product
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.ensembles_page import page
from benchmarks.kept import run_missing
from dwflow_lite import MLP, DeepWeightFlow, Recipe, Task, Zoo, canonicalise, load_task, train_zoo
from dwflow_lite.generate import AffineMixture, DropoutMasks, GaussianCodes, Generator, LeadingFlow, MemberNoise, Soup
from dwflow_lite.support.devices import one_thread
from dwflow_lite.tasks import Difficulty
from dwflow_lite.use import auroc, ensemble, uncertainty
from dwflow_lite.use.ensembles import MEASURES

Result = TypeVar("Result")

OUT = Path("benchmarks/results/ensembles.json")
MEMBERS = (3, 10, 30, 100)  # of the zoos
COUNTS = (1, 3, 10, 30, 100)  # at which the curves of generated networks are kept
# At which trained networks stand beside the others, cost for cost.
TRAINED = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 15, 20, 30, 32, 35, 40, 50, 70, 100, 105, 110, 115, 120)
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.3)  # of spread, in units of the members' own
LEVELS = (0.05, 0.1, 0.2, 0.4)  # of noise, in units of each tensor's deviation
RIVALS = 30  # the largest zoo beside which other networks are trained: wide, with dropout, with less decay
WIDTH = 256
# What is drawn is named here, so that other defaults of glyphs are no other question.
DIFFICULTY = Difficulty(tilt=15, shear=0.25, scale=0.2, shift=0.1, occlusion=0.25, noise=0.15)
# Training images -> recipe. On validation, another seed's, networks that learn from few images read best, alone and
# together, with a weight decay of 1 (of 0.1 and 1), those that learn from many with 0.1 (of 0.02, 0.1, 0.3 and 1). Zoos
# are trained with 1, which makes generated networks good (notebook 09); networks trained with 0.1 stand beside them.
RECIPES = {
    1000: Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=60, batch_size=64),
    6000: Recipe(optimizer="adamw", lr=3e-3, weight_decay=1.0, epochs=20, batch_size=128),
}


@dataclass(frozen=True)
class Given:
    """What all ways of a seed have in common.

    Attributes:
        task: digits.
        noisy: digits with twice the noise of the pixels.
        letters: (n, 1, 12, 12).
        recipe: of every network.
        width: of the one hidden layer.
        samples: how many networks each way makes.
        seed: of all.
    """

    task: Task
    noisy: Task
    letters: Tensor = field(repr=False)
    recipe: Recipe
    width: int = WIDTH
    samples: int = 100
    seed: int = 0

    @classmethod
    def of(cls, images: int, seed: int, toy: bool = False) -> Given:
        """The tasks and sizes of one seed, to learn from so many images."""
        fewer = {"train": 120, "calibration": 20, "validation": 60, "test": 100} if toy else {"train": images}
        looked_at = {"train": 30, "calibration": 30, "validation": 30, "test": 60 if toy else 1000}
        drawn = partial(load_task, "glyphs", seed=seed, difficulty=DIFFICULTY)
        noisy = drawn(domain="noisy", **looked_at)
        letters = drawn(symbols="letters", **looked_at).test.x
        smaller = {"width": 8, "samples": 4} if toy else {}
        recipe = Recipe(epochs=2) if toy else RECIPES[images]
        return cls(drawn(**fewer), noisy, letters, recipe, seed=seed, **smaller)

    def train(self, members: int, times: int = 1, dropout: float = 0.0, decay: float | None = None) -> Trained:
        """Train networks of this width, or of so many times as many hidden units."""
        network = MLP([self.task.train.x[0].numel(), times * self.width, self.task.outputs], dropout=dropout)
        recipe = self.recipe if decay is None else replace(self.recipe, weight_decay=decay)
        sizes = {"members": members, "seed": self.seed, "members_at_once": 10}
        seconds, zoo = cpu(lambda: train_zoo(self.task, network, recipe=recipe, **sizes))
        return Trained(zoo, seconds / members)


@dataclass(frozen=True)
class Trained:
    """Networks, and the seconds that each of them took to train."""

    zoo: Zoo
    each: float

    def first(self, members: int) -> tuple[Zoo, dict[str, float]]:
        """So many of them, and what they cost."""
        return self.zoo.take(range(members)), {"train": members * self.each}


@dataclass(frozen=True)
class Way:
    """Networks that answer together, and what they cost.

    Attributes:
        name: of how they were made.
        networks: in the order in which they join.
        seconds: by what they were spent on; training the zoo is among them.
        chosen: on validation.
        first: so many of the networks are members that join anyway; the others, as many as validation wants.
    """

    name: str
    networks: Zoo
    seconds: dict[str, float]
    chosen: dict[str, float] = field(default_factory=dict)
    first: int = 0


def cpu(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of the processor, and what a call gave: others on the machine do not count."""
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def joined(*zoos: Zoo) -> Zoo:
    """All networks of several zoos of one architecture."""
    return Zoo(torch.cat([zoo.weights for zoo in zoos]), zoos[0].layout, zoos[0].network)


# -- what is measured ------------------------------------------------------------------------------------------------


def report(networks: Zoo, given: Given, first: int = 0) -> dict:
    """All that is measured of networks that answer together, temperatures from validation.

    Args:
        networks: in the order in which they join.
        given: tasks.
        first: of networks after so many, only as many join as have the lowest NLL on validation.
    """
    counts = [first + count for count in (0, *COUNTS) if 0 < first + count <= len(networks)]
    chosen = ensemble(networks, given.task, counts=counts, temperature="fitted")
    if first:
        best = chosen.counts[int(chosen.nll.argmin())]
        networks = networks.take(range(best))
        counts = [count for count in counts if count <= best]
    temperature = chosen.temperature[[chosen.counts.index(count) for count in sorted({*counts, len(networks)})]]
    found = ensemble(networks, given.task, "test", counts=counts, temperature=temperature)
    numbers = {"counts": list(found.counts), "alone": round(float(found.members.mean()), 5)}
    for name in (*MEASURES, "temperature"):
        numbers[name] = [round(value, 5) for value in getattr(found, name).tolist()]
    numbers["validation nll"] = round(chosen.at(len(networks))["nll"], 5)
    return numbers | doubts(networks, given, float(temperature[-1]))


def doubts(networks: Zoo, given: Given, temperature: float) -> dict:
    """How all networks together read noisy digits, and how well their doubt tells those, and letters, from digits."""
    inside = uncertainty(networks, given.task.test.x[: len(given.letters)])
    numbers: dict = {"detected": {}}
    for name, x in {"letters": given.letters, "noisy": given.noisy.test.x}.items():
        areas = auroc(inside, uncertainty(networks, x))
        numbers["detected"][name] = {kind: round(area, 5) for kind, area in areas.items()}
    noisy = ensemble(networks, given.noisy, "test", counts=[], temperature=temperature).whole
    return numbers | {"noisy": {name: round(noisy[name], 5) for name in ("accuracy", "nll", "ece")}}


def chosen_on_validation(
    make: Callable[[float], Generator], values: Sequence[float], zoo: Zoo, given: Given
) -> float:  # fmt: skip
    """The value at which 30 networks of a generator, together, have the lowest NLL on validation."""
    losses = {}
    for value in values:
        made = make(value).fit(zoo).sample(min(30, given.samples), seed=given.seed + 100)
        losses[value] = ensemble(made, given.task, counts=[], temperature="fitted").whole["nll"]
    return min(losses, key=losses.__getitem__)


# -- the ways --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def shared(images: int, seed: int, toy: bool) -> tuple[Given, dict[str, Trained]]:
    """What a seed is given, and the networks that are trained for it, by kind."""
    given = Given.of(images, seed, toy)
    total, rivals = (6, 3) if toy else (TRAINED[-1], RIVALS)
    trained = {
        "members": given.train(total),
        "trained with less decay": given.train(rivals, decay=0.1),
        "trained with dropout": given.train(rivals, decay=0.1, dropout=0.2),
    }
    return given, trained


def generated_ways(members: Zoo, given: Given, train: float) -> Iterator[Way]:
    """Networks that generators make of an aligned zoo, alone and joining its members, who took ``train`` seconds."""
    align, aligned = cpu(lambda: canonicalise(members, rounds=5, seed=given.seed))
    signs = partial(AffineMixture, None, "signs")
    wide = chosen_on_validation(lambda f: GaussianCodes(factor=f), FACTORS, aligned, given)
    mixed = chosen_on_validation(lambda f: signs(factor=f), FACTORS, aligned, given)
    level = chosen_on_validation(MemberNoise, LEVELS, members, given)
    generators: dict[str, tuple[Generator, Zoo, dict[str, float]]] = {
        "copies (flow, default)": (DeepWeightFlow(align=None, seed=given.seed), aligned, {}),
        "flow on 2 codes, others drawn": (LeadingFlow(2, factor=wide, seed=given.seed), aligned, {"factor": wide}),
        "Gaussian on codes": (GaussianCodes(factor=wide), aligned, {"factor": wide}),
        "mixtures of all": (signs(factor=mixed), aligned, {"factor": mixed}),
        "affine mixtures of 5": (AffineMixture(5), aligned, {}),
        "zoo + noise": (MemberNoise(level), members, {"level": level}),
        "Gaussian on codes, not aligned": (GaussianCodes(factor=wide), members, {"factor": wide}),
    }
    for name, (generator, zoo, chosen) in generators.items():
        fit, fitted = cpu(partial(generator.fit, zoo))
        generate, made = cpu(partial(fitted.sample, given.samples, seed=given.seed + 1))
        seconds = {"train": train, "align": align if zoo is aligned else 0.0, "fit": fit, "generate": generate}
        yield Way(name, made, seconds, chosen)
        if name in ("Gaussian on codes", "mixtures of all", "zoo + noise"):
            yield Way(f"members, and {name}", joined(members, made), seconds, chosen, first=len(members))
    fit, soup = cpu(lambda: Soup(len(members)).fit(aligned).sample(1, seed=0))
    yield Way("soup of all", soup, {"train": train, "align": align, "fit": fit, "generate": 0.0})


def trained_ways(number: int, given: Given, trained: Mapping[str, Trained]) -> Iterator[Way]:
    """So many members themselves, and networks trained otherwise; one network of as many weights; dropout's masks."""
    for name, networks in trained.items():
        if name == "members" or number <= len(networks.zoo):
            yield Way(name, *networks.first(number))
    if number > RIVALS:
        return
    yield Way("one wide network", *given.train(1, times=number).first(1))
    dropped, seconds = trained["trained with dropout"].first(number)
    generate, masked = cpu(lambda: DropoutMasks().fit(dropped).sample(given.samples, seed=given.seed + 1))
    yield Way("masks of dropout", masked, seconds | {"generate": generate})


def one_zoo(images: int, seed: int, number: int, toy: bool) -> dict:
    """Every way from a zoo of so many members."""
    found: dict[str, dict] = {}
    with one_thread():
        given, trained = shared(images, seed, toy)
        members, seconds = trained["members"].first(number)
        ways = (trained_ways(number, given, trained), generated_ways(members, given, seconds["train"]))
        for way in chain(*ways):
            about = {"seconds": {name: round(value, 4) for name, value in way.seconds.items()}, "chosen": way.chosen}
            found[way.name] = about | {"networks": len(way.networks)} | report(way.networks, given, way.first)
            told = {name: found[way.name][name][-1] for name in ("accuracy", "nll")}
            print(f"{images} images, seed {seed}, {number} members, {way.name}: {told}, {about}", flush=True)
    return {"seconds of one network": round(trained["members"].each, 4), "ways": found}


def all_trained(images: int, seed: int, toy: bool) -> dict:
    """Trained networks alone, more and more of them."""
    with one_thread():
        given, trained = shared(images, seed, toy)
        networks = trained["members"]
        counts = [count for count in TRAINED if count <= len(networks.zoo)]
        found = {str(count): report(networks.zoo.take(range(count)), given) for count in counts}
    return {"seconds of one network": round(networks.each, 4), "trained": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="*", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--members", type=int, nargs="*", default=list(MEMBERS))
    parser.add_argument("--toy", action="store_true", help="tiny sizes: whether it runs")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    jobs: dict[str, Callable[[], dict]] = {}
    for images, seed in product(args.images, args.seeds):
        name = f"{images} images, seed {seed}"
        jobs[f"{name}, trained"] = partial(all_trained, images, seed, args.toy)
        for number in args.members:
            jobs[f"{name}, {number} members"] = partial(one_zoo, images, seed, number, args.toy)
    run_missing(args.out, "python -m benchmarks.ensembles", jobs, page)


if __name__ == "__main__":
    main()
