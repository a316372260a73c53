"""How autograd runs networks: in which precision, with which activations kept, compiled or as they stand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from mtquant_rllib.config.training import LearnerConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention import AttentionEncoder

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Prepared:
    """A network made ready to be run as `options` say.

    Raises
    ------
    ConfigError
        When it is to be compiled and no compiler works here.
    """

    def __init__(self, options: LearnerConfig, device: torch.device, network: nn.Module) -> None:
        self._options, self._device = options, device
        for encoder in recomputing(network):
            encoder.recomputes = options.checkpoint_activations
        if options.compile and (complaint := compiler_complaint(device.type)) is not None:
            raise ConfigError(
                f"learner.compile = true: torch.compile does not work on this machine's {device.type} ({complaint}); "
                "install a C++ compiler such as g++, for a GPU Triton, or set it to false"
            )

    def precision(self) -> AbstractContextManager[object]:
        """Within it matrix products are in the configured precision."""
        if self._options.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, getattr(torch, self._options.precision))

    def compiled(self, forward: Callable[Given, Result]) -> Callable[Given, Result]:
        """The same function; compiled, where that is asked for, when it is first called.

        Batches differ in size by a row: sizes are left open. Networks of other shapes share the code, and past eight of
        them PyTorch would go on uncompiled without a word: each is compiled for itself.
        """
        if not self._options.compile:
            return forward
        # PyTorch's own annotations leave out the last argument.
        compiled: Callable[Given, Result] = torch.compile(forward, dynamic=True, isolate_recompiles=True)  # type: ignore[call-overload]
        return compiled


def asked_for(options: LearnerConfig) -> list[str]:
    """Names of the options that change something."""
    changes = {
        "precision": options.precision != "float32",
        "checkpoint_activations": options.checkpoint_activations,
        "compile": options.compile,
    }
    return [name for name, asked in changes.items() if asked]


def recomputing(network: nn.Module) -> list[AttentionEncoder]:
    """The parts that checkpointing of activations is for."""
    return [module for module in network.modules() if isinstance(module, AttentionEncoder)]


@cache
def compiler_complaint(device_type: str) -> str | None:
    """Why `torch.compile` does not work on a kind of device, in a line; None where it does. Found out by trying."""
    try:
        torch.compile(lambda x: torch.relu(x) + 1.0)(torch.zeros(8, device=device_type))
    except RuntimeError as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return None
