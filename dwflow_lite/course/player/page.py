"""The player as one file: data that the page decodes, its look, and the still for who runs no scripts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from dwflow_lite.course.paths import write_atomic
from dwflow_lite.course.player.embed import LOOK_OF_PLAYER
from dwflow_lite.course.player.packing import packed
from dwflow_lite.course.player.telling import medians, sentence
from dwflow_lite.course.player.trajectories import Family, Scene, Sizes, family, scenes
from dwflow_lite.course.site.frame import LOOK
from dwflow_lite.figures import draw_flow, png
from dwflow_lite.support.devices import one_thread
from dwflow_lite.support.paths import check_writable
from dwflow_lite.tasks import Task, load_task

HERE = Path(__file__).parent
DIGITS = 5  # that the chosen network reads
POLICY = "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
HOME = '<p class="back"><a href="index.html">← All notebooks</a></p>\n'
STILL = (64, "not aligned", "flow")  # the scene of the still, or the last where the player has no such width
STILL_OF = "Networks on their way: left the first two codes of networks and members, right accuracy against time"


def write_player(path: Path, sizes: Sizes | None = None, made: str = "") -> Path:
    """Train the zoos and the flows on one thread, and write the player.

    Args:
        path: of the page.
        sizes: None: those of a course run on a laptop.
        made: kept in the page, so that a later run knows from what it was made. One that a run makes stands in a
            site, and leads back to its home.

    Raises:
        OSError: the page cannot be written.
    """
    sizes = Sizes() if sizes is None else sizes
    check_writable(path)  # before half a minute of training
    with one_thread():
        task = load_task("digits", seed=sizes.seed)
        families = {width: family(task, width, sizes) for width in sizes.widths}
        shown = [scene for width in sizes.widths for scene in scenes(task, families[width], width, sizes)]
        write_atomic(path, player_page(task, families, shown, made))
    return path


def player_page(task: Task, families: dict[int, Family], shown: Sequence[Scene], made: str = "") -> str:
    """The page as text; it fetches nothing, and no script runs in it but its own."""
    data = json.dumps(player_data(task, families, shown), separators=(",", ":"))
    of_still = next((one for one in shown if (one.width, one.basis, one.kind) == STILL), shown[-1])
    nonce = hashlib.sha256(data.encode()).hexdigest()[:32]
    template, style, *scripts = ((HERE / name).read_text(encoding="utf-8") for name in LOOK_OF_PLAYER)
    return Template(template).substitute(
        policy=POLICY.format(nonce=nonce),
        nonce=nonce,
        made=html.escape(made),
        home=HOME if made else "",
        look=LOOK["page.css"] + style,
        theme=LOOK["theme.js"],
        data=data.replace("<", "\\u003c"),
        script="".join(scripts),
        still=_still(of_still, 1 / task.outputs),
        says=html.escape(sentence(of_still, 1 / task.outputs)),
    )


def player_data(task: Task, families: dict[int, Family], shown: Sequence[Scene]) -> dict[str, Any]:
    """What the page decodes: zoos, the ways through them, and digits to be read."""
    chance = 1 / task.outputs
    images, labels = _different_digits(task)
    return {
        "chance": chance,
        "examples": len(task.validation.y),
        "images": packed(images, 8),
        "labels": labels,
        "zoos": {width: _packed_family(of) for width, of in families.items()},
        "scenes": [_packed_scene(scene, chance) for scene in shown],
    }


def _different_digits(task: Task) -> tuple[Tensor, list[int]]:
    """The first test images of different digits (5, 64), and what they are."""
    first: dict[int, int] = {}
    for position, label in enumerate(task.test.y.tolist()):
        first.setdefault(label, position)
    positions = list(first.values())[:DIGITS]
    return task.test.x[positions].flatten(1), list(first)[:DIGITS]


def _packed_family(of: Family) -> dict[str, Any]:
    """Every tensor of every member, and the orders of units in which they are aligned."""
    layout = of.zoo.layout
    return {
        "tensors": [
            packed(of.zoo.weights[:, layout.slices[entry.name]].reshape(-1, *entry.shape), 8)
            for entry in layout.entries
        ],
        "orders": [packed_order(order) for order in of.orders.values()],
        "accuracy": [float(of.accuracy.min()), float(of.accuracy.median()), float(of.accuracy.max())],
    }


def packed_order(order: Tensor) -> str:
    """Orders of at most 256 units (N, units), a byte each."""
    return base64.b64encode(order.to(torch.uint8).numpy().tobytes()).decode()


def _packed_scene(scene: Scene, chance: float) -> dict[str, Any]:
    _, distance = medians(scene)
    return {
        "width": scene.width,
        "basis": scene.basis,
        "kind": scene.kind,
        "says": sentence(scene, chance),
        "shares": packed(scene.shares - 1 / scene.shares.shape[-1], 8),
        "points": packed(scene.points, 16),
        "members": packed(scene.members, 16),
        "accuracy": packed(scene.accuracy, 16),
        "distance": packed(scene.distance, 16),
        "ends": distance,
    }


def _still(scene: Scene, chance: float) -> str:
    """A picture of a moment of a scene, in HTML: what the course's home shows, and who runs no scripts sees."""
    frame = round(0.7 * (len(scene.points) - 1))
    figure = draw_flow(scene.members, scene.points, scene.accuracy, frame, chance)
    picture = base64.b64encode(png(figure, dpi=70)).decode()
    return f'<img class="signature" alt="{STILL_OF}" src="data:image/png;base64,{picture}">'
