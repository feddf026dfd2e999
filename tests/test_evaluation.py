"""Tests of the figures against tables counted by hand and against the published ones."""

import numpy as np
import pytest
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from lib import evaluation as ev

# Eight pixels, threshold 0.5:  TN 0.1, 0.4;  FP 0.5, 0.9;  FN 0.2;  TP 0.6, 0.7, 0.8
TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PROBABILITY = np.array([0.1, 0.4, 0.5, 0.9, 0.2, 0.6, 0.7, 0.8])
AREA_PR = (0 + 1 / 2 + 1 / 2 + 2 / 3 + 2 / 3 + 3 / 4 + 3 / 6 + 4 / 7) / 8


def pixels_of(confusion_matrix):
    """Ground truth and prediction with a given confusion matrix."""
    counts = np.ravel(confusion_matrix)
    truth, prediction = np.array([0, 0, 1, 1], bool), np.array([0, 1, 0, 1], bool)
    return np.repeat(truth, counts), np.repeat(prediction, counts)


def test_figures_of_eight_pixels_by_hand():
    figures = ev.binary_scores(TRUTH, PROBABILITY)
    assert figures["confusion_matrix"] == [[2, 2], [1, 3]]
    assert figures["accuracy"] == 5 / 8
    assert figures["sensitivity"] == 3 / 4
    assert figures["specificity"] == 2 / 4
    assert figures["precision"] == 3 / 5
    assert figures["f1"] == pytest.approx(2 * 3 / (2 * 3 + 2 + 1))
    assert figures["jaccard"] == 3 / 6
    assert figures["threshold"] == 0.5
    # Of the 4 * 4 pairs of a vessel and a background pixel, the vessel is above in
    # 1 (0.2) + 3 (0.6) + 3 (0.7) + 3 (0.8) = 10.
    assert figures["auc_roc"] == pytest.approx(10 / 16)
    # Recall and precision at falling thresholds: (0, 1), (0, 0/1), (1/4, 1/2), (2/4, 2/3),
    # (3/4, 3/4), (3/4, 3/5), (3/4, 3/6), (1, 4/7), with 0.1 (1, 4/8) behind. Trapezoids:
    # 1/4 * ((0 + 1/2) / 2 + (1/2 + 2/3) / 2 + (2/3 + 3/4) / 2 + (3/6 + 4/7) / 2) = AREA_PR
    assert figures["auc_pr"] == pytest.approx(AREA_PR)


def test_a_probability_of_exactly_the_threshold_is_vessel():
    figures = ev.binary_scores(np.array([1, 0]), np.array([0.5, 0.4999]))
    assert figures["confusion_matrix"] == [[1, 0], [0, 1]]
    figures = ev.binary_scores(np.array([1, 0]), np.array([0.3, 0.2]), threshold=0.3)
    assert figures["confusion_matrix"] == [[1, 0], [0, 1]]


def test_published_confusion_matrix_gives_the_published_figures():
    # performances.txt of retina-unet; its "Jaccard", .955983978469, is the accuracy.
    figures = ev.confusion_scores(*pixels_of([[3895256, 65238], [134513, 443136]]))
    published = {
        "accuracy": 0.955983978469,
        "sensitivity": 0.767137136912,
        "specificity": 0.98352781244,
        "precision": 0.871673216962,
        "f1": 0.816071114516,
    }
    assert {name: figures[name] for name in published} == pytest.approx(published, abs=1e-11)
    # The true one: 443136 / (443136 + 65238 + 134513)
    assert figures["jaccard"] == pytest.approx(0.689291, abs=1e-6)


def test_pixels_of_the_published_table_are_those_inside_drives_masks():
    truth, _ = pixels_of([[3895256, 65238], [134513, 443136]])
    assert (len(truth), np.count_nonzero(truth)) == (4538143, 577649)


