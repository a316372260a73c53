"""Keys of what an iteration reports (a result, in Tune's words)."""

from __future__ import annotations

TRIAL = "trial"
"""A trial's name; in Tune's configurations too."""
BARS_LIFETIME = "bars_sampled_lifetime"
VALIDATION = "validation"
SHARPE = "sharpe"
AVERAGED_SHARPE = "averaged_sharpe"
EARLY_STOPPED = "early_stopped"
"""Whether the trial ended before its budget, because validation no longer improved."""
FAILURE = "failure"
"""Why the trial ended and must not be started again; absent where it did not."""
ENV_FAULTS = "env_faults"
"""Why environments failed in this iteration, whose bars were then sampled again; absent where none did."""
SYSTEM = "system"
"""How busy the trial keeps what it holds."""
