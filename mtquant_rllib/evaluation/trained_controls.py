"""Positive and negative controls: policies must find a planted signal, and nothing on a market without one.

On the planted market an oracle that knows the exact conditional mean is replayed through the same core, costs and
risk rules; what counts is the share of its pooled net Sharpe that the policies earn on paths that nobody trained on.
Where structures of the whole desk are planted (`synthetic.planted.structures`), what counts besides is the gain: that
of the desk over its own state after phase 1, as a share of the oracle's over the best parts (`structure_oracles`).
On the null market the bars are a martingale: a gross Sharpe away from zero, or a net one above it, is a leak.
Untrained networks and random convictions are compared on both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mtquant_rllib.config.sections.evaluation import NullTestConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.prepared.data import DeskData, truth
from mtquant_rllib.evaluation.backtest.baselines import weight_rules
from mtquant_rllib.evaluation.backtest.linear_benchmark import linear_forecast
from mtquant_rllib.evaluation.backtest.record import Record
from mtquant_rllib.evaluation.backtest.rollout import (
    RulePlayer,
    closes_of,
    oracle_player,
    play,
    policy_player,
    subject_of,
    whole,
)
from mtquant_rllib.evaluation.backtest.structure_oracles import structure_players
from mtquant_rllib.evaluation.statistics.bootstrap import (
    GainShare,
    Interval,
    pooled_sharpe_interval,
    share_of_gain,
    share_of_oracle,
)

States = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class ControlResult:
    """The result of a control.

    books
        Pooled net and gross Sharpe of each book, with intervals: the subject (mean over training seeds), untrained,
        random, and on a market with something planted, or leaked, the oracle; for an allocator also `linear`, the best
        linear forecast from its observations (`linear_benchmark`).
    per_seed
        Pooled net Sharpe of each training seed.
    share, share_per_seed
        Share of the oracle's net Sharpe; None on the null market and where something leaked into it.
    gain
        What the desk gains over its state after phase 1, and the oracle over the best parts; None where no structure of
        the whole desk is planted, or that state was not given.
    years
        Test years pooled.
    """

    variant: str
    subject: str
    years: float
    books: dict[str, dict[str, Interval]]
    per_seed: list[float]
    share: Interval | None
    share_per_seed: list[float]
    gain: GainShare | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        tree: dict[str, Any] = {
            "variant": self.variant,
            "test_years": self.years,
            "net_sharpe_per_seed": self.per_seed,
            "share_per_seed": self.share_per_seed,
            "books": {
                name: {kind: _plain(interval) for kind, interval in kinds.items()} for name, kinds in self.books.items()
            },
        }
        if self.share is not None:
            tree["share"] = _plain(self.share)
        if self.gain is not None:
            own = {name: _plain(getattr(self.gain, name)) for name in ("share", "agent_gain", "oracle_gain")}
            tree["gain"] = own | {"share_per_seed": [float(share) for share in self.gain.per_seed]}
        return tree


def judge(
    settings: Settings,
    data_folder: Path,
    trained: Sequence[States],
    untrained: States,
    *,
    equal_allocation: bool = False,
    phase_1: Sequence[States] = (),
) -> ControlResult:
    """Play every training seed's policies, the oracle, untrained and random over the test split, path by path.

    Parameters
    ----------
    trained
        Module states, one mapping per training seed.
    untrained
        Freshly initialised states of the same networks.
    equal_allocation
        Judge the desk after phase 1, before there is a meta-controller.
    phase_1
        States of the same training seeds after phase 1, from which the gain is counted.
    """
    data = DeskData.open(data_folder, "test")
    draws = whole(data.segments)

    def policies(states: States, equally: bool = equal_allocation) -> Record:
        player = policy_player(settings, states, equal_allocation=equally)
        return play(settings, data, player, draws, name="desk")

    desks = [policies(states) for states in trained]
    before = [policies(states, True) for states in phase_1]
    others = {
        "untrained": policies(untrained),
        "random": play(
            settings, data, RulePlayer(weight_rules(settings)["random"], closes_of(data)), draws, name="random"
        ),
    }
    mu, sigma = truth(data_folder, "test")
    planted = bool(np.any(mu))
    structures = settings.synthetic.planted.structures
    if planted and structures:
        for name, knowing in structure_players(settings, data_folder, "test").items():
            others[name] = play(settings, data, knowing, draws, name=name)
    elif planted:
        others["oracle"] = play(settings, data, oracle_player(settings, mu, sigma, data), draws, name="oracle")
        if settings.allocator is not None:
            forecast = oracle_player(settings, linear_forecast(settings, data_folder, "test"), sigma, data)
            others["linear"] = play(settings, data, forecast, draws, name="linear")
    bootstrap, per_year = settings.evaluation.bootstrap, data.execution.bars_per_year

    def sharpes(records: Sequence[Record]) -> dict[str, Interval]:
        rng = np.random.default_rng(settings.seed)
        return {
            "net": pooled_sharpe_interval(np.stack([r.returns for r in records]), per_year, bootstrap, rng),
            "gross": pooled_sharpe_interval(np.stack([r.gross_returns for r in records]), per_year, bootstrap, rng),
        }

    subject = subject_of(settings)
    share = None
    # With a leak the oracle's net Sharpe may not be positive; what counts there is the null test.
    if planted and settings.embedded.variant != "leak":
        share = share_of_oracle(
            np.stack([record.returns for record in desks]),
            others["oracle"].returns,
            per_year,
            bootstrap,
            np.random.default_rng(settings.seed),
        )
    gain = None
    if planted and structures and before:
        gain = share_of_gain(
            (np.stack([record.returns for record in desks]), np.stack([record.returns for record in before])),
            (others["oracle"].returns, others["parts"].returns),
            per_year,
            bootstrap,
            np.random.default_rng(settings.seed),
        )
    return ControlResult(
        variant=settings.embedded.variant,
        subject=subject,
        years=float(desks[0].played.sum() / per_year),
        books={subject: sharpes(desks), **{name: sharpes([record]) for name, record in others.items()}},
        per_seed=[sharpes([record])["net"].estimate for record in desks],
        share=None if share is None else share.share,
        share_per_seed=[] if share is None else [float(value) for value in share.per_seed],
        gain=gain,
    )


def passes_null(book: Mapping[str, Interval], config: NullTestConfig) -> bool:
    """Whether a book's net and gross Sharpe are what a market without anything to predict gives: no gross Sharpe to
    speak of, and no net one at the upper end of its interval."""
    return abs(book["gross"].estimate) < config.max_gross_sharpe and book["net"].upper < config.max_net_upper


def _plain(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "lower": interval.lower, "upper": interval.upper}


def print_control(result: ControlResult, console: Console) -> None:
    """The verdict as a table."""
    table = Table(title=f"{result.variant} market, {result.years:.0f} test years", box=box.SIMPLE)
    for heading in ("book", "net Sharpe", "gross Sharpe", "share of the oracle"):
        table.add_column(heading, justify="left" if heading == "book" else "right")
    for name, kinds in result.books.items():
        share = _text(result.share) if name == result.subject and result.share is not None else ""
        table.add_row(name, _text(kinds["net"]), _text(kinds["gross"]), share)
    console.print(table)
    if "linear" in result.books and result.share is not None:
        linear, subject = (result.books[name]["net"].estimate for name in ("linear", result.subject))
        console.print(f"share of the linear benchmark on what the {result.subject} observes: {subject / linear:.0%}")
    if result.gain is not None:
        console.print(
            f"gain over phase 1: net Sharpe {_text(result.gain.agent_gain)}; the oracle's over the best parts "
            f"{_text(result.gain.oracle_gain)}; share {result.gain.share.estimate:.0%} "
            f"[{result.gain.share.lower:.0%}, {result.gain.share.upper:.0%}]"
        )
    seeds = ", ".join(f"{sharpe:.2f}" for sharpe in result.per_seed)
    shares = ", ".join(f"{share:.0%}" for share in result.share_per_seed)
    console.print(f"per training seed: net Sharpe {seeds}" + (f"; share {shares}" if shares else ""))


def _text(interval: Interval) -> str:
    return f"{interval.estimate:.2f} [{interval.lower:.2f}, {interval.upper:.2f}]"
