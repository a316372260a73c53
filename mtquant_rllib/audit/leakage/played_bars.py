"""A stretch of bars played by the settings' own core, with everything that is seen, decided, limited, filled and paid.

Whoever plays is a fixed, jumpy function of what is observed: it trades a lot, in every direction, and its actions tell
observations apart that differ in their last bit. The settings' own networks are asked too, as they are before they have
learned, and their answers are recorded beside it. Reward terms and risk rules of one's own take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtquant_rllib.audit.leakage.named_arrays import NamedArray
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.levels import Level
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.policies.actor import DeskActor

JOINT_SETUP = EpisodeSetup(ends_on_halt=False)
"""All agents play, and a halt is lifted the next day, so that a stretch is played to its end."""
_GAIN = 3.0


class RandomProjectionPolicy:
    """Raw actions sin(gain * observation @ M), M a fixed random matrix for each pair of widths."""

    def __init__(self) -> None:
        self._matrices: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, observation: np.ndarray, n_actions: int) -> np.ndarray:
        shape = observation.shape[-1], n_actions
        if shape not in self._matrices:
            self._matrices[shape] = np.random.default_rng(shape).standard_normal(shape) / np.sqrt(shape[0])
        return np.sin(_GAIN * observation.astype(np.float64) @ self._matrices[shape])


class _Log:
    """Collects arrays by kind and name, one row a bar."""

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self._symbols = symbols
        self._values: dict[tuple[str, str], list[np.ndarray]] = {}
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._columns: dict[tuple[str, str], tuple[str, ...]] = {}

    def note(self, kind: str, name: str, row: int, values: np.ndarray, columns: tuple[str, ...] = ()) -> None:
        flat = np.array(values).ravel()
        if not columns:
            columns = self._symbols if len(flat) == len(self._symbols) else (name,) * len(flat)
        key = kind, name
        self._values.setdefault(key, []).append(flat)
        self._rows.setdefault(key, []).append(row)
        self._columns[key] = columns

    def arrays(self) -> dict[str, tuple[NamedArray, ...]]:
        found: dict[str, list[NamedArray]] = {}
        for key, values in self._values.items():
            kind, name = key
            array = NamedArray(name, self._columns[key], np.array(self._rows[key]), np.stack(values))
            found.setdefault(kind, []).append(array)
        return {kind: tuple(own) for kind, own in found.items()}


def played_bars(
    settings: Settings, data: DeskData, first_row: int, last_row: int, networks: DeskActor | None
) -> Mapping[str, tuple[NamedArray, ...]]:
    """Play from the close of `first_row` up to the decision at the close of `last_row`, which risk still limits and no
    bar answers. Returns arrays by what they are: observations, actions, networks, risk, fills, rewards."""
    desk = core_for(settings, data, 1, JOINT_SETUP)
    desk.reset(np.array([0]), [EpisodeDraw(first_row, last_row, 0.0, 0)])
    log, player = _Log(settings.universe.symbols), RandomProjectionPolicy()
    _hear_fills(desk, log)
    while True:
        row = int(desk.state.row[0])
        for level in desk.levels:
            _decide(level, row, player, networks, log)
        proposed = desk.propose()
        log.note("actions", "proposed weight", row, proposed)
        if row == last_row:
            assert desk.risk is not None
            ordered = desk.risk.limit_at_close(desk.book, desk.market, proposed, desk.weight)
            _note_risk(desk, row, ordered, log)
            return log.arrays()
        result = desk.advance_with_weights(proposed)
        _note_bar(desk, row + 1, result, log)


def _decide(level: Level, row: int, player: RandomProjectionPolicy, networks: DeskActor | None, log: _Log) -> None:
    seen = level.observe()
    agents = level.agents[: level.n_acting]
    columns = tuple(f"{agent}: {name}" for agent in agents for name in level.group.observation.names)
    log.note("observations", level.name, row, seen, columns)
    parts = tuple(f"{agent}: {action.name}" for agent in agents for action in level.group.actions)
    if networks is not None:
        log.note("networks", level.name, row, networks.act(level.name, seen), parts)
    raw = player(seen, level.n_actions)
    log.note("actions", level.name, row, raw, parts)
    level.decide(raw)


def _hear_fills(desk: Trading, log: _Log) -> None:
    """Note what the book fills, and at which price."""
    fill = desk.book.fill

    def noted(target_units: np.ndarray, price: np.ndarray) -> None:
        row = int(desk.state.row[0]) + 1
        log.note("fills", "filled units", row, target_units)
        log.note("fills", "fill price", row, price)
        fill(target_units, price)

    desk.book.fill = noted  # type: ignore[method-assign]


def _note_risk(desk: Trading, row: int, ordered: np.ndarray, log: _Log) -> None:
    """Decisions of risk, on the row at whose close they were taken."""
    assert desk.risk is not None
    log.note("risk", "ordered weight", row, ordered)
    log.note("risk", "binding rule", row, desk.risk.rule)


def _note_bar(desk: Trading, row: int, result: Any, log: _Log) -> None:
    """What the bar that ends with `row` brought."""
    book, risk = desk.book, desk.risk
    assert risk is not None
    log.note("risk", "ordered weight", row - 1, desk.ordered)
    log.note("risk", "rule after the open", row, risk.rule)
    log.note("risk", "VaR forecast", row, risk.var_forecast())
    for name in ("units", "stop", "pnl_ccy", "cost_ccy", "financing_ccy", "traded_ccy", "equity"):
        log.note("fills", name, row, getattr(book, name))
    log.note("rewards", "rewards", row, result.rewards, desk.universe.agent_ids)
    for name, values in result.terms.items():
        log.note("rewards", f"term {name}", row, values)
