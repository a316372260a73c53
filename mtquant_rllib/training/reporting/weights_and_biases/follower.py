"""Keeps W&B a copy of a run: what stands in the run's folder and W&B does not have yet is logged.

Where the service cannot be used, or ends, it says so once and begins again offline.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtquant_rllib.training.curriculum.phases import TrialPlan, plan_phase
from mtquant_rllib.training.records.manifest import Manifest
from mtquant_rllib.training.records.manifest_file import FILE
from mtquant_rllib.training.reporting.curve_files import ITERATION, curve_of, whole_rows
from mtquant_rllib.training.reporting.weights_and_biases import artifacts, evaluations, sending
from mtquant_rllib.training.reporting.weights_and_biases.identity import Identity, identity_of
from mtquant_rllib.training.reporting.weights_and_biases.sections import metrics
from mtquant_rllib.training.reporting.weights_and_biases.session import (
    KEPT_OFFLINE,
    OFFLINE,
    Mode,
    Unreachable,
    begin,
    end_service,
    first_line,
    newest_iteration,
    service_processes,
)
from mtquant_rllib.training.reporting.weights_and_biases.transaction_log import FOLDER, Logged, files_of

_LOCK = "follower.lock"
_ENDED = "its service has ended"


@dataclass
class Follower:
    """What of a run W&B has, and the W&B runs that are open.

    Parameters
    ----------
    mode
        Of `wandb.init`; offline from where the service cannot be used, which is said by `say`.
    """

    run: Path
    mode: Mode
    say: Callable[[str], None]
    patience_s: float = math.inf
    """How long the service may take to answer, `tracking.wandb.connect_seconds` at most."""
    _manifest: Manifest | None = None
    _trials: list[tuple[TrialPlan, Identity]] = field(default_factory=list)
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _logged: dict[str, Logged] = field(default_factory=dict)
    _open: dict[str, Any] = field(default_factory=dict)
    _not_taken: set[str] = field(default_factory=set)
    """W&B runs whose earlier files the service did not take, which was said."""
    _service: int | None = None
    _over: bool = False
    """It has begun anew once."""

    def look(self) -> None:
        """Log what is new; raises whatever fails a second time."""
        self._surely(self._look)

    def finish(self) -> None:
        """Log what is new, and close what is open then: its trial is not done."""
        self._surely(self._finish)

    def _surely(self, work: Callable[[], None]) -> None:
        """Do it, offline from the first failure on: the service could not be used, or has ended."""
        try:
            work()
        except Exception as error:
            if self._over:
                raise
            self.say(kept_offline(self._why(error)))
            end_service()
            self._over, self.mode, self._service = True, OFFLINE, None
            # What was logged, its files say.
            for known in (self._seen, self._logged, self._open):
                known.clear()
            self._look()
            work()

    def _why(self, error: Exception) -> str:
        if self._service_ended():
            return _ENDED
        said = first_line(error)
        return said if isinstance(error, Unreachable) else f"{type(error).__name__}: {said}"

    def _look(self) -> None:
        self._expect_service()
        changed = self._changed(self.run / FILE)
        if changed:
            self._manifest = Manifest.read(self.run)
            self._trials = _trials(self._manifest)
        for plan, identity in self._trials:
            grown = self._changed(curve_of(self.run, plan.phase, plan.name))
            if changed or grown:
                self._follow(plan, identity)
        for report in evaluations.reports(self.run):
            if self._changed(report):
                self._follow_evaluation(report)

    @property
    def manifest(self) -> Manifest:
        assert self._manifest is not None
        return self._manifest

    def _finish(self) -> None:
        for wandb_id in list(self._open):
            self.close(wandb_id, exit_code=1)

    def logged_of(self, wandb_id: str) -> Logged:
        """What a W&B run has logged, kept up to date here."""
        if wandb_id not in self._logged:
            self._logged[wandb_id] = sending.logged_of(self.run, wandb_id)
        return self._logged[wandb_id]

    def opened(self, identity: Identity) -> Any:
        """The W&B run of this identity, begun or carried on."""
        if identity.id not in self._open:
            begun = self._open[identity.id] = self._begun(identity)
            if not begun.offline:
                # What the service has, whatever became of the files that told it.
                logged_run = self.logged_of(identity.id)
                logged_run.sent = max(logged_run.sent, newest_iteration(begun))
            self._service = self._service or next(iter(service_processes()), None)
        return self._open[identity.id]

    def _begun(self, identity: Identity) -> Any:
        config = self.manifest.load_settings().tracking.wandb
        patience_s = min(config.connect_seconds, self.patience_s)
        return begin(self.run, identity, config, self._mode_of(identity.id), patience_s)

    def _mode_of(self, wandb_id: str) -> Mode:
        """Online only once what an earlier attempt kept offline is sent: steps of one W&B run follow one another."""
        if self.mode == OFFLINE:
            return OFFLINE
        patience_s = min(self.manifest.load_settings().tracking.wandb.connect_seconds, self.patience_s)
        sending.send(self.run, sending.unsent(self.run, wandb_id), quiet=True, patience_s=patience_s)
        if not sending.unsent(self.run, wandb_id):
            return self.mode
        if wandb_id not in self._not_taken:
            self._not_taken.add(wandb_id)
            self.say(kept_offline(f"{wandb_id}: what was kept offline before was not taken in {patience_s:.0f} s"))
        return OFFLINE

    def close(self, wandb_id: str, *, exit_code: int = 0) -> None:
        if wandb_id not in self._open:
            return
        ending = self._open.pop(wandb_id)
        ending.finish(exit_code=exit_code)
        self._expect_service()
        self.logged_of(wandb_id).finished = exit_code == 0
        if not ending.offline:
            sending.mark_sent(self.run, files_of(self.run, wandb_id)[-1])

    def _follow(self, plan: TrialPlan, identity: Identity) -> None:
        done, logged_run = self.manifest.phase(plan.phase).status == "done", self.logged_of(identity.id)
        for row in whole_rows(curve_of(self.run, plan.phase, plan.name)):
            number = int(row[ITERATION])
            if number > logged_run.last:
                begun = self.opened(identity)
                # The service may have it already.
                if number > logged_run.last:
                    begun.log(metrics(row))
                    logged_run.iterations.append(number)
        if logged_run.last:
            self._uses(identity, plan, logged_run)
        if done and logged_run.last:
            self._log_policies(identity, plan, logged_run)
            if not logged_run.finished:
                self.opened(identity)
            self.close(identity.id)

    def _follow_evaluation(self, report: Path) -> None:
        """An evaluation that cannot be read costs its own rows alone; it may be in the middle of being replaced."""
        try:
            evaluations.follow(self.run, self.manifest, report, self)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._expect_service()
            self.say(f"evaluation {report.parent.name} is left out: {type(error).__name__}: {first_line(error)}")

    def _uses(self, identity: Identity, plan: TrialPlan, logged_run: Logged) -> None:
        """Say what a trial was made from: the market, and the policies it began with."""
        manifest = self.manifest
        sources: list[tuple[str, str, Callable[[], Any]]] = [
            (artifacts.market_name(manifest), "latest", lambda: artifacts.market(manifest))
        ]
        for before in artifacts.handed_over(manifest, plan.phase):
            name = artifacts.policies_name(manifest, before.name)
            sources.append((name, f"phase_{before.phase}", lambda b=before: artifacts.policies(self.run, manifest, b)))  # type: ignore[misc]
        for name, alias, made in sources:
            if f"{name}:{alias}" not in logged_run.used and (artifact := made()) is not None:
                artifacts.use(self.opened(identity), artifact, [alias])
                logged_run.used.add(f"{name}:{alias}")

    def _log_policies(self, identity: Identity, plan: TrialPlan, logged_run: Logged) -> None:
        """Log the policies that a phase kept of a trial."""
        manifest = self.manifest
        named = f"{artifacts.policies_name(manifest, plan.name)}:phase_{plan.phase}"
        if named in logged_run.artifacts or (made := artifacts.policies(self.run, manifest, plan)) is None:
            return
        self.opened(identity).log_artifact(made, aliases=artifacts.aliases(manifest, plan))
        logged_run.artifacts.add(named)

    def _changed(self, path: Path) -> bool:
        """Whether a file is another than at the last look."""
        try:
            found = path.stat()
        except OSError:
            return False
        stat = found.st_mtime_ns, found.st_size
        before, self._seen[path] = self._seen.get(path), stat
        return before != stat

    def _expect_service(self) -> None:
        if self._service_ended():
            raise Unreachable(_ENDED)

    def _service_ended(self) -> bool:
        return self._service is not None and self._service not in service_processes()


def _trials(manifest: Manifest) -> list[tuple[TrialPlan, Identity]]:
    """The trials that have begun, phase by phase."""
    settings = manifest.load_settings()
    begun = [phase for phase in sorted(map(int, manifest.phases)) if manifest.phase(phase).trials]
    plans = [plan for phase in begun for plan in plan_phase(settings, phase)]
    return [(plan, identity_of(manifest, plan)) for plan in plans if plan.name in manifest.phase(plan.phase).trials]


@contextlib.contextmanager
def sole(run: Path) -> Iterator[bool]:
    """Whether no other process writes to this run's W&B files; none will meanwhile."""
    (run / FOLDER).mkdir(exist_ok=True)
    with open(run / FOLDER / _LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def kept_offline(why: str) -> str:
    return f"{why}; {KEPT_OFFLINE}"
