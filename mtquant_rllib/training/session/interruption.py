"""What ends an experiment early: a signal, or nodes that were lost.

SIGINT and SIGTERM while trials run: the first lets every trial finish its present update and write a checkpoint, the
second ends the process at once.

Tune asks a `Stopper` after every result whether a trial should stop, and writes a checkpoint of one that does. So the
signal handler only takes a note, and this stopper hands it on. Where a node is lost that a trial was bound to, the
trials that run end the same way, and the phase goes on once it has been placed anew.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from ray import tune

from mtquant_rllib.errors import MtquantError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(MtquantError):
    """Training was stopped by a signal. `exit_code` is the shell's for it: 130 after SIGINT, 143 after SIGTERM."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption(tune.Stopper):
    """Whether a signal has asked the experiment to stop.

    grace_s: how long trials have for the update that they are in, in seconds; after it they are stopped where they are,
    and the run goes on from the checkpoint before.
    """

    def __init__(self, grace_s: float) -> None:
        self.grace_s = grace_s
        self.number: int | None = None
        self.node_lost = False
        self._since = 0.0
        self._running: set[str] = set()
        self._arrivals: int | None = None
        """Of a pipe into which Python writes the number of every signal, whoever handles it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Interruption:
        """The same object: Tune copies what it is configured with, and the signal handler holds this one."""
        return self

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._running.add(trial_id)
        return self._asked

    @property
    def _asked(self) -> bool:
        return self.number is not None or self.node_lost

    def ended(self, trial_id: str) -> None:
        """Record that a trial has ended."""
        self._running.discard(trial_id)

    def stop_all(self) -> bool:
        """Stop what is left: trials that have not begun, or that did not come to an end of their update in time."""
        if not self._asked:
            return False
        return not self._running or time.monotonic() - self._since > self.grace_s

    def ask(self, number: int) -> None:
        self.number, self._since = number, time.monotonic()

    def lose_node(self) -> None:
        """Stop the experiment because a node is lost that trials are bound to."""
        if not self._asked:
            self.node_lost, self._since = True, time.monotonic()

    def begin_anew(self) -> None:
        """Forget lost nodes and trials: another experiment starts."""
        self.node_lost = False
        self._running.clear()

    def raise_if_asked(self, how_to_go_on: str) -> None:
        """Raises Interrupted when a signal has come."""
        if self.number is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.number).name}; {how_to_go_on}", self.number)

    @contextlib.contextmanager
    def handled(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Answer the signals inside this block, where this is the main thread; elsewhere they are left as they are."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def answer(number: int, frame: FrameType | None) -> None:
            if self.number is not None:
                sys.stdout.flush()
                os._exit(128 + number)
            self.ask(number)
            tell(
                f"{signal.Signals(number).name}: every trial finishes its update and writes a checkpoint; "
                "once more stops at once"
            )

        before = {number: signal.signal(number, answer) for number in SIGNALS}
        missed = self._arrived()
        if missed and self.number is None:
            answer(missed[0], None)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def ends_sessions(self, go_on: str) -> Iterator[None]:
        """Turn the end that Ray's own handler of SIGTERM makes, while its session begins, into ours. Where that end was
        lost, since it was raised while an object was being removed, the next `handled` answers the signal."""
        with self._watched():
            try:
                yield
            except SystemExit as end:
                if end.code == signal.SIGTERM:
                    self.ask(signal.SIGTERM)
                    self.raise_if_asked(f"nothing had begun; {go_on}")
                raise

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._arrivals, into = os.pipe()
        for end in (self._arrivals, into):
            os.set_blocking(end, False)
        before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(into)
            os.close(self._arrivals)
            self._arrivals = None

    def _arrived(self) -> list[int]:
        """Signals that have come since `ends_sessions` began, or since this was asked last."""
        if self._arrivals is None:
            return []
        try:
            return [number for number in os.read(self._arrivals, 4096) if number in SIGNALS]
        except BlockingIOError:
            return []
