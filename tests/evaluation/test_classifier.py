"""A classifier is judged against the commonest label and class by class: by hand, trained, and untrained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mtquant_rllib.config import Settings
from mtquant_rllib.config.sections.evaluation import BootstrapConfig
from mtquant_rllib.evaluation.regimes.classifier import ClassifierScore, score_classifier
from mtquant_rllib.features.regimes import Regime
from mtquant_rllib.policies.attention.losses import classifier_loss
from mtquant_rllib.policies.attention.regime_network import RegimeNetwork
from mtquant_rllib.policies.networks import GroupedShape

BULL, BEAR, VOLATILE, SIDEWAYS = Regime
BOOTSTRAP = BootstrapConfig(resamples=300, mean_block_bars=20, confidence=0.95)


def score(believed: list[int] | np.ndarray, labels: list[int] | np.ndarray) -> ClassifierScore:
    return score_classifier("meta", np.eye(4)[believed], np.array(labels), BOOTSTRAP, np.random.default_rng(0))


def test_confusion_recall_precision_and_the_majority_by_hand() -> None:
    labels = [BULL, BULL, BULL, SIDEWAYS, SIDEWAYS, VOLATILE, -1]
    believed = [BULL, BULL, SIDEWAYS, SIDEWAYS, BULL, VOLATILE, BULL]
    found = score(believed, labels)
    expected = np.zeros((4, 4), dtype=int)
    expected[BULL, BULL], expected[BULL, SIDEWAYS] = 2, 1
    expected[SIDEWAYS, SIDEWAYS], expected[SIDEWAYS, BULL] = 1, 1
    expected[VOLATILE, VOLATILE] = 1
    np.testing.assert_array_equal(found.confusion, expected)
    assert found.n_decisions == 6, "a decision without a label is nobody's mistake"
    assert found.accuracy.estimate == pytest.approx(4 / 6)
    assert (found.majority, found.majority_accuracy) == ("bull", 0.5)
    assert found.gain.estimate == pytest.approx(1 / 6)
    np.testing.assert_allclose(found.recall, [2 / 3, np.nan, 1, 1 / 2])
    np.testing.assert_allclose(found.precision, [2 / 3, np.nan, 1, 1 / 2])
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert json.loads(json.dumps(found.to_dict()))["recall"]["bear"] is None
    assert "66.7%" in found.verdict()


def test_always_saying_the_commonest_label_gains_nothing_and_is_told_so() -> None:
    labels = np.repeat([SIDEWAYS, BULL, SIDEWAYS, VOLATILE, SIDEWAYS], 60)
    found = score(np.full(300, SIDEWAYS), labels)
    assert found.accuracy.estimate == pytest.approx(0.6)
    assert found.gain.estimate == found.gain.lower == found.gain.upper == 0
    assert found.balanced_accuracy == pytest.approx(1 / 3)
    assert not found.has_learned
    assert "has not learned more than the commonest label" in found.verdict()


def test_luck_in_a_few_long_spells_is_no_knowledge() -> None:
    """Five spells of sixty bars, one of them named by luck: as three hundred independent bars it would be proof."""
    labels = np.repeat([SIDEWAYS, BULL, SIDEWAYS, VOLATILE, SIDEWAYS], 60)
    believed = np.where(labels == VOLATILE, VOLATILE, SIDEWAYS)
    believed[:30] = BEAR
    found = score(believed, labels)
    assert found.gain.estimate == pytest.approx(0.1)
    right = (believed == labels).astype(float) - (labels == SIDEWAYS)
    assert right.mean() / (right.std() / np.sqrt(300)) > 2.5
    assert not found.has_learned


@pytest.mark.slow
def test_a_small_trained_classifier_beats_the_majority_on_unseen_bars_and_an_untrained_one_does_not() -> None:
    """Four regimes that the third group's columns show through noise; weights of attention and classifier are learned
    from labels alone, as `auxiliary_losses` teaches them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shape = GroupedShape((("price", 3), ("volume", 2), ("technical", 4)), actions=2)
    small = ("networks.attention.width=16", "networks.attention.heads=2", "networks.attention.classifier.hidden=[16]")
    settings = Settings.load(overrides=small)

    def drawn(spells: int) -> tuple[torch.Tensor, np.ndarray]:
        labels = rng.choice(4, spells, p=[0.26, 0.13, 0.17, 0.44]).repeat(20)
        obs = rng.standard_normal((len(labels), 9))
        obs[:, 5:] += 1.5 * np.eye(4)[labels]
        return torch.from_numpy(obs.astype(np.float32)), labels

    network = RegimeNetwork(shape, settings.networks.attention, 0.01)
    seen, taught = drawn(60)
    unseen, truth = drawn(60)
    with torch.no_grad():
        untrained = score_classifier("meta", network(unseen).probabilities_BR.numpy(), truth, BOOTSTRAP, rng)
    assert not untrained.has_learned
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        classifier_loss(network(seen, drop=True).regime_logits_BR, torch.from_numpy(taught)).backward()
        optimizer.step()
    with torch.no_grad():
        trained = score_classifier("meta", network(unseen).probabilities_BR.numpy(), truth, BOOTSTRAP, rng)
    assert trained.has_learned
    # The four columns differ by 1.5 deviations: the best there is knows about 70%.
    assert 0.62 < trained.accuracy.estimate < 0.8
    assert trained.balanced_accuracy > 0.5
    assert (trained.recall > 0.3).all()
