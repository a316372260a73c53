"""Signals while a session begins: Ray puts handlers of its own in the place of ours, which may lose what they raise."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from mtquant_rllib.training.session.interruption import SIGNALS, Interrupted, Interruption


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert signal.set_wakeup_fd(-1) == -1, "nothing is left watching"


class Removed:
    """What is removed while a signal comes: Python drops whatever is raised meanwhile."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass


def as_ray_does(number: int, frame: object) -> None:
    raise SystemExit(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_end_was_lost_is_answered_all_the_same() -> None:
    interruption, said = Interruption(1.0), list[str]()
    with interruption.handled(said.append), interruption.ends_sessions("go on"):
        ours = signal.signal(signal.SIGTERM, as_ray_does)
        Removed()
        assert interruption.number is None, "its SystemExit was dropped"
        with interruption.handled(said.append):
            assert interruption.number == signal.SIGTERM
        signal.signal(signal.SIGTERM, ours)
    assert len(said) == 1
    assert said[0].startswith("SIGTERM: every trial finishes its update")
    with pytest.raises(Interrupted, match="stopped by SIGTERM; go on"):
        interruption.raise_if_asked("go on")


def session_that_is_ended_by_rays_handler(interruption: Interruption) -> None:
    with interruption.handled(print), interruption.ends_sessions("go on"):
        ours = signal.signal(signal.SIGTERM, as_ray_does)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            signal.signal(signal.SIGTERM, ours)


def test_the_end_that_ray_makes_is_ours() -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM; nothing had begun; go on") as stopped:
        session_that_is_ended_by_rays_handler(Interruption(1.0))
    assert stopped.value.exit_code == 143


def test_a_signal_that_was_answered_is_answered_once() -> None:
    interruption, said = Interruption(1.0), list[str]()
    with interruption.handled(said.append), interruption.ends_sessions("go on"):
        os.kill(os.getpid(), signal.SIGINT)
        with interruption.handled(said.append):
            pass
    assert interruption.number == signal.SIGINT
    assert len(said) == 1
