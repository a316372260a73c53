"""Files as people might hold them by mistake: a small corpus of good ones, bent at random, the same for a seed."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TOKENS = (
    *(b"nan", b"inf", b"-inf", b"1e308", b"-1", b"0", b"1e-320", b"1,234", b"1.234.567", b"1.27M", b"9" * 400),
    *(b"2019-02-30", b"0001-01-01", b"9999-12-31", b"2220-01-01", b"20190215 140000", b"1550239200", b"-62135596800"),
    *(b"24:00", b"Z", b"+25:00", b"-05:00", b"T", b"null", b"N/A", b"true", b".", b"-"),
    *(
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b'"',
        b'""',
        b"'",
        b"\\",
        b"#",
        b"sep=;",
    ),
    *(b",", b";", b"\t", b"|", b",,,,", b"|EURUSD=X", b"('Open', 'EURUSD=X')", b"Ticker", b"Price", b"Date", b"^VIX"),
    *(
        b": ",
        b"- ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a ",
        b"*a",
        b"!!int ",
        b"!!python/none",
        b"? ",
        b"<<: ",
        b"%TAG",
        b"---\n",
    ),
    *(
        b".inf",
        b".nan",
        b"1_000",
        b"0o17",
        b"1:30:00",
        b"2019-13-01",
        b"~",
        b"include: 7\n",
        b"extends: x\n",
        b"a" * 70_000,
    ),
)
Mutation = Callable[[bytes, bytes, random.Random], bytes]


def _flip(body: bytes, _: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :]


def _token(body: bytes, _: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body) + 1)
    until = at + rng.choice((0, 0, 1, 5, 20))
    return body[:at] + rng.choice(TOKENS) + body[until:]


def _cell(body: bytes, _: bytes, rng: random.Random) -> bytes:
    """One cell becomes something else."""
    lines = body.split(b"\n")
    row = rng.randrange(len(lines))
    mark = max((b",", b";", b"\t", b"|"), key=lines[row].count)
    cells = lines[row].split(mark)
    cells[rng.randrange(len(cells))] = rng.choice(TOKENS)
    lines[row] = mark.join(cells)
    return b"\n".join(lines)


def _cut(body: bytes, _: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(len(body))]


def _drop(body: bytes, _: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body))
    return body[:at] + body[at + rng.randrange(1, 200) :]


def _repeat(body: bytes, _: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(body))
    part = body[at : at + rng.randrange(1, 300)]
    return body[:at] + part * rng.choice((2, 2, 3, 50)) + body[at + len(part) :]


def _lines(body: bytes, _: bytes, rng: random.Random) -> bytes:
    """Lines change places, are repeated or are gone."""
    lines = body.split(b"\n")
    for _k in range(rng.randrange(1, 4)):
        one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        how = rng.randrange(3)
        if how == 0:
            lines[one], lines[other] = lines[other], lines[one]
        elif how == 1:
            lines.insert(one, lines[other])
        elif len(lines) > 1:
            lines.pop(one)
    return b"\n".join(lines)


def _marks(body: bytes, _: bytes, rng: random.Random) -> bytes:
    one, other = rng.sample((b",", b";", b".", b"\t", b"\n", b"\r", b"-", b":", b" ", b"0"), 2)
    return body.replace(one, other, rng.choice((-1, -1, 1, 7)))


def _splice(body: bytes, other: bytes, rng: random.Random) -> bytes:
    return body[: rng.randrange(len(body) + 1)] + other[rng.randrange(len(other) + 1) :]


TEXT: tuple[Mutation, ...] = (_flip, _token, _token, _cell, _cell, _cut, _drop, _repeat, _lines, _marks, _splice)
BINARY: tuple[Mutation, ...] = (_flip, _flip, _flip, _token, _cut, _drop, _repeat, _splice)


def mutated(corpus: list[bytes], mutations: tuple[Mutation, ...], rng: random.Random) -> bytes:
    """One of the corpus, bent one to four times."""
    body = rng.choice(corpus)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if body:
            body = rng.choice(mutations)(body, rng.choice(corpus), rng)
    return body


def bars_corpus(samples: Path) -> list[bytes]:
    """The sample of every dialect, longer ones with clock times, and packed ones."""
    texts = [path.read_bytes() for path in sorted(samples.iterdir())]
    days = [f"2019-0{m}-{d:02d}" for m in (1, 2, 3) for d in range(1, 29)]
    daily = "".join(f"{day},1.{k:02d}1,1.{k + 2:02d},1.0005,1.{k + 1:02d},{k}\n" for k, day in enumerate(days))
    hourly = "".join(
        f"2019.02.{d:02d}\t{h:02d}:00\t1.1\t1.2\t1.05\t1.1{h:02d}\t{h}\n" for d in (4, 5, 6, 7) for h in range(24)
    )
    german = daily.replace(",", ";").replace(".", ",")
    texts += [f"Date,Open,High,Low,Close,Volume\n{daily}".encode(), f"date;o;h;l;c;v\n{german}".encode()]
    texts += [f"<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\n{hourly}".encode()]
    texts += [texts[0].decode().encode("utf-16"), texts[0].replace(b"\n", b"\r")]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("EURUSD.csv", texts[0])
    return [*texts, gzip.compress(texts[0]), bytes(pa.Codec("zstd").compress(texts[0])), zipped.getvalue()]


def macro_corpus() -> list[bytes]:
    days = [f"2019-0{m}-{d:02d}" for m in (1, 2, 3) for d in range(1, 29)]
    wide = "date,vix,dxy,rate_3m,rate_2y,rate_10y\n" + "".join(f"{day},20,96.5,2.4,2.5,\n" for day in days)
    fred = "observation_date,DGS3MO\n" + "".join(f"{day},{'.' if k % 9 == 0 else 2.4}\n" for k, day in enumerate(days))
    cboe = "DATE,OPEN,HIGH,LOW,CLOSE\n" + "".join(f"{day[5:7]}/{day[8:]}/2019,20,22,19,21\n" for day in days)
    return [wide.encode(), fred.encode(), cboe.encode(), wide.replace(",", ";").replace(".", ",").encode()]


def parquet_corpus() -> list[bytes]:
    rows = {
        "timestamp": pa.array([1_550_000_000_000 + 3_600_000 * k for k in range(60)], pa.timestamp("ms", tz="UTC")),
        "symbol": pa.array(["EURUSD"] * 60),
        **{name: pa.array([price + k / 1e4 for k in range(60)]) for name, price in (("open", 1.1), ("close", 1.1))},
        **{name: pa.array([price + k / 1e4 for k in range(60)]) for name, price in (("high", 1.2), ("low", 1.0))},
        "volume": pa.array(range(60), pa.int64()),
    }
    wide = {"Date": pa.array([17_900 + k for k in range(20)], pa.date32())}
    wide |= {str((p, t)): pa.array([1.1] * 20) for p in ("Open", "High", "Low", "Close") for t in ("EURUSD=X", "^VIX")}
    found = []
    for table in (rows, wide):
        for options in ({}, {"compression": "none"}, {"use_dictionary": False, "data_page_version": "2.0"}):
            sink = io.BytesIO()
            pq.write_table(pa.table(table), sink, **options)
            found.append(sink.getvalue())
    return found


def overrides_corpus(keys: list[str]) -> list[bytes]:
    values = ("1", "0.5", "null", "[a, b]", "{a: 1}", "true", "1e-4", "EURUSD", '"x"', "2019-01-01", ".inf")
    return [f"{key}={values[k % len(values)]}".encode() for k, key in enumerate(keys)]


def manifest_corpus(whole: dict[str, object]) -> list[bytes]:
    return [json.dumps(whole, indent=indent).encode() for indent in (1, None)]
