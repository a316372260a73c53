"""A desk that is put back where it stood goes on as if nothing had happened, and nothing that it holds was forgotten.

What belongs to an environment is declared (`VectorState`), and a new array can be forgotten there. These tests look at
everything that can be reached from a desk, by no rule of theirs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.errors import MtquantError
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.execution_data import ExecutionData

SMALL = [f"embedded.{split}={{paths: 2, years: 3}}" for split in ("train", "validation", "test")]
N_ENVS = 7
EPISODE = 23

DESKS = {
    "phase 3": ("default.yaml", EpisodeSetup(), True),
    "phase 3 without limits": ("default.yaml", EpisodeSetup(), False),
    "phase 2": ("default.yaml", EpisodeSetup("differential_sharpe"), True),
    "phase 1, forex": ("default.yaml", EpisodeSetup("differential_sharpe", 0), True),
    "phase 1, equity": ("default.yaml", EpisodeSetup("differential_sharpe", 2), True),
    "allocator": ("allocator.yaml", EpisodeSetup("differential_sharpe"), True),
}


@functools.cache
def market(config: str, cache: Path) -> tuple[Settings, DeskData]:
    # Decisions that lose money fast, so that breakers, stops and endings are part of what is put back.
    settings = Settings.load(config, overrides=[*SMALL, "desk.decision.vol_target_ann=0.9"])
    return settings, DeskData.open(prepare_embedded(settings, cache), "train")


@pytest.fixture(params=list(DESKS))
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, tmp_path_factory.getbasetemp() / "snapshots"


def new_desk(stage: tuple[str, Path]) -> Trading:
    config, setup, limited = DESKS[stage[0]]
    settings, data = market(config, stage[1])
    return core_for(settings, data, N_ENVS, setup, limited=limited)


class Play:
    """Random decisions of a desk, episode after episode; what it shows and pays is kept. Everything drawn follows from
    a counter, so that two plays from the same count are the same."""

    def __init__(self, desk: Any, settings: Settings, data: DeskData) -> None:
        self.desk, self.settings, self.segments = desk, settings, data.segments
        self.bar = 0

    def reset(self, envs: np.ndarray) -> None:
        rng = np.random.default_rng((self.bar, 7))
        starts = [int(rng.integers(self.segments[0].start, self.segments[0].stop - EPISODE - 1)) for _ in envs]
        draws = [EpisodeDraw(start, start + EPISODE, 0.6, int(rng.integers(2))) for start in starts]
        self.desk.reset(envs, draws)

    def go_on(self, bars: int) -> list[bytes]:
        desk, universe, seen = self.desk, self.settings.universe, []
        for _ in range(bars):
            self.bar += 1
            rng = np.random.default_rng((self.bar, 11))
            if universe.allocates:
                seen.append(desk.observe())
                desk.decide(rng.normal(0.0, 2.0, (N_ENVS, universe.n_instruments)))
            else:
                if desk.setup.domain is None:
                    seen.append(desk.observe_meta())
                    desk.decide_meta(rng.normal(0.0, 1.0, (N_ENVS, universe.n_domains + 1)))
                domains = range(universe.n_domains) if desk.setup.domain is None else [desk.setup.domain]
                for number in domains:
                    seen.append(desk.observe_specialist(number))
                    width = 3 * len(universe.domains[number].symbols) + 1
                    desk.decide_specialist(number, rng.normal(0.0, 3.0, (N_ENVS, width)))
                seen.append(desk.observe_instruments())
                desk.decide_instruments(rng.normal(0.0, 3.0, (N_ENVS, universe.n_instruments, 3)))
            result = desk.advance()
            over = result.terminated | result.truncated
            seen += [result.rewards, result.terminated, result.truncated, result.portfolio_return, desk.book.equity]
            seen += [desk.book.units, desk.ordered, desk.weights_now(), *result.terms.values()]
            if over.any():
                self.reset(np.flatnonzero(over))
        return [np.ascontiguousarray(array).tobytes() for array in seen]


def play_on(stage: tuple[str, Path], desk: Any) -> Play:
    return Play(desk, *market(DESKS[stage[0]][0], stage[1]))


def begun(stage: tuple[str, Path]) -> Play:
    play = play_on(stage, new_desk(stage))
    play.reset(np.arange(N_ENVS))
    return play


def reachable(root: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array that can be reached from an object: attributes, containers, closures; the shared market aside."""
    waiting, found = [("desk", root)], set()
    while waiting:
        path, item = waiting.pop()
        if id(item) in found or isinstance(item, (ExecutionData, FeatureTable, Settings, type, types.ModuleType)):
            continue
        found.add(id(item))
        if isinstance(item, np.ndarray):
            if not (isinstance(item.base, np.memmap) or isinstance(item, np.memmap)):
                yield path, item
        elif isinstance(item, dict):
            waiting += [(f"{path}[{key!r}]", own) for key, own in item.items()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += [(f"{path}[{number}]", own) for number, own in enumerate(item)]
        elif isinstance(item, types.FunctionType):
            waiting += [(f"{path}<{number}>", cell.cell_contents) for number, cell in enumerate(item.__closure__ or ())]
        else:
            slots = [name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())]
            own = {
                **getattr(item, "__dict__", {}),
                **{name: getattr(item, name) for name in slots if hasattr(item, name)},
            }
            waiting += [(f"{path}.{name}", value) for name, value in own.items()]


