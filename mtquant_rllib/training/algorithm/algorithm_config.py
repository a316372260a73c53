"""What the desk adds to an RLlib configuration: the trial's own settings, and the check that nothing is set in vain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.util.debug import log_once

from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.config.loader import merged, validate
from mtquant_rllib.config.trial import TrialConfig
from mtquant_rllib.engine.sampling.runner_base import BarRunner
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.algorithm.rllib_settings import refuse_unread
from mtquant_rllib.training.environments import ENV, register


class DeskAlgorithmConfig(AlgorithmConfig):
    """An RLlib configuration with a `trial` (`config.trial.TrialConfig`), whose fields are set by `training(...)`."""

    algorithm: str
    """`ppo` or `sac`."""
    rate_names: tuple[str, ...]
    """RLlib's settings that are learning rates."""
    not_of_it: str
    """Field of `TrialConfig` that is the other algorithm's."""

    _trial: dict[str, Any]
    """`trial` as plain values: what lies in a checkpoint, and is copied into every process."""
    _engine: str

    def _begin(self) -> None:
        """The defaults of every run that differ from RLlib's."""
        self._trial = {}
        self.environment(
            ENV, env_config={}, normalize_actions=False, clip_actions=True, disable_env_checking=True
        ).env_runners(merge_env_runner_states=False, broadcast_env_runner_states=False)

    @property
    def trial(self) -> TrialConfig:
        """What the desk reads of a trial. RLlib keeps it as plain values; they become typed here and nowhere else.

        Raises
        ------
        ConfigError
            When nothing was set yet.
        """
        if not self._trial:
            raise ConfigError(
                "budget_bars and all that belongs to a trial are missing; begin with the configuration of a "
                "checkpoint: Algorithm.from_checkpoint(path).config.copy(copy_frozen=False)"
            )
        return validate(TrialConfig, self._trial, "training()")

    def training(self, **settings: Any) -> Any:
        """RLlib's, and the fields of `TrialConfig`. `sac` may name some of its numbers; the others stay.

        Raises
        ------
        ConfigError
            When a value is none that the field takes.
        """
        own = {name: settings.pop(name) for name in list(settings) if name in TrialConfig.model_fields}
        if own:
            trial = validate(TrialConfig, merged(self._trial, own), "training()")
            self._trial = trial.model_dump(mode="json")
        return super().training(**settings)

    def rates(self, learning_rates: Mapping[str, Any]) -> Any:
        """Give each module its rate at the start of the budget, as its learner reads it, beside the present `lr`."""
        base = {name: getattr(self, name) for name in self.rate_names}
        return self.training(learning_rates=dict(learning_rates), base_rates=base)

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
            self._check(self.trial)
        register()
        super().validate()

    def _check(self, trial: TrialConfig) -> None:
        if self.env != ENV:
            raise ConfigError(f"env = {self.env!r}: expected {ENV!r}; env_config says which market, phase and domain")
        if not (isinstance(self.env_runner_cls, type) and issubclass(self.env_runner_cls, BarRunner)):
            raise ConfigError(f"env_runner_cls = {self.env_runner_cls!r}: expected a subclass of {BarRunner.__name__}")
        if getattr(trial, self.not_of_it) != TrialConfig.model_fields[self.not_of_it].default:
            raise ConfigError(f"training({self.not_of_it}=...): not read by {type(self).__name__}")
        for name in self.rate_names:
            rate = getattr(self, name)
            if not isinstance(rate, int | float) or not rate > 0:
                raise ConfigError(
                    f"{name} = {rate!r}: expected a number above 0; it falls to training(learning_rate_final_frac=...) "
                    "of it over the budget"
                )
        environment = EnvironmentConfig.of(self.env_config)
        if environment.seed not in (None, self.seed):
            raise ConfigError(
                f"seed = {self.seed} with env_config['seed'] = {environment.seed}: expected the same; "
                "`debugging(seed=...)` sets both"
            )
        now = environment.copied_sections()
        if changed := [name for name, was in trial.copied_sections.items() if now.get(name) != was]:
            raise ConfigError(
                f"env_config['settings']['{changed[0]}'] has changed: it was copied into the configuration and is not "
                f"read there any more; {_COPIED_TO.get(changed[0], 'leave it as it was')}"
            )


_COPIED_TO = {
    "recipe": "use training(...), env_runners(...) or multi_agent(...)",
    "sac": "use training(sac={...})",
    "networks": "the networks of a checkpoint cannot be changed; train a run with others",
    "learner": "use training(learner={...})",
    "training": "use training(...)",
    "meta_controller": "use training(lr=...); the networks of a checkpoint cannot be changed",
    "reference": "its price is in the modules of a checkpoint; train a run with another",
    "resources": "use env_runners(...), learners(...) or resources(...)",
}
"""Section of the settings -> where its values went."""


def used_up(algorithm: Any) -> str:
    """The message for a `train()` after the trial is done: how to go on."""
    how = (
        "config = algo.config.copy(copy_frozen=False); config.training({}=...); then Algorithm.from_checkpoint(path, "
        "config=config).train()"
    )
    trial = algorithm.config.trial
    if algorithm.bars_left <= 0:
        return (
            f"the budget of {trial.budget_bars:,} bars is used up (the last result said done). To train on, save and "
            f"raise it: {how.format('budget_bars')}"
        )
    return (
        f"training ended at {algorithm.bars_sampled:,} bars: {trial.patience} validations in a row brought no new best "
        f"(the last result said done and early_stopped). To train on, save and change it: {how.format('patience')}"
    )
