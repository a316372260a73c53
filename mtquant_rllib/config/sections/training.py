"""How the twelve policies are trained: the recipe, the machines, the checkpoints and who is told about it.

The numbers of the design document live in section `training` (`configs/agents.yaml`). A recipe field that is null runs
the document's number; one that is set overrides it, and `configs/training.yaml` gives the reason beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mtquant_rllib.config.base import (
    NUMBER,
    Count,
    CountOrNone,
    Fraction,
    LearningRate,
    Multiple,
    NonNegative,
    Percent,
    Positive,
    Section,
    Share,
    Where,
)


class LearningRates(Section):
    """Learning rate per level; null follows `recipe.learning_rate`."""

    meta_controller: LearningRate | None
    specialists: LearningRate | None
    instruments: LearningRate | None


Algorithm = Literal["ppo", "sac"]
Reward = Literal["differential_sharpe", "risk_adjusted"]
GrowthFactor = Annotated[float, Field(ge=1, le=1000), NUMBER]
"""By how much something grows over a trial; 1: not at all."""


class WindowSoftminConfig(Section):
    """Weights of windows in PPO's update (`engine.learning.ppo.window_weights`).

    temperature
        In annual Sharpe ratios: a window that does worse by so much weighs e times as much. null weighs all alike.
    min_bars
        A window of fewer bars keeps the weight 1: its Sharpe ratio is chance.
    """

    temperature: Annotated[float, Field(gt=0, le=1000), NUMBER] | None
    min_bars: Count


class RecipeConfig(Section):
    """How each phase is run: the numbers of PPO, and those that it shares with SAC, whose own stand in `sac`.

    algorithms
        Of phase 1, 2 and 3. Policies carry over from one to the other; deviations, values and critics start fresh.
    rewards
        Of phase 1, 2 and 3: `differential_sharpe`, each agent's own (Moody & Saffell 2001), or `risk_adjusted`, return
        less weighted drawdown, risk's edits and losses beyond the VaR, mixed with the portfolio's (`RewardConfig`).
    risk_rules_in_training
        Whether the risk rules limit episodes on training bars. Validation and `mtquant evaluate` have them always.
    learning_rate
        Of every module; null is the document's `meta_controller.learning_rate`.
    phase_learning_rate_fracs
        Share of these rates in phase 1, 2 and 3.
    learning_rate_final_frac
        Share of it that is left at the end of the budget; the way there is a straight line over bars. 1 is constant.
    gae_lambda, n_epochs, batch_size, clip_range, gamma
        Null is the document's number. Epochs are passes over each module's own rows; batch_size is a minibatch's rows.
    batch_size_final_factor
        A minibatch at the end of the budget is so many times as large as at its start; the way there is a straight line
        over bars. Averages noise out as a falling rate does, in fewer steps (Smith et al. 2018, arXiv 1711.00489).
    train_batch_bars
        Environment-bars between two updates, over all runners and environments.
    min_updates
        A phase whose budget is too small for this many updates takes smaller ones.
    environments
        Environments stepped side by side, over all runners.
    grad_clip
        Largest gradient norm of each module.
    vf_clip
        Largest squared error of the value function that is still learned from.
    window_softmin
        Whether PPO learns more from windows in which an agent does worse.
    ema_updates
        Updates over which weights are averaged; the average is validated beside the weights, and the better is kept
        and handed over. null averages nothing.
    use_final_ema
        Where a phase hands over the average of weights at its end in place of the state that was best on validation: on
        two years of bars the best of twenty is the luckiest.
    validations
        How many times in a phase, evenly over its budget, the policies are validated.
    patience
        Validations in a row without a new best after which a phase ends before its budget; null never ends it.
    explore_frozen
        Whether frozen policies act with their exploration noise while another learns, or by their mean, as evaluated.
    """

    algorithms: tuple[Algorithm, Algorithm, Algorithm]
    rewards: tuple[Reward, Reward, Reward]
    risk_rules_in_training: bool
    learning_rate: LearningRate | None
    learning_rates: LearningRates
    phase_learning_rate_fracs: tuple[Multiple, Multiple, Multiple]
    learning_rate_final_frac: Share
    gae_lambda: Share | None
    gamma: Fraction | None
    n_epochs: Count | None
    batch_size: Count | None
    batch_size_final_factor: GrowthFactor
    clip_range: Fraction | None
    train_batch_bars: Count
    min_updates: Count
    environments: Count
    grad_clip: Positive
    vf_clip: Positive
    entropy_coeff: NonNegative
    window_softmin: WindowSoftminConfig
    ema_updates: Count | None
    use_final_ema: Where
    validations: Count
    patience: Count | None
    explore_frozen: bool


class WorkerType(Section):
    """Nodes of one kind that a cluster's autoscaler may start, as `available_node_types` of a cluster file has them.

    cpus, gpus: of one such node. max_workers: the most of them at a time.
    """

    cpus: Positive
    gpus: NonNegative = 0.0
    max_workers: Count


class ResourcesConfig(Section):
    """Machines for one run, and what runs on them.

    engine
        `batched`: environments stepped as arrays, equally built modules learned as one stack. `rllib`: RLlib's own
        runner, connectors and PPO learner, as a reference. The same seed gives the same result within one of them.
    cpus
        CPUs that the run may use, of its own session or of a cluster; null takes what there is.
    learner_cpus
        The most that a process that learns takes, where a node has so many for it: its stacks of modules learn side by
        side, with the same result.
    min_process_cpus
        The least that a process gets. Where the trials of a phase would get less, fewer of them run at a time; where
        one alone would, the run is refused.
    runners
        Remote environment runners of each trial; 0 samples in the trial's own process.
    learners
        Remote learners of each trial, each on a share of the rows of every minibatch; 0 learns in the trial's own
        process. Their number changes the speed; what is learned differs by rounding and dropout alone. Under SAC each
        keeps the whole replay.
    gpus
        `auto` shares the GPUs there are among the processes that learn; `none` leaves them alone.
    worker_types
        What a cluster's autoscaler may start, beside the nodes there are. null is what `ray up` left on the head, in
        `~/ray_bootstrap_config.yaml`, and nothing where there is no such file; [] starts none.
    worker_start_seconds
        How long nodes that were asked for may take. After it a phase begins on what there is, or where no trial fits on
        that, the run ends.
    processes_per_gpu
        The most processes that share one GPU; where more would, fewer trials run at a time.
    object_store_mb
        Shared memory of a session that this run starts itself.
    runner_restart_seconds
        How long a runner whose process was lost may take to come back before the trial counts as failed.
    env_retries
        Times in a row that the bars of a call are sampled again, from the same state and with the same noise, after an
        environment has raised or given a reward, an equity or an observation that is not a finite number. 0 ends the
        trial with the first. Of the batched engine.
    """

    engine: Literal["batched", "rllib"]
    cpus: Count | None
    learner_cpus: Count
    min_process_cpus: Annotated[float, Field(ge=0.01, le=1), NUMBER]
    runners: CountOrNone
    learners: CountOrNone
    gpus: Literal["auto", "none"]
    processes_per_gpu: Count
    worker_types: tuple[WorkerType, ...] | None
    worker_start_seconds: Positive
    object_store_mb: Count
    runner_restart_seconds: Positive
    env_retries: CountOrNone


class LearnerConfig(Section):
    """How the batched learners run networks for their gradients, and when a module counts as diverged.

    The first three are for where gradients are autograd's work: attention networks, and every network on a GPU. The
    closed form of plain networks on a CPU stays as it is, and a learner warns of settings without a part in a module.

    precision
        `bfloat16` multiplies matrices in that precision (`torch.autocast`) in value and auxiliary passes, and under SAC
        in the policy's too. Under PPO that one stays float32: its probabilities are divided by the runner's.
        Parameters, losses and optimisers are float32 either way.
    checkpoint_activations
        Keep only the inputs of attention layers and compute what lies inside once more on the way back: less memory for
        more time, the same result.
    compile
        Let `torch.compile` make kernels of forward and backward passes, once for every shape of network and of batch.
        Needs a compiler, and dropout draws otherwise than without.
    max_skipped_updates
        Updates in a row in which an optimiser of a module took none of its steps, because no gradient was finite, after
        which the module counts as diverged (`engine.learning.divergence`).
    max_parameter_abs
        Largest absolute value of a parameter; beyond it the module counts as diverged, and keeps what it had before.
    """

    precision: Literal["float32", "bfloat16"]
    checkpoint_activations: bool
    compile: bool
    max_skipped_updates: Count
    max_parameter_abs: Positive


class CheckpointsConfig(Section):
    """How often a trial writes a checkpoint, and what happens where it or its storage fails.

    every_updates
        Updates between two checkpoints: the most that a kill can cost.
    keep
        How many of a trial's checkpoints are kept, the newest ones.
    max_failures
        How often a trial that fails is started again from its newest checkpoint, in one attempt of a run.
    storage_patience_seconds
        How long a write waits for storage that is full or away before the run stops.
    stop_grace_seconds
        How long trials have, after SIGINT or SIGTERM, to finish their update and write a checkpoint.
    """

    every_updates: Count
    keep: Count
    max_failures: CountOrNone
    storage_patience_seconds: NonNegative
    stop_grace_seconds: NonNegative


class TrackerConfig(Section):
    """One of `tracking.trackers`; its name alone stands for one without options.

    tracker
        `tensorboard`, `wandb`, `mlflow`, `package.module:NAME`, or a name that an installed package offers (entry
        points of the group `mtquant_rllib.trackers`).
    options
        Arguments of the class; those of `wandb` are a section of their own.
    """

    tracker: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"tracker": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _holds_no_secret(self) -> TrackerConfig:
        """Options stand in the manifest of every run, and trackers log them."""
        for key, value in _leaves("options", self.options):
            if isinstance(value, str) and (_SECRET_KEY.search(key) or _PASSWORD.search(value)):
                raise ValueError(
                    f"{key}: a secret would stand in the run's manifest and at every tracker; give it by the "
                    "tracker's own environment variable"
                )
        return self


def _leaves(path: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """Values by their dotted paths, in tables and lists of any depth."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(f"{path}.{key}", value)
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from _leaves(f"{path}.{number}", value)
    else:
        yield path, tree


