"""How a file is read: its clock, the marks of its numbers, its columns and its layout. Values stand in
`configs/dialects.yaml` and `configs/market.yaml`."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from mtquant_rllib.config.base import NUMBER, Count, Fraction, Section

_FIXED = re.compile(r"^(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?$")
_FURTHEST_H = 14
_SHIFTED = re.compile(r"^(.*?)\s*([+-])\s*(\d{1,2})$")


def parse_timezone(text: str) -> tuple[ZoneInfo, float]:
    """(zone, hours the broker's clock is ahead of it) of a name.

    Accepted: an IANA name (`Europe/Athens`), a fixed offset (`UTC+2`, `+02:00`), or a place and a shift, as servers
    that follow New York's daylight saving are usually described: `New York+7` is midnight at 17:00 New York.
    Raises ValueError.
    """
    name = text.strip()
    if fixed := _FIXED.match(name):
        ahead_h = int(fixed[2]) + int(fixed[3] or 0) / 60
        if ahead_h > _FURTHEST_H:
            raise ValueError(f"{text!r} is no time zone: no clock is further than {_FURTHEST_H} hours from UTC")
        return ZoneInfo("UTC"), ahead_h if fixed[1] == "+" else -ahead_h
    shift_h = 0.0
    if (shifted := _SHIFTED.match(name)) and not name.startswith("Etc/"):
        name, shift_h = shifted[1], float(shifted[2] + shifted[3])
    for candidate in (name, f"America/{name.replace(' ', '_')}", f"Europe/{name.replace(' ', '_')}"):
        try:
            return ZoneInfo(candidate), shift_h
        except (KeyError, ValueError, OSError):
            continue
    raise ValueError(f"{text!r} is no time zone; expected UTC, Europe/Athens, New York+7 or UTC+2")


def _checked_timezone(text: str) -> str:
    parse_timezone(text)
    return text


def _power_of_ten(value: int) -> int:
    if value != 10 ** (len(str(value)) - 1):
        raise ValueError(f"{value} is no power of ten; expected 1000, 1000000, ...")
    return value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


Timezone = Annotated[str, AfterValidator(_checked_timezone)]
Pattern = Annotated[str, AfterValidator(_pattern)]
DecimalMark = Literal[".", ","]
ThousandsMark = Literal[".", ",", "'", " ", "_", "none"]
PowerOfTen = Annotated[int, Field(ge=1, le=10**12), AfterValidator(_power_of_ten), NUMBER]
Multipliers = dict[Annotated[str, Field(pattern=r"^[A-Za-z]{1,3}$")], PowerOfTen]


class FileOptions(Section):
    """What a file does not say about itself. None: read it from the file, else the market's or instrument's setting.

    decimal, thousands
        Marks of its numbers; None: told by all its cells, and asked for where they do not tell.
    multipliers
        Letters behind a volume and what each stands for: `{K: 1000}` reads 1.5K as 1500.
    """

    symbol: str | None = None
    timezone: Timezone | None = None
    scale: Count | None = None
    date_format: str | None = None
    decimal: DecimalMark | None = None
    thousands: ThousandsMark | None = None
    multipliers: Multipliers | None = None

    @model_validator(mode="after")
    def _marks_differ(self) -> FileOptions:
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}; expected two different marks")
        return self


class ColumnNames(Section):
    """Accepted headers of each role, best first; case, `<>`, blanks, dots, dashes and underscores do not matter."""

    timestamp: tuple[str, ...]
    date: tuple[str, ...]
    time: tuple[str, ...]
    symbol: tuple[str, ...]
    open: tuple[str, ...]
    high: tuple[str, ...]
    low: tuple[str, ...]
    close: tuple[str, ...]
    volume: tuple[str, ...]


class DialectConfig(Section):
    """A layout of files: how to know it, what its header lines say, and what is true of all files in it.

    header
        What each line above the bars holds, one word a line: `name` a column's name, `price` and `ticker` the two
        levels of a table with a column for each price of each ticker (in either order), `skip` nothing of use. None at
        all: a file without a header.
    files
        Patterns of file names, one of which must fit; none: any name.
    first_line
        Regular expression that must be found in the first line that is no comment; None: any.
    separator
        Of its cells; None: the one found.
    columns
        Names by position, where no header line names them; none: told by what the first cells look like.
    joined
        Regular expression with groups `price` and `ticker` for a header line whose names hold both ("Open_EURUSD=X").
    options
        What is so in all files of the layout, such as the time zone of who wrote it.
    """

    header: tuple[Literal["name", "price", "ticker", "skip"], ...]
    files: tuple[str, ...] = ()
    first_line: Pattern | None = None
    separator: Literal["\t", ";", "|", ","] | None = None
    columns: tuple[str, ...] = ()
    joined: Pattern | None = None
    options: FileOptions = FileOptions()

    @model_validator(mode="after")
    def _fits_together(self) -> DialectConfig:
        levels = tuple(level for level in self.header if level != "skip")
        if levels not in ((), ("name",), ("price", "ticker"), ("ticker", "price")):
            raise ValueError(f"header names {', '.join(levels)}; expected one of name, or price and ticker, or neither")
        if "skip" in self.header and not (self.first_line or self.files):
            raise ValueError("a header with lines to skip needs first_line or files to know it by")
        if self.joined is not None and (
            levels != ("name",) or {"price", "ticker"} - set(re.compile(self.joined).groupindex)
        ):
            raise ValueError("joined needs the header [name] and the groups (?P<price>...) and (?P<ticker>...)")
        return self


class ClockConfig(Section):
    """How a clock is recognised by the weeks of its timestamps, and by agreement with a file whose clock is known.

    candidates
        Clocks that are tried, the likeliest first.
    min_weekends
        Weekends that a file must have to be judged.
    fits_frac, margin_frac, tie_frac
        A clock fits if so many openings, or closings, lie on the session's times; a file is told of one that fits by
        this much better, on the mean of both, than the clock it was read as; clocks within the last share of the best
        are named beside it.
    furthest_lag_h, min_common
        Hours that timestamps are moved by in search of agreement; bars that must coincide to be compared.
    """

    candidates: tuple[Timezone, ...]
    min_weekends: Count
    fits_frac: Fraction
    margin_frac: Fraction
    tie_frac: Fraction
    furthest_lag_h: Annotated[int, Field(ge=1, le=24), NUMBER]
    min_common: Count
