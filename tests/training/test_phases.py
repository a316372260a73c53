"""Phases as plans: who plays, who learns, with which numbers and on which share of the machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.training.algorithm.hyperparameters import (
    Hyperparameters,
    learning_rates,
    learning_starts_bars,
    train_batch_bars,
)
from mtquant_rllib.training.curriculum import phases
from mtquant_rllib.training.curriculum.driver import trials_without_updates
from mtquant_rllib.training.curriculum.phases import budget_bars, plan_phase
from mtquant_rllib.training.records.manifest import PhaseRecord, TrialRecord
from mtquant_rllib.universe import META

SETTINGS = Settings.load()


def test_phase_1_trains_each_specialist_beside_its_own_instruments() -> None:
    plans = {plan.name: plan for plan in plan_phase(SETTINGS, 1)}
    assert plans["commodities"].learning == ("commodities_specialist", "XAUUSD", "WTIUSD")
    assert sorted(module for plan in plans.values() for module in plan.modules) == sorted(
        module for module in SETTINGS.universe.policies() if module != META
    )


def test_phase_2_teaches_the_meta_controller_alone_and_phase_3_everyone() -> None:
    (second,), (third,) = plan_phase(SETTINGS, 2), plan_phase(SETTINGS, 3)
    assert (len(second.modules), second.learning) == (12, (META,))
    assert third.learning == third.modules == SETTINGS.universe.policies()


def test_another_level_of_agents_is_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    above = replace(agent_groups(SETTINGS)[0], name="strategist", agents=("strategist",))
    monkeypatch.setattr(phases, "agent_groups", lambda settings: (above, *agent_groups(settings)))
    assert not any("strategist" in plan.modules for plan in plan_phase(SETTINGS, 1))
    (second,), (third,) = plan_phase(SETTINGS, 2), plan_phase(SETTINGS, 3)
    assert second.learning == ("strategist", META)
    assert second.frozen == list(third.learning[2:])
    assert third.learning == ("strategist", *SETTINGS.universe.policies())


def test_a_module_shared_by_all_instruments_makes_phase_1_one_trial() -> None:
    shared = Settings.load(overrides=["networks.sharing=all"])
    (plan,) = plan_phase(shared, 1)
    assert plan.domains == ("forex", "commodities", "equity")
    assert plan.modules == ("forex_specialist", "commodities_specialist", "equity_specialist", "instruments")
    assert budget_bars(shared, plan, 1.0) == 3 * SETTINGS.training.phase_1_timesteps


def test_a_desk_of_one_domain_is_a_desk_after_its_first_phase() -> None:
    forex = Settings.load(overrides=["market.instruments=[EURUSD, USDJPY]"])
    (first,), (second,), (third,) = (plan_phase(forex, phase) for phase in (1, 2, 3))
    assert (first.domain, second.domain, third.domain) == ("forex", None, None)
    assert second.learning == (META,)


def test_budgets_are_the_documents_times_the_scale() -> None:
    budgets = [budget_bars(SETTINGS, plan_phase(SETTINGS, phase)[0], 0.02) for phase in (1, 2, 3)]
    assert budgets == [10_000, 6_000, 20_000]


def test_the_document_to_the_letter_runs_its_own_numbers() -> None:
    letter = Hyperparameters.of(Settings.load("document.yaml"))
    assert letter == Hyperparameters(3e-4, gamma=0.99, gae_lambda=0.95, n_epochs=10, batch_size=256, clip_range=0.2)
    assert train_batch_bars(Settings.load("document.yaml"), 500_000) == 2048


def test_what_the_recipe_sets_overrides_the_document_and_what_it_leaves_does_not() -> None:
    settings = Settings.load(overrides=["recipe.gae_lambda=0.5", "recipe.clip_range=null"])
    assert Hyperparameters.of(settings).gae_lambda == 0.5
    assert Hyperparameters.of(settings).clip_range == settings.training.clip_range


def test_a_level_can_have_a_learning_rate_of_its_own() -> None:
    levels = "{meta_controller: null, specialists: 1.0e-4, instruments: null}"
    settings = Settings.load(overrides=["recipe.learning_rate=1e-3", f"recipe.learning_rates={levels}"])
    rates = learning_rates(settings, ("meta_controller", "forex_specialist", "EURUSD"), phase=1)
    assert rates == {"meta_controller": 1e-3, "forex_specialist": 1e-4, "EURUSD": 1e-3}


@pytest.mark.parametrize(("budget", "bars"), [(500_000, 8192), (10_000, 1250), (50, 16)])
def test_a_small_budget_is_spent_in_several_updates(budget: int, bars: int) -> None:
    settings = Settings.load(
        overrides=["recipe.train_batch_bars=8192", "recipe.min_updates=8", "recipe.environments=16"]
    )
    assert train_batch_bars(settings, budget) == bars


@pytest.mark.parametrize(("algorithm", "bars", "named"), [("sac", 99, True), ("sac", 100, False), ("ppo", 10, False)])
def test_a_budget_that_ends_before_the_first_gradient_step_is_told(algorithm: str, bars: int, named: bool) -> None:
    starts = [
        "sac.learning_starts_bars=90",
        "sac.learning_starts_frac=1.0",
        "sac.bars_per_gradient_step=10",
        f"allocator.algorithm={algorithm}",
    ]
    settings = Settings.load("allocator.yaml", starts)
    record = PhaseRecord(experiment="phase_1", trials={"allocator": TrialRecord(budget_bars=bars)})
    assert trials_without_updates(settings, 1, record) == (["allocator"] if named else [])


def test_a_small_budget_is_not_spent_on_collecting() -> None:
    settings = Settings.load(overrides=["sac.learning_starts_bars=4000"])
    assert [learning_starts_bars(settings, budget) for budget in (300, 40_000, 300_000)] == [30, 4000, 4000]
