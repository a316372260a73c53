"""The phases as plans of trials, by the rows of `agents.groups`.

| phase | trials | modules present | learning |
|---|---|---|---|
| 1 | one per domain | the specialist and its instruments | all of them |
| 2 | one | all twelve | the meta-controller |
| 3 | one | all twelve | all of them |

An allocator has one phase and one trial: itself.

A trial is named by its phase and domain; everything else it depends on stands in the run's manifest, which the trial
reads itself (`algorithm_config`). Where one module serves instruments of several domains, phase 1 is one trial over all
of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtquant_rllib.agents.groups import AgentGroup, agent_groups
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.training.records.manifest import phases_of
from mtquant_rllib.universe import JOINT, Sharing

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
        """The one domain of a single-domain trial; None where the whole desk plays, of one domain or more."""
        return self.name if self.name in self.domains else None

    @property
    def frozen(self) -> list[str]:
        """Modules that play and do not learn."""
        return [module for module in self.modules if module not in self.learning]

    @property
    def folder(self) -> str:
        """Its module states, relative to the run's folder."""
        return f"phase_{self.phase}/modules/{self.name}"


def plan_phase(settings: Settings, phase: int) -> list[TrialPlan]:
    """The trials of a phase, which run side by side."""
    groups, universe, sharing = agent_groups(settings), settings.universe, settings.networks.sharing
    present = [group for group in groups if group.first_phase <= phase]
    last = phase == phases_of(settings)[-1]
    learning = present if last else [group for group in groups if group.first_phase == phase]
    domains = tuple(domain.name for domain in universe.domains)

    def plan(name: str, played: tuple[str, ...], domain: int | None) -> TrialPlan:
        def modules(of: list[AgentGroup]) -> tuple[str, ...]:
            agents = (agent for group in of for agent in group.agents_in(universe, domain))
            return tuple(dict.fromkeys(universe.policy_of(agent, sharing) for agent in agents))

        return TrialPlan(phase, name, played, modules(present), modules(learning))

    if phase == 1 and not last and sharing is not Sharing.ALL:
        return [plan(name, (name,), number) for number, name in enumerate(domains)]
    return [plan(JOINT if len(groups) > 1 else groups[0].name, domains, None)]


def plan_named(settings: Settings, phase: int, name: str) -> TrialPlan:
    return {plan.name: plan for plan in plan_phase(settings, phase)}[name]


def budget_bars(settings: Settings, plan: TrialPlan, scale: float) -> int:
    """Bars of a trial. A phase-1 trial over several domains has the budgets of all of them."""
    training = settings.training
    if settings.allocator is not None:
        return max(1, round(settings.allocator.bars * scale))
    full = (training.phase_1_timesteps, training.phase_2_timesteps, training.phase_3_timesteps)[plan.phase - 1]
    return max(1, round(full * scale)) * (len(plan.domains) if plan.phase == 1 else 1)


def algorithm_of(settings: Settings, phase: int) -> str:
    """`ppo` or `sac`."""
    if settings.allocator is not None:
        return settings.allocator.algorithm
    return settings.recipe.algorithms[phase - 1]


def expect_trainable(settings: Settings, phase: int) -> None:
    """Raises ConfigError when the environments cannot be shared evenly among the runners, or at all among the learners,
    or a setting does not go with another."""
    from mtquant_rllib.engine.learning.execution_options import changed_options
    from mtquant_rllib.env.episode_setup import EpisodeSetup
    from mtquant_rllib.env.rewards.custom_terms import custom_terms
    from mtquant_rllib.env.risk_layer import RiskLayer
    from mtquant_rllib.policies.registry import network_configs

    # Networks and rules of one's own are found, or refused, here.
    network_configs(settings)
    RiskLayer(settings, 1, EpisodeSetup(settings.recipe.rewards[phase - 1]))
    if custom_terms(settings) and settings.allocator is not None:
        raise ConfigError("rewards.terms: they are the desk's; an allocator is paid by allocator.reward")
    recipe, runners = settings.recipe, settings.resources.runners
    if settings.resources.engine == "rllib" and (asked := changed_options(settings.learner)):
        raise ConfigError(
            f"learner.{asked[0]} = {getattr(settings.learner, asked[0])} with resources.engine = 'rllib': section "
            "`learner` is the batched engine's"
        )
    kl_coeff = settings.reference.kl_coeff
    if settings.resources.engine == "rllib" and settings.reference.exists and any(dict(kl_coeff).values()):
        raise ConfigError(
            "reference.kl_coeff with resources.engine = 'rllib': RLlib's own loss has no such term; "
            "set the coefficients to 0, or resources.engine=batched"
        )
    if recipe.window_softmin.temperature is not None:
        said = f"recipe.window_softmin.temperature = {recipe.window_softmin.temperature:g}"
        if algorithm_of(settings, phase) != "ppo":
            raise ConfigError(
                f"{said} with SAC in phase {phase}: expected null; SAC draws single decisions from its replay and has "
                "no windows that it could weigh"
            )
        if settings.resources.engine == "rllib":
            raise ConfigError(
                f"{said} with resources.engine = 'rllib': expected null; RLlib's own learner has no weights"
            )
    if recipe.environments % max(runners, 1):
        most = max(number for number in range(1, runners) if recipe.environments % number == 0)
        raise ConfigError(
            f"recipe.environments = {recipe.environments}: expected a multiple of resources.runners = {runners}; "
            f"set resources.runners={most}, say"
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
    if learners and settings.resources.engine == "rllib":
        raise ConfigError(
            f"resources.learners = {learners} with resources.engine = 'rllib': expected 0; RLlib's learner fails "
            "on a share without rows, which a controller's few decisions often leave"
        )
    if settings.allocator is not None and settings.resources.engine != "batched":
        raise ConfigError(
            f"resources.engine = {settings.resources.engine!r}: an allocator runs on the batched engine alone"
        )
