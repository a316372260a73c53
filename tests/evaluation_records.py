"""Made-up records of books, and runs with evaluations of such, for tests of what is measured on them and shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.regimes.figures import performance_by_regime
from mtquant_rllib.evaluation.regimes.report import write_by_regime
from mtquant_rllib.evaluation.report.bar_tables import write_bar_tables
from mtquant_rllib.evaluation.report.building import build_report
from mtquant_rllib.evaluation.report.output import write_report
from mtquant_rllib.training.records.manifest import Manifest, MarketRecord, TrialRecord
from mtquant_rllib.training.reporting.curve_files import append_row

SETTINGS = Settings.load(overrides=["evaluation.bootstrap.resamples=100"])
UNIVERSE = SETTINGS.universe
N = UNIVERSE.n_instruments


def played(name="desk", n_envs=1, n_bars=120, seed=0, shock=None, drift=0.0):
    """A made-up book that conserves: equity is what its profits, costs and financing leave."""
    rng = np.random.default_rng(seed)
    timestamps = (np.datetime64("2020-02-03") + np.arange(n_bars)).astype("datetime64[s]")
    earned = rng.normal(drift, 0.003, (n_envs, n_bars, N))
    if shock is not None:
        earned[:, np.flatnonzero(timestamps == np.datetime64("2020-04-20"))[0], 4] = shock
    pnl, cost, equity = np.zeros_like(earned), np.zeros_like(earned), np.full((n_envs, n_bars), np.nan)
    now = np.full(n_envs, 100_000.0)
    for t in range(n_bars):
        alive = now > 0
        pnl[:, t] = np.where(alive[:, None], earned[:, t] * now[:, None], 0)
        cost[:, t] = np.where(alive[:, None], 2e-5 * now[:, None], 0)
        now = now + (pnl[:, t] - 1.5 * cost[:, t]).sum(axis=1)
        equity[:, t] = np.where(alive, now, np.nan)
    weights = rng.normal(0, 0.2, earned.shape)
    rule_ids = np.zeros(earned.shape, dtype=np.int8)
    rule_ids[:, 3, 0], rule_ids[:, 4:6, 1] = 9, 6
    return Record(
        name=name,
        symbols=UNIVERSE.symbols,
        domains=tuple(domain.name for domain in UNIVERSE.domains),
        domain_of=UNIVERSE.domain_of,
        bars_per_year=252.0,
        timestamps=timestamps,
        equity_start_ccy=np.full(n_envs, 100_000.0),
        equity_ccy=equity,
        pnl_ccy=pnl,
        cost_ccy=cost,
        financing_ccy=0.5 * cost,
        weights=weights,
        proposed=1.1 * weights,
        traded_frac=np.full(earned.shape, 0.01),
        rule_ids=rule_ids,
        rule_names={9: "var", 6: "concentration"},
        var_forecast_frac=np.full((n_envs, n_bars), 0.014),
        breaker_trips=np.tile([2, 1, 0, 0], (n_envs, 1)),
        facts={"seed": 7, "split": "test"},
    )


def judged_run(
    runs: Path, name: str, *overrides: str, n_bars: int = 600, n_envs: int = 1, drift: float = 0.0, book_seed: int = 0
) -> Path:
    """A run that was never trained, with the evaluation of made-up books: what commands read that look at runs."""
    settings = Settings.load(overrides=overrides)
    market = MarketRecord(kind="file", bars="bars.parquet", data=str(runs / "cache" / "bars-0"))
    run = runs / name
    Manifest.begin(name, settings, market, 1.0, [1, 2, 3]).write(run)
    desk = played("desk", n_envs, n_bars, seed=book_seed, drift=drift)
    books = [desk, played("reference", n_envs, n_bars, seed=100), played("hold_EURUSD", n_envs, n_bars, seed=101)]
    facts = {"run": name, "phase": 3, "split": "test", "seed": settings.seed, "market": "bars.parquet"}
    books = [dataclasses.replace(book, facts=facts) for book in books]
    folder = run / "evaluation" / "test"
    write_report(build_report(books, settings), folder)
    write_bar_tables(books, folder)
    labels = np.random.default_rng(1).integers(0, 4, (n_envs, n_bars))
    write_by_regime({book.name: performance_by_regime(book, labels) for book in books}, folder / "regimes.csv")
    (run / "curves").mkdir()
    for validation in range(5):
        row = {"iteration": validation + 1, "bars": 1000 * (validation + 1), "sampling_s": 10.0, "learning_s": 5.0}
        row |= {"validation_bars": 1000 * (validation + 1), "validation_sharpe": 0.1 * validation + drift * 1000}
        append_row(run / "curves" / "phase_3_desk.csv", row)
    manifest = Manifest.read(run)
    manifest.phase(3).trials = {"desk": TrialRecord(budget_bars=5000, bars=5000)}
    manifest.write(run)
    return run
