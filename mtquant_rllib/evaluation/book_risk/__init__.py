"""The risk of a book of one's own: positions from a file against the desk's rules, and under stress.

Nothing here trains, plays or needs a run: a book, bars, and the settings.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtquant_rllib.config.settings import Settings
    from mtquant_rllib.evaluation.book_risk.check import BookCheck


def check_file(
    book: str | Path,
    market: str | Path,
    macro: str | Path | None = None,
    *,
    at: dt.date | None = None,
    equity_ccy: float | None = None,
    settings: Settings | None = None,
) -> BookCheck:
    """Check a book from a file on bars from a file, as `mtquant risk check` does.

    Parameters
    ----------
    at
        The last day that is known; by default the last of the bars.
    equity_ccy
        By default the desk's at the start.
    settings
        By default those that are shipped.

    Raises
    ------
    ConfigError, MarketDataError
        When the book or the bars cannot be used.
    """
    from mtquant_rllib.config.settings import Settings
    from mtquant_rllib.evaluation.book_risk.book_file import read_book
    from mtquant_rllib.evaluation.book_risk.check import check_book
    from mtquant_rllib.evaluation.book_risk.market_risk import load_market_risk

    settings = Settings.load() if settings is None else settings
    equity = settings.desk.account.start_equity_ccy if equity_ccy is None else equity_ccy
    found = read_book(Path(book), settings, equity)
    known = load_market_risk(settings, Path(market), None if macro is None else Path(macro), at)
    return check_book(settings, known, found, equity)
