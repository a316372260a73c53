"""`Objective`: what the networks of a stack are trained for on one minibatch.

Its loss is the definition. Networks that run by autograd are stepped along autograd's gradient of that loss; plain ones
run by the chain rule (`fast_path`), from gradients in closed form, which tests hold to autograd's.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Objective(Protocol):
    """A loss of what networks put out."""

    def loss(self, *outputs: Tensor) -> Tensor:
        """The sum of the networks' losses, scalar, differentiable in the outputs."""

    def gradients(self, *outputs: Tensor) -> tuple[Tensor, ...]:
        """Its gradient by each output, in closed form."""
