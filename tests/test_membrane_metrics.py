"""Tests of the challenge's five figures against Fiji's values, arithmetic and definitions."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from lib import membrane_metrics as mm

NAMES = ("pixel_error", "rand_error", "warping_error", "v_rand_thin", "v_info_thin")

# Ground truth, proposal, then what Fiji's Trainable_Segmentation gives at threshold 0.5 in the
# order of NAMES, then its numbers of split and merged pixels.
FIJI_CASES = {
    # Cells 15, 15 become one object of 35: pixel F = 60 / 65; pairs 2 * 225 of 900: P 1/2, R 1.
    "merge": (
        ["1110111"] * 5,
        ["1111111"] * 5,
        (0.07692307692307698, 0.33333333333333337, 5 / 35, 0.6666666666666666, 0.0),
        (0, 5),
    ),
    "split": (
        ["1111111011"] * 5,
        ["1110111011"] * 5,
        (0.05882352941176472, 0.4095744680851062, 0.02, 0.5904255319148938, 0.5246391523144008),
        (1, 0),
    ),
    "hole_in_wall": (
        ["1110111"] * 5,
        ["1110111", "1110111", "1111111", "1110111", "1110111"],
        (0.016393442622950838, 0.33333333333333337, 1 / 35, 0.6666666666666666, 0.0),
        (0, 1),
    ),
    # Thinning gives the wall back its one pixel.
    "thick_wall": (
        ["111101111"] * 3,
        ["111000111"] * 3,
        (0.1428571428571429, 0.26315789473684215, 0.0, 1.0, 1.0),
        (0, 0),
    ),
    "shifted_wall": (
        ["111101111"] * 3,
        ["111011111"] * 3,
        (0.125, 0.11627906976744184, 0.0, 0.8837209302325582, 0.768120134042142),
        (0, 0),
    ),
    # Lost and extra cells cost nothing in the warping error.
    "lost_cell": (
        ["0000000", "0110110", "0110110", "0000000"],
        ["0000000", "0110000", "0110000", "0000000"],
        (0.33333333333333337, 0.23076923076923073, 0.0, 0.6666666666666666, 0.0),
        (0, 0),
    ),
    "extra_cell": (
        ["0000000", "0110000", "0110000", "0000000"],
        ["0000000", "0110110", "0110110", "0000000"],
        (0.33333333333333337, 0.0, 0.0, 1.0, 0.0),
        (0, 0),
    ),
    "hole_in_cell": (
        ["11111"] * 5,
        ["11111", "11111", "11011", "11111", "11111"],
        (0.020408163265306145, 0.03993344425956735, 0.0, 1.0, 0.0),
        (0, 0),
    ),
}

SMALL_SLICES = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.uint8, (1, *shape), elements=st.integers(0, 1)),
        hnp.arrays(np.float32, (1, *shape), elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])),
    )
)


def binary_slices(shape):
    return hnp.arrays(np.uint8, shape, elements=st.integers(0, 1))


def stack(rows, dtype=np.uint8):
    """One slice from rows of text."""
    return np.array([[[int(pixel) for pixel in row] for row in rows]], dtype)


def value(metrics, name):
    return metrics[name]["best"]


def drawn_stack():
    """Two slices with thin membranes, and a noisy proposal in steps of 1/20."""
    rng = np.random.default_rng(7)
    smooth = ndimage.gaussian_filter(rng.random((2, 40, 48)), (0, 2.5, 2.5))
    ground_truth = (np.abs(smooth - 0.5) > 0.012).astype(np.uint8)
    noise = 0.8 * rng.standard_normal(ground_truth.shape)
    noisy = ndimage.gaussian_filter(ground_truth + noise, (0, 1.2, 1.2))
    return ground_truth, (np.rint(np.clip(noisy, 0, 1) * 20) / 20).astype(np.float32)


def test_thresholds_are_those_of_a_loop_in_double_precision():
    thresholds, threshold = [], 0.0
    while threshold <= 1.0:
        thresholds.append(threshold)
        threshold += 0.1
    assert list(mm.THRESHOLDS) == thresholds
    assert mm.THRESHOLDS[5] == 0.5 and mm.THRESHOLDS[-1] == 0.9999999999999999
    assert len(mm.THRESHOLDS) == 11 and len(mm.WARPING_THRESHOLDS) == 10


@pytest.mark.parametrize("case", FIJI_CASES)
def test_small_cases_equal_fiji(case):
    ground_truth, proposal, expected, splits_and_mergers = FIJI_CASES[case]
    ground_truth, proposal = stack(ground_truth), stack(proposal, np.float32)
    metrics = mm.membrane_metrics(ground_truth, proposal, thresholds=[0.5])
    for name, figure in zip(NAMES, expected):
        assert value(metrics, name) == pytest.approx(figure, abs=1e-9), name
        single = getattr(mm, name)(ground_truth, proposal)
        assert single == value(metrics, name) == metrics[name]["at_threshold"]
    assert mm.splits_and_mergers(ground_truth[0], proposal[0], 0.5) == splits_and_mergers


@pytest.mark.parametrize(
    "index, pixel, rand, v_rand, v_info, splits_and_mergers",
    # From the pure-Python reference that equals Fiji, on drawn_stack.
    [
        (0, 0.13573068093874, 0.64610547274848, 0.34286576664616, 0.0, [(0, 197), (0, 144)]),
        (
            3,
            0.10447761194030,
            0.64099323891972,
            0.34472485866952,
            0.02196911387788,
            [(0, 143), (0, 106)],
        ),
        (
            5,
            0.10267777974818,
            0.65059075931306,
            0.34507022520324,
            0.08506218807778,
            [(2, 75), (10, 56)],
        ),
        (
            7,
            0.19371300265360,
            0.67533508236132,
            0.41306901905652,
            0.48893731992539,
            [(16, 27), (23, 21)],
        ),
        (
            9,
            0.43868520859671,
            0.85118383831425,
            0.48800468796887,
            0.65172098721670,
            [(40, 2), (81, 3)],
        ),
    ],
)
def test_drawn_stack_equals_reference(index, pixel, rand, v_rand, v_info, splits_and_mergers):
    ground_truth, probability = drawn_stack()
    threshold = mm.THRESHOLDS[index]
    arguments = ground_truth, probability, threshold
    assert mm.pixel_error(*arguments) == pytest.approx(pixel, abs=1e-9)
    assert mm.rand_error(*arguments) == pytest.approx(rand, abs=1e-9)
    assert mm.v_rand_thin(*arguments) == pytest.approx(v_rand, abs=1e-9)
    assert mm.v_info_thin(*arguments) == pytest.approx(v_info, abs=1e-9)
    counts = [mm.splits_and_mergers(*pair, threshold) for pair in zip(ground_truth, probability)]
    assert counts == splits_and_mergers
    assert mm.warping_error(*arguments) == np.sum(splits_and_mergers) / ground_truth.size


def test_membrane_metrics_collects_curves_and_best_values():
    ground_truth, probability = drawn_stack()
    metrics = mm.membrane_metrics(ground_truth, probability)
    assert set(metrics) == set(NAMES)
    for name, result in metrics.items():
        count = 10 if name == "warping_error" else 11
        assert len(result["curve"]) == count
        assert result["thresholds"] == list(mm.THRESHOLDS[:count])
        choose = min if name.endswith("error") else max
        assert result["best"] == choose(result["curve"])
        assert result["threshold"] == mm.THRESHOLDS[result["curve"].index(result["best"])]
        assert result["at_threshold"] == result["curve"][5]
        assert result["curve"][8] == getattr(mm, name)(ground_truth, probability, mm.THRESHOLDS[8])
        assert all(type(figure) is float for figure in result["curve"])


def test_the_last_threshold_counts_where_cells_have_a_probability_of_1():
    ground_truth = np.ones((1, 9, 9), np.uint8)
    ground_truth[:, 4] = 0
    probability = np.where(ground_truth, np.float32(1), np.float32(0.95))
    result = mm.membrane_metrics(ground_truth, probability)["v_rand_thin"]
    assert result["best"] == result["curve"][-1] == 1 and result["threshold"] == mm.THRESHOLDS[-1]


@pytest.mark.parametrize("chosen", [0.5, 0.38])
def test_the_value_at_a_chosen_threshold_needs_it_not_among_those_tried(chosen):
    ground_truth, probability = drawn_stack()
    metrics = mm.membrane_metrics(ground_truth, probability, [0.25, 0.75], chosen)
    for name, result in metrics.items():
        assert result["thresholds"] == [0.25, 0.75] and len(result["curve"]) == 2
        assert result["at_threshold"] == getattr(mm, name)(ground_truth, probability, chosen)


@settings(max_examples=40, deadline=None)
@given(SMALL_SLICES, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_rand_error_equals_a_count_of_all_pairs(slices, threshold):
    ground_truth, probability = slices
    cells = ndimage.label(ground_truth[0])[0]
    objects = ndimage.label(probability[0] > threshold)[0]
    # Cell pixels that are membrane in the proposal become objects of one pixel each.
    objects[objects == 0] = objects.max() + 1 + np.arange((objects == 0).sum())
    cell, found = cells[cells > 0], objects[cells > 0]
    same_cell, same_object = cell[:, None] == cell, found[:, None] == found
    both = (same_cell & same_object).sum()
    # F = 2 both / (pairs in the cells + pairs in the objects).
    expected = 1 - 2 * both / (same_cell.sum() + same_object.sum()) if cell.size else 0.0
    assert mm.rand_error(ground_truth, probability, threshold) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(SMALL_SLICES)
def test_information_score_equals_entropies_of_all_pixels(slices):
    ground_truth, probability = slices
    cells = ndimage.label(ground_truth[0])[0]
    objects = np.array(mm.thin_membrane(probability[0] > 0.5))
    objects[objects == 0] = objects.max() + 1 + np.arange((objects == 0).sum())
    cell, found = cells[cells > 0], objects[cells > 0]

    def entropy(*labels):
        counts = np.unique(np.stack(labels), axis=1, return_counts=True)[1]
        return -np.sum(counts / cell.size * np.log(counts / cell.size))

    if len(set(cell)) < 2 or len(set(found)) < 2:
        expected = 0.0
    else:
        sum_of_entropies = entropy(cell) + entropy(found)
        expected = 2 * (sum_of_entropies - entropy(cell, found)) / sum_of_entropies
    assert mm.v_info_thin(ground_truth, probability) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(3, 12), st.integers(3, 12)).flatmap(binary_slices))
def test_perfect_proposal(ground_truth):
    metrics = mm.membrane_metrics(ground_truth[None], ground_truth[None].astype(np.float32))
    num_cells = ndimage.label(ground_truth)[1]
    if not num_cells:  # nothing is a cell at any threshold
        assert {value(metrics, name) for name in NAMES} == {None}
        return
    for name in ("pixel_error", "rand_error", "warping_error"):
        assert value(metrics, name) == pytest.approx(0.0, abs=1e-12)
    assert value(metrics, "v_rand_thin") == pytest.approx(1.0)
    assert value(metrics, "v_info_thin") == pytest.approx(1.0 if num_cells > 1 else 0.0)


# --- thinning -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 15), st.integers(1, 15))))
def test_thinning_grows_objects_and_keeps_them_apart(cell):
    thinned = mm.thin_membrane(cell)
    objects, num_objects = ndimage.label(cell)
    if num_objects == 0:
        assert (thinned == 1).all()
        return
    np.testing.assert_array_equal(thinned[cell], objects[cell])
    for axis in (0, 1):
        first, second = np.moveaxis(thinned, axis, 0)[:-1], np.moveaxis(thinned, axis, 0)[1:]
        assert ((first == second) | (first == 0) | (second == 0)).all()
    # Every object stays connected: growing never jumps.
    assert all(ndimage.label(thinned == number)[1] == 1 for number in range(1, num_objects + 1))


def test_thinning_of_a_wide_wall_leaves_its_middle():
    # 3 pixels: both sides take one. 4 pixels: the left side is first and the right one stops.
    np.testing.assert_array_equal(mm.thin_membrane(stack(["110001"])[0]), [[1, 1, 1, 0, 2, 2]])
    np.testing.assert_array_equal(mm.thin_membrane(stack(["100001"])[0]), [[1, 1, 1, 0, 2, 2]])


def test_thinning_fills_a_hole_and_a_dead_end():
    cell = stack(["11111", "11011", "11001", "11111"])[0] == 1
    assert (mm.thin_membrane(cell) == 1).all()


# --- warping ------------------------------------------------------------------------------------


def test_simple_codes_equal_a_count_of_components():
    """Simple: one cell component at the centre's sides and one membrane component around it."""
    ring = [(1, 2), (0, 2), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
    for code, is_simple in enumerate(mm.simple_codes()):
        cell = np.zeros((3, 3), bool)
        for bit, place in enumerate(ring):
            cell[place] = code >> bit & 1
        at_sides = ndimage.label(cell)[0][[0, 1, 1, 2], [1, 0, 2, 1]]
        membrane = ~cell
        membrane[1, 1] = False
        num_membrane = ndimage.label(membrane, np.ones((3, 3)))[1]
        assert is_simple == (len(set(at_sides) - {0}) == 1 and num_membrane == 1)
    # 232 of 512 patterns with the centre, as the centre does not matter.
    assert sum(mm.simple_codes()) == 116


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.uint8, (10, 13), elements=st.integers(0, 1)),
    hnp.arrays(np.float32, (10, 13), elements=st.floats(0, 1, width=32)),
    st.sampled_from([0.0, 0.3, 0.5]),
)
def test_warping_keeps_the_topology(ground_truth, probability, threshold):
    warped, mismatch = mm.warp(ground_truth, probability, threshold)
    # As double: 0.3 in float32 is above the threshold 0.3.
    np.testing.assert_array_equal(mismatch, warped != (probability.astype(float) > threshold))

    def num_cells_and_membranes(cell):
        # The image lies in membrane.
        outside = np.pad(cell, 1) == 0
        return ndimage.label(cell)[1], ndimage.label(outside, np.ones((3, 3)))[1]

    assert num_cells_and_membranes(warped) == num_cells_and_membranes(ground_truth)


