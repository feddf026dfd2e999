"""Figures of a binary segmentation, pooled over pixels and image by image."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

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


def binary_figures(ground_truth, probability, threshold=0.5):
    """Computes the figures of a segmentation in two classes.

    TP, FP, FN, TN are counted at probability >= threshold, as the original does.

    Args:
        ground_truth: (num_pixels,) 0 or 1.
        probability: (num_pixels,) in [0, 1].
        threshold: from which probability on a pixel counts as vessel.
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
    figures = confusion_figures(ground_truth, probability >= threshold)
    figures.update(threshold=threshold, auc_roc=None, auc_pr=None)
    if ground_truth.any() and not ground_truth.all():
        figures["auc_roc"], figures["auc_pr"] = areas_under_curves(ground_truth, probability)
    return figures


def confusion_figures(ground_truth, prediction):
    """Computes the figures of binary_figures that need no probability.

    Args:
        ground_truth: (num_pixels,) bool.
        prediction: (num_pixels,) bool.
    Returns:
        dictionary as binary_figures, without areas and threshold.
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


def areas_under_curves(ground_truth, probability):
    """Computes the areas under both curves of roc_and_pr_curves, by trapezoids, to the same value.

    The curves are not needed for it: both areas grow only where a threshold takes in further
    positives. Sorting the negatives by themselves, without carrying labels along and a part on each
    core, is twenty times faster for the 4.5 million pixels of DRIVE.

    Args:
        ground_truth: (num_pixels,) bool, both classes present.
        probability: (num_pixels,) float.
    Returns:
        areas under the ROC curve and under the precision-recall curve.
    """
    probability = np.asarray(probability)
    negatives = probability[~ground_truth]
    thresholds, counts = np.unique(probability[ground_truth], return_counts=True)

    def count_reached(part):
        """Counts the negatives of a part that are at or above each threshold, and above it."""
        ordered = np.sort(part)
        sides = (np.searchsorted(ordered, thresholds, side) for side in ("left", "right"))
        return [len(ordered) - below for below in sides]

    with ThreadPoolExecutor() as threads:  # NumPy sorts outside the interpreter's lock
        parts = np.array_split(negatives, os.cpu_count())
        fp, fp_above = np.sum(list(threads.map(count_reached, parts)), axis=0)
    tp = np.cumsum(counts[::-1])[::-1]
    tp_above = tp - counts
    recall_step = counts / tp[0]
    roc = np.sum(recall_step * (1 - (fp + fp_above) / (2 * len(negatives))))
    # Nothing above the highest threshold: the curve starts at precision 1.
    nothing = tp_above + fp_above == 0
    precision_above = np.where(nothing, 1, tp_above / np.maximum(tp_above + fp_above, 1))
    pr = np.sum(recall_step * (tp / (tp + fp) + precision_above) / 2)
    return float(roc), float(pr)


def roc_and_pr_curves(ground_truth, probability):
    """Computes both curves.

    Args:
        ground_truth: (num_pixels,) bool, both classes present.
        probability: (num_pixels,) float.
    Returns:
        {"roc": (false positive rate, true positive rate), "pr": (recall, precision)}.
    """
    false_positive_rate, true_positive_rate, _ = roc_curve(ground_truth, probability)
    precision, recall, _ = precision_recall_curve(ground_truth, probability)
    return {"roc": (false_positive_rate, true_positive_rate), "pr": (recall, precision)}


def best_f1_threshold(ground_truth, probability):
    """Finds the threshold with the highest F1; for validation images, never for test images.

    Args:
        ground_truth: (num_pixels,) bool, with a vessel at least.
        probability: (num_pixels,) float.
    Returns:
        threshold and F1 = 2 precision recall / (precision + recall) there; of several the lowest.
    """
    precision, recall, thresholds = precision_recall_curve(ground_truth, probability)
    # The curve's last point, precision 1 at recall 0, has no threshold.
    total = np.maximum(precision + recall, np.finfo(float).tiny)[:-1]
    f1 = 2 * precision[:-1] * recall[:-1] / total
    best = int(np.argmax(f1))
    return float(thresholds[best]), float(f1[best])


def spread(figures_of_images):
    """Gives mean and standard deviation over images of every single figure.

    Args:
        figures_of_images: list of dictionaries as binary_figures gives them.
    Returns:
        {figure: {"mean": ..., "std": ...}}; the deviation is that of the population; images for
        which a figure is None are left out of it, and a figure without any image is None.
    """
    result = {}
    for name in ORIGINAL_NAMES:
        values = [row[name] for row in figures_of_images if row[name] is not None]
        result[name] = None
        if values:
            result[name] = {"mean": float(np.mean(values)), "std": float(np.std(values))}
    return result


def performances_text(performances):
    """Words the figures as performances.txt has them: the original's lines first, in its order.

    Args:
        performances: {"inside_FOV": figures, "whole_image": figures, "per_image": {"spread": ...},
            "second_observer": figures or None}.
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
    lines += ["", _table(performances)]
    return "\n".join(lines) + "\n"


def _original_line(figures, name):
    return f"{ORIGINAL_NAMES[name]}: {_shown(figures[name])}"


def _confusion_lines(figures):
    (tn, fp), (fn, tp) = figures["confusion_matrix"]
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
    columns = {title: figures for title, figures in columns.items() if figures}
    header = f"{'':12}" + "".join(f"{title:>17}" for title in columns) + f"{'mean of images':>22}"
    rows = [header]
    for name in ORIGINAL_NAMES:
        cells = "".join(f"{_short(figures.get(name)):>17}" for figures in columns.values())
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
