"""Playing a split from end to end under the desk's own fills, costs and risk rules.

A `Player` proposes weights at the close of a bar. Policies, baselines and oracles are players and differ in nothing
else, so that their records are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.allocator import Allocator
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.decisions import allocator_actions
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw, EpisodeSegment
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer
from mtquant_rllib.env.trading import NO_STOP_ATR, Trading
from mtquant_rllib.errors import RunError
from mtquant_rllib.evaluation.backtest.baselines import MarketView, WeightRule
from mtquant_rllib.evaluation.backtest.oracle import allocator_targets, oracle_actions, oracle_targets
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.measures import max_drawdown, sharpe
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.attention.fallbacks import Counts
from mtquant_rllib.policies.ensemble import EnsembleActor
from mtquant_rllib.portfolio import execution_data as channel
from mtquant_rllib.risk.breakers import N_LEVELS
from mtquant_rllib.risk.rules import RuleId
from mtquant_rllib.universe import ALLOCATOR


class Player(Protocol):
    """Proposed weights (B, n) at the close of the desk's rows."""

    def __call__(self, desk: Any) -> np.ndarray: ...


class DecisionObserver(Protocol):
    """Called with an agent's observations (B, F) at a decision, and the environments that take it, bool (B,).

    The arrays are the step's own: copy what is to be kept.
    """

    def __call__(self, agent: str, desk: Any, obs: np.ndarray, decides: np.ndarray) -> None: ...


class PolicyPlayer:
    """Policies, acting by their means.

    Parameters
    ----------
    actor
        The policies that play.
    domain
        Play one domain only, at an equal share of capital; the others get none. None plays all.
    equal_allocation
        Every domain gets an equal share at full appetite in place of the meta-controller's decision: the desk before
        there is one.
    on_decision
        Called with every agent's observations.
    """

    def __init__(
        self,
        actor: DeskActor | EnsembleActor,
        *,
        domain: int | None = None,
        equal_allocation: bool = False,
        on_decision: DecisionObserver | None = None,
    ) -> None:
        self.actor = actor
        self._on_decision = on_decision
        self._domain = domain
        self._equal = equal_allocation or domain is not None

    @property
    def fallbacks(self) -> Counts:
        """Counts of the decisions of attention networks by fall-back, so far."""
        return self.actor.fallbacks.counts()

    @classmethod
    def of(
        cls,
        settings: Settings,
        states: Mapping[str, Mapping[str, Any]],
        *,
        domain: int | None = None,
        equal_allocation: bool = False,
        on_decision: DecisionObserver | None = None,
    ) -> PolicyPlayer:
        """A player from module states; for one domain, those of its modules suffice."""
        universe = settings.universe
        ids = [universe.policy_of(symbol, settings.networks.sharing) for symbol in universe.symbols]
        if domain is not None:
            # Instruments without capital decide too, by any network: it makes no difference.
            spare = next(states[name] for name in ids if name in states)
            states = {**dict.fromkeys(ids, spare), **states}
        return cls(
            DeskActor(settings, states),
            domain=domain,
            equal_allocation=equal_allocation,
            on_decision=on_decision,
        )

    def __call__(self, desk: Trading) -> np.ndarray:
        if self._equal:
            self._allocate_equally(desk)
        watch = self.actor.fallbacks
        for level in desk.levels:
            allocates = level.group.action_map == "allocation"
            plays = level.group.domain is None or self._domain in (None, level.group.domain)
            if not plays or (allocates and self._equal):
                continue
            due = level.due()
            if not due.any():
                continue
            obs = level.observe()
            watch.bars, watch.rows = int(desk.state.bars_done.max()), due & ~desk.state.done
            if self._on_decision is not None:
                for slot, agent in enumerate(level.agents):
                    self._on_decision(agent, desk, obs[:, slot], watch.rows)
            level.decide(self.actor.act(level.name, obs))
        watch.rows = None
        return desk.propose()

    def _allocate_equally(self, desk: Trading) -> None:
        """Every domain that plays gets the same share at full appetite."""
        assert isinstance(desk, Desk)
        domains = range(desk.universe.n_domains) if self._domain is None else (self._domain,)
        desk.state.allocation[:] = 0.0
        desk.state.allocation[:, list(domains)] = min(
            1.0 / desk.universe.n_domains, desk.config.decision.allocation_cap
        )
        desk.state.appetite[:] = 1.0


def subject_of(settings: Settings) -> str:
    """Name of the book of the settings' policies."""
    return "desk" if settings.allocator is None else ALLOCATOR


def policy_player(settings: Settings, states: Mapping[str, Mapping[str, Any]], **how: Any) -> PolicyPlayer:
    """The settings' own kind of policies, from module states; `how` as of `PolicyPlayer.of`. An allocator is whole from
    its first phase on, and has no domains to play apart."""
    if settings.universe.allocates:
        how = {"on_decision": how.get("on_decision")}
    return PolicyPlayer.of(settings, states, **how)


