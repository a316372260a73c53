"""A book from a CSV file: `symbol`, and `weight` (a signed fraction of equity) or `notional_ccy`; `current` is what is
held now, in the same unit, 0 where there is no such column."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.market.importing.reading import instrument_names

_COLUMNS = ("weight", "notional_ccy")


@dataclass(frozen=True)
class BookFile:
    """Signed weights by symbol, of the book and of what is held now; symbols that are left out are 0."""

    weights: Mapping[str, float]
    current: Mapping[str, float]

    def row(self, symbols: tuple[str, ...]) -> np.ndarray:
        """Weights in the order of the symbols, (n,)."""
        return np.array([self.weights.get(symbol, 0.0) for symbol in symbols])


def read_book(path: Path, settings: Settings, equity_ccy: float) -> BookFile:
    """Read a book; symbols by any name that files of bars may use.

    Raises
    ------
    ConfigError
        When the file cannot be read, has other columns, names an unknown or one instrument twice, or holds what is no
        number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = [{key.strip().lower(): (value or "").strip() for key, value in row.items() if key} for row in reader]
    except (OSError, ValueError, csv.Error, AttributeError) as error:
        raise ConfigError(f"{path}: not readable as a book: {error}") from error
    unit = [name for name in _COLUMNS if name in columns]
    if "symbol" not in columns or len(unit) != 1:
        raise ConfigError(
            f"{path}: found columns {', '.join(columns) or 'none'}; expected symbol and either weight (a signed "
            "fraction of equity) or notional_ccy, and current where something is held already"
        )
    scale = 1.0 if unit[0] == "weight" else equity_ccy
    names = instrument_names(settings)
    weights: dict[str, float] = {}
    current: dict[str, float] = {}
    for number, row in enumerate(rows, start=2):
        symbol = names.find(row["symbol"])
        if symbol not in settings.universe.symbols:
            raise ConfigError(
                f"{path}, line {number}: {row['symbol']!r} is none of {', '.join(settings.universe.symbols)}"
            )
        if symbol in weights:
            raise ConfigError(f"{path}, line {number}: {symbol} stands there twice; add its positions up")
        weights[symbol] = _number(path, number, unit[0], row[unit[0]]) / scale
        if row.get("current"):
            current[symbol] = _number(path, number, "current", row["current"]) / scale
    return BookFile(weights, current)


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{path}, line {line}: {column} is {text!r}; expected a number such as -0.25")
    return value
