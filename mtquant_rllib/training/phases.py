"""The three phases as RLlib configurations.

| phase | trials | modules present | learning |
|---|---|---|---|
| 1 | one per domain | the specialist and its instruments | all of them |
| 2 | one | all twelve | the meta-controller |
| 3 | one | all twelve | all of them |

An allocator has one phase and one trial: itself.

A trial is named by its phase and domain; everything else it depends on stands in the run's manifest, which the trial
reads itself. Where one module serves instruments of several domains, phase 1 is one trial over all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.placement.planner import TrialResources
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.universe import ALLOCATOR, META, Sharing, Universe

if TYPE_CHECKING:
    # Plans and budgets are asked for where nothing is trained, at once and without Ray.
    from mtquant_rllib.training.algorithm import DeskPPOConfig
    from mtquant_rllib.training.sac import DeskSACConfig

JOINT = "desk"
"""Name of a trial that plays every domain."""

TRIAL = "trial"
"""Key of a trial's name in Tune's configurations and results."""

LAST = "last"
"""Folder name of the module states at the end of a trial."""


def at_bars(bars: int) -> str:
    """Folder name of the module states after so many bars."""
    return f"bars_{bars:09d}"


@dataclass(frozen=True)
class TrialPlan:
    """One trial: its name, the domains it plays, the modules there and those of them that learn."""

    phase: int
    name: str
    domains: tuple[str, ...]
    modules: tuple[str, ...]
    learning: tuple[str, ...]

    @property
    def domain(self) -> str | None:
        """The one domain of a single-domain trial."""
        return self.domains[0] if len(self.domains) == 1 else None

    @property
    def folder(self) -> str:
        """Its module states, relative to the run's folder."""
        return f"phase_{self.phase}/modules/{self.name}"


def plan_phase(settings: Settings, phase: int) -> list[TrialPlan]:
    """The trials of a phase, which run side by side."""
    universe, sharing = settings.universe, settings.networks.sharing
    if universe.allocates:
        domains = tuple(domain.name for domain in universe.domains)
        return [TrialPlan(phase, ALLOCATOR, domains, universe.agent_ids, universe.agent_ids)]
    everything = universe.policies(sharing)
    every_domain = tuple(domain.name for domain in universe.domains)
    if phase == 2:
        return [TrialPlan(2, JOINT, every_domain, everything, (META,))]
    if phase == 3:
        return [TrialPlan(3, JOINT, every_domain, everything, everything)]
    if sharing is Sharing.ALL:
        modules = tuple(module for module in everything if module != META)
        return [TrialPlan(1, JOINT, every_domain, modules, modules)]
    plans = []
    for domain in universe.domains:
        agents = (domain.specialist, *domain.symbols)
        modules = tuple(dict.fromkeys(universe.policy_of(agent, sharing) for agent in agents))
        plans.append(TrialPlan(1, domain.name, (domain.name,), modules, modules))
    return plans


def budget_bars(settings: Settings, plan: TrialPlan, scale: float) -> int:
    """Bars of a trial. A phase-1 trial over several domains has the budgets of all of them."""
    training = settings.training
    if settings.allocator is not None:
        return max(1, round(settings.allocator.bars * scale))
    full = (training.phase_1_timesteps, training.phase_2_timesteps, training.phase_3_timesteps)[plan.phase - 1]
    return max(1, round(full * scale)) * (len(plan.domains) if plan.phase == 1 else 1)


@dataclass(frozen=True)
class Numbers:
    """The recipe with the document's numbers filled in where it leaves them."""

    learning_rate: float
    gamma: float
    gae_lambda: float
    n_epochs: int
    batch_size: int
    clip_range: float

    @classmethod
    def of(cls, settings: Settings) -> Numbers:
        recipe, document = settings.recipe, settings.training

        def filled(name: str) -> Any:
            value = getattr(recipe, name)
            return getattr(document, name) if value is None else value

        rate = settings.meta_controller.learning_rate if recipe.learning_rate is None else recipe.learning_rate
        return cls(rate, *(filled(name) for name in ("gamma", "gae_lambda", "n_epochs", "batch_size", "clip_range")))