@pytest.mark.parametrize(
    ("truth", "probability", "undefined", "defined"),
    [
        # background only, rightly seen: nothing was vessel, nothing was called so
        (0, 0.1, {"sensitivity", "precision", "f1", "jaccard"}, {"accuracy": 1, "specificity": 1}),
        # background only, all called vessel
        (
            0,
            0.9,
            {"sensitivity"},
            {"accuracy": 0, "specificity": 0, "precision": 0, "f1": 0, "jaccard": 0},
        ),
        # vessel only, all missed
        (
            1,
            0.1,
            {"specificity", "precision"},
            {"accuracy": 0, "sensitivity": 0, "f1": 0, "jaccard": 0},
        ),
        # vessel only, all found
        (
            1,
            0.9,
            {"specificity"},
            {"accuracy": 1, "sensitivity": 1, "precision": 1, "f1": 1, "jaccard": 1},
        ),
    ],
)
def test_one_class_only_leaves_undefined_what_is_0_over_0(truth, probability, undefined, defined):
    figures = ev.binary_scores(np.full(5, truth), np.full(5, probability))
    assert {name for name in ev.ORIGINAL_NAMES if figures[name] is None} == undefined | {
        "auc_roc",
        "auc_pr",
    }
    assert {name: figures[name] for name in defined} == defined


def test_no_pixel_at_all_gives_no_figure():
    figures = ev.binary_scores(np.zeros(0, int), np.zeros(0))
    assert figures["confusion_matrix"] == [[0, 0], [0, 0]]
    assert {figures[name] for name in ev.ORIGINAL_NAMES} == {None}


def test_constant_probability_is_chance():
    figures = ev.binary_scores(TRUTH, np.full(8, 0.5))
    assert figures["auc_roc"] == pytest.approx(0.5)


@pytest.mark.parametrize("decimals", [1, 2, 7])
def test_curves_and_areas_are_scikit_learns(rng, decimals):
    # Few decimals make many equal probabilities, within a class and between both.
    probability = np.round(rng.random(3000, np.float32), decimals)
    truth = rng.random(3000) < probability**2
    fall_out, recall, _ = roc_curve(truth, probability, drop_intermediate=False)
    precision, recall_of_precision, _ = precision_recall_curve(truth, probability)
    ranking = ev.rank_pixels(truth, probability)
    expected = [auc(fall_out, recall), auc(recall_of_precision, precision)]
    curves = ev.roc_and_pr_curves(ranking)
    assert ev.areas_under_curves(curves) == pytest.approx(expected, abs=1e-12)
    # Every corner of ours is a point of scikit-learn's, and both begin and end alike.
    theirs = {"roc": (fall_out, recall), "pr": (recall_of_precision, precision)}
    for name, points in theirs.items():
        known = {(round(x, 9), round(y, 9)) for x, y in zip(*points)}
        ours = [(round(x, 9), round(y, 9)) for x, y in zip(*curves[name])]
        assert set(ours) <= known
        assert np.all(np.diff(curves[name][0]) >= 0)
        assert {ours[0], ours[-1]} <= {
            (round(points[0][i], 9), round(points[1][i], 9)) for i in (0, -1)
        }


def test_ranking_of_eight_pixels_by_hand():
    ranking = ev.rank_pixels(TRUTH > 0, PROBABILITY)
    np.testing.assert_array_equal(ranking.thresholds, [0.8, 0.7, 0.6, 0.2])
    np.testing.assert_array_equal(ranking.tp, [1, 2, 3, 4])
    np.testing.assert_array_equal(ranking.fp, [1, 1, 1, 3])  # 0.9; 0.5 and 0.4 from 0.2 on
    np.testing.assert_array_equal(ranking.tp_above, [0, 1, 2, 3])
    np.testing.assert_array_equal(ranking.fp_above, [1, 1, 1, 3])
    assert ranking.num_negatives == 4


def test_perfect_and_inverted_answers():
    assert ev.binary_scores(TRUTH, TRUTH * 1.0)["auc_roc"] == 1
    assert ev.binary_scores(TRUTH, TRUTH * 1.0)["auc_pr"] == 1
    assert ev.binary_scores(TRUTH, 1 - TRUTH * 1.0)["auc_roc"] == 0


def test_auc_is_the_share_of_ordered_pairs(rng):
    truth = rng.random(200) < 0.3
    probability = np.round(rng.random(200) * 0.7 + truth * 0.3, 2)  # with ties
    above = probability[truth][:, None] - probability[~truth][None]
    expected = np.mean((above > 0) + 0.5 * (above == 0))
    assert ev.binary_scores(truth, probability)["auc_roc"] == pytest.approx(expected)


