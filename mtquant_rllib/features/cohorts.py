"""Instruments that are listed in the middle of a history: what is computed over all of them is computed over those that
are there.

Instruments that begin within a month of each other are one cohort. A quantity of all instruments (covariance,
correlation, the regime) is taken over everybody as soon as it is known of everybody, and before that over those that
were there earlier, in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_ONE_COHORT_ROWS = 20


@dataclass(frozen=True)
class ListingCohorts:
    """When the instruments of a history begin.

    of
        Number of each instrument's cohort, (n,), the first being 0.
    members
        Of each cohort: the instruments that are there from then on, int (k,), earlier ones included.
    """

    of: np.ndarray
    members: tuple[np.ndarray, ...]

    @classmethod
    def find(cls, valid: np.ndarray) -> ListingCohorts:
        """From masks (T, P, n); an instrument begins where it has begun in every history."""
        starts = valid.argmax(axis=0).max(axis=0)
        number, of = -1, np.zeros(len(starts), dtype=np.int64)
        begun = -1
        for instrument in np.argsort(starts, kind="stable"):
            if number < 0 or starts[instrument] > begun + _ONE_COHORT_ROWS:
                number, begun = number + 1, int(starts[instrument])
            of[instrument] = number
        return cls(of, tuple(np.flatnonzero(of <= cohort) for cohort in range(number + 1)))

    def since_the_first(self, instruments: Sequence[int]) -> bool:
        """Whether all of these instruments are there from the first cohort on."""
        return bool((self.of[list(instruments)] == 0).all())

    def filled(self, compute: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """A quantity of all instruments, and from which rows it is known of those of each cohort.

        Parameters
        ----------
        compute
            The quantity (T, P, ...) of the instruments given, in the layout of all of them; NaN where it is not known.

        Returns
        -------
        values
            (T, P, ...): of the latest cohort of which it is known, NaN before the first.
        known
            bool (T, P, cohorts).
        """
        values, known = None, []
        for members in reversed(self.members):
            own = compute(members)
            there = ~np.isnan(own).reshape(*own.shape[:2], -1).any(axis=-1)
            there = np.logical_or.accumulate(there, axis=0)
            known.append(there)
            if values is None:
                values = own
            else:
                missing = ~known[-2]
                values[missing] = own[missing]
        assert values is not None
        return values, np.stack(known[::-1], axis=-1)