class RulePlayer:
    """A baseline: a rule from rows and market arrays to weights."""

    def __init__(self, rule: WeightRule, closes: np.ndarray) -> None:
        self._rule = rule
        self._closes = closes

    def __call__(self, desk: Trading) -> np.ndarray:
        # A weight rule sets no stops: those are an instrument agent's decision.
        desk.state.stop_atr[:] = NO_STOP_ATR
        view = MarketView(
            closes=self._closes,
            vol_ann=desk.features.vol_ann,
            covariance=desk.features.covariance,
            weights=desk.weight,
            n_rows_per_path=desk.execution.rows_per_path,
            bars_per_day=desk.execution.bars_per_year / desk.execution.days_per_year,
        )
        return self._rule(desk.state.row, view)


class OraclePlayer:
    """Knows the planted mean, and is held to the desk's own actions, costs and risk rules."""

    def __init__(self, settings: Settings, mu: np.ndarray, sigma: np.ndarray) -> None:
        self._settings = settings
        self._targets = oracle_targets(mu, sigma, settings.synthetic.oracle.slope)

    def __call__(self, desk: Trading) -> np.ndarray:
        actions = oracle_actions(self._targets[desk.state.row], self._settings)
        everywhere = np.ones(desk.n_envs, dtype=bool)
        for level in desk.levels:
            level.decide(actions[level.name], everywhere)
        return desk.propose()


class AllocatorOraclePlayer:
    """The allocator's oracle: it too knows the planted mean, and is held to an allocator's actions.

    mu, sigma: conditional mean of the next return and trailing volatility, (N, n), on the rows of the features' table.
    """

    def __init__(self, settings: Settings, mu: np.ndarray, sigma: np.ndarray, data: DeskData) -> None:
        assert settings.allocator is not None
        self._config = settings.allocator
        self._targets = np.full_like(mu, 1.0 / mu.shape[1])
        rows = np.concatenate([np.arange(segment.start, segment.stop) for segment in data.segments])
        self._targets[rows] = allocator_targets(
            mu[rows], sigma[rows], data.features.covariance[rows], self._config.oracle
        )

    def __call__(self, desk: Allocator) -> np.ndarray:
        held = np.maximum(desk.weight, 0.0)
        wanted = held + self._config.oracle.urgency * (self._targets[desk.state.row] - held)
        desk.decide(allocator_actions(wanted, self._config.logit_scale))
        return desk.propose()


def oracle_player(settings: Settings, mu: np.ndarray, sigma: np.ndarray, data: DeskData) -> Player:
    """The settings' own kind of oracle."""
    if settings.allocator is None:
        return OraclePlayer(settings, mu, sigma)
    return AllocatorOraclePlayer(settings, mu, sigma, data)


def whole(segments: Sequence[EpisodeSegment]) -> list[EpisodeDraw]:
    """Each segment once, from end to end."""
    return [EpisodeDraw(start=s.start, stop=s.stop - 1, allocation=0.0, active_instrument=0) for s in segments]


def pieces(segments: Sequence[EpisodeSegment], bars: int) -> list[EpisodeDraw]:
    """Each segment cut into consecutive pieces of about `bars`: the same bars, played side by side."""
    draws = []
    for segment in segments:
        count = max(round((segment.stop - 1 - segment.start) / bars), 1)
        edges = np.linspace(segment.start, segment.stop - 1, count + 1).astype(int)
        draws += [EpisodeDraw(int(a), int(b), 0.0, 0) for a, b in pairwise(edges)]
    return draws


def random_starts(segments: Sequence[EpisodeSegment], bars: int, episodes: int, seed: int) -> list[EpisodeDraw]:
    """Episodes of `bars` from random starts."""
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(episodes):
        segment = segments[int(rng.integers(len(segments)))]
        start = int(rng.integers(segment.start, max(segment.stop - 1 - bars, segment.start) + 1))
        draws.append(EpisodeDraw(start, min(start + bars, segment.stop - 1), 0.0, 0))
    return draws


def new_desk(settings: Settings, data: DeskData, draws: Sequence[EpisodeDraw], *, limited: bool = True) -> Any:
    """A core with one environment a draw, under evaluation's rules: a trading halt is lifted the next day."""
    setup = EpisodeSetup(ends_on_halt=False, custom_terms=False)
    desk = core_for(settings, data, len(draws), setup, limited=limited)
    desk.reset(np.arange(len(draws)), list(draws))
    return desk


