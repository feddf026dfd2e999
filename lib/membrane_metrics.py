"""The five metrics of the ISBI 2012 membrane challenge, as Fiji computes them.

Pixel, Rand and warping error are those of the first leader board (the U-Net paper's table 1);
V_Rand and V_Info after border thinning are those of the second. All are defined by the
Trainable_Segmentation plug-in of Fiji and tested against values it gave.

Common to all: 1 is cell, 0 is membrane. A pixel of the proposal is cell if its float32 probability
is above the threshold, strictly. Objects are the 4-connected components of cell. A metric of the
challenge is the best over its thresholds; a threshold chosen on the images that are scored
flatters, so membrane_metrics also gives the value at one that was chosen before.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage, sparse

from lib.weight_map import instances

# Fiji adds 0.1 up from 0 in double precision: the eleventh value is 0.9999999999999999, not 1, and
# a proposal of exactly 1 is above it.
THRESHOLDS = tuple(float(threshold) for threshold in np.cumsum([0.0] + [0.1] * 10))
# Fiji's script scores the warping error at 0 ... 0.9 only.
WARPING_THRESHOLDS = THRESHOLDS[:-1]
# Half the side of the window in which a split is looked for, as in the challenge's script.
WARPING_RADIUS = 20

_ERRORS = ("pixel_error", "rand_error", "warping_error")
_SCORES = ("v_rand_thin", "v_info_thin")


class Overlap(NamedTuple):
    """Pixel counts of the cells of one slice against the objects of a proposal.

    Only pixels inside the cells of the ground truth count.

    Attributes:
        cells: (num_cells,) pixels of each cell.
        objects: (num_objects,) pixels of each object of the proposal.
        pairs: (num_pairs,) pixels that a cell and an object share, where they share any.
        lost: cell pixels that are membrane in the proposal, each of them a cluster by itself.
    """

    cells: np.ndarray
    objects: np.ndarray
    pairs: np.ndarray
    lost: int


def membrane_metrics(ground_truth, probability, thresholds=None, threshold=0.5):
    """Computes all five metrics over all thresholds, and at one.

    Args:
        ground_truth: (num_slices, height, width) uint8 in {0, 1}, 1 is cell.
        probability: (num_slices, height, width) float32 in [0, 1], probability of cell.
        thresholds: thresholds to try; None takes the challenge's: 0, 0.1, ... 0.9 and
            0.9999999999999999 (the warping error without the last).
        threshold: the one that was chosen before, on other slices.
    Returns:
        dict from 'pixel_error', 'rand_error', 'warping_error' (least is best), 'v_rand_thin' and
        'v_info_thin' (most is best) to a dict with 'best', 'threshold' (the first that gives the
        best), 'at_threshold' (the value at threshold, whether or not it is among the thresholds),
        'thresholds' and 'curve' (the values at them), all floats or lists of floats. A threshold
        at which nothing is a cell is never the best, though it has no warping error: best and
        threshold are None where no other is left.
    Raises:
        ValueError: if a shape, a value or a threshold is not as above.
    """
    ground_truth, probability = _require_stacks(ground_truth, probability)
    tried = THRESHOLDS if thresholds is None else _require_thresholds(thresholds)
    tried_warping = WARPING_THRESHOLDS if thresholds is None else tried
    cells = [instances(image) for image in ground_truth]
    (chosen,) = _require_thresholds([threshold])
    values = {
        one: _metrics_but_warping(ground_truth, cells, probability, one)
        for one in dict.fromkeys((*tried, chosen))
    }
    for one in dict.fromkeys((*tried_warping, chosen)):
        values[one]["warping_error"] = _warping_error(ground_truth, probability, one)
    highest = float(probability.max())  # as float32, 1 is not above the last threshold
    return {
        name: {
            **_summary(name, values, tried_warping if name == "warping_error" else tried, highest),
            "at_threshold": values[chosen][name],
        }
        for name in (*_ERRORS, *_SCORES)
    }


def pixel_error(ground_truth, probability, threshold=0.5):
    """Computes the challenge's pixel error: 1 - F1 of the class cell.

    F = 2 TP / (2 TP + FP + FN), counts pooled over the slices; F1 is also called Dice coefficient.
    Not 1 - accuracy, although the name suggests it: a proposal without any membrane scores 0.11 on
    the training labels. 0/0: precision without a proposed cell pixel is 1, recall without a cell
    pixel is 1, F is 0 where both are 0.

    Args:
        ground_truth: (num_slices, height, width) uint8 in {0, 1}, 1 is cell.
        probability: (num_slices, height, width) float32 in [0, 1], probability of cell.
        threshold: number in [0, 1]; cell is above it.
    Returns:
        float in [0, 1], 0 is best.
    Raises:
        ValueError: if a shape, a value or the threshold is not as above.
    """
    ground_truth, probability = _require_stacks(ground_truth, probability)
    (threshold,) = _require_thresholds([threshold])
    return _pixel_error(ground_truth, probability > np.float64(threshold))


def rand_error(ground_truth, probability, threshold=0.5):
    """Computes the first leader board's Rand error: 1 - F of the foreground-restricted Rand index.

    Counts pairs of pixels inside the cells of the ground truth, the pair of a pixel with itself
    included. With n_ij the pixels shared by cell i and object j, a_i those of cell i, b_j those of
    object j, and c those that are membrane in the proposal (each a cluster by itself):

        precision = (sum n_ij^2 + c) / (sum b_j^2 + c),  recall = (sum n_ij^2 + c) / sum a_i^2

    with the sums pooled over the slices; also called adapted Rand error. 0/0: precision and recall
    are 1 where no pair is wrong, so without any cell the error is 0.

    Arguments and errors as in pixel_error. Returns a float in [0, 1], 0 is best.
    """
    cells, proposal = _cells_and_proposal(ground_truth, probability, threshold)
    return _pooled_rand_error(_overlaps(cells, map(instances, proposal)))


def v_rand_thin(ground_truth, probability, threshold=0.5):
    """Computes V_Rand after border thinning, the second leader board's Rand score.

    Arganda-Carreras et al. 2015. The F of rand_error, with the proposal's membranes thinned first
    (thin_membrane), as a mean over the slices. 0/0: as in rand_error, slice by slice.

    Arguments and errors as in pixel_error. Returns a float in [0, 1], 1 is best.
    """
    cells, proposal = _cells_and_proposal(ground_truth, probability, threshold)
    return _mean_rand_score(_overlaps(cells, map(thin_membrane, proposal)))


def v_info_thin(ground_truth, probability, threshold=0.5):
    """Computes V_Info after border thinning, the second leader board's information score.

    Arganda-Carreras et al. 2015. With I the mutual information of cells and thinned objects inside
    the cells, and H their entropies, V_Info = 2 I / (H(cells) + H(objects)), the harmonic mean of
    I / H(cells) and I / H(objects), as a mean over the slices; lost pixels are clusters by
    themselves, as in rand_error. Also called normalised mutual information. 0/0: a slice with fewer
    than two cells (H(cells) = 0) or one object only (H(objects) = 0) scores 0.

    Arguments and errors as in pixel_error. Returns a float in [0, 1], 1 is best.
    """
    cells, proposal = _cells_and_proposal(ground_truth, probability, threshold)
    return _mean_info_score(_overlaps(cells, map(thin_membrane, proposal)))


def warping_error(ground_truth, probability, threshold=0.5):
    """Computes the challenge's warping error: the share of pixels where cells split or merge.

    Jain et al. 2010, with the classification of errors of Fiji. The ground truth is warped towards
    the proposal without a change of topology (warp); what still differs is counted where it splits
    a cell or merges two, over the pixels of all slices. Lost and extra cells cost nothing. 0/0 does
    not arise.

    Arguments and errors as in pixel_error. Returns a float in [0, 1], 0 is best.
    """
    ground_truth, probability = _require_stacks(ground_truth, probability)
    (threshold,) = _require_thresholds([threshold])
    return _warping_error(ground_truth, probability, threshold)


def thin_membrane(cell):
    """Grows the objects of one slice over the membrane until one-pixel borders are left.

    Vincent and Soille 1991, the flooding of the image that is 0 on cell and 255 on membrane, with 4
    neighbours: membrane pixels are taken first in, first out, from those at an object inwards. A
    pixel takes the number of its neighbours, or becomes a border where these have two different
    ones. Ties fall as in Fiji: pixels start in the order of columns, neighbours follow in the order
    left, up, right, down. Without any cell the whole image becomes one object.

    Args:
        cell: (height, width) bool, True is cell.
    Returns:
        (height, width) int, 0 on borders, the object's number elsewhere.
    """
    objects = instances(cell)
    if not objects.any():
        return np.ones_like(objects)
    outside, unseen, waiting, border = -3, -2, -1, 0
    # Transposed, so that the order of the flat array is Fiji's order of columns.
    flooded = np.pad(objects.T, 1, constant_values=outside)
    flooded[flooded == 0] = unseen
    at_object = (flooded == unseen) & ndimage.binary_dilation(flooded > 0)
    flooded[at_object] = waiting
    step = flooded.shape[1]
    number = flooded.ravel().tolist()
    queue = np.flatnonzero(at_object).tolist()
    # A queue that grows while it is walked through; a list of Python numbers, because single
    # elements of an array take ten times as long.
    for pixel in queue:
        found = border
        is_border = False
        for neighbour in (pixel - step, pixel - 1, pixel + step, pixel + 1):
            neighbour_number = number[neighbour]
            if neighbour_number > 0:
                is_border = is_border or (found > 0 and found != neighbour_number)
                found = neighbour_number
            elif neighbour_number == unseen:
                number[neighbour] = waiting
                queue.append(neighbour)
        number[pixel] = border if is_border else found
    return np.array(number).reshape(flooded.shape)[1:-1, 1:-1].T


def warp(ground_truth, probability, threshold):
    """Warps one slice of the ground truth to a proposal without a change of its topology.

    Jain et al. 2010. Pixels that differ are flipped if they are simple, that is if the flip neither
    splits, merges, makes nor removes an object or a hole; those where the probability is furthest
    from the threshold first, over and over until a sweep flips none.

    Args:
        ground_truth: (height, width) bool or {0, 1}, 1 is cell.
        probability: (height, width) float32 in [0, 1], probability of cell.
        threshold: number in [0, 1]; cell is above it.
    Returns:
        (warped, mismatch): (height, width) bool each, the warped ground truth, and where it still
        differs from the proposal.
    """
    proposal = probability > np.float64(threshold)
    # Transposed as in thin_membrane: ties fall in the order of columns.
    source = np.pad(np.asarray(ground_truth, bool).T, 1)
    differs = np.flatnonzero(source != np.pad(proposal.T, 1))
    distance = np.abs(np.pad(probability.T, 1).ravel()[differs].astype(np.float64) - threshold)
    order = np.argsort(-distance.astype(np.float32), kind="stable")
    left = _flip_simple_pixels(source, differs[order].tolist())
    mismatch = np.zeros(source.size, bool)
    mismatch[left] = True
    mismatch = mismatch.reshape(source.shape)[1:-1, 1:-1].T
    return proposal ^ mismatch, mismatch


def splits_and_mergers(ground_truth, probability, threshold, radius=WARPING_RADIUS):
    """Counts the pixels of one slice where a cell is split and where cells are merged.

    Fiji's classification of what differs after warp. A pixel with three or more different objects
    or membrane among its eight neighbours is a split if it is cell in the warped ground truth and
    a merger if it is membrane; a cell pixel with two is a split if its removal cuts its object
    within a window.

    Args:
        ground_truth: (height, width) bool or {0, 1}, 1 is cell.
        probability: (height, width) float32 in [0, 1], probability of cell.
        threshold: number in [0, 1]; cell is above it.
        radius: half the side of the window in pixels; the whole image where radius is below 1 or
            larger than the image.
    Returns:
        (num_splits, num_mergers), two ints.
    """
    warped, mismatch = warp(ground_truth, probability, threshold)
    if radius < 1 or radius > min(warped.shape):
        radius = max(warped.shape)
    rows, columns = np.nonzero(mismatch)
    num_kinds = _kinds_around(instances(warped), rows, columns)
    is_cell = warped[rows, columns]
    split = is_cell & (num_kinds > 2)
    merger = ~is_cell & (num_kinds > 2)
    for index in np.flatnonzero(is_cell & (num_kinds == 2)):
        split[index] = _cuts_object(warped, rows[index], columns[index], radius)
    return int(split.sum()), int(merger.sum())


def overlap(cells, objects):
    """Counts the pixels that the cells of one slice share with the objects of a proposal.

    Args:
        cells: (height, width) int, cells of the ground truth, 0 on membrane.
        objects: (height, width) int, objects of the proposal, 0 on membrane.
    Returns:
        Overlap.
    """
    inside = cells > 0
    cell, found = cells[inside], objects[inside]
    shape = (cells.max() + 1, objects.max() + 1)
    pairs = sparse.coo_array((np.ones(cell.size, np.int64), (cell, found)), shape).tocsc()
    # Column 0 is the membrane of the proposal; the counts of its objects are stored behind it.
    first_object = pairs.indptr[1]
    return Overlap(
        cells=np.bincount(cell)[1:],
        objects=np.bincount(found)[1:],
        pairs=pairs.data[first_object:],
        lost=int(pairs.data[:first_object].sum()),
    )


def _metrics_but_warping(ground_truth, cells, probability, threshold):
    """Computes the four metrics other than the warping error; thins once for the two that need it.

    cells are the numbered cells of the ground truth, which are the same at every threshold.
    """
    proposal = probability > np.float64(threshold)
    thinned = _overlaps(cells, map(thin_membrane, proposal))
    return {
        "pixel_error": _pixel_error(ground_truth, proposal),
        "rand_error": _pooled_rand_error(_overlaps(cells, map(instances, proposal))),
        "v_rand_thin": _mean_rand_score(thinned),
        "v_info_thin": _mean_info_score(thinned),
    }


def _pixel_error(ground_truth, proposal):
    """Computes 1 - F1 of the class cell for a stack of {0, 1} and one of bool."""
    true_positives = int(np.count_nonzero(proposal & (ground_truth > 0)))
    return 1.0 - _f_score(
        true_positives, int(np.count_nonzero(proposal)), int(np.count_nonzero(ground_truth))
    )


def _warping_error(ground_truth, probability, threshold):
    """Computes the warping error of a checked stack."""
    counts = [
        splits_and_mergers(cell, slice_probability, threshold)
        for cell, slice_probability in zip(ground_truth, probability)
    ]
    return float(np.sum(counts) / ground_truth.size)


def _cells_and_proposal(ground_truth, probability, threshold):
    """Checks a stack and returns its cells, numbered slice by slice, and the proposal as bool."""
    ground_truth, probability = _require_stacks(ground_truth, probability)
    (threshold,) = _require_thresholds([threshold])
    return map(instances, ground_truth), probability > np.float64(threshold)


def _overlaps(cells, objects):
    """Counts the overlaps slice by slice."""
    return [
        overlap(slice_cells, slice_objects) for slice_cells, slice_objects in zip(cells, objects)
    ]


def _pooled_rand_error(overlaps):
    """Computes 1 - F from the pair counts of all slices together."""
    return 1.0 - _f_score(*np.sum([_pair_counts(counts) for counts in overlaps], axis=0).tolist())


def _mean_rand_score(overlaps):
    """Computes F slice by slice and takes the mean."""
    return float(np.mean([_f_score(*_pair_counts(counts)) for counts in overlaps]))


def _mean_info_score(overlaps):
    """Computes the information score slice by slice and takes the mean."""
    return float(np.mean([_info_score(counts) for counts in overlaps]))


def _pair_counts(counts):
    """Counts the ordered pairs of pixels together in both, in the proposal, in the ground truth."""
    # Each lost pixel is a cluster by itself: one pair, with itself.
    both = int(np.sum(counts.pairs**2)) + counts.lost
    return both, int(np.sum(counts.objects**2)) + counts.lost, int(np.sum(counts.cells**2))


def _f_score(both, proposed, true):
    """Computes the harmonic mean of precision both / proposed and recall both / true."""
    precision = both / proposed if proposed else 1.0
    recall = both / true if true else 1.0
    return 2.0 * precision * recall / (precision + recall) if precision + recall else 0.0


def _info_score(counts):
    """Computes 2 I / (H(cells) + H(objects)) of one slice, 0 where either entropy is 0."""
    num_pixels = counts.cells.sum()
    # Each lost pixel adds (1 / n) log(1 / n) to the objects' sum and to the pairs' sum.
    lost = -counts.lost / max(num_pixels, 1) * np.log(max(num_pixels, 1))
    entropy_cells = -_sum_p_log_p(counts.cells, num_pixels)
    entropy_objects = -_sum_p_log_p(counts.objects, num_pixels) - lost
    joint_entropy = -_sum_p_log_p(counts.pairs, num_pixels) - lost
    # A single cell, or a single object, carries no information; rounding must not invent some.
    if entropy_cells == 0 or entropy_objects == 0:
        return 0.0
    information = entropy_cells + entropy_objects - joint_entropy
    return max(2.0 * information / (entropy_cells + entropy_objects), 0.0)


def _sum_p_log_p(pixels, num_pixels):
    """Computes the sum of p log p for the shares p = pixels / num_pixels, empty ones left out."""
    share = pixels[pixels > 0] / num_pixels
    return float(np.sum(share * np.log(share)))


# Neighbours of a pixel, anticlockwise from the right, as (row, column) steps; bit k of a
# neighbourhood's code is set if neighbour k is cell.
_RING = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


@lru_cache(maxsize=1)
def simple_codes():
    """Tells for each of the 256 neighbourhoods whether its centre is a simple point.

    Yokoi et al. 1975: with x_k = 1 where neighbour k is cell, the centre is simple, for 4-connected
    cells on 8-connected membrane, if sum over k = 0, 2, 4, 6 of x_k - x_k x_{k+1} x_{k+2} is 1. It
    does not matter whether the centre itself is cell.

    Returns:
        bytes of length 256, 1 where a flip of the centre leaves the topology as it is.
    """
    codes = np.arange(256)
    x = [(codes >> (k % 8)) & 1 for k in range(10)]
    return (
        (sum(x[k] - x[k] * x[k + 1] * x[k + 2] for k in (0, 2, 4, 6)) == 1)
        .astype(np.uint8)
        .tobytes()
    )


def _flip_simple_pixels(source, pixels):
    """Sweeps over flat positions and flips simple ones until none is; returns those left."""
    row_step = source.shape[1]
    steps = [row * row_step + column for row, column in _RING]
    # Seen from its neighbour k, a pixel is neighbour k + 4.
    around = [(step, 1 << ((k + 4) % 8)) for k, step in enumerate(steps)]
    codes = bytearray(_neighbourhood_codes(source, steps))
    is_simple = simple_codes()
    while True:
        left = []
        for pixel in pixels:
            if is_simple[codes[pixel]]:
                for step, bit in around:
                    codes[pixel + step] ^= bit
            else:
                left.append(pixel)
        if len(left) == len(pixels):
            return left
        pixels = left


def _neighbourhood_codes(padded, steps):
    """Computes the code of every pixel's neighbourhood, flat, as bytes; the rim is left at 0."""
    flat = padded.ravel().astype(np.uint8)
    codes = np.zeros_like(flat)
    rim = padded.shape[1] + 1
    inner = np.arange(rim, flat.size - rim)
    for k, step in enumerate(steps):
        codes[inner] |= flat[inner + step] << k
    return codes.tobytes()


