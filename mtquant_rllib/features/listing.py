"""Every market feature with its formula, for people."""

from __future__ import annotations

from mtquant_rllib.config import Settings
from mtquant_rllib.features.block import feature as block_registry
from mtquant_rllib.features.domains import DOMAIN_FEATURES, own_domain
from mtquant_rllib.features.layout import BLOCK, MACRO, domain_columns, pairs
from mtquant_rllib.features.macro import macro_feature


def list_features(settings: Settings) -> list[tuple[str, str, str]]:
    """Every market feature of the desk as (group, name, formula), in the order of the observations."""
    lines = [(group, name, block_registry[name].formula) for group, names in BLOCK.groups for name in names]
    for domain in settings.universe.domains:
        registry = DOMAIN_FEATURES.get(domain.name, own_domain)
        names = domain_columns(domain, settings.traded_roles)
        lines += [(domain.name, name, registry[name].formula) for name in names]
    lines += [("macro", name, macro_feature[name].formula) for name in MACRO.names]
    window = settings.portfolio_risk.correlation_window
    lines += [
        ("correlation", f"corr_{a}_{b}", f"correlation of bar returns over {window} common bars")
        for a, b in pairs(settings.universe.symbols)
    ]
    return lines