def learning_rates(settings: Settings, modules: tuple[str, ...], phase: int) -> dict[str, float]:
    """Starting rate of each module in a phase, by its level."""
    default, by_level = Numbers.of(settings).learning_rate, settings.recipe.learning_rates
    share = settings.recipe.phase_learning_rate_fracs[phase - 1]
    universe = settings.universe

    def rate(module: str) -> float:
        if module == META:
            own = by_level.meta_controller
        else:
            own = by_level.specialists if module in universe.specialists else by_level.instruments
        return share * (default if own is None else own)

    return {module: rate(module) for module in modules}


def bars_per_update(settings: Settings, budget: int) -> int:
    recipe = settings.recipe
    return max(1, min(recipe.bars_per_update, max(recipe.environments, math.ceil(budget / recipe.min_updates))))


class PolicyMapping:
    """Agent id -> module id; an object, so that it travels to actors by value of its table."""

    def __init__(self, universe: Universe, sharing: Sharing) -> None:
        self._table = {agent: universe.policy_of(agent, sharing) for agent in universe.agent_ids}

    def __call__(self, agent_id: str, episode: Any = None, **kwargs: Any) -> str:
        return self._table[agent_id]


def algorithm_of(settings: Settings, phase: int) -> str:
    """`ppo` or `sac`."""
    if settings.allocator is not None:
        return settings.allocator.algorithm
    return settings.recipe.algorithms[phase - 1]


def expect_trainable(settings: Settings, phase: int) -> None:
    """Raises ConfigError when the environments cannot be shared evenly among the runners, or at all among the learners,
    or a setting does not go with another."""
    from mtquant_rllib.engine.learning.autograd import asked_for

    recipe, runners = settings.recipe, settings.resources.runners
    if settings.resources.engine == "stock" and (asked := asked_for(settings.learner)):
        raise ConfigError(
            f"learner.{asked[0]} = {getattr(settings.learner, asked[0])} with resources.engine = 'stock': section "
            "`learner` is the batched engine's"
        )
    if recipe.environments % max(runners, 1):
        raise ConfigError(
            f"recipe.environments = {recipe.environments}: expected a multiple of resources.runners = {runners}"
        )
    learners = settings.resources.learners
    shared = {
        "ppo": ("recipe.environments", recipe.environments),
        "sac": ("sac.batch_size", settings.sac.batch_size),
    }
    name, parts = shared[algorithm_of(settings, phase)]
    if learners > parts:
        raise ConfigError(
            f"resources.learners = {learners}: expected at most {name} = {parts}, which are shared among them"
        )
    if learners and settings.resources.engine == "stock":
        raise ConfigError(
            f"resources.learners = {learners} with resources.engine = 'stock': expected 0; RLlib's learner fails "
            "on a share without rows, which a controller's few decisions often leave"
        )
    if settings.allocator is not None and settings.resources.engine != "batched":
        raise ConfigError(
            f"resources.engine = {settings.resources.engine!r}: an allocator runs on the batched engine alone"
        )


def build_config(plan: TrialPlan, manifest: Manifest, resources: TrialResources) -> DeskPPOConfig | DeskSACConfig:
    """The RLlib configuration of one trial of a run.

    Raises
    ------
    ConfigError
        As `expect_trainable`.
    """
    import torch

    from mtquant_rllib.training.environments import ENV, register
    from mtquant_rllib.training.validation import make_validator

    register()
    settings = manifest.load_settings()
    recipe, runners, algorithm = settings.recipe, settings.resources.runners, algorithm_of(settings, plan.phase)
    expect_trainable(settings, plan.phase)
    learners = settings.resources.learners
    record = manifest.phase(plan.phase)
    budget = record.trials[plan.name].budget_bars
    data = manifest.market.data
    config = (_sac if algorithm == "sac" else _ppo)(plan, settings, budget)
    (
        config.environment(
            ENV,
            env_config={
                "data": data,
                "market": manifest.market.recipe,
                "settings": manifest.settings,
                "phase": plan.phase,
                "domain": plan.domain if plan.phase == 1 and settings.allocator is None else None,
                "split": "train",
                "seed": manifest.seed,
            },
        )
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=recipe.environments // max(runners, 1),
            num_cpus_per_env_runner=resources.runner_cpus,
        )
        .fault_tolerance(
            restart_failed_env_runners=True, env_runner_restore_timeout_s=settings.resources.runner_restart_seconds
        )
        .multi_agent(
            policies=list(plan.modules),
            policy_mapping_fn=PolicyMapping(settings.universe, settings.networks.sharing),
            policies_to_train=list(plan.learning),
        )
        .learners(
            num_learners=learners,
            num_cpus_per_learner=resources.learner_cpus or "auto",
            # A torch without CUDA learns beside a GPU that it was given.
            num_gpus_per_learner=resources.gpus if torch.backends.cuda.is_built() else 0.0,
        )
        .resources(num_cpus_for_main_process=resources.cpus)
        .debugging(seed=manifest.seed, log_level="ERROR")
    )
    config.desk |= {
        "budget_bars": budget,
        "validations": recipe.validations,
        "patience": recipe.patience,
        "learning_rate_final_frac": recipe.learning_rate_final_frac,
        "batch_size_final_factor": recipe.batch_size_final_factor,
        "explore_frozen": recipe.explore_frozen,
        "average_updates": recipe.average_updates,
        "learner": settings.learner.model_dump(),
        "make_validator": make_validator,
        "validator_args": {"context": config.env_config, "domain": plan.domain},
        "best_from_start": record.start is not None,
    }
    if algorithm == "ppo":
        config.desk["learner_threads"] = resources.learner_threads
    return config


