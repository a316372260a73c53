"""A last row that is not a bar yet: what a download of today holds besides the finished ones.

Vendors append the running bar, stamped with the moment of the download or of the close; among daily bars that is a
second row of the last date. Its prices still change, so nobody could have traded on them.
"""

from __future__ import annotations

import numpy as np

from mtquant_rllib.market.alignment import usual_step_s
from mtquant_rllib.market.checking.checks import Rows
from mtquant_rllib.market.file_errors import Inspection

_DAY_S = 86_400
_HOUR_S = 3600
_DAILY_S = 20 * _HOUR_S
# Rows before the last that show where bars of the file open.
_LOOK_BACK = 2000
_FEWEST = 4


def without_live_bars(
    rows: Rows, offset_s: np.ndarray | None, names: list[str | None], inspection: Inspection
) -> tuple[Rows, np.ndarray | None]:
    """Refuse a last row that opens where no other does, or drop it where repair is permitted."""
    live = np.zeros(len(rows.timestamps), dtype=bool)
    for code in range(len(names)):
        own = np.flatnonzero(rows.codes == code)
        live[own[-1:]] = _is_live(rows.timestamps[own[-_LOOK_BACK:]])
    found = inspection.judge(
        live,
        "live_bars_dropped",
        "timestamp",
        lambda row: (
            f"the last bar of {names[int(rows.codes[row])]} is stamped {rows.timestamps[row]}, where no other bar "
            "opens: it was running when the file was written"
        ),
        "finished bars; or repair, which drops it",
    )
    if not found:
        return rows, offset_s
    inspection.lines = inspection.lines[~live]
    return rows.take(~live), None if offset_s is None else offset_s[~live]


def _is_live(timestamps: np.ndarray) -> bool:
    """Is the last of these datetime64[s] (R,) off the grid on which all others lie?"""
    if len(timestamps) <= _FEWEST or timestamps[-1] < timestamps[-2]:
        return False
    step_s = usual_step_s(timestamps[:-1])
    if step_s <= 0:
        return False
    grid_s = _DAY_S if step_s >= _DAILY_S else step_s
    places = np.unique(timestamps[:-1].astype(np.int64) % grid_s)
    apart = np.abs(places - timestamps[-1].astype(np.int64) % grid_s)
    apart = np.minimum(apart, grid_s - apart)
    # Daylight saving moves what opens at a local time by an hour.
    if grid_s == _DAY_S:
        return bool(len(places) <= 2 and apart.min() > _HOUR_S)
    return bool(len(places) <= 2 and (apart % _HOUR_S != 0).all())
