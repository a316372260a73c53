"""Section `learner` of the settings on networks that run by autograd: precision, activation checkpointing,
compilation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from mtquant_rllib.config.sections.training import LearnerConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention.self_attention import AttentionEncoder

Given = ParamSpec("Given")
Result = TypeVar("Result")


class NetworkExecution:
    """Runs a network as `options` say.

    Raises
    ------
    ConfigError
        When it is to be compiled and no compiler works here.
    """

    def __init__(self, options: LearnerConfig, device: torch.device, network: nn.Module) -> None:
        self._options, self._device = options, device
        for encoder in checkpointed_encoders(network):
            encoder.recomputes = options.checkpoint_activations
        if options.compile and (error := compiler_error(device.type)) is not None:
            raise ConfigError(
                f"learner.compile = true: torch.compile does not work on this machine's {device.type} ({error}); "
                "install a C++ compiler such as g++, for a GPU Triton, or set it to false"
            )

    def precision(self) -> AbstractContextManager[object]:
        """A context in which matrix products have the configured precision."""
        if self._options.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, self._options.precision))

    def compiled(self, forward: Callable[Given, Result]) -> Callable[Given, Result]:
        """The function, compiled at its first call where the options say so.

        Sizes are dynamic, because batches differ by a row. Recompilations are isolated: networks of other shapes share
        the code, and beyond eight of them PyTorch would silently run uncompiled.
        """
        if not self._options.compile:
            return forward
        # Tells the compiler too; until it is needed, none is loaded (`engine.rllib_seeding`).
        torch.use_deterministic_algorithms(True, warn_only=True)
        # PyTorch's own annotations leave out the last argument.
        compiled: Callable[Given, Result] = torch.compile(forward, dynamic=True, isolate_recompiles=True)  # type: ignore[call-overload]
        return compiled


def changed_options(options: LearnerConfig) -> list[str]:
    """Names of the options that are not at their neutral value."""
    changes = {
        "precision": options.precision != "float32",
        "checkpoint_activations": options.checkpoint_activations,
        "compile": options.compile,
    }
    return [name for name, changed in changes.items() if changed]


def checkpointed_encoders(network: nn.Module) -> list[AttentionEncoder]:
    """The parts to which activation checkpointing applies."""
    return [module for module in network.modules() if isinstance(module, AttentionEncoder)]


@cache
def compiler_error(device_type: str) -> str | None:
    """The first line of the error that `torch.compile` raises on a kind of device; None where it works. Tries it."""
    try:
        torch.compile(lambda x: torch.relu(x) + 1.0)(torch.zeros(8, device=device_type))
    except RuntimeError as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
