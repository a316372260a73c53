"""How long a decision takes, from a close to its orders, on one core; how many a second side by side; how much memory.

    decision      `TradingSystem.step` on rows that are prepared: account, all policies, risk, orders; of the closes at
                  which every group decides, and of all closes
    parts         of the former, by what `Decision.timings_s` names
    forward       one pass of each group's networks, for one account
    appended      the same from a bar: appended to a history, whose features are computed anew, and decided
    batch         decisions a second of many accounts at once: observations, all policies and risk, without orders
    process       peak of resident memory of a process of its own that opens an exported folder and decides, torch
                  included, and whether Ray was loaded there

Times are of a machine as it is: p50 and p99 of all that were measured, and how many those were. `cpu_p50` and `cpu_p99`
are of the processor's time, which other processes do not lengthen much.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.market.bars import MarketData
from mtquant_rllib.policies.exported import write_exported
from mtquant_rllib.serving.closes import PreparedBars
from mtquant_rllib.serving.exported_system import write_system
from mtquant_rllib.serving.history import BarHistory
from mtquant_rllib.serving.policies import DecidingPolicies, ModuleStates
from mtquant_rllib.serving.simulated_account import SimulatedAccount
from mtquant_rllib.serving.system import TradingSystem

_WARM_UP = 10
"""Decisions before those that are measured."""
_PASSES, _BATCHES = 300, 12
_RATE_WARM_UP = 2


@dataclass(frozen=True)
class Sizes:
    """decisions: closes that are decided on; appended: bars that are appended; batch: accounts side by side."""

    decisions: int = 600
    appended: int = 30
    batch: int = 1024


def bench_decide(policies: DecidingPolicies, market: MarketData, sizes: Sizes) -> Mapping[str, Any]:
    """The figures of the module's docstring, milliseconds under names that end in `_ms`. market: bars of the policies'
    instruments."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = DeskData.of(policies.settings, [market])
        figures = _decisions(policies, data, sizes)
        return figures | {
            "appended_ms": _quantiles(_appended(policies, market, sizes)),
            "batch": _batch(policies, data, sizes),
            "process": _process(policies, market, sizes),
            "fingerprint": policies.fingerprint,
            "members": len(policies.members),
            "bars_of_history": len(market),
        }
    finally:
        torch.set_num_threads(threads)


class _Watch:
    """Wall and processor time of what is measured, seconds."""

    def __init__(self) -> None:
        self.wall_s, self.cpu_s = 0.0, 0.0

    def __enter__(self) -> _Watch:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s += time.perf_counter() - self._wall
        self.cpu_s += time.process_time() - self._cpu


def _quantiles(watches: Sequence[_Watch]) -> dict[str, float]:
    found = {"n": float(len(watches))}
    for kind, seconds in (("", [one.wall_s for one in watches]), ("cpu_", [one.cpu_s for one in watches])):
        found |= {f"{kind}{name}": 1e3 * value for name, value in _p50_p99(seconds).items()}
    return found


def _p50_p99(values: Sequence[float]) -> dict[str, float]:
    return {"p50": float(np.quantile(values, 0.5)), "p99": float(np.quantile(values, 0.99))}


def _decisions(policies: DecidingPolicies, data: DeskData, sizes: Sizes) -> dict[str, Any]:
    settings = policies.settings
    system, account = TradingSystem(policies), SimulatedAccount(settings, policies.calendar)
    groups = {group.name for group in agent_groups(settings)}
    if policies.equal_allocation:
        groups = {group.name for group in agent_groups(settings) if group.action_map != "allocation"}
    whole: list[_Watch] = []
    every: list[_Watch] = []
    parts: list[Mapping[str, float]] = []
    decision = None
    for number, market in enumerate(PreparedBars.over(settings, data, data.segments[0])):
        if decision is not None:
            account.fill(decision, market.closes())
        portfolio, positions = account.portfolio(), account.positions()
        with _Watch() as took:
            decision = system.step(market, portfolio, positions)
        if number < _WARM_UP:
            continue
        every.append(took)
        if set(decision.decided) == groups:
            whole.append(took)
            parts.append(decision.timings_s)
        if len(every) == sizes.decisions:
            break
    names = parts[0]
    return {
        "decision_ms": _quantiles(whole),
        "every_close_ms": _quantiles(every),
        "parts_ms": {name: _p50_p99([1e3 * one[name] for one in parts]) for name in names},
        "forward_ms": _forward(policies, data),
    }