@pytest.mark.parametrize(
    "probabilities, left",
    # Either pixel of a cell of two may go, then the last one may not. The pixel further from the
    # threshold goes first; of two alike, the one in the first column.
    [((0.4, 0.1), (1, 0)), ((0.1, 0.4), (0, 1)), ((0.1, 0.1), (0, 1))],
)
def test_warping_moves_the_hardest_pixel_first(probabilities, left):
    probability = np.array([probabilities], np.float32)
    warped, mismatch = mm.warp(stack(["11"])[0], probability, 0.5)
    np.testing.assert_array_equal(warped, [left])
    np.testing.assert_array_equal(mismatch, [left])


def test_split_is_looked_for_within_the_window():
    ground_truth = np.zeros((17, 17), np.uint8)
    ground_truth[2, 2:15] = ground_truth[14, 2:15] = 1
    ground_truth[2:15, 2] = ground_truth[2:15, 14] = 1
    probability = ground_truth.astype(np.float32)
    probability[2, 8] = 0.0
    # A cut through a ring is not simple. Within 3 pixels the ring falls in two, within 16 it holds
    # together on the other side.
    assert mm.splits_and_mergers(ground_truth, probability, 0.5, radius=3) == (1, 0)
    assert mm.splits_and_mergers(ground_truth, probability, 0.5, radius=16) == (0, 0)
    assert mm.splits_and_mergers(ground_truth, probability, 0.5, radius=-1) == (0, 0)


