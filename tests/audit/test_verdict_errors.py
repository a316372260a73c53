"""The worlds have the Sharpe ratio that they say, and the verdict errs on them as seldom as it must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.audit.findings import LeakFound
from mtquant_rllib.audit.simulated_worlds import null_worlds
from mtquant_rllib.audit.verdict_errors import verdict_errors
from mtquant_rllib.cli import main
from mtquant_rllib.config import Settings
from mtquant_rllib.market.bars import MarketData

SMALL = [
    "evaluation.error_rates.null_worlds=60",
    "evaluation.error_rates.planted_worlds=30",
    "evaluation.error_rates.planted_sharpes=[1.5]",
    "evaluation.error_rates.trials=[1, 5]",
    "evaluation.error_rates.years=4",
]


@pytest.fixture(scope="module")
def small() -> Settings:
    return Settings.load(overrides=SMALL)


@pytest.mark.slow
def test_books_of_null_worlds_earn_nothing_and_planted_ones_what_was_planted(small: Settings) -> None:
    worlds = list(null_worlds(small, None, 60, seed=1))
    years = worlds[0].books.shape[1] / worlds[0].bars_per_year
    assert years == pytest.approx(4.0, abs=0.3)

    def sharpes(books: list[np.ndarray]) -> np.ndarray:
        returns = np.array([book[0] for book in books])
        return np.asarray(returns.mean(axis=1) / returns.std(axis=1) * np.sqrt(worlds[0].bars_per_year))

    error = 1 / np.sqrt(60 * years)
    null = sharpes([world.books for world in worlds])
    assert abs(null.mean()) < 3 * error
    assert null.std() == pytest.approx(1 / np.sqrt(years), rel=0.3)
    planted = sharpes([world.planted(0.6) for world in worlds])
    np.testing.assert_allclose(planted - null, 0.6, rtol=1e-9)
    assert set(worlds[0].rules) == {"inverse_vol", *small.evaluation.baselines.momentum}


def test_real_bars_lose_their_means_and_keep_their_tails(small: Settings, daily: MarketData) -> None:
    one, two = null_worlds(small, daily, 2, seed=3)
    assert not np.array_equal(one.books, two.books)
    again = next(null_worlds(small, daily, 2, seed=3))
    np.testing.assert_array_equal(one.books, again.books)


@pytest.mark.slow
def test_false_claims_are_few_and_uncounted_trials_are_not(small: Settings) -> None:
    rates = {(r.sharpe_ann, r.trials, r.counted): r for r in verdict_errors(small, None, "null").rates}
    assert rates[0.0, 1, True].claims.estimate <= 0.12, "60 worlds cannot say it better"
    assert rates[0.0, 5, True].claims.estimate <= 0.12
    assert rates[0.0, 5, False].claims.lower > 0.05, "the best of five, taken for the only one"
    assert rates[1.5, 1, True].claims.estimate > 0.8
    assert rates[1.5, 1, True].claims.lower < rates[1.5, 1, True].claims.estimate


@pytest.mark.slow
def test_the_command_writes_its_rates_and_fails_where_they_are_too_high(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [
        *SMALL[3:],
        "evaluation.error_rates.null_worlds=20",
        "evaluation.error_rates.planted_worlds=4",
        "evaluation.error_rates.planted_sharpes=[2.0]",
    ]
    words = [word for one in few for word in ("--set", one)]
    out = tmp_path / "rates.json"
    code = main(["audit", "verdict", "--json", str(out), *words])
    said = capsys.readouterr().out
    rates = json.loads(out.read_text())
    assert code in (0, 1), "of twenty worlds one in ten may fail"
    assert [rate["worlds"] for rate in rates["rates"]] == [20, 20, 20, 4, 4]
    assert "best of 5, uncounted" in said
    careless = Settings.load(
        overrides=[*few, "evaluation.verdict.significance=0.4", "evaluation.error_rates.max_excess=0.0001"]
    )
    rates_of_careless = verdict_errors(careless, None, "null")
    if rates_of_careless.rates[0].claims.estimate > rates_of_careless.highest:
        with pytest.raises(LeakFound, match="skill is claimed"):
            rates_of_careless.raise_if_too_high()
