"""Speed of inference in float32, bfloat16 and int8, cached and batched, and how far each moves the actions.

A decision of the desk is all twelve agents once, for one environment; an allocator is one agent. Each way is a
`DeskActor` of its own, as `evaluation.inference` configures it: float32, bfloat16, eight bits, and cached outputs
asked for a second time; batches of several sizes show what asking side by side gains. The answers of each are set
beside those of float32 on observations that a rollout met: how far actions move, which lie in [-1, 1], and how often
what they choose is the same (the domain or asset with most capital, buy, hold or sell for each instrument, and the sign
of each signal). An attention network whose confidence lies beside the least that it needs can fall on the other side of
it, and another head answers: of such rows is the largest difference, and 99% of the differences say how far the others
move.

Networks are fresh ones with lively last layers, or those of a run. One thread throughout.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtquant_rllib.agents.action_maps import NUMPY
from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.bench.interleaving import interleaved
from mtquant_rllib.bench.power_law import mean_call_time
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.env.core import Desk
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.env.trading import Trading
from mtquant_rllib.evaluation.backtest import rollout
from mtquant_rllib.policies.actor import DeskActor
from mtquant_rllib.policies.registry import ATTENTION, build_policy, network_configs

States = Mapping[str, Mapping[str, Any]]

FLOAT32, CACHED, ONE_BY_ONE = "float32", "cached", "one by one"
WAYS: dict[str, dict[str, Any]] = {
    FLOAT32: {"precision": "float32", "cached_rows": 0},
    "bfloat16": {"precision": "bfloat16", "cached_rows": 0},
    "int8": {"precision": "int8", "cached_rows": 0},
    CACHED: {"precision": "float32", "cached_rows": 100_000},
}
_BARS_PLAYED, _DESKS = 96, 16


@dataclass(frozen=True)
class Sizes:
    """batches: environments asked at once; repeats: windows of each."""

    batches: tuple[int, ...] = (1, 16, 256)
    repeats: int = 5


Seen = dict[str, np.ndarray]
"""Observations (N, n, F) by group of agents."""


def _rows(seen: Seen, part: slice) -> Seen:
    return {agent: obs[part] for agent, obs in seen.items()}


def bench_inference(settings: Settings, data: Path, sizes: Sizes, states: States | None = None) -> Mapping[str, Any]:
    """Speed, agreement and memory of each way.

    Parameters
    ----------
    data
        A prepared market; its validation split is played.
    states
        Module states to ask, which the settings must fit. Without them fresh networks: plain ones, and attention at
        every level.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        desks = {"the run's": (settings, states)} if states is not None else _initial_networks(settings)
        return {
            "networks": {name: _desk(own, given, data, sizes) for name, (own, given) in desks.items()},
            "sizes": vars(sizes),
        }
    finally:
        torch.set_num_threads(threads)


def _initial_networks(settings: Settings) -> dict[str, tuple[Settings, States]]:
    levels = {"plain": ("meta", "specialist", "instrument"), ATTENTION: (ATTENTION,) * 3}
    desks: dict[str, tuple[Settings, States]] = {}
    for name, (meta, specialist, instrument) in levels.items():
        tree = settings.model_dump(mode="json")
        if settings.universe.allocates:
            tree["allocator"] |= {"network": name}
        tree["networks"] |= {
            "names": {"meta": meta, "specialist": specialist, "instrument": instrument},
            # Fresh networks say nearly nothing, and nearly nothing moves little.
            "last_layer_scale": 1.0,
        }
        own = Settings.model_validate(tree)
        torch.manual_seed(own.seed)
        configs = network_configs(own)
        states = {
            module: {f"policy.{key}": value for key, value in build_policy(config).state_dict().items()}
            for module, config in configs.items()
        }
        desks[name] = (own, states)
    return desks