def _ppo(plan: TrialPlan, settings: Settings, budget: int) -> Any:
    from mtquant_rllib.policies.modules import module_specs
    from mtquant_rllib.policies.registry import DeskWidths
    from mtquant_rllib.training.algorithm import DeskPPOConfig

    recipe, numbers = settings.recipe, Numbers.of(settings)
    if settings.resources.engine != "batched" and recipe.batch_size_final_factor != 1:
        raise ConfigError(
            f"recipe.batch_size_final_factor = {recipe.batch_size_final_factor} with resources.engine = "
            f"{settings.resources.engine!r}: expected 1; RLlib's own learner cuts minibatches of one size"
        )
    update = bars_per_update(settings, budget)
    # RLlib's annotations want whole CPUs; its code takes fractions.
    blank: Any = DeskPPOConfig()
    config = (
        blank.engine(settings.resources.engine)
        .rl_module(
            rl_module_spec=module_specs(settings.universe, DeskWidths.of(settings), settings, only=plan.modules),
        )
        .training(
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
        )
    )
    return config.rates(learning_rates(settings, plan.modules, plan.phase))


def _sac(plan: TrialPlan, settings: Settings, budget: int) -> Any:
    from mtquant_rllib.features.regimes import Regime
    from mtquant_rllib.policies.modules import module_specs
    from mtquant_rllib.policies.registry import DeskWidths
    from mtquant_rllib.training.sac import DeskSACConfig

    if settings.resources.engine != "batched":
        raise ConfigError(
            f"resources.engine = {settings.resources.engine!r} with recipe.algorithms = "
            f"{list(settings.recipe.algorithms)}: SAC runs on the batched engine alone"
        )
    sac = settings.sac
    share = settings.recipe.phase_learning_rate_fracs[plan.phase - 1]
    rates = {kind: share * rate for kind, rate in sac.learning_rates}
    # As with PPO, a small budget gets as many reports as a large one at least has.
    iteration = max(1, min(sac.bars_per_iteration, math.ceil(budget / settings.recipe.min_updates)))
    blank: Any = DeskSACConfig()
    config = blank.rl_module(
        rl_module_spec=module_specs(
            settings.universe, DeskWidths.of(settings), settings, only=plan.modules, sac=plan.learning
        )
    ).training(
        gamma=Numbers.of(settings).gamma if sac.gamma is None else sac.gamma,
        **{f"{kind}_lr": rate for kind, rate in rates.items()},
    )
    config.sac = {
        **sac.model_dump(mode="json"),
        "bars_per_iteration": iteration,
        "learning_starts_bars": learning_starts_bars(settings, budget),
    }
    config.desk["sigma_floor_by_regime"] = [getattr(sac.sigma_floor, regime.name.lower()) for regime in Regime]
    return config.rates(dict.fromkeys(plan.learning, rates))


def learning_starts_bars(settings: Settings, budget: int) -> int:
    """Bars that SAC collects of a budget before its first gradient step."""
    return min(settings.sac.learning_starts_bars, int(settings.sac.learning_starts_frac * budget))


def plan_named(settings: Settings, phase: int, name: str) -> TrialPlan:
    return {plan.name: plan for plan in plan_phase(settings, phase)}[name]
