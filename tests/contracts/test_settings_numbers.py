"""Every number of the settings has a range: infinities, NaN, truth values and slips of units are refused, whoever adds
the next number."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mtquant_rllib.config import Settings
from mtquant_rllib.config.base import Section
from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.loader import apply_overrides, read_tree
from mtquant_rllib.config.sections.synthetic import REGIMES
from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.errors import ConfigError

TRIED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "true": True, "-1": -1, "0": 0, "1e308": 1e308}
# Sections that the shipped configs leave empty: their numbers are tried too.
FILLED = (
    "sac.priorities={power: 0.6, weight_power_start: 0.4, weight_power_final: 1.0, epsilon: 0.001}",
    "resources.worker_types=[{cpus: 4, gpus: 1, max_workers: 2}]",
    "rewards.terms=[{term: 'package.module:Term', weight: 1}]",
    "desk.observation.feature_means={cmf: 0.5}",
    "market.files={'*EURUSD*': {scale: 10, multipliers: {K: 1000}}}",
    # A row of probabilities sums to 1, give or take a hundredth.
    *(f"synthetic.transitions.{regime}=[0.997, 0.001, 0.001, 0.001]" for regime in REGIMES),
    "recipe.window_softmin.temperature=2",
    "networks.value_hidden={meta: [8], specialist: [8], instrument: [8]}",
)

# What numbers take of {nan, inf, -inf, true, -1, 0, 1e308}: nothing but this. * is an instrument, a regime, a domain or
# a place in a list.
MINUS_ONE_AND_ZERO = """
    desk.observation.feature_means.*
    features.macro.dxy_proxy_weights.*
    features.macro.rate_centre_pct
    policy_rates.*.*
    reference.book.*
    rewards.terms.*.weight
    risk.stress.shocks.*.*
    symbols.*.financing.roll_yield_pct
    synthetic.correlations.*.*
    synthetic.instruments.*.drift_pct.*
    synthetic.macro.dxy.correlation
    synthetic.macro.rates.correlations.*
    synthetic.macro.rates.floor_pct
    synthetic.macro.rates.mean_pct.*
    synthetic.macro.vix.correlation
"""
ZERO = """
    allocator.planted.oracle_sharpe
    allocator.regime_aware.*.*
    checkpoints.max_failures
    checkpoints.stop_grace_seconds
    checkpoints.storage_patience_seconds
    desk.cost.impact_coefficient
    desk.cost.impact_free_adv_share
    desk.decision.dead_band
    embedded.seed
    evaluation.baselines.momentum.*.skip_days
    evaluation.baselines.no_trade_band
    evaluation.inference.cached_rows
    features.others_lag_bars
    market.consistency_tolerance_frac
    market.repair.max_dropped_frac
    market.repair.max_frac.*
    market.splits.embargo_bars
    market.splits.purge_bars
    meta_controller.dropout
    networks.attention.classifier.dropout
    networks.attention.dropout
    networks.attention.losses.classifier
    networks.attention.losses.consistency
    networks.attention.losses.diversity
    networks.attention.policy_heads.dropout
    networks.initial_appetite
    networks.min_std
    recipe.entropy_coeff
    recipe.gae_lambda
    recipe.learning_rate_final_frac
    reference.kl_coeff.instrument
    reference.kl_coeff.meta
    reference.kl_coeff.specialist
    reference.urgency
    resources.env_retries
    resources.learners
    resources.runners
    resources.worker_types.*.gpus
    rewards.cost_factor
    rewards.drawdown
    rewards.edits
    rewards.team_share
    rewards.var_excess
    risk.var_methods.draws_seed
    sac.action_penalty
    sac.critic.slope_penalty
    sac.learning_starts_bars
    sac.min_std
    sac.min_std_by_regime.*
    search.pbt.resample_prob
    seed
    serving.*.commission_bps
    serving.*.latency_seconds.*
    serving.*.part_seconds
    serving.*.requote_shift_bps
    serving.*_probability
    serving.max_requotes
    symbols.*.commission_bps
    symbols.*.financing.dividend_pct
    symbols.*.financing.markup_pct
    symbols.*.slippage_bps
    symbols.*.spread_bps
    synthetic.instruments.*.gap_share
    synthetic.instruments.*.garch_alpha
    synthetic.macro.rates.deviation_bp
    synthetic.macro.vix.persistence
    synthetic.macro.vix.regime_loading
    synthetic.planted.momentum.pivot
    synthetic.planted.momentum.strength
    synthetic.planted.oracle_sharpe
    synthetic.planted.overlap.oracle_gain
    synthetic.planted.predictability.oracle_gain
    synthetic.transitions.*.[123]
    synthetic.volume.memory
    synthetic.volume.move_loading
    synthetic.volume.noise
    synthetic.volume.proxy_loading
    tracking.attention_rows
    tracking.fallback_seconds
    tracking.gpu_percent_wanted
    tracking.progress_seconds
    tracking.wait_seconds
    training.gae_lambda