def _desk(settings: Settings, states: States, data: Path, sizes: Sizes) -> dict[str, Any]:
    actors = {way: _actor(settings, states, options) for way, options in WAYS.items()}
    seen = _played(settings, states, data)
    n_rows = len(next(iter(seen.values())))
    truth = _answers(actors[FLOAT32], seen)
    agreement = {way: _agreement(settings, _answers(actor, seen), truth) for way, actor in actors.items()}
    single = [_answers(actors[FLOAT32], _rows(seen, slice(row, row + 1))) for row in range(min(n_rows, 64))]
    one_by_one = [np.concatenate(parts) for parts in zip(*single, strict=True)]
    agreement[ONE_BY_ONE] = _agreement(settings, one_by_one, [part[: len(single)] for part in truth])
    del agreement[FLOAT32]
    sides: dict[tuple[str, int], Callable[[], float]] = {}
    for way, actor in actors.items():
        for batch in sizes.batches:
            rows = _rows(seen, slice(0, batch))
            sides[way, batch] = mean_call_time(lambda actor=actor, rows=rows: _answers(actor, rows))  # type: ignore[misc]
    windows = interleaved(sides, sizes.repeats)
    speed = {
        way: {str(batch): batch / statistics.median(windows[way, batch]) for batch in sizes.batches} for way in WAYS
    }
    return {
        "decisions_per_s": speed,
        "seconds": {f"{way}, {batch}": values for (way, batch), values in windows.items()},
        "agreement": agreement,
        "weights_mb": {way: actor.weight_bytes() / 1e6 for way, actor in actors.items() if way != CACHED},
        "rows": n_rows,
    }


def _actor(settings: Settings, states: States, options: Mapping[str, Any]) -> DeskActor:
    tree = settings.model_dump(mode="json")
    tree["evaluation"]["inference"] = dict(options)
    own = Settings.model_validate(tree)
    return DeskActor(own, states)


def _played(settings: Settings, states: States, data: Path) -> Seen:
    """What the agents see while they play, at the bars on which all of them decide."""
    parts: dict[str, list[np.ndarray]] = {agent: [] for agent in settings.universe.agent_ids}

    def keep(agent: str, desk: Trading, obs: np.ndarray, decides: np.ndarray) -> None:
        if not isinstance(desk, Desk) or (desk.meta_is_due.all() and desk.specialists_are_due.all()):
            parts[agent].append(obs.copy())

    validation = DeskData.open(data, "validation")
    draws = rollout.random_starts(validation.segments, _BARS_PLAYED, _DESKS, settings.seed)
    player = rollout.policy_player(settings, states, on_decision=keep)
    rollout.play(settings, validation, player, draws, name="bench")
    joined = {agent: np.concatenate(own) for agent, own in parts.items()}
    return {group.name: np.stack([joined[agent] for agent in group.agents], axis=1) for group in agent_groups(settings)}


def _answers(actor: DeskActor, seen: Seen) -> list[np.ndarray]:
    """Actions of every group, (rows, agents, A)."""
    return [actor.act(group, obs) for group, obs in seen.items()]


CHOICES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "allocation": lambda raw: raw[..., :-1].argmax(axis=-1),
    "views": lambda raw: NUMPY.by_instrument(raw[..., :-1]).argmax(axis=-1),
    "bounded": lambda raw: np.sign(raw[..., 0]).astype(int),
    "simplex": lambda raw: raw.argmax(axis=-1),
}
"""What an action chooses, by its map: the largest share, the likeliest view, the side, the largest weight."""


def _choices(settings: Settings, answers: list[np.ndarray]) -> np.ndarray:
    """What actions choose, int (choices,)."""
    groups = agent_groups(settings)
    return np.concatenate([CHOICES[group.action_map](raw).ravel() for group, raw in zip(groups, answers, strict=True)])


def _agreement(settings: Settings, answers: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    apart = np.concatenate([np.abs(a - b).ravel() for a, b in zip(answers, truth, strict=True)])
    return {
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart.mean()),
        "difference_of_99_percent": float(np.quantile(apart, 0.99)),
        "equal_choices": float(np.mean(_choices(settings, answers) == _choices(settings, truth))),
    }
