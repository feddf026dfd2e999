"""Objects in label images: numbers that tell touching objects apart."""

import numpy as np
from scipy import ndimage

# The classes that a network learns objects by.
OBJECT_CLASSES = ("background", "object", "border")
BACKGROUND, OBJECT, BORDER = range(3)
# Pixels from an object's edge, and from another object, that are border.
EDGE_REACH, NEIGHBOUR_REACH = 1, 2


def border_targets(instances):
    """Turns object numbers into the three classes background, object and border.

    A pixel of an object is border if background or another object lies within 1 pixel, or another
    object within 2 pixels (square neighbourhoods, so diagonals count). Objects that touch are thus
    4 pixels apart in the class object, and their foreground, object and border together, is
    exactly what it was. The picture's edge is no border: an object goes on there. An object that
    would be all border keeps its pixels off the edge as object, or else all, so that none is lost.

    The three classes as in Caicedo et al. 2019 (Cytometry A 95, 952), whose borders have the same
    width everywhere and reach outside the objects.

    Args:
        instances: (H, W) integers >= 0; 0 is background, every other number one object.
    Returns:
        (H, W) uint8 of BACKGROUND, OBJECT and BORDER.
    """
    numbers, places = np.unique(instances, return_inverse=True)
    first = 1 if numbers[0] == 0 else 0  # numbers as they come may be too large to count with
    instances = (places.reshape(instances.shape) + 1 - first).astype(np.int32)
    at_edge = _differs(instances, EDGE_REACH, ndimage.maximum_filter)
    at_edge |= _differs(instances, EDGE_REACH, ndimage.minimum_filter)
    is_border = at_edge | _differs(instances, NEIGHBOUR_REACH, ndimage.maximum_filter)
    above_all = np.where(instances > 0, instances, len(numbers) + 1)
    is_border |= _differs(above_all, NEIGHBOUR_REACH, ndimage.minimum_filter)
    for keep in (~at_edge, np.ones_like(at_edge)):
        counts = np.bincount(instances[~is_border], minlength=len(numbers) + 1)
        is_border &= ~(keep & (counts == 0)[instances])
    targets = np.where(is_border, BORDER, OBJECT).astype(np.uint8)
    targets[instances == 0] = BACKGROUND
    return targets


def _differs(numbers, reach, extreme):
    """Marks the pixels that have not the extreme number within a reach of pixels."""
    return extreme(numbers, 2 * reach + 1, mode="nearest") != numbers
