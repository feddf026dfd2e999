"""Scores of a binary segmentation, pooled over pixels and image by image."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

SORTING_THREADS = 2
# performances.txt gives them in the original's order, under its names.
ORIGINAL_NAMES = {
    "auc_roc": "Area under the ROC curve",
    "auc_pr": "Area under Precision-Recall curve",
    "jaccard": "Jaccard similarity score",
    "f1": "F1 score (F-measure)",
    "accuracy": "ACCURACY",
    "sensitivity": "SENSITIVITY",
    "specificity": "SPECIFICITY",
    "precision": "PRECISION",
}


def pred_only_FOV(probabilities, ground_truth, fov_masks):
    """Keeps the pixels inside the field of view, image after image.

    retina-unet lib/extract_patches.py, pred_only_FOV.

    Args:
        probabilities: (num_images, 1, height, width) float32.
        ground_truth: (num_images, 1, height, width), 0 or 1.
        fov_masks: (num_images, 1, height, width), 0 outside.
    Returns:
        probabilities and ground truth of the pixels inside, each of shape (num_pixels,).
    """
    inside = fov_masks > 0
    return probabilities[inside], ground_truth[inside]


def binary_scores(ground_truth, probability, threshold=0.5, curves=None):
    """Computes the scores of a segmentation in two classes.

    TP, FP, FN, TN are counted at probability >= threshold, as the original does.

    Args:
        ground_truth: (num_pixels,) 0 or 1.
        probability: (num_pixels,) in [0, 1].
        threshold: from which probability on a pixel counts as vessel.
        curves: roc_and_pr_curves of the same pixels, if they are there already.
    Returns:
        dictionary with
        confusion_matrix: [[TN, FP], [FN, TP]];
        accuracy (TP + TN) / all; sensitivity (recall, true positive rate) TP / (TP + FN);
        specificity TN / (TN + FP); precision TP / (TP + FP); f1 (Dice) 2 TP / (2 TP + FP + FN);
        jaccard (intersection over union) TP / (TP + FP + FN); each None where it is 0/0;
        auc_roc, auc_pr (trapezoids over the precision-recall curve): None with one class only;
        threshold.
    """
    ground_truth = np.asarray(ground_truth).astype(bool)
    scores = confusion_scores(ground_truth, probability >= threshold)
    scores.update(threshold=threshold, auc_roc=None, auc_pr=None)
    if ground_truth.any() and not ground_truth.all():
        curves = curves or roc_and_pr_curves(rank_pixels(ground_truth, probability))
        scores["auc_roc"], scores["auc_pr"] = areas_under_curves(curves)
    return scores


def confusion_scores(ground_truth, prediction):
    """Computes the scores of binary_scores that need no probability.

    Args:
        ground_truth: (num_pixels,) bool.
        prediction: (num_pixels,) bool.
    Returns:
        dictionary as binary_scores, without areas and threshold.
    """
    tp = int(np.count_nonzero(ground_truth & prediction))
    fn = int(np.count_nonzero(ground_truth)) - tp
    fp = int(np.count_nonzero(prediction)) - tp
    tn = len(ground_truth) - tp - fn - fp
    return {
        "confusion_matrix": [[tn, fp], [fn, tp]],
        "accuracy": _ratio(tp + tn, tp + tn + fp + fn),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "jaccard": _ratio(tp, tp + fp + fn),
    }


class Ranking(NamedTuple):
    """What is found at every threshold that finds a further vessel pixel, the highest first.

    Between two of them only false positives are added, so both curves and their areas follow.

    Attributes:
        thresholds: (T,) the different probabilities of vessel pixels, falling.
        tp: (T,) true positives: vessel pixels at or above each threshold.
        fp: (T,) false positives: background pixels at or above it.
        tp_above: (T,) vessel pixels above it.
        fp_above: (T,) background pixels above it.
        num_negatives: background pixels in all; of vessel pixels, there are tp[-1].
    """

    thresholds: np.ndarray
    tp: np.ndarray
    fp: np.ndarray
    tp_above: np.ndarray
    fp_above: np.ndarray
    num_negatives: int


def rank_pixels(ground_truth, probability):
    """Counts true and false positives at every threshold.

    Vessel and background pixels are sorted by themselves, without carrying labels along, and the
    background in parts at the same time: twenty times faster than scikit-learn's curves for the 4.5
    million pixels of DRIVE, to the same values.

    Args:
        ground_truth: (num_pixels,) bool, both classes present.
        probability: (num_pixels,) float.
    Returns:
        Ranking.
    """
    probability = np.asarray(probability)
    negatives = probability[~ground_truth]
    with ThreadPoolExecutor(SORTING_THREADS) as threads:  # NumPy sorts outside the interpreter lock
        parts = threads.map(np.sort, np.array_split(negatives, SORTING_THREADS))
        thresholds, counts = np.unique(probability[ground_truth], return_counts=True)
        thresholds, counts = thresholds[::-1], counts[::-1]

        def count_below(part):
            """Counts the sorted negatives below each threshold, and below or at it."""
            return np.stack([np.searchsorted(part, thresholds, side) for side in ("left", "right")])

        below, not_above = sum(threads.map(count_below, list(parts)))
    tp = np.cumsum(counts)
    return Ranking(
        thresholds,
        tp=tp,
        fp=len(negatives) - below,
        tp_above=tp - counts,
        fp_above=len(negatives) - not_above,
        num_negatives=len(negatives),
    )


def roc_and_pr_curves(ranking):
    """Gives the corners of both curves; scikit-learn's have more points on the same lines.

    Args:
        ranking: Ranking.
    Returns:
        {"roc": (false positive rate, true positive rate), "pr": (recall, precision)}, rising along
        the first; recall 0 has precision 1 where nothing is above the highest threshold.
    """
    # Before and at each threshold, and all pixels at last.
    tp = np.append(np.stack([ranking.tp_above, ranking.tp], axis=1).ravel(), ranking.tp[-1])
    fp = np.append(np.stack([ranking.fp_above, ranking.fp], axis=1).ravel(), ranking.num_negatives)
    found = tp + fp
    precision = np.where(found == 0, 1, tp / np.maximum(found, 1))
    recall, fall_out = tp / ranking.tp[-1], fp / ranking.num_negatives
    return {
        "roc": (np.insert(fall_out, 0, 0), np.insert(recall, 0, 0)),
        "pr": (recall, precision),
    }


def areas_under_curves(curves):
    """Computes the areas under both curves by trapezoids.

    Args:
        curves: as roc_and_pr_curves gives them.
    Returns:
        areas under the ROC curve and under the precision-recall curve.
    """
    areas = (np.trapezoid(upwards, along) for along, upwards in curves.values())
    return tuple(float(area) for area in areas)


def best_f1_threshold(ranking):
    """Finds the threshold with the highest F1; for validation images, never for test images.

    Args:
        ranking: Ranking.
    Returns:
        threshold and F1 = 2 TP / (2 TP + FP + FN) there; of several the lowest.
    """
    f1 = 2 * ranking.tp / (ranking.tp + ranking.fp + ranking.tp[-1])
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return float(ranking.thresholds[best]), float(f1[best])


def spread(scores_of_images):
    """Gives mean and standard deviation over images of every single score.

    Args:
        scores_of_images: list of dictionaries as binary_scores gives them.
    Returns:
        {score: {"mean": ..., "std": ...}}; the deviation is that of the population; images for
        which a score is None are left out of it, and a score without any image is None.
    """
    result = {}
    for name in ORIGINAL_NAMES:
        values = [row[name] for row in scores_of_images if row[name] is not None]
        result[name] = None
        if values:
            result[name] = {"mean": float(np.mean(values)), "std": float(np.std(values))}
    return result


def performances_text(performances):
    """Words the scores as performances.txt has them: the original's lines first, in its order.

    Args:
        performances: {"inside_FOV": scores, "whole_image": scores or None, "per_image":
            {"spread": ...}, "second_observer": scores or None, "best_f1": {"threshold", "f1"} or
            None}.
    Returns:
        text of several lines.
    """
    inside = performances["inside_FOV"]
    lines = [_original_line(inside, name) for name in ("auc_roc", "auc_pr")]
    lines.append(
        f"{_original_line(inside, 'jaccard')}  (intersection over union of the vessels; "
        f"retina-unet printed the accuracy under this name: {_shown(inside['accuracy'])})"
    )
    lines += [_original_line(inside, "f1"), "", _confusion_lines(inside)]
    lines += [
        _original_line(inside, name)
        for name in ("accuracy", "sensitivity", "specificity", "precision")
    ]
    lines += ["", "All lines above: pixels inside the field of view, pooled over the images, "]
    lines[-1] += f"vessel at a probability >= {inside['threshold']}."
    if performances.get("best_f1"):
        best = performances["best_f1"]
        lines += [
            "",
            # As many digits as a float32 has: a confident network puts them all close to 1.
            f"Highest F1 on these images: {best['f1']:.4f} at a probability of "
            f"{np.float32(best['threshold'])!s}. For the test images, set [testing settings] "
            "threshold so.",
        ]
    lines += ["", _table(performances)]
    return "\n".join(lines) + "\n"


def _original_line(scores, name):
    return f"{ORIGINAL_NAMES[name]}: {_shown(scores[name])}"


def _confusion_lines(scores):
    (tn, fp), (fn, tp) = scores["confusion_matrix"]
    width = max(len(str(count)) for count in (tn, fp, fn, tp))
    return (
        f"Confusion matrix:[[{tn:>{width}} {fp:>{width}}]\n [{fn:>{width}} {tp:>{width}}]]"
        "  (rows: background, vessel; columns: predicted so)"
    )


def _table(performances):
    """Sets the other counts side by side: whole image, mean of the images, second observer."""
    columns = {
        "inside FOV": performances["inside_FOV"],
        "whole image": performances["whole_image"],
        "second observer": performances.get("second_observer"),
    }
    columns = {title: scores for title, scores in columns.items() if scores}
    header = f"{'':12}" + "".join(f"{title:>17}" for title in columns) + f"{'mean of images':>22}"
    rows = [header]
    for name in ORIGINAL_NAMES:
        cells = "".join(f"{_short(scores.get(name)):>17}" for scores in columns.values())
        over_images = performances["per_image"]["spread"][name]
        mean = f"{over_images['mean']:.4f} +- {over_images['std']:.4f}" if over_images else "-"
        rows.append(f"{name:12}{cells}{mean:>22}")
    return "\n".join(rows)


def _shown(value):
    return "undefined (0/0)" if value is None else f"{value:.12g}"


def _short(value):
    return "-" if value is None else f"{value:.4f}"


def _ratio(numerator, denominator):
    return numerator / denominator if denominator else None
