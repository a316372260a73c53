"""Columns of others, a few bars late: `features.others_lag_bars`.

What an instrument's own bars say is seen at once. What instruments of other domains and macro series say can be seen
later, by so many rows of the common axis: a network then finds fewer chance relations between what one market did and
what another one did on the same bar (DeePM, arXiv 2601.05975, which delays all assets but the one that is traded). The
lag is built into the table of features, so that whatever reads a row of it, in training and live, sees the same.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.config import Settings
from mtquant_rllib.features.layout import (
    DOMAIN_COLUMNS,
    OWN_DOMAIN_COLUMNS,
    PER_INSTRUMENT,
    READS_MACRO,
    ROLES_READ,
    domain_columns,
)
from mtquant_rllib.universe import Domain


def of_others(domain: Domain, settings: Settings, macro_columns: set[str]) -> np.ndarray:
    """Which columns of a domain read a macro series or an instrument of another domain, bool (width,).

    Columns of one's own (`features.own.domains`) may read anything and count as of others, as do built-in ones whose
    place a macro column of the same name takes.
    """
    told: list[bool] = []
    built_in = DOMAIN_COLUMNS.get(domain.name, OWN_DOMAIN_COLUMNS)
    for column in domain_columns(domain, settings):
        roles = {getattr(settings.features.roles, role) for role in ROLES_READ.get(column, ())}
        foreign = column not in built_in or column in READS_MACRO or not roles <= set(domain.symbols)
        if column.endswith(PER_INSTRUMENT):
            told += [foreign] * len(domain.symbols)
        else:
            told.append(foreign or column in macro_columns)
    return np.array(told)


def delayed(values: np.ndarray, bars: int) -> np.ndarray:
    """Rows (T, ...) of `bars` rows ago; the first ones repeat the first, or are False where they say what is known."""
    if bars == 0:
        return values
    out = np.empty_like(values)
    out[:bars] = False if values.dtype == bool else values[:1]
    out[bars:] = values[: max(len(values) - bars, 0)]
    return out
