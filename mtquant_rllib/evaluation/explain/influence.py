"""Panels of the importance of groups of columns: occlusion, and attention with its faithfulness."""

from __future__ import annotations

import numpy as np

from mtquant_rllib.evaluation.explain.collect import ExplanationData, Influence
from mtquant_rllib.evaluation.explain.importance import Faithfulness
from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES, mean_by_regime
from mtquant_rllib.evaluation.web_page.panel import (
    CLAIM_COLOURS,
    GROUP_COLOURS,
    SEQUENTIAL,
    Panel,
    cells,
    heading,
    layout,
    number,
    percent,
    short,
)

OCCLUSION = "occlusion"
_SPOKEN = {OCCLUSION: "occlusion", "received": "attention received", "rollout": "attention rollout"}


def shares(influence: Influence) -> dict[str, np.ndarray]:
    """Measure -> mean importance of each group as a share of all, (G,); occlusion first. 0 where nothing has effect."""
    means = {OCCLUSION: influence.effect.mean(axis=0)}
    means |= {name: claim.mean(axis=0, dtype=np.float64) for name, claim in influence.claims.items()}
    return {name: mean / mean.sum() if mean.sum() > 0 else np.zeros_like(mean) for name, mean in means.items()}


def verdict(name: str, faith: Faithfulness, least: float) -> str:
    """One sentence on an attention measure. least: agreement from which on it is called faithful."""
    agreement, chance = faith.agreement, faith.random
    measured = (
        f"its rank agreement with occlusion is {number(agreement.estimate)} "
        f"[{number(agreement.lower)}, {number(agreement.upper)}], where 1 is the same order; with its groups renamed "
        f"it has {number(chance.estimate)} [{number(chance.lower)}, {number(chance.upper)}], and a share of "
        f"{number(faith.p_value)} of the renamings does as well"
    )
    what = _SPOKEN[name].capitalize()
    if faith.beats_chance and faith.agreement.estimate >= least:
        return f"{what} is faithful here: {measured}."
    if faith.beats_chance:
        return (
            f"{what} is faithful in part only: {measured}. It knows more of the order than chance does, and less than "
            "a picture of importance promises."
        )
    return f"{what} is not faithful here: {measured}. It says where the network looks, not what its decisions rest on."


def verdicts(influence: Influence) -> tuple[str, ...]:
    """On every attention measure: whether it orders the groups as occlusion does, and how far its sizes are off.

    Attention that hardly differs between groups can have their order and say nothing of how much each matters.
    """
    parts, sentences = shares(influence), []
    for name, faith in influence.faith.items():
        sentence = verdict(name, faith, influence.faithful_agreement)
        if parts[OCCLUSION].any():
            furthest = int(np.abs(parts[name] - parts[OCCLUSION]).argmax())
            claimed, found = (percent(parts[part][furthest], 0) for part in (name, OCCLUSION))
            sentence += f" That is on their order; in size it gives {influence.groups[furthest]} {claimed} of the "
            sentence += f"whole, and occlusion {found}: no group's share is further off."
        sentences.append(sentence)
    return tuple(sentences)


