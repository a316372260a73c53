"""The allocator's books beside one another: its baselines, its oracle, and a leak that the null test must find."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded, truth
from mtquant_rllib.env.rewards.regime_aware import SHAPING, TERMS
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.linear_benchmark import linear_forecast
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.rollout import (
    AllocatorOraclePlayer,
    RulePlayer,
    closes_of,
    oracle_player,
    play,
    policy_player,
    pooled_figures,
    whole,
)
from mtquant_rllib.evaluation.report.building import build_report
from mtquant_rllib.evaluation.report.reward_terms import SHARE, TermLog, print_terms
from mtquant_rllib.evaluation.statistics.bootstrap import Interval
from mtquant_rllib.evaluation.trained_controls import judge, passes_null
from mtquant_rllib.features.layout import BLOCK
from mtquant_rllib.policies.initial_weights import initial_states

SMALL = [
    "embedded.train={paths: 1, years: 2}",
    "embedded.validation={paths: 1, years: 2}",
    "embedded.test={paths: 12, years: 4}",
    "evaluation.bootstrap.resamples=200",
    "allocator.network=plain",
    "allocator.hidden=[8]",
]


def of_variant(variant: str, *overrides: str) -> Settings:
    return Settings.load("allocator_planted.yaml", [*SMALL, f"embedded.variant='{variant}'", *overrides])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def planted(cache: Path) -> tuple[Settings, Path, DeskData]:
    settings = of_variant("planted", "embedded.train={paths: 8, years: 4}")
    folder = prepare_embedded(settings, cache)
    return settings, folder, DeskData.open(folder, "test")


def played(settings: Settings, data: DeskData, name: str, log: TermLog | None = None) -> Record:
    player = RulePlayer(weight_rules(settings)[name], closes_of(data))
    return play(settings, data, player, whole(data.segments), name=name, on_bar=log)


@pytest.mark.slow
def test_two_books_stand_beside_the_usual_baselines(planted: tuple[Settings, Path, DeskData]) -> None:
    settings = planted[0]
    rules, usual = weight_rules(settings), weight_rules(Settings.load())
    assert set(rules) - set(usual) == {"sixty_forty", "risk_parity"}
    assert {name for name in usual if not name.startswith("hold_")} <= set(rules)


@pytest.mark.slow
def test_sixty_forty_holds_equities_and_gold(planted: tuple[Settings, Path, DeskData]) -> None:
    settings, _, data = planted
    record = played(settings, data, "sixty_forty")
    held = record.weights[:, 5:].mean(axis=(0, 1))
    assert dict(zip(record.symbols, held)) == pytest.approx(
        {"EURUSD": 0, "USDJPY": 0, "XAUUSD": 0.4, "WTIUSD": 0, "SPX500": 0.6}, abs=0.02
    )


@pytest.mark.slow
def test_risk_parity_shares_the_risk_that_the_risk_rules_measure(planted: tuple[Settings, Path, DeskData]) -> None:
    settings, _, data = planted
    weights = played(settings, data, "risk_parity").proposed
    assert weights[:, 0].sum(axis=1) == pytest.approx(1.0)
    assert (weights[:, 0] > 0).all()
    rows = np.array([segment.start for segment in data.segments])
    index = np.triu_indices(5)
    for row, w in zip(rows, weights[:, 0]):
        matrix = np.zeros((5, 5))
        matrix[index] = matrix.T[index] = data.features.covariance[row]
        parts = w * (matrix @ w)
        assert parts / parts.sum() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.slow
def test_the_oracle_earns_what_its_table_says(planted: tuple[Settings, Path, DeskData]) -> None:
    """Twelve paths of almost three years have a standard error of .17."""
    settings, folder, data = planted
    assert settings.planted.oracle_sharpe == 2.4
    player = oracle_player(settings, *truth(folder, "test"), data)
    assert isinstance(player, AllocatorOraclePlayer)
    figures = pooled_figures(play(settings, data, player, whole(data.segments), name="oracle"))
    assert figures["sharpe"] == pytest.approx(2.4, abs=0.6)
    blind = pooled_figures(played(settings, data, "equal_weight"))
    assert figures["sharpe"] > blind["sharpe"] + 1.5


def told(settings: Settings, folder: Path) -> np.ndarray:
    """Of each asset, how the best linear reading of fifty columns correlates with the exact mean."""
    data, (mu, sigma) = DeskData.open(folder, "test"), truth(folder, "test")
    read = linear_forecast(settings, folder, "test")
    rows = np.concatenate([np.arange(segment.start, segment.stop) for segment in data.segments])
    return np.array([np.corrcoef((read / sigma)[rows, asset], (mu / sigma)[rows, asset])[0, 1] for asset in range(5)])


@pytest.mark.slow
def test_fifty_columns_tell_most_of_what_the_oracle_knows(
    planted: tuple[Settings, Path, DeskData], cache: Path
) -> None:
    """With the desk's memory of volume the only column that has the proxy has its last bar's alone. How much is told is
    all that the memory changes: nobody is paid in volume."""
    settings, folder, data = planted
    with_the_controls = told(settings, folder)
    assert ((with_the_controls > 0.84) & (with_the_controls < 0.95)).all()
    volume = Settings.load().synthetic.volume
    memory = [f"synthetic.volume.{name}={getattr(volume, name)}" for name in ("memory", "memory_span_bars")]
    other = of_variant("planted", "embedded.train={paths: 8, years: 4}", *memory)
    elsewhere = prepare_embedded(other, cache)
    assert (told(other, elsewhere) < 0.78).all()
    assert np.array_equal(DeskData.open(elsewhere, "test").execution.money, data.execution.money)
    assert np.array_equal(truth(elsewhere, "test")[0], truth(folder, "test")[0])


@pytest.mark.slow
def test_terms_add_up_to_the_reward_that_training_pays(planted: tuple[Settings, Path, DeskData]) -> None:
    settings, _, data = planted
    log = TermLog()
    record = played(settings, data, "equal_weight", log)
    figures = log.figures(record)
    assert set(figures) == {*TERMS, SHARE}
    assert -2e-4 < figures["diversification"] <= 0
    deviation = record.returns[record.played].std() * np.sqrt(record.bars_per_year)
    assert figures[SHARE] == pytest.approx(sum(figures[name] for name in SHAPING) / deviation)
    assert abs(figures[SHARE]) < 0.1


@pytest.mark.slow
def test_the_report_knows_the_allocator_as_it_knows_the_desk(planted: tuple[Settings, Path, DeskData]) -> None:
    settings, _, data = planted
    player = policy_player(settings, initial_states(settings))
    records = [play(settings, data, player, whole(data.segments), name="allocator"), played(settings, data, "flat")]
    report = build_report(records, settings)
    assert report.subject.name == "allocator"
    assert report.subject.all_bars.values["exposure_gross"] == pytest.approx(0.98, abs=0.02)
    assert [part.name for part in report.parts][:3] == ["forex", "commodities", "equity"]


def test_the_null_test_accepts_costs_and_refuses_gains() -> None:
    limits = Settings.load("allocator.yaml").evaluation.null_test

    def book(gross: float, net: float, upper: float) -> dict[str, Interval]:
        return {
            "gross": Interval(gross, gross - 0.1, gross + 0.1, 0.05, 0.95),
            "net": Interval(net, net - 0.1, upper, 0.05, 0.95),
        }

    assert passes_null(book(0.02, -0.25, -0.15), limits)
    assert not passes_null(book(0.30, 0.05, 0.15), limits)
    assert not passes_null(book(-0.30, -0.5, -0.4), limits)
    assert not passes_null(book(0.05, 0.02, 0.11), limits)


@pytest.mark.slow
def test_who_reads_a_leak_fails_the_null_test(cache: Path) -> None:
    """Who reads the column as it should be read gains where something leaked into it. Three times the shipped loading,
    because a tenth of the control's paths show a Sharpe a third as clearly."""
    loading = Settings.load("allocator_planted.yaml").allocator.leak.loading  # type: ignore[union-attr]
    verdicts = {}
    for variant in ("leak", "null"):
        settings = of_variant(variant, f"allocator.leak.loading={3 * loading}")
        folder = prepare_embedded(settings, cache)
        verdict = judge(settings, folder, [initial_states(settings)], initial_states(settings))
        verdicts[variant] = (settings, verdict)
    settings, verdict = verdicts["leak"]
    assert verdict.books["oracle"]["gross"].estimate > 0.5
    assert not passes_null(verdict.books["oracle"], settings.evaluation.null_test)
    assert verdict.share is None
    assert "oracle" not in verdicts["null"][1].books
    assert verdict.subject == "allocator"


