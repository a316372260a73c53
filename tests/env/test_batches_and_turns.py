"""A desk of many environments is many desks of one, and the turn-based environment is the desk, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtquant_rllib.config import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.episode_setup import EpisodeSetup
from mtquant_rllib.env.episodes import EpisodeDraw, draw_episode
from mtquant_rllib.env.multi_agent import desk_env
from mtquant_rllib.env.prepared.data import DeskData, prepare_embedded
from mtquant_rllib.env.risk_layer import RiskLayer

SMALL = [
    "embedded.train.paths=2",
    "embedded.train.years=2.2",
    "embedded.validation.paths=1",
    "embedded.validation.years=1.4",
    "embedded.test.paths=1",
    "embedded.test.years=1.4",
    "desk.episode.bars=15",
]


@pytest.fixture(scope="module")
def short() -> tuple[Settings, Path]:
    """Settings with episodes of 15 bars, and their prepared market."""
    settings = Settings.load(overrides=SMALL)
    return settings, prepare_embedded(settings)


def new_desk(settings: Settings, data: DeskData, setup: EpisodeSetup, n_envs: int) -> Desk:
    return Desk(settings, data.execution, data.features, n_envs, setup, RiskLayer(settings, n_envs, setup))


def play_bar(desk: Desk, actions: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], object]:
    """All three turns of a bar with given raw actions, (B, ...) by level; what was seen, and the result."""
    seen = {"meta": desk.observe_meta()} if desk.setup.domain is None else {}
    if desk.setup.domain is None:
        desk.decide_meta(actions["meta"])
    domains = range(desk.universe.n_domains) if desk.setup.domain is None else [desk.setup.domain]
    for d in domains:
        seen[f"specialist {d}"] = desk.observe_specialist(d)
        desk.decide_specialist(d, actions[f"specialist {d}"])
    seen["instruments"] = desk.observe_instruments()
    desk.decide_instruments(actions["instruments"])
    result = desk.advance()
    return seen, result


def random_actions(settings: Settings, rng: np.random.Generator, n_envs: int) -> dict[str, np.ndarray]:
    actions = {"meta": rng.uniform(-1, 1, (n_envs, 4)), "instruments": rng.uniform(-1, 1, (n_envs, 8, 3))}
    for d, domain in enumerate(settings.universe.domains):
        actions[f"specialist {d}"] = rng.uniform(-1, 1, (n_envs, 3 * len(domain.symbols) + 1))
    return actions


@pytest.mark.slow
@pytest.mark.parametrize(
    "setup",
    [EpisodeSetup(), EpisodeSetup("differential_sharpe", ends_on_halt=False), EpisodeSetup("differential_sharpe", 2)],
    ids=["joint", "meta", "single"],
)
def test_a_batch_is_each_environment_alone(settings, rough, setup):
    """Environments end, are done or begin again at different bars; nobody notices the neighbours."""
    rng = np.random.default_rng(0)
    n_envs, n_bars = 7, 70
    first = rough.segments[0].start
    lengths = [9, 11, 14, 20, 33, 70, 70]

    def draw(env: int, episode: int) -> EpisodeDraw:
        start = first + 37 * env + 53 * episode
        return EpisodeDraw(start, start + lengths[env], 0.1 + 0.04 * env, (env + episode) % 3)

    together = new_desk(settings, rough, setup, n_envs)
    together.reset(np.arange(n_envs), [draw(env, 0) for env in range(n_envs)])
    alone = [new_desk(settings, rough, setup, 1) for _ in range(n_envs)]
    for env, desk in enumerate(alone):
        desk.reset(np.array([0]), [draw(env, 0)])
    episodes = [0] * n_envs
    for _ in range(n_bars):
        actions = random_actions(settings, rng, n_envs)
        seen, result = play_bar(together, actions)
        for env, desk in enumerate(alone):
            mine, single = play_bar(desk, {name: values[env : env + 1] for name, values in actions.items()})
            if desk.state.done[0]:
                continue
            for name, values in mine.items():
                np.testing.assert_array_equal(seen[name][env], values[0], err_msg=f"{name} of {env}")
            np.testing.assert_array_equal(result.rewards[env], single.rewards[0])
            for name in ("equity", "units", "stop", "entry", "pnl_ccy", "cost_ccy", "financing_ccy"):
                np.testing.assert_array_equal(
                    getattr(together.book, name)[env], getattr(desk.book, name)[0], err_msg=name
                )
            np.testing.assert_array_equal(together.ordered[env], desk.ordered[0])
            np.testing.assert_array_equal(together.risk.rule[env], desk.risk.rule[0])
            assert result.terminated[env] == single.terminated[0]
            assert result.truncated[env] == single.truncated[0]
        for env in np.flatnonzero(result.terminated | result.truncated):
            episodes[env] += 1
            if env % 2:
                together.finish(np.array([env]))
                alone[env].finish(np.array([0]))
            else:
                together.reset(np.array([env]), [draw(env, episodes[env])])
                alone[env].reset(np.array([0]), [draw(env, episodes[env])])
    assert sum(episodes) > 5


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "domain"), [(3, None), (2, None), (1, "equity")])
def test_the_turn_based_environment_plays_the_same_bars_as_the_desk(short, phase, domain):
    settings, folder = short
    universe = settings.universe
    data = DeskData.open(folder, "train")
    d = None if domain is None else universe.domains.index(universe.domain_named(domain))
    env = desk_env(
        {"data": folder, "split": "train", "settings": settings, "phase": phase, "domain": domain, "seed": 5}
    )
    env.set_env_index(2, 3)
    desk = new_desk(settings, data, EpisodeSetup(settings.recipe.rewards[phase - 1], d), 1)
    rng = np.random.default_rng(1)
    low_high = (settings.rewards.specialist_allocation_low, settings.rewards.specialist_allocation_high)
    played = set()
    for episode in range(4):
        observed, _ = env.reset()
        desk.reset(np.array([0]), [draw_episode(5, 2, 3, episode, data.instrument_segments(settings, d), 15, low_high)])
        over, bars = False, 0
        while not over:
            actions = random_actions(settings, rng, 1)
            given = {"meta_controller": actions["meta"][0]}
            given |= {name: actions[f"specialist {k}"][0] for k, name in enumerate(universe.specialists)}
            given |= {symbol: actions["instruments"][0, i] for i, symbol in enumerate(universe.symbols)}
            meta_decides = bool(desk.meta_is_due[0])
            seen, result = play_bar(desk, actions)
            expected = {
                name: seen[f"specialist {k}"][0]
                for k, name in enumerate(universe.specialists)
                if f"specialist {k}" in seen
            }
            expected |= {symbol: seen["instruments"][0, i] for i, symbol in enumerate(universe.symbols)}
            if meta_decides:
                expected["meta_controller"] = seen["meta"][0]
            rewards: dict[str, float] = {}
            while not rewards:
                for agent, vector in observed.items():
                    np.testing.assert_array_equal(vector, expected[agent], err_msg=agent)
                    played.add(agent)
                observed, rewards, terminated, truncated, _ = env.step({agent: given[agent] for agent in observed})
            for agent, reward in rewards.items():
                assert reward == result.rewards[0, universe.agent_ids.index(agent)]
            assert set(rewards) == set(env.agents)
            assert env.desk.book.equity[0] == desk.book.equity[0]
            np.testing.assert_array_equal(env.desk.book.units, desk.book.units)
            over, bars = terminated["__all__"] or truncated["__all__"], bars + 1
            assert terminated["__all__"] == bool(result.terminated[0])
            assert truncated["__all__"] == bool(result.truncated[0])
        assert bars == 15 or terminated["__all__"]
        assert set(observed) == set(env.agents), "everybody sees the end"
    assert env.bars_done >= 4
    assert played == set(env.possible_agents)


def test_rllibs_own_checks_pass(short):
    from ray.rllib.utils.pre_checks.env import check_multiagent_environments

    settings, folder = short
    for phase, domain in ((3, None), (2, None), (1, "forex")):
        check_multiagent_environments(
            desk_env(
                {
                    "data": folder,
                    "split": "train",
                    "settings": settings.model_dump(),
                    "phase": phase,
                    "domain": domain,
                    "seed": 0,
                }
            )
        )


def test_a_phase_and_a_domain_that_do_not_go_together_are_refused(short):
    from mtquant_rllib.errors import ConfigError

    settings, folder = short
    for phase, domain in ((1, None), (3, "forex")):
        with pytest.raises(ConfigError, match="no domain named" if domain is None else f"phase {phase}"):
            desk_env({"data": folder, "settings": settings, "phase": phase, "domain": domain})


def test_a_restored_environment_goes_on_with_the_following_episode(short):
    settings, folder = short
    config = {"data": folder, "split": "train", "settings": settings, "phase": 1, "domain": "commodities", "seed": 3}

    def rows_of(env, n):
        rows = []
        for _ in range(n):
            env.reset()
            rows.append((int(env.desk.state.row[0]), float(env.desk.state.allocation.max()), tuple(env.agents)))
        return rows

    undisturbed = rows_of(desk_env(config), 6)
    first = desk_env(config)
    begun = rows_of(first, 3)
    second = desk_env(config)
    second.set_state(first.get_state())
    assert begun + rows_of(second, 3) == undisturbed
    elsewhere = desk_env(config)
    elsewhere.set_env_index(1, 0)
    assert rows_of(elsewhere, 6) != undisturbed
