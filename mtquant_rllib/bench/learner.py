"""Rows a second and peak memory of PPO's update under each option of section `learner`, beside plain float32.

Two networks, each run by autograd: `attention` (one module of each level, all of them attention networks, with their
auxiliary losses) and `plain` (all twelve modules, as three stacks; they have no attention layers to recompute). On a
CPU the closed form, which plain networks have there, stands beside them. Rows are drawn at random; an update is what
`StackLearner.learn` does with them: forward, loss, backward, clip, Adam.

    rows_per_s     rows that went through an update in a second, over all modules
    peak_mb        memory on top of what stood before the update, at its peak; null where the system does not tell
    first_s        seconds of the first update, which is thrown away; a compiler's work is in it

The sides take turns. An option pays in time or in memory by the ratios of medians in `FASTER` and `SMALLER`.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtquant_rllib.bench.interleaving import interleaved
from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.config.settings import Settings
from mtquant_rllib.engine.learning.backprop import AutogradBackprop
from mtquant_rllib.engine.learning.distributed import LearnerRanks
from mtquant_rllib.engine.learning.execution_options import compiler_error
from mtquant_rllib.engine.learning.ppo.update import StackLearner, minibatch_indices
from mtquant_rllib.engine.learning.stacks import ModuleStack, module_stacks
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.modules import module_specs
from mtquant_rllib.training.algorithm.hyperparameters import Hyperparameters

FASTER, SMALLER = 1.05, 0.9
"""Rows a second and peak memory over float32's from which, or up to which, an option pays."""

PLAIN_ROWS = 16

BASELINE, CLOSED_FORM, CHECKPOINTING, COMPILED = "float32", "closed_form", "checkpointing", "compile"
OPTIONS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "bfloat16": {"precision": "bfloat16"},
    CHECKPOINTING: {"checkpoint_activations": True},
    COMPILED: {"compile": True},
}
_AS_THEY_STAND = {"precision": "float32", "checkpoint_activations": False, "compile": False}

ATTENTION = {"meta": "attention", "specialist": "attention", "instrument": "attention"}
PLAIN = {"meta": "meta", "specialist": "specialist", "instrument": "instrument"}


@dataclass(frozen=True)
class Sizes:
    """rows: of each attention network in an update, and `PLAIN_ROWS` times as many of each plain one, which takes a
    hundredth of the time; minibatch: of each module in a step; repeats: updates of each side."""

    rows: int = 1024
    minibatch: int = 512
    repeats: int = 5


@dataclass(frozen=True)
class Window:
    seconds: float
    peak_mb: float | None