@pytest.mark.slow
def test_three_hundred_bars_after_being_put_back_are_the_same(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, play.desk.snapshot()
    expected = play.go_on(300)
    play.reset(np.arange(N_ENVS))
    play.go_on(101)
    play.desk.restore(state)
    play.bar = at
    assert play.go_on(300) == expected, "the same desk"
    assert len(set(expected)) > 900, "something happened in those bars"

    replacement = play_on(stage, new_desk(stage))
    replacement.desk.restore(state)
    replacement.bar = at
    assert replacement.go_on(300) == expected, "a desk that was never played"

    play.desk.restore(state)
    play.bar = at
    assert play.go_on(300) == expected, "a state may be put back as often as one likes"


@pytest.mark.slow
def test_a_desk_is_put_back_from_half_of_a_bar(stage: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an environment failed between its fills and its rewards."""
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, play.desk.snapshot()
    expected = play.go_on(60)
    play.desk.restore(state)
    play.bar = at
    play.go_on(9)
    with monkeypatch.context() as patch:
        patch.setattr(play.desk, "close_bar", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            play.go_on(1)
    play.desk.restore(state)
    play.bar = at
    assert play.go_on(60) == expected


OF_THE_BAR = (
    "._close",
    "._last_bar",
    ".terms[",
    ".proposed",
    ".ordered",
    ".stopped",
    ".instrument_return",
    ".portfolio_return",
    "_ccy",
    ".risk.decision",
    ".risk.rule",
    ".risk.unrepairable",
    ".risk.var",
    ".risk._at_open",
    ".meter.",
)
"""Made anew in every bar before anybody reads it: a row's quantities, named rewards, risk's record of edits and its
scratch memory. A path that holds one of these need not come back."""


def left_behind(play: Play) -> set[str]:
    """Arrays that 150 bars have changed and that being put back does not bring back."""
    before = {path: array.copy() for path, array in reachable(play.desk)}
    state = play.desk.snapshot()
    play.go_on(150)
    moved = {path for path, array in reachable(play.desk) if path in before and not same(array, before[path])}
    assert len(moved) > 20, "the desk has moved on"
    play.desk.restore(state)
    after = dict(reachable(play.desk))
    return {
        path
        for path, array in before.items()
        if not any(part in path for part in OF_THE_BAR) and (path not in after or not same(array, after[path]))
    }


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


@pytest.mark.slow
def test_no_array_that_a_desk_holds_is_left_behind(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    assert left_behind(play) == set()


@pytest.mark.slow
def test_an_array_in_a_shape_that_nobody_thought_of_would_be_noticed(stage: tuple[str, Path]) -> None:
    """The array of a feature that is added one day."""
    play = begun(stage)
    play.go_on(37)
    desk, advance = play.desk, play.desk.advance
    desk.by_lag, desk.by_name = np.zeros((3, N_ENVS)), {"one": np.zeros(N_ENVS)}

    def remembering() -> Any:
        desk.by_lag += 1.0
        desk.by_name["one"] += 1.0
        return advance()

    desk.advance = remembering
    assert left_behind(play) == {"desk.by_lag", "desk.by_name['one']"}


def test_a_snapshot_of_other_settings_or_another_version_is_refused(stage: tuple[str, Path]) -> None:
    """And nothing has changed then."""
    play = begun(stage)
    play.go_on(5)
    snapshot = play.desk.snapshot()
    before = {path: array.copy() for path, array in reachable(play.desk)}
    lacks = {**snapshot, "state": {name: a for name, a in snapshot["state"].items() if name != "book.stop"}}
    knows = {**snapshot, "state": {**snapshot["state"], "book.swaps": np.zeros(N_ENVS)}}
    fewer = {**snapshot, "state": {name: array[:3] for name, array in snapshot["state"].items()}}
    for odd, words in ((lacks, "it lacks book.stop"), (knows, "book.swaps"), (fewer, "does not fit"), ({}, "expected")):
        with pytest.raises(MtquantError, match=words):
            play.desk.restore(odd)
    assert all(same(array, before[path]) for path, array in reachable(play.desk))


@pytest.mark.slow
def test_who_rests_for_a_bar_does_not_notice(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, play.desk.snapshot()
    expected = play.go_on(40)
    play.desk.restore(state)
    play.bar = at
    with play.desk.rolled_back(np.arange(N_ENVS)):
        play.go_on(1)
    play.bar = at
    assert play.go_on(40) == expected


@pytest.mark.slow
def test_who_rests_keeps_the_cap_of_a_breaker(tmp_path: Path) -> None:
    """In the bar that it sits out the cooldown of its cap ends, and with it the only cap there is: it has not ended."""
    play = begun(("phase 3", tmp_path))
    breakers, everyone = play.desk.risk.breakers, np.arange(N_ENVS)
    weights = np.full((N_ENVS, play.desk.universe.n_instruments), 0.4)
    lost = np.where(everyone == 3, 0.94, 1.0) * breakers.day_start_ccy
    assert breakers.mark(lost, weights).tolist() == [0, 0, 0, 1, 0, 0, 0]
    with play.desk.rolled_back(np.array([3])):
        for _ in range(50):
            breakers.after_fills(np.ones_like(weights, dtype=bool))
        assert breakers.limits().cap_abs is None
    capped = breakers.limits().cap_abs
    assert capped is not None
    assert (capped[3] == 0.2).all()
    assert np.isinf(np.delete(capped, 3, axis=0)).all()
