"""Overlap-tile prediction: an image of any size through an unpadded network, without seams.

Ronneberger, Fischer, Brox 2015, section 2 and figure 2: the network computes only the part of a
tile for which it has the full context, context beyond the image is mirrored, and tiles are laid so
that their outputs cover the image. Differs from the authors' released code in the step between
tiles: they step by the output size (388), which moves the pooling grid from tile to tile, so that
tiles do not fit one pass over the whole image. Here all tiles start at multiples of 2^depth, which
makes the tiled result equal to one pass, but for the rounding of the network's own sums.

Sizes, for a network of `depth` poolings with two unpadded 3x3 convolutions per level (figure 1):
an input of n pixels is valid if n = 2^depth * k + 4 * (2^depth - 1) and leaves an output of at
least one pixel; the output is n - (12 * 2^depth - 8). Depth 4: 572 -> 388.
"""

import numpy as np


def margin(depth=4):
    """Gives the context a tile loses on each side in pixels: 92 at the paper's depth of 4.

    Args:
        depth: number of poolings, >= 0.
    Returns:
        int, (input size - output size) / 2.
    """
    return 6 * 2**depth - 4


def valid_input_size(input_size, depth=4):
    """Tells whether every pooling of the network sees an even size and some output is left.

    Args:
        input_size: height or width of an input tile in pixels.
        depth: number of poolings, >= 0.
    Returns:
        bool.
    """
    step = 2**depth
    return (input_size - 4 * (step - 1)) % step == 0 and input_size > 2 * margin(depth)


def output_size(input_size, depth=4):
    """Gives the output size of an input size: 388 for 572 at depth 4.

    Args:
        input_size: height or width of an input tile in pixels.
        depth: number of poolings, >= 0.
    Returns:
        int, height or width of the output in pixels.
    Raises:
        ValueError: if input_size is not valid; it names the two nearest valid sizes.
    """
    if not valid_input_size(input_size, depth):
        step = 2**depth
        lower, upper = nearest_valid_sizes(input_size, depth)
        raise ValueError(
            f"The input size of a network of depth {depth} must be {step} * k + {4 * (step - 1)}, "
            f"at least {input_for_output(1, depth)} pixels. Received: {input_size}. "
            f"Use {lower} or {upper}."
        )
    return input_size - 2 * margin(depth)


