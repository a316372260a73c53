"""The comparison as one self-contained page."""

from __future__ import annotations

from mtquant_rllib.evaluation.compare import attribution, learning, performance, seeds
from mtquant_rllib.evaluation.compare.comparison import Comparison
from mtquant_rllib.evaluation.compare.table import figure_cells, verdict_cells
from mtquant_rllib.evaluation.web_page.page import Page, PageSection
from mtquant_rllib.evaluation.web_page.panel import Panel, number


def build_page(comparison: Comparison, title: str, line_points: int) -> Page:
    """line_points: kept of a drawn line; fewer where there are many lines, so that the page stays light."""
    points = max(min(line_points, 40 * line_points // max(len(comparison.rows), 40)), 100)
    first, context = comparison.runs[0], comparison.runs[0].context
    best = max(comparison.rows, key=lambda row: row.run.values["sharpe_ann"])
    sections = [
        PageSection(
            "performance",
            "Performance",
            (
                performance.wealth_panel(comparison, points),
                performance.rolling_panel(comparison, points),
                performance.years_panel(comparison),
                performance.months_panel(comparison),
                performance.distribution_panel(comparison),
            ),
        ),
        PageSection(
            "attribution",
            "Where it came from",
            (
                attribution.parts_panel(comparison),
                attribution.costs_panel(comparison),
                attribution.trading_panel(comparison, points),
                attribution.edits_panel(comparison),
            ),
        ),
        PageSection("learning_section", "Seeds, learning and settings", *_learning(comparison)),
    ]
    facts = context["facts"]
    return Page(
        title=title,
        facts=f"{context['first_date']} to {context['last_date']}, {facts.get('split', '')} split: "
        f"{context['n_bars']:,} bars, histories: {context['n_envs']}. Market: {facts.get('market', '')}.",
        tiles=(
            ("runs", str(len(comparison.rows))),
            ("highest net Sharpe", f"{number(best.run.values['sharpe_ann'])} ± {number(best.run.sharpe_error)}"),
            ("run that has it", best.run.name),
            ("settings that differ", str(len(comparison.different))),
        ),
        sections=sections,
        footer=f"Differences are from {first.name}, on the same bars; p-values are two-sided and adjusted for all runs "
        f"(Holm). Costs, bps of notional (spread/commission/slippage): {context['costs_line']}. "
        + " ".join(comparison.notes),
        choices={},
        table=[
            (*figures, *verdicts[1:]) for figures, verdicts in zip(figure_cells(comparison), verdict_cells(comparison))
        ],
    )


def _learning(comparison: Comparison) -> tuple[tuple[Panel, ...], str]:
    """Panels, and why there are none."""
    found = (
        seeds.seeds_panel(comparison),
        learning.learning_panel(comparison),
        learning.settings_panel(comparison),
    )
    panels = tuple(panel for panel in found if panel is not None)
    return panels, "" if panels else "The runs kept no learning curves, and agree in all settings."
