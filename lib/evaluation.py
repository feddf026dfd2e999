"""Scores of a binary segmentation, pooled over pixels and image by image.

Inside the field of view and over the whole image scores differ by the surround, which is background
that every network finds. Where all of it is scored below every vessel, with n and N background
pixels, and m and M pixels in all, inside and in the whole image:

    AUC_inside = 1 - (1 - AUC_whole) * N / n
    accuracy_inside = 1 - (1 - accuracy_whole) * M / m

because each share of background that is scored above a vessel, and each share of errors, is
thinned out by pixels that are never wrong. On DRIVE's test images N / n = 1 / 0.6578 and
M / m = 1.4542. F1, precision and sensitivity do not count background found, so they stay.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from skimage.morphology import skeletonize

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
# Beside them, what the original does not have.
FURTHER_NAMES = ("cldice",)


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
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "precision": ratio(tp, tp + fp),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "jaccard": ratio(tp, tp + fp + fn),
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


def thinned(x, y, most):
    """Takes at most so many points of a curve, evenly spaced along it; all of a short one."""
    x, y = np.asarray(x), np.asarray(y)
    if len(x) <= most:
        return x, y
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    keep = np.unique(np.searchsorted(length, np.linspace(0, length[-1], most)))
    return x[keep], y[keep]


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


def best_accuracy_threshold(ranking):
    """Finds the threshold with the highest accuracy; for validation images, never for test images.

    Among the thresholds that find a vessel pixel: where calling everything background is better
    still, the best of them is given all the same.

    Args:
        ranking: Ranking.
    Returns:
        threshold and accuracy = (TP + TN) / all there; of several the lowest.
    """
    right = ranking.tp + ranking.num_negatives - ranking.fp
    best = len(right) - 1 - int(np.argmax(right[::-1]))
    accuracy = right[best] / (ranking.tp[-1] + ranking.num_negatives)
    return float(ranking.thresholds[best]), float(accuracy)


def skeleton_counts(ground_truth, prediction):
    """Counts how much of each skeleton lies on the vessels of the other segmentation.

    Args:
        ground_truth: (height, width) bool.
        prediction: (height, width) bool.
    Returns:
        (4,) int64: pixels of the prediction's skeleton, those of them on vessels of the ground
        truth, pixels of the ground truth's skeleton, those of them on vessels of the prediction.
        Counts of several images may be added up for cl_dice.
    """
    counts = []
    for vessels, others in ((prediction, ground_truth), (ground_truth, prediction)):
        skeleton = skeletonize(vessels)
        counts += [np.count_nonzero(skeleton), np.count_nonzero(skeleton & others)]
    return np.array(counts)


def cl_dice(counts):
    """Computes the centreline Dice: whether vessels are connected as they should be.

    Shit et al. 2021 (CVPR), section 3: the harmonic mean 2 P S / (P + S) of topology precision P,
    the share of the prediction's skeleton on true vessels, and topology sensitivity S, the share of
    the true skeleton on predicted vessels. A thin vessel counts as much as a wide one.

    Args:
        counts: (4,) as skeleton_counts gives them.
    Returns:
        number in [0, 1]; 0 where one segmentation has no vessel, None where neither has.
    """
    predicted, on_truth, true, on_prediction = map(int, counts)
    if not predicted and not true:
        return None
    both = on_truth * true + on_prediction * predicted
    return 2 * on_truth * on_prediction / both if both else 0.0


def spread(scores_of_images):
    """Gives mean and standard deviation over images of every single score.

    Args:
        scores_of_images: list of dictionaries as binary_scores gives them, perhaps with those of
            FURTHER_NAMES.
    Returns:
        {score: {"mean": ..., "std": ...}}; the deviation is that of the population; images for
        which a score is None are left out of it, and a score without any image is None.
    """
    result = {}
    further = [name for name in FURTHER_NAMES if any(name in row for row in scores_of_images)]
    for name in (*ORIGINAL_NAMES, *further):
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
            None}; perhaps "per_image_whole" like per_image, "best_accuracy" like best_f1, and
            "at_accuracy_threshold": scores with mean_of_images.
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
    lines += [*_best_lines(performances), *_accuracy_lines(performances), "", _table(performances)]
    return "\n".join(lines) + "\n"


def _best_lines(performances):
    """Words at which thresholds F1 and accuracy are highest."""
    lines = []
    for name, title, key in (
        ("f1", "F1", "threshold"),
        ("accuracy", "accuracy", "accuracy_threshold"),
    ):
        best = performances.get(f"best_{name}")
        if best:
            lines += [
                "",
                # As many digits as a float32 has: a confident network puts them all close to 1.
                f"Highest {title} on these images: {best[name]:.4f} at a probability of "
                f"{np.float32(best['threshold'])!s}. For the test images, set [testing settings] "
                f"{key} so.",
            ]
    return lines


def _accuracy_lines(performances):
    """Words the scores at the threshold that was chosen for the accuracy."""
    scores = performances.get("at_accuracy_threshold")
    if not scores:
        return []
    mean = scores["mean_of_images"]
    return [
        "",
        f"At a probability >= {scores['threshold']}, chosen for the accuracy: accuracy "
        f"{_short(scores['accuracy'])} (mean of images {_short(mean['accuracy'])}), F1 "
        f"{_short(scores['f1'])} (mean of images {_short(mean['f1'])}), sensitivity "
        f"{_short(scores['sensitivity'])}, specificity {_short(scores['specificity'])}.",
    ]


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
    """Sets the other counts side by side: whole image, second observer, means of the images."""
    columns = {
        "inside FOV": performances["inside_FOV"],
        "whole image": performances["whole_image"],
        "second observer": performances.get("second_observer"),
    }
    columns = {title: scores for title, scores in columns.items() if scores}
    means = {
        "mean of images": performances["per_image"],
        "mean of whole images": performances.get("per_image_whole"),
    }
    means = {title: scores["spread"] for title, scores in means.items() if scores}
    titles = "".join(f"{title:>17}" for title in columns) + "".join(f"{t:>22}" for t in means)
    rows = [f"{'':12}{titles}"]
    for name in performances["per_image"]["spread"]:
        cells = "".join(f"{_short(scores.get(name)):>17}" for scores in columns.values())
        cells += "".join(f"{_mean_of(over_images.get(name)):>22}" for over_images in means.values())
        rows.append(f"{name:12}{cells}")
    return "\n".join(rows)


def _mean_of(over_images):
    return f"{over_images['mean']:.4f} +- {over_images['std']:.4f}" if over_images else "-"


def _shown(value):
    return "undefined (0/0)" if value is None else f"{value:.12g}"


def _short(value):
    return "-" if value is None else f"{value:.4f}"


def ratio(numerator, denominator):
    """Divides; None where it is 0/0."""
    return numerator / denominator if denominator else None