# --- degenerate slices --------------------------------------------------------------------------


def test_pixel_error_is_of_the_cell_class():
    # 3 of 4 pixels are cell, all are proposed: F = 2 * 3 / (3 + 4); accuracy would give 1/4.
    ground_truth = stack(["1110"])
    assert mm.pixel_error(ground_truth, np.ones((1, 1, 4), np.float32)) == pytest.approx(1 / 7)


def test_empty_proposal():
    # Two cells of 2 pixels; 4 lost pixels are clusters of one: P = 4 / 4, R = 4 / 8, F = 2/3.
    # Thinned, the empty proposal is one object of 4: P = 8 / 16, R = 8 / 8, F = 2/3 again.
    metrics = mm.membrane_metrics(stack(["11011"]), np.zeros((1, 1, 5), np.float32))
    scores = [metrics[name]["at_threshold"] for name in NAMES]
    assert scores == pytest.approx([1.0, 1 / 3, 0.0, 2 / 3, 0.0])
    # Nothing is a cell at any threshold: a perfect warping error is not the best of anything.
    assert {metrics[name]["best"] for name in NAMES} == {None}
    assert {metrics[name]["threshold"] for name in NAMES} == {None}


def test_thresholds_without_a_cell_are_never_the_best():
    # Cells up to .6: at .7 and above the warping error is 0, for nothing is split or merged.
    truth = stack(["11011"] * 5)
    proposal = np.full((1, 5, 5), 0.6, np.float32)
    metrics = mm.membrane_metrics(truth, proposal)["warping_error"]
    # Below, the membrane's 5 of 25 pixels merge two cells.
    assert metrics["curve"][7:] == [0.0, 0.0, 0.0]
    assert metrics["best"] == 5 / 25
    assert metrics["threshold"] == 0.0


