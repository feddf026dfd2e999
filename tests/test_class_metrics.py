"""Scores of K classes: by hand, and exactly those of scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from lib.class_metrics import IGNORE, class_scores, confusion_matrix


def test_scores_by_hand():
    labels = np.array([[0, 0, 0, 1], [1, 2, IGNORE, IGNORE]], np.uint8)
    predicted = np.array([[0, 0, 1, 1], [2, 2, 0, 3]], np.uint8)
    matrix = confusion_matrix(labels, predicted, 4)
    np.testing.assert_array_equal(matrix, [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    scores = class_scores(matrix)
    # Class 0: 2 of 3 found, none elsewhere. Class 1: 1 found, 1 missed, 1 elsewhere.
    assert scores["iou"] == [2 / 3, 1 / 3, 1 / 2, None]
    assert scores["dice"] == [4 / 5, 2 / 4, 2 / 3, None]
    assert scores["precision"] == [1, 1 / 2, 1 / 2, None]
    assert scores["recall"] == [2 / 3, 1 / 2, 1, None]
    assert scores["mean_iou"] == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3, abs=1e-15)
    assert scores["pixel_accuracy"] == 4 / 6


def test_scores_are_those_of_scikit_learn(rng):
    labels = rng.integers(0, 5, (3, 40, 30)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 5, labels.shape))
    labels[rng.random(labels.shape) < 0.1] = IGNORE
    # Images are added up one by one; scikit-learn sees all pixels at once.
    matrix = sum(confusion_matrix(a, b, 5) for a, b in zip(labels, predicted))
    truth, found = labels[labels != IGNORE], predicted[labels != IGNORE]
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(truth, found))
    scores = class_scores(matrix)
    assert scores["iou"] == metrics.jaccard_score(truth, found, average=None).tolist()
    assert scores["mean_iou"] == metrics.jaccard_score(truth, found, average="macro")
    assert scores["pixel_accuracy"] == metrics.accuracy_score(truth, found)
    precision, recall, dice, _ = metrics.precision_recall_fscore_support(truth, found)
    np.testing.assert_array_equal(scores["precision"], precision)
    np.testing.assert_array_equal(scores["recall"], recall)
    np.testing.assert_allclose(scores["dice"], dice, rtol=1e-15)


def test_a_class_that_is_only_predicted_counts_with_an_iou_of_zero():
    scores = class_scores(confusion_matrix(np.zeros(4, int), np.array([0, 0, 0, 2]), 3))
    assert scores["iou"] == [3 / 4, None, 0]
    assert scores["mean_iou"] == 3 / 8
    assert (scores["precision"][2], scores["recall"][2]) == (0, None)


def test_without_any_pixel_there_is_no_score():
    scores = class_scores(confusion_matrix(np.full((2, 2), IGNORE), np.zeros((2, 2), int), 2))
    assert scores["mean_iou"] is None and scores["pixel_accuracy"] is None


@pytest.mark.parametrize(
    "labels, predicted, message",
    [
        ([0, 3], [0, 0], "labels must hold classes from 0 to 2. Received: numbers from 0 to 3"),
        ([0, 1], [0, 255], "predicted must hold classes from 0 to 2"),
        ([0, 1], [[0, 1]], r"one shape. Received: \(2,\) and \(1, 2\)"),
    ],
)
def test_numbers_that_are_no_class_are_refused(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predicted, 3)
