"""Runs that take seconds: their settings, and `mtquant` as a person starts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
README_SNIPPET = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
EXTENDING = (ROOT / "docs" / "extending.md").read_text()

SMALL_MARKET = (
    "embedded.train={paths: 2, years: 3}",
    "embedded.validation={paths: 1, years: 3}",
    "embedded.test={paths: 1, years: 3}",
)
SMALL_ATTENTION = (
    "networks.attention.width=16",
    "networks.attention.heads=2",
    "networks.attention.classifier.hidden=[8]",
    "networks.attention.policy_heads.hidden=8",
)
SMALL_SAC = (
    "sac.critic.hidden=[16, 16]",
    "sac.batch_size=16",
    "sac.bars_per_gradient_step=4",
    "sac.rollout_bars=20",
    "sac.learning_starts_bars=40",
)
TINY_CONFIG = """
extends: laptop.yaml
embedded: {train: {paths: 2, years: 3}, validation: {paths: 1, years: 3}, test: {paths: 1, years: 3}}
desk: {episode: {bars: 30}}
training: {phase_1_timesteps: 20000, phase_2_timesteps: 12000, phase_3_timesteps: 40000}
recipe: {algorithms: [sac, ppo, ppo], environments: 4, validations: 4, min_updates: 4}
sac:
  critic: {hidden: [16, 16]}
  batch_size: 16
  bars_per_gradient_step: 4
  rollout_bars: 20
  learning_starts_bars: 40
resources: {cpus: 2}
tracking: {progress_seconds: 0}
"""
"""A hundredth of these budgets: 200 bars a domain, 120, and 400."""

EIGHT = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "WTIUSD", "SPX500", "NAS100", "US30")
SEVEN_DAYS, FIVE_DAYS = np.ones(7, dtype=bool), np.array([True] * 5 + [False] * 2)


def words_of(*overrides: str) -> list[str]:
    """Overrides as words of a command line."""
    return [word for override in overrides for word in ("--set", override)]


def python(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What an interpreter of its own says to these words, in a folder."""
    env = {**os.environ, **variables}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=900)


def mtquant(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as a person starts it."""
    return python(folder, "-m", "mtquant_rllib.cli", *words, **variables)


def written(folder: Path) -> Path:
    """The folder, with the files of docs/extending.md."""
    for file, content in re.findall(r"```\w+\n# (my_\S+)\n(.*?)```", EXTENDING, re.DOTALL):
        (folder / file).write_text(content)
    return folder


def bars_file(folder: Path, symbols: Mapping[str, np.ndarray], years: int = 6) -> Path:
    """Daily bars of random walks: symbol -> the weekdays on which it is traded."""
    rng, first = np.random.default_rng(0), np.datetime64("2012-01-02")
    days = first + np.arange(365 * years)
    weekdays = (days - first).astype(int) % 7
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("timestamp", "open", "high", "low", "close", "volume")
    }
    names: list[str] = []
    for symbol, traded in symbols.items():
        own = days[traded[weekdays]]
        path = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(len(own) + 1)))
        opened, closed = path[:-1], path[1:]
        spread = np.exp(0.004 * np.abs(rng.standard_normal(len(own))))
        parts = (
            own.astype("datetime64[ms]"), opened, np.maximum(opened, closed) * spread,
            np.minimum(opened, closed) / spread, closed, rng.uniform(1e4, 2e4, len(own)),
        )  # fmt: skip
        for name, part in zip(columns, parts):
            columns[name].append(part)
        names += [symbol] * len(own)
    table = {name: np.concatenate(parts) for name, parts in columns.items()}
    pq.write_table(pa.table({**table, "symbol": names}), folder / "bars.parquet")
    return folder / "bars.parquet"


def extended(folder: Path) -> Path:
    """Train and judge a desk with all of docs/extending.md at once: an index in euros and a domain of its own on bars
    from a file, a rule, a reward term and a network, which learns by SAC in phase 2 and by PPO in phase 3."""
    settings: dict[str, Any] = {}
    for file in sorted(written(folder).glob("my_*.yaml")):
        settings = _merged(settings, yaml.safe_load(file.read_text()))
    (folder / "all.yaml").write_text(yaml.safe_dump(settings))
    bars_file(folder, {**dict.fromkeys((*EIGHT, "GER40"), FIVE_DAYS), "BTCUSD": SEVEN_DAYS})
    small = ["recipe.algorithms=[ppo, sac, ppo]", *SMALL_SAC, "desk.episode.bars=30", "recipe.environments=4"]
    small += ["recipe.validations=1", "resources.cpus=2"]
    words = ("--config", "all.yaml", "--market", "bars.parquet", "--run", "all", "--budget-scale", "0.0005")
    for command in (("train", *words, *words_of(*small)), ("evaluate", "all", "--json", "report.json")):
        done = mtquant(folder, *command, PYTHONPATH=python_path(folder))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def python_path(folder: Path) -> str:
    """$PYTHONPATH with a folder before what it has."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    for key in one.keys() & other.keys():
        if isinstance(one[key], dict) and isinstance(other[key], dict):
            both[key] = _merged(one[key], other[key])
    return both