_SECRET_KEY = re.compile(r"(key|token|secret|password|passwd|pwd|auth|authorization|credentials)$", re.IGNORECASE)
"""Names of options that hold secrets; one of a file that holds them ends otherwise."""
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
"""A password in an address."""


class WandBConfig(Section):
    """Weights & Biases. Whether it is online is its own setting (WANDB_MODE, `wandb login`, its settings files).

    project, entity
        Where runs go; null is the entity that its own settings have.
    tags
        Of every run, besides phase, trial, algorithm, networks and kind of market.
    connect_seconds
        How long its service may take to answer before the run is kept offline. Training does not wait for it.
    poll_seconds
        Between two looks into the run's folder.
    """

    project: str
    entity: str | None
    tags: tuple[str, ...]
    connect_seconds: Positive
    poll_seconds: Annotated[float, Field(gt=0, le=60), NUMBER]


class TrackingConfig(Section):
    """Experiment trackers.

    trackers
        Those that are used beside the console, the curves and Tune's own files.
    wait_seconds
        How long the end of a training waits for all that trackers have left to do.
    queue_results
        How many results a tracker other than `tensorboard` and `wandb` may be behind before it is left alone.
    progress_seconds
        Least seconds between two progress lines of a trial.
    fallback_seconds
        Least seconds between two lines on the fall-backs of one agent for one reason (`policies.attention.fallbacks`).
    attention_rows
        Decisions of each attention network that a validation looks into, in whole stretches; 0 for none.
    gpu_percent_wanted
        A phase whose GPUs run kernels for less of the time is told at its end what they waited for.
    """

    trackers: tuple[TrackerConfig, ...]
    wandb: WandBConfig
    wait_seconds: Annotated[float, Field(ge=0, le=600), NUMBER]
    queue_results: Count
    progress_seconds: NonNegative
    fallback_seconds: NonNegative
    attention_rows: CountOrNone
    gpu_percent_wanted: Percent

    @model_validator(mode="after")
    def _each_once(self) -> TrackingConfig:
        names = [choice.tracker for choice in self.trackers]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"trackers: {repeated[0]} stands there more than once")
        return self
