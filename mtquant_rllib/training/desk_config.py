"""What the desk adds to an RLlib configuration: `desk`, and the check that nothing in it is set in vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.util.debug import log_once

from mtquant_rllib.engine.learning.schedules import BASE_RATES, RATES
from mtquant_rllib.engine.sampling.runner_base import BarRunner
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.environments import ENV, register
from mtquant_rllib.training.rllib_settings import refuse_unread

SHARED_KEYS = frozenset(
    {
        "budget_bars",
        "validations",
        "patience",
        "learning_rate_final_frac",
        "batch_size_final_factor",
        "explore_frozen",
        "average_updates",
        "learner",
        "make_validator",
        "validator_args",
        "best_from_start",
    }
)
"""Of `desk`, with every algorithm; `learning_rates` and `base_rates` besides."""


class DeskConfig(AlgorithmConfig):
    """`desk`, a dictionary of what the desk adds to a configuration of RLlib's.

    budget_bars, validations, patience, learning_rate_final_frac, batch_size_final_factor, explore_frozen,
    average_updates
        As in the recipe.
    learner
        `LearnerConfig` as a dictionary.
    learning_rates, base_rates
        Of each module at the start of the budget, and what `lr` (SAC: `actor_lr`, `critic_lr`, `alpha_lr`) was then: a
        changed `lr` changes every module's rate in proportion. Set by `rates`. RLlib's per-module overrides would do
        the same, but each copies the copies made before it: with twelve modules a checkpoint then has 130 MB of
        configuration.
    make_validator, validator_args
        From which a `Validator` is made; None for none.
    best_from_start
        Whether the states it starts from compete for "best on validation".
    learner_threads
        PPO: more than one lets the learner's stacks run side by side, with the same result.
    sigma_floor_by_regime
        SAC: smallest deviation while collecting, in the order of `Regime`.
    """

    algorithm: str
    """`ppo` or `sac`."""
    rate_names: tuple[str, ...]
    """RLlib's settings that are learning rates."""
    own_keys: frozenset[str]
    """Of `desk`, with this algorithm."""

    desk: dict[str, Any]
    _engine: str

    def _begin(self) -> None:
        """What the desk sets otherwise than RLlib, whatever the run."""
        self.desk = {}
        self.environment(
            ENV, env_config={}, normalize_actions=False, clip_actions=True, disable_env_checking=True
        ).env_runners(merge_env_runner_states=False, broadcast_env_runner_states=False)

    def rates(self, learning_rates: Mapping[str, Any]) -> DeskConfig:
        """Give each module its rate at the start of the budget, as its learner reads it, beside the present `lr`."""
        self.desk |= {RATES: dict(learning_rates), BASE_RATES: {name: getattr(self, name) for name in self.rate_names}}
        return self

    def debugging(self, *, seed: Any = None, **kwargs: Any) -> Any:
        """As RLlib's; the environments' draws follow the seed too."""
        if seed is not None:
            super().debugging(seed=seed)
            if self.env_config:
                self.env_config = {**self.env_config, "seed": seed}
        return super().debugging(**kwargs)

    def validate(self) -> None:
        """Besides RLlib's: refuse what would change nothing. RLlib calls it when an algorithm is built.

        Raises
        ------
        ConfigError
            Naming the setting, and the place that is read instead.
        """
        # RLlib says once for every algorithm that it runs on the new API stack. Ours run on no other.
        log_once(f"{getattr(self.algo_class, '__name__', self.algo_class)}_on_new_api_stack")
        # RLlib makes the configuration of evaluation runners itself, out of one that has been checked.
        if self._validate_config and not self.in_evaluation:
            refuse_unread(self, self.algorithm, self._engine)
            self._check()
        register()
        super().validate()

    def _check(self) -> None:
        desk = self.desk
        if unknown := sorted(desk.keys() - SHARED_KEYS - self.own_keys - {RATES, BASE_RATES}):
            known = ", ".join(sorted(SHARED_KEYS | self.own_keys))
            raise ConfigError(f"desk[{unknown[0]!r}]: unknown; there are {known}")
        if missing := sorted((SHARED_KEYS | self.own_keys | {RATES, BASE_RATES}) - desk.keys()):
            raise ConfigError(
                f"desk[{missing[0]!r}]: missing; begin with the configuration of a checkpoint, which has all of it: "
                "Algorithm.from_checkpoint(path).config.copy(copy_frozen=False)"
            )
        if self.env != ENV:
            raise ConfigError(f"env = {self.env!r}: expected {ENV!r}; env_config says which market, phase and domain")
        if not (isinstance(self.env_runner_cls, type) and issubclass(self.env_runner_cls, BarRunner)):
            raise ConfigError(f"env_runner_cls = {self.env_runner_cls!r}: expected a subclass of {BarRunner.__name__}")
        if not isinstance(desk["budget_bars"], int) or desk["budget_bars"] < 1:
            raise ConfigError(f"desk['budget_bars'] = {desk['budget_bars']!r}: expected bars, at least 1")
        for name in self.rate_names:
            rate = getattr(self, name)
            if not isinstance(rate, int | float) or not rate > 0:
                raise ConfigError(
                    f"{name} = {rate!r}: expected a number above 0; it falls to desk['learning_rate_final_frac'] of it "
                    "over the budget"
                )
        if self.env_config.get("seed", self.seed) != self.seed:
            raise ConfigError(
                f"seed = {self.seed} with env_config['seed'] = {self.env_config['seed']}: expected the same; "
                "`debugging(seed=...)` sets both"
            )

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Any:
        """RLlib's, which makes every algorithm's configuration, out of a checkpoint too. Checkpoints of older versions
        say what a module's rate is, not what it is relative to."""
        config = super().from_state(state)
        desk = config.desk
        if RATES in desk and BASE_RATES not in desk:
            config.desk = {key: item for key, item in desk.items() if key != "bars_per_update"}
            config._older_rates(desk[RATES])
            config.rates(desk[RATES])
        return config

    def _older_rates(self, learning_rates: Mapping[str, Any]) -> None:
        """Make RLlib's settings say the rates that modules have, where an older version left its defaults."""


def used_up(algorithm: Any) -> str:
    """What to say to somebody who trains on when nothing is left to do."""
    how = "config = algo.config.copy(copy_frozen=False); config.desk[{}] = ...; then Algorithm.from_checkpoint(path, "
    how += "config=config).train()"
    if algorithm.bars_left <= 0:
        budget = algorithm.config.desk["budget_bars"]
        return (
            f"the budget of {budget:,} bars is used up (the last result said done). To train on, save and raise it: "
            + (how.format("'budget_bars'"))
        )
    return (
        f"training ended at {algorithm.bars_sampled:,} bars: {algorithm.config.desk['patience']} validations in a row "
        "brought no new best (the last result said done and gave_up). To train on, save and change it: "
        + how.format("'patience'")
    )
