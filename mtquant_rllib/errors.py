"""The project's own exceptions: each tells the person what was wrong, where, and what would be accepted."""

from __future__ import annotations


class MtquantError(Exception):
    """Base of every error this project raises on purpose. The command line prints it without a traceback and ends with
    `exit_code`: 2 where something was refused before it began."""

    exit_code = 2


class ConfigError(MtquantError):
    """A setting that is unknown, malformed or cannot be honoured."""


class MarketDataError(MtquantError):
    """A bar file, or a set of them, that cannot be used as it is."""


class RunError(MtquantError):
    """A run folder that is missing, incomplete or belongs to other settings."""


class TrainingFailed(RunError):
    """Training that had begun and could not go on; what it had reached is kept."""

    exit_code = 1


class DivergedPolicyError(MtquantError):
    """A policy whose answer is not a finite number, to observations that are: no environment is to blame."""


class EnvironmentFailed(TrainingFailed):
    """An environment that fails again and again from the same state: starting again would not help."""
