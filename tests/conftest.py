"""How the tests are shared out where several processes run them (`make test`)."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that start a Ray session run in one process, one after the other: a session takes the machine as its own,
    and some look at what it leaves behind."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
