"""Adam that does not load torch's compiler.

Reaches past PyTorch: it marks the methods of optimisers that its compiler must not trace, and the first call of one
imports the whole compiler, two seconds and 70 MB of every process that learns. Optimisers are never compiled
here, and the methods as written are kept by `functools.wraps` under `__wrapped__`.
"""

from __future__ import annotations

from typing import Any

import torch


def _as_written(method: Any) -> Any:
    """The method without the mark; the method itself where PyTorch has none on it."""
    return getattr(method, "__wrapped__", method)


class EagerAdam(torch.optim.Adam):
    """`torch.optim.Adam`, its methods as they are written: without the mark that keeps the compiler out of them."""

    add_param_group = _as_written(torch.optim.Optimizer.add_param_group)
    load_state_dict = _as_written(torch.optim.Optimizer.load_state_dict)
    state_dict = _as_written(torch.optim.Optimizer.state_dict)
    zero_grad = _as_written(torch.optim.Optimizer.zero_grad)
