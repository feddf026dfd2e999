"""Scores of objects: SEG of the Cell Tracking Challenge, average precision, splits and merges.

All follow from one table for each image: how many pixels each true object shares with each
predicted one. It is a joint histogram of the two label images, so no pair of objects is compared
pixel by pixel.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
# What a report says of an average precision of 0 at 0.5.
NONE_FOUND = "No object is found: none overlaps a true one with an IoU of 0.5 or more."


@dataclass(frozen=True)
class Overlaps:
    """How the objects of an image overlap.

    Args:
        shared: (T, P) int, pixels that true object t and predicted object p share.
        true_sizes: (T,) int, pixels of each true object.
        predicted_sizes: (P,) int, pixels of each predicted object.
    """

    shared: np.ndarray
    true_sizes: np.ndarray
    predicted_sizes: np.ndarray

    @cached_property
    def iou(self):
        """(T, P) float64, intersection over union of each pair, also called Jaccard index."""
        unions = self.true_sizes[:, np.newaxis] + self.predicted_sizes - self.shared
        return self.shared / unions


def count_overlaps(truth, predicted):
    """Counts the pixels that objects share.

    Args:
        truth: (height, width) whole numbers, 0 is background, each number above 0 an object.
        predicted: the same of the prediction; its numbers need not be those of the truth.
    Returns:
        Overlaps, objects in the order of their numbers.
    Raises:
        ValueError: if the two differ in size.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise ValueError(
            f"truth and predicted must have one shape. Received: {truth.shape}, {predicted.shape}"
        )
    true_indices, num_true = _indices(truth)
    predicted_indices, num_predicted = _indices(predicted)
    pairs = true_indices * (num_predicted + 1) + predicted_indices
    table = np.bincount(pairs.ravel(), minlength=(num_true + 1) * (num_predicted + 1))
    table = table.reshape(num_true + 1, num_predicted + 1)  # row and column 0: background
    return Overlaps(table[1:, 1:], table[1:].sum(axis=1), table[:, 1:].sum(axis=0))


def _indices(labels):
    """Numbers the objects from 1 without gaps, 0 stays background -> (indices, their number)."""
    numbers = np.unique(labels)
    numbers = numbers[numbers > 0]
    return np.where(labels > 0, np.searchsorted(numbers, labels) + 1, 0), len(numbers)


def leave_out_unknown(predicted, is_unknown):
    """Takes out of a prediction what no truth is known of, so that it counts in no score.

    Args:
        predicted: (height, width) whole numbers from 0, as of count_overlaps.
        is_unknown: (height, width) bool, pixels that the truth says nothing of.
    Returns:
        (height, width) of the same numbers, 0 on these pixels; and 0 on all of an object of which
        more than half lies there.
    """
    sizes = np.bincount(predicted.ravel())
    is_left_out = 2 * np.bincount(predicted[is_unknown], minlength=len(sizes)) > sizes
    return np.where(is_unknown | is_left_out[predicted], 0, predicted)


def seg(overlaps):
    """Gives SEG of each true object: the Jaccard index with the predicted object that matches it.

    Cell Tracking Challenge (Maska et al. 2014): a predicted object matches a true one if it covers
    more than half of its pixels; there is at most one. SEG of a sequence is the mean over all true
    objects of all its annotated frames.

    Args:
        overlaps: Overlaps.
    Returns:
        (T,) float64 in [0, 1]; 0 where no object matches.
    """
    matches = 2 * overlaps.shared > overlaps.true_sizes[:, np.newaxis]
    return np.where(matches, overlaps.iou, 0.0).sum(axis=1)


def best_iou(overlaps):
    """Gives the highest IoU of each true object with any predicted one.

    The mean over all true objects is the "IOU" of the U-Net paper's table 2, read literally. The
    challenge computed that table as SEG, which is never higher.

    Args:
        overlaps: Overlaps.
    Returns:
        (T,) float64 in [0, 1]; 0 where no object overlaps.
    """
    return overlaps.iou.max(axis=1, initial=0.0)