def test_only_pixels_inside_the_fov_are_kept_image_after_image():
    probabilities = np.arange(8.0).reshape(2, 1, 2, 2)
    masks = np.array([[0, 1], [255, 0], [0, 0], [0, 1]]).reshape(2, 1, 2, 2)
    probability, truth = ev.pred_only_FOV(probabilities, probabilities * 10, masks)
    np.testing.assert_array_equal(probability, [1, 2, 7])
    np.testing.assert_array_equal(truth, [10, 20, 70])


def test_best_threshold_by_hand():
    # At 0.6: two of two vessels and no background found but one; F1 = 2 * 2 / (2 * 2 + 1) = 0.8.
    truth = np.array([0, 0, 1, 0, 1, 0], bool)
    probability = np.array([0.1, 0.2, 0.6, 0.7, 0.8, 0.3])
    threshold, f1 = ev.best_f1_threshold(ev.rank_pixels(truth, probability))
    assert (threshold, f1) == (0.6, pytest.approx(0.8))
    assert ev.binary_scores(truth, probability, threshold)["f1"] == pytest.approx(0.8)


@pytest.mark.parametrize("best", [0.99998939, 0.000528, 1e-7])
def test_the_threshold_that_is_told_gives_the_f1_that_is_told(rng, best):
    truth = rng.random(500) < 0.3
    probability = (best * np.where(truth, 1 + 1e-6, 1 - 1e-6)).astype(np.float32)
    probability += (rng.random(500) * best * 1e-7).astype(np.float32)
    ranking = ev.rank_pixels(truth, probability)
    performances = {
        "inside_FOV": ev.binary_scores(truth, probability),
        "whole_image": None,
        "per_image": {"spread": dict.fromkeys(ev.ORIGINAL_NAMES)},
        "second_observer": None,
        "best_f1": dict(zip(("threshold", "f1"), ev.best_f1_threshold(ranking))),
    }
    text = ev.performances_text(performances)
    told = float(text.partition("at a probability of ")[2].partition(". For")[0])
    f1 = ev.binary_scores(truth, probability, told)["f1"]
    assert f1 == pytest.approx(performances["best_f1"]["f1"], abs=1e-12)
    assert f1 > 0.99


def test_of_several_best_thresholds_the_lowest():
    # At 0.9 one of three vessels and no background: 2 / (2 + 0 + 2); at 0.2 all: 6 / (6 + 6 + 0).
    truth = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    probability = np.array([0.9, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])
    assert ev.best_f1_threshold(ev.rank_pixels(truth, probability)) == (0.2, 0.5)


def test_the_threshold_of_the_highest_accuracy_by_hand():
    # At or above 0.8: 1 vessel, no background: 1 + 4 of 6 right; at 0.6: 2 vessels, one background:
    # 2 + 3 = 5 right too, and it is the lower one. F1 is highest there as well.
    truth = np.array([0, 0, 1, 0, 1, 0], bool)
    probability = np.array([0.1, 0.2, 0.6, 0.7, 0.8, 0.3])
    ranking = ev.rank_pixels(truth, probability)
    threshold, accuracy = ev.best_accuracy_threshold(ranking)
    assert (threshold, accuracy) == (0.6, pytest.approx(5 / 6))
    assert ev.binary_scores(truth, probability, threshold)["accuracy"] == accuracy
    # One more background pixel between them, and accuracy asks for the higher threshold, F1 not.
    truth, probability = np.append(truth, False), np.append(probability, 0.65)
    ranking = ev.rank_pixels(truth, probability)
    assert ev.best_accuracy_threshold(ranking) == (0.8, pytest.approx(6 / 7))
    assert ev.best_f1_threshold(ranking)[0] == 0.6  # 4 / (4 + 2) = 2 / (2 + 1): the lower one