def play(
    settings: Settings,
    data: DeskData,
    player: Player,
    draws: Sequence[EpisodeDraw],
    *,
    name: str,
    facts: Mapping[str, Any] | None = None,
    on_bar: Callable[[Any], None] | None = None,
) -> Record:
    """Let a player play every draw to its end, side by side; shorter ones are done when they are through.

    on_bar
        Called after each bar, for what the record does not hold.
    """
    desk = new_desk(settings, data, draws)
    risk = desk.risk
    assert isinstance(risk, RiskLayer)
    n_envs, n = len(draws), settings.universe.n_instruments
    n_bars = max(draw.stop - draw.start for draw in draws)
    money = {
        key: np.zeros((n_envs, n_bars, n)) for key in ("pnl", "cost", "financing", "weights", "proposed", "traded")
    }
    rules = np.zeros((n_envs, n_bars, n), dtype=np.int8)
    equity, forecast = np.full((n_envs, n_bars), np.nan), np.zeros((n_envs, n_bars))
    start_equity = desk.book.equity.copy()
    for t in range(n_bars):
        playing = ~desk.state.done
        if not playing.any():
            break
        before = np.where(desk.book.equity > 0, desk.book.equity, 1.0)
        result = desk.advance_with_weights(player(desk))
        equity[playing, t] = desk.book.equity[playing]
        money["pnl"][:, t], money["cost"][:, t] = desk.book.pnl_ccy, desk.book.cost_ccy
        money["financing"][:, t] = desk.book.financing_ccy
        money["traded"][:, t] = desk.book.traded_ccy / before[:, None]
        money["proposed"][:, t] = desk.proposed
        money["weights"][:, t] = desk.weights_now()
        # An instrument without a bar is not an edit.
        rules[:, t] = np.where(playing[:, None] & (risk.rule != RuleId.UNTRADABLE), risk.rule, 0)
        forecast[:, t] = risk.var_forecast()
        if on_bar is not None:
            on_bar(desk)
        desk.finish(np.flatnonzero(result.terminated | result.truncated))
    timestamps = np.stack([_timestamps(data, draw, n_bars) for draw in draws])
    return Record(
        name=name,
        symbols=settings.universe.symbols,
        domains=tuple(domain.name for domain in settings.universe.domains),
        domain_of=settings.universe.domain_of,
        bars_per_year=data.execution.bars_per_year,
        timestamps=timestamps[0] if (timestamps == timestamps[0]).all() else timestamps,
        equity_start_ccy=start_equity,
        equity_ccy=equity,
        pnl_ccy=money["pnl"],
        cost_ccy=money["cost"],
        financing_ccy=money["financing"],
        weights=money["weights"],
        proposed=money["proposed"],
        traded_frac=money["traded"],
        rule_ids=rules,
        rule_names=names_of_rules(risk),
        var_forecast_frac=forecast,
        breaker_trips=risk.breakers.n_triggers.reshape(n_envs, N_LEVELS).copy(),
        facts=dict(facts or {}),
    )


def fill_prices(data: DeskData, row: int) -> np.ndarray:
    """Prices at which orders fill in the bar of a row, quote currency, (n,)."""
    return np.asarray(data.execution.money[row, channel.FILL])


def names_of_rules(risk: RiskLayer) -> dict[int, str]:
    """Names of the rules that can bind, custom ones included."""
    built_in = [int(rule) for rule in RuleId if rule not in (RuleId.NONE, RuleId.CUSTOM)]
    custom = [RuleId.CUSTOM + number for number in range(len(risk.manager.rules))]
    return {number: risk.manager.rule_name(number) for number in (*built_in, *custom)}


def _timestamps(data: DeskData, draw: EpisodeDraw, n_bars: int) -> np.ndarray:
    """Timestamps of the bars played; a shorter episode repeats its last."""
    rows = np.minimum(draw.start + 1 + np.arange(n_bars), draw.stop)
    return data.execution.timestamps[rows]


def closes_of(data: DeskData) -> np.ndarray:
    """Last good closes of every row, (N, n), quote currency."""
    return data.execution.money[:, channel.LAST]


def pooled_figures(record: Record) -> dict[str, float]:
    """Figures over all environments as one sample of bars: net and gross Sharpe, turnover a year, volatility; and the
    mean of their largest drawdowns."""
    played = record.played
    if not played.any():
        raise RunError("nothing was played: the split is empty")
    returns = record.returns[played]
    years = played.sum() / record.bars_per_year
    return {
        "sharpe": float(sharpe(returns, record.bars_per_year)),
        "gross_sharpe": float(sharpe(record.gross_returns[played], record.bars_per_year)),
        "volatility_ann": float(returns.std() * np.sqrt(record.bars_per_year)),
        "turnover_ann": float(record.traded_frac[played].sum() / years),
        "max_drawdown_frac": float(np.nanmean(max_drawdown(record.returns))),
        "risk_edits_per_bar": float(np.asarray(record.edited.any(axis=-1))[played].mean()),
    }
