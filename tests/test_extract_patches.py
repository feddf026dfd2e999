"""Tests of cutting patches and of putting predicted ones together again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lib import extract_patches as ep


def centre_channel(patches):
    """A predictor that gives its input back."""
    return patches


def test_one_orientation_is_no_average():
    assert ep.describe_average(1) == ""
    assert ep.describe_average(8) == ", averaged over 8 orientations"


@st.composite
def tilings(draw):
    """Sides of an image and a patch, and a stride that fits the patch."""
    image = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    patch = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stride = tuple(draw(st.integers(1, side)) for side in patch)
    return image, patch, stride


# ---------------------------------------------------------------- crop


def test_crop_keeps_the_square_of_565_pixels_of_drive():
    rows = np.broadcast_to(np.arange(584)[:, np.newaxis], (2, 3, 584, 565))
    cropped = ep.crop_to_square(rows)
    assert cropped.shape == (2, 3, 565, 565)
    assert (cropped[0, 0, 0, 0], cropped[0, 0, -1, 0]) == (9, 573)


def test_crop_leaves_other_sizes_alone():
    images = np.zeros((1, 1, 565, 584))
    assert ep.crop_to_square(images) is images


# ---------------------------------------------------------------- positions


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    image=st.tuples(st.integers(6, 20), st.integers(6, 20)),
    patch=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_patches_lie_in_the_image_as_many_in_each_image_after_image(seed, image, patch):
    masks = np.zeros((3, 1, *image), np.uint8)
    drawn = ep.draw_patch_positions(np.random.default_rng(seed), 12, masks, *patch, False)
    assert drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn[:, 0], np.repeat([0, 1, 2], 4))
    assert (drawn[:, 1:] >= 0).all()
    assert (drawn[:, 1:] + patch <= image).all()


@pytest.mark.parametrize("inside_fov", [False, True])
def test_patch_as_large_as_the_image_has_one_place(rng, inside_fov):
    masks = np.ones((1, 1, 6, 8), np.uint8)
    drawn = ep.draw_patch_positions(rng, 5, masks, 6, 8, inside_fov)
    np.testing.assert_array_equal(drawn, np.zeros((5, 3)))


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 14), st.integers(1, 14)),
        elements=st.sampled_from([0] + [1] * 12),
    ),
    patch=st.tuples(st.integers(1, 7), st.integers(1, 7)),
)
def test_places_wholly_inside_the_fov_equal_brute_force(mask, patch):
    height, width = patch
    expected = {
        (top, left)
        for top in range(mask.shape[0] - height + 1)
        for left in range(mask.shape[1] - width + 1)
        if mask[top : top + height, left : left + width].all()
    }
    allowed = ep._allowed_corners(mask, height, width, inside_FOV=True)
    assert set(map(tuple, np.argwhere(allowed).tolist())) == expected


@pytest.mark.parametrize("patch", [(4, 6), (5, 3), (1, 1)])  # even, odd, the least
def test_every_patch_drawn_inside_the_fov_is_and_all_places_are_drawn(rng, patch):
    rows, columns = np.mgrid[:16, :18]
    mask = ((rows - 7.5) ** 2 + (columns - 8) ** 2 < 49).astype(np.uint8)
    drawn = ep.draw_patch_positions(rng, 4000, mask[np.newaxis, np.newaxis], *patch, True)
    patches = ep.cut_patches(mask[np.newaxis, np.newaxis], drawn, *patch)
    assert patches.all()
    num_places = sum(
        mask[top : top + patch[0], left : left + patch[1]].all()
        for top in range(16 - patch[0] + 1)
        for left in range(18 - patch[1] + 1)
    )
    assert len(np.unique(drawn, axis=0)) == num_places


@pytest.mark.parametrize("inside_fov", [False, True])
def test_the_draw_is_uniform_over_the_places(rng, inside_fov):
    # A 3 x 3 patch in 7 x 8 pixels has 5 * 6 = 30 places; chi-squared of 30 equal shares has 29
    # degrees of freedom, mean 29 and deviation sqrt(58) = 7.6: beyond 29 + 5 * 7.6 = 67 is no luck.
    masks = np.ones((1, 1, 7, 8), np.uint8)
    drawn = ep.draw_patch_positions(rng, 30000, masks, 3, 3, inside_fov)
    counts = np.bincount(drawn[:, 1] * 6 + drawn[:, 2], minlength=30)
    assert len(counts) == 30
    assert ((counts - 1000) ** 2 / 1000).sum() < 67


def test_drives_patch_centres_reach_from_24_to_541(rng):
    # 565 - 48 = 517 is the last corner, so centres lie in [24, 541] = [24, 565 - 24].
    masks = np.ones((1, 1, 565, 565), np.uint8)
    drawn = ep.draw_patch_positions(rng, 20000, masks, 48, 48, False)
    assert drawn[:, 1:].min() == 0
    assert drawn[:, 1:].max() == 517


def test_same_seed_same_positions():
    masks = np.ones((2, 1, 9, 9), np.uint8)
    first, again, other = (
        ep.draw_patch_positions(np.random.default_rng(seed), 40, masks, 3, 3, False)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_number_of_patches_that_does_not_divide(rng):
    with pytest.raises(
        ValueError, match="num_patches must be a multiple of the 3 images. Received: 10"
    ):
        ep.draw_patch_positions(rng, 10, np.ones((3, 1, 9, 9)), 3, 3, False)


@pytest.mark.parametrize("inside_fov", [False, True])
def test_image_smaller_than_the_patch_is_named(rng, inside_fov):
    with pytest.raises(
        ValueError, match="image 0 of 9 x 6 pixels has no place for a patch of 8 x 7"
    ):
        ep.draw_patch_positions(rng, 4, np.ones((1, 1, 6, 9)), 7, 8, inside_fov)


def test_mask_without_place_is_named(rng):
    masks = np.ones((2, 1, 9, 9), np.uint8)
    masks[1, 0, ::3] = 0  # stripes of two rows are left
    with pytest.raises(
        ValueError,
        match="image 1 of 9 x 9 pixels has no place for a patch of 3 x 3 wholly inside its FOV",
    ):
        ep.draw_patch_positions(rng, 4, masks, 3, 3, True)


# ---------------------------------------------------------------- cutting


def test_cut_patches_equal_slices_of_their_images(rng):
    images = rng.random((2, 3, 9, 11))
    positions = np.array([[1, 0, 0], [0, 5, 4], [1, 4, 8]], np.int32)
    patches = ep.cut_patches(images, positions, 4, 3)
    expected = [images[i, :, top : top + 4, left : left + 3] for i, top, left in positions]
    np.testing.assert_array_equal(patches, expected)


def test_cut_patches_are_a_copy(rng):
    images = rng.random((1, 1, 6, 6))
    before = images.copy()
    ep.cut_patches(images, np.array([[0, 1, 1]]), 3, 3)[:] = -1
    np.testing.assert_array_equal(images, before)


# ---------------------------------------------------------------- overlapping prediction


@settings(max_examples=100, deadline=None)
@given(tiling=tilings(), seed=st.integers(0, 100))
def test_identity_predictor_gives_the_image_back(tiling, seed):
    size, patch, stride = tiling
    image = np.random.default_rng(seed).random((1, *size), np.float32)
    predicted = ep.predict_overlap(centre_channel, image, patch, stride)
    assert predicted.shape == (1, *size)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, image, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(tiling=tilings(), seed=st.integers(0, 100))
def test_average_over_all_covering_patches_equals_a_plain_loop(tiling, seed):
    size, patch, stride = tiling
    image = np.random.default_rng(seed).random((2, *size), np.float32)

    def predictor(patches):  # two classes; no patch predicts alike at two places
        ramp = np.arange(patch[0] * patch[1]).reshape(patch)
        return patches[:, ::-1] + ramp * patches.mean(axis=(1, 2, 3), keepdims=True)

    padded = ep.pad_for_overlap(image, patch, stride)
    total, count = np.zeros(padded.shape), np.zeros(padded.shape[1:])
    for top in range(0, padded.shape[1] - patch[0] + 1, stride[0]):
        for left in range(0, padded.shape[2] - patch[1] + 1, stride[1]):
            place = (slice(top, top + patch[0]), slice(left, left + patch[1]))
            total[(slice(None), *place)] += predictor(padded[(None, slice(None), *place)])[0]
            count[place] += 1
    expected = (total / count)[:, : size[0], : size[1]]
    predicted = ep.predict_overlap(predictor, image, patch, stride)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)


def test_average_of_four_patches_by_hand():
    # One row of 4 pixels, patches of 2 at stride 1; patch k answers k everywhere:
    #   pixel 0: patch 0; 1: patches 0, 1; 2: patches 1, 2; 3: patch 2  ->  0, 0.5, 1.5, 2
    calls = []

    def numbered(patches):
        first = sum(calls)
        calls.append(len(patches))
        return np.arange(first, first + len(patches)).reshape(-1, 1, 1, 1) * np.ones((1, 2))

    predicted = ep.predict_overlap(numbered, np.zeros((1, 1, 4), np.float32), (1, 2), (1, 1))
    np.testing.assert_array_equal(predicted, [[[0, 0.5, 1.5, 2]]])


def test_stride_of_a_patch_cuts_the_image_apart(rng):
    image = rng.random((1, 6, 8), np.float32)

    def mean_of_each(patches):
        return np.ones(patches.shape) * patches.mean((2, 3), keepdims=True)

    predicted = ep.predict_overlap(mean_of_each, image, (3, 4), (3, 4))
    means = image.reshape(2, 3, 2, 4).mean((1, 3))
    np.testing.assert_allclose(predicted[0], np.kron(means, np.ones((3, 4))), rtol=1e-6)


def test_predictor_gets_batches_of_bounded_size_and_every_patch_is_counted(rng):
    image = rng.random((1, 30, 200), np.float32)
    shapes, counted = [], []

    def predictor(patches):
        shapes.append(patches.shape)
        return patches

    ep.predict_overlap(predictor, image, (4, 8), (2, 1), counted.append)
    # (30 - 4) / 2 + 1 = 14 rows of (200 - 8) / 1 + 1 = 193 patches
    assert sum(counted) == 14 * 193 == ep.num_overlap_patches((30, 200), (4, 8), (2, 1))
    assert counted == [shape[0] for shape in shapes]
    assert max(counted) <= ep.LARGEST_PREDICTION_BATCH
    assert {shape[1:] for shape in shapes} == {(1, 4, 8)}


@settings(max_examples=60, deadline=None)
@given(tiling=tilings(), seed=st.integers(0, 100))
def test_patches_outside_the_fov_are_left_out_and_nothing_changes_inside(tiling, seed):
    size, patch, stride = tiling
    rng = np.random.default_rng(seed)
    image = rng.random((1, *size), np.float32)
    inside = np.zeros(size, bool)
    inside[tuple(rng.integers(side) for side in size)] = True
    shown, predicted = [], []

    def predictor(patches):
        predicted.append(len(patches))
        return patches * patches.mean(axis=(2, 3), keepdims=True)

    whole = ep.predict_overlap(predictor, image, patch, stride)
    every = sum(predicted)
    predicted.clear()
    part = ep.predict_overlap(predictor, image, patch, stride, shown.append, inside)
    np.testing.assert_allclose(part[:, inside], whole[:, inside], rtol=1e-6)
    # One pixel is covered by at most ceil(patch / stride) patches along each axis.
    most = np.prod([-(-length // step) for length, step in zip(patch, stride)])
    assert 1 <= sum(predicted) <= most
    assert sum(shown) == every


def test_patches_outside_the_fov_by_hand():
    # One row of 6 pixels, patches of 2 at stride 1, the FOV is pixel 2: patches 1 and 2 show it.
    # Patch k answers k everywhere:  0, 1, (1 + 2) / 2, 2, 0, 0
    row = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    predicted = ep.predict_overlap(
        lambda patches: np.repeat(patches[..., :1], 2, axis=3),
        row,
        (1, 2),
        (1, 1),
        inside=row[0] == 2,
    )
    np.testing.assert_array_equal(predicted, [[[0, 1, 1.5, 2, 0, 0]]])


def test_an_empty_fov_needs_no_prediction():
    image = np.ones((1, 9, 9), np.float32)
    predicted = ep.predict_overlap(
        lambda patches: patches, image, (4, 4), (2, 2), inside=np.zeros((9, 9), bool)
    )
    np.testing.assert_array_equal(predicted, np.zeros((1, 9, 9)))


def test_drive_at_stride_5_is_padded_to_588_x_568_and_makes_109_x_105_patches():
    # (588 - 48) / 5 + 1 = 109, (568 - 48) / 5 + 1 = 105, 20 images: 228,900 patches
    padded = ep.pad_for_overlap(np.ones((1, 584, 565)), (48, 48), (5, 5))
    assert padded.shape == (1, 588, 568)
    assert padded[0, 584:].max() == padded[0, :, 565:].max() == 0
    assert ep.num_overlap_patches((584, 565), (48, 48), (5, 5)) == 11445 == 228900 // 20


def test_drive_without_averaging_is_13_x_12_patches():
    # 13 * 48 = 624 >= 584, 12 * 48 = 576 >= 565
    assert ep.pad_for_overlap(np.ones((1, 584, 565)), (48, 48), (48, 48)).shape == (1, 624, 576)
    assert ep.num_overlap_patches((584, 565), (48, 48), (48, 48)) == 156


@settings(max_examples=100, deadline=None)
@given(tilings())
def test_padding_is_the_least_that_the_stride_fills(tiling):
    size, patch, stride = tiling
    padded = ep.pad_for_overlap(np.zeros((1, *size)), patch, stride).shape[1:]
    num_patches = 1
    for side, least, length, step in zip(padded, size, patch, stride):
        assert (side - length) % step == 0
        assert side == max(least, length) or least <= side < least + step
        num_patches *= (side - length) // step + 1
    assert ep.num_overlap_patches(size, patch, stride) == num_patches


@pytest.mark.parametrize(("stride", "received"), [((0, 3), 0), ((3, 5), 5), ((-1, 1), -1)])
def test_stride_outside_the_patch(stride, received):
    with pytest.raises(
        ValueError, match=f"the stride must be from 1 to the patch, 4. Received: {received}"
    ):
        ep.predict_overlap(centre_channel, np.zeros((1, 9, 9), np.float32), (4, 4), stride)


@pytest.mark.parametrize(("size", "padded"), [((584, 565), (592, 576)), ((16, 1), (16, 16))])
def test_padding_to_a_multiple_of_16(size, padded):
    image = np.ones((1, *size))
    result = ep.pad_to_multiple(image, 16)
    assert result.shape == (1, *padded)
    assert result.sum() == image.sum()
    np.testing.assert_array_equal(result[:, : size[0], : size[1]], image)
