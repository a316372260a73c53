"""What a learning curve is drawn from: one flat row of a result, for `curves/*.csv` and for trackers."""

from __future__ import annotations

import math
from typing import Any

from ray.tune.result import TRAINING_ITERATION

from mtquant_rllib.engine.learning.ppo.window_weights import EFFECTIVE_WINDOWS
from mtquant_rllib.engine.learning.reference_kl import REFERENCE_KL
from mtquant_rllib.engine.sampling.env_faults import ENV_RETRIES
from mtquant_rllib.engine.sampling.runner import REWARD_TERMS
from mtquant_rllib.training.algorithm.utilization import columns as system_columns
from mtquant_rllib.training.reporting.curve_files import BARS, ITERATION, VALIDATION_SHARPE
from mtquant_rllib.training.reporting.fallback_lines import sampled_fallbacks
from mtquant_rllib.training.result_keys import BARS_LIFETIME, SHARPE, VALIDATION

_CURVES = {
    "learning_rate": "default_optimizer_learning_rate",
    "policy_loss": "policy_loss",
    "vf_loss": "vf_loss",
    "entropy": "entropy",
    "kl": "mean_kl_loss",
    "skipped_steps": "skipped_steps",
}
"""Columns of a module that learns by PPO in `curves/*.csv`, and the learner's names of them."""

_SAC_CURVES = {
    "learning_rate": "actor_learning_rate",
    "policy_loss": "policy_loss",
    "critic_loss": "critic_loss",
    "entropy": "entropy",
    "alpha": "alpha",
    "q_mean": "qf_mean",
    "td_error": "td_error_mean",
    "skipped_steps": "skipped_steps",
}
"""The same of one that learns by SAC."""


AUXILIARY = ("regime_classifier", "attention_diversity", "regime_consistency")
"""Losses of attention networks beside the agent's own, where a learner adds them (`policies.attention.losses`)."""


def curve_row(result: dict[str, Any]) -> dict[str, Any]:
    """The columns of `curves/*.csv`: what a learning curve is drawn from, and where networks attend, what a validation
    saw them look at and who took their decisions while they sampled. `reward_terms/NAME` is what a term paid the
    portfolio a bar on average, a fraction of equity."""
    learners = result.get("learners", {})
    row = {
        ITERATION: result[TRAINING_ITERATION],
        BARS: result[BARS_LIFETIME],
        "bars_per_s": result["bars_per_s"],
        "sampling_bars_per_s": result["sampling_bars_per_s"],
        "sampling_s": result["sampling_s"],
        "learning_s": result["learning_s"],
        "validation_s": result["validation_s"],
        VALIDATION_SHARPE: result[VALIDATION].get(SHARPE, math.nan),
        "validation_bars": result[VALIDATION].get("bars", math.nan),
        "best_sharpe": result["best"][SHARPE],
        ENV_RETRIES: result.get("env_runners", {}).get(ENV_RETRIES, 0),
        "episode_return": result.get("env_runners", {}).get("episode_return_mean", math.nan),
    }
    for module in sorted(name for name, figures in learners.items() if "policy_loss" in figures):
        columns = _SAC_CURVES if "alpha" in learners[module] else _CURVES
        for column, name in columns.items():
            row[f"{module}/{column}"] = learners[module].get(name, math.nan)
        for loss in (*AUXILIARY, REFERENCE_KL, EFFECTIVE_WINDOWS):
            if loss in learners[module]:
                row[f"{module}/{loss}"] = learners[module][loss]
    row |= {f"{VALIDATION}/{name}": value for name, value in result[VALIDATION].items() if name not in (SHARPE, BARS)}
    terms = result.get("env_runners", {}).get(REWARD_TERMS, {})
    row |= {f"{REWARD_TERMS}/{name}": paid for name, paid in terms.items()}
    row |= system_columns(result)
    for module, counts in sampled_fallbacks(result).items():
        row |= {f"{module}/sampled_{reason}": count for reason, count in counts.items()}
    return row
