"""The bench of the learner's options: what it measures, and what it calls paying."""

from __future__ import annotations

import sys

import pytest
import torch

from mtquant_rllib.bench import learner
from mtquant_rllib.config import Settings
from mtquant_rllib.errors import ConfigError

SMALL = "networks.attention={width: 16, layers: 1, heads: 2, policy_heads: {hidden: 8}, classifier: {hidden: [8]}}"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not tell a peak of memory")
def test_a_peak_of_memory_is_seen_and_starts_over() -> None:
    for megabytes in (64, 32):
        peak = learner._Peak("cpu")
        block = torch.ones(megabytes * 2**18)
        del block
        seen = peak.mb()
        assert seen is not None
        assert megabytes - 2 < seen < megabytes + 16


@pytest.mark.slow
def test_figures_of_both_networks_and_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner, "compiler_error", lambda device: "no compiler")
    sizes = learner.Sizes(rows=32, minibatch=16, repeats=3)
    figures = learner.bench_learner(Settings.load(overrides=[SMALL]), "cpu", sizes)
    assert set(figures["attention"]["rows_per_s"]) == {"float32", "bfloat16", "checkpointing"}
    assert set(figures["plain"]["rows_per_s"]) == {"float32", "bfloat16", "closed_form"}
    assert figures["compiler_error"] == "no compiler"
    for name in ("attention", "plain"):
        own = figures[name]
        for side, windows in own["windows_rows_per_s"].items():
            assert len(windows) == 3
            assert own["rows_per_s"][side] == sorted(windows)[1] > 0
        speeds = own["rows_per_s_over_float32"]
        assert speeds["float32"] == 1.0
        assert own["pays_in_time"] == [
            side for side, speed in speeds.items() if speed >= learner.FASTER and side != "closed_form"
        ]


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        learner.bench_learner(Settings.load(), "cuda", learner.Sizes())