def bench_learner(settings: Settings, device: str, sizes: Sizes) -> Mapping[str, Any]:
    """Figures of both networks; see the module's docstring.

    Raises
    ------
    ConfigError
        When there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU on this machine; expected cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "attention": _compare(settings, ATTENTION, device, sizes),
            "plain": _compare(settings, PLAIN, device, sizes),
            "compiler_error": compiler_error(device),
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "torch_threads": 1,
            "sizes": vars(sizes),
        }
    finally:
        torch.set_num_threads(before)


def _compare(settings: Settings, names: Mapping[str, str], device: str, sizes: Sizes) -> dict[str, Any]:
    tree = settings.model_dump(mode="json")
    tree["networks"]["names"] = dict(names)
    settings = Settings.model_validate(tree)
    universe = settings.universe
    modules: Sequence[str] = universe.policies(settings.networks.sharing)
    if names == ATTENTION:
        # Every one of them is a stack of its own, and those of a level are alike.
        modules = (modules[0], universe.specialists[0], modules[-1])
    plain = settings.learner.model_copy(update=_AS_THEY_STAND)
    sides = {name: partial(plain.model_copy, update=changed) for name, changed in OPTIONS.items()}
    if compiler_error(device) is not None:
        del sides[COMPILED]
    if names == PLAIN:
        del sides[CHECKPOINTING]
        sizes = replace(sizes, rows=PLAIN_ROWS * sizes.rows)
    runs: dict[str, Callable[[], Window]] = {
        name: _update_of(settings, modules, options(), device, sizes) for name, options in sides.items()
    }
    if names == PLAIN and device == "cpu":
        runs[CLOSED_FORM] = _update_of(settings, modules, None, device, sizes)
    first: dict[str, float] = {}
    windows = interleaved({name: partial(_noted, run, name, first) for name, run in runs.items()}, sizes.repeats)
    n_rows = len(modules) * sizes.rows
    speed = {name: [n_rows / window.seconds for window in own] for name, own in windows.items()}
    peaks = {name: [window.peak_mb for window in own] for name, own in windows.items()}
    memory = {name: statistics.median(known) for name, own in peaks.items() if (known := [x for x in own if x])}
    median = {name: statistics.median(own) for name, own in speed.items()}
    faster = {name: own / median[BASELINE] for name, own in median.items()}
    smaller = {name: own / memory[BASELINE] for name, own in memory.items()}
    options = [name for name in OPTIONS if name != BASELINE and name in runs]
    return {
        "rows_per_s": median,
        "windows_rows_per_s": speed,
        "peak_mb": {name: memory.get(name) for name in runs},
        "first_s": first,
        "rows_per_s_over_float32": faster,
        "peak_mb_over_float32": smaller,
        "pays_in_time": [name for name in options if faster[name] >= FASTER],
        "pays_in_memory": [name for name in options if smaller.get(name, 1.0) <= SMALLER],
        "modules": list(modules),
    }


def _noted(run: Callable[[], Window], name: str, first: dict[str, float]) -> Window:
    window = run()
    first.setdefault(name, window.seconds)
    return window


def _update_of(
    settings: Settings, names: Sequence[str], options: LearnerConfig | None, device: str, sizes: Sizes
) -> Callable[[], Window]:
    """An update of modules of its own, drawn alike for every side; `options` None runs the closed form."""
    torch.manual_seed(settings.seed)
    built: Any = module_specs(settings, only=names).build()
    modules = {name: built[name].to(device) for name in names}
    rng = np.random.default_rng(settings.seed)
    jobs = []
    for stack in module_stacks(modules):
        optimizers = {name: torch.optim.Adam(modules[name].parameters(), fused=True) for name in stack.names}
        plain = settings.learner.model_copy(update=_AS_THEY_STAND)
        learner = StackLearner(stack, optimizers, _coefficients(settings, stack), LearnerRanks(1).new_group(), plain)
        if options is not None:
            learner.backprop = AutogradBackprop(stack, options)
        learner.load()
        jobs.append((learner, [_rows(module, sizes.rows, rng) for module in stack.modules]))

    def update() -> Window:
        parts = [
            [minibatch_indices(sizes.rows, 1, sizes.minibatch, rng) for _ in module_columns]
            for _, module_columns in jobs
        ]
        peak = _Peak(device)
        began = time.perf_counter()
        for (learner, module_columns), own in zip(jobs, parts):
            learner.learn(module_columns, [0] * len(module_columns), own, 1, settings.seed)
        if device == "cuda":
            torch.cuda.synchronize()
        return Window(time.perf_counter() - began, peak.mb())

    return update


def _coefficients(settings: Settings, stack: ModuleStack) -> dict[str, torch.Tensor]:
    recipe = settings.recipe
    numbers = {
        "clip_param": Hyperparameters.of(settings).clip_range,
        "vf_clip_param": recipe.vf_clip,
        "vf_loss_coeff": 1.0,
        "entropy_coeff": recipe.entropy_coeff,
        "grad_clip": recipe.grad_clip,
    }
    return {name: torch.full((len(stack), 1), number, device=stack.device) for name, number in numbers.items()}


def _rows(module: Any, n_rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Columns of `StackLearner`, as a policy at its start would have left them: the old one is the new one."""
    shape, log_std = module.policy.shape, module.policy.log_std().detach().cpu().numpy()
    action = rng.normal(0.0, np.exp(log_std), (n_rows, shape.actions))
    mean = np.zeros_like(action)
    log_prob = (-0.5 * (action / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1, keepdims=True)
    columns = [
        rng.normal(size=(n_rows, shape.observation)),
        action,
        np.concatenate((mean, np.broadcast_to(log_std, mean.shape)), axis=1),
        log_prob,
        rng.normal(size=(n_rows, 1)),
        rng.normal(size=(n_rows, 1)),
    ]
    if module.policy.has_auxiliary_losses:
        columns.append(rng.integers(len(Regime), size=(n_rows, 1)))
    return [column.astype(np.float32) for column in columns]


class _Peak:
    """Memory from now on, at its largest, over what there is now."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before: float | None = torch.cuda.memory_allocated() / 2**20
        else:
            self._before = _start_over_resident()

    def mb(self) -> float | None:
        if self._before is None:
            return None
        largest = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else _resident("VmHWM")
        return largest - self._before


def _start_over_resident() -> float | None:
    """Give back what is free and let Linux count the peak from here; resident memory now, MB. None elsewhere."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return None


def _resident(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}")
