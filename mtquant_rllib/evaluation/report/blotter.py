"""The blotter: every trade of one book, with units, price, cost and what made it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest.rollout import names_of_rules
from mtquant_rllib.portfolio import execution_data as channel

_SIDES = ("sell", "both", "buy")


class Blotter:
    """Trades of the B environments of one desk; called after each of its bars.

    A row is an instrument that was traded in a bar. units: bought (positive) or sold in the bar altogether; a position
    that was entered and stopped out in one bar has 0, and `both` for its side. price: at which orders filled, in quote
    currency; a stop fills at its own. notional_ccy: traded, both ways. rule: the risk rule that bound, null for none.
    """

    def __init__(self, data: DeskData) -> None:
        self._data = data
        self._symbols: tuple[str, ...] = ()
        self._rules: dict[int, str] = {}
        self._before: np.ndarray | None = None
        self._bars: list[dict[str, np.ndarray]] = []

    def __call__(self, desk: Any) -> None:
        book = desk.book
        before = np.zeros_like(book.units) if self._before is None else self._before
        self._before = book.units.copy()
        self._symbols, self._rules = desk.universe.symbols, names_of_rules(desk.risk)
        env, which = np.nonzero((book.traded_ccy > 0) & ~desk.state.done[:, None])
        if len(env):
            at = env, which
            self._bars.append(
                {
                    "environment": env.astype(np.int32),
                    "row": desk.state.row[env],
                    "instrument": which,
                    "units": (book.units - before)[at],
                    "units_after": book.units[at],
                    "notional_ccy": book.traded_ccy[at],
                    "cost_ccy": book.cost_ccy[at],
                    "weight_after": desk.weights_now()[at],
                    "stopped": desk.stopped[at],
                    "rule": desk.risk.rule[at],
                }
            )

    def table(self) -> pa.Table:
        """All trades, environment by environment, in the order of time."""
        found = self._all()
        rows, which = found.pop("row"), found.pop("instrument")
        rules = [None if rule == 0 else self._rules.get(rule, f"rule {rule}") for rule in found.pop("rule").tolist()]
        side = np.sign(found["units"]).astype(np.int64) + 1
        trades = pa.table(
            {
                "environment": found.pop("environment"),
                "timestamp": self._data.execution.timestamps[rows],
                "symbol": pa.array([self._symbols[i] for i in which], pa.string()),
                "side": pa.array([_SIDES[i] for i in side], pa.string()),
                "price": np.asarray(self._data.execution.money[rows, channel.FILL, which]),
                **found,
                "rule": pa.array(rules, pa.string()),
            }
        )
        return trades.sort_by([("environment", "ascending"), ("timestamp", "ascending"), ("symbol", "ascending")])

    def write(self, path: Path) -> Path:
        """As CSV, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        pyarrow.csv.write_csv(self.table(), part)
        os.replace(part, path)
        return path

    def _all(self) -> dict[str, np.ndarray]:
        if self._bars:
            return {name: np.concatenate([bar[name] for bar in self._bars]) for name in self._bars[0]}
        numbers = dict.fromkeys(("units", "units_after", "notional_ccy", "cost_ccy", "weight_after"), np.zeros(0))
        indices = dict.fromkeys(("environment", "row", "instrument", "rule"), np.zeros(0, dtype=np.int64))
        return {**indices, **numbers, "stopped": np.zeros(0, dtype=bool)}
