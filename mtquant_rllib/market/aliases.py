"""Which instrument a broker, a data vendor or a file name means: GOLD, XAUUSD.m, US500.cash, ^GSPC, EUR_USD,
EURUSD60."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

_TOKEN = re.compile(r"[^0-9A-Za-z^=/]+")
# Below this length what is left without a suffix is too short to mean something (CLZ is a month, not CL with a suffix).
_MIN_STEM = 4
_PERIOD = re.compile(r"^(.*?)(?:M1|M5|M15|M30|H1|H4|D1|1|5|15|30|60|240|1440)$")


def plain(text: str) -> str:
    """Upper case, letters and digits only: the form in which names are compared."""
    return re.sub(r"[^0-9A-Z]", "", text.upper())


@dataclass(frozen=True)
class NameBook:
    """Aliases to names. Names of equal plain form must mean the same thing."""

    by_plain: dict[str, str]
    suffixes: tuple[str, ...]
    compound: frozenset[str]
    """Plain forms of aliases written with a separator (EUR_USD), which a file name may write with another."""

    @classmethod
    def of(cls, aliases: Mapping[str, Iterable[str]], suffixes: Iterable[str] = ()) -> NameBook:
        """From name -> its aliases. Every name is its own alias, and wins over another's alias."""
        book = {plain(alias): name for name, others in aliases.items() for alias in others}
        book |= {plain(name): name for name in aliases}
        compound = {plain(alias) for others in aliases.values() for alias in others if not alias.isalnum()}
        return cls(book, tuple(plain(suffix) for suffix in suffixes), frozenset(compound))

    def find(self, label: str) -> str | None:
        """The name a label means: exactly, else without one of the suffixes brokers append. Separators do not
        matter."""
        bare = plain(label)
        if (found := self.by_plain.get(bare)) is not None:
            return found
        for suffix in self.suffixes:
            stem = bare.removesuffix(suffix)
            if stem != bare and len(stem) >= _MIN_STEM and (found := self.by_plain.get(stem)) is not None:
                return found
        return None

    def find_in_file_name(self, stem: str) -> list[str]:
        """Names that occur in a file's stem, without repeats; more than one means that the stem cannot decide.

        The whole stem first, then pairs of its parts (EUR_USD), then single parts, then parts without a period
        (EURUSD60).
        """
        if (whole := self.by_plain.get(plain(stem))) is not None:
            return [whole]
        parts = [part for part in _TOKEN.split(stem) if part]
        pairs = [first + second for first, second in pairwise(parts)]
        # Two parts are one name only where that name is written with a separator, not where chance glues them together.
        found = [self.by_plain[plain(pair)] for pair in pairs if plain(pair) in self.compound]
        if not found:
            found = [name for part in parts if (name := self.by_plain.get(plain(part)))]
        if not found:
            bare = [match[1] for part in parts if (match := _PERIOD.match(part.upper()))]
            found = [name for part in (*bare, *parts) if (name := self.find(part))]
        return list(dict.fromkeys(found))
