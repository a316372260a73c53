"""A desk that is put back where it stood goes on as if nothing had happened, and nothing that it holds was forgotten.

What belongs to an environment is found by looking (`engine.sampling.desk_snapshot`), which a new array can slip
through. These tests look at everything else that can be reached from a desk, by no rule of theirs.
"""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.engine.sampling.desk_snapshot import capture, put_back
from mtquant_rllib.engine.sampling.masked_step import resting
from mtquant_rllib.env.cores import core_for
from mtquant_rllib.env.data import DeskData, prepare_embedded
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.scene import Scene
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.features.table import FeatureTable
from mtquant_rllib.portfolio.tape import Tape

SMALL = [f"embedded.{split}={{paths: 2, years: 3}}" for split in ("train", "validation", "test")]
N_ENVS = 7
EPISODE = 23

DESKS = {
    "phase 3": ("default.yaml", Scene(3, None), True),
    "phase 3 without limits": ("default.yaml", Scene(3, None), False),
    "phase 2": ("default.yaml", Scene(2, None), True),
    "phase 1, forex": ("default.yaml", Scene(1, 0), True),
    "phase 1, equity": ("default.yaml", Scene(1, 2), True),
    "allocator": ("allocator.yaml", Scene(1, None), True),
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
    config, scene, limited = DESKS[stage[0]]
    settings, data = market(config, stage[1])
    return core_for(settings, data, N_ENVS, scene, limited=limited)


class Play:
    """Random decisions of a desk, episode after episode; what it shows and pays is kept. Everything drawn follows from
    a counter, so that two plays from the same count are the same."""

    def __init__(self, desk: Any, settings: Settings, data: DeskData) -> None:
        self.desk, self.settings, self.stretches = desk, settings, data.stretches
        self.bar = 0

    def reset(self, envs: np.ndarray) -> None:
        rng = np.random.default_rng((self.bar, 7))
        starts = [int(rng.integers(self.stretches[0].start, self.stretches[0].stop - EPISODE - 1)) for _ in envs]
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
                if desk.scene.domain is None:
                    seen.append(desk.observe_meta())
                    desk.decide_meta(rng.normal(0.0, 1.0, (N_ENVS, universe.n_domains + 1)))
                domains = range(universe.n_domains) if desk.scene.domain is None else [desk.scene.domain]
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
        if id(item) in found or isinstance(item, (Tape, FeatureTable, Settings, type, types.ModuleType)):
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


def test_three_hundred_bars_after_being_put_back_are_the_same(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, capture(play.desk)
    expected = play.go_on(300)
    play.reset(np.arange(N_ENVS))
    play.go_on(101)
    put_back(play.desk, state)
    play.bar = at
    assert play.go_on(300) == expected, "the same desk"
    assert len(set(expected)) > 900, "something happened in those bars"

    replacement = play_on(stage, new_desk(stage))
    put_back(replacement.desk, state)
    replacement.bar = at
    assert replacement.go_on(300) == expected, "a desk that was never played"

    put_back(play.desk, state)
    play.bar = at
    assert play.go_on(300) == expected, "a state may be put back as often as one likes"


def test_a_desk_is_put_back_from_half_of_a_bar(stage: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an environment failed between its fills and its rewards."""
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, capture(play.desk)
    expected = play.go_on(60)
    put_back(play.desk, state)
    play.bar = at
    play.go_on(9)
    with monkeypatch.context() as patch:
        patch.setattr(play.desk, "_account", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            play.go_on(1)
    put_back(play.desk, state)
    play.bar = at
    assert play.go_on(60) == expected


OF_THE_BAR = (
    "._known[",
    ".terms[",
    ".oversight.decision",
    ".oversight._at_open",
    ".meter.",
)
"""Made anew in every bar before anybody reads it: a row's quantities, named rewards, risk's record of edits and its
scratch memory. A path that holds one of these need not come back."""


def left_behind(play: Play) -> set[str]:
    """Arrays that 150 bars have changed and that being put back does not bring back."""
    before = {path: array.copy() for path, array in reachable(play.desk)}
    state = capture(play.desk)
    play.go_on(150)
    moved = {path for path, array in reachable(play.desk) if path in before and not same(array, before[path])}
    assert len(moved) > 20, "the desk has moved on"
    put_back(play.desk, state)
    after = dict(reachable(play.desk))
    return {
        path
        for path, array in before.items()
        if not any(part in path for part in OF_THE_BAR) and (path not in after or not same(array, after[path]))
    }


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_no_array_that_a_desk_holds_is_left_behind(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    assert left_behind(play) == set()


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


def test_one_array_under_two_names_and_two_arrays_are_told_apart(tmp_path: Path) -> None:
    """Without limits what is ordered is what was proposed, one array; when an episode begins they are two."""

    def together(desk: Any) -> bool:
        return desk.proposed is desk.ordered

    stage = ("phase 3 without limits", tmp_path)
    play = begun(stage)
    apart = capture(play.desk)
    apart[""]["proposed"][:] = 0.25
    play.go_on(3)
    assert together(play.desk)
    joined, weights = capture(play.desk), play.desk.ordered.copy()
    put_back(play.desk, apart)
    assert not together(play.desk)
    assert (play.desk.proposed == 0.25).all()
    assert not play.desk.ordered.any()
    put_back(play.desk, pickle.loads(pickle.dumps(joined)))
    assert together(play.desk)
    assert np.array_equal(play.desk.proposed, weights)


def test_who_rests_for_a_bar_does_not_notice(stage: tuple[str, Path]) -> None:
    play = begun(stage)
    play.go_on(37)
    at, state = play.bar, capture(play.desk)
    expected = play.go_on(40)
    put_back(play.desk, state)
    play.bar = at
    with resting(play.desk, np.arange(N_ENVS)):
        play.go_on(1)
    play.bar = at
    assert play.go_on(40) == expected