def importance_panel(material: ExplanationData) -> Panel:
    influence = material.influence
    parts, groups = shares(influence), influence.groups
    wide = len(parts) > 1
    split = 0.52 if wide else 0.6
    traces = [
        {
            "type": "bar",
            "x": list(groups),
            "y": short(share),
            "name": _SPOKEN[name],
            "marker": {"color": CLAIM_COLOURS[name]},
            "text": [percent(value, 0) for value in share],
            "textposition": "outside",
            "textangle": 0,
            "textfont": {"size": 9},
            "cliponaxis": False,
            "hovertemplate": "%{x}: %{y:.1%}",
        }
        for name, share in parts.items()
    ]
    pies, headings = [], []
    width = (1 - split - 0.06) / len(parts)
    for position, (name, share) in enumerate(parts.items()):
        left = split + 0.06 + position * width
        pies.append(
            {
                "type": "pie",
                "labels": list(groups),
                "values": short(share),
                "domain": {"x": [left + 0.01, left + width - 0.01], "y": [0.12, 0.88]},
                "hole": 0.5,
                "sort": False,
                "marker": {"colors": [GROUP_COLOURS[g % len(GROUP_COLOURS)] for g in range(len(groups))]},
                "textinfo": "none",
                "hovertemplate": "%{label}: %{percent}<extra></extra>",
                "legend": "legend2",
            }
        )
        # On two lines, or they meet on a narrow screen.
        centre = heading(_SPOKEN[name].replace(" ", "<br>"), left + width / 2, 0.87)
        headings.append({**centre, "xanchor": "center", "align": "center"})
    highest = max(float(share.max()) for share in parts.values())
    figure = {
        "data": [*traces, *pies],
        "layout": layout(
            barmode="group",
            # Wide bars: their labels must not run into one another on a narrow screen.
            bargap=0.08,
            xaxis={"domain": [0, split], "showgrid": False},
            yaxis={"tickformat": ".0%", "range": [0, max(1.15 * highest, 0.05)], "title": {"text": "share"}},
            annotations=headings,
            showlegend=True,
            legend2={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.1, "yanchor": "top"},
        ),
    }
    lead = (
        f"Occlusion is the fact: how far {material.decisions.agent}'s {influence.gives} move when a group's columns "
        f"come from other moments (mean change {influence.effect.mean(axis=0).sum():.3g} over all groups)."
    )
    if wide:
        lead += " Attention received and attention rollout are claims read off the network; their score is below."
    notes = verdicts(influence)
    if not influence.effect.any():
        notes = ("No group moves its decisions: this policy answers the same whatever it sees.", *notes)
    if influence.linear_skip_share is not None:
        notes = (
            *notes,
            f"{influence.linear_skip_share:.0%} of what moves its logits is the linear skip beside the network: "
            "attention says nothing of it.",
        )
    return Panel(
        "importance",
        "What decisions rest on",
        lead,
        figure,
        400,
        notes=(*notes, f"Measured on {len(influence.effect):,} decisions, evenly spread."),
        table=_statistics(influence),
    )


def _statistics(influence: Influence) -> tuple[tuple[str, ...], ...]:
    """Mean, deviation, extremes, and the share of decisions in which a group is the most important."""
    rows: list[tuple[str, ...]] = [("measure", "group", "mean", "deviation", "lowest", "highest", "most important in")]
    for name, values in {OCCLUSION: influence.effect, **influence.claims}.items():
        first = values.argmax(axis=1)
        for g, group in enumerate(influence.groups):
            column = values[:, g].astype(np.float64)
            figures = (column.mean(), column.std(), column.min(), column.max())
            rows.append((_SPOKEN[name], group, *(f"{v:.3g}" for v in figures), percent(np.mean(first == g), 0)))
    return tuple(rows)


def importance_by_regime_panel(material: ExplanationData) -> Panel:
    influence = material.influence
    measures = {OCCLUSION: influence.effect, **influence.claims}
    count, gap = len(measures), 0.05
    width = (1 - gap * (count - 1)) / count
    traces, axes, headings = [], {}, []
    for position, (name, values) in enumerate(measures.items()):
        means = mean_by_regime(values.astype(np.float64), influence.regime).T
        total = means.sum(axis=0)
        z = np.divide(means, total, out=np.full_like(means, np.nan), where=total > 0)
        suffix = "" if position == 0 else str(position + 1)
        left = position * (width + gap)
        text = [[percent(value, 0) for value in row] for row in z]
        traces.append(
            cells(z, text, REGIME_NAMES, influence.groups, SEQUENTIAL, zmin=0, zmax=max(0.5, np.nanmax(z, initial=0.0)))
            | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
        )
        axes[f"xaxis{suffix}"] = {"domain": [left, left + width], "anchor": f"y{suffix}", "showgrid": False}
        axes[f"yaxis{suffix}"] = {
            "anchor": f"x{suffix}",
            "autorange": "reversed",
            "showgrid": False,
            "showticklabels": position == 0,
        }
        headings.append(heading(_SPOKEN[name], left, 1.02))
    return Panel(
        "importance_regimes",
        "What decisions rest on, regime by regime",
        "Shares of the groups within each regime: columns add up to 100%. Columns that look alike mean that the policy "
        "reads the same things in every regime.",
        {
            "data": traces,
            "layout": layout(margin={"l": 70, "r": 20, "t": 60, "b": 30}, **axes, annotations=headings),
        },
        130 + 40 * len(influence.groups),
    )