def match(overlaps, threshold):
    """Matches true with predicted objects one to one.

    As StarDist's stardist.matching: as many pairs with an IoU of at least the threshold as
    possible, and of these assignments one with the highest sum of IoUs (of all that it assigns).
    Above 0.5 a pair excludes all others; at 0.5 or below the optimal assignment decides.

    Args:
        overlaps: Overlaps.
        threshold: lowest IoU of a pair, above 0.
    Returns:
        (true indices, predicted indices) of the pairs.
    """
    iou = overlaps.iou
    if not iou.size:
        return np.array([], int), np.array([], int)
    if threshold > 0.5:  # no pair has a rival
        return np.nonzero(iou >= threshold)
    # A pair counts more than all IoUs together.
    gains = (iou >= threshold) + iou / (2 * min(iou.shape))
    true, predicted = linear_sum_assignment(gains, maximize=True)
    is_pair = iou[true, predicted] >= threshold
    return true[is_pair], predicted[is_pair]


def count_splits_and_merges(overlaps):
    """Counts true objects that were split, and predicted objects that merge several.

    A true object is split if at least two predicted objects lie in it with more than half of their
    pixels; a predicted object is a merger if at least two true objects lie in it with more than
    half of theirs.

    Args:
        overlaps: Overlaps.
    Returns:
        (splits, merges), two whole numbers.
    """
    parts = 2 * overlaps.shared > overlaps.predicted_sizes
    swallowed = 2 * overlaps.shared > overlaps.true_sizes[:, np.newaxis]
    splits, merges = parts.sum(axis=1) > 1, swallowed.sum(axis=0) > 1
    return int(splits.sum()), int(merges.sum())


def summarize(tables):
    """Scores the objects of all images together.

    Args:
        tables: Overlaps of each image.
    Returns:
        dictionary of floats and whole numbers:
        seg, mean_iou: means over all true objects of all images; None where there is none;
        ap: {threshold: TP / (TP + FP + FN)} over all images, keys "0.5", ...; 1 where there is
            nothing to find and nothing found; mean_ap: their mean;
        mean_matched_iou: mean IoU of the pairs at 0.5; 0 without a pair;
        num_true, num_predicted: objects; missed, false: true and predicted objects that form no
            pair at 0.5;
        splits, merges: as count_splits_and_merges.
    """
    num_true = sum(len(table.true_sizes) for table in tables)
    num_predicted = sum(len(table.predicted_sizes) for table in tables)
    pairs = {t: [match(table, t) for table in tables] for t in THRESHOLDS}
    num_pairs = {t: sum(len(true) for true, _ in found) for t, found in pairs.items()}
    ap = {f"{t:g}": _average_precision(n, num_true, num_predicted) for t, n in num_pairs.items()}
    matched = np.concatenate([t.iou[pair] for t, pair in zip(tables, pairs[0.5])] or [[]])
    covered = np.concatenate([seg(table) for table in tables] or [[]])
    best = np.concatenate([best_iou(table) for table in tables] or [[]])
    both = np.array([count_splits_and_merges(table) for table in tables]).reshape(-1, 2)
    return {
        "seg": float(covered.mean()) if num_true else None,
        "mean_iou": float(best.mean()) if num_true else None,
        "ap": ap,
        "mean_ap": float(np.mean(list(ap.values()))),
        "mean_matched_iou": float(matched.mean()) if len(matched) else 0.0,
        "num_true": num_true,
        "num_predicted": num_predicted,
        "missed": num_true - num_pairs[0.5],
        "false": num_predicted - num_pairs[0.5],
        "splits": int(both[:, 0].sum()),
        "merges": int(both[:, 1].sum()),
    }


def _average_precision(num_pairs, num_true, num_predicted):
    found = num_true + num_predicted - num_pairs
    return num_pairs / found if found else 1.0
