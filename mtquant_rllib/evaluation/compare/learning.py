"""Panels of how the runs learned and in which settings they differ."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtquant_rllib.evaluation.compare.colours import run_colours
from mtquant_rllib.evaluation.compare.comparison import Comparison
from mtquant_rllib.evaluation.web_page.panel import SEQUENTIAL, Panel, layout, number, short

_DASHES = ("solid", "dash", "dot", "dashdot")


def learning_panel(comparison: Comparison) -> Panel | None:
    """Validation Sharpe ratio over bars and over wall time; None where no run kept its curves."""
    colours, traces = run_colours([run.name for run in comparison.runs]), []
    for run in comparison.runs:
        for position, curve in enumerate(run.learning):
            style = {"color": colours[run.name], "width": 1.6, "dash": _DASHES[position % len(_DASHES)]}
            common = {
                "type": "scatter",
                "mode": "lines+markers",
                "marker": {"size": 4},
                "line": style,
                "name": f"{run.name}, {curve.trial}",
                "legendgroup": run.name,
                "y": short(curve.sharpe),
            }
            traces += [
                {**common, "x": short(curve.bars), "hovertemplate": "%{x:,.0f} bars: %{y:.2f}"},
                {**common, "x": short(curve.hours), "xaxis": "x2", "yaxis": "y2", "showlegend": False,
                 "hovertemplate": "%{x:.2f} hours: %{y:.2f}"},
            ]  # fmt: skip
    if not traces:
        return None
    return Panel(
        "learning",
        "Learning curves",
        "Net Sharpe ratio on the validation bars, over bars trained on the left and over hours on the right. One line "
        "a trial of the run's last phase.",
        {
            "data": traces,
            "layout": layout(
                xaxis={"domain": [0, 0.48], "title": {"text": "bars"}},
                xaxis2={"domain": [0.54, 1], "title": {"text": "hours"}, "anchor": "y2"},
                yaxis={"title": {"text": "validation Sharpe"}},
                yaxis2={"anchor": "x2", "matches": "y", "showticklabels": False},
                legend={"x": 1.01, "y": 1, "yanchor": "top"},
            ),
        },
        420,
    )


def settings_panel(comparison: Comparison) -> Panel | None:
    """Parallel coordinates of the settings that differ, with the Sharpe ratio; None where none differ or all runs are
    one."""
    if not comparison.different or len(comparison.rows) < 2:
        return None
    sharpe = np.array([row.run.values["sharpe_ann"] for row in comparison.rows])
    axes = [_axis(path, [row.differs[path] for row in comparison.rows]) for path in comparison.different]
    axes.append({"label": "test Sharpe", "values": short(sharpe)})
    known = sharpe[np.isfinite(sharpe)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    figure = {
        "data": [
            {
                "type": "parcoords",
                "line": {
                    "color": short(np.nan_to_num(sharpe, nan=low)),
                    "colorscale": [list(stop) for stop in SEQUENTIAL],
                    "cmin": low,
                    "cmax": high if high > low else low + 1,
                },
                "dimensions": axes,
                "labelangle": -12,
            }
        ],
        "layout": layout(margin={"l": 80, "r": 60, "t": 90, "b": 30}),
    }
    head = ("run", *comparison.different, "test Sharpe")
    rows = [
        (row.run.name, *(str(row.differs[path]) for path in comparison.different), number(row.run.values["sharpe_ann"]))
        for row in comparison.rows
    ]
    return Panel(
        "settings",
        "Settings that differ",
        "One line a run through its settings to its Sharpe ratio, darker where that is higher. Settings in which all "
        "runs agree are left out. Drag along an axis to keep the runs that cross it there.",
        figure,
        440,
        table=(head, *rows),
    )


def _axis(path: str, values: list[Any]) -> dict[str, Any]:
    """A setting's axis: numbers as they are, everything else as names."""
    label = path.rpartition(".")[2]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return {"label": label, "values": short(np.array(values, dtype=float))}
    names = list(dict.fromkeys(map(str, values)))
    places = [names.index(str(value)) for value in values]
    return {"label": label, "values": places, "tickvals": list(range(len(names))), "ticktext": names}
