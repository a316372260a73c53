"""The oracles of the structures gain what is stated, by the desk's own actions; without a structure, nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.decisions import meta_actions, meta_decision
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.rollout import play, whole
from mtquant_rllib.evaluation.backtest.structure_oracles import StructureOraclePlayer, exposures, overlap_sizes
from mtquant_rllib.evaluation.statistics.bootstrap import gain_interval, pooled_sharpe
from mtquant_rllib.evaluation.trained_controls import judge, print_control
from mtquant_rllib.market.synthetic import synthesise
from mtquant_rllib.policies.initial_weights import initial_states

SEEDS, PATHS_A_SEED = (11, 12, 13), 16
DECISION = Settings.load().desk.decision


@pytest.mark.slow
@hypothesis_settings(deadline=None)
@given(arrays(np.float64, (3,), elements=st.floats(0.0, 0.4)))
def test_actions_that_carry_an_exposure_give_it(exposure: np.ndarray) -> None:
    """What the dead band leaves of it; where it asks for more than all capital, in proportion."""
    allocation, appetite = meta_decision(meta_actions(exposure[None], DECISION), DECISION)
    given_out = allocation[0] * appetite[0]
    wanted = exposure / max(exposure.sum(), 1.0)
    np.testing.assert_allclose(given_out, wanted, atol=DECISION.dead_band + 1e-9)
    if (exposure > 0.1).all():
        np.testing.assert_allclose(given_out, wanted, atol=1e-12)


def test_exposure_is_in_proportion_to_predictability_and_fits_the_desk() -> None:
    # At strength 1 the greatest factor is 2: a domain then gets a third, one as predictable as on average a sixth.
    np.testing.assert_allclose(exposures(np.array([[2.0, 1.0, 0.0]]), 2.0, DECISION), [[1 / 3, 1 / 6, 0]])


def test_three_bets_that_are_one_have_together_the_size_of_one() -> None:
    one = ["synthetic.planted.overlap.strength_of_gain={1: 1}", "synthetic.planted.overlap.oracle_gain=1"]
    settings = Settings.load("planted_joint.yaml", one)
    symbols = settings.universe.symbols
    shared = settings.synthetic.planted.overlap.instruments
    np.testing.assert_allclose(overlap_sizes(settings), [1 / 3 if symbol in shared else 1 for symbol in symbols])
    np.testing.assert_array_equal(overlap_sizes(Settings.load("planted.yaml")), np.ones(len(symbols)))


def books(settings: Settings, seeds: tuple[int, ...], paths: int) -> tuple[dict[str, Record], DeskData]:
    """Records of the oracle and of the best parts over all paths of all seeds, side by side."""
    drawn = [synthesise(settings, n_paths=paths, n_years=6.2, seed=seed, variant="planted") for seed in seeds]
    data = DeskData.of(settings, [market for one in drawn for market in one.markets])
    n = settings.universe.n_instruments
    known = {
        name: np.concatenate([getattr(one.truth, name).reshape(-1, n) for one in drawn])
        for name in ("steady_mu", "sigma", "predictability")
    }
    return {
        name: play(
            settings,
            data,
            StructureOraclePlayer(settings, **known, knows=name == "oracle"),
            whole(data.segments),
            name=name,
        )
        for name in ("oracle", "parts")
    }, data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predictability", "overlap"])
def test_the_oracle_gains_over_the_best_parts_what_is_stated(name: str) -> None:
    settings = Settings.load({"predictability": "planted_meta.yaml", "overlap": "planted_joint.yaml"}[name])
    found, data = books(settings, SEEDS, PATHS_A_SEED)
    per_year, stated = data.execution.bars_per_year, getattr(settings.synthetic.planted, name).oracle_gain
    oracle, parts = found["oracle"].returns, found["parts"].returns
    gain = gain_interval(oracle, parts, per_year, settings.evaluation.bootstrap, np.random.default_rng(0))
    assert gain.estimate == pytest.approx(stated, abs=3 * gain.standard_error)
    assert gain.lower > 0.4 * stated
    for number in range(len(SEEDS)):
        own = slice(number * PATHS_A_SEED, (number + 1) * PATHS_A_SEED)
        assert pooled_sharpe(oracle[own], per_year) > pooled_sharpe(parts[own], per_year)
    if name == "overlap":
        # Each domain for itself is better off with its own best part: only the whole gains.
        for part in settings.universe.domain_slices:
            alone = {
                key: ((one.pnl_ccy - one.cost_ccy - one.financing_ccy)[..., part].sum(axis=-1) / 1e5)
                for key, one in found.items()
            }
            assert pooled_sharpe(alone["parts"], per_year) > pooled_sharpe(alone["oracle"], per_year) - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("config", ["planted_meta.yaml", "planted_joint.yaml"])
def test_without_the_structure_the_oracles_book_is_that_of_the_best_parts(config: str) -> None:
    none = [f"synthetic.planted.{name}.oracle_gain=0" for name in ("predictability", "overlap")]
    settings = Settings.load(config, none)
    drawn = synthesise(settings, n_paths=1, n_years=1.5, seed=1, variant="planted")
    data = DeskData.of(settings, drawn.markets)
    known = {name: getattr(drawn.truth, name)[0] for name in ("steady_mu", "sigma", "predictability")}
    played = [
        play(settings, data, StructureOraclePlayer(settings, **known, knows=knows), whole(data.segments), name="book")
        for knows in (True, False)
    ]
    np.testing.assert_array_equal(played[0].equity_ccy, played[1].equity_ccy)


@pytest.mark.slow
def test_the_gain_of_policies_is_judged_against_that_of_the_structures_oracle(tmp_path: Path) -> None:
    """Untrained policies with an untrained meta-controller gain nothing, of what an oracle gains on the same paths."""
    sizes = "{paths: 1, years: 1.5}"
    settings = Settings.load(
        "planted_meta.yaml",
        [
            f"embedded.train={sizes}",
            f"embedded.validation={sizes}",
            "embedded.test={paths: 24, years: 2.2}",
            "evaluation.bootstrap.resamples=100",
        ],
    )
    folder = prepare_embedded(settings, tmp_path)
    states = initial_states(settings)
    verdict = judge(settings, folder, [states], states, phase_1=[states])
    assert set(verdict.books) == {"desk", "untrained", "random", "oracle", "parts"}
    assert verdict.gain is not None
    difference = verdict.books["oracle"]["net"].estimate - verdict.books["parts"]["net"].estimate
    assert verdict.gain.oracle_gain.estimate == pytest.approx(difference)
    assert difference > 0.2
    assert verdict.gain.share.estimate < 1
    assert verdict.to_dict()["gain"]["oracle_gain"]["estimate"] == verdict.gain.oracle_gain.estimate
    console = Console(record=True, width=200)
    print_control(verdict, console)
    assert "over the best parts" in console.export_text()
