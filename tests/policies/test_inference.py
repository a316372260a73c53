"""Cheaper answers: how far they move, that breakage still shows, and what is remembered."""

import pytest
import torch
from torch import nn

from mtquant_rllib.config import Settings
from mtquant_rllib.policies.attention.regime_network import Fallback
from mtquant_rllib.policies.inference import Bfloat16Linear, Int8Linear, OutputCache, in_bfloat16, in_int8
from mtquant_rllib.policies.networks import Dense
from mtquant_rllib.policies.registry import build_policy, network_configs, shape_of


def policies(widths, *names):
    """Policies of ordinary size, by level, and observations for them."""
    settings = Settings.load(overrides=names)
    configs = network_configs(settings)
    for module in ("meta_controller", "forex_specialist", "EURUSD"):
        policy = build_policy(configs[module])
        for name, parameter in policy.named_parameters():
            if name.endswith(("head.weight", "last_PAK", "logits.weight", "confidence.weight")):
                nn.init.normal_(parameter, std=0.1)
        yield policy, torch.randn(256, shape_of(configs[module]).observation)


def error_in_spreads(other, mean):
    """Root mean square error of the worst action, in deviations of that action over the rows."""
    return ((other - mean).square().mean(0).sqrt() / mean.std(0)).max()


ATTENTION = [f"networks.names.{level}=attention" for level in ("meta", "specialist", "instrument")]


def test_an_eight_bit_layer_is_within_the_rounding_of_its_weights_and_inputs():
    linear = nn.Linear(64, 32)
    x = torch.randn(5, 7, 64)
    cheap = Int8Linear(linear)
    # Half a step of every weight times the input it meets, and the reverse, at their worst.
    step_w, step_x = linear.weight.abs().amax(1) / 127, x.abs().amax(-1, keepdim=True) / 127
    worst = 0.5 * (x.abs().sum(-1, keepdim=True) * step_w + step_x * linear.weight.abs().sum(1) + 32 * step_x * step_w)
    assert ((cheap(x) - linear(x)).abs() <= worst).all()
    assert cheap(x).shape == (5, 7, 32)
    exact = nn.Linear(2, 1, bias=False)
    exact.weight.data = torch.tensor([[127.0, -3.0]])
    assert Int8Linear(exact)(torch.tensor([[127.0, 1.0], [0.0, 0.0]])).flatten().tolist() == [127.0**2 - 3, 0.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("kind", [Int8Linear, Bfloat16Linear])
def test_a_broken_row_stays_broken_and_alone(kind, bad):
    x = torch.randn(3, 8)
    x[1, 2] = bad
    finite = kind(nn.Linear(8, 4))(x).isfinite()
    assert not finite[1].any()
    assert finite[[0, 2]].all()


@pytest.mark.parametrize(("convert", "tolerance"), [(in_int8, 0.03), (in_bfloat16, 0.01)])
def test_plain_means_move_by_a_small_share_of_their_spread_and_deviations_not_at_all(convert, tolerance, widths):
    # Seen over three seeds: .019 and .005 at most.
    for policy, obs in policies(widths):
        cheap = convert(policy)
        assert not any(isinstance(module, Dense) for module in cheap.modules())
        mean, log_std = policy(obs).detach().chunk(2, dim=-1)
        other, other_log_std = cheap(obs).chunk(2, dim=-1)
        assert 0 < error_in_spreads(other, mean) < tolerance
        assert torch.equal(other_log_std, log_std)
        assert other.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize(("convert", "tolerance", "nearby"), [(in_int8, 0.1, 0.03), (in_bfloat16, 0.03, 0.01)])
def test_attention_policies_move_little_where_the_same_heads_answer(convert, tolerance, nearby, widths):
    # Seen over three seeds: errors of .066 and .017, confidences moved by .018 and .006 at most.
    for policy, obs in policies(widths, *ATTENTION):
        obs[0, 0] = torch.nan
        cheap, dear = convert(policy).output(obs), policy.output(obs)
        assert cheap.fallback_B[0] == dear.fallback_B[0] == Fallback.NOT_FINITE
        same = cheap.fallback_B == dear.fallback_B
        assert 0 < error_in_spreads(cheap.logits_BA[same], dear.logits_BA[same].detach()) < tolerance
        assert (cheap.confidence_B - dear.confidence_B).abs().max() < nearby
        # The confidence below which the global head answers alone is a step: rows beside it may fall on either side.
        assert ((dear.confidence_B[~same] - 0.3).abs() < nearby).all()
        assert same.float().mean() > 0.98


def test_eight_bit_weights_take_about_a_quarter_of_the_memory(widths):
    policy, _ = next(policies(widths, *ATTENTION))
    size = lambda module: sum(item.nbytes for item in module.state_dict().values())  # noqa: E731
    assert size(in_int8(policy)) / size(policy) == pytest.approx(0.26, abs=0.01)
    assert size(in_bfloat16(policy)) / size(policy) == pytest.approx(0.51, abs=0.01)


def test_a_remembered_answer_is_the_same_to_the_bit_however_it_is_batched(widths):
    policy, obs = next(policies(widths, *ATTENTION))
    cache = OutputCache(policy, max_rows=100)
    first = cache.output(obs[:8])
    again = cache.output(obs[[3, 3, 0, 20]])
    assert (cache.hits, cache.misses) == (3, 9)
    for part, same in zip(first, again):
        assert torch.equal(same[:3], part[[3, 3, 0]])
    fresh = policy.output(obs[:8], need_weights=True)
    for part, same in zip(fresh, first):
        torch.testing.assert_close(same, part.detach(), rtol=1e-5, atol=1e-5)


def test_no_rows_are_answered_by_none(widths):
    policy, obs = next(policies(widths, *ATTENTION))
    answer = OutputCache(policy, max_rows=3).output(obs[:0])
    assert answer.logits_BA.shape == (0, 4)


def test_the_same_new_row_twice_in_a_batch_is_computed_once(widths):
    policy, obs = next(policies(widths, *ATTENTION))
    cache = OutputCache(policy, max_rows=100)
    answer = cache.output(obs[[5, 5, 5]])
    assert cache.misses == 1
    assert torch.equal(answer.logits_BA[0], answer.logits_BA[2])


def test_the_answers_not_asked_for_longest_are_forgotten(widths):
    policy, obs = next(policies(widths, *ATTENTION))
    cache = OutputCache(policy, max_rows=2)
    for row in (0, 1, 0, 2):  # 1 goes
        cache.output(obs[[row]])
    assert len(cache) == 2
    misses = cache.misses
    cache.output(obs[[0, 2]])
    assert cache.misses == misses
    cache.output(obs[[1]])
    assert cache.misses == misses + 1
    assert cache.output(obs[:6]).logits_BA.shape == (6, 4)  # more than it keeps


def test_learning_after_the_copy_reaches_none_of_them(widths):
    policy, obs = next(policies(widths, *ATTENTION))
    copies = [in_int8(policy), in_bfloat16(policy)]
    cache = OutputCache(policy, max_rows=10)
    before = [cheap(obs[:2]) for cheap in copies]
    for parameter in policy.parameters():
        nn.init.normal_(parameter)
    assert all(torch.equal(cheap(obs[:2]), then) for cheap, then in zip(copies, before))
    assert not torch.allclose(cache.output(obs[:2]).logits_BA, policy.mean(obs[:2]))
