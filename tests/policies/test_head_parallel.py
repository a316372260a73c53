"""Heads over two processes: every number is that of the unsplit network, and one reduction less would show."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.attention import AttentionConfig
from mtquant_rllib.errors import ConfigError
from mtquant_rllib.policies.attention.head_parallel import HeadShard, heads_per_process, split_heads, unsplit_state_dict
from mtquant_rllib.policies.attention.regime_network import RegimeNetwork
from mtquant_rllib.policies.attention.self_attention import AttentionEncoder, SelfAttention
from mtquant_rllib.policies.networks import GroupedShape

pytestmark = pytest.mark.slow

PROCESSES = 2
WIDTHS = (3, 2, 3, 2)
SHAPE = GroupedShape(tuple((f"group_{g}", width) for g, width in enumerate(WIDTHS)), actions=5)
LAYER = "layers.1.attention"

CASES = {
    "even": (4, torch.float64),
    "uneven": (3, torch.float64),
    "float32": (4, torch.float32),
}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Of float32, beside numbers around 1; gradients, which are sums over rows, beside their largest."""


@cache
def config_of(heads: int) -> AttentionConfig:
    sizes = (f"width={4 * heads}", f"heads={heads}", "layers=2", "feedforward=20", "classifier.hidden=[8]")
    return Settings.load(overrides=[f"networks.attention.{size}" for size in sizes]).networks.attention


def filled(network: nn.Module, dtype: torch.dtype, seed: int) -> Any:
    """No bias is left at its first value, 0: one that is added twice would not show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    return network.to(dtype)


def encoder_of(case: str, seed: int = 0) -> AttentionEncoder:
    heads, dtype = CASES[case]
    return filled(AttentionEncoder(WIDTHS, config_of(heads)), dtype, seed)


def observations(dtype: torch.dtype) -> Tensor:
    return torch.randn(6, sum(WIDTHS), generator=torch.Generator().manual_seed(7)).to(dtype)


def passed(encoder: AttentionEncoder, drop: bool = False) -> dict[str, Any]:
    """One pass there and back: a loss that reads features and weights, whose gradient differs from column to column."""
    obs = observations(next(encoder.parameters()).dtype).requires_grad_()
    encoder.zero_grad()
    torch.manual_seed(3)
    pooled, weights = encoder(obs, drop, need_weights=True)
    (pooled.sin().sum() + (weights**3).sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}
    return {"pooled": pooled.detach(), "weights": weights.detach(), "obs": obs.grad, "gradients": gradients}


def trained(encoder: AttentionEncoder) -> None:
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(3):
        passed(encoder)
        optimizer.step()


def unlooked(encoder: AttentionEncoder) -> Tensor:
    with torch.inference_mode():
        return encoder(observations(next(encoder.parameters()).dtype))[0].clone()


# -- in each of the two processes --------------------------------------------------------------------------------------


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    found = {case: shared(case, rank) for case in CASES}
    torch.save({**found, "alone": alone(rank), "network": whole_network(rank)}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def shared(case: str, rank: int) -> dict[str, Any]:
    # Another network on each process: after the split, the first one's.
    encoder = encoder_of(case, seed=rank)
    before = torch.get_rng_state()
    split_heads(encoder)
    found: dict[str, Any] = {
        "drew": not torch.equal(before, torch.get_rng_state()),
        "own": {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()},
        "split": unsplit_state_dict(encoder),
        "there and back": passed(encoder),
        "dropout": passed(encoder, drop=True),
        "inference": unlooked(encoder),
    }
    encoder.recomputes = True
    found["recomputed"] = passed(encoder)
    encoder.recomputes = False
    found["forgotten there"], found["forgotten back"] = forgetful(encoder)
    trained(encoder)
    found["trained"] = unsplit_state_dict(encoder)
    return found


def forgetful(encoder: AttentionEncoder) -> tuple[Tensor, Tensor]:
    """Features without the sum on the way there, and the input's gradient without that on the way back."""
    with mock.patch("torch.distributed.all_reduce"):
        there = unlooked(encoder)
    obs = observations(next(encoder.parameters()).dtype).requires_grad_()
    pooled, weights = encoder(obs, need_weights=True)
    with mock.patch("torch.distributed.all_reduce"):
        (pooled.sin().sum() + (weights**3).sum()).backward()
    assert obs.grad is not None
    return there, obs.grad


def alone(rank: int) -> dict[str, Any]:
    """In a group of one, and in one of more processes than there are heads."""
    groups = [torch.distributed.new_group([other]) for other in range(PROCESSES)]
    encoder = encoder_of("float32")
    found: dict[str, Any] = {"unsplit": passed(encoder)}
    split_heads(encoder, groups[rank])
    found |= {
        "kinds": {type(module).__name__ for module in encoder.modules()},
        "state": encoder.state_dict(),
        "joined": unsplit_state_dict(encoder),
        "there and back": passed(encoder),
    }
    try:
        split_heads(AttentionEncoder(WIDTHS, config_of(1)))
    except ConfigError as error:
        found["complaint"] = str(error)
    return found