@pytest.mark.parametrize("share_outside", [0.1, 0.5])
def test_a_surround_that_is_scored_right_relates_inside_and_whole_image(rng, share_outside):
    truth = rng.random(4000) < 0.15
    probability = np.round(0.1 + 0.6 * rng.random(4000) + 0.3 * truth * rng.random(4000), 3)
    outside = int(4000 * share_outside)
    inside = ev.binary_scores(truth, probability)
    whole_truth = np.append(truth, np.zeros(outside, bool))
    whole = ev.binary_scores(whole_truth, np.append(probability, np.zeros(outside)))
    background = np.count_nonzero(~truth)
    for name, inner, outer in (
        ("auc_roc", background, background + outside),
        ("accuracy", 4000, 4000 + outside),
    ):
        assert inside[name] == pytest.approx(1 - (1 - whole[name]) * outer / inner, abs=1e-12)
    assert inside["f1"] == whole["f1"] and inside["precision"] == whole["precision"]


def test_cl_dice_by_hand():
    truth = np.zeros((9, 20), bool)
    truth[3:6, 2:18] = True  # a bar of 3 x 16 pixels
    prediction = np.zeros_like(truth)
    prediction[4, 2:10] = True  # half of its middle line
    prediction[0, 12:16] = True  # and a line of 4 pixels beside it
    predicted, on_truth, true, on_prediction = ev.skeleton_counts(truth, prediction)
    assert (predicted, on_truth) == (12, 8)  # a line is its own skeleton
    assert 10 <= true <= 16 and 0 < on_prediction <= 8
    precision, sensitivity = 8 / 12, on_prediction / true
    expected = 2 * precision * sensitivity / (precision + sensitivity)
    assert ev.cl_dice((predicted, on_truth, true, on_prediction)) == pytest.approx(expected)
    assert ev.cl_dice(ev.skeleton_counts(truth, truth)) == 1
    assert ev.cl_dice(ev.skeleton_counts(truth, ~truth & False)) == 0
    assert ev.cl_dice(ev.skeleton_counts(truth & False, truth & False)) is None
    # A wide vessel that is seen far too wide is still connected: Dice is low, clDice is not.
    wide = np.ones_like(truth)
    assert ev.confusion_scores(truth.ravel(), wide.ravel())["f1"] < 0.5
    assert ev.cl_dice(ev.skeleton_counts(truth, wide)) > 0.8


def test_spread_over_images_leaves_out_undefined_figures():
    undefined = dict.fromkeys(ev.ORIGINAL_NAMES)
    rows = [{**undefined, "f1": 0.5}, {**undefined, "f1": 0.7}, undefined]
    spread = ev.spread(rows)
    assert list(spread) == list(ev.ORIGINAL_NAMES)
    # mean (0.5 + 0.7) / 2, deviation of the population sqrt(0.1^2)
    assert spread["f1"] == pytest.approx({"mean": 0.6, "std": 0.1})
    assert spread["accuracy"] is None


# ---------------------------------------------------------------- performances.txt


def performances(second_observer=None):
    figures = ev.binary_scores(TRUTH, PROBABILITY)
    return {
        "inside_FOV": figures,
        "whole_image": ev.binary_scores(TRUTH, 1 - PROBABILITY),
        "per_image": {"spread": ev.spread([figures])},
        "second_observer": second_observer,
    }


def test_text_has_the_originals_lines_in_its_order():
    lines = ev.performances_text(performances()).splitlines()
    assert lines[:11] == [
        "Area under the ROC curve: 0.625",
        f"Area under Precision-Recall curve: {AREA_PR:.12g}",
        "Jaccard similarity score: 0.5  (intersection over union of the vessels; "
        "retina-unet printed the accuracy under this name: 0.625)",
        "F1 score (F-measure): 0.666666666667",
        "",
        "Confusion matrix:[[2 2]",
        " [1 3]]  (rows: background, vessel; columns: predicted so)",
        "ACCURACY: 0.625",
        "SENSITIVITY: 0.75",
        "SPECIFICITY: 0.5",
        "PRECISION: 0.6",
    ]
    assert "inside the field of view" in lines[12]
    assert "vessel at a probability >= 0.5." in lines[12]


def test_text_begins_as_the_published_one_does(unet_test_data):
    published = (unet_test_data / "orobix_test" / "performances.txt").read_text()
    names = [line.split(":")[0] for line in published.splitlines() if ":" in line]
    written = ev.performances_text(performances()).splitlines()
    begins = [line.split(":")[0] for line in written[:11] if ":" in line and line[0] != " "]
    assert begins == names


