"""Desks with a part taken out, as `mtquant ablate` trains them: the rest stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import mtquant_rllib
from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.engine.sampling.vector_env import VectorEnv
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.core_factory import core_for
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw
from mtquant_rllib.env.multi_agent import RiskWrapper, desk_env
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.features import layout

N_ENVS, BARS = 3, 30


def desk(data: DeskData, *overrides: str, domain: int | None = None) -> Desk:
    settings = Settings.load(overrides=list(overrides))
    made = core_for(settings, data, N_ENVS, EpisodeSetup(domain=domain))
    assert isinstance(made, Desk)
    first = data.instrument_segments(settings, None)[0].segments[0].start
    made.reset(
        np.arange(N_ENVS),
        [EpisodeDraw(first, first + BARS, allocation=0.2, active_instrument=0) for _ in range(N_ENVS)],
    )
    return made


def play(made: Desk, look: Callable[[Desk, dict[str, np.ndarray]], None], *, shout: float = 0.0) -> None:
    """The same raw actions for the instruments; those of the levels above are multiplied by `shout`."""
    rng = np.random.default_rng(0)
    for _ in range(BARS - 1):
        seen = {}
        for level in made.levels:
            seen[level.name] = level.observe()
            raw = rng.uniform(-1, 1, (N_ENVS, level.n_acting, level.n_actions))
            level.decide(raw if level is made.levels[-1] else shout * raw)
        look(made, seen)
        made.advance()


@pytest.mark.slow
def test_without_hierarchy_the_levels_above_change_nothing(calm: DeskData) -> None:
    flat = "desk.decision.hierarchy=false"
    quiet, loud, whole = [], [], []
    for overrides, shout, into in (([flat], 0.0, quiet), ([flat], 1.0, loud), ([], 1.0, whole)):
        play(desk(calm, *overrides), lambda made, seen, into=into: into.append(made.propose()), shout=shout)
    np.testing.assert_array_equal(quiet, loud)
    assert not np.array_equal(loud, whole)


def test_without_hierarchy_conviction_is_the_agents_own_signal(calm: DeskData) -> None:
    made = desk(calm, "desk.decision.hierarchy=false")

    def look(made: Desk, seen: dict[str, np.ndarray]) -> None:
        state, config = made.state, made.config.decision
        assert (state.appetite == 1).all()
        assert (state.confidence == 0).all()
        np.testing.assert_allclose(state.allocation, 1 / made.universe.n_domains)
        sizes = np.array([len(domain.symbols) for domain in made.universe.domains])[list(made.universe.domain_of)]
        target = state.signal / (made.universe.n_domains * sizes) * config.vol_target_ann / made.market.vol_ann
        np.testing.assert_allclose(made.propose(), made.weight + state.urgency * (target - made.weight), atol=1e-15)

    play(made, look, shout=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("domain", [None, 0])
def test_without_messages_only_the_columns_of_messages_are_zero(calm: DeskData, domain: int | None) -> None:
    shown, hidden = [], []
    for overrides, into in (([], shown), (["desk.observation.messages=false"], hidden)):
        play(desk(calm, *overrides, domain=domain), lambda made, seen, into=into: into.append(seen), shout=1.0)
    settings, zeroed = Settings.load(), 0
    for with_them, without in zip(shown, hidden, strict=True):
        assert with_them.keys() == without.keys()
        for name, seen in with_them.items():
            of_instruments = seen.shape[2] == layout.instrument_layout(settings).width
            names = (layout.INSTRUMENT_STATE if of_instruments else layout.SPECIALIST_STATE).names
            first = seen.shape[2] - len(names)
            messages = (
                []
                if seen.shape[1:] == (1, 74)
                else [first + names.index(one) for one in layout.MESSAGES if one in names]
            )
            others = np.setdiff1d(np.arange(seen.shape[2]), messages)
            np.testing.assert_array_equal(without[name][:, :, others], seen[:, :, others])
            assert (without[name][:, :, messages] == 0).all()
            zeroed += int((seen[:, :, messages] != 0).sum())
    assert zeroed > 0


@pytest.mark.slow
@pytest.mark.parametrize("limits", ["true", "false"])
def test_risk_rules_are_left_out_of_training_alone(limits: str) -> None:
    own = mtquant_rllib.env_config(
        overrides=[f"recipe.risk_rules_in_training={limits}", "embedded.train={paths: 1, years: 4}",
                   "embedded.test={paths: 1, years: 4}"]
    )  # fmt: skip
    for split in ("train", "test"):
        config = {**own, "split": split}
        limited = limits == "true" or split == "test"
        assert isinstance(desk_env(config), RiskWrapper) is limited
        envs = VectorEnv(EnvironmentConfig.of(config), N_ENVS, 0, 0)
        assert all((part.desk.risk is not None) is limited for part in envs.domain_envs)
