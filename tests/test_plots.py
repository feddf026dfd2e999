"""Tests that curves are drawn without a screen and say what they should."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from lib import plots

PROJECT = Path(__file__).resolve().parents[1]
HISTORY = [
    {"epoch": 1, "loss": 0.7, "val_loss": 0.6},
    {"epoch": 2, "loss": 0.5, "val_loss": 0.4},
    {"epoch": 3, "loss": 0.3, "val_loss": 0.45},
]


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the axes that are drawn, to look at what they show."""
    kept = []
    subplots = plots.plt.subplots

    def keeping(*arguments, **options):
        figure, axes = subplots(*arguments, **options)
        kept.append(axes)
        return figure, axes

    monkeypatch.setattr(plots.plt, "subplots", keeping)
    return kept


def size_of(path):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


def labels_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_backend_needs_no_screen():
    assert matplotlib.get_backend().lower() == "agg"


def test_agg_is_chosen_whatever_the_environment_says():
    code = "import lib.plots, matplotlib; print(matplotlib.get_backend())"
    environment = {**os.environ, "MPLBACKEND": "TkAgg", "PYTHONPATH": str(PROJECT)}
    environment.pop("DISPLAY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().lower() == "agg"


def test_loss_curves_mark_the_best_epoch(tmp_path, drawn):
    path = tmp_path / "loss_curves.png"
    plots.draw_loss_curves(HISTORY, path)
    # 7 x 5 inches at 100 dots an inch, cut to what is drawn.
    width, height = size_of(path)
    assert 550 < width <= 720
    assert 400 < height <= 520
    (axes,) = drawn
    assert labels_of(axes) == ["training", "validation", "best: 0.4000 in epoch 2"]
    training, validation, best = axes.lines
    np.testing.assert_array_equal(training.get_xydata(), [[1, 0.7], [2, 0.5], [3, 0.3]])
    np.testing.assert_array_equal(validation.get_ydata(), [0.6, 0.4, 0.45])
    np.testing.assert_array_equal(best.get_xydata(), [[2, 0.4]])


def test_loss_curves_mark_the_epoch_of_the_best_weights(tmp_path, drawn):
    history = [{**row, "val_mean_iou": iou} for row, iou in zip(HISTORY, (0.5, 0.6, 0.8))]
    plots.draw_loss_curves(history, tmp_path / "curves.png", "val_mean_iou")
    (axes,) = drawn
    assert labels_of(axes)[-1] == "best val_mean_iou: 0.8000 in epoch 3"
    np.testing.assert_array_equal(axes.lines[-1].get_xydata(), [[3, 0.45]])


def test_loss_curves_of_one_epoch(tmp_path):
    plots.draw_loss_curves(HISTORY[:1], tmp_path / "curves.png")
    assert min(size_of(tmp_path / "curves.png")) > 400


def test_roc_with_chance_and_second_observer(tmp_path, drawn):
    path = tmp_path / "ROC.png"
    plots.draw_roc([0, 0.1, 1], [0, 0.8, 1], 0.85, path, observer=(0.97, 0.77))
    assert min(size_of(path)) > 450
    (axes,) = drawn
    assert labels_of(axes) == ["AUC = 0.8500", "chance", "second human observer"]
    curve, chance, observer = axes.lines
    np.testing.assert_array_equal(curve.get_xydata(), [[0, 0], [0.1, 0.8], [1, 1]])
    np.testing.assert_array_equal(chance.get_xydata(), [[0, 0], [1, 1]])
    # specificity 0.97 lies at 1 - 0.97 on the axis
    np.testing.assert_allclose(observer.get_xydata(), [[0.03, 0.77]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("1 - specificity", "sensitivity")


def test_precision_recall_with_second_observer(tmp_path, drawn):
    path = tmp_path / "Precision_recall.png"
    plots.draw_precision_recall([1, 0.5, 0], [0.2, 0.8, 1], 0.7, path, observer=(0.77, 0.8))
    assert min(size_of(path)) > 450
    (axes,) = drawn
    assert labels_of(axes) == ["area = 0.7000", "second human observer"]
    np.testing.assert_array_equal(axes.lines[1].get_xydata(), [[0.77, 0.8]])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")


def test_curves_without_observer_have_no_mark_for_one(tmp_path, drawn):
    plots.draw_roc([0, 1], [0, 1], 0.5, tmp_path / "ROC.png")
    for without in (None, (0.0, None)):
        plots.draw_precision_recall([1, 0], [0, 1], 0.5, tmp_path / "PR.png", without)
    assert [len(axes.lines) for axes in drawn] == [2, 1, 1]


def test_figures_are_closed(tmp_path):
    plots.draw_roc([0, 1], [0, 1], 0.5, tmp_path / "ROC.png")
    assert plots.plt.get_fignums() == []


def test_names_of_classes_are_no_formulas(tmp_path):
    plots.draw_confusion_matrix(np.eye(2), ["a $\\frac{$ b", "$x^2$"], tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 0
