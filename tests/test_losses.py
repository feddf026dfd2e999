"""Tests of losses and metrics against NumPy's and scikit-learn's definitions."""

import keras
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from lib.losses import IGNORE, balanced_weights, get_loss, segmentation_metrics

NUM_CLASSES = 3


@pytest.fixture
def batch():
    """(2, 4, 5) labels, a third ignored, (2, 20, 3) probabilities and (2, 20) weights."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, NUM_CLASSES, (2, 4, 5))
    probabilities = rng.dirichlet(np.ones(NUM_CLASSES), (2, 20)).astype(np.float32)
    weights = rng.random((2, 20), np.float32)
    return np.where(rng.random(labels.shape) < 0.3, IGNORE, labels), probabilities, weights


def counted(labels, probabilities, weights):
    """The pixels that are not ignored, in one row."""
    chosen = labels.ravel() != IGNORE
    return labels.ravel()[chosen], probabilities.reshape(-1, 3)[chosen], weights.ravel()[chosen]


def test_cross_entropy_is_scikit_learns_log_loss(batch):
    labels, probabilities, weights = counted(*batch)
    expected = log_loss(labels, probabilities.astype(float))
    assert float(get_loss("cross_entropy")(*batch[:2])) == pytest.approx(expected, rel=1e-5)
    expected = log_loss(labels, probabilities.astype(float), sample_weight=weights)
    assert float(get_loss("cross_entropy")(*batch)) == pytest.approx(expected, rel=1e-5)


def test_class_weights_weigh_the_cross_entropy(batch):
    labels, probabilities, weights = counted(*batch)
    of_classes = [0.5, 2.0, 3.0]
    weights = weights * np.take(of_classes, labels)
    expected = log_loss(labels, probabilities.astype(float), sample_weight=weights)
    loss = get_loss("cross_entropy", class_weights=of_classes)
    assert float(loss(*batch)) == pytest.approx(expected, rel=1e-5)


def test_dice_of_the_definition(batch):
    labels, probabilities, weights = counted(*batch)
    truth, weights = np.eye(3)[labels], weights[:, None]
    shared, both = (weights * truth * probabilities).sum(0), (weights * (truth + probabilities))
    expected = 1 - np.mean((2 * shared + 1) / (both.sum(0) + 1))
    assert float(get_loss("dice")(*batch)) == pytest.approx(expected, rel=1e-5)


def test_dice_of_a_hard_answer_is_scikit_learns_f1():
    rng = np.random.default_rng(0)
    labels, answer = rng.integers(0, 3, (2, 1, 100_000))
    loss = float(get_loss("dice")(labels, np.eye(3, dtype=np.float32)[answer]))
    # The added 1 is nothing beside 30,000 pixels of a class.
    assert loss == pytest.approx(1 - f1_score(labels[0], answer[0], average="macro"), abs=1e-4)


def test_sum_of_both_and_its_weights(batch):
    dice, cross_entropy = (float(get_loss(name)(*batch)) for name in ("dice", "cross_entropy"))
    both = float(get_loss("dice_cross_entropy")(*batch))
    assert both == pytest.approx(dice + 0.8 * cross_entropy, rel=1e-5)
    both = get_loss("dice_cross_entropy", dice_weight=0.5, cross_entropy_weight=2)
    assert float(both(*batch)) == pytest.approx(0.5 * dice + 2 * cross_entropy, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "dice_cross_entropy"])
def test_ignored_pixels_have_no_gradient_and_do_not_change_the_loss(batch, name):
    labels, probabilities, weights = batch
    layer = keras.layers.Dense(NUM_CLASSES, activation="softmax", kernel_initializer="ones")
    model = keras.Sequential([keras.Input((20, 3)), layer])
    model.compile("sgd", get_loss(name))

    def step(labels):
        layer.set_weights([np.eye(3), np.zeros(3)])
        return model.train_on_batch(probabilities, labels, weights), layer.get_weights()

    original = layer.get_weights()
    loss, moved = step(np.full_like(labels, IGNORE))
    assert loss == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(moved[0], np.eye(3))
    loss, moved = step(labels)
    assert np.isfinite(loss) and np.abs(moved[0] - original[0]).max() > 1e-4
    weights[labels.reshape(2, -1) == IGNORE] = 7.0  # the weight of an ignored pixel says nothing
    again, moved_again = step(labels)
    assert again == loss
    np.testing.assert_array_equal(moved_again[0], moved[0])


def test_loss_survives_saving_and_computes_in_float32(batch):
    labels, probabilities, weights = batch
    loss = get_loss("dice_cross_entropy", class_weights=[1.0, 2.0, 3.0])
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(*batch)) == float(loss(*batch))
    half = keras.ops.cast(probabilities, "bfloat16")
    value = loss(labels, half, weights)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert float(value) == pytest.approx(float(loss(*batch)), rel=2e-2)


def test_unknown_loss():
    with pytest.raises(ValueError, match="loss must be one of .*'dice'.* Received: jaccard"):
        get_loss("jaccard")


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 3], [700, 50, 250])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    given = balanced_weights(np.bincount(labels))
    np.testing.assert_allclose(np.delete(given, 2), expected)
    assert given[2] == 0
    with pytest.raises(ValueError, match="some pixels"):
        balanced_weights([0, 0])


def test_metrics_pool_all_pixels_of_an_epoch(batch):
    labels, probabilities, _ = batch
    metrics = segmentation_metrics(NUM_CLASSES)
    for index in range(2):
        for metric in metrics:
            metric.update_state(labels[index : index + 1], probabilities[index : index + 1])
    truth, answer, _ = counted(*batch)
    hard = answer.argmax(1)
    expected = {
        "accuracy": accuracy_score(truth, hard),
        "cross_entropy": log_loss(truth, answer.astype(float)),
        "mean_iou": jaccard_score(truth, hard, average="macro"),
    }
    given = {metric.name: float(metric.result()) for metric in metrics}
    assert given == pytest.approx(expected, rel=1e-5)
