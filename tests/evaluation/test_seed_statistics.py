"""Books of several seeds on one history: intervals that cover what they promise, and differences on the same bars."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.measures import sharpe
from mtquant_rllib.evaluation.statistics.bootstrap import sharpe_interval
from mtquant_rllib.evaluation.statistics.seeds import print_seed_statistics, seed_statistics

CONFIG = BootstrapConfig(resamples=400, mean_block_bars=10, confidence=0.95)
YEAR = 252.0


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_seed_has_the_interval_of_its_bars() -> None:
    returns = rng(1).normal(0.0004, 0.01, (1, 1500))
    (found,) = seed_statistics({"a": returns}, YEAR, "a", CONFIG, rng()).values()
    alone = sharpe_interval(returns[0], YEAR, CONFIG, rng())
    assert found.mean.estimate == pytest.approx(alone.estimate)
    assert found.mean.standard_error == pytest.approx(alone.standard_error, rel=0.15)


def test_seeds_that_differ_widen_the_interval() -> None:
    market = rng(2).normal(0, 0.01, 1500)
    alike = np.stack([market + 0.0002] * 4)
    apart = np.stack([market + drift for drift in (-0.0016, -0.0006, 0.0010, 0.0020)])
    found = seed_statistics({"alike": alike, "apart": apart}, YEAR, "alike", CONFIG, rng())
    assert found["apart"].mean.standard_error > 1.5 * found["alike"].mean.standard_error
    assert found["apart"].mean.estimate == pytest.approx(sharpe(apart, YEAR).mean())


def test_books_are_compared_on_the_same_bars() -> None:
    """Two books of one market differ by much less than either's own uncertainty."""
    market = rng(3).normal(0, 0.01, (1, 1500))
    found = seed_statistics({"market": market, "better": market + 0.0001}, YEAR, "market", CONFIG, rng())
    ahead = found["better"].ahead
    assert ahead.lower > 0
    assert ahead.standard_error < 0.1 * found["better"].mean.standard_error
    assert found["market"].ahead.estimate == 0


def test_a_book_that_never_trades_or_dies_is_in_the_table() -> None:
    dead = np.full((1, 400), 0.001)
    dead[0, 100], dead[0, 101:] = -1.2, np.nan
    found = seed_statistics({"flat": np.zeros((1, 400)), "dead": dead}, YEAR, "flat", CONFIG, rng())
    assert found["flat"].mean.estimate == 0
    assert found["dead"].mean.estimate < 0
    out = io.StringIO()
    print_seed_statistics(found, "flat", Console(file=out, width=120))
    assert "how far ahead of flat" in out.getvalue()
    assert "the same" in out.getvalue()
