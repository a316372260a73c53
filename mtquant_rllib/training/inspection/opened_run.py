"""Reading the manifest of a run that may be damaged, or come from anybody: either it can be used, or one error says why
not."""

from __future__ import annotations

from pathlib import Path

from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError, MtquantError, RunError
from mtquant_rllib.training.curriculum.phases import budget_bars, plan_phase
from mtquant_rllib.training.records.manifest import FILE, Manifest

MALFORMED = (OSError, ValueError, ArithmeticError, AttributeError, KeyError, TypeError, RecursionError)
"""What Python says of a tree of JSON that is not of the expected form, and of paths in it that are none."""


def opened(run: Path) -> tuple[Manifest, Settings]:
    """A run's manifest and settings, whose phases, budgets and paths can be worked with.

    Raises
    ------
    MtquantError
        When the folder is no run, or its manifest or settings are damaged; nothing else.
    """
    try:
        manifest = Manifest.read(run)
        settings = manifest.load_settings()
        for phase, record in manifest.phases.items():
            (run / record.experiment).exists()
            for plan in plan_phase(settings, int(phase)):
                budget_bars(settings, plan, manifest.budget_scale)
    except ConfigError as error:
        raise RunError(f"{run / FILE}: not readable as a manifest of this version: {error}") from error
    except MtquantError:
        raise
    except MALFORMED as error:
        raise RunError(f"{run / FILE}: not readable as a manifest ({type(error).__name__}: {error})") from error
    return manifest, settings