def test_confusion_matrix_is_aligned_as_the_original_prints_it():
    table = performances()
    table["inside_FOV"]["confusion_matrix"] = [[3895256, 65238], [134513, 443136]]
    text = ev.performances_text(table)
    assert "Confusion matrix:[[3895256   65238]\n [ 134513  443136]]" in text


def test_table_has_columns_for_whole_image_second_observer_and_mean():
    observer = ev.confusion_scores(*pixels_of([[6, 0], [1, 1]]))
    lines = ev.performances_text(performances(observer)).splitlines()
    header = next(i for i, line in enumerate(lines) if "whole image" in line)
    assert lines[header].split("  ")[-1].strip() == "mean of images"
    assert "second observer" in lines[header]
    f1 = next(line for line in lines[header:] if line.startswith("f1"))
    # whole image: at 1 - p >= 0.5 the table is TN 1, FP 3, FN 3, TP 1: f1 = 2 / (2 + 3 + 3);
    # observer: 2 * 1 / (2 * 1 + 0 + 1)
    assert f1.split() == ["f1", "0.6667", "0.2500", "0.6667", "0.6667", "+-", "0.0000"]


def test_text_has_what_the_original_lacks():
    table = performances()
    scores = {**table["inside_FOV"], "cldice": 0.75}
    table["inside_FOV"] = scores
    table["per_image"] = table["per_image_whole"] = {"spread": ev.spread([scores])}
    table["best_f1"] = {"threshold": 0.25, "f1": 0.8}
    table["best_accuracy"] = {"threshold": 0.75, "accuracy": 0.9}
    means = {"accuracy": 0.6, "f1": None}
    table["at_accuracy_threshold"] = {**scores, "threshold": 0.75, "mean_of_images": means}
    text = ev.performances_text(table)
    assert "Highest F1 on these images: 0.8000 at a probability of 0.25. For the test" in text
    assert "Highest accuracy on these images: 0.9000 at a probability of 0.75. For the" in text
    assert "set [testing settings] accuracy_threshold so." in text
    assert "At a probability >= 0.75, chosen for the accuracy: accuracy 0.6250 (mean of" in text
    assert "F1 0.6667 (mean of images -)" in text
    lines = text.splitlines()
    assert lines[-10].endswith("mean of images  mean of whole images")
    assert lines[-1].split() == "cldice 0.7500 - 0.7500 +- 0.0000 0.7500 +- 0.0000".split()


def test_text_without_second_observer_has_no_column_for_one():
    assert "second observer" not in ev.performances_text(performances())


def test_undefined_figures_are_worded():
    table = performances()
    table["inside_FOV"] = ev.binary_scores(np.zeros(4), np.zeros(4))
    table["per_image"]["spread"] = ev.spread([table["inside_FOV"]])
    text = ev.performances_text(table)
    assert "Area under the ROC curve: undefined (0/0)\n" in text
    assert "SENSITIVITY: undefined (0/0)\n" in text
    assert "ACCURACY: 1\n" in text


def test_long_curve_is_thinned_to_points_of_itself_and_keeps_its_ends():
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(50000)).astype(np.float32)
    y = x**2
    thin_x, thin_y = ev.thinned(x, y, 5000)
    assert 1000 < len(thin_x) <= 5000
    np.testing.assert_array_equal(thin_y, thin_x**2)
    assert (thin_x[0], thin_x[-1]) == (x[0], x[-1])
    # The length along axes is about 2, so no step is much above 2 / 5000.
    assert np.max(np.diff(thin_x) + np.diff(thin_y)) < 0.002


def test_steep_part_of_a_curve_is_kept():
    # Nearly all points lie in the last 1 % of the curve; the steep part keeps what it has.
    x = np.concatenate([np.zeros(10), np.linspace(0, 1, 20000)])
    y = np.concatenate([np.linspace(0, 0.99, 10), np.linspace(0.99, 1, 20000)])
    thin_x, thin_y = ev.thinned(x, y, 5000)
    assert {*np.linspace(0, 0.99, 10)} <= {*thin_y}
    assert len(thin_x) <= 5000


def test_short_curve_is_left_as_it_is():
    x, y = ev.thinned([0, 1], [1, 0], 2)
    assert (x.tolist(), y.tolist()) == ([0, 1], [1, 0])
