"""How much faster the batched engine is than RLlib's own, in one run: same market, networks, threads and machine.

Each ratio is the quotient of two medians; the sides of a ratio are measured in turns, so that a machine that slows
down slows both:

    sampling_ratio          bars a second that one process samples, batched over RLlib's own
    ppo_ratio               sampling and learning together: minibatches of 256, 10 epochs, all twelve policies
    phase2_over_phase3      how much faster training goes when eleven of twelve modules are frozen
    two_runners_over_one    sampling with two remote runners over one, the learner idle
    two_processes_over_one  the same by processes that share nothing, without Ray: what the machine's cores allow

For `ppo_ratio` every agent decides on every bar: RLlib's epochs follow the module with the most rows, and a controller
with a fifth of them would be trained five times as often by one side as by the other.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from mtquant_rllib.bench.interleaving import interleaved, rate
from mtquant_rllib.bench.plain_processes import PlainRunners, plain_runners
from mtquant_rllib.bench.setup import endless_run, ray_session
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.training.algorithm.building import build_config
from mtquant_rllib.training.algorithm.ppo import DeskPPO
from mtquant_rllib.training.curriculum.phases import JOINT, plan_named
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import MarketRecord

MINIBATCH, EPOCHS = 256, 10
OBJECT_STORE_MB = 1000
"""Several windows of two runners, 75 MB each. In less than twice that a runner waits now and then for the store to let
go of the window before, and it is the store that is measured."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    environments, rllib_environments: of one runner, each engine at a size that suits it; threads: of each side, where
    it learns (RLlib's in torch's operations, ours in stacks side by side; both sample in one); bars and rllib_bars: of
    a sampling window; update_bars: of one PPO update; repeats: windows of each side. Runners get `runner_windows` as
    many: they wait for the slowest of them, and half a second on a core that is shared with strangers varies more than
    what is measured.
    """

    environments: int = 256
    rllib_environments: int = 16
    threads: int = 2
    bars: int = 16384
    rllib_bars: int = 512
    update_bars: int = 2048
    repeats: int = 5
    runner_windows: int = 4


def bench_engine(settings: Settings, market: MarketRecord, sizes: Sizes) -> Mapping[str, Any]:
    """The four ratios with their raw figures; see the module's docstring."""
    with ray_session(settings, cpus=4, object_store_mb=OBJECT_STORE_MB):
        stage = _Stage(settings, market, sizes)
        return {
            **stage.sampling(),
            **stage.ppo(),
            **stage.phases(),
            **stage.runners(),
            "sizes": vars(sizes),
            "cpus": os.cpu_count(),
        }


class _Stage:
    def __init__(self, settings: Settings, market: MarketRecord, sizes: Sizes) -> None:
        self._tree = settings.model_dump(mode="json")
        self._market, self._sizes = market, sizes

    def algorithm(
        self, engine: str, environments: int, *, phase: int = 3, runners: int = 0, meta_every_bars: int | None = None
    ) -> DeskPPO:
        tree = {section: dict(values) if isinstance(values, dict) else values for section, values in self._tree.items()}
        tree["resources"] |= {"engine": engine, "runners": runners}
        tree["recipe"] |= {
            "environments": environments,
            "train_batch_bars": self._sizes.update_bars,
            "batch_size": MINIBATCH,
            "n_epochs": EPOCHS,
        }
        # The step that is compared is one of 328,000 parameters, whatever the recipe's networks are.
        tree["networks"] |= {"instrument_hidden": [64, 64]}
        if meta_every_bars is not None:
            decision = {**tree["desk"]["decision"], "meta_every_bars": meta_every_bars}
            tree["desk"] |= {"decision": decision}
        settings = Settings.model_validate(tree)
        manifest = endless_run(settings, self._market, phase)
        config = build_config(
            plan_named(settings, phase, JOINT), manifest, TrialResources(float(self._sizes.threads), 1.0, 0.0)
        )
        config.training(validations=0)
        algorithm = config.build_algo()
        assert isinstance(algorithm, DeskPPO)
        return algorithm

    def sampling(self) -> dict[str, Any]:
        sizes = self._sizes
        batched = self.algorithm("batched", sizes.environments)
        rllib = self.algorithm("rllib", sizes.rllib_environments)
        sides = {
            "batched": rate(lambda: batched._sample(sizes.bars), sizes.bars),
            "rllib": rate(lambda: rllib._sample(sizes.rllib_bars), sizes.rllib_bars),
        }
        return self._ratio("sampling", "sampling_ratio", interleaved(sides, sizes.repeats), [batched, rllib])

    def ppo(self) -> dict[str, Any]:
        sizes = self._sizes
        batched = self.algorithm("batched", sizes.environments, meta_every_bars=1)
        rllib = self.algorithm("rllib", sizes.rllib_environments, meta_every_bars=1)
        sides = {
            "batched": rate(batched.training_step, sizes.update_bars),
            "rllib": rate(self._threaded(rllib.training_step), sizes.update_bars),
        }
        return self._ratio("ppo", "ppo_ratio", interleaved(sides, sizes.repeats), [batched, rllib])

    def _threaded(self, run: Callable[[], Any]) -> Callable[[], None]:
        """With torch's operations spread over as many threads as the other side's stacks have."""

        def threaded() -> None:
            torch.set_num_threads(self._sizes.threads)
            run()
            torch.set_num_threads(1)

        return threaded

    def phases(self) -> dict[str, Any]:
        sizes = self._sizes
        both = {phase: self.algorithm("batched", sizes.environments, phase=phase) for phase in (2, 3)}
        sides = {f"phase_{phase}": rate(one.training_step, sizes.update_bars) for phase, one in both.items()}
        return self._ratio("phase", "phase2_over_phase3", interleaved(sides, sizes.repeats), list(both.values()))

    def runners(self) -> dict[str, Any]:
        sizes = self._sizes
        groups = {number: self.algorithm("batched", number * sizes.environments, runners=number) for number in (2, 1)}

        def side(number: int) -> Callable[[], float]:
            bars = number * sizes.bars
            return rate(lambda: groups[number]._sample(bars), bars)

        def plain(number: int, runners: PlainRunners) -> Callable[[], float]:
            bars = number * sizes.bars
            return rate(lambda: runners.sample(bars), bars)

        with ExitStack() as stack:
            sides = {f"runners_{number}": side(number) for number in groups}
            for number, group in groups.items():
                runners = stack.enter_context(plain_runners(group.config, number))
                sides[f"processes_{number}"] = plain(number, runners)
            windows = interleaved(sides, sizes.runner_windows * sizes.repeats)
        return {
            **self._ratio("runners", "two_runners_over_one", windows, list(groups.values())),
            "two_processes_over_one": _median_ratio(windows, "processes_2", "processes_1"),
        }

    def _ratio(self, name: str, key: str, windows: dict[str, list[float]], algorithms: list[DeskPPO]) -> dict[str, Any]:
        """The first side's median over the second's, in bars a second."""
        for algorithm in algorithms:
            algorithm.stop()
        return {key: _median_ratio(windows, *list(windows)[:2]), f"{name}_bars_per_s": windows}


def _median_ratio(windows: dict[str, list[float]], first: str, second: str) -> float:
    return statistics.median(windows[first]) / statistics.median(windows[second])
