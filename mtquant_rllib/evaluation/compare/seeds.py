"""The panel of seeds: how many of a configuration's runs are better than what (Agarwal et al. 2021)."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.evaluation.compare.colours import faint, run_colours
from mtquant_rllib.evaluation.compare.comparison import Comparison
from mtquant_rllib.evaluation.compare.table import configuration_cells
from mtquant_rllib.evaluation.web_page.panel import Panel, layout, short

_BANDS_MOST = 4
"""Configurations whose bands can be told apart."""


def _band_words(comparison: Comparison, several: int) -> str:
    return f", with the band of {comparison.confidence:.0%} of resampled seeds" if several <= _BANDS_MOST else ""


def seeds_panel(comparison: Comparison) -> Panel | None:
    """Performance profiles of the configurations with several seeds; None where there are none."""
    several = [one for one in comparison.configurations if one.profile is not None]
    if not several:
        return None
    traces: list[dict[str, Any]] = []
    colours = run_colours([str(number) for number in range(len(several))]).values()
    for number, (colour, one) in enumerate(zip(colours, several, strict=True)):
        profile = one.profile
        assert profile is not None
        band = {
            "type": "scatter",
            "x": short(np.concatenate((profile.thresholds, profile.thresholds[::-1]))),
            "y": short(np.concatenate((profile.upper, profile.lower[::-1]))),
            "fill": "toself",
            "fillcolor": faint(colour, 0.15),
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": str(number),
        }
        line = {
            "type": "scatter",
            "mode": "lines",
            "x": short(profile.thresholds),
            "y": short(profile.share),
            "line": {"color": colour, "width": 2},
            "name": f"{one.name} ({len(one.rows)} seeds)",
            "legendgroup": str(number),
            "hovertemplate": "%{y:.0%} of seeds above %{x:.2f}",
        }
        traces += [band, line] if len(several) <= _BANDS_MOST else [line]
    cells = configuration_cells(comparison)
    return Panel(
        "seeds",
        "Seeds of one configuration",
        "Share of a configuration's seeds whose net Sharpe ratio on these bars is above the value below"
        f"{_band_words(comparison, len(several))}. Where one line lies above another everywhere, that configuration is "
        "better at every level. IQM is the mean of the middle half of the seeds.",
        {
            "data": traces,
            "layout": layout(
                xaxis={"title": {"text": "net Sharpe ratio"}},
                yaxis={"title": {"text": "share of seeds above"}, "range": [0, 1.02], "tickformat": ".0%"},
            ),
        },
        380,
        table=tuple(cells),
    )
