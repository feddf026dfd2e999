"""Scores of a segmentation into K classes, from one confusion matrix.

All scores follow from counts of pixels, so the matrices of several images are simply added.
"""

import numpy as np

# The number of pixels that count nowhere: not in the loss, not in a score.
IGNORE = 255


def confusion_matrix(labels, predicted, num_classes):
    """Counts pixels by their class in the labels and in the prediction.

    Args:
        labels: integers of any shape, classes in [0, num_classes); IGNORE leaves a pixel out.
        predicted: array of the same shape, classes in [0, num_classes).
        num_classes: K, at most 255.
    Returns:
        (K, K) int64; row: class in the labels, column: predicted class, as in scikit-learn.
    Raises:
        ValueError: if the shapes differ, or a number is no class.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape:
        raise ValueError(
            "labels and prediction must have one shape. "
            f"Received: {labels.shape} and {predicted.shape}"
        )
    counted = labels != IGNORE
    truth, found = labels[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, numbers in (("labels", truth), ("predicted", found)):
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < num_classes:
            raise ValueError(
                f"{name} must hold classes from 0 to {num_classes - 1}. "
                f"Received: numbers from {numbers.min()} to {numbers.max()}"
            )
    counts = np.bincount(truth * num_classes + found, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def class_scores(matrix):
    """Computes the scores of every class, and their summary.

    With the pixels of a class that are found (TP), found elsewhere (FP) and missed (FN):
    iou (Jaccard) = TP / (TP + FP + FN); dice (F1) = 2 TP / (2 TP + FP + FN); precision =
    TP / (TP + FP); recall (sensitivity) = TP / (TP + FN). 0 / 0 is None: iou and dice of a class in
    neither labels nor prediction, the precision of one never predicted, the recall of one that is
    in no label.

    Args:
        matrix: (K, K), as confusion_matrix gives it; of several images: their sum.
    Returns:
        dictionary: mean_iou over the classes that have an iou, pixel_accuracy (None without any
        pixel); iou, dice, precision, recall: lists of K floats or None. JSON can hold it.
    """
    matrix = np.asarray(matrix, np.int64)
    hits, truth, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = truth + found - hits
    iou = _ratios(hits, union)
    present = [value for value in iou if value is not None]
    return {
        "mean_iou": float(np.mean(present)) if present else None,
        "pixel_accuracy": _ratios([hits.sum()], [matrix.sum()])[0],
        "iou": iou,
        "dice": _ratios(2 * hits, truth + found),
        "precision": _ratios(hits, found),
        "recall": _ratios(hits, truth),
    }


def _ratios(numerators, denominators):
    """Divides whole numbers pair by pair; 0 / 0 is None."""
    return [float(a / b) if b else None for a, b in zip(numerators, denominators)]