@pytest.mark.slow
def test_the_leak_changes_one_column_of_features_and_no_bar(cache: Path) -> None:
    folders = {variant: prepare_embedded(of_variant(variant), cache) for variant in ("leak", "null")}
    leak, null = (DeskData.open(folders[variant], "validation") for variant in ("leak", "null"))
    assert np.array_equal(leak.execution.money, null.execution.money)
    changed = (leak.features.block != null.features.block).any(axis=(0, 1))
    assert [BLOCK.names[column] for column in np.flatnonzero(changed)] == ["bollinger"]


def test_only_an_allocator_has_a_leak(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leak"):
        prepare_embedded(Settings.load(overrides=["embedded.variant=leak"]), tmp_path)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_figure_of_the_reward_terms_is_cut_off_on_a_narrow_terminal(width: int) -> None:
    books = ["allocator", "flat", "equal_weight", "inverse_volatility", "sixty_forty", "risk_parity", "momentum_12_1"]
    terms = {
        book: {name: -(10 * row + column) / 1000 for column, name in enumerate((*TERMS, SHARE))}
        for row, book in enumerate(books)
    }
    console = Console(width=width, file=StringIO())
    print_terms(terms, console)
    said = console.file.getvalue()
    assert "\u2026" not in said
    for figures in terms.values():
        assert all(f"{figures[name]:.2%}" in said for name in TERMS)
        assert f"{figures[SHARE]:.3f}" in said
