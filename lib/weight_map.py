"""Pixel weights of the U-Net paper: class balance plus a bonus for thin membranes between cells.

Ronneberger, Fischer, Brox 2015, section 3, equation 2:

    w(x) = w_c(x) + w0 * exp(-(d1(x) + d2(x))^2 / (2 sigma^2))

with d1 and d2 the distances of pixel x to the border of the nearest and of the second nearest cell.
The paper leaves open what a cell is, what w_c is and where the second term acts. Here a cell is an
object of the instance map, or where there is none a 4-connected component of the label; w_c is
N / (2 N_c), and the term acts on membrane pixels only. Pixels of unknown kind weigh nothing.
"""

import numpy as np
from scipy import ndimage
from skimage.segmentation import relabel_sequential


def instances(label):
    """Numbers the cells of a label: 4-connected components of the pixels above 0.

    Four neighbours rather than eight, so that cells which meet at a corner only stay two.

    Args:
        label: (height, width) of a number or boolean type, > 0 is cell, 0 is membrane.
    Returns:
        (height, width) int32, 0 on membrane, 1 ... num_cells on the cells.
    Raises:
        ValueError: if label has not two dimensions.
    """
    label = _require_two_dimensions(label, "label")
    return ndimage.label(label > 0)[0]


def class_weights(labels, ignore=None):
    """Balances the two classes: w_c = N / (2 N_c), so that the mean weight of a pixel is 1.

    Paper, section 3: w_c is there "to balance the class frequencies", without a formula.

    Args:
        labels: (num_images, height, width) or any other shape, > 0 is cell, 0 is membrane; the
            whole training set in one array, as the weights belong to the set, not to one slice.
        ignore: the value of pixels of unknown kind, which do not count; None where there are none.
    Returns:
        (membrane_weight, cell_weight), two floats.
    Raises:
        ValueError: if there is no membrane pixel or no cell pixel at all.
    """
    labels = np.asarray(labels)
    cell = labels[labels != ignore] > 0 if ignore is not None else labels > 0
    num_cell = int(np.count_nonzero(cell))
    num_membrane = cell.size - num_cell
    for name, count in (("membrane (0)", num_membrane), ("cell (> 0)", num_cell)):
        if count == 0:
            raise ValueError(
                "Class weights need pixels of both classes in the training labels, but the class "
                f"{name} is empty. Received: labels of shape {np.shape(labels)} with "
                f"{num_membrane} membrane and {num_cell} cell pixels. Check that the label files "
                "are the right ones and that cells are above 0, membranes 0."
            )
    return cell.size / (2.0 * num_membrane), cell.size / (2.0 * num_cell)


def two_nearest_distances(instance_map):
    """Measures the exact Euclidean distance of every pixel to its two nearest instances.

    One distance transform per instance would be exact too, but takes seconds per slice. Here it is
    one pair of transforms per binary digit of the instance numbers, 16 in place of 136. Let n(x) be
    the number of the instance nearest to x. Any other instance differs from n(x) in at least one
    digit, and a pixel whose number differs from n(x) in some digit belongs to another instance.
    So the distance to the second nearest instance is the least, over the digits, of the distance
    to the pixels whose digit is not that of n(x). Time O(pixels log instances), memory O(pixels).

    Args:
        instance_map: (height, width) integers, 0 is background, each number above 0 an instance.
    Returns:
        (nearest, second_nearest): two (height, width) float64 arrays in pixels; the first is 0
        inside an instance; inf where there is no such instance; equal where two are equally near.
    Raises:
        ValueError: if instance_map has not two dimensions, is not of integers or is negative
            somewhere.
    """
    instance_map = _require_instance_map(instance_map)
    second_nearest = np.full(instance_map.shape, np.inf)
    if not instance_map.any():
        return second_nearest.copy(), second_nearest
    nearest, (rows, columns) = ndimage.distance_transform_edt(
        instance_map == 0, return_indices=True
    )
    # Few digits, however high the numbers of a file are.
    instance_map = relabel_sequential(instance_map)[0]
    nearest_number = instance_map[rows, columns]
    for digit in range(int(instance_map.max()).bit_length()):
        is_set = (instance_map >> digit) & 1 == 1
        nearest_is_set = (nearest_number >> digit) & 1 == 1
        for others, where in (
            (is_set, ~nearest_is_set),
            (~is_set & (instance_map > 0), nearest_is_set),
        ):
            _lower_to_distance(second_nearest, others, where)
    return nearest, second_nearest


