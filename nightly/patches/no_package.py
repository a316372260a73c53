"""A Python in which this project is not installed."""

from __future__ import annotations

import sys
from typing import Any


class Missing:
    def find_spec(self, name: str, *rest: Any) -> None:
        if name.split(".")[0] == "mtquant_rllib":
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Missing())