def test_slice_without_membrane():
    # One cell: perfectly found, but without information.
    ones = np.ones((1, 4, 6), np.uint8)
    metrics = mm.membrane_metrics(ones, ones.astype(np.float32))
    assert [value(metrics, name) for name in NAMES] == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_slice_without_cells():
    zeros = np.zeros((1, 4, 6), np.uint8)
    metrics = mm.membrane_metrics(zeros, zeros.astype(np.float32))
    assert [metrics[name]["at_threshold"] for name in NAMES] == [0.0, 0.0, 0.0, 1.0, 0.0]


def test_pooled_and_mean_figures_differ():
    # Slice 1 perfect (cells 1, 1), slice 2 merged (cells 3, 3): pooled pairs are
    # both 2 + 18, objects 2 + 36, cells 2 + 18, so P = 20 / 38, R = 1, F = 40 / 58; the mean of
    # the slices is (1 + 2/3) / 2.
    ground_truth = np.concatenate([stack(["0001010"]), stack(["1110111"])])
    proposal = np.concatenate([stack(["0001010"]), stack(["1111111"])]).astype(np.float32)
    assert mm.rand_error(ground_truth, proposal) == pytest.approx(1 - 40 / 58)
    assert mm.v_rand_thin(ground_truth, proposal) == pytest.approx((1 + 2 / 3) / 2)


