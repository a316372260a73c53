"""The curriculum: three phases, each a Tune experiment, in one folder per run.

    runs/NAME/
      manifest.json      what the run is and how far; everything is found from it
      run.log            what the console said, with times
      phase_1/           a Tune experiment: TRIAL/checkpoint_NNNNNN (RLlib checkpoints), progress.csv, TensorBoard,
                         and modules/TRIAL/, the states that were best on validation; phase_2/, phase_3/ likewise
      policies/phase_1/  what phase 1 hands over: the best state of every module it trained, copied, so that phase_1/
                         may go
      curves/            one CSV per trial, every iteration once

`train` begins a run and carries it on; `resume` carries on whatever the manifest says is unfinished. A phase that was
cut off goes on from its last checkpoint, or from its beginning if there was none yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import ray

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import RunError
from mtquant_rllib.training.algorithm.hyperparameters import learning_starts_bars
from mtquant_rllib.training.curriculum import phase_experiment
from mtquant_rllib.training.curriculum.attempt import Attempt
from mtquant_rllib.training.curriculum.changeable_settings import change_settings, changed_settings, refuse_unchangeable
from mtquant_rllib.training.curriculum.phase_handover import begin_phase, hand_over, predecessor
from mtquant_rllib.training.curriculum.phases import algorithm_of, expect_trainable, plan_phase
from mtquant_rllib.training.placement.node_readiness import Readiness
from mtquant_rllib.training.placement.planner import placed
from mtquant_rllib.training.preparation import centred, for_market, prepare, restored
from mtquant_rllib.training.records import ledger, ownership, run_names
from mtquant_rllib.training.records.manifest import Manifest, PhaseRecord, phases_of
from mtquant_rllib.training.records.manifest_file import FILE, is_run
from mtquant_rllib.training.reporting.progress import clock
from mtquant_rllib.training.reporting.trackers import expect_trackers
from mtquant_rllib.training.reporting.weights_and_biases.launcher import followed
from mtquant_rllib.training.run_log import ends_in_the_log, log_to, resume_command, tell
from mtquant_rllib.training.session.interruption import Interruption
from mtquant_rllib.training.session.ray_session import local_node, session
from mtquant_rllib.training.storage import exclusive_access, mirror
from mtquant_rllib.training.storage.retries import with_retries


def train(
    settings: Settings,
    *,
    run: Path | None = None,
    market: Path | None = None,
    macro: Path | None = None,
    budget_scale: float = 1.0,
    phase: int | None = None,
    address: str | None = None,
    resume_existing: bool = False,
) -> Path:
    """Train the desk and return the run's folder.

    Parameters
    ----------
    run
        The folder; by default the next free `runs/run_NNN`. With `phase`, an existing run may be named, and that phase
        is trained in it.
    market, macro
        Bars and macro series; without them the embedded synthetic market.
    budget_scale
        Factor on the budgets of all three phases.
    phase
        Only this one.
    address
        A Ray cluster; without it the session that is open in this process, or one that begins and ends here.
    resume_existing
        Carry the run on where it exists, as a job that its scheduler starts again should.

    Raises
    ------
    ConfigError
        When a run is to be carried on with settings that would change what it is.
    RunError
        When the run exists already and is not to be carried on, or a phase is asked for whose predecessor is not there.
    """
    phases = phases_of(settings)
    if phase not in (None, *phases):
        raise RunError(f"phase {phase}: this experiment has phase {', '.join(map(str, phases))}")
    wanted = list(phases) if phase is None else [phase]
    if phase in (None, 1):
        # Before an object store is asked for the run.
        _refuse_untrainable(for_market(settings, from_files=market is not None), wanted, address)
    run = run_names.claim_free() if run is None else run_names.run_path(run).resolve()
    change: Callable[[Manifest], None] | None = None
    if resume_existing and is_run(run) and not nothing_trained(run):
        moved = changed_settings(Manifest.read(run), settings)
        carry_on(run, address, change=lambda manifest: change_settings(manifest, moved, run) if moved else None)
        return run
    if is_run(run) and phase in (None, 1) and nothing_trained(run):
        record = prepare(settings, market, macro)
        fresh = Manifest.begin(run.name, centred(settings, record), record, budget_scale, wanted)

        def change(manifest: Manifest) -> None:
            if not nothing_trained(run):
                name = mirror.named(run)
                raise RunError(f"{name}: another process trained this run meanwhile; `mtquant resume {name}`")
            manifest.begin_again(fresh)

    elif is_run(run):
        manifest = Manifest.read(run)
        if phase is None or manifest.phase(phase).status != "pending":
            done = ", ".join(f"phase {number} {record.status}" for number, record in manifest.phases.items())
            name = mirror.named(run)
            raise RunError(
                f"{name}: this run exists ({done}); carry it on with `mtquant resume {name}` or name another"
            )

        if phase > 1:
            predecessor(manifest, phase)

        def change(manifest: Manifest) -> None:
            manifest.wanted = sorted({*manifest.wanted, phase})

    else:
        if phase not in (None, 1):
            raise RunError(
                f"phase {phase} begins with the policies of phase {phase - 1}; name a run that has them, with --run"
            )
        ownership.claim(run)
        record = prepare(settings, market, macro)
        Manifest.begin(run.name, centred(settings, record), record, budget_scale, wanted).write(run)
    carry_on(run, address, change=change)
    return run


def nothing_trained(run: Path) -> bool:
    """Whether a run was refused before its first result, so that its name may be used again."""
    return (
        not any(run.glob("phase_*/*/checkpoint_*"))
        and not any(run.glob("curves/*"))
        and not any(run.glob("policies/*"))
    )


def _refuse_untrainable(settings: Settings, phases: Sequence[int], address: str | None) -> None:
    """Raises ConfigError when a phase cannot be trained as the settings want it, or does not fit onto this machine,
    before anything is made for it. What a cluster has is asked once it is joined."""
    expect_trackers(settings)
    for phase in phases:
        expect_trainable(settings, phase)
        if address is None and not ray.is_initialized():
            trials = [plan.name for plan in plan_phase(settings, phase)]
            placed(settings.resources, phase, trials, [local_node(settings)])


def resume(run: Path, address: str | None = None, overrides: Sequence[str] = (), *, trust: bool = False) -> Path:
    """Carry on an unfinished run from its manifest. trust: load checkpoints that this user did not sign, which may run
    whatever code they name.

    Raises
    ------
    RunError
        When the folder is no run.
    ConfigError
        When an override would change what the run is.
    """
    run = run_names.existing_run(run).resolve()
    if ownership.identity(run) is not None:
        log_to(run)
    Manifest.read(run, trust=trust)
    refuse_unchangeable(overrides)

    change = partial(change_settings, overrides=overrides, run=run)
    carry_on(run, address, trust=trust, change=change if overrides else None)
    return run


def carry_on(
    run: Path,
    address: str | None = None,
    *,
    trust: bool = False,
    change: Callable[[Manifest], None] | None = None,
) -> None:
    """Train the phases that were asked for and are not done yet, in order. change: made to the manifest first, once
    nobody else trains the run."""
    log_to(run)
    with ends_in_the_log(resume_command(run)), exclusive_access.held(run, tell), ends_in_the_log(resume_command(run)):
        # It may be another file now, where the run lies in an object store.
        log_to(run)
        if (copied := mirror.copy_of(run)) is not None:
            tell(f"run {copied.address}; its working copy on this machine: {run}")
        _carry_on(run, address, trust, change)


def _carry_on(run: Path, address: str | None, trust: bool, change: Callable[[Manifest], None] | None) -> None:
    manifest = Manifest.read(run, trust=trust)
    # A copy that was damaged is made whole again.
    manifest.write(run)
    if change is not None:
        # Written once it is certain that the run can go on with it.
        change(manifest)
    todo = [phase for phase in manifest.wanted if manifest.phase(phase).status != "done"]
    if not todo:
        manifest.write(run)
        tell(f"{run}: nothing left to do; phases {', '.join(map(str, manifest.wanted))} are done")
        return
    settings = manifest.load_settings()
    patience_s = settings.checkpoints.storage_patience_seconds
    bring = partial(mirror.pull_market, run, manifest.market.data)
    with_retries(bring, "the prepared market", patience_s, action="read")
    manifest.market = restored(settings, manifest.market)
    with_retries(partial(mirror.push_market, run, Path(manifest.market.data)), "the prepared market", patience_s)
    interruption = Interruption(settings.checkpoints.stop_grace_seconds)
    go_on = f"carry on with `mtquant resume {mirror.named(run)}`"
    with (
        interruption.handled(tell),
        interruption.ends_sessions(go_on),
        session(settings, run, address, tell) as machines,
        # Ray has put handlers of its own in the place of the first.
        interruption.handled(tell),
    ):
        readiness = Readiness(run, Path(manifest.market.data), tell)
        attempt = Attempt(run, manifest, machines, readiness, interruption, trust, tell)
        phase_experiment.check(attempt, todo[0], plan_phase(settings, todo[0]))
        manifest.write(run)
        ledger.training_begins(run, manifest)
        with followed(run, settings, tell):
            for phase in todo:
                interruption.raise_if_asked(f"phase {phase} is not done; {go_on}")
                _run_phase(attempt, phase)
        interruption.raise_if_asked(
            f"every phase is done; see what came of it with `mtquant evaluate {mirror.named(run)}`"
        )


def _run_phase(attempt: Attempt, phase: int) -> None:
    run, manifest = attempt.run, attempt.manifest
    settings, record = manifest.load_settings(), manifest.phase(phase)
    plans = plan_phase(settings, phase)
    begin_phase(run, manifest, phase, plans)
    budgets = ", ".join(f"{name} {trial.budget_bars:,}" for name, trial in record.trials.items())
    tell(f"phase {phase}: {budgets} bars")
    for name in trials_without_updates(settings, phase, record):
        tell(
            f"phase {phase} {name} will learn nothing: its budget ends before SAC's first gradient step "
            "(sac.learning_starts_bars, sac.bars_per_gradient_step)"
        )
    began = time.monotonic()
    results = phase_experiment.fit(attempt, phase, plans)
    patience_s = settings.checkpoints.storage_patience_seconds
    with_retries(
        lambda: hand_over(run, phase, record, plans, results), f"what phase {phase} hands over", patience_s, run / FILE
    )
    record.seconds += time.monotonic() - began
    record.status = "done"
    with_retries(lambda: manifest.write(run), str(run / FILE), patience_s)
    best = ", ".join(
        f"{name} {trial.best_sharpe:.2f} at {trial.best_bars:,} bars"
        for name, trial in record.trials.items()
        if trial.best_sharpe is not None and trial.best_bars is not None
    )
    tell(f"phase {phase} done in {clock(record.seconds)}; best validation Sharpe: {best or 'not validated'}")


def trials_without_updates(settings: Settings, phase: int, record: PhaseRecord) -> list[str]:
    """Trials whose budget ends before the first gradient step of an algorithm that collects first."""
    if algorithm_of(settings, phase) != "sac":
        return []
    return [
        name
        for name, trial in record.trials.items()
        if trial.budget_bars < learning_starts_bars(settings, trial.budget_bars) + settings.sac.bars_per_gradient_step
    ]
