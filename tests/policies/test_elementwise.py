"""The quick tanh and dropout are tanh and dropout."""

import pytest
import torch

from mtquant_rllib.policies.elementwise import Tanh, dropout_mask


def test_tanh_is_within_two_ten_millionths_everywhere() -> None:
    x = torch.cat((torch.linspace(-30, 30, 200_001), torch.tensor([0.0, 1e-7, -1e-7, 1e4, -1e4])))
    assert (Tanh()(x).double() - torch.tanh(x.double())).abs().max() < 2e-7
    assert (Tanh()(x).abs() <= 1).all()


def test_its_gradient_is_tanhs() -> None:
    x = torch.linspace(-8, 8, 1001, requires_grad=True)
    weight = torch.linspace(-1, 2, 1001)
    (mine,) = torch.autograd.grad((Tanh()(x) * weight).sum(), x)
    (theirs,) = torch.autograd.grad((torch.tanh(x) * weight).sum(), x)
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


def test_a_broken_number_stays_broken() -> None:
    assert Tanh()(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    mask = dropout_mask(torch.empty(1000, 1001), share)
    dropout = (mask == 0).double().mean().item()
    assert dropout == pytest.approx(share, abs=4 * (share * (1 - share) / mask.numel()) ** 0.5 + 2**-16)
    assert mask.double().mean().item() == pytest.approx(1.0, abs=0.005)
    # Four elements share one draw: neighbours must not know of each other.
    kept = (mask != 0).flatten().double()[: 4 * (mask.numel() // 4)].view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.01


def test_a_generator_of_its_own_gives_the_stream_of_its_seed() -> None:
    like = torch.empty(7, 3)
    torch.manual_seed(3)
    expected = dropout_mask(like, 0.3)
    assert torch.equal(dropout_mask(like, 0.3, torch.Generator().manual_seed(3)), expected)
