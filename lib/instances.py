"""Objects of one class: from labels to what a network learns, and from its probabilities back."""

import numpy as np
from scipy import ndimage
from skimage import graph
from skimage.measure import label, regionprops
from skimage.segmentation import expand_labels, find_boundaries, watershed

from lib.weight_map import instances as four_connected

# Smoothing, in pixels, before an object is cut into parts: it decides how many are joined again. Of
# cells in culture, and of those between membranes, which are thinner lines.
PART_SIGMA, MEMBRANE_SIGMA = 4.0, 2.0
# Pixels around objects in which lines between parts are looked at.
LINE_REACH = 5
# The classes that a network learns objects by.
OBJECT_CLASSES = ("background", "object", "border")
BACKGROUND, OBJECT, BORDER = range(3)
# An object lies in pieces where the largest has no more than this share of its pixels: single
# pixels aside are no piece.
LARGEST_PIECE = 0.9
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


def is_mostly_in_pieces(instances):
    """Tells whether more than half of the objects lie in several pieces, as classes do.

    Args:
        instances: (H, W) integers >= 0; 0 is background, every other number one object.
    Returns:
        bool; pieces are 4-connected.
    """
    pieces = label(instances, background=0, connectivity=1)
    number_of = np.zeros(pieces.max() + 1, instances.dtype)
    number_of[pieces] = instances
    sizes = np.bincount(pieces.ravel())[1:]
    numbers, places = np.unique(number_of[1:], return_inverse=True)
    largest = np.zeros(len(numbers), int)
    np.maximum.at(largest, places, sizes)
    is_in_pieces = largest <= LARGEST_PIECE * np.bincount(places, sizes, len(numbers))
    return bool(2 * is_in_pieces.sum() > len(numbers))


def carve_touching(instance_map, width=1):
    """Makes a binary label in which objects that touch are apart.

    A pixel of an object becomes background where another object is near; each of two that touch
    loses `width` pixels, so that the border between them is 2 * width wide. The authors' plug-in
    takes a border of 1 or 2 pixels, depending on the direction (TrainingSample.java).

    Args:
        instance_map: (height, width) integers, 0 is background, each number above 0 an object.
        width: pixels that each of two touching objects loses, >= 0; diagonal neighbours count.
    Returns:
        (height, width) bool, True inside an object.
    """
    size = 2 * width + 1
    highest = ndimage.maximum_filter(instance_map, size)
    # Seen upside down, the highest number above 0 is the lowest one.
    top = int(instance_map.max(initial=0)) + 1
    flipped = np.where(instance_map > 0, top - instance_map.astype(np.int64), 0)
    lowest = top - ndimage.maximum_filter(flipped, size)
    return (instance_map > 0) & (highest == instance_map) & (lowest == instance_map)


def objects_from_probability(probability, threshold=0.5, grow=0, smallest=0, divide=None):
    """Numbers the objects of a probability map.

    Objects are the 4-connected components above the threshold, divided if asked for, their holes
    filled, that are large enough; then each gets back the border that labels do not count to any
    object.

    Args:
        probability: (height, width) floats in [0, 1], of being inside an object.
        threshold: pixels above it belong to an object.
        grow: pixels by which each object grows, but not into another one, >= 0.
        smallest: pixels of the smallest object that is kept, before it grows, >= 0.
        divide: components are divided along lines on which the mean probability is below this: a
            border that the network saw all along keeps two objects apart, though it has a gap.
            None leaves components whole.
    Returns:
        (height, width) int32, 0 is background, objects are numbered from 1.
    """
    foreground = probability > threshold
    objects = four_connected(foreground)
    if divide is not None and foreground.any():
        objects = _divided(probability, objects, divide)
    objects = _filled(_without_small(objects, smallest))
    return expand_labels(objects, grow).astype(np.int32)