def _kinds_around(numbered, rows, columns):
    """Counts the different objects, membrane as one of them, among each pixel's neighbours."""
    padded = np.pad(numbered, 1, constant_values=-1)
    ring = np.stack([padded[rows + 1 + row, columns + 1 + column] for row, column in _RING], axis=1)
    ring.sort(axis=1)  # (num_pixels, 8)
    is_new = np.diff(ring, axis=1, prepend=-1) != 0
    # The -1 outside the image sort first and equal what is prepended: they never count as new.
    return is_new.sum(axis=1)


def _cuts_object(warped, row, column, radius):
    """Tells whether a cell pixel holds its object together within a window around it."""
    top, left = max(row - radius, 0), max(column - radius, 0)
    window = warped[top : row + radius + 1, left : column + radius + 1].copy()
    row, column = row - top, column - left
    window[row, column] = False
    around = instances(window)[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    return len(set(around.ravel().tolist()) - {0}) > 1


def _summary(name, values, thresholds, highest):
    """Collects one metric's curve and its best value."""
    curve = [values[threshold][name] for threshold in thresholds]
    has_cells = [
        (threshold, value) for threshold, value in zip(thresholds, curve) if highest > threshold
    ]
    best = (min if name in _ERRORS else max)((value for _, value in has_cells), default=None)
    return {
        "best": best,
        "threshold": next((threshold for threshold, value in has_cells if value == best), None),
        "thresholds": list(thresholds),
        "curve": curve,
    }


def _require_stacks(ground_truth, probability):
    """Returns the ground truth and the probability as float32, both checked, or raises."""
    ground_truth, probability = np.asarray(ground_truth), np.asarray(probability)
    if ground_truth.ndim != 3 or ground_truth.size == 0 or probability.shape != ground_truth.shape:
        raise ValueError(
            "ground_truth and probability must have one shape (num_slices, height, width). "
            f"Received: {ground_truth.shape} and {probability.shape}. Take the channel of the "
            "class cell, and add an axis in front of a single slice."
        )
    if not np.isin(ground_truth, (0, 1)).all():
        raise ValueError(
            "ground_truth must hold 0 (membrane) and 1 (cell) only. Received: values from "
            f"{ground_truth.min()} to {ground_truth.max()}. Compare a label of 0 and 255 with 127."
        )
    probability = probability.astype(np.float32)
    # A NaN fails both comparisons.
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError(
            "probability must lie in [0, 1] and hold no NaN. Received: values from "
            f"{probability.min()} to {probability.max()}, {np.isnan(probability).sum()} NaN."
        )
    return ground_truth.astype(np.uint8), probability


def _require_thresholds(thresholds):
    """Returns the thresholds as a tuple of floats, or raises."""
    thresholds = tuple(float(threshold) for threshold in thresholds)
    if not thresholds or not all(0.0 <= threshold <= 1.0 for threshold in thresholds):
        raise ValueError(
            f"thresholds must be one or more numbers in [0, 1]. Received: {list(thresholds)}."
        )
    return thresholds
