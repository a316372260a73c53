"""From material to files: which panels there are, in which order, and where they go."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mtquant_rllib import strict_json
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.evaluation.explain import attention, influence, performance, regimes, weights
from mtquant_rllib.evaluation.explain.collect import ExplanationData
from mtquant_rllib.evaluation.explain.pictures import write_pictures
from mtquant_rllib.evaluation.regimes.figures import REGIME_NAMES, regime_figures
from mtquant_rllib.evaluation.report.building import EvaluationReport, build_report
from mtquant_rllib.evaluation.web_page.page import Page, PageSection

PAGE = "explain.html"
FIGURES = "figures.json"
CLASSIFIER = "classifier.json"


def build_page(material: ExplanationData, report: EvaluationReport, settings: Settings) -> Page:
    config, agent = settings.evaluation.explain, material.decisions.agent
    figures = regime_figures(material.regime, material.regime_confidence)
    readout = material.readout
    views = None if readout is None else attention.attention_views(readout, material.decisions, config.attention_points)
    sections = [
        PageSection(
            "performance",
            "Performance",
            (performance.wealth_panel(material, report, config.line_points), performance.risk_return_panel(report)),
        ),
        PageSection(
            "regimes",
            "Market regimes",
            (
                regimes.timeline_panel(material, figures, config.line_points),
                regimes.transition_panel(figures),
                regimes.durations_panel(material, figures),
                regimes.performance_panel(material),
                regimes.comparison_panel(material),
            ),
        ),
        PageSection(
            "book",
            "Weights",
            (weights.weights_panel(material, config.line_points), weights.weight_regime_panel(material)),
        ),
        PageSection(
            "decisions",
            f"What {agent} decides on",
            (influence.importance_panel(material), influence.importance_by_regime_panel(material)),
        ),
    ]
    groups = material.influence.groups
    if readout is None or views is None:
        absent = (
            f"{agent} has a plain network: there is no attention to show. What its decisions rest on is measured by "
            "occlusion above. A run with networks.names.meta=attention (or specialist, instrument) has these panels."
        )
        sections.append(PageSection("attention", "Attention", (), absent))
    else:
        sections.append(
            PageSection(
                "attention",
                f"Attention of {agent}",
                (
                    attention.heatmap_panel(views, groups),
                    attention.evolution_panel(material, readout, views, groups),
                    attention.classifier_panel(material, readout, config.attention_points),
                ),
            )
        )
    facts, market = material.subject.facts, Path(material.subject.facts["market"]).name
    context = report.context
    return Page(
        title=f"{facts['run']}: what the {material.subject.name} did, and why",
        facts=f"{context['first_date']} to {context['last_date']}, {facts['split']} split: {context['n_bars']:,} bars, "
        f"{context['bars_per_year']:.0f} a year, histories: {context['n_envs']}. Market {market}, policies "
        f"after phase {facts['phase']}, seed {facts['seed']}. Decisions of {agent}: {len(material.decisions.obs):,}.",
        tiles=performance.tiles(report),
        sections=sections,
        footer=f"Costs, bps of notional (spread/commission/slippage): {context['costs_line']}.",
        choices=_choices(views),
        attention=None
        if views is None
        else {"matrix": attention.encoded(views.matrix), "over_time": attention.encoded(views.over_time)},
    )


def _choices(views: attention.AttentionViews | None) -> dict[str, tuple[str, ...]]:
    if views is None:
        return {}
    _, layers, heads = views.matrix.shape[:3]
    known = np.isfinite(views.matrix[:, 0, 0, 0, 0])
    return {
        "layer": ("all", *(str(i) for i in range(1, layers))),
        "head": ("all", *(str(i) for i in range(1, heads))),
        "regime": tuple(
            name if there else f"{name} (none)" for name, there in zip(("all", *REGIME_NAMES), known, strict=True)
        ),
    }


def write_explanation(material: ExplanationData, settings: Settings, folder: Path) -> dict[str, Path]:
    """The page, its pictures, and as JSON the flat figures and, of an attention policy, its classifier's score; kind ->
    path."""
    report = build_report(material.records, settings)
    page = build_page(material, report, settings).write(folder / PAGE)
    figures = folder / FIGURES
    figures.write_text(strict_json.dumps(material.figures(), indent=1) + "\n", encoding="utf-8")
    files = {"page": page, "figures": figures}
    if material.classifier is not None:
        files["classifier"] = folder / CLASSIFIER
        files["classifier"].write_text(
            strict_json.dumps(material.classifier.to_dict(), indent=1) + "\n", encoding="utf-8"
        )
    return {**files, **write_pictures(material, report, settings.evaluation, folder)}
