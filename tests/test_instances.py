"""Borders between objects that touch, and objects from what a network predicts."""

import numpy as np
import pytest
from scipy import ndimage

from lib.instances import (
    carve_touching,
    divided_probability,
    is_mostly_in_pieces,
    objects_from_borders,
    objects_from_probability,
)


def same_partition(one, other):
    """Tells whether two label images show the same objects, however they are numbered."""
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist()))
    return len(pairs) == len(set(one.ravel().tolist())) == len(set(other.ravel().tolist()))


# ---------------------------------------------------------------- carving


def literal_carving(objects, width):
    kept = np.zeros(objects.shape, bool)
    for row, column in np.argwhere(objects):
        top, left = max(row - width, 0), max(column - width, 0)
        near = objects[top : row + width + 1, left : column + width + 1]
        kept[row, column] = not (near[near > 0] != objects[row, column]).any()
    return kept


@pytest.mark.parametrize("width", [0, 1, 2])
def test_pixels_near_another_object_are_carved(width):
    rng = np.random.default_rng(width)
    for _ in range(10):
        objects = np.kron(rng.choice([0, 1, 2, 300, 65_000], (5, 6)), np.ones((4, 5), int))
        objects = objects.astype(np.uint16)
        np.testing.assert_array_equal(
            carve_touching(objects, width), literal_carving(objects, width)
        )


def test_each_of_two_that_touch_loses_one_pixel_and_objects_apart_lose_none():
    row = np.array([[1, 1, 1, 2, 2, 2, 0, 3, 3, 0, 0, 4]])
    assert carve_touching(row).astype(int).tolist() == [[1, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1]]


# ---------------------------------------------------------------- numbers of several objects


def test_objects_in_pieces_are_told_from_objects_with_single_pixels_aside():
    objects = np.kron(np.arange(12).reshape(3, 4), np.ones((8, 8), int)) * 5_000
    assert not is_mostly_in_pieces(objects) and not is_mostly_in_pieces(objects * 0)
    cut = objects.copy()
    cut[:, 4] = 9_999  # through 2 of 11 objects, and the background
    assert not is_mostly_in_pieces(cut)
    aside = objects.copy()
    aside[1::8, 1::8] = np.roll(aside[1::8, 1::8], 1)
    assert not is_mostly_in_pieces(aside)
    apart = np.kron([[1, 0, 1], [0, 3, 0], [2, 0, 2]], np.ones((8, 8), int))
    assert is_mostly_in_pieces(apart), "2 of 3"
    apart[-8:, :8] = 4
    assert not is_mostly_in_pieces(apart), "1 of 4"
    assert is_mostly_in_pieces(np.eye(2, dtype=np.uint16)), "corners do not join"


# ---------------------------------------------------------------- from a probability


def two_discs(bridge):
    """Two discs of radius 8 whose centres are 20 apart, with a bridge of that probability."""
    rows, columns = np.mgrid[:30, :50]
    discs = [np.hypot(rows - 15, columns - column) <= 8 for column in (14, 34)]
    probability = np.where(discs[0] | discs[1], 0.95, 0.02)
    probability[14:17, 14:35] = np.maximum(probability[14:17, 14:35], bridge)
    return probability, discs


def test_objects_are_the_components_above_the_threshold():
    probability, discs = two_discs(bridge=0.4)
    objects = objects_from_probability(probability, 0.5)
    assert objects.dtype == np.int32
    np.testing.assert_array_equal(objects, discs[0] + 2 * discs[1])
    assert objects_from_probability(probability, 0.3).max() == 1, "the bridge joins them"


def two_blocks(line, gap=2):
    """Two blocks side by side: a line of that probability between them, with a gap in it."""
    probability = np.full((40, 60), 0.02)
    probability[5:35, 5:55] = 0.95
    probability[5:35, 29:31] = line
    probability[19 : 19 + gap, 29:31] = 0.95
    return probability, np.where(np.arange(60) < 30, 1, 2) * np.ones((40, 1), int)


def test_objects_are_divided_along_a_line_with_a_gap():
    probability, sides = two_blocks(line=0.1)
    assert objects_from_probability(probability, 0.5).max() == 1
    objects = objects_from_probability(probability, 0.5, divide=0.5)
    assert objects.max() == 2
    np.testing.assert_array_equal(objects > 0, probability > 0.5)
    kept = (objects > 0) & (abs(np.arange(60) - 29.5) > 2)
    assert same_partition(objects[kept], sides[kept])


def test_objects_are_not_divided_along_a_strong_line():
    probability, _ = two_blocks(line=0.8)
    assert objects_from_probability(probability, 0.5, divide=0.6).max() == 1
    assert objects_from_probability(probability, 0.5, divide=0.95).max() >= 2


def test_what_the_threshold_keeps_apart_stays_apart_when_objects_are_divided():
    probability = np.full((120, 60), 0.02)
    probability[5:115, 5:55] = 0.95
    probability[5:115, 29] = 0.5  # the mean over it and its sides is above .65
    whole = objects_from_probability(probability, 0.6)
    assert whole.max() == 2
    for divide in (0.3, 0.65):
        divided = objects_from_probability(probability, 0.6, divide=divide)
        np.testing.assert_array_equal(divided, whole)
    assert objects_from_probability(probability, 0.4, divide=0.65).max() == 1, "no weak line"


