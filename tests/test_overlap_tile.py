"""Tests of the overlap-tile strategy: sizes, mirror, tile places, and equality with one pass."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import overlap_tile as ot


class SmallUNet:
    """A valid U-Net in NumPy, float64, random weights: two convolutions and a pooling per level."""

    def __init__(self, depth, base_filters=2, num_channels=1, num_classes=2, seed=0):
        rng = np.random.default_rng(seed)
        filters = [base_filters * 2**level for level in range(depth + 1)]

        def kernel(size, inputs, outputs):
            scale = np.sqrt(2 / (size * size * inputs))
            return rng.normal(0, scale, (outputs, inputs, size, size))

        inputs = [num_channels, *filters]
        self.down = [
            (kernel(3, inputs[level], count), kernel(3, count, count))
            for level, count in enumerate(filters)
        ]
        self.up = [
            (kernel(2, 2 * count, count), kernel(3, 2 * count, count), kernel(3, count, count))
            for count in reversed(filters[:-1])
        ]
        self.score = kernel(1, base_filters, num_classes)

    def __call__(self, images):
        x, skips = images, []
        for level, (first, second) in enumerate(self.down):
            if level:
                n, c, height, width = x.shape
                x = x.reshape(n, c, height // 2, 2, width // 2, 2).max((3, 5))
            x = relu(convolve(relu(convolve(x, first)), second))
            skips.append(x)
        for (up, first, second), skip in zip(self.up, reversed(skips[:-1])):
            x = up_convolve(x, up)
            rows, columns = ((a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:]))
            skip = skip[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]
            x = relu(convolve(relu(convolve(np.concatenate([x, skip], 1), first)), second))
        return convolve(x, self.score)


def relu(x):
    return np.maximum(x, 0)


def convolve(x, kernel):
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, kernel, optimize=False)


def up_convolve(x, kernel):
    n, _, height, width = x.shape
    spread = np.einsum("nchw,ocij->nohiwj", x, kernel, optimize=False)
    return spread.reshape(n, kernel.shape[0], 2 * height, 2 * width)


def crop_margin(depth):
    """A predictor that gives back the middle of its input."""
    cut = ot.margin(depth)
    return lambda tiles: tiles[:, :, cut:-cut, cut:-cut]


# Figure 1 of the paper and the same arithmetic at other depths: every level takes 4 pixels by its
# convolutions and a pooling needs an even size.
@pytest.mark.parametrize(
    "depth, step, smallest, border",
    [(1, 2, 18, 16), (2, 4, 44, 40), (3, 8, 92, 88), (4, 16, 188, 184), (5, 32, 380, 376)],
)
def test_valid_sizes_at_every_depth(depth, step, smallest, border):
    valid = [size for size in range(1, 500) if ot.valid_input_size(size, depth)]
    assert valid == list(range(smallest, 500, step))
    assert 2 * ot.margin(depth) == border
    assert all(ot.output_size(size, depth) == size - border for size in valid)


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 700))
def test_valid_sizes_equal_a_walk_through_the_network(depth, size):
    def walk(n, level):
        n -= 4
        if level < depth:
            if n < 2 or n % 2:
                return 0
            n = 2 * walk(n // 2, level + 1) - 4 if walk(n // 2, level + 1) else 0
        return max(n, 0)

    output = walk(size, 0)
    assert ot.valid_input_size(size, depth) == (output > 0)
    if output > 0:
        assert ot.output_size(size, depth) == output


def test_sizes_of_the_paper():
    assert ot.output_size(572) == 388
    assert ot.margin() == 92
    # 512 pixels in one pass: 700 = 16 * 40 + 60 gives 516; 684 would give 500.
    assert ot.input_for_output(512) == 700
    assert ot.input_for_output(388) == 572
    assert ot.input_for_output(389) == 588
    assert ot.input_for_output(1) == 188


@given(st.integers(1, 2000), st.integers(0, 5))
def test_input_for_output_is_the_smallest(size, depth):
    input_size = ot.input_for_output(size, depth)
    smaller = input_size - 2**depth
    assert ot.output_size(input_size, depth) >= size
    assert not ot.valid_input_size(smaller, depth) or ot.output_size(smaller, depth) < size


@pytest.mark.parametrize(
    "size, nearest",
    [(570, (556, 572)), (572, (572, 588)), (5, (188, 204)), (188, (188, 204))],
)
def test_nearest_valid_sizes(size, nearest):
    assert ot.nearest_valid_sizes(size) == nearest


def test_mirror_of_five_pixels():
    expected = [2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]
    assert ot.mirror_indices(np.arange(-6, 11), 5).tolist() == expected


@given(st.integers(1, 9), st.integers(0, 60), st.integers(0, 60))
def test_mirror_equals_numpy_pad_at_any_distance(size, before, after):
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(ot.mirror_indices(np.arange(-before, size + after), size), padded)


def test_tile_starts_of_the_paper():
    # 388 // 16 * 16 = 384: two tiles cover 0 ... 387 and 384 ... 771. Steps of 388 would seam.
    assert ot.tile_starts(512, 388) == [0, 384]
    assert ot.tile_starts(388, 388) == [0]
    assert ot.tile_starts(389, 388) == [0, 384]
    assert ot.tile_starts(772, 388) == [0, 384]
    assert ot.tile_starts(773, 388) == [0, 384, 768]


@given(st.integers(1, 900), st.integers(0, 4), st.integers(0, 20))
def test_tile_starts_cover_the_axis_on_the_pooling_grid(length, depth, extra):
    output = ot.output_size(ot.input_for_output(2**depth, depth) + extra * 2**depth, depth)
    starts = ot.tile_starts(length, output, depth)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + output] = True
    assert covered.all()
    assert all(start % 2**depth == 0 and start < length for start in starts)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 6),
)
def test_identity_predictor_gives_the_image_back(height, width, channels, depth, steps):
    image = np.random.default_rng(height).random((channels, height, width), dtype=np.float32)
    tile_size = ot.input_for_output(2**depth, depth) + steps * 2**depth
    prediction = ot.predict_overlap_tile(crop_margin(depth), image, tile_size, depth)
    np.testing.assert_array_equal(prediction, image)
    assert prediction.dtype == np.float32


def one_pass(network, image, depth):
    """The network on the whole image with the mirrored context that it needs."""
    padding = [(0, 0)]
    for size in image.shape[1:]:
        before = ot.margin(depth)
        padding.append((before, ot.input_for_output(size, depth) - size - before))
    padded = np.pad(image, padding, mode="reflect")
    return network(padded[np.newaxis])[0, :, : image.shape[1], : image.shape[2]]


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 2), st.integers(0, 5))
def test_tiled_equals_one_pass(height, width, depth, extra):
    network = SmallUNet(depth)
    image = np.random.default_rng(width).random((1, height, width))
    tile_size = ot.input_for_output(2**depth, depth) + extra * 2**depth
    tiled = ot.predict_overlap_tile(network, image, tile_size, depth)
    expected = one_pass(network, image, depth)
    np.testing.assert_allclose(tiled, expected, rtol=0, atol=1e-12)


def test_tiles_off_the_pooling_grid_would_differ():
    """The small network does depend on the position in the pooling grid: else all tiles fit."""
    network = SmallUNet(depth=2)
    image = np.random.default_rng(0).random((1, 40, 40))
    whole = one_pass(network, image, depth=2)
    shifted = one_pass(network, image[:, :, 1:], depth=2)
    # Columns far from the border, where the mirrored context is the same.
    assert np.abs(whole[:, :, 21:24] - shifted[:, :, 20:23]).max() > 1e-3


def test_a_network_of_several_channels_and_classes():
    network = SmallUNet(depth=1, num_channels=2, num_classes=5)
    image = np.random.default_rng(0).random((2, 10, 15))
    prediction = ot.predict_overlap_tile(network, image, 26, depth=1)
    assert prediction.shape == (5, 10, 15)
    # Margin 8; 10 rows need an input of 26 = 2 * 11 + 4, 15 columns 32 for 16.
    padded = np.pad(image, ((0, 0), (8, 8), (8, 9)), mode="reflect")
    expected = network(padded[None])[0, :, :, :15]
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=1e-12)


def test_predictor_gets_one_float32_tile_after_the_other():
    shapes = []

    def predictor(tiles):
        shapes.append((tiles.shape, tiles.dtype))
        return crop_margin(1)(tiles)

    # Outputs of 4, so 3 x 2 tiles cover 9 x 8.
    ot.predict_overlap_tile(predictor, np.zeros((3, 9, 8), np.float32), 20, depth=1)
    assert shapes == [((1, 3, 20, 20), np.float32)] * 6


@pytest.mark.parametrize("tile_size, words", [(570, "Use 556 or 572"), (100, "Use 188 or 204")])
def test_wrong_tile_size_names_two_that_fit(tile_size, words):
    image = np.zeros((1, 30, 30), np.float32)
    pattern = rf"input size .* must be 16 \* k \+ 60.*Received: {tile_size}. {words}"
    with pytest.raises(ValueError, match=pattern):
        ot.predict_overlap_tile(crop_margin(4), image, tile_size)


def test_tile_with_an_output_below_the_pooling_step_is_refused():
    # 188 gives 4 pixels; tiles that start at multiples of 16 would leave gaps.
    image = np.zeros((1, 30, 30), np.float32)
    pattern = r"output of 16 pixels or more.*Use an input size of 204"
    with pytest.raises(ValueError, match=pattern):
        ot.predict_overlap_tile(crop_margin(4), image, 188)
    with pytest.raises(ValueError, match=pattern):
        ot.tile_starts(30, 4)


@pytest.mark.parametrize(
    "size, words",
    [
        (571, "Received: 571. Use 556 or 572."),
        (20, "at least 188 pixels. Received: 20. Use 188 or 204."),
    ],
)
def test_output_of_a_size_that_does_not_fit(size, words):
    with pytest.raises(ValueError, match=words):
        ot.output_size(size)


# ---------------------------------------------------------------- blended tiles

SIDES = st.integers(1, 150)


@settings(max_examples=60, deadline=None)
@given(
    SIDES,
    SIDES,
    st.sampled_from([1, 4, 16]),
    st.sampled_from([(64, 0), (64, 20), (32, 15), (16, 0)]),
)
def test_blended_tiles_of_the_identity_are_the_image(height, width, multiple, tile):
    image = np.random.default_rng(height).random((2, height, width), np.float32)
    sides = set()

    def identity(cut):
        sides.update(cut.shape[1:])
        return cut

    tile_size, overlap = tile
    blended = ot.predict_blended(identity, image, tile_size, overlap, multiple)
    np.testing.assert_allclose(blended, image, atol=1e-6)
    assert all(side % multiple == 0 and side <= tile_size for side in sides)


def test_blended_tiles_overlap_and_fade():
    (first, fading), (second, rising) = ot.blended_places(20, 12, 4)
    assert first.tolist() == list(range(12)) and second.tolist() == list(range(8, 20))
    np.testing.assert_allclose(fading[8:], [7 / 8, 5 / 8, 3 / 8, 1 / 8])
    np.testing.assert_allclose(rising[:4], [1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert (fading[:8] == 1).all() and (rising[4:] == 1).all()


def test_blended_tiles_count_little_where_they_are_wrong():
    def wrong_at_its_edges(cut):
        predicted = np.ones((1, *cut.shape[1:]), np.float32)
        predicted[:, 1:-1, 1:-1] = 0
        return predicted

    blended = ot.predict_blended(wrong_at_its_edges, np.zeros((1, 160, 160)), 64, 16)
    assert blended[0, 1:-1, 1:-1].max() < 0.1


@pytest.mark.parametrize(("tile_size", "overlap"), [(60, 8), (64, 32), (64, -1), (16, 4)])
def test_blended_tiles_that_do_not_fit_are_refused(tile_size, overlap):
    with pytest.raises(ValueError, match=f"{tile_size}"):
        ot.predict_blended(np.negative, np.zeros((1, 99, 99)), tile_size, overlap, 16)