"""
ACCEPTED = {name: {"0"} for name in ZERO.split()} | {name: {"-1", "0"} for name in MINUS_ONE_AND_ZERO.split()}


def _resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    return node


def _numbers(
    node: dict[str, Any], value: Any, path: tuple[Any, ...], definitions: dict[str, Any]
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """(path, schema) of every number below a node of the schema, with the keys and places that `value` has."""
    node = _resolved(node, definitions)
    for alternative in node.get("anyOf", ()):
        yield from _numbers(alternative, value, path, definitions)
    if node.get("type") in ("number", "integer"):
        yield path, node
    elif node.get("type") == "object":
        held = value if isinstance(value, dict) else {}
        named = node.get("properties", {})
        for key, below in named.items():
            yield from _numbers(below, held.get(key), (*path, key), definitions)
        others = node.get("additionalProperties")
        if isinstance(others, dict):
            for key in held:
                yield from _numbers(others, held[key], (*path, key), definitions)
    elif node.get("type") == "array":
        for place, one in enumerate(value or ()):
            below = node["prefixItems"][place] if "prefixItems" in node else node["items"]
            yield from _numbers(below, one, (*path, place), definitions)


def _with(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of a tree in which `value` stands at `path`."""
    if not path:
        return value
    held = copy.copy(tree) if tree is not None else {}
    if isinstance(held, dict):
        held[path[0]] = _with(held.get(path[0]), path[1:], value)
    else:
        held[path[0]] = _with(held[path[0]], path[1:], value)
    return held


@pytest.fixture(scope="module")
def tree() -> dict[str, Any]:
    """The allocator's settings hold every section."""
    return apply_overrides(read_tree("allocator.yaml"), FILLED)


