"""Which bars an episode plays, and what is drawn for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeSegment, InstrumentSegments, draw_episode
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.risk_layer import RiskLayer

SEGMENTS = (EpisodeSegment(251, 900), EpisodeSegment(1151, 1200), EpisodeSegment(2051, 2700))
LOW_HIGH = (0.1, 0.4)
small = st.integers(0, 50)


def draw(seed, runner, environment, episode, bars=252, n_instruments=3, segments=SEGMENTS):
    choices = [InstrumentSegments(number, segments) for number in range(n_instruments)]
    return draw_episode(seed, runner, environment, episode, choices, bars, LOW_HIGH)


@given(
    seed=st.integers(0, 2**32),
    runner=small,
    environment=small,
    episode=st.integers(0, 10_000),
    bars=st.integers(1, 700),
)
def test_a_draw_is_a_pure_function_and_stays_in_its_segment(seed, runner, environment, episode, bars):
    one = draw(seed, runner, environment, episode, bars)
    np.random.default_rng().random()
    assert draw(seed, runner, environment, episode, bars) == one
    segment = next(s for s in SEGMENTS if s.start <= one.start < s.stop)
    assert one.start < one.stop <= segment.stop - 1, "the last bar played is the segment's last at most"
    assert one.stop - one.start == min(bars, segment.stop - 1 - one.start)
    # Only a segment that is too short plays fewer bars.
    assert one.stop - one.start == bars or one.start == segment.start
    assert 0.1 <= one.allocation <= 0.4


def test_each_counter_makes_another_draw():
    base = (0, 0, 0, 0)
    starts = [draw(*base).allocation]
    for k in range(4):
        moved = list(base)
        moved[k] = 1
        starts.append(draw(*moved).allocation)
    assert len(set(starts)) == 5


def test_starts_are_uniform_and_instruments_take_turns():
    draws = [draw(1, 0, 0, episode, segments=SEGMENTS[:1]) for episode in range(3000)]
    starts = np.array([d.start for d in draws])
    assert starts.min() == 251
    assert starts.max() == 900 - 1 - 252
    assert np.histogram(starts, bins=4)[0].min() > 3000 / 4 * 0.85
    assert [d.active_instrument for d in draws[:6]] == [0, 1, 2, 0, 1, 2]
    assert np.mean([d.allocation for d in draws]) == pytest.approx(0.25, abs=0.01)


def test_an_episode_ends_at_its_last_bar_and_never_decides_before_the_warm_up(settings, calm):
    for segment in calm.segments:
        path = segment.start // calm.execution.rows_per_path
        assert segment.start - path * calm.execution.rows_per_path == calm.features.warmup
        assert segment.stop == (path + 1) * calm.execution.rows_per_path
    first = calm.segments[0]
    episode = draw(0, 0, 0, 0, bars=20, segments=(EpisodeSegment(first.stop - 12, first.stop),))
    desk = Desk(settings, calm.execution, calm.features, 1, EpisodeSetup(), RiskLayer(settings, 1, EpisodeSetup()))
    desk.reset(np.array([0]), [episode])
    rows = [int(desk.state.row[0])]
    while True:
        result = desk.advance()
        rows.append(int(desk.state.row[0]))
        if result.truncated[0]:
            break
    assert not result.terminated[0]
    assert rows == list(range(first.stop - 12, first.stop)), (
        "the last row is the path's own last, not the next path's first"
    )


def test_the_meta_controller_decides_every_fifth_bar_from_the_first(settings, calm):
    start = calm.segments[0].start
    desk = Desk(settings, calm.execution, calm.features, 2, EpisodeSetup())
    from mtquant_rllib.env.episodes import EpisodeDraw

    desk.reset(np.arange(2), [EpisodeDraw(start, start + 90, 0.0, 0)] * 2)
    due = []
    for bar in range(11):
        if bar == 7:
            desk.reset(np.array([1]), [EpisodeDraw(start, start + 90, 0.0, 0)])
        due.append(desk.meta_is_due.tolist())
        desk.advance()
    assert [k for k, both in enumerate(due) if both[0]] == [0, 5, 10]
    assert [k for k, both in enumerate(due) if both[1]] == [0, 5, 7]


@pytest.mark.slow
def test_splits_of_real_bars_are_segments_that_do_not_meet(settings, real_market, tmp_path):
    import os
    from pathlib import Path

    from mtquant_rllib.env.prepared.data import prepare_files

    folder = Path(os.environ["MTQUANT_BARS"])
    prepared = prepare_files(settings, folder / "daily.parquet", folder / "macro.parquet", tmp_path)
    spans = {}
    for name in ("train", "validation", "test"):
        data = DeskData.open(prepared, name)
        (segment,) = data.segments
        spans[name] = segment
        assert segment.start >= data.features.warmup
        last = draw(0, 0, 0, 3, segments=data.segments)
        assert last.stop < segment.stop
    year = data.execution.timestamps.astype("datetime64[Y]").astype(int) + 1970
    assert year[spans["train"].stop - 1] <= 2014
    assert (year[spans["validation"].start], year[spans["validation"].stop - 1]) == (2015, 2016)
    assert year[spans["test"].start] == 2017
    assert spans["validation"].start - spans["train"].stop >= 0
    assert spans["test"].start - spans["validation"].stop >= 0
