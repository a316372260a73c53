"""The environments of a process fail now and then while they are sampled.

FAULTY_HOW: raises | reward | equity; FAULTY_EVERY: so many steps apart.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

HOW, EVERY = os.environ["FAULTY_HOW"], int(os.environ["FAULTY_EVERY"])
DESK = "mtquant_rllib.env.trading"
SAMPLER = os.path.join("engine", "sampling", "runner.py")

_steps = [0]


def faulty(desk: type[Any]) -> None:
    advance = desk.advance

    def failing(self: Any) -> Any:
        result = advance(self)
        if not sys._getframe(1).f_code.co_filename.endswith(SAMPLER):
            return result
        _steps[0] += 1
        if _steps[0] % EVERY == 0:
            print(f"FAULT {HOW} {_steps[0]}", flush=True)
            if HOW == "raises":
                raise OSError("the feed is gone")
            if HOW == "reward":
                result.rewards[0, -1] = float("nan")
            else:
                self.book.equity[0] = float("inf")
        return result

    desk.advance = failing


class Patching(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the module of the desk as ever, and patches its class once it is loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != DESK:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        self.loader = spec.loader
        spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        for item in list(vars(module).values()):
            if isinstance(item, type) and "advance" in vars(item):
                faulty(item)


sys.meta_path.insert(0, Patching())