@pytest.fixture(scope="module")
def numbers(tree: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    schema = Settings.model_json_schema()
    return dict(_numbers(schema, tree, (), schema["$defs"]))


def _named(path: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in path)


def test_every_number_has_two_bounds(numbers: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    assert len(numbers) > 800
    for path, schema in numbers.items():
        for end in ("inimum", "aximum"):
            bounds = [schema[key] for key in schema if key.endswith(end)]
            assert bounds, f"{_named(path)} has no range"
            assert all(math.isfinite(bound) for bound in bounds), _named(path)


@pytest.mark.slow
def test_each_of_them_takes_what_its_range_says_and_nothing_else(
    tree: dict[str, Any], numbers: dict[tuple[Any, ...], dict[str, Any]]
) -> None:
    # Of the section alone: the whole tree thousands of times would take a minute.
    sections: dict[str, TypeAdapter[Any]] = {
        name: TypeAdapter(Annotated[field.annotation, None, *field.metadata])
        for name, field in Settings.model_fields.items()
    }
    for name, adapter in sections.items():
        adapter.validate_python(tree[name])
    met = set()
    for path in numbers:
        taken = set()
        for text, value in TRIED.items():
            with contextlib.suppress(ValidationError):
                sections[path[0]].validate_python(_with(tree, path, value)[path[0]])
                taken.add(text)
        row = next((row for row in ACCEPTED if fnmatch.fnmatchcase(_named(path), row)), "")
        assert taken == ACCEPTED.get(row, set()), f"{_named(path)} takes {sorted(taken)}"
        met.add(row)
    assert met == {"", *ACCEPTED}, "a row of the table above stands for no number"


@pytest.mark.parametrize(
    ("section", "held"),
    [(TrialConfig, {"learning_rates": {"EURUSD": 1e-3}, "base_rates": {"lr": 1e-3}}), (EnvironmentConfig, {})],
)
def test_trials_and_environments_take_no_number_without_a_range(section: type[Section], held: dict[str, Any]) -> None:
    schema = section.model_json_schema()
    schema["properties"].pop("settings", None)
    numbers = [found for found in _numbers(schema, held, (), schema["$defs"]) if "enum" not in found[1]]
    assert numbers
    for path, number in numbers:
        for end in ("inimum", "aximum"):
            assert any(key.endswith(end) for key in number), f"{_named(path)} has no range"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("risk.gross_budget=.inf", "risk.gross_budget = inf: input should be a finite number"),
        ("risk.gross_budget=inf", "risk.gross_budget = inf: input should be a finite number"),
        ("portfolio_risk.max_portfolio_var=true", "max_portfolio_var = True: expected a number, not true or false"),
        ("portfolio_risk.var_confidence=1", "less than 1"),
        ("desk.account.start_equity_ccy=nan", "a finite number"),
        ("meta_controller.dropout=2", "less than 1"),
        ("training.gae_lambda=-3", "greater than or equal to 0"),
        ("resources.runners=1e12", "less than or equal to 1000000000"),
        ("policy_rates={EUR: {2020: .nan}}", "a finite number"),
        ("policy_rates={EUR: {-2020: 0.5}}", "greater than or equal to 1800"),
        ("synthetic.planted.strength_of_sharpe={.inf: 0.1}", "a finite number"),
        ("market.splits.train_until=0", "expected a date such as 2014-12-31, not a number"),
        ("evaluation.excluded_dates=[20200420]", "expected a date such as 2014-12-31, not a number"),
        ("symbols.EURUSD.stale_opens_until=true", "expected a date such as 2014-12-31, not a number"),
        ("desk.decision.stop_atr_min=6", "stop_atr_min 6 lies above stop_atr_max 5"),
        (
            "rewards.specialist_allocation_low=0.9",
            "specialist_allocation_low 0.9 lies above specialist_allocation_high 0.4",
        ),
        ("synthetic.macro.vix.bounds=[90, 6]", "bounds 90 to 6"),
        ("market.quality.roll_days=[25, 17]", "roll_days 25 to 17"),
        ("symbols.EURUSD.session.open='25:00'", "should match pattern"),
        ("market.multipliers.K=true", "expected a number, not true or false"),
        ("market.clock_pattern.furthest_lag_h=25", "less than or equal to 24"),
        ("market.dialects.HistData.options={scale: .inf}", "finite number"),
    ],
)
def test_what_would_switch_a_limit_off_or_mean_nothing_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load(overrides=[override])
    assert said in str(caught.value)


def test_a_number_that_yaml_takes_for_text_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: default.yaml\nrecipe: {learning_rate: 3e-4}\n")
    assert Settings.load(tmp_path / "mine.yaml").recipe.learning_rate == 3e-4
    (tmp_path / "mine.yaml").write_text("extends: default.yaml\nrisk: {gross_budget: 'inf'}\n")
    with pytest.raises(ConfigError, match="a finite number"):
        Settings.load(tmp_path / "mine.yaml")