def test_threshold_is_strict_and_compares_float32_with_double():
    # 51/255 rounded to float32 is 0.20000000298, above the double 0.2 but not above itself.
    probability = np.full((1, 1, 1), 51 / 255, np.float32)
    one = np.ones((1, 1, 1), np.uint8)
    assert mm.pixel_error(one, probability, 0.2) == 0.0
    assert mm.pixel_error(one, np.full((1, 1, 1), 0.5, np.float32), 0.5) == 1.0
    assert mm.pixel_error(one, np.ones((1, 1, 1), np.float32), mm.THRESHOLDS[-1]) == 0.0


# --- errors -------------------------------------------------------------------------------------

EVERY_METRIC = pytest.mark.parametrize(
    "compute", [mm.membrane_metrics, *(getattr(mm, name) for name in NAMES)]
)


@EVERY_METRIC
@pytest.mark.parametrize(
    "truth_shape, shape", [((4, 4), (4, 4)), ((1, 4, 4), (1, 4, 5)), ((0, 4, 4), (0, 4, 4))]
)
def test_wrong_shapes_are_refused(compute, truth_shape, shape):
    with pytest.raises(ValueError, match=r"one shape \(num_slices, height, width\)\. Received: "):
        compute(np.zeros(truth_shape, np.uint8), np.zeros(shape, np.float32))