def whole_network(rank: int) -> dict[str, Any]:
    """Within a network that holds an encoder, in a group of its own with both processes."""
    network = filled(RegimeNetwork(SHAPE, config_of(4), 0.01), torch.float64, seed=0)
    split_heads(network, torch.distributed.new_group(list(range(PROCESSES))))
    answer = network(observations(torch.float64), need_weights=True)
    return {"logits": answer.logits_BA.detach(), "weights": answer.attention_BLHGG.detach()}


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of them found, by rank."""
    folder = tmp_path_factory.mktemp("heads")
    torch.multiprocessing.spawn(one_of_two, args=(folder,), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


# -- here, unsplit -----------------------------------------------------------------------------------------------------


def close(found: Tensor, expected: Tensor) -> None:
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found, expected, rtol=0, atol=size * TOLERANCE[expected.dtype])


def part_of(name: str, whole: Tensor, heads: int, rank: int) -> Tensor:
    """Cut by hand: rows of queries, keys and values, columns of the output. A head is 4 wide; the first process has
    the odd head."""
    border = 4 * -(-heads // PROCESSES)
    mine = slice(0, border) if rank == 0 else slice(border, None)
    if ".qkv." in name:
        return torch.cat([part[mine] for part in whole.chunk(3)])
    return whole[:, mine] if name.endswith(".out.weight") else whole


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(PROCESSES))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["there and back", "dropout", "recomputed"])
def test_outputs_weights_and_gradients_are_those_of_the_unsplit_network(processes, way, case, rank):
    expected, found = passed(encoder_of(case), drop=way == "dropout"), processes[rank][case][way]
    for key in ("pooled", "weights", "obs"):
        close(found[key], expected[key])
    assert list(found["gradients"]) == list(expected["gradients"])
    for name, gradient in expected["gradients"].items():
        assert gradient.abs().max() > 1e-4
        close(found["gradients"][name], part_of(name, gradient, CASES[case][0], rank))


@pytest.mark.parametrize("case", CASES)
def test_a_pass_that_nobody_goes_back_through_is_the_same_too(processes, case):
    for found in processes:
        close(found[case]["inference"], unlooked(encoder_of(case)))


@pytest.mark.parametrize("case", CASES)
def test_without_a_sum_nothing_of_this_would_hold(processes, case):
    """Each is far more than a thousand tolerances off."""
    encoder = encoder_of(case)
    for found in processes:
        assert (found[case]["forgotten there"] - unlooked(encoder)).abs().max() > 1e-2
        assert (found[case]["forgotten back"] - passed(encoder)["obs"]).abs().max() > 1e-2


@pytest.mark.parametrize("case", CASES)
def test_three_steps_of_adam_end_where_the_unsplit_network_ends(processes, case):
    encoder = encoder_of(case)
    start = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    trained(encoder)
    for found in processes:
        assert list(found[case]["trained"]) == list(start)
        for name, expected in encoder.state_dict().items():
            assert (expected - start[name]).abs().max() > 1e-2
            one, other = moved(name, found[case]["trained"][name]), moved(name, expected)
            # Adam divides by the size of a gradient: where that is near 0, its rounding is not small beside it.
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9 if one.dtype == torch.float64 else 1e-4)


def moved(name: str, tensor: Tensor) -> Tensor:
    """Without the bias of keys: all scores of a row move with it alike, so its gradient is but rounding."""
    return torch.cat(tensor.chunk(3)[::2]) if name.endswith(".qkv.bias") else tensor


@pytest.mark.parametrize("case", CASES)
def test_a_joined_state_is_the_ordinary_one_of_the_first_process(processes, case):
    encoder = encoder_of(case)
    for found in processes:
        state = found[case]["split"]
        assert list(state) == list(encoder.state_dict())
        assert all(torch.equal(state[name], tensor) for name, tensor in encoder.state_dict().items())
        other = encoder_of(case, seed=5)
        other.load_state_dict(state)
        assert torch.equal(unlooked(other), unlooked(encoder))


def test_each_process_holds_its_heads_alone_and_the_split_draws_no_random_number(processes):
    shapes = [found["uneven"]["own"] for found in processes]
    assert [own[f"{LAYER}.qkv.weight"] for own in shapes] == [(24, 12), (12, 12)]
    assert [own[f"{LAYER}.qkv.bias"] for own in shapes] == [(24,), (12,)]
    assert [own[f"{LAYER}.out.weight"] for own in shapes] == [(12, 8), (12, 4)]
    assert not any(found[case]["drew"] for found in processes for case in CASES)


def test_a_group_of_one_changes_no_bit(processes):
    encoder = encoder_of("float32")
    for found in (own["alone"] for own in processes):
        assert HeadShard.__name__ not in found["kinds"]
        assert SelfAttention.__name__ in found["kinds"]
        for state in (found["state"], found["joined"]):
            assert all(torch.equal(state[name], tensor) for name, tensor in encoder.state_dict().items())
        again, expected = found["there and back"], found["unsplit"]
        assert all(torch.equal(again[key], expected[key]) for key in ("pooled", "weights", "obs"))
        assert all(torch.equal(again["gradients"][name], grad) for name, grad in expected["gradients"].items())


def test_a_network_around_an_encoder_answers_as_before(processes):
    network = filled(RegimeNetwork(SHAPE, config_of(4), 0.01), torch.float64, seed=0)
    answer = network(observations(torch.float64), need_weights=True)
    for found in processes:
        close(found["network"]["logits"], answer.logits_BA.detach())
        close(found["network"]["weights"], answer.attention_BLHGG.detach())


def test_fewer_heads_than_processes_are_refused(processes):
    for found in processes:
        assert "networks.attention.heads = 1: expected at least 2" in found["alone"]["complaint"]


def test_heads_are_dealt_as_evenly_as_they_can_be():
    assert heads_per_process(8, 2) == (4, 4)
    assert heads_per_process(8, 3) == (3, 3, 2)
    assert heads_per_process(8, 8) == (1,) * 8
    with pytest.raises(ConfigError, match="heads = 8: expected at least 9"):
        heads_per_process(8, 9)
