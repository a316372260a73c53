"""The RLlib configuration of a trial, from its plan and its run's manifest."""

from __future__ import annotations

import math
from typing import Any

import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.config.environment import EnvironmentConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.training.algorithm.hyperparameters import (
    Hyperparameters,
    learning_rates,
    learning_starts_bars,
    train_batch_bars,
)
from mtquant_rllib.training.algorithm.ppo import DeskPPOConfig
from mtquant_rllib.training.algorithm.sac import DeskSACConfig
from mtquant_rllib.training.curriculum.phases import TrialPlan, algorithm_of, expect_trainable
from mtquant_rllib.training.environments import ENV
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.universe import Sharing, Universe


class PolicyMapping:
    """Agent id -> module id; an object, so that it travels to actors by value of its table."""

    def __init__(self, universe: Universe, sharing: Sharing) -> None:
        self._table = {agent: universe.policy_of(agent, sharing) for agent in universe.agent_ids}

    def __call__(self, agent_id: str, episode: Any = None, **kwargs: Any) -> str:
        return self._table[agent_id]


def build_config(plan: TrialPlan, manifest: Manifest, resources: TrialResources) -> DeskPPOConfig | DeskSACConfig:
    """The RLlib configuration of one trial of a run.

    Raises
    ------
    ConfigError
        As `expect_trainable`.
    """
    settings = manifest.load_settings()
    expect_trainable(settings, plan.phase)
    budget = manifest.phase(plan.phase).trials[plan.name].budget_bars
    # RLlib's annotations want whole CPUs; its code takes fractions.
    config: Any = DeskSACConfig() if algorithm_of(settings, plan.phase) == "sac" else DeskPPOConfig()
    environment = _environment(plan, manifest, settings)
    config.environment(ENV, env_config=environment.plain())
    config.multi_agent(
        policies=list(plan.modules),
        policy_mapping_fn=PolicyMapping(settings.universe, settings.networks.sharing),
        policies_to_train=list(plan.learning),
    ).debugging(seed=manifest.seed, log_level="ERROR")
    _set_processes(config, settings, resources)
    _set_trial(config, plan, manifest, environment, budget)
    if isinstance(config, DeskSACConfig):
        _set_sac(config, plan, settings, budget)
    else:
        _set_ppo(config, plan, settings, budget, resources.learner_threads)
    return config


def _environment(plan: TrialPlan, manifest: Manifest, settings: Settings) -> EnvironmentConfig:
    return EnvironmentConfig(
        data=manifest.market.data,
        market=manifest.market.recipe,
        settings=settings,
        phase=plan.phase,
        domain=plan.domain if plan.phase == 1 and settings.allocator is None else None,
        split="train",
        seed=manifest.seed,
    )


def _set_processes(config: Any, settings: Settings, resources: TrialResources) -> None:
    """Runners and learners, and what each process asks Ray for."""
    own = settings.resources
    config.env_runners(
        num_env_runners=own.runners,
        num_envs_per_env_runner=settings.recipe.environments // max(own.runners, 1),
        num_cpus_per_env_runner=resources.runner_cpus,
    ).fault_tolerance(
        restart_failed_env_runners=True, env_runner_restore_timeout_s=own.runner_restart_seconds
    ).learners(
        num_learners=own.learners,
        num_cpus_per_learner=resources.learner_cpus or "auto",
        # A torch without CUDA learns beside a GPU that it was given.
        num_gpus_per_learner=resources.gpus if torch.backends.cuda.is_built() else 0.0,
    ).resources(num_cpus_for_main_process=resources.cpus)


def _set_trial(config: Any, plan: TrialPlan, manifest: Manifest, environment: EnvironmentConfig, budget: int) -> None:
    recipe = environment.settings.recipe
    config.training(
        budget_bars=budget,
        validations=recipe.validations,
        patience=recipe.patience,
        learning_rate_final_frac=recipe.learning_rate_final_frac,
        batch_size_final_factor=recipe.batch_size_final_factor,
        explore_frozen=recipe.explore_frozen,
        ema_updates=recipe.ema_updates,
        use_final_ema=recipe.use_final_ema == "always",
        best_from_start=manifest.phase(plan.phase).start is not None,
        learner=environment.settings.learner,
        copied_sections=environment.copied_sections(),
    )


def _set_ppo(config: Any, plan: TrialPlan, settings: Settings, budget: int, threads: int) -> None:
    recipe, numbers = settings.recipe, Hyperparameters.of(settings)
    if settings.resources.engine != "batched" and recipe.batch_size_final_factor != 1:
        raise ConfigError(
            f"recipe.batch_size_final_factor = {recipe.batch_size_final_factor} with resources.engine = "
            f"{settings.resources.engine!r}: expected 1; RLlib's own learner cuts minibatches of one size"
        )
    update = train_batch_bars(settings, budget)
    config.engine(settings.resources.engine).rl_module(rl_module_spec=module_specs(settings, only=plan.modules))
    config.training(
        lr=recipe.phase_learning_rate_fracs[plan.phase - 1] * numbers.learning_rate,
        gamma=numbers.gamma,
        lambda_=numbers.gae_lambda,
        num_epochs=numbers.n_epochs,
        minibatch_size=min(numbers.batch_size, update),
        train_batch_size_per_learner=update,
        clip_param=numbers.clip_range,
        grad_clip=recipe.grad_clip,
        vf_clip_param=recipe.vf_clip,
        entropy_coeff=recipe.entropy_coeff,
        use_kl_loss=False,
        learner_threads=threads,
        window_softmin=None if recipe.window_softmin.temperature is None else recipe.window_softmin,
    ).rates(learning_rates(settings, plan.modules, plan.phase))


def _set_sac(config: Any, plan: TrialPlan, settings: Settings, budget: int) -> None:
    if settings.resources.engine != "batched":
        raise ConfigError(
            f"resources.engine = {settings.resources.engine!r} with recipe.algorithms = "
            f"{list(settings.recipe.algorithms)}: SAC runs on the batched engine alone"
        )
    sac, share = settings.sac, settings.recipe.phase_learning_rate_fracs[plan.phase - 1]
    rates = {kind: share * rate for kind, rate in sac.learning_rates}
    # As with PPO, a small budget gets as many reports as a large one at least has.
    iteration = max(1, min(sac.bars_per_iteration, math.ceil(budget / settings.recipe.min_updates)))
    own = {"bars_per_iteration": iteration, "learning_starts_bars": learning_starts_bars(settings, budget)}
    config.rl_module(rl_module_spec=module_specs(settings, only=plan.modules, sac=plan.learning)).training(
        gamma=Hyperparameters.of(settings).gamma if sac.gamma is None else sac.gamma,
        sac=sac.model_copy(update=own),
        **{f"{kind}_lr": rate for kind, rate in rates.items()},
    ).rates(dict.fromkeys(plan.learning, rates))