@EVERY_METRIC
@pytest.mark.parametrize("wrong", [np.nan, -0.01, 1.01, np.inf])
def test_probabilities_out_of_range_are_refused(compute, wrong):
    probability = np.full((1, 2, 2), 0.5)
    probability[0, 1, 1] = wrong
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\].*NaN\. Received:"):
        compute(np.ones((1, 2, 2), np.uint8), probability)


@EVERY_METRIC
def test_labels_of_255_are_refused(compute):
    with pytest.raises(ValueError, match=r"0 \(membrane\) and 1 \(cell\) only.*0 to 255.*127"):
        compute(np.array([[[0, 255]]], np.uint8), np.zeros((1, 1, 2), np.float32))


@pytest.mark.parametrize("thresholds", [[], [0.5, 1.5], [-0.1], [np.nan]])
def test_thresholds_out_of_range_are_refused(thresholds):
    zeros = np.zeros((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"thresholds must be one or more numbers in \[0, 1\]"):
        mm.membrane_metrics(zeros, zeros, thresholds)


@pytest.mark.parametrize("name", NAMES)
def test_single_threshold_out_of_range_is_refused(name):
    zeros = np.zeros((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"thresholds must be.*Received: \[2\.0\]"):
        getattr(mm, name)(zeros, zeros, 2)


# --- real labels --------------------------------------------------------------------------------


def isbi_labels():
    if "UNET_TEST_DATA" not in os.environ:
        pytest.skip("needs the ISBI 2012 labels: set UNET_TEST_DATA to the folder of ISBI2012/")
    from skimage import io

    path = Path(os.environ["UNET_TEST_DATA"]) / "ISBI2012" / "train-labels.tif"
    return (io.imread(path) > 127).astype(np.uint8)


def blurred(label):
    """The label blurred by 2 pixels, in 8 bits: a smooth map such as a network gives."""
    return np.rint(ndimage.gaussian_filter(label.astype(np.float64), 2.0) * 255) / 255


def membrane_dilated(label):
    return ndimage.minimum_filter(label, 3)


def membrane_eroded(label):
    return ndimage.maximum_filter(label, 3)


@pytest.mark.parametrize(
    "make_proposal, expected",
    # Fiji on the first label, best over the challenge's thresholds, in the order of NAMES.
    [
        (
            membrane_dilated,
            (
                0.05964009351044741,
                0.06754575532210882,
                0.00018310546875,
                0.9982041178491812,
                0.9978150272913964,
            ),
        ),
        (
            membrane_eroded,
            (
                0.05603321033210329,
                0.06224905957594318,
                0.0004730224609375,
                0.9377509404240568,
                0.9819679886168111,
            ),
        ),
        (
            blurred,
            (
                0.009359850869478992,
                0.017389578061307587,
                9.5367431640625e-05,
                0.9982538421847708,
                0.9981592049736839,
            ),
        ),
    ],
)
def test_first_isbi_label_equals_fiji(make_proposal, expected):
    label = isbi_labels()[0]
    metrics = mm.membrane_metrics(label[None], make_proposal(label)[None])
    for name, figure in zip(NAMES, expected):
        assert value(metrics, name) == pytest.approx(figure, abs=1e-9), name


def test_label_of_the_next_slice_equals_fiji():
    labels = isbi_labels()
    metrics = mm.membrane_metrics(labels[:1], labels[1:2].astype(np.float32))
    expected = (
        0.17993619231704405,
        0.19741931551088066,
        0.023799896240234375,
        0.845923462403503,
        0.8687941302510028,
    )
    for name, figure in zip(NAMES, expected):
        assert value(metrics, name) == pytest.approx(figure, abs=1e-9), name


def test_stack_of_three_corners_equals_fiji():
    labels = isbi_labels()[:3, :128, :128]
    metrics = mm.membrane_metrics(labels, np.stack([blurred(label) for label in labels]))
    expected = (
        0.010740775767729027,
        0.08471757066191876,
        0.0,
        0.9989905794962132,
        0.9979887642810747,
    )
    for name, figure in zip(NAMES, expected):
        assert value(metrics, name) == pytest.approx(figure, abs=1e-9), name