def test_each_divided_object_is_in_one_piece():
    rng = np.random.default_rng(5)
    for _ in range(20):
        smooth = ndimage.gaussian_filter(rng.normal(size=(160, 160)), 3)
        probability = 1 / (1 + np.exp(-2.5 * smooth / smooth.std() - 0.5))
        objects = objects_from_probability(probability, divide=0.65)
        pieces = [ndimage.label(objects == n)[1] for n in range(1, objects.max() + 1)]
        assert set(pieces) == {1}


def test_every_component_stays_when_objects_are_divided():
    rng = np.random.default_rng(0)
    for _ in range(5):
        probability = rng.random((30, 40))
        divided = objects_from_probability(probability, 0.6, divide=0.7) > 0
        whole = objects_from_probability(probability, 0.6) > 0
        # Both have all pixels above the threshold; fewer holes lie within one part.
        assert divided[probability > 0.6].all()
        assert not (divided & ~whole).any()
    assert objects_from_probability(np.full((4, 5), 0.7), 0.5, divide=0.9).min() == 1


def test_cells_on_both_sides_of_a_membrane_with_a_gap_are_apart_at_every_threshold():
    probability = np.full((60, 80), 0.95, np.float32)
    probability[:, 39:41] = 0.1
    probability[28:32, 39:41] = 0.95
    for threshold in (0.05, 0.5, 0.9):
        assert ndimage.label(probability > threshold)[1] == 1
    divided = divided_probability(probability, 0.5)
    assert divided.dtype == np.float32
    for threshold in (0, 0.05, 0.5, 0.9):
        assert ndimage.label(divided > threshold)[1] == 2
    lines = divided == 0
    assert (lines.sum(axis=1) == 2).all() and lines[:, 37:43].sum() == lines.sum() == 120
    np.testing.assert_array_equal(divided[~lines], probability[~lines])
    np.testing.assert_array_equal(divided_probability(probability, 0.05), probability)
    np.testing.assert_array_equal(divided_probability(np.full((9, 9), 0.3), 0.9), 0.3)


def test_small_objects_go_and_the_others_are_numbered_anew():
    probability = np.zeros((12, 12))
    probability[0, 0] = probability[4:8, 4:8] = 1
    assert objects_from_probability(probability, 0.5).max() == 2
    objects = objects_from_probability(probability, 0.5, smallest=2)
    assert (objects.max(), (objects == 1).sum()) == (1, 16)
    assert objects_from_probability(probability, 0.5, smallest=16).max() == 1
    assert objects_from_probability(probability, 0.5, smallest=17).max() == 0


def test_objects_grow_but_not_into_each_other():
    probability = np.zeros((7, 20))
    probability[2:5, 2:8] = probability[2:5, 10:16] = 1
    objects = objects_from_probability(probability, 0.5, grow=1)
    # The two columns between them are shared out; outwards each grows by one pixel.
    assert objects[3].tolist() == [0] + [1] * 8 + [2] * 8 + [0] * 3
    assert (objects[1, 2], objects[1, 1]) == (1, 0), "a corner is 1.41 pixels away"


def test_the_hole_of_an_inner_ring_is_the_inner_ones():
    probability = np.zeros((21, 21), np.float32)
    for first, value in ((1, 1), (3, 0), (5, 1), (8, 0)):
        probability[first:-first, first:-first] = value
    objects = objects_from_probability(probability, 0.5)
    assert objects[10, 1] == objects[10, 3] == 1 and objects[10, 5] == objects[10, 10] == 2


def test_holes_are_filled_but_objects_in_them_stay():
    probability = np.zeros((12, 12))
    probability[1:11, 1:11] = 1
    probability[3:8, 3:8] = 0
    probability[5, 5] = 1
    objects = objects_from_probability(probability, 0.5)
    assert objects.max() == 2 and objects[5, 5] == 2
    assert (objects[1:11, 1:11] > 0).all()
    assert (objects == 1).sum() == 99


def test_an_empty_map_has_no_object():
    empty = np.zeros((5, 6))
    assert not objects_from_probability(empty, 0.5, 2, 10, divide=0.9).any()
    assert not objects_from_borders(np.stack([empty + 1, empty, empty])).any()


def test_carved_labels_come_back_as_the_objects_they_were():
    rng = np.random.default_rng(0)
    numbers = rng.permutation(20).reshape(4, 5) + 1
    objects = np.kron(numbers, np.ones((11, 13), int))
    again = objects_from_probability(carve_touching(objects).astype(float), 0.5, grow=1)
    # Where four meet, the last pixels of the corners are 1.41 pixels away.
    assert (again > 0).mean() > 0.98
    assert same_partition(again[again > 0], objects[again > 0])


# ---------------------------------------------------------------- from borders


def test_cores_flood_their_borders():
    objects = np.zeros((20, 30), int)
    objects[3:17, 2:15], objects[3:17, 15:28] = 1, 2
    core = carve_touching(objects, 2)
    core[:5] = core[15:] = False
    border = (objects > 0) & ~core
    probabilities = np.stack([objects == 0, core, border]).astype(np.float32) * 0.9 + 0.03
    found = objects_from_borders(probabilities)
    assert same_partition(found, objects)


def test_small_cores_are_no_objects():
    probabilities = np.zeros((3, 10, 10))
    probabilities[0] = 1
    probabilities[:, 2:8, 2:8] = [[[0]], [[1]], [[0]]]
    assert (objects_from_borders(probabilities, smallest=36) > 0).sum() == 36
    assert not objects_from_borders(probabilities, smallest=37).any()
