"""How books are drawn, in every picture and on every page: one colour and one marker each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtquant_rllib.evaluation.backtest.baselines import HOLD_PREFIX

# Okabe and Ito (2008), and four more: told apart with any colour vision.
COLOURS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d3b", "#7570b3", "#882255", "#d55e00", "#9acd32"
)  # fmt: skip
SUBJECT_COLOUR, HELD_COLOUR = "#111111", "#b0b0b0"
LOWEST_WEALTH = 0.02
"""Wealth below this is not drawn on a logarithmic axis."""
_MARKERS = (
    ("circle", "o"), ("square", "s"), ("diamond", "D"), ("triangle-up", "^"), ("triangle-down", "v"), ("cross", "P"),
    ("x", "X"), ("pentagon", "p"), ("hexagon", "h"), ("triangle-left", "<"),
)  # fmt: skip
"""As Plotly and as Matplotlib call them."""
_PLACES = (
    "flat", "equal_weight", "inverse_volatility", "sixty_forty", "risk_parity", "momentum_60", "momentum_12_1",
    "long_all", "random", "reference",
)  # fmt: skip
"""Books whose place among the colours does not depend on which others are there."""


@dataclass(frozen=True)
class BookStyle:
    """colour: `#rrggbb`. symbol, marker: Plotly's and Matplotlib's name of the same mark."""

    colour: str
    symbol: str
    marker: str


def book_styles(names: Sequence[str]) -> dict[str, BookStyle]:
    """Book -> style, for the subject, which is first, and the books beside it. Books that hold one instrument are
    grey."""
    found = {names[0]: BookStyle(SUBJECT_COLOUR, "star", "*")}
    taken = {_PLACES.index(name) for name in names[1:] if name in _PLACES}
    free = (place for place in range(10 * len(COLOURS)) if place not in taken)
    held = 0
    for name in names[1:]:
        if is_held(name):
            symbol, marker = _MARKERS[held % len(_MARKERS)]
            found[name] = BookStyle(HELD_COLOUR, symbol, marker)
            held += 1
        else:
            place = _PLACES.index(name) if name in _PLACES else next(free)
            # Beyond the last colour the same ones come with other marks.
            symbol, marker = _MARKERS[(place + place // len(COLOURS)) % len(_MARKERS)]
            found[name] = BookStyle(COLOURS[place % len(COLOURS)], symbol, marker)
    return found


def is_held(name: str) -> bool:
    """Whether a book is one that holds a single instrument."""
    return name.startswith(HOLD_PREFIX)
