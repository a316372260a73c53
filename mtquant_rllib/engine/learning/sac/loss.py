"""The losses of soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), on rows of several modules at once.

    y        = R + gamma^d (min_j Q'_j(s', w(a')) - alpha log pi(a'|s')),    a' ~ pi(.|s')
    J_Q      = E[ 1/2 (Q_j(s, w(a)) - y)^2 ]                                 for both j
    J_pi     = E[ alpha log pi(a|s) - min_j Q_j(s, w(a)) ],                  a = mean + sigma noise
    J_alpha  = E[ -alpha (log pi(a|s) + H) ]                                 in log alpha

w is the executed action, what the environment makes of a raw one; probabilities are those of the raw action, in logit
space, with no correction for w. d counts the bars until s'. H is the target entropy: where the policy's lies above it,
log pi + H < 0 and a step downhill makes alpha smaller.

Two terms are the project's own, and absent where their coefficients are 0:

    J_Q  += lambda / 2N |slope_j|^2         over the parameters of dQ_j/dw, N decisions in the replay
    J_pi += E[ kappa / 2 |mean|^2 ]         as in hindsight experience replay (Andrychowicz et al. 2017)

The return of an action is linear in it as long as nothing is clipped, and so is Q: without kappa the best mean lies on
the bound whatever the size of the slope, and a slope of pure noise moves the policy as far as a true one. With kappa
the best mean is slope / kappa: a stronger signal is a larger position. Where there is a reference policy kappa is on
the departure from its mean. With lambda the slope is a ridge regression over
the replay, close to zero while the replay holds little. Entropy in logit space does neither, since it does not depend
on the mean.

This is the definition. Policies that run by autograd are stepped along the gradient of J_pi as it stands here
(`actor_objective`); for plain ones, for critics and for alpha the gradients are written out
(`fast_path.loss_gradients`, `fast_path.critics`), and tests hold them to autograd's.

Shape suffixes: S modules, T the twin critics, B rows, A actions.
"""

from __future__ import annotations

from torch import Tensor

from mtquant_rllib.policies.networks import HALF_LOG_TWO_PI


def sampled_actions(
    mean_SBA: Tensor, log_std_SBA: Tensor, noise_SBA: Tensor, action_mask_S1A: Tensor
) -> tuple[Tensor, Tensor]:
    """Reparametrised raw actions (S, B, A), 0 in padding, and their log-probabilities (S, B)."""
    action_SBA = (mean_SBA + log_std_SBA.exp() * noise_SBA) * action_mask_S1A
    each = noise_SBA.square() * -0.5 - log_std_SBA - HALF_LOG_TWO_PI
    return action_SBA, (each * action_mask_S1A).sum(-1)


def critic_target(
    reward_SB: Tensor, discount_SB: Tensor, next_value_STB: Tensor, next_log_prob_SB: Tensor, alpha_S1: Tensor
) -> Tensor:
    """y, (S, B)."""
    soft_SB = next_value_STB.amin(dim=1) - alpha_S1 * next_log_prob_SB
    return reward_SB + discount_SB * soft_SB


def critic_loss(value_STB: Tensor, target_SB: Tensor, weight_SB: Tensor) -> Tensor:
    """J_Q of each critic, (S, T). weight_SB: 1 / B for the mean, times importance weights in prioritised replay."""
    return 0.5 * ((value_STB - target_SB.unsqueeze(1)).square() * weight_SB.unsqueeze(1)).sum(-1)


def actor_loss(value_STB: Tensor, log_prob_SB: Tensor, alpha_S1: Tensor) -> Tensor:
    """J_pi without the penalty, (S,)."""
    return (alpha_S1 * log_prob_SB - value_STB.amin(dim=1)).mean(-1)


def action_penalty(mean_SBA: Tensor, kappa: float, action_mask_S1A: Tensor) -> Tensor:
    """The penalty in J_pi, (S,)."""
    return 0.5 * kappa * (mean_SBA * action_mask_S1A).square().sum(-1).mean(-1)


def alpha_loss(log_prob_SB: Tensor, alpha_S1: Tensor, target_entropy_S1: Tensor) -> Tensor:
    """J_alpha, (S,)."""
    return -(alpha_S1 * (log_prob_SB + target_entropy_S1)).mean(-1)


def entropy(log_std_SBA: Tensor, action_mask_S1A: Tensor) -> Tensor:
    """Entropy of the raw actions' distributions, mean over rows, (S,)."""
    return ((log_std_SBA + HALF_LOG_TWO_PI + 0.5) * action_mask_S1A).sum(-1).mean(-1)
