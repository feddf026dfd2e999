"""Cuts patches out of images and puts predicted patches together again.

No file of this kind knows the network: a predictor is a callable, so that stitching is tested
without one. Whole stacks of patches are never held in memory; positions are, and one batch.
"""

import itertools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import minimum_filter

DRIVE_SIZE = (584, 565)
DRIVE_ROWS = slice(9, 574)
LARGEST_PREDICTION_BATCH = 128
# Longest side of an image that is predicted in one pass; a square of it takes the networks about
# 1 GB. DRIVE lies below.
LARGEST_TILE = 1024
# Side of the blocks in which very large images are predicted.
LARGEST_BLOCK = 4096


def crop_to_square(images):
    """Cuts images of DRIVE's size to the 565 x 565 pixels that hold the FOV.

    retina-unet lib/extract_patches.py, get_data_training, which cuts rows 9 to 573 of every image.
    Differs: images of other sizes stay as they are.

    Args:
        images: (num_images, channels, height, width).
    Returns:
        (num_images, channels, 565, 565) for DRIVE, else the images themselves.
    """
    return images[:, :, DRIVE_ROWS] if images.shape[2:] == DRIVE_SIZE else images


# ---------------------------------------------------------------- patches for training


def draw_patch_positions(rng, num_patches, masks, patch_height, patch_width, inside_FOV):
    """Draws where the training patches lie: as many in each image, image after image.

    retina-unet lib/extract_patches.py, extract_random: uniform over all positions at which the
    patch lies in the image. Differs: only positions are drawn; with inside_FOV the patch lies
    wholly inside the FOV mask, not in a circle that is right for DRIVE alone.

    Args:
        rng: numpy.random.Generator.
        num_patches: a multiple of the number of images.
        masks: (num_images, 1, height, width) FOV masks, 0 outside.
        patch_height: height of a patch in pixels.
        patch_width: width of a patch in pixels.
        inside_FOV: whether a patch must lie wholly inside the FOV.
    Returns:
        (num_patches, 3) int32: image, top row, left column.
    Raises:
        ValueError: if num_patches is no multiple, or an image has no place for a patch.
    """
    num_images = len(masks)
    if num_patches % num_images:
        raise ValueError(
            f"num_patches must be a multiple of the {num_images} images. Received: {num_patches}"
        )
    per_image = num_patches // num_images
    positions = np.empty((num_images, per_image, 3), np.int32)
    for index, mask in enumerate(masks[:, 0]):
        allowed = _allowed_corners(mask, patch_height, patch_width, inside_FOV)
        if not allowed.any():
            raise ValueError(
                f"image {index} of {mask.shape[1]} x {mask.shape[0]} pixels has no place for a "
                f"patch of {patch_width} x {patch_height}"
                + (" wholly inside its FOV" if inside_FOV else "")
            )
        drawn = rng.choice(np.flatnonzero(allowed), per_image)
        positions[index, :, 0] = index
        positions[index, :, 1:] = np.stack(np.unravel_index(drawn, allowed.shape), axis=-1)
    return positions.reshape(num_patches, 3)


