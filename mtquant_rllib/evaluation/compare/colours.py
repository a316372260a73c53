"""One colour a run, the same in every panel."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from mtquant_rllib.evaluation.report.book_styles import COLOURS

_GOLDEN = 0.618034
"""Steps of this share around the colour circle land far from every earlier one."""


def run_colours(names: Sequence[str]) -> dict[str, str]:
    """Run -> colour: the ones that can be told apart with any colour vision as far as they go, then others."""
    return {name: _colour(number) for number, name in enumerate(names)}


def _colour(number: int) -> str:
    if number < len(COLOURS):
        return COLOURS[number]
    light = (0.35, 0.5, 0.62)[number % 3]
    red, green, blue = colorsys.hls_to_rgb(number * _GOLDEN % 1, light, 0.65)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def faint(colour: str, alpha: float) -> str:
    """A colour `#rrggbb` that what lies behind it shows through."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
