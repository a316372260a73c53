"""Fresh policies of every kind, on a market with all that breaks a ledger."""

from __future__ import annotations

import pytest
from serving_fixtures import SMALL_ATTENTION, Served, served


@pytest.fixture(scope="session")
def desk() -> Served:
    return served("laptop.yaml")


@pytest.fixture(scope="session")
def ensemble() -> Served:
    return served("laptop.yaml", members=3)


@pytest.fixture(scope="session")
def with_reference() -> Served:
    """A desk that departs from a reference policy, as desks on real bars do."""
    return served("laptop.yaml", "reference.where=always", "reference.book=momentum")


@pytest.fixture(scope="session")
def allocator() -> Served:
    return served("allocator.yaml", "allocator.network=plain")


@pytest.fixture(scope="session")
def attentive() -> Served:
    """A desk whose meta-controller and specialists attend."""
    return served("laptop.yaml", *SMALL_ATTENTION, "networks.names={meta: attention, specialist: attention}")
