"""Custom risk rules, named in the settings (`risk.rules`): in force in training, evaluation and live decisions."""

from __future__ import annotations

from collections.abc import Sequence

from mtquant_rllib.config.sections.risk import CustomRuleConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.extensions import extension
from mtquant_rllib.risk.rules import Rule

ENTRY_POINTS = "mtquant_rllib.risk_rules"
"""Group of the entry points by which installed packages register rules."""


def custom_rules(choices: Sequence[CustomRuleConfig]) -> list[Rule]:
    """The rules named in the settings, in order.

    Raises
    ------
    ConfigError
        When one cannot be found or constructed, is no rule, or has the name of another.
    """
    rules: list[Rule] = []
    for choice in choices:
        rule = _made(choice)
        if rule.name in [other.name for other in rules]:
            raise ConfigError(f"risk.rules: two rules are called {rule.name!r}; give one another `name`")
        rules.append(rule)
    return rules


def _made(choice: CustomRuleConfig) -> Rule:
    where, found = f"risk.rules: {choice.rule}", extension("risk.rules", choice.rule, ENTRY_POINTS)
    try:
        rule = found(**choice.options)
    except Exception as error:
        raise ConfigError(f"{where} cannot be made with options {choice.options}: {error}") from error
    lacking = [name for name in ("name", "limit", "measure", "repair") if not hasattr(rule, name)]
    if lacking:
        raise ConfigError(f"{where} is no rule: it has no {', '.join(lacking)} (see mtquant_rllib.risk.rules.Rule)")
    made: Rule = rule
    return made
