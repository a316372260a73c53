"""SAC on columns: RLlib's learner in its state, optimisers and metrics; replay, stacks and fused steps in its work.

One call takes in what was sampled and makes as many gradient steps as it is asked for. The replay belongs to the
learner and to its state, with its generator and the number of steps made: what follows a checkpoint follows from it
alone. Modules that do not learn are neither remembered nor computed.

Several learners remember the same and draw the same; each gathers its part of a minibatch's rows, and they add up
gradients and errors (`distributed`). So any one's state is the state of all, and what is learned does not depend on
their number, but for rounding and dropout. A bar is .3 to 1.1 kB in each one's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ray.rllib.core import ALL_MODULES
from ray.rllib.utils.metrics import NUM_ENV_STEPS_TRAINED, NUM_ENV_STEPS_TRAINED_LIFETIME
from torch import Tensor

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.engine.columns import Fragment
from mtquant_rllib.engine.learning.bar_schedule import FollowsBars
from mtquant_rllib.engine.learning.distributed import JoinedLearner
from mtquant_rllib.engine.learning.divergence import DivergenceWatch
from mtquant_rllib.engine.learning.sac_stack import ACTOR, ALPHA, CRITICS, OPTIMIZERS, SACStack
from mtquant_rllib.engine.learning.stacks import grouped
from mtquant_rllib.engine.randomness import LOSS, mixed
from mtquant_rllib.engine.replay.replay import Replay
from mtquant_rllib.env.market_source import open_market

REPLAY_STATE = "replay"
STEPS = "gradient_steps"
_ADAM_EPS = 1e-8


class _Steps(dict[str, bool]):
    """A call's work, as the one batch of RLlib's loop: the modules that there are rows of, and how many steps."""

    n_steps: int

    @property
    def policy_batches(self) -> _Steps:
        return self


class SACLearner(JoinedLearner, FollowsBars):
    """See the module's docstring."""

    def build(self) -> None:
        super().build()
        config, sac, options = self.config, self.trial.sac, self.trial.learner
        assert sac is not None
        self._sac = sac
        learning = {name: self._module[name] for name in self._learning()}
        self._watch = DivergenceWatch(learning, options, tells=self._peers.rank == 0)
        keepers: dict[str, Any] = {
            name: {key.removeprefix(f"{name}_"): item for key, item in self.get_optimizers_for_module(name)}
            for name in learning
        }
        self._stacks = [
            SACStack(
                group,
                [learning[name] for name in group],
                keepers,
                tau=sac.tau,
                grad_clip=sac.grad_clip,
                action_penalty=sac.action_penalty,
                options=options,
                peers=self._peers,
            )
            for group in grouped(learning)
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
        self._rows_are_current = False
        self._figures: dict[str, dict[str, float]] = {}

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

    def _create_iterator_if_necessary(self, *, training_data: Any, n_steps: int = 0, **kwargs: Any) -> Iterator[_Steps]:
        fragments: Sequence[Fragment] = training_data.episodes
        self.replay.add(fragments)
        # RLlib adds up what learners count, and each has them all.
        bars = sum(fragment.bars for fragment in fragments) if self._peers.rank == 0 else 0
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED), bars, reduce="sum")
        self.metrics.log_value((ALL_MODULES, NUM_ENV_STEPS_TRAINED_LIFETIME), bars, reduce="lifetime_sum")
        work = _Steps({name: True for stack in self._stacks for name in stack.names if self.replay.has(name)})
        work.n_steps = n_steps if work else 0
        return iter([work])

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        assert isinstance(batch, _Steps)
        self._figures = {}
        if not batch.n_steps:
            return None, {}, {}
        if not self._rows_are_current:
            for stack in self._stacks:
                stack.load()
            self._rows_are_current = True
        for stack in self._stacks:
            stack.load_rates()
        for step in range(batch.n_steps):
            for number, stack in enumerate(self._stacks):
                self._step(stack, number, batch, tell=step == batch.n_steps - 1)
            self.gradient_steps += 1
        for stack in self._stacks:
            for name, (steps, found) in stack.closed(self._watch.max_parameter_abs).items():
                if batch.get(name):
                    self._watch.note(name, steps, found, self._bars)
        return None, {}, {}

    def _step(self, stack: SACStack, number: int, there: Mapping[str, bool], *, tell: bool) -> None:
        priorities, power = self._sac.priorities, 0.0
        if priorities is not None:
            start, final = priorities.weight_power_start, priorities.weight_power_final
            power = start + (final - start) * self.budget_done()
        part = self._peers.part(self.grown(self._sac.batch_size))
        drawn = self.replay.sample([name for name in stack.names if name in there], part.total, power, part.rows)
        if not drawn:
            return
        batches = [drawn.get(name) for name in stack.names]
        seed = mixed(self.config.seed or 0, self.gradient_steps, LOSS, number)
        figures, errors = stack.step(batches, seed, tell=tell, part=part)
        if priorities is not None:
            everywhere = errors.new_zeros(len(batches), part.total)
            everywhere[:, part.rows] = errors
            for name, batch, error in zip(stack.names, batches, self._common.sum(everywhere).cpu().numpy()):
                if batch is not None:
                    self.replay.note_errors(name, batch.leaves, error)
        if figures:
            for member, (name, batch) in enumerate(zip(stack.names, batches)):
                if batch is not None:
                    self._figures[name] = {key: _of(column, member) for key, column in figures.items()}

    def compute_loss_for_module(self, **kwargs: Any) -> Any:
        """RLlib asks a learner to have one. Here a step has three losses in turn, of all modules of a stack at once:
        `SACStack.step`."""
        raise NotImplementedError("SAC's losses are computed stack by stack, in SACStack.step")

    # -- metrics ------------------------------------------------------------------------------------------------------

    def _set_slicing_by_batch_id(self, batch: Any, *, value: bool) -> Any:
        return batch

    def _log_metrics(self, batch: Any) -> None:
        """Counting each batch is left out: bars are counted as they come in."""

    def _log_steps_trained_metrics(self, batch: Any) -> None:
        pass

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        for name, figures in self._figures.items():
            for key, figure in figures.items():
                self.metrics.log_value((name, key), figure, window=1)
        self._watch.log(self.metrics)
        self.metrics.log_value((ALL_MODULES, STEPS), self.gradient_steps, window=1)
        super().after_gradient_based_update(timesteps=timesteps)

    # -- state --------------------------------------------------------------------------------------------------------

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        if self._rows_are_current:
            for stack in self._stacks:
                stack.store(policies_only=bool(kwargs.get("inference_only")))
        state = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(REPLAY_STATE, components, not_components):
            state[REPLAY_STATE] = {**self.replay.get_state(), STEPS: self.gradient_steps}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        if self._rows_are_current:
            # A state may hold a part of it all: the rest stays as it is now.
            for stack in self._stacks:
                stack.store(policies_only=False)
        super().set_state(state)
        self._rows_are_current = False
        if REPLAY_STATE in state:
            self.replay.set_state(state[REPLAY_STATE])
            self.gradient_steps = state[REPLAY_STATE][STEPS]


def _of(column: Tensor, member: int) -> float:
    return float(column[member])
