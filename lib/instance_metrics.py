"""Scores of objects: SEG of the Cell Tracking Challenge, average precision, splits and merges.

All follow from one list for each image: how many pixels a true object shares with a predicted one,
of those that share any. It is a joint histogram of the two label images, so no pair of objects is
compared pixel by pixel.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
# What a report says of an average precision of 0 at 0.5.
NONE_FOUND = "No object is found: none overlaps a true one with an IoU of 0.5 or more."


@dataclass(frozen=True)
class Overlaps:
    """How the T true and P predicted objects of an image overlap, in N pairs.

    Args:
        true, predicted: (N,) int, the two objects of each pair that shares pixels, in their order.
        shared: (N,) int, how many pixels each pair shares.
        true_sizes: (T,) int, pixels of each true object.
        predicted_sizes: (P,) int, pixels of each predicted object.
    """

    true: np.ndarray
    predicted: np.ndarray
    shared: np.ndarray
    true_sizes: np.ndarray
    predicted_sizes: np.ndarray

    @property
    def iou(self):
        """(N,) float64, intersection over union of each pair, also called Jaccard index."""
        sizes = self.true_sizes[self.true] + self.predicted_sizes[self.predicted]
        return self.shared / (sizes - self.shared)

    @property
    def iou_table(self):
        """(T, P) float64, the same of all pairs; 0 where a pair shares no pixel."""
        table = np.zeros((len(self.true_sizes), len(self.predicted_sizes)))
        table[self.true, self.predicted] = self.iou
        return table

    @property
    def is_most_of_true(self):
        """(N,) bool, whether more than half of the true object is shared."""
        return 2 * self.shared > self.true_sizes[self.true]


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
    both = (true_indices > 0) & (predicted_indices > 0)
    pairs = (true_indices[both] - 1) * num_predicted + predicted_indices[both] - 1
    pairs, shared = np.unique(pairs, return_counts=True)
    sizes = (
        np.bincount(indices.ravel(), minlength=number + 1)[1:]
        for indices, number in ((true_indices, num_true), (predicted_indices, num_predicted))
    )
    return Overlaps(*np.divmod(pairs, max(num_predicted, 1)), shared, *sizes)


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
    scores, matches = np.zeros(len(overlaps.true_sizes)), overlaps.is_most_of_true
    scores[overlaps.true[matches]] = overlaps.iou[matches]
    return scores


def best_iou(overlaps):
    """Gives the highest IoU of each true object with any predicted one.

    The mean over all true objects is the "IOU" of the U-Net paper's table 2, read literally. The
    challenge computed that table as SEG, which is never higher.

    Args:
        overlaps: Overlaps.
    Returns:
        (T,) float64 in [0, 1]; 0 where no object overlaps.
    """
    scores = np.zeros(len(overlaps.true_sizes))
    np.maximum.at(scores, overlaps.true, overlaps.iou)
    return scores


def none_found(scores):
    """Lists the sentence NONE_FOUND where that is so, of what summarize gives; else nothing."""
    return [NONE_FOUND] if scores["num_true"] and scores["ap"]["0.5"] == 0 else []


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
    if threshold > 0.5:  # no pair has a rival
        is_pair = overlaps.iou >= threshold
        return overlaps.true[is_pair], overlaps.predicted[is_pair]
    iou = overlaps.iou_table
    if not iou.size:
        return np.array([], int), np.array([], int)
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
    parts = 2 * overlaps.shared > overlaps.predicted_sizes[overlaps.predicted]
    splits = np.bincount(overlaps.true[parts]) > 1
    merges = np.bincount(overlaps.predicted[overlaps.is_most_of_true]) > 1
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
    matched = np.concatenate([t.iou_table[pair] for t, pair in zip(tables, pairs[0.5])] or [[]])
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
