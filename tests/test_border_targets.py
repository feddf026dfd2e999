"""Object numbers become background, object and border."""

import numpy as np
import pytest
from scipy import ndimage

from lib.instances import BORDER, OBJECT, border_targets


def brute_force(instances):
    """The rule pixel by pixel, without the care for small objects."""
    targets = np.zeros(instances.shape, np.uint8)
    for row, column in np.argwhere(instances):
        own = instances[row, column]

        def around(reach):
            return instances[
                max(0, row - reach) : row + reach + 1,  # noqa: B023
                max(0, column - reach) : column + reach + 1,  # noqa: B023
            ]

        near, wide = around(1), around(2)
        is_border = (near != own).any() or ((wide != own) & (wide != 0)).any()
        targets[row, column] = BORDER if is_border else OBJECT
    return targets


def test_targets_equal_the_rule_pixel_by_pixel(rng):
    points = rng.uniform(0, 60, (14, 2))
    distance = np.hypot(*(np.mgrid[:60, :60][:, None] - points.T[..., None, None]))
    instances = np.where(distance.min(0) < 11, distance.argmin(0) + 1, 0) * 1000
    np.testing.assert_array_equal(border_targets(instances), brute_force(instances))


def test_touching_objects_come_apart_and_the_foreground_stays():
    instances = np.zeros((12, 20), np.uint16)
    instances[2:10, 2:10], instances[2:10, 10:18] = 7, 65535
    targets = border_targets(instances)
    np.testing.assert_array_equal(targets > 0, instances > 0)
    # Columns: 1 of border at the outer edge, 2 + 2 where the two touch.
    np.testing.assert_array_equal(targets[5], [0, 0, 2, *[1] * 5, *[2] * 4, *[1] * 5, 2, 0, 0])
    assert ndimage.label(targets == OBJECT)[1] == 2


def test_the_edge_of_the_picture_is_no_border():
    np.testing.assert_array_equal(border_targets(np.full((4, 5), 3)), np.full((4, 5), OBJECT))


@pytest.mark.parametrize("height, width, core", [(1, 1, 1), (2, 2, 4), (3, 3, 1), (2, 9, 18)])
def test_no_object_is_lost(height, width, core):
    instances = np.zeros((9, 15), int)
    instances[3 : 3 + height, 3 : 3 + width] = 2**31
    targets = border_targets(instances)
    assert np.count_nonzero(targets == OBJECT) == core
    assert np.count_nonzero(targets) == height * width


def test_an_image_without_objects_is_background():
    assert not border_targets(np.zeros((3, 4), np.uint8)).any()
