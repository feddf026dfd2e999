"""Curves as PNG files, drawn without a screen: Agg is chosen before pyplot is loaded."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from lib.evaluation import thinned  # noqa: E402
from lib.files import atomic_write  # noqa: E402
from lib.history import best_epoch  # noqa: E402

# A curve through every pixel has millions of points; more than these cannot be told apart.
MOST_POINTS = 5000


def draw_loss_curves(history, path, best_by="val_loss"):
    """Draws training and validation loss over the epochs and marks the best epoch.

    Args:
        history: dictionaries with epoch, loss and, if there was validation, val_loss.
        path: the PNG file.
        best_by: name of the metric that chooses the best weights.
    """
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(figsize=(7, 5))
    axes.plot(epochs, [row["loss"] for row in history], marker=".", label="training")
    if "val_loss" in history[0]:
        axes.plot(epochs, [row["val_loss"] for row in history], marker=".", label="validation")
        if best := best_epoch(history, best_by):
            what = "best" if best_by == "val_loss" else f"best {best_by}"
            label = f"{what}: {best[best_by]:.4f} in epoch {best['epoch']}"
            axes.plot(best["epoch"], best["val_loss"], "k*", markersize=12, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    _finish(figure, axes, path, title="Loss", x="epoch", y="loss")


def draw_roc(false_positive_rate, true_positive_rate, area, path, observer=None):
    """Draws the receiver operating characteristic.

    Args:
        false_positive_rate: 1 - specificity at falling thresholds.
        true_positive_rate: sensitivity at the same thresholds.
        area: area under the curve.
        path: the PNG file.
        observer: (specificity, sensitivity) of a second human observer, drawn as a point.
    """
    figure, axes = plt.subplots(figsize=(6, 6))
    rates = thinned(false_positive_rate, true_positive_rate, MOST_POINTS)
    axes.plot(*rates, label=f"AUC = {area:.4f}")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--", label="chance")
    if observer:
        specificity, sensitivity = observer
        axes.plot(1 - specificity, sensitivity, "r^", label="second human observer")
    _finish(
        figure, axes, path, title="ROC curve", x="1 - specificity", y="sensitivity", square=True
    )


def draw_precision_recall(recall, precision, area, path, observer=None):
    """Draws the precision-recall curve; observer = (recall, precision) adds a point.

    An observer who marked nothing has no precision, and no point.
    """
    figure, axes = plt.subplots(figsize=(6, 6))
    axes.plot(*thinned(recall, precision, MOST_POINTS), label=f"area = {area:.4f}")
    if observer and observer[1] is not None:
        axes.plot(*observer, "r^", label="second human observer")
    _finish(
        figure, axes, path, title="Precision-recall curve", x="recall", y="precision", square=True
    )


def draw_confusion_matrix(matrix, names, path):
    """Draws which share of the pixels of each true class was given to which class.

    Args:
        matrix: (K, K) counts: true class, predicted class.
        names: of the K classes.
        path: the PNG file.
    """
    matrix = np.asarray(matrix, float)
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    side = 3 + 0.6 * len(names)
    figure, axes = plt.subplots(figsize=(side, side))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for place, share in np.ndenumerate(shares):
        text = "-" if np.isnan(share) else f"{share:.2f}"
        colour = "white" if share > 0.5 else "black"
        axes.text(*place[::-1], text, ha="center", va="center", color=colour)
    plain = {"parse_math": False}  # a name is no formula
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(names)), names, **turned, **plain)
    axes.set_yticks(range(len(names)), names, **plain)
    axes.set(title="Share of each true class", xlabel="predicted", ylabel="true")
    _save(figure, path)


def _finish(figure, axes, path, *, title, x, y, square=False):
    axes.set(title=title, xlabel=x, ylabel=y)
    if square:
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _save(figure, path):
    with atomic_write(path) as beside:
        figure.savefig(beside, dpi=100, bbox_inches="tight", format="png")
    plt.close(figure)
