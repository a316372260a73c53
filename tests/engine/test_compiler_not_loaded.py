"""No process of a training loads torch's compiler, which costs each two seconds and 70 MB, unless it compiles; and
what stands in for the calls that would load it does the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import ROOT, python, python_path

from mtquant_rllib.engine import rllib_seeding
from mtquant_rllib.engine.learning.eager_adam import EagerAdam
from mtquant_rllib.engine.rllib_seeding import seeding_without_compiler

PROGRAM = Path(__file__).with_name("compiler_program.py")


@pytest.mark.ray
@pytest.mark.slow
def test_neither_trials_nor_runners_load_the_compiler(tmp_path: Path) -> None:
    done = python(tmp_path, str(PROGRAM), str(tmp_path), PYTHONPATH=python_path(ROOT / "tests"))
    said = [line for line in done.stdout.splitlines() if line.startswith(("forex", "equity"))]
    assert said == [
        "forex: runners [[]] trial [] mode 1",
        "equity: runners [[]] trial [] mode 1",
    ], done.stdout[-2000:] + done.stderr[-3000:]


@pytest.fixture
def mode() -> object:
    before = torch.get_deterministic_debug_mode()
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize(("wanted", "warn_only"), [(True, False), (True, True), (False, False)])
def test_seeding_sets_the_mode_that_torch_s_own_function_sets(
    wanted: bool, warn_only: bool, mode: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Callable[..., None] = torch.use_deterministic_algorithms
    whole(wanted, warn_only=warn_only)
    expected = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0 if wanted else 2)
    monkeypatch.setattr(rllib_seeding, "COMPILER", "never_loaded")
    with seeding_without_compiler():
        assert torch.use_deterministic_algorithms is not whole
        torch.use_deterministic_algorithms(wanted, warn_only=warn_only)
    assert torch.get_deterministic_debug_mode() == expected
    assert torch.use_deterministic_algorithms is whole


def test_a_compiler_that_is_loaded_is_told_by_torch_s_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rllib_seeding, "COMPILER", "torch")
    whole = torch.use_deterministic_algorithms
    with seeding_without_compiler():
        assert torch.use_deterministic_algorithms is whole


def test_its_adam_is_torch_s() -> None:
    """Steps, states and reloaded states, to the last bit."""
    torch.manual_seed(0)
    start = torch.randn(7)
    results = []
    for kind in (torch.optim.Adam, EagerAdam):
        x = start.clone().requires_grad_()
        optimizer = kind([x], lr=0.1, eps=1e-5)
        for _ in range(3):
            optimizer.zero_grad()
            (x**2).sum().backward()
            optimizer.step()
        again = kind([x], lr=0.5)
        again.load_state_dict(optimizer.state_dict())
        again.add_param_group({"params": [torch.zeros(2, requires_grad=True)]})
        results.append((x.detach(), again.state_dict()))
    (x, state), (own_x, own_state) = results
    assert torch.equal(x, own_x)
    assert str(state) == str(own_state)


@pytest.mark.slow
def test_its_adam_loads_no_compiler_before_its_first_step() -> None:
    check = (
        "import sys, torch; from mtquant_rllib.engine.learning.eager_adam import EagerAdam;"
        "one = EagerAdam([torch.zeros(2, requires_grad=True)]); one.zero_grad(); one.load_state_dict(one.state_dict());"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