def border_term(instance_map, w0=10.0, sigma=5.0, label=None):
    """Computes the second term of equation 2, which weighs narrow gaps between cells.

    A straight membrane that is g pixels wide gets w0 * exp(-(g + 1)^2 / (2 sigma^2)): with the
    paper's values 9.23 for one pixel, 7.26 for three, 1.35 for nine. Differs from the paper, where
    the term has no support: it is 0 inside cells, where it would pull towards cell as well.

    Args:
        instance_map: (height, width) integers, 0 is membrane, each number above 0 a cell.
        w0: height of the term, >= 0; paper: 10.
        sigma: width of the term in pixels, > 0; paper: about 5.
        label: (height, width), > 0 is cell, where that differs from instance_map > 0: a border that
            was carved between touching cells. Distances are those to the cells before carving, as
            in the authors' plug-in: such a pixel has d1 = 0.
    Returns:
        (height, width) float64 in [0, w0]; 0 everywhere if there are fewer than two cells.
    Raises:
        ValueError: if w0 or sigma is out of range, or as in two_nearest_distances.
    """
    _require_settings(w0, sigma)
    instance_map = _require_instance_map(instance_map)
    nearest, second_nearest = two_nearest_distances(instance_map)
    term = w0 * np.exp(-((nearest + second_nearest) ** 2) / (2.0 * sigma**2))
    term[(instance_map if label is None else label) > 0] = 0.0
    return term


def weight_map(label, class_weights, w0=10.0, sigma=5.0, *, instance_map=None, ignore=None):
    """Computes the pixel weights of one slice, equation 2.

    Args:
        label: (height, width), > 0 is cell, 0 is membrane.
        class_weights: (membrane_weight, cell_weight), what class_weights() gives for the whole
            training set; finite, >= 0.
        w0: height of the border term, >= 0; paper: 10.
        sigma: width of the border term in pixels, > 0; paper: about 5.
        instance_map: (height, width) integers, the cells before a border was carved between those
            that touch; None for the 4-connected components of the label.
        ignore: the value of the label on pixels of unknown kind, which get weight 0 and are no
            cell; None where there are none.
    Returns:
        (height, width) float64 weights; cast to float32 for the network.
    Raises:
        ValueError: if label has not two dimensions or a setting is out of range.
    """
    membrane_weight, cell_weight = _require_class_weights(class_weights)
    label = _require_two_dimensions(label, "label")
    is_known = np.full(label.shape, True) if ignore is None else label != ignore
    cells = (label > 0) & is_known
    if instance_map is None:
        instance_map = instances(cells)
    balance = np.where(cells, cell_weight, membrane_weight)
    return (balance + border_term(instance_map, w0, sigma, cells)) * is_known


def _lower_to_distance(distance, sources, where):
    """Lowers distance in place, on the pixels of where, to the distance to the source pixels."""
    # Without a source scipy measures to a place outside the image; the distance is inf there.
    if sources.any() and where.any():
        to_source = ndimage.distance_transform_edt(~sources)
        np.minimum(distance, to_source, out=distance, where=where)


def _require_two_dimensions(array, name):
    """Returns array as a NumPy array of two dimensions with at least one pixel, or raises."""
    array = np.asarray(array)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{name} must be one image of shape (height, width) with at least one pixel. "
            f"Received: shape {array.shape}. Pass the slices of a stack one by one."
        )
    return array


def _require_instance_map(instance_map):
    """Returns instance_map as an array of integers >= 0 with two dimensions, or raises."""
    instance_map = _require_two_dimensions(instance_map, "instance_map")
    if not np.issubdtype(instance_map.dtype, np.integer) or instance_map.min() < 0:
        raise ValueError(
            "instance_map must hold integers, 0 for background and a number above 0 for each "
            f"instance. Received: dtype {instance_map.dtype}, least value {instance_map.min()}. "
            "Use instances(label) to number the cells of a label."
        )
    return instance_map


def _require_settings(w0, sigma):
    """Raises if w0 is not finite and >= 0, or sigma not finite and > 0."""
    if not (np.isfinite(w0) and w0 >= 0):
        raise ValueError(f"w0 must be 0 or a number above 0. Received: w0={w0}. The paper has 10.")
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(
            f"sigma must be above 0 (pixels). Received: sigma={sigma}. The paper has 5; "
            "set w0=0 to switch the border term off."
        )


def _require_class_weights(weights):
    """Returns the two class weights as an array, or raises."""
    weights = np.asarray(weights, np.float64)
    if weights.shape != (2,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError(
            "class_weights must be two finite numbers >= 0, (membrane_weight, cell_weight). "
            f"Received: {weights.tolist()}. class_weights(labels) gives balanced ones."
        )
    return weights
