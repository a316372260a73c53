"""The list of all market features with their formulas."""

from __future__ import annotations

from mtquant_rllib.config import Settings
from mtquant_rllib.features.block import block_features
from mtquant_rllib.features.domains import features_of_domain
from mtquant_rllib.features.layout import MACRO, pairs
from mtquant_rllib.features.macro import macro_feature


def list_features(settings: Settings) -> list[tuple[str, str, str]]:
    """Every market feature of the desk as (group, name, formula), in the order of the observations."""
    lines = [(item.group, item.name, item.formula) for item in block_features(settings.features)]
    for domain in settings.universe.domains:
        lines += [(domain.name, item.name, item.formula) for item in features_of_domain(domain, settings)]
    lines += [("macro", name, macro_feature[name].formula) for name in MACRO.names]
    window = settings.portfolio_risk.correlation_window
    lines += [
        ("correlation", f"corr_{a}_{b}", f"correlation of bar returns over {window} common bars")
        for a, b in pairs(settings.universe.symbols)
    ]
    return lines