def objects_from_borders(probabilities, threshold=0.5, smallest=0):
    """Numbers objects that a network with a class for their borders has found.

    The cores, where the class object has more than the threshold, are the seeds of one object each.
    They flood what is rather object or border than background (watershed of the probability of the
    core), so that every object gets its border back.

    Args:
        probabilities: (3, height, width) floats: of background, object and border.
        threshold: of the cores.
        smallest: pixels of the smallest core that is kept, >= 0.
    Returns:
        (height, width) int32, 0 is background, objects are numbered from 1.
    """
    background, inside, _ = probabilities
    cores = _without_small(four_connected(inside > threshold), smallest)
    foreground = (background < 0.5) | (cores > 0)
    return _filled(watershed(-inside, cores, mask=foreground)).astype(np.int32)


def divided_probability(probability, divide):
    """Closes the gaps in membranes: a probability of cell becomes 0 on weak lines.

    One pixel through which a membrane is not seen joins two cells at every threshold below it. Here
    the whole slice is divided as objects_from_probability divides objects, and the lines, two
    pixels wide, part the cells at every threshold.

    The mean boundary agglomeration of Nunez-Iglesias et al. 2013 (PLoS ONE 8, e71715), without its
    learning.

    Args:
        probability: (height, width) floats in [0, 1], of cell.
        divide: the mean probability of a line that divides is below this.
    Returns:
        (height, width) array as the probability.
    """
    parts = watershed(-ndimage.gaussian_filter(probability, MEMBRANE_SIGMA))
    lines = find_boundaries(_joined(probability, parts, divide), mode="thick")
    return np.where(lines, probability.dtype.type(0), probability)


def _divided(probability, objects, divide):
    """Divides components of a probability along weak lines; see objects_from_probability.

    What the threshold keeps apart stays apart: a line is a mean over the pixels of both sides, so
    that of a narrow gap may be strong.
    """
    # The lines between objects lie below the threshold; they belong to the parts on either side.
    area = ndimage.distance_transform_edt(objects == 0) <= LINE_REACH
    parts = watershed(-ndimage.gaussian_filter(probability, PART_SIGMA), mask=area)
    # What holds no maximum of the smoothed probability is one part.
    parts = np.where(parts > 0, parts, np.where(objects > 0, objects + parts.max(), 0))
    pairs = _joined(probability, parts, divide).astype(np.int64) * (objects.max() + 1) + objects
    # A part may go around a gap, outside of its object: what lies on either side is two.
    return label(np.where(objects > 0, pairs, 0), connectivity=1)


def _joined(probability, parts, divide):
    """Joins the parts of a watershed, which are too many, where no weak line is between them.

    The two neighbours with the strongest line between them become one, again and again, as long as
    there are lines whose mean probability is at least `divide`. Part 0 joins nothing.
    """
    if parts.min() == parts.max():
        return parts
    neighbours = graph.rag_boundary(parts, 1.0 - probability.astype(np.float64))
    if neighbours.has_node(0):
        neighbours.remove_node(0)
    return graph.merge_hierarchical(
        parts,
        neighbours,
        thresh=np.nextafter(1.0 - divide, 2),
        rag_copy=False,
        in_place_merge=True,
        merge_func=lambda graph, source, target: None,
        weight_func=_mean_of_both_lines,
    )


def _mean_of_both_lines(neighbours, source, target, other):
    """Gives the line between `other` and the union of two parts: the mean over its pixels."""
    lines = [neighbours[part][other] for part in (source, target) if other in neighbours[part]]
    count = sum(line["count"] for line in lines)
    return {
        "count": count,
        "weight": sum(line["count"] * line["weight"] for line in lines) / count,
    }


def _without_small(objects, smallest):
    """Removes objects of fewer pixels and numbers those that stay from 1."""
    sizes = np.bincount(objects.ravel())
    keeps = sizes >= max(smallest, 1)
    keeps[0] = False
    return np.where(keeps, np.cumsum(keeps), 0)[objects]


def _filled(objects):
    """Fills the holes of each object with its number, inner ones first; objects in them stay."""
    filled = objects.copy()
    for region in sorted(regionprops(objects), key=lambda region: region.area_bbox):
        place = filled[region.slice]
        place[region.image_filled & (place == 0)] = region.label
    return filled
