"""Who trades what: instruments, domains, agents and the mapping from agents to policies.

This is data, not behaviour. The three domains differ by the rows of a table (`configs/agents.yaml`) and the eight
instruments by the rows of another (`configs/symbols.yaml`); no class exists per domain or per instrument, so a ninth
instrument is a row and its bars.

Order matters and lives here: every array in the project with an instrument axis follows `Universe.symbols`, which
groups the instruments of a domain contiguously, so that a domain is a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

META = "meta_controller"
ALLOCATOR = "allocator"
INSTRUMENTS = "instruments"
"""Name of the group of the instruments' agents, and of the module that all of them may share."""
JOINT = "desk"
"""Name of a trial that plays every domain."""
SPECIALIST_SUFFIX = "_specialist"


class Sharing(StrEnum):
    """Which instrument agents share one policy module."""

    NONE = "none"
    DOMAIN = "domain"
    ALL = "all"


@dataclass(frozen=True)
class Domain:
    """One specialist's field: its name and its instruments, in order."""

    name: str
    symbols: tuple[str, ...]

    @property
    def specialist(self) -> str:
        return f"{self.name}{SPECIALIST_SUFFIX}"


@dataclass(frozen=True)
class Universe:
    """The desk's table of domains. Instrument axis = `symbols`, domain axis = `domains`, in this order everywhere.

    allocates
        One agent, the allocator, weighs all instruments; there is no hierarchy.
    """

    domains: tuple[Domain, ...]
    allocates: bool = False

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        return tuple(symbol for domain in self.domains for symbol in domain.symbols)

    @cached_property
    def n_instruments(self) -> int:
        return len(self.symbols)

    @cached_property
    def n_domains(self) -> int:
        return len(self.domains)

    @cached_property
    def specialists(self) -> tuple[str, ...]:
        if self.allocates:
            return ()
        return tuple(domain.specialist for domain in self.domains)

    @cached_property
    def agent_ids(self) -> tuple[str, ...]:
        """Meta-controller, specialists, instruments: the order of decision, and of every agent axis. Or the allocator
        alone."""
        if self.allocates:
            return (ALLOCATOR,)
        return (META, *self.specialists, *self.symbols)

    @cached_property
    def domain_slices(self) -> tuple[slice, ...]:
        """One slice of the instrument axis per domain."""
        slices, start = [], 0
        for domain in self.domains:
            slices.append(slice(start, start + len(domain.symbols)))
            start += len(domain.symbols)
        return tuple(slices)

    @cached_property
    def domain_of(self) -> tuple[int, ...]:
        """Domain index of each instrument, shape (n_instruments,)."""
        return tuple(d for d, domain in enumerate(self.domains) for _ in domain.symbols)

    def domain_named(self, name: str) -> Domain:
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise KeyError(f"no domain {name!r}; the domains are {', '.join(d.name for d in self.domains)}")

    def policy_of(self, agent_id: str, sharing: Sharing = Sharing.NONE) -> str:
        """Module id that serves an agent. Instruments may share one module per domain, or one for all eight."""
        if agent_id not in self.symbols or sharing is Sharing.NONE:
            return agent_id
        if sharing is Sharing.ALL:
            return INSTRUMENTS
        return f"{self.domains[self.domain_of[self.symbols.index(agent_id)]].name}_{INSTRUMENTS}"

    def policies(self, sharing: Sharing = Sharing.NONE) -> tuple[str, ...]:
        """Module ids without repeats, in the order of `agent_ids`."""
        return tuple(dict.fromkeys(self.policy_of(agent, sharing) for agent in self.agent_ids))

    def restricted(self, symbols: Sequence[str]) -> Universe:
        """The universe of some of these instruments, grouped by their domains; a domain without any is left out.

        Raises
        ------
        KeyError
            For an instrument that no domain has.
        """
        if unknown := [symbol for symbol in symbols if symbol not in self.symbols]:
            raise KeyError(f"no instrument {', '.join(unknown)}; the instruments are {', '.join(self.symbols)}")
        domains = (
            Domain(domain.name, tuple(symbol for symbol in domain.symbols if symbol in symbols))
            for domain in self.domains
        )
        return replace(self, domains=tuple(domain for domain in domains if domain.symbols))

    def allocated(self, assets: Sequence[str]) -> Universe:
        """The universe of an allocator over some of these instruments. Raises KeyError as `restricted` does."""
        return replace(self.restricted(assets), allocates=True)

    @classmethod
    def from_specialists(cls, specialists: Mapping[str, object]) -> Universe:
        """From the `specialists` table of `configs/agents.yaml` (domain name -> row with instruments); a domain without
        any is left out."""
        domains = (Domain(name, tuple(row.instruments)) for name, row in specialists.items())  # type: ignore[attr-defined]
        return cls(tuple(domain for domain in domains if domain.symbols))
