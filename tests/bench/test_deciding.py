"""What `mtquant bench decide` measures is what it says, in numbers that fit together."""

from __future__ import annotations

import pytest
from markets import smooth
from replayed import lively

from mtquant_rllib.agents.groups import agent_groups
from mtquant_rllib.bench.decide import Sizes, bench_decide
from mtquant_rllib.commands.bench.deciding import decide_lines
from mtquant_rllib.config import Settings
from mtquant_rllib.env.prepared.data import DeskData


@pytest.mark.slow
def test_a_decision_is_measured_whole_and_in_parts_and_in_a_process_without_ray() -> None:
    settings = Settings.load("laptop.yaml")
    market = smooth(settings)[0]
    policies = lively(settings, DeskData.of(settings, [market]))
    figures = bench_decide(policies, market, Sizes(decisions=6, appended=2, batch=8))
    assert figures["every_close_ms"]["n"] == 6
    assert figures["decision_ms"]["n"] == 2, "the meta-controller decides at every fifth close"
    assert figures["appended_ms"]["n"] == 2
    assert figures["appended_ms"]["p50"] > figures["every_close_ms"]["p50"]
    parts = sum(times["p50"] for times in figures["parts_ms"].values())
    assert 0.5 * parts < figures["decision_ms"]["p50"] < 1.5 * parts
    assert set(figures["forward_ms"]) == {group.name for group in agent_groups(settings)}
    assert figures["batch"]["decisions_per_s"] > 0
    assert figures["process"]["ray"] is False
    assert figures["process"]["peak_rss_mb"] > 100
    assert figures["process"]["decision"].startswith(policies.fingerprint)
    assert len(list(decide_lines(figures))) > 10
