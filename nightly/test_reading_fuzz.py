"""Whatever is handed to the readers is read or refused with an error of our own: no traceback, no crash, no hang.

Twenty thousand inputs, drawn from a corpus of good files by random mutations (the same for a seed), and as many values
as hypothesis likes to draw. What is accepted must satisfy what bars and series promise. Each reader runs in a process
of its own, so that a crash in a library is counted like any other fault; inputs at fault are kept in a folder.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mtquant_rllib.config import Settings
from mtquant_rllib.config.loader import apply_overrides, read_tree, validate
from mtquant_rllib.errors import MtquantError

SEED = 17
SECONDS = 20
"""An input that takes longer hangs."""
SAMPLES = Path(__file__).resolve().parents[1] / "tests" / "market" / "samples"
DEFAULT = read_tree("default.yaml")
SETTINGS = validate(Settings, DEFAULT, "default.yaml")


class _Hang(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise _Hang


def _violations_of_bars(found: Any) -> list[str]:
    """What bars promise and these do not keep."""
    wrong = []
    for one in found.series:
        prices, volume = one.bars[:, :4], one.bars[:, 4]
        negative = SETTINGS.symbols[one.symbol].allow_non_positive
        checks = {
            "prices are finite": np.isfinite(prices).all(),
            "volume is a count or absent": (np.isnan(volume) | (np.isfinite(volume) & (volume >= 0))).all(),
            "prices are positive": negative or (prices > 0).all(),
            "high is the highest": (prices[:, 1] >= prices.max(axis=1)).all(),
            "low is the lowest": (prices[:, 2] <= prices.min(axis=1)).all(),
            "timestamps increase": (np.diff(one.timestamps) > np.timedelta64(0)).all(),
            "timestamps are between 1970 and 2100": (one.timestamps >= np.datetime64("1970")).all()
            and (one.timestamps < np.datetime64("2100")).all(),
            "daily timestamps are dates": not one.daily
            or (one.timestamps == one.timestamps.astype("datetime64[D]")).all(),
        }
        wrong += [f"{one.symbol}: not so: {name}" for name, holds in checks.items() if not holds]
    if found.macro is not None:
        dates, values = found.macro.dates, found.macro.values
        if not (np.diff(dates) > np.timedelta64(0)).all() or np.isinf(values).any():
            wrong.append("macro: dates increase, values are finite or absent")
    return wrong


def _import(name: str, folder: Path, body: bytes, rng: random.Random) -> list[str]:
    from mtquant_rllib.market.importing.importers import import_paths

    path = folder / name
    path.write_bytes(body)
    return _violations_of_bars(import_paths(path, SETTINGS, repair=rng.random() < 0.5))


def _bars(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    return _import(rng.choice(("EURUSD.csv", "DAT_ASCII_GOLD_M1.csv", "prices.txt", "USOIL.zip")), folder, body, rng)


def _parquet(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    return _import("EURUSD.parquet", folder, body, rng)


def _macro(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    return _import(rng.choice(("macro.csv", "vix.csv", "DGS3MO.csv")), folder, body, rng)


def _violations_of_settings(settings: Settings) -> list[str]:
    """Settings that were accepted can be written out and read again as the same."""
    again = validate(Settings, settings.model_dump(mode="json"), "again")
    return [] if again == settings else ["settings written out read back differently"]


def _yaml(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    path = folder / "mine.yaml"
    path.write_bytes(body)
    return _violations_of_settings(Settings.load(path))


def _set(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    override = body.decode("utf-8", errors="replace")
    return _violations_of_settings(validate(Settings, apply_overrides(DEFAULT, [override]), "--set"))


def _manifest(folder: Path, body: bytes, rng: random.Random) -> list[str]:
    from mtquant_rllib.training.records.manifest import BACKUP, FILE, Manifest

    run = folder / "run"
    run.mkdir(exist_ok=True)
    for name in (FILE, BACKUP):
        (run / name).write_bytes(body if rng.random() < 0.7 else b"")
    Manifest.read(run, trust=rng.random() < 0.5).load_settings()
    return []


def _written_manifest() -> dict[str, object]:
    from mtquant_rllib.training.records.manifest import FILE, Manifest, MarketRecord

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        Manifest.begin("run", SETTINGS, MarketRecord(kind="synthetic", data="x"), 1.0, [1]).write(run)
        found: dict[str, object] = json.loads((run / FILE).read_text())
        return found


def _keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += _keys(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return found


Attempt = Callable[[Path, bytes, random.Random], list[str]]
READERS: dict[str, tuple[Attempt, Callable[[], list[bytes]], tuple[mutations.Mutation, ...], int]] = {
    "bars": (_bars, lambda: mutations.bars_corpus(SAMPLES), mutations.TEXT, 8000),
    "parquet": (_parquet, mutations.parquet_corpus, mutations.BINARY, 4000),
    "macro": (_macro, mutations.macro_corpus, mutations.TEXT, 3000),
    "settings files": (
        _yaml,
        lambda: [path.read_bytes() for path in sorted((SAMPLES.parents[2] / "configs").glob("*.yaml"))],
        mutations.TEXT,
        1500,
    ),
    "--set": (_set, lambda: mutations.overrides_corpus(_keys(DEFAULT)), mutations.TEXT, 2500),
    "manifests": (_manifest, lambda: mutations.manifest_corpus(_written_manifest()), mutations.TEXT, 1000),
}
"""Reader -> how it is tried, its corpus, the mutations, and how many inputs."""


def _inputs(name: str, begin: int, n: int, kept: Path, said: Path) -> None:
    """Try inputs `begin` to `n` of one reader, a line of JSON each in `said`."""
    attempt, corpus, ways, _ = READERS[name]
    seeds = corpus()
    signal.signal(signal.SIGALRM, _alarm)
    with said.open("a") as log, tempfile.TemporaryDirectory() as folder:
        for number in range(begin, n):
            rng = random.Random(f"{SEED} {name} {number}")
            body = mutations.mutated(seeds, ways, rng)
            (kept / "current").write_bytes(body)
            signal.alarm(SECONDS)
            try:
                wrong = attempt(Path(folder), body, rng)
                outcome, what = ("violations", "; ".join(wrong)) if wrong else ("accepted", "")
            except MtquantError:
                outcome, what = "refused", ""
            except _Hang:
                outcome, what = "hangs", ""
            except BaseException:
                outcome, what = "tracebacks", traceback.format_exc()
            finally:
                signal.alarm(0)
            if outcome not in ("accepted", "refused"):
                (kept / f"{number}").write_bytes(body)
            log.write(json.dumps([number, outcome, what]) + "\n")
            log.flush()


def fuzz(name: str, n: int, kept: Path) -> tuple[Counter[str], list[str]]:
    """(outcomes counted, what went wrong in words) of the first `n` inputs of one reader."""
    kept.mkdir(parents=True, exist_ok=True)
    said = kept / "said.jsonl"
    rows: list[list[Any]] = []
    crashed = []
    while len(rows) + len(crashed) < n:
        process = multiprocessing.get_context("fork").Process(
            target=_inputs, args=(name, len(rows) + len(crashed), n, kept, said)
        )
        process.start()
        process.join()
        rows = [json.loads(line) for line in said.read_text().splitlines()] if said.exists() else []
        if len(rows) + len(crashed) < n:
            crashed.append(f"{len(rows) + len(crashed)}: the process ended with {process.exitcode}")
    counts = Counter(outcome for _, outcome, _ in rows)
    counts["crashes"] = len(crashed)
    bad = [f"{number}: {outcome}: {what}" for number, outcome, what in rows if outcome not in ("accepted", "refused")]
    return counts, [*bad, *crashed]


@pytest.mark.parametrize("name", READERS)
def test_every_input_is_accepted_or_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n = READERS[name][3]
    counts, wrong = fuzz(name, n, tmp_path / "kept")
    with capsys.disabled():
        print(f"\n{name}: {n} inputs, {json.dumps(counts)}")
    assert not wrong, f"inputs in {tmp_path / 'kept'}:\n" + "\n".join(wrong[:20])
    # A fuzz in which nothing is accepted, or nothing refused, tries nothing.
    assert counts["accepted"] > n / 100
    assert counts["refused"] > n / 100


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@hypothesis_settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(_keys(DEFAULT)), VALUES)
def test_any_value_of_any_setting_is_accepted_or_refused(key: str, value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    try:
        found = validate(Settings, apply_overrides(DEFAULT, [f"{key}={text}"]), "--set")
    except MtquantError:
        return
    assert not _violations_of_settings(found)


@hypothesis_settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(st.text(max_size=12), max_size=8), max_size=12), st.sampled_from(",;\t|"), st.booleans())
def test_any_table_of_text_is_accepted_or_refused(rows: list[list[str]], mark: str, repair: bool) -> None:
    from mtquant_rllib.market.importing.importers import import_paths

    text = "Date,Open,High,Low,Close\n".replace(",", mark) + "\n".join(mark.join(row) for row in rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "EURUSD.csv"
        path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        try:
            found = import_paths(path, SETTINGS, repair=repair)
        except MtquantError:
            return
        assert not _violations_of_bars(found)