def input_for_output(size, depth=4):
    """Gives the smallest valid input size whose output is not smaller than size.

    Args:
        size: wanted height or width of the output in pixels, >= 1.
        depth: number of poolings, >= 0.
    Returns:
        int, height or width of the input in pixels: 572 for 388, 700 for 512 at depth 4.
    """
    step = 2**depth
    # The output is 2^depth * k + 4 * (2^depth - 1) - 2 * margin for a whole number k.
    steps = -(-(size + 2 * margin(depth) - 4 * (step - 1)) // step)
    return step * steps + 4 * (step - 1)


def nearest_valid_sizes(size, depth=4):
    """Finds the two valid input sizes nearest to a size, for error texts and proposals.

    Args:
        size: height or width in pixels that somebody asked for.
        depth: number of poolings, >= 0.
    Returns:
        (lower, upper): lower <= size < upper, and the two smallest where size is below both.
    """
    lower = smallest = input_for_output(1, depth)
    step = 2**depth
    if size > smallest:
        lower += (size - smallest) // step * step
    return lower, lower + step


def mirror_indices(indices, size):
    """Maps positions outside an image to those inside that a mirror shows, at any distance.

    The edge pixel is not repeated (NumPy's mode 'reflect'): for size 5, the positions -3 ... 7 show
    3 2 1 0 1 2 3 4 3 2 1. NumPy's pad does the same, but makes a padded copy of the image.

    Args:
        indices: integers, positions along one axis.
        size: length of that axis, >= 1.
    Returns:
        array of integers in [0, size), of the shape of indices.
    """
    if size == 1:
        return np.zeros_like(indices)
    period = 2 * (size - 1)
    folded = np.abs(indices) % period
    return np.minimum(folded, period - folded)


def tile_starts(length, output_tile_size, depth=4):
    """Places output tiles along one axis so that they cover it and no seam arises.

    The network's response depends on the position of a pixel in the pooling grid, so every start
    must be the same modulo 2^depth. The step is the largest multiple of 2^depth that leaves no gap.
    Worked example, 512 pixels by outputs of 388 at depth 4: 388 // 16 * 16 = 384, so the tiles
    cover 0 ... 387 and 384 ... 771, of which 384 ... 511 lie in the image.

    Args:
        length: height or width of the image in pixels, >= 1.
        output_tile_size: height or width of the output of a tile in pixels.
        depth: number of poolings, >= 0.
    Returns:
        list of int, the first row or column of every output tile: [0, 384] in the example.
    Raises:
        ValueError: if output_tile_size is below 2^depth, so that tiles on the pooling grid would
            leave gaps.
    """
    step = 2**depth
    if output_tile_size < step:
        raise ValueError(
            f"Tiles that start at multiples of {step} (2^depth) need an output of {step} pixels or "
            f"more to leave no gap. Received: {output_tile_size}. Use an input size of "
            f"{input_for_output(step, depth)} or more."
        )
    stride = output_tile_size // step * step
    overlap = output_tile_size - stride
    return list(range(0, max(length - overlap, 1), stride))


def predict_overlap_tile(predictor, image, tile_size, depth=4):
    """Predicts a whole image tile by tile.

    Paper, figure 2. The result is that of one pass over the whole image, whatever the tile size.
    Memory is the image, the result and one tile.

    Args:
        predictor: callable, (1, C, tile_size, tile_size) float32 to (1, K, output_size,
            output_size); it knows nothing of tiles.
        image: (C, height, width) float32, any height and width, also smaller than a tile.
        tile_size: input size of a square tile in pixels.
        depth: number of poolings of the network, >= 0.
    Returns:
        (K, height, width) of the type the predictor returns (float32 from a network).
    Raises:
        ValueError: if the tile size is not valid (the two nearest valid sizes are named).
    """
    side = output_size(tile_size, depth)
    prediction = None
    for row in tile_starts(image.shape[1], side, depth):
        for column in tile_starts(image.shape[2], side, depth):
            (output,) = predictor(_cut(image, (row, column), tile_size, depth)[np.newaxis])
            if prediction is None:
                prediction = np.empty((len(output), *image.shape[1:]), output.dtype)
            place = prediction[:, row : row + side, column : column + side]
            place[...] = output[:, : place.shape[1], : place.shape[2]]
    return prediction


def _cut(image, start, size, depth):
    """Cuts the input tile whose output tile starts at start = (row, column), mirrored outside."""
    rows, columns = (
        mirror_indices(np.arange(size) + first - margin(depth), length)
        for first, length in zip(start, image.shape[1:])
    )
    return cut_mirrored(image, rows, columns)


# ---------------------------------------------------------------- networks with padded convolutions


def predict_blended(predictor, image, tile_size, overlap, multiple=1, on_tile=None):
    """Predicts an image of any size by tiles that overlap and fade into each other.

    For networks with padded convolutions, whose outputs near a tile's edge see zeros in place of
    the image. Where neighbouring tiles overlap, the weight of each falls linearly towards its edge,
    so that an edge counts nothing; at the image's own border it counts fully. An image that is not
    larger than a tile is one tile. What lies beyond the image is mirrored.

    Memory is the result and one tile: the image may be one that is read from disk when it is cut.

    Args:
        predictor: (C, height, width) float32 -> (K, height, width) float32; the sides are multiples
            of `multiple`, at most tile_size.
        image: (C, height, width) float32, or an object with that shape that is cut alike.
        tile_size: longest side of a tile in pixels, a multiple of `multiple`.
        overlap: pixels that neighbouring tiles share at least; most_overlap limits it.
        multiple: of which a tile's sides and starts must be: 2^d for a network that pools d times.
        on_tile: called with 1 after each tile, for a progress bar.
    Returns:
        (K, height, width) float32.
    Raises:
        ValueError: if a tile is no such multiple, or tiles would overlap by more than they can.
    """
    rows, columns = (blended_places(n, tile_size, overlap, multiple) for n in image.shape[1:])
    blended = None
    for row_indices, row_weights in rows:
        for column_indices, column_weights in columns:
            output = predictor(cut_mirrored(image, row_indices, column_indices))
            if blended is None:
                blended = np.zeros((len(output), *image.shape[1:]), np.float32)
            height, width = len(row_weights), len(column_weights)
            top, left = row_indices[0], column_indices[0]
            weighted = output[:, :height, :width] * row_weights[:, np.newaxis] * column_weights
            blended[:, top : top + height, left : left + width] += weighted
            if on_tile:
                on_tile(1)
    return blended


def blended_places(length, tile_size, overlap, multiple=1):
    """Lays the tiles of predict_blended along one axis.

    Example: 20 pixels by tiles of 12 that overlap by 4. They show 0 ... 11 and 8 ... 19; the pixels
    8, 9, 10 and 11 belong to the first by 7/8, 5/8, 3/8 and 1/8, and to the second by the rest.

    Args:
        length: height or width of the image in pixels.
        tile_size: longest side of a tile in pixels, a multiple of `multiple`.
        overlap: pixels that neighbouring tiles share at least.
        multiple: of which a tile's sides and starts must be.
    Returns:
        list of (tile's pixels as indices of the image, mirrored beyond it; weights of those that
        lie in the image). At each pixel of the image the weights of all tiles sum to 1.
    Raises:
        ValueError: as predict_blended.
    """
    if tile_size % multiple or tile_size < multiple:
        raise ValueError(f"a tile must be a multiple of {multiple} pixels. Received: {tile_size}")
    most = most_overlap(tile_size, multiple)
    if not 0 <= overlap <= most:
        raise ValueError(
            f"tiles of {tile_size} pixels must overlap by 0 to {most} pixels. Received: {overlap}"
        )
    side = min(tile_size, -(-length // multiple) * multiple)
    spare = length - side
    # The starts lie evenly; rounding them to the multiple must not widen a step.
    step = (side - overlap) // multiple * multiple
    number = 1 + max(0, -(-spare // max(step, 1)))
    last = -(-max(spare, 0) // multiple) * multiple
    starts = [last * i // (max(number - 1, 1) * multiple) * multiple for i in range(number)]
    weights = np.zeros((number, length))
    for row, start in zip(weights, starts):
        inside = np.arange(start, min(start + side, length))
        # Distance to the tile's edges in the image.
        before = inside - start + 0.5 if start > 0 else np.inf
        after = start + side - inside - 0.5 if start + side < length else np.inf
        row[inside] = np.minimum(np.minimum(before, after), max(overlap, 0.5))
    weights /= weights.sum(axis=0)
    return [
        (
            mirror_indices(np.arange(start, start + side), length),
            weights[i, start : start + side].astype(np.float32),
        )
        for i, start in enumerate(starts)
    ]


def most_overlap(tile_size, multiple=1):
    """Gives the pixels by which tiles of predict_blended may overlap at most.

    It is less than half a tile, and the next tile starts at least one multiple further on.
    """
    return min((tile_size - 1) // 2, tile_size - multiple)


def num_blended_tiles(image_size, tile_size, overlap, multiple=1):
    """Counts the tiles of predict_blended for an image of (height, width) pixels."""
    rows, columns = (blended_places(n, tile_size, overlap, multiple) for n in image_size)
    return len(rows) * len(columns)


def cut_mirrored(image, rows, columns):
    """Cuts (..., rows, columns) out of (..., H, W) by indices, reading only what holds them."""
    top, left = rows.min(), columns.min()
    part = np.asarray(image[..., top : rows.max() + 1, left : columns.max() + 1])
    return part.take(rows - top, axis=-2).take(columns - left, axis=-1)
