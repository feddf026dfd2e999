"""Tests of the pixel weights: equation 2 of the U-Net paper."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib import weight_map as wm

SMALL_INSTANCE_MAPS = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 9), st.integers(1, 12)),
    elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 19]),
)


def brute_force_distances(instance_map):
    """Sorts, for every pixel, the distances to all instances, each the least over its pixels."""
    pixels = np.argwhere(np.ones(instance_map.shape))
    distances = [np.full(len(pixels), np.inf)] * 2
    for number in set(instance_map.ravel().tolist()) - {0}:
        steps = pixels[:, None] - np.argwhere(instance_map == number)[None]
        distances.append(np.sqrt((steps**2).sum(-1)).min(1))
    nearest, second = np.sort(distances, axis=0)[:2].reshape(2, *instance_map.shape)
    return nearest, second


def stripes(gap):
    """Two cells three pixels wide with a straight membrane of gap pixels between them."""
    return np.tile(np.array([1] * 3 + [0] * gap + [1] * 3, np.uint8), (3, 1))


@settings(max_examples=200, deadline=None)
@given(SMALL_INSTANCE_MAPS)
def test_distances_equal_brute_force_on_random_maps(instance_map):
    nearest, second = wm.two_nearest_distances(instance_map)
    expected_nearest, expected_second = brute_force_distances(instance_map)
    np.testing.assert_array_equal(nearest, expected_nearest)
    np.testing.assert_array_equal(second, expected_second)


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.uint8, st.tuples(st.integers(4, 30), st.integers(4, 30)), elements=st.integers(0, 1)
    )
)
def test_distances_equal_brute_force_on_connected_cells(label):
    instance_map = wm.instances(label)
    np.testing.assert_array_equal(
        wm.two_nearest_distances(instance_map), brute_force_distances(instance_map)
    )


def test_distances_of_three_cells_by_hand():
    label = np.zeros((7, 9), np.uint8)
    label[0, 7] = 1
    label[1:3, 1:4] = 1
    label[4:6, 2:8] = 1
    nearest, second = wm.two_nearest_distances(wm.instances(label))
    # Pixel (3, 5): one row above the lower cell; (1, 2) from the upper left cell's (2, 3).
    assert nearest[3, 5] == 1.0
    assert second[3, 5] == np.sqrt(1 + 4)
    # Pixel (0, 5): 2 columns from the single pixel; (1, 2) from the upper left cell's (1, 3).
    assert (nearest[0, 5], second[0, 5]) == (2.0, np.sqrt(5))
    # Inside a cell the nearest is the cell itself: (1, 1) is 3 rows, 1 column from (4, 2).
    assert (nearest[1, 1], second[1, 1]) == (0.0, np.sqrt(10))


@pytest.mark.parametrize(
    "gap, expected",
    # 10 exp(-(gap + 1)^2 / 50): every pixel of the membrane has d1 + d2 = gap + 1.
    [
        (1, 9.231163463866357),
        (2, 8.35270211411272),
        (3, 7.26149037073691),
        (5, 4.867522559599717),
        (9, 1.353352832366127),
        (15, 0.059760228950059426),
    ],
)
def test_border_term_of_straight_membrane(gap, expected):
    term = wm.border_term(wm.instances(stripes(gap)))
    np.testing.assert_allclose(term[:, 3 : 3 + gap], expected, rtol=0, atol=1e-9)
    assert not term[:, :3].any() and not term[:, -3:].any()


def test_border_term_follows_its_settings():
    # Gap 1: d1 + d2 = 2, so 4 exp(-4 / (2 * 2^2)) = 4 exp(-1/2).
    term = wm.border_term(wm.instances(stripes(1)), w0=4.0, sigma=2.0)
    np.testing.assert_allclose(term[:, 3], 4 * np.exp(-0.5), rtol=0, atol=1e-12)
    assert not wm.border_term(wm.instances(stripes(1)), w0=0.0).any()


@pytest.mark.parametrize("num_cells", [0, 1])
def test_border_term_is_zero_with_fewer_than_two_cells(num_cells):
    label = np.zeros((6, 5), np.uint8)
    label[2:4, 1 : 1 + 2 * num_cells] = 1
    assert not wm.border_term(wm.instances(label)).any()


def test_instances_that_meet_at_a_corner_are_two():
    instance_map = wm.instances(np.array([[255, 0], [0, 255]], np.uint8))
    np.testing.assert_array_equal(instance_map, [[1, 0], [0, 2]])


def test_class_weights_by_hand():
    # 12 pixels, 3 of membrane: 12 / (2 * 3) = 2 and 12 / (2 * 9) = 2/3; 0 and 255 serve as well.
    labels = np.ones((2, 2, 3), np.uint8)
    labels[0, 0] = 0
    assert wm.class_weights(labels) == (2.0, 12 / 18)
    assert wm.class_weights(labels * 255) == (2.0, 12 / 18)


@given(
    hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 1)).filter(
        lambda a: a.any() and not a.all()
    ),
)
def test_class_weights_have_mean_one(labels):
    membrane_weight, cell_weight = wm.class_weights(labels)
    mean = np.where(labels > 0, cell_weight, membrane_weight).mean()
    np.testing.assert_allclose(mean, 1.0, rtol=1e-12)


def test_weight_map_adds_balance_and_border():
    weights = wm.weight_map(stripes(3), (2.0, 0.5))
    assert weights.shape == (3, 9) and weights.dtype == np.float64
    # Membrane: 2 + 10 exp(-16 / 50); cell: 0.5, without a border term.
    np.testing.assert_allclose(weights[0], [0.5] * 3 + [9.26149037073691] * 3 + [0.5] * 3, 1e-12)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, (9, 14), elements=st.integers(0, 1)))
def test_weight_map_turns_with_the_label(label):
    weights = wm.weight_map(label, (2.3, 0.6))
    np.testing.assert_array_equal(wm.weight_map(label.T, (2.3, 0.6)), weights.T)
    np.testing.assert_array_equal(wm.weight_map(label[:, ::-1], (2.3, 0.6)), weights[:, ::-1])


def touching_cells(rng, shape=(40, 52), num_cells=9):
    """Numbers that touch: the nearest of a few places, of which some are background."""
    places = rng.uniform((0, 0), shape, (num_cells, 2))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    nearest = np.hypot(rows - places[:, :1, None], columns - places[:, 1:, None]).argmin(axis=0)
    return rng.choice([0, 1, 2, 3, 7, 300, 65_000], num_cells)[nearest]


@pytest.mark.parametrize("seed", range(8))
def test_weight_map_of_instances_follows_the_definition(seed):
    rng = np.random.default_rng(seed)
    instance_map = touching_cells(rng)
    label = instance_map * (rng.random(instance_map.shape) > 0.1)  # a carved pixel here and there
    nearest, second = brute_force_distances(instance_map)
    border = 10 * np.exp(-((nearest + second) ** 2) / (2 * 5.0**2))
    expected = np.where(label > 0, 0.6, 2.3 + border)
    weights = wm.weight_map(label, (2.3, 0.6), instance_map=instance_map)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-9)


def test_pixels_of_unknown_kind_weigh_nothing_and_are_no_cell():
    label = stripes(3)
    label[:, :2] = 9
    weights = wm.weight_map(label, (2.0, 0.5), ignore=9)
    assert (weights[:, :2] == 0).all()
    # The cell on the left is one column now; the membrane is as near to it as before.
    np.testing.assert_array_equal(weights[:, 2:], wm.weight_map(stripes(3), (2.0, 0.5))[:, 2:])
    # 9 membrane and 12 cell pixels are known.
    assert wm.class_weights(label, ignore=9) == (21 / 18, 21 / 24)


def test_memory_does_not_grow_with_the_number_of_cells():
    # 16,384 cells of one pixel in 512 x 512: one distance array per cell would be 32 GiB.
    label = np.zeros((512, 512), np.uint8)
    label[::4, ::4] = 1
    tracemalloc.start()
    wm.weight_map(label, (1.0, 1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


@pytest.mark.parametrize("labels, name", [(np.ones((2, 3, 3)), "membrane"), (np.zeros(4), "cell")])
def test_class_weights_name_the_empty_class(labels, name):
    with pytest.raises(ValueError, match=rf"the class {name} \(.*\) is empty\. Received: .*shape"):
        wm.class_weights(labels)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (0, 4)])
def test_wrong_dimensions_are_refused(shape):
    for compute in (wm.instances, lambda label: wm.weight_map(label, (1.0, 1.0))):
        with pytest.raises(ValueError, match=r"shape \(height, width\).*Received: shape"):
            compute(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("instance_map", [np.zeros((2, 2)), np.full((2, 2), -1)])
def test_instance_map_must_hold_numbers_of_instances(instance_map):
    for compute in (wm.two_nearest_distances, wm.border_term):
        with pytest.raises(ValueError, match=r"instance_map must hold integers.*Received: dtype"):
            compute(instance_map)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan, np.inf])
def test_sigma_must_be_positive(sigma):
    with pytest.raises(ValueError, match=r"sigma must be above 0.*Received: sigma="):
        wm.weight_map(stripes(1), (1.0, 1.0), sigma=sigma)


@pytest.mark.parametrize("w0", [-0.1, np.nan])
def test_w0_must_not_be_negative(w0):
    with pytest.raises(ValueError, match=r"w0 must be 0 or a number above 0\. Received: w0="):
        wm.weight_map(stripes(1), (1.0, 1.0), w0=w0)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (np.nan, 1.0)])
def test_class_weights_must_be_two_numbers(weights):
    with pytest.raises(ValueError, match=r"class_weights must be two finite numbers.*Received"):
        wm.weight_map(stripes(1), weights)


def test_first_isbi_label_equals_reference():
    """Values of a reference that takes one distance transform per cell; 136 cells."""
    if "UNET_TEST_DATA" not in os.environ:
        pytest.skip("needs the ISBI 2012 labels: set UNET_TEST_DATA to the folder of ISBI2012/")
    from skimage import io

    path = Path(os.environ["UNET_TEST_DATA"]) / "ISBI2012" / "train-labels.tif"
    label = io.imread(path)[0]
    instance_map = wm.instances(label)
    term = wm.border_term(instance_map)
    assert instance_map.max() == 136
    assert np.count_nonzero(instance_map == 0) == 57492
    np.testing.assert_allclose(term.sum(), 232437.93818598593, rtol=1e-12)
    np.testing.assert_allclose(term.max(), 8.899690941839392, rtol=0, atol=1e-9)
    np.testing.assert_allclose(term[256, 256], 5.49423661585781, rtol=0, atol=1e-9)
    np.testing.assert_allclose(term[0, 84], 4.867522559599717, rtol=0, atol=1e-9)
    weights = wm.weight_map(label, (2.2765436387320888, 0.6407226901436679))
    np.testing.assert_allclose(weights.sum(), 494446.16504725313, rtol=1e-12)
