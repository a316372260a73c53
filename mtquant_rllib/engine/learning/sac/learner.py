"""SAC on fragments: RLlib's learner in its state, optimisers and metrics, with a replay of its own and stacked modules.

One call stores the sampled fragments and takes as many gradient steps as it is asked for. The replay, with its
generator and the number of steps taken, is part of the learner's state: what follows a checkpoint depends on it alone.
Frozen modules are neither stored nor computed.

Several learners store the same and draw the same minibatches; each gathers its shard of the rows, and gradients and
errors are summed (`distributed`). So the state of one is the state of all, and the result does not depend on their
number, except for rounding and dropout. A bar takes .3 to 1.1 kB of memory in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray.rllib.core import ALL_MODULES
from ray.rllib.utils.metrics import NUM_ENV_STEPS_TRAINED, NUM_ENV_STEPS_TRAINED_LIFETIME

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.engine.fragments import Fragment
from mtquant_rllib.engine.learning.distributed import DistributedLearner
from mtquant_rllib.engine.learning.divergence import DivergenceWatch
from mtquant_rllib.engine.learning.sac.update import ACTOR, ALPHA, CRITICS, OPTIMIZERS, SACStack
from mtquant_rllib.engine.learning.schedules import ScheduledLearner
from mtquant_rllib.engine.learning.stacks import stackable_groups
from mtquant_rllib.engine.randomness import LOSS, derived_seed
from mtquant_rllib.engine.replay.replay import Replay
from mtquant_rllib.env.prepared.source import open_market

REPLAY_STATE = "replay"
STEPS = "gradient_steps"
_ADAM_EPS = 1e-8


class _UpdateBatch(dict[str, bool]):
    """A call's work as the single batch of RLlib's loop: the modules that have rows, and the number of steps."""

    n_steps: int

    @property
    def policy_batches(self) -> _UpdateBatch:
        return self


class SACLearner(DistributedLearner, ScheduledLearner):
    """See the module's docstring."""

    def build(self) -> None:
        super().build()
        config, sac, options = self.config, self.trial.sac, self.trial.learner
        assert sac is not None
        self._sac = sac
        learning = {name: self._module[name] for name in self._learning()}
        self._watch = DivergenceWatch(learning, options, counts_skipped=self._ranks.rank == 0)
        optimizers: dict[str, Any] = {
            name: {key.removeprefix(f"{name}_"): item for key, item in self.get_optimizers_for_module(name)}
            for name in learning
        }
        self._stacks = [
            SACStack(
                group,
                [learning[name] for name in group],
                optimizers,
                tau=sac.tau,
                grad_clip=sac.grad_clip,
                action_penalty=sac.action_penalty,
                options=options,
                ranks=self._ranks,
            )
            for group in stackable_groups(learning)
        ]
        environment = EnvironmentConfig.of(config.env_config)
        self.replay = Replay(
            environment.settings,
            open_market(environment).features,
            learning=frozenset(learning),
            module_of=lambda agent: config.policy_mapping_fn(agent, None),
            n_envs=max(config.num_env_runners, 1) * config.num_envs_per_env_runner,
            envs_per_runner=config.num_envs_per_env_runner,
            capacity_bars=sac.replay_bars,
            n_steps=sac.n_steps,
            gamma=config.gamma,
            priorities=sac.priorities,
            seed=config.seed or 0,
        )
        self.gradient_steps = 0
        self._stacks_are_current = False
        self._update_metrics: dict[str, dict[str, float]] = {}

    def _learning(self) -> list[str]:
        return [name for name in list(self.module.keys()) if self.should_module_be_updated(name)]

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        if not self.should_module_be_updated(module_id):
            return
        critics = self._module[module_id].critics
        parts = {
            ACTOR: self._module[module_id].policy,
            **dict(zip(CRITICS, critics.online)),
            ALPHA: critics.entropy,
        }
        for name in OPTIMIZERS:
            self.register_adam(module_id, name, list(parts[name].parameters()), _ADAM_EPS)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _create_iterator_if_necessary(
        self, *, training_data: Any, n_steps: int = 0, **kwargs: Any
    ) -> Iterator[_UpdateBatch]:
        fragments: Sequence[Fragment] = training_data.episodes
        self.replay.add(fragments)
        # RLlib sums what learners count, and each has all bars.
        bars = sum(fragment.bars for fragment in fragments) if self._ranks.rank == 0 else 0
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), bars, reduce="sum")
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), bars, reduce="lifetime_sum")
        work = _UpdateBatch({name: True for stack in self._stacks for name in stack.names if self.replay.has(name)})
        work.n_steps = n_steps if work else 0
        return iter([work])

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        assert isinstance(batch, _UpdateBatch)
        self._update_metrics = {}
        if not batch.n_steps:
            return None, {}, {}
        if not self._stacks_are_current:
            for stack in self._stacks:
                stack.load()
            self._stacks_are_current = True
        for stack in self._stacks:
            stack.load_rates()
        for step in range(batch.n_steps):
            for number, stack in enumerate(self._stacks):
                self._step(stack, number, batch, with_metrics=step == batch.n_steps - 1)
            self.gradient_steps += 1
        for stack in self._stacks:
            for name, (steps, divergence) in stack.end_update(self._watch.max_parameter_abs).items():
                if batch.get(name):
                    self._watch.record(name, steps, divergence, self._bars)
        return None, {}, {}

    def _step(self, stack: SACStack, number: int, present: Mapping[str, bool], *, with_metrics: bool) -> None:
        priorities, power = self._sac.priorities, 0.0
        if priorities is not None:
            start, final = priorities.weight_power_start, priorities.weight_power_final
            power = start + (final - start) * self.budget_fraction_done()
        shard = self._ranks.shard(self.batch_size_now(self._sac.batch_size))
        names = [name for name in stack.names if name in present]
        drawn = self.replay.sample(names, shard.total, power, shard.rows)
        if not drawn:
            return
        batches = [drawn.get(name) for name in stack.names]
        seed = derived_seed(self.config.seed or 0, self.gradient_steps, LOSS, number)
        metrics, errors = stack.step(batches, seed, with_metrics=with_metrics, shard=shard)
        if priorities is not None:
            everywhere = errors.new_zeros(len(batches), shard.total)
            everywhere[:, shard.rows] = errors
            for name, batch, error in zip(stack.names, batches, self._group.sum(everywhere).cpu().numpy()):
                if batch is not None:
                    self.replay.update_priorities(name, batch.leaves, error)
        if metrics:
            for member, (name, batch) in enumerate(zip(stack.names, batches)):
                if batch is not None:
                    self._update_metrics[name] = {key: float(column[member]) for key, column in metrics.items()}

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """Required by RLlib and not used: `SACStack.step` computes three losses in turn, of all modules of a stack."""
        raise NotImplementedError("SAC's losses are computed stack by stack, in SACStack.step")

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Any) -> None:
        """Does nothing: bars are counted when they are stored."""

    def _log_steps_trained_metrics(self, batch: Any) -> None:
        pass

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        for name, metrics in self._update_metrics.items():
            for key, value in metrics.items():
                self.metrics.log_value((name, key), value, window=1)
        self._watch.log(self.metrics)
        self.metrics.log_value((ALL_MODULES, STEPS), self.gradient_steps, window=1)
        super().after_gradient_based_update(timesteps=timesteps)

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        if self._stacks_are_current:
            for stack in self._stacks:
                stack.store(policies_only=bool(kwargs.get("inference_only")))
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAY_STATE, components, not_components):
            state[REPLAY_STATE] = {**self.replay.get_state(), STEPS: self.gradient_steps}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        if self._stacks_are_current:
            # A state may be partial: the rest keeps its present values.
            for stack in self._stacks:
                stack.store(policies_only=False)
        super().set_state(state)
        self._stacks_are_current = False
        if REPLAY_STATE in state:
            self.replay.set_state(state[REPLAY_STATE])
            self.gradient_steps = state[REPLAY_STATE][STEPS]
