"""What attention networks look at reaches every tracker at every validation, of a run as a person starts it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import SMALL_ATTENTION, SMALL_MARKET

from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData
from mtquant_rllib.evaluation.regimes.figures import regime_figures
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.registry import build_policy, network_configs
from mtquant_rllib.training.algorithm.attention_tracking import attending
from mtquant_rllib.training.algorithm.validation import make_validator
from mtquant_rllib.training.preparation import prepare
from mtquant_rllib.training.records import module_states
from mtquant_rllib.training.reporting.curve_columns import curve_row
from mtquant_rllib.training.reporting.curve_files import append_row, whole_rows
from mtquant_rllib.training.reporting.weights_and_biases.sections import metrics

SMALL = (*SMALL_MARKET, "embedded.validation={paths: 2, years: 3}", *SMALL_ATTENTION)
ATTENTION = ("attention_entropy", "attention_diversity", "attention_focus")
CLASSIFIER = (
    "classifier_confidence",
    "classifier_transitions",
    "classifier_agreement",
    *(f"classifier_share_{regime.name.lower()}" for regime in Regime),
)
DETECTOR = ("regime_transitions", "regime_confidence", *(f"regime_share_{regime.name.lower()}" for regime in Regime))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.ray
@pytest.mark.slow
def test_curves_progress_and_tensorboard_hold_attention_and_regimes_at_each_validation(watched: Path) -> None:
    run = watched
    rows = rows_of(run / "curves" / "phase_1_forex.csv")
    agent = "forex_specialist"
    named = [f"validation/{agent}/{name}" for name in (*ATTENTION, *CLASSIFIER)] + [f"validation/{n}" for n in DETECTOR]
    for row in rows:
        for name in named:
            assert math.isfinite(float(row[name])), name
        shares = [float(row[f"validation/{agent}/classifier_share_{regime.name.lower()}"]) for regime in Regime]
        assert sum(shares) == pytest.approx(1)
        # Under a confidence that nothing reaches, the global head takes every decision there is: one a bar.
        assert int(row[f"{agent}/sampled_none"]) == 0
        assert int(row[f"{agent}/sampled_unsure"]) > 0
        assert float(row[f"validation/{agent}/fallback_unsure"]) == 1
    assert sum(int(row[f"{agent}/sampled_unsure"]) for row in rows) == int(rows[-1]["bars"]) == 38
    validated = {row["validation_bars"]: row[f"validation/{agent}/attention_entropy"] for row in rows}
    assert len(validated) >= 3
    assert len(set(validated.values())) == len(validated), "figures move as the network learns"

    progress = rows_of(run / "phase_1" / "forex" / "progress.csv")
    assert [row[named[0]] for row in progress] == [row[named[0]] for row in rows]
    events = b"".join(path.read_bytes() for path in (run / "phase_1" / "forex").glob("events.out.tfevents*"))
    for name in (*named, f"env_runners/fallbacks/{agent}/unsure"):
        assert name.encode() in events, name
    log = (run / "run.log").read_text()
    assert "phase 1 forex, bar" in log
    assert f"{agent}: in " in log
    assert "(unsure: no regime is likely enough)" in log


@pytest.fixture(scope="module")
def validated() -> Any:
    """(overrides, phase, domain) -> figures of fresh policies, and the validation split."""

    def validate(*overrides: str, phase: int = 3, domain: str | None = None) -> tuple[dict[str, float], DeskData]:
        settings = Settings.load(overrides=[*SMALL, *overrides])
        data = prepare(settings, None, None).data
        modules = {
            name: {
                f"policy.{key}": value
                for key, value in module_states.as_arrays(build_policy(config).state_dict()).items()
            }
            for name, config in network_configs(settings).items()
        }
        judge = make_validator({"settings": settings, "data": data, "phase": phase, "domain": domain})
        return dict(judge(modules)), DeskData.open(Path(data), "validation")

    return validate


@pytest.mark.slow
def test_regimes_tracked_are_those_of_the_bars_that_were_played(validated: Any) -> None:
    figures, data = validated("networks.names.meta=attention", "tracking.attention_rows=100000")
    labels = np.concatenate([np.asarray(data.features.regime)[s.start : s.stop - 1] for s in data.segments])
    expected = regime_figures(labels).shares
    found = [figures[f"regime_share_{regime.name.lower()}"] for regime in Regime]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert {f"meta_controller/{name}" for name in (*ATTENTION, *CLASSIFIER)} <= set(figures)
    assert not any(name.startswith("forex_specialist") for name in figures)


@pytest.mark.slow
def test_only_agents_that_play_and_attend_are_looked_into(validated: Any) -> None:
    everywhere = [f"networks.names.{level}=attention" for level in ("meta", "specialist", "instrument")]
    figures, _ = validated(*everywhere, "tracking.attention_rows=50", phase=1, domain="equity")
    agents = {name.split("/")[0] for name in figures if "/" in name}
    assert agents == {"equity_specialist", *Settings.load().universe.domain_named("equity").symbols}
    assert attending(Settings.load()) == []
    plain, _ = validated()
    assert not any("/" in name or name.startswith("regime") for name in plain)
    silent, _ = validated("networks.names.meta=attention", "tracking.attention_rows=0")
    assert set(silent) == set(plain)


def test_weights_and_biases_get_the_same_row_over_bars(tmp_path: Path) -> None:
    result = {
        "training_iteration": 1,
        "bars_sampled_lifetime": 640,
        **dict.fromkeys(("bars_per_s", "sampling_bars_per_s", "sampling_s", "learning_s", "validation_s"), 1.0),
        "validation": {"sharpe": 0.5, "bars": 640.0, "meta_controller/attention_entropy": 0.9, "turnover_ann": 20.0},
        "best": {"sharpe": 0.5},
    }
    append_row(tmp_path / "curve.csv", curve_row(result))
    (row,) = map(metrics, whole_rows(tmp_path / "curve.csv"))
    assert (row["bars"], row["iteration"]) == (640, 1)
    assert row["trading/validation_sharpe"] == 0.5
    assert row["attention/validation/meta_controller/attention_entropy"] == 0.9
    assert row["trading/validation/turnover_ann"] == 20
    assert "learning/episode_return" not in row, "there was none"
