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
    exactly what it was. The picture's edge is no border: an object goes on there. An object too
    small to have an inside keeps the pixels farthest from its edge as object, so that none is lost.

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
    is_object = instances > 0
    size = 2 * EDGE_REACH + 1
    at_edge = ndimage.maximum_filter(instances, size, mode="nearest") != instances
    at_edge |= ndimage.minimum_filter(instances, size, mode="nearest") != instances
    size = 2 * NEIGHBOUR_REACH + 1
    at_edge |= ndimage.maximum_filter(instances, size, mode="nearest") != instances
    above_all = np.where(is_object, instances, len(numbers) + 1)
    at_edge |= ndimage.minimum_filter(above_all, size, mode="nearest") != above_all
    targets = np.where(is_object, np.where(at_edge, BORDER, OBJECT), BACKGROUND).astype(np.uint8)
    _keep_cores(instances, targets)
    return targets


def _keep_cores(instances, targets):
    """Gives objects that are all border their innermost pixels back; changes the targets."""
    with_core = set(np.unique(instances[targets == OBJECT]).tolist())
    for number, place in enumerate(ndimage.find_objects(instances), start=1):
        if place is None or number in with_core:
            continue
        mask = instances[place] == number
        depth = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1]
        targets[place][depth == depth.max()] = OBJECT