def _forward(policies: DecidingPolicies, data: DeskData) -> dict[str, dict[str, float]]:
    """One pass of each group for one account, at its first close."""
    desk = rollout.new_desk(policies.settings, data, rollout.whole(data.segments)[:1])
    player = policies.player()
    seen = {level.name: level.observe() for level in desk.levels}
    own = {name: obs for name, obs in seen.items() if not (policies.equal_allocation and _allocates(policies, name))}
    return {name: _quantiles(_times(partial(player.actor.act, name, obs))) for name, obs in own.items()}


def _allocates(policies: DecidingPolicies, name: str) -> bool:
    return next(group.action_map for group in agent_groups(policies.settings) if group.name == name) == "allocation"


def _times(call: Callable[[], object]) -> list[_Watch]:
    watches = []
    for _ in range(_WARM_UP + _PASSES):
        with _Watch() as took:
            call()
        watches.append(took)
    return watches[_WARM_UP:]


def _appended(policies: DecidingPolicies, market: MarketData, sizes: Sizes) -> list[_Watch]:
    """From a bar to its orders, the last bars of the market one after the other."""
    settings, first = policies.settings, len(market) - sizes.appended
    system = TradingSystem(policies)
    history = BarHistory(settings, market.rows(0, first))
    account, decision = SimulatedAccount(settings, policies.calendar), None
    watches: list[_Watch] = []
    for row in range(first, len(market)):
        bars = {market.symbols[i]: market.bars[row, i] for i in np.flatnonzero(market.valid[row])}
        known = zip(market.macro_columns, market.macro[row], strict=True)
        macro = {name: float(value) for name, value in known if np.isfinite(value)}
        with _Watch() as took:
            history.append(market.timestamps[row], bars, macro)
            closes = history.closes()
        if decision is not None:
            account.fill(decision, closes)
        portfolio, positions = account.portfolio(), account.positions()
        with took:
            decision = system.step(history, portfolio, positions)
        watches.append(took)
    return watches


def _batch(policies: DecidingPolicies, data: DeskData, sizes: Sizes) -> dict[str, float]:
    """Decisions a second of accounts at random closes, every group deciding."""
    settings = policies.settings
    draws = rollout.random_starts(data.segments, settings.desk.episode.bars, sizes.batch, settings.seed)
    desk, player, seconds = rollout.new_desk(settings, data, draws), policies.player(), []
    for number in range(_RATE_WARM_UP + _BATCHES):
        desk.invalidate_close()
        begun = time.perf_counter()
        desk.order(player(desk))
        if number >= _RATE_WARM_UP:
            seconds.append(time.perf_counter() - begun)
    return {"accounts": sizes.batch, "decisions_per_s": sizes.batch / float(np.median(seconds))}


_PROCESS = """
import json, resource, sys
import numpy as np
from mtquant_rllib.serving import Portfolio, TradingSystem
from mtquant_rllib.serving.closes import TwoCloses

class Shown:
    def __init__(self, rows): self.rows = rows
    def closes(self): return self.rows

system = TradingSystem.from_checkpoint(sys.argv[1])
with np.load(sys.argv[2]) as stored:
    rows = TwoCloses(**{name: stored[name] for name in stored.files})
decision = system.step(Shown(rows), Portfolio(float(sys.argv[3]), system.settings.desk.account.currency), {})
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_rss_mb": peak, "ray": "ray" in sys.modules, "decision": decision.id}))
"""


def _process(policies: DecidingPolicies, market: MarketData, sizes: Sizes) -> dict[str, Any]:
    """A process that knows an exported folder and the rows of one close."""
    settings = policies.settings
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "system").mkdir()
        write_system(place / "system", policies, [partial(_write, policies, states) for states in policies.members])
        closes = BarHistory(settings, market).closes()
        np.savez(place / "closes.npz", **vars(closes))
        words = [str(place / "system"), str(place / "closes.npz"), str(settings.desk.account.start_equity_ccy)]
        done = subprocess.run([sys.executable, "-c", _PROCESS, *words], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write(policies: DecidingPolicies, states: ModuleStates, folder: Path) -> None:
    folder.mkdir()
    settings = policies.settings
    sharing = settings.networks.sharing
    agents = [agent for agent in settings.universe.agent_ids if settings.universe.policy_of(agent, sharing) in states]
    hashes = dict.fromkeys(policies.modules, "0" * 64)
    write_exported(folder, settings, states, hashes, {"run": "bench"}, agents)