def _allowed_corners(mask, patch_height, patch_width, inside_FOV):
    """Marks the top left corners at which a patch lies in the image, and in the FOV if asked."""
    num_rows, num_columns = mask.shape[0] - patch_height + 1, mask.shape[1] - patch_width + 1
    if num_rows <= 0 or num_columns <= 0:
        return np.zeros((0, 0), bool)
    if not inside_FOV:
        return np.ones((num_rows, num_columns), bool)
    # A minimum filter whose window starts at its pixel: the least mask value within the patch.
    origin = (-(patch_height // 2), -(patch_width // 2))
    lowest = minimum_filter(mask, (patch_height, patch_width), mode="nearest", origin=origin)
    return lowest[:num_rows, :num_columns] > 0


def cut_patches(images, positions, patch_height, patch_width):
    """Cuts patches at given positions.

    Args:
        images: (num_images, channels, height, width).
        positions: (num_patches, 3) whole numbers: image, top row, left column.
        patch_height: height of a patch in pixels.
        patch_width: width of a patch in pixels.
    Returns:
        (num_patches, channels, patch_height, patch_width), a copy.
    """
    windows = sliding_window_view(images, (patch_height, patch_width), axis=(2, 3))
    image, top, left = positions.T
    return windows[image, :, top, left]


# ---------------------------------------------------------------- patches for prediction


def predict_overlap(predictor, image, patch_size, stride, on_patches=None, inside=None):
    """Predicts an image patch by patch and averages, per pixel, all patches that cover it.

    retina-unet lib/extract_patches.py, paint_border_overlap, extract_ordered_overlap and
    recompone_overlap. Differs: patches are cut and added up batch by batch, and those that show
    nothing of the FOV may be left out. With the stride equal to the patch it is the original's
    other mode (paint_border, extract_ordered, recompone).

    Example: 584 x 565 at stride 5 with patches of 48 x 48 is padded below and on the right with
    zeros to 588 x 568, because (588 - 48) and (568 - 48) are multiples of 5: 109 x 105 patches.

    Args:
        predictor: (N, C, patch_height, patch_width) float32 -> (N, K, patch_height, patch_width).
        image: (C, height, width) float32.
        patch_size: (height, width) of a patch in pixels.
        stride: (height, width) from patch to patch in pixels, at least 1, at most the patch.
        on_patches: called with the number of patches just done, for a progress bar.
        inside: (height, width) bool, the FOV: patches outside are left out. None for all patches.
    Returns:
        (K, height, width) float32; 0 where no patch was predicted. Inside the FOV none is missing.
    Raises:
        ValueError: if a stride is below 1 or above the patch.
    """
    padded = pad_for_overlap(image, patch_size, stride)
    steps = (slice(None, None, stride[0]), slice(None, None, stride[1]))
    windows = sliding_window_view(padded, patch_size, axis=(1, 2))[(slice(None), *steps)]
    windows = windows.transpose(1, 2, 0, 3, 4)  # (rows, columns, C, patch_height, patch_width)
    kept = np.ones(windows.shape[:2], bool)
    if inside is not None:
        seen = pad_for_overlap(inside[np.newaxis], patch_size, stride)[0]
        kept = sliding_window_view(seen, patch_size)[steps].any(axis=(2, 3))
    coverage = np.zeros(padded.shape[1:])
    counts = sliding_window_view(coverage, patch_size, writeable=True)[steps]
    ones = np.broadcast_to(kept[..., np.newaxis, np.newaxis], counts.shape)
    _add_overlapping(counts, ones, patch_size, stride)
    places = np.argwhere(kept)
    if on_patches and inside is not None:
        on_patches(kept.size - len(places))
    total = np.zeros((1, *padded.shape[1:]))
    # Batches of equal size, or nearly so, for few shapes to compile.
    num_batches = -(-len(places) // LARGEST_PREDICTION_BATCH)
    for batch in np.array_split(places, num_batches) if num_batches else ():
        row, column = batch.T
        outputs = predictor(windows[row, column])  # (N, K, patch_height, patch_width)
        if outputs.shape[1] != len(total):
            total = np.zeros((outputs.shape[1], *padded.shape[1:]))
        # The batch in its place among the rows of patches that it lies in; 0 beside it.
        rows = slice(row[0], row[-1] + 1)
        predicted = np.zeros((row[-1] + 1 - row[0], kept.shape[1], *patch_size), np.float32)
        for plane, output in zip(total, outputs.transpose(1, 0, 2, 3)):
            predicted[row - row[0], column] = output
            sums = sliding_window_view(plane, patch_size, writeable=True)[steps]
            _add_overlapping(sums[rows], predicted, patch_size, stride)
        if on_patches:
            on_patches(len(row))
    average = total / np.maximum(coverage, 1)
    return average[:, : image.shape[1], : image.shape[2]].astype(np.float32)


def pad_for_overlap(image, patch_size, stride):
    """Pads with zeros below and on the right until patches at this stride fill the image.

    Args:
        image: (C, height, width).
        patch_size: (height, width) of a patch in pixels.
        stride: (height, width) from patch to patch in pixels.
    Returns:
        (C, padded height, padded width); (padded - patch) is a multiple of the stride.
    Raises:
        ValueError: if a stride is below 1 or above the patch.
    """
    padding = [(0, 0)]
    for size, patch, step in zip(image.shape[1:], patch_size, stride):
        if not 1 <= step <= patch:
            raise ValueError(f"the stride must be from 1 to the patch, {patch}. Received: {step}")
        padding.append((0, -(size - patch) % step if size > patch else patch - size))
    return np.pad(image, padding)


def pad_to_multiple(image, multiple):
    """Pads with zeros below and on the right to sides that are multiples of a number.

    Args:
        image: (C, height, width).
        multiple: for a network with d poolings, of 2^d.
    Returns:
        (C, padded height, padded width).
    """
    return np.pad(image, [(0, 0)] + [(0, -size % multiple) for size in image.shape[1:]])


def full_image_tile(image_size, margin, multiple=4, largest=LARGEST_TILE):
    """Chooses one tile for predict_full_image: the image itself, or as few equal parts as fit.

    Example: a side of 3504 pixels with a margin of 24 and a largest tile of 1024 is predicted in 4
    tiles, because each shows 1024 - 48 = 976 pixels besides the 24 at either end of the image that
    need no margin: (3504 - 48) / 976 = 3.5. Four that show 3456 / 4 = 864 are enough: 912 pixels.

    Args:
        image_size: (height, width) in pixels, multiples of `multiple`.
        margin: pixels at a tile's edge that see beyond the tile; such a multiple too.
        multiple: 2^d for a network that pools d times.
        largest: longest side of a tile in pixels, above twice the margin.
    Returns:
        (height, width) of a tile, multiples of `multiple`.
    Raises:
        ValueError: if the largest tile shows nothing besides its margins.
    """
    if largest < 2 * margin + multiple:
        raise ValueError(
            f"the largest tile must be {2 * margin + multiple} pixels or more, to show some "
            f"between its margins of {margin}. Received: {largest}"
        )
    sides = []
    for size in image_size:
        shown = size - 2 * margin
        # A side of two margins or less is one tile.
        num_tiles = max(1, -(-shown // (largest // multiple * multiple - 2 * margin)))
        part = -(-shown // (multiple * num_tiles)) * multiple + 2 * margin
        sides.append(size if size <= largest else part)
    return tuple(sides)


def predict_full_image(predictor, image, tile_size, margin, multiple=4, on_tile=None):
    """Predicts an image as one pass of a network over all of it does, tile by tile.

    Not in retina-unet. A tile's edge inside the image is padded with zeros where one pass sees
    pixels, so a margin is thrown away there; a tile's edge on the image's border is padded as one
    pass pads it, and kept. Tiles start at multiples of 2^d for a network that pools d times, so
    that the same pixels are pooled together. Memory is the image, the result and one tile.

    Example: 20 rows by tiles of 12 with a margin of 4. The tiles start at rows 0, 4 and 8, and show
    the rows 0 ... 7, 8 ... 11 and 12 ... 19.

    Args:
        predictor: (1, C, tile_height, tile_width) float32 -> (1, K, tile_height, tile_width).
        image: (C, height, width) float32, sides multiples of `multiple`.
        tile_size: (height, width) of a tile in pixels, such multiples, at most the image.
        margin: pixels at a tile's edge that see beyond the tile; such a multiple.
        multiple: 2^d.
        on_tile: called with 1 after each tile, for a progress bar.
    Returns:
        (K, height, width) float32.
    Raises:
        ValueError: if a size is no such multiple, a tile is larger than the image, or tiles show
            nothing besides their margins.
    """
    rows, columns = full_image_places(image.shape[1:], tile_size, margin, multiple)
    predicted = None
    for top, shown_rows in rows:
        for left, shown_columns in columns:
            tile = image[np.newaxis, :, top : top + tile_size[0], left : left + tile_size[1]]
            (probability,) = predictor(np.ascontiguousarray(tile))
            if predicted is None:
                predicted = np.empty((len(probability), *image.shape[1:]), np.float32)
            inner = probability[:, _shifted(shown_rows, -top), _shifted(shown_columns, -left)]
            predicted[:, shown_rows, shown_columns] = inner
            if on_tile:
                on_tile(1)
    return predicted


def full_image_places(image_size, tile_size, margin, multiple=4):
    """Lays the tiles of predict_full_image along both axes; see there for an example.

    Args:
        image_size: (height, width) in pixels.
        tile_size: (height, width) of a tile in pixels.
        margin: pixels at a tile's edge that see beyond the tile.
        multiple: 2^d for a network that pools d times.
    Returns:
        two lists, of rows and of columns: the tile's start, and the slice of the image it shows.
    Raises:
        ValueError: as predict_full_image.
    """
    places = []
    for size, tile in zip(image_size, tile_size):
        if size % multiple or tile % multiple or margin % multiple or not 0 < tile <= size:
            raise ValueError(
                f"image, tile and margin must be multiples of {multiple}, because the network "
                "pools that far, and the tile at most the image. Received: "
                f"{size}, {tile} and {margin}"
            )
        step = tile - 2 * margin
        if tile < size and step <= 0:
            raise ValueError(
                f"a tile must be larger than two margins of {margin} pixels. Received: {tile}"
            )
        starts = [*range(0, size - tile, step), size - tile] if tile < size else [0]
        ends = [start + margin for start in starts[1:]] + [size]
        places.append([(a, slice(b, c)) for a, b, c in zip(starts, [0, *ends], ends)])
    return places


def predict_in_blocks(predict, image, margin, side=LARGEST_BLOCK):
    """Predicts a very large image block by block, so that memory does not grow with it.

    Not in retina-unet. A block is cut with a margin around it that is thrown away. An image that is
    no larger than a block is predicted as it is. Where `predict` averages over mirrorings, a block
    is pooled from its own end, not from the image's, which changes single pixels a little.

    Args:
        predict: (C, any height, any width) -> (K, same height, same width) float32.
        image: (C, height, width).
        margin: pixels around a block, a multiple of what the network pools together.
        side: of a block, such a multiple.
    Returns:
        (K, height, width) float32.
    """
    height, width = image.shape[1:]
    if max(height, width) <= side + 2 * margin:
        return predict(image)
    whole = None
    for top in range(0, height, side):
        for left in range(0, width, side):
            first = max(0, top - margin), max(0, left - margin)
            block = image[:, first[0] : top + side + margin, first[1] : left + side + margin]
            predicted = predict(np.ascontiguousarray(block))
            if whole is None:
                whole = np.empty((len(predicted), height, width), np.float32)
            place = whole[:, top : top + side, left : left + side]
            rows, columns = (start - a for start, a in zip((top, left), first))
            rows, columns = (
                slice(rows, rows + place.shape[1]),
                slice(columns, columns + place.shape[2]),
            )
            place[...] = predicted[:, rows, columns]
    return whole


# ---------------------------------------------------------------- averaging over orientations

# An orientation is (quarter turns, row step, column step): the image is mirrored along the axes
# whose step is -1, then turned.
MIRRORED = ((0, 1, 1), (0, 1, -1), (0, -1, 1), (0, -1, -1))
SQUARE = tuple((turns, 1, step) for turns in range(4) for step in (1, -1))
ORIENTATIONS = {1: MIRRORED[:1], 2: MIRRORED[:2], 4: MIRRORED, 8: SQUARE}
# All eight, in an order in which few in a row are turned and mirrored differently.
MIXED = tuple(SQUARE[number] for number in (0, 3, 5, 6, 4, 7, 1, 2))


def share_orientations(numbers):
    """Shares the eight orientations out: each size of an image is seen in others.

    Args:
        numbers: how many for each size: 1, 2, 4 or 8.
    Returns:
        a tuple of orientations for each, as average_orientations takes them; after eight from the
        first again.
    """
    in_turn = itertools.cycle(MIXED)
    return [tuple(itertools.islice(in_turn, number)) for number in numbers]


def describe_average(number):
    """Words over how many orientations is averaged, behind how is predicted; empty for one."""
    return f", averaged over {number} orientations" if number > 1 else ""


def average_orientations(predict, image, orientations):
    """Averages the predictions of an image in some of its orientations.

    Not in retina-unet. U-Net paper, table 1: the published result is the mean over seven rotated
    versions of the image; which seven, it does not say. Here, of ORIENTATIONS: 2 are the image as
    it is and mirrored left-right; 4 are these and mirrored up-down, which keep height and width; 8
    are all symmetries of the square.

    Args:
        predict: (C, any height, any width) -> (K, same height, same width).
        image: (C, height, width) float32; need not be square.
        orientations: one of ORIENTATIONS, or as share_orientations gives them.
    Returns:
        (K, height, width) of the type predict returns.
    """
    # Summed in float64, so that equal predictions have exactly themselves as their mean.
    total = 0.0
    for turns, row_step, column_step in orientations:
        mirrored = image[:, ::row_step, ::column_step]
        predicted = predict(np.ascontiguousarray(np.rot90(mirrored, turns, (1, 2))))
        turned_back = np.rot90(predicted, -turns, (1, 2))
        total = total + turned_back[:, ::row_step, ::column_step].astype(np.float64)
    return (total / len(orientations)).astype(predicted.dtype)


def num_overlap_patches(image_size, patch_size, stride):
    """Counts the patches that predict_overlap cuts from one image of (height, width) pixels."""
    counts = [
        max(0, -(-(size - patch) // step)) + 1
        for size, patch, step in zip(image_size, patch_size, stride)
    ]
    return counts[0] * counts[1]


def _shifted(part, by):
    return slice(part.start + by, part.stop + by)


def _add_overlapping(sums, patches, patch_size, stride):
    """Adds patches into windows of one array: those that share no pixel at once.

    Args:
        sums: (rows, columns, patch_height, patch_width) writeable windows, `stride` apart.
        patches: (rows, columns, patch_height, patch_width).
        patch_size: (height, width) of a patch in pixels.
        stride: (height, width) from patch to patch in pixels.
    """
    apart = [-(-patch // step) for patch, step in zip(patch_size, stride)]
    for row in range(min(apart[0], len(sums))):
        for column in range(min(apart[1], sums.shape[1])):
            group = (slice(row, None, apart[0]), slice(column, None, apart[1]))
            sums[group] += patches[group]
