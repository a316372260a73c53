"""What the bench of complexities says beside its timings: what is stated, what is counted, and what follows."""

from __future__ import annotations

import json

import pytest

from mtquant_rllib.bench.attention import BEYOND, Sizes, Sweep, bench_attention
from mtquant_rllib.bench.power_law import Growth
from mtquant_rllib.commands.bench.networks import attention_lines
from mtquant_rllib.config import Settings


def growth(exponent: float) -> Growth:
    return Growth((1, 2), (1.0, 2.0), exponent, exponent, exponent, exponent)


@pytest.mark.parametrize(
    ("stated", "found", "said"),
    [
        (2.0, 1.9, "as stated"),
        (2.0, 1.2, "within the bound, and slower"),
        (1.0, 1.6, "beyond the bound"),
        (None, 5, ""),
    ],
)
def test_a_statement_holds_or_does_not(stated: float | None, found: float, said: str) -> None:
    assert Sweep("mixing", "tokens", "n^2 d", stated, None, growth(found)).verdict() == said


@pytest.mark.nightly
def test_counts_stand_beside_timings_and_no_bound_is_below_what_is_counted() -> None:
    tiny = Sizes(
        mixed_tokens=(16, 32, 64), mixed_widths=(16, 32, 64), mixed_rows=1, tokens=(4, 8, 16), widths=(32, 64, 128),
        rows=(4, 8, 16), layers=(1, 2, 4), heads=(1, 2, 4), row_held=4, windows=(10, 20, 40), bars=200,
        sac_rows=(16, 32, 64), sac_hidden=(32, 64, 128), split_rows=8, split_calls=1, repeats=1,
    )  # fmt: skip
    figures = bench_attention(Settings.load(overrides=["networks.attention.width=64"]), tiny)
    assert json.loads(json.dumps(figures))["weights_exponent"] == pytest.approx(2)
    sweeps = {(sweep["name"], sweep["over"]): sweep for sweep in figures["sweeps"]}
    assert all(seconds > 0 for sweep in figures["sweeps"] for seconds in sweep["seconds"])
    assert sweeps["network", "rows"]["counted"] == pytest.approx(1)
    assert sweeps["network", "heads"]["counted"] == pytest.approx(0, abs=1e-9)
    assert sweeps["SAC step", "batch"]["counted"] == pytest.approx(1)
    assert 0.5 < sweeps["network", "tokens"]["counted"] < 1.2, "linear layers, not n squared"
    assert 1 < sweeps["network", "width"]["counted"] < 2
    assert 1 < sweeps["SAC step", "hidden"]["counted"] < 2
    assert 1.9 < sweeps["attention layer", "width"]["counted"] <= 2, "four tokens: its linear layers, not its mixing"
    for sweep in sweeps.values():
        if sweep["stated"] is not None and sweep["counted"] is not None:
            assert sweep["counted"] <= sweep["stated"] + 1e-9, sweep["name"]
    lines = list(attention_lines(figures))
    assert len(lines) == len(sweeps) + 6
    beyond = [sweep for sweep in sweeps.values() if sweep["verdict"] == BEYOND]
    assert (lines[-4] == "every stated bound holds") == (not beyond)
    assert all(sweep["name"] in lines[-4] for sweep in beyond)
    assert "attention_mixing" in lines[-3]
    split = figures["heads_over_processes"]
    assert "heads over 2" in lines[-2]
    assert all(seconds > 0 for seconds in split["seconds"].values())
    layer, shared = 4 * (64**2 + 64) + 2 * 64, 64 + 2 * 64
    assert split["parameters"] == {"one": 2 * layer, "several": 2 * (shared + (layer - shared) // 2)}
    assert 0.5 < split["kept_bytes"]["several"] / split["kept_bytes"]["one"] < 0.8, "tokens are everybody's"
