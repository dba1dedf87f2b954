"""The player inside the notebooks' pages: where it stands, what it begins with there, and the HTML that shows it."""

from __future__ import annotations

import html
import re

FILE = "player.html"  # in the folder of the site
LOOK_OF_PLAYER = ("player.html", "player.css", "networks.js", "player.js")  # in the folder of this file
# A notebook whose first widget stands in its page as a still -> what the player below it begins with.
PLACES = {
    "00_a_network_from_noise": "basis=aligned&kind=flow&width=16",
    "06_generating_weights": "basis=not+aligned&kind=flow&width=16",
    "09_new_and_accurate": "basis=aligned&kind=Gaussian&width=64",
}
MARK = re.compile(r"<!--player (\w+)-->.*?<!--/player-->", re.DOTALL)
WIDGET = re.compile(r"<p class=(['\"])widget\1>.*?</p>", re.DOTALL)


def marked(body: str, stem: str) -> str:
    """The cells of a notebook with a place for the player below its first widget, if it is one of ``PLACES``."""
    place = f"<!--player {stem}--><!--/player-->" if stem in PLACES else ""
    return WIDGET.sub(lambda widget: widget[0] + place, body, count=1)


def filled(page: str, is_there: bool) -> str:
    """The page with the player in the places that are marked for it, or with empty places if there is no player."""

    def place(mark: re.Match[str]) -> str:
        stem = mark[1]
        inside = shown(PLACES[stem]) if is_there and stem in PLACES else ""
        return f"<!--player {stem}-->{inside}<!--/player-->"

    return MARK.sub(place, page)


def shown(begin: str) -> str:
    """The player in a frame, and a link to it; ``begin`` is what it begins with."""
    address = html.escape(f"../{FILE}#{begin}")
    return (
        f'<figure class="player"><iframe src="{address}" title="The player: networks on their way from noise" '
        'loading="lazy"></iframe><figcaption>The course\'s player, which works in this page: zoos and networks of its '
        f'own, not those of the cells above. <a href="{address}">The player on a page of its own</a></figcaption>'
        "</figure>"
    )
