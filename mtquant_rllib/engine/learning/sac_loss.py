"""The losses of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), on rows of several modules at once.

    y        = R + gamma^d (min_j Q'_j(s', w(a')) - alpha log pi(a'|s')),    a' ~ pi(.|s')
    J_Q      = E[ 1/2 (Q_j(s, w(a)) - y)^2 ]                                 for both j
    J_pi     = E[ alpha log pi(a|s) - min_j Q_j(s, w(a)) ],                  a = mean + sigma noise
    J_alpha  = E[ -alpha (log pi(a|s) + H) ]                                 in log alpha

w is what the environment makes of an action; probabilities are those of the raw action, in logit space, with no
correction for w. d counts the bars until s'. H is the target entropy: where the policy's lies above it, log pi + H < 0
and a step downhill makes alpha smaller.

Two terms are the project's own, and absent where their factors are 0:

    J_Q  += lambda / 2N |slope_j|^2         over the parameters of the critic's slope by the action, N decisions kept
    J_pi += E[ kappa / 2 |mean|^2 ]         so did the actor of hindsight experience replay (Andrychowicz et al. 2017)

What an action earns is linear in it as long as nothing is clipped, and so is Q: without kappa the best mean lies on the
bound, whatever the size of the slope, and a slope that is all noise moves the policy as far as one that is none. With
it the best mean is slope / kappa: a stronger signal is a larger position. With lambda the slope is a ridge regression
over all that is kept, which says little while it has seen little. Entropy in logit space does neither: it does not
depend on the mean.

Shape suffixes: S modules, T the twins, B rows, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtquant_rllib.engine.learning.ppo_loss import HALF_LOG_TWO_PI


def drawn(mean_SBA: Tensor, log_std_SBA: Tensor, noise_SBA: Tensor, real_S1A: Tensor) -> tuple[Tensor, Tensor]:
    """Reparametrised raw actions (S, B, A) and their log-probabilities (S, B); columns that are not real are 0."""
    action_SBA = (mean_SBA + log_std_SBA.exp() * noise_SBA) * real_S1A
    each = noise_SBA.square() * -0.5 - log_std_SBA - HALF_LOG_TWO_PI
    return action_SBA, (each * real_S1A).sum(-1)


def critic_target(
    reward_SB: Tensor, discount_SB: Tensor, next_value_STB: Tensor, next_log_prob_SB: Tensor, alpha_S1: Tensor
) -> Tensor:
    """y, (S, B)."""
    soft_SB = next_value_STB.amin(dim=1) - alpha_S1 * next_log_prob_SB
    return reward_SB + discount_SB * soft_SB


def critic_loss(value_STB: Tensor, target_SB: Tensor, weight_SB: Tensor) -> Tensor:
    """J_Q of each critic, (S, T); the weights of a module's rows sum to one where they are all alike."""
    return 0.5 * ((value_STB - target_SB.unsqueeze(1)).square() * weight_SB.unsqueeze(1)).sum(-1)


def critic_gradient(value_STB: Tensor, target_SB: Tensor, weight_SB: Tensor) -> Tensor:
    """dJ_Q / dQ_j of each row, (S, T, B)."""
    return (value_STB - target_SB.unsqueeze(1)) * weight_SB.unsqueeze(1)


def smaller(value_STB: Tensor) -> Tensor:
    """1 at the smaller of the twins' values, 0 at the other, (S, T, B)."""
    first_SB = (value_STB[:, 0] <= value_STB[:, 1]).to(value_STB)
    return torch.stack((first_SB, 1.0 - first_SB), dim=1)


def actor_gradients(
    slope_SBA: Tensor, log_std_SBA: Tensor, noise_SBA: Tensor, alpha_S1: Tensor, real_S1A: Tensor
) -> tuple[Tensor, Tensor]:
    """dJ_pi by mean and by log deviation, (S, B, A) each, from the slope of the smaller value by the raw action.

    With the noise held, log pi(a|s) does not depend on the mean, and falls by one per unit of log deviation.
    """
    by_mean = slope_SBA * real_S1A / -slope_SBA.shape[1]
    share_S11 = alpha_S1.unsqueeze(-1) / slope_SBA.shape[1]
    return by_mean, by_mean * log_std_SBA.exp() * noise_SBA - share_S11 * real_S1A


def penalty_gradient(mean_SBA: Tensor, action_penalty: float, real_S1A: Tensor) -> Tensor:
    """That of kappa's term by mean, (S, B, A)."""
    return mean_SBA * real_S1A * (action_penalty / mean_SBA.shape[1])


def actor_loss(value_STB: Tensor, log_prob_SB: Tensor, alpha_S1: Tensor) -> Tensor:
    """J_pi, (S,)."""
    return (alpha_S1 * log_prob_SB - value_STB.amin(dim=1)).mean(-1)


def alpha_loss(log_prob_SB: Tensor, alpha_S1: Tensor, target_entropy_S1: Tensor) -> Tensor:
    """J_alpha, (S,)."""
    return -(alpha_S1 * (log_prob_SB + target_entropy_S1)).mean(-1)


def alpha_gradient(log_prob_SB: Tensor, alpha_S1: Tensor, target_entropy_S1: Tensor) -> Tensor:
    """dJ_alpha / d log alpha, (S, 1)."""
    return -alpha_S1 * (log_prob_SB.mean(-1, keepdim=True) + target_entropy_S1)


def entropy(log_std_SBA: Tensor, real_S1A: Tensor) -> Tensor:
    """Of the raw actions' distributions, mean over rows, (S,)."""
    return ((log_std_SBA + HALF_LOG_TWO_PI + 0.5) * real_S1A).sum(-1).mean(-1)
