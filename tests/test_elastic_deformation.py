"""Tests of the elastic deformation and of the random transform built on it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib import elastic_deformation as ed

NOTHING = ed.NO_AUGMENTATION


def brute_force_warp(image, coordinates, order):
    """Samples pixel by pixel, from the definition."""
    height, width = image.shape

    def pixel(row, column):
        places = []
        for index, size in ((row, height), (column, width)):
            index = 0 if size == 1 else index
            while not 0 <= index < size:
                index = -index if index < 0 else 2 * (size - 1) - index
            places.append(index)
        return image[tuple(places)]

    out = np.zeros(coordinates.shape[1:], image.dtype)
    for place in np.ndindex(out.shape):
        row, column = coordinates[(slice(None), *place)]
        if order == 0:
            out[place] = pixel(int(np.floor(row + 0.5)), int(np.floor(column + 0.5)))
            continue
        top, left = int(np.floor(row)), int(np.floor(column))
        below, right = row - top, column - left
        out[place] = sum(
            row_share * column_share * pixel(top + i, left + j)
            for i, row_share in enumerate((1 - below, below))
            for j, column_share in enumerate((1 - right, right))
        )
    return out


def places_of(size, augmentation, rng):
    """Gives the places that a tile at (0, 0) shows."""
    return ed.tile_coordinates((0, 0), size, 0, augmentation, rng)


def cut(arrays, size, augmentation=None, rng=None, place=(0, 0), output_size=None):
    """Cuts a square tile of arrays (image (H, W), label, weights), as cut_tile does."""
    image, *others = arrays
    sizes = (size, size), (output_size or size,) * 2
    image, *others = ed.cut_tile(image[np.newaxis], *others, place, *sizes, augmentation, rng)
    return image[0], *others


def slice_of(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random((height, width), dtype=np.float32)
    label = (image > 0.3).astype(np.uint8)
    return image, label, 1 + 3 * image


# --- displacement field -------------------------------------------------------------------------


def test_field_passes_through_the_nodes():
    grid = np.array([[1.0, -2, 3], [0, 5, -4], [2, -1, 0]])
    field = ed.displacement_field(grid, (9, 9))
    np.testing.assert_allclose(field[::4, ::4], grid, rtol=0, atol=1e-12)


def test_field_between_nodes_by_hand():
    # Half way between two nodes cubic convolution weighs the four around by -1, 9, 9, -1
    # sixteenths. At row and column 2 of 9 the node before the first is the first again: weights
    # (8, 9, -1) / 16 on the three nodes, along rows and columns.
    grid = np.array([[1.0, -2, 3], [0, 5, -4], [2, -1, 0]])
    weights = np.array([8, 9, -1]) / 16
    field = ed.displacement_field(grid, (9, 9))
    np.testing.assert_allclose(field[2, 2], weights @ grid @ weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "size, at_1_2, at_quarter, total",
    # From a reference that builds the matrix entry by entry, in pure Python.
    [
        (9, 0.0361328125, 0.65625, 55.1953125),
        (512, 0.9859014408366906, 0.6467879827108604, 238188.88058710724),
    ],
)
def test_field_equals_reference(size, at_1_2, at_quarter, total):
    grid = np.array([[1.0, -2, 3], [0, 5, -4], [2, -1, 0]])
    field = ed.displacement_field(grid, (size, size))
    np.testing.assert_allclose(field[1, 2], at_1_2, rtol=0, atol=1e-9)
    quarter = field[size // 4, 3 * size // 4]
    np.testing.assert_allclose(quarter, at_quarter, rtol=0, atol=1e-9)
    np.testing.assert_allclose(field.sum(), total, rtol=1e-12)


def test_drawn_field_equals_reference():
    # The first numbers of generator 0 are the grid along rows, the next the grid along columns.
    field = ed.displacement_field(ed.random_grid(np.random.default_rng(0)), (512, 512))
    assert field.shape == (2, 512, 512)
    np.testing.assert_allclose(field[0, 0, 0], 1.257302210933933, rtol=0, atol=1e-9)
    np.testing.assert_allclose(field[1, 0, 0], -12.654214710460526, rtol=0, atol=1e-9)
    np.testing.assert_allclose(field[0, 256, 256], -5.34347040383285, rtol=0, atol=1e-9)
    np.testing.assert_allclose(field[1, 100, 400], -3.9978090761791325, rtol=0, atol=1e-9)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(2, 6), st.floats(-50, 50))
def test_constant_grid_is_a_shift(height, width, points, displacement):
    field = ed.displacement_field(np.full((2, points, points), displacement), (height, width))
    assert field.shape == (2, height, width)
    np.testing.assert_allclose(field, displacement, rtol=0, atol=1e-10)


def test_standard_deviation_at_the_nodes():
    # 2,000 draws of 18 values: the standard error of the deviation is 0.4 %.
    rng = np.random.default_rng(1)
    nodes = [
        ed.displacement_field(ed.random_grid(rng, sigma=10.0), (9, 11))[:, ::4, ::5]
        for _ in range(2000)
    ]
    assert np.std(nodes) == pytest.approx(10.0, rel=0.03)
    assert np.mean(nodes) == pytest.approx(0.0, abs=0.3)


def test_fields_of_the_paper_do_not_fold():
    rng = np.random.default_rng(2)
    for _ in range(20):
        rows, columns = ed.displacement_field(ed.random_grid(rng), (128, 128)) * 128 / 512
        row_by_row, row_by_column = np.gradient(rows)
        column_by_row, column_by_column = np.gradient(columns)
        determinant = (1 + row_by_row) * (1 + column_by_column) - row_by_column * column_by_row
        assert determinant.min() > 0


# --- warp ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from([0.5, 3.0, 40.0]),
    st.sampled_from([0, 1]),
    st.integers(0, 2**32 - 1),
)
def test_warp_equals_brute_force(shape, out_shape, spread, order, seed):
    rng = np.random.default_rng(seed)
    image = rng.random(shape)
    coordinates = rng.normal(2, spread, (2, *out_shape))
    warped = ed.warp(image, coordinates, order)
    np.testing.assert_allclose(
        warped, brute_force_warp(image, coordinates, order), rtol=0, atol=1e-12
    )


def test_warp_mirrors_without_repeating_the_edge():
    image = np.array([[0.0, 1.0, 2.0, 3.0]] * 2)
    columns = np.array([[-3.0, -1.0, -0.25, 3.5, 4.0, 6.0, 7.0, 600.5]])
    warped = ed.warp(image, np.stack([np.zeros_like(columns), columns]), 1)
    # Period 6: -3 -> 3, -1 -> 1; 3.5 lies between 3 and 2, 4 -> 2, 6 -> 0, 7 -> 1; 600.5 -> 0.5.
    np.testing.assert_allclose(warped, [[3, 1, 0.25, 2.5, 2, 0, 1, 0.5]], rtol=0, atol=1e-12)


def test_warp_keeps_types_and_labels():
    image, label, _ = slice_of(20, 31)
    coordinates = np.random.default_rng(0).uniform(-40, 60, (2, 25, 25))
    assert ed.warp(image, coordinates, 1).dtype == np.float32
    warped = ed.warp(label, coordinates, 0)
    assert warped.dtype == np.uint8
    assert set(np.unique(warped)) == {0, 1}


def test_float32_warp_is_exact_to_float32():
    image = slice_of(40, 40)[0]
    coordinates = np.random.default_rng(0).uniform(-40, 60, (2, 50, 50))
    exact = ed.warp(image.astype(np.float64), coordinates, 1)
    np.testing.assert_allclose(ed.warp(image, coordinates, 1), exact, rtol=0, atol=5e-7)


def test_images_warped_together_equal_images_warped_alone():
    image, label, weights = slice_of(17, 23)
    coordinates = np.random.default_rng(0).uniform(-9, 30, (2, 12, 14))
    together = ed.warp_together([image, label, weights], coordinates, [1, 0, 1])
    for warped, source, order in zip(together, (image, label, weights), (1, 0, 1)):
        np.testing.assert_array_equal(warped, ed.warp(source, coordinates, order))


# --- the combined transform ---------------------------------------------------------------------


def test_tile_without_augmentation_is_the_mirrored_cut():
    image, label, weights = slice_of(30, 37)
    # The label's tile starts at (-3, 20), the image's 4 pixels before, both partly outside.
    for augmentation, rng in ((None, None), (NOTHING, np.random.default_rng(0))):
        parts = cut((image, label, weights), 24, augmentation, rng, (-3, 20), output_size=16)
        padded = [np.pad(array, 20, mode="reflect") for array in (image, label, weights)]
        np.testing.assert_allclose(parts[0], padded[0][13:37, 36:60], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(parts[1], padded[1][17:33, 40:56])
        np.testing.assert_allclose(parts[2], padded[2][17:33, 40:56], rtol=0, atol=1e-5)
        assert [array.dtype for array in parts] == [np.float32, np.uint8, np.float32]


def test_plain_tiles_may_be_rectangles_of_several_channels_without_weights():
    image = np.stack([slice_of(30, 37, seed)[0] for seed in range(3)])
    label = slice_of(30, 37)[1]
    # The image's tile starts (12 - 4) / 2 rows and (20 - 8) / 2 columns before the label's.
    tile, tile_label, weights = ed.cut_tile(image, label, None, (26, 8), (12, 20), (4, 8))
    padded = np.pad(image, ((0, 0), (0, 8), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(tile, padded[:, 22:34, 2:22])
    np.testing.assert_array_equal(tile_label, label[26:30, 8:16])
    assert weights is None


def test_deformed_tiles_without_weights_are_those_with_them():
    image, label, weights = slice_of(30, 37)
    parts = [
        cut((image, label, given), 16, ed.Augmentation(), np.random.default_rng(4), (3, 5))
        for given in (weights, None)
    ]
    assert parts[1][2] is None
    for with_weights, without in zip(parts[0][:2], parts[1][:2]):
        np.testing.assert_array_equal(without, with_weights)


@pytest.mark.parametrize("seed", range(5))
def test_image_label_and_weights_are_deformed_alike(seed):
    # A smooth image, of which label and weights are functions: they must stay so.
    rows, columns = np.mgrid[:60, :70]
    image = (0.5 + 0.3 * np.sin(rows / 7) + 0.2 * np.cos(columns / 9)).astype(np.float32)
    label = (image > 0.5).astype(np.uint8)
    augmentation = ed.Augmentation(elastic_sigma=3.0, shift=5.0, brightness=0, contrast=0)
    rng = np.random.default_rng(seed)
    cut_image, cut_label, cut_weights = cut(
        (image, label, 2 * image), 48, augmentation, rng, (10, 12), output_size=36
    )
    middle = cut_image[6:-6, 6:-6]
    np.testing.assert_allclose(cut_weights, 2 * middle, rtol=0, atol=1e-5)
    # Nearest and linear sampling differ by up to half a pixel, 0.03 in grey value here.
    clear = np.abs(middle - 0.5) > 0.06
    np.testing.assert_array_equal(cut_label[clear], (middle > 0.5)[clear])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 180), st.booleans())
def test_rotation_and_flips_keep_distances_and_the_centre(seed, degrees, flip):
    augmentation = ed.Augmentation(elastic_sigma=0, rotation_degrees=degrees, shift=0, flip=flip)
    # The label's tile has 9 x 9 pixels.
    rng = np.random.default_rng(seed)
    coordinates = ed.tile_coordinates((5, -7), 15, 3, augmentation, rng)
    # The centre of the label's tile is pixel 4 of 9, that of the image's pixel 7 of 15.
    np.testing.assert_allclose(coordinates[:, 7, 7], [9, -3], rtol=0, atol=1e-9)
    down = coordinates[:, 8, 7] - coordinates[:, 7, 7]
    right = coordinates[:, 7, 8] - coordinates[:, 7, 7]
    np.testing.assert_allclose([down @ down, right @ right, down @ right], [1, 1, 0], atol=1e-9)
    angle = np.degrees(np.arctan2(abs(down[1]), abs(down[0])))
    assert min(angle, 90) <= degrees + 1e-6
    determinant = down[0] * right[1] - down[1] * right[0]
    assert flip or determinant == pytest.approx(1.0)


@pytest.mark.parametrize("flip, row_steps", [(True, (1, -1)), ("horizontal", (1,))])
def test_all_flips_occur(flip, row_steps):
    augmentation = replace(NOTHING, flip=flip)
    rng = np.random.default_rng(0)
    image, label, weights = slice_of(8, 8)
    seen = {cut((image, label, weights), 8, augmentation, rng)[1].tobytes() for _ in range(40)}
    expected = [label[::row_step, ::step] for row_step in row_steps for step in (1, -1)]
    assert seen == {np.ascontiguousarray(flipped).tobytes() for flipped in expected}


def test_quarter_turns_stay_on_the_pixel_grid_and_all_occur():
    augmentation = replace(NOTHING, quarter_turns=True)
    rng = np.random.default_rng(0)
    image, label, weights = slice_of(8, 8)
    seen = {cut((image, label, weights), 8, augmentation, rng)[0].tobytes() for _ in range(40)}
    assert seen == {np.ascontiguousarray(np.rot90(image, turns)).tobytes() for turns in range(4)}


def test_half_of_the_tiles_are_zoomed_within_the_range():
    augmentation = replace(NOTHING, zoom=2.0)
    rng = np.random.default_rng(0)
    # Neighbouring pixels of the tile lie 1 / zoom apart in the slice.
    apart = [float(np.diff(places_of(4, augmentation, rng)[0, :2, 0])[0]) for _ in range(400)]
    zoomed = np.log2([step for step in apart if step != 1])
    assert len(zoomed) == pytest.approx(200, abs=5 * 10)  # 400 coins: deviation sqrt(400) / 2 = 10
    assert -1 <= zoomed.min() < -0.95
    assert 0.95 < zoomed.max() <= 1
    assert zoomed.mean() == pytest.approx(0, abs=0.2)


def test_shear_slants_columns_and_keeps_rows_and_the_area():
    augmentation = replace(NOTHING, shear=30.0)
    tangents = []
    for seed in range(50):
        places = places_of(5, augmentation, np.random.default_rng(seed))
        np.testing.assert_allclose(places[0], np.arange(5)[:, None] + np.zeros((1, 5)), atol=1e-9)
        np.testing.assert_allclose(np.diff(places[1], axis=1), 1, atol=1e-9)
        tangents.append(places[1, 1, 0] - places[1, 0, 0])
    assert np.tan(np.deg2rad(25)) < np.abs(tangents).max() <= np.tan(np.deg2rad(30))


def test_settings_that_change_nothing_are_no_augmentation():
    off = SimpleNamespace(
        elastic_sigma=0.0,
        rotation_degrees=0.0,
        quarter_turns=False,
        flip=False,
        zoom=1.0,
        shift=0.0,
        brightness=0.0,
        contrast=0.0,
        noise=0.0,
        shear=0.0,
        gamma=0.0,
        cutout=0.0,
    )
    assert ed.get_augmentation(off) is None  # a task without colours has no key for the hue
    off.zoom = 1.5
    assert ed.get_augmentation(off) == replace(NOTHING, zoom=1.5)
    assert ed.get_augmentation(SimpleNamespace()) is None


def test_shift_stays_within_its_range_and_uses_it():
    augmentation = ed.Augmentation(elastic_sigma=0, rotation_degrees=0, shift=6.0, flip=False)
    rng = np.random.default_rng(0)
    plain = places_of(4, NOTHING, np.random.default_rng(0))
    shifts = np.array([places_of(4, augmentation, rng) - plain for _ in range(300)])
    assert np.ptp(shifts, axis=(2, 3)).max() < 1e-9
    assert 5.8 < np.abs(shifts).max() <= 6.0
    np.testing.assert_allclose(shifts.mean((0, 2, 3)), 0, atol=0.7)


@pytest.mark.parametrize("setting", ["rotation_degrees", "shift", "flip", "brightness", "contrast"])
def test_switching_one_part_off_leaves_the_elastic_field(setting):
    only_elastic = ed.Augmentation(
        elastic_sigma=4, rotation_degrees=0, shift=0, flip=False, brightness=0, contrast=0
    )
    on = ed.Augmentation(
        **{**vars(only_elastic), setting: {"rotation_degrees": 90.0, "flip": True}.get(setting, 1)}
    )
    plain, field, changed = (
        places_of(9, augmentation, np.random.default_rng(5))
        for augmentation in (NOTHING, only_elastic, on)
    )
    centre = np.full((2, 1, 1), 4.0)
    expected = field - centre
    # What is left after the elastic field is one linear map and one shift for all pixels.
    points = np.stack([*expected.reshape(2, -1), np.ones(81)])
    solution = np.linalg.lstsq(points.T, (changed - centre).reshape(2, -1).T, rcond=None)[0]
    np.testing.assert_allclose(points.T @ solution, (changed - centre).reshape(2, -1).T, atol=1e-9)
    drawn = ed.displacement_field(ed.random_grid(np.random.default_rng(5), 4), (9, 9))
    np.testing.assert_allclose(field - plain, drawn, rtol=0, atol=1e-9)


def test_same_seed_gives_the_same_tile():
    arrays = slice_of(50, 40)
    cuts = [cut(arrays, 32, ed.Augmentation(), np.random.default_rng(9)) for _ in range(2)]
    for first, second in zip(*cuts):
        np.testing.assert_array_equal(first, second)


def test_grey_values_change_on_a_straight_line_and_on_the_image_only():
    augmentation = ed.Augmentation(
        elastic_sigma=0, rotation_degrees=0, shift=0, flip=False, brightness=0.1, contrast=0.3
    )
    image = np.linspace(0.3, 0.7, 64, dtype=np.float32).reshape(8, 8)
    label, weights = (image > 0.5).astype(np.uint8), image + 1
    slopes, offsets = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        parts = cut((image, label, weights), 8, augmentation, rng)
        slope, offset = np.polyfit(image.ravel() - 0.5, parts[0].ravel() - 0.5, 1)
        np.testing.assert_allclose(parts[0] - 0.5, slope * (image - 0.5) + offset, atol=1e-6)
        np.testing.assert_array_equal(parts[1], label)
        np.testing.assert_allclose(parts[2], weights, atol=1e-6)
        assert parts[0].dtype == np.float32
        slopes.append(slope)
        offsets.append(offset)
    assert 0.7 - 1e-6 <= min(slopes) < 0.71 and 1.29 < max(slopes) <= 1.3 + 1e-6
    assert -0.1 - 1e-6 <= min(offsets) < -0.09 and 0.09 < max(offsets) <= 0.1 + 1e-6


def test_grey_values_stay_in_their_range():
    augmentation = ed.Augmentation(brightness=1.0, contrast=1.0)
    for seed in range(20):
        image = slice_of(8, 8)[0]
        varied = ed.vary_grey_values(image, augmentation, np.random.default_rng(seed))
        assert 0 <= varied.min() and varied.max() <= 1


def test_grey_values_out_of_range_are_left_alone_when_switched_off():
    image = slice_of(8, 8)[0] * 5 - 1
    varied = ed.vary_grey_values(image, NOTHING, np.random.default_rng(0))
    np.testing.assert_array_equal(varied, image)


def test_noise_is_added_to_half_of_the_tiles_with_a_deviation_up_to_its_setting():
    image = np.full((64, 64), 0.5, np.float32)
    augmentation = replace(NOTHING, noise=0.1)
    varied = [
        ed.vary_grey_values(image, augmentation, np.random.default_rng(seed)) for seed in range(200)
    ]
    deviations = np.array([tile.std() for tile in varied])
    noisy = deviations > 0
    assert 80 <= noisy.sum() <= 120
    assert 0.09 < deviations.max() < 0.105
    assert deviations[noisy].mean() == pytest.approx(0.05, abs=0.01)
    assert np.abs([tile.mean() - 0.5 for tile in varied]).max() < 0.01
    assert varied[0].dtype == np.float32


def test_noise_leaves_the_other_parts_as_they_are():
    image, augmentation = slice_of(8, 8)[0], ed.Augmentation(noise=0.1)
    for seed in range(20):
        clean, noisy = (
            ed.vary_grey_values(image, settings, np.random.default_rng(seed))
            for settings in (replace(augmentation, noise=0), augmentation)
        )
        assert np.abs(clean - noisy).max() < 0.5


# --- gamma, hue, cutout -------------------------------------------------------------------------


def varied(image, seed=0, **settings):
    return ed.vary_grey_values(image, replace(NOTHING, **settings), np.random.default_rng(seed))


def test_what_was_added_later_changes_no_other_draw():
    """Trainings from before it must see the same tiles, whatever is switched on beside."""
    image, label, weights = slice_of(12, 12)
    old = ed.Augmentation(noise=0.1, zoom=1.5, quarter_turns=True)
    new = replace(old, shear=10, gamma=0.5, cutout=0.5)
    draws = []
    for augmentation in (old, new):
        rng = np.random.default_rng(3)
        cut((image, label, weights), 8, augmentation, rng)
        draws.append(rng.random(4))
    np.testing.assert_array_equal(*draws)
    # What the code from before these parts gave.
    expected = np.array([0.37641701102256775, 0.43393436074256897, 0.4230787754058838], np.float32)
    (tile, *_) = cut((image, label, weights), 8, old, np.random.default_rng(3))
    np.testing.assert_array_equal(tile[0, :3], expected)


def test_gamma_is_a_power_within_its_range():
    image = slice_of(6, 6)[0]
    exponents = []
    for seed in range(100):
        powers = np.log(varied(image, seed, gamma=1.0)) / np.log(image)
        assert np.ptp(powers) < 1e-3
        exponents.append(powers.mean())
    assert 0.5 <= min(exponents) < 0.53
    assert 1.9 < max(exponents) <= 2.001
    assert np.mean(np.log(exponents)) == pytest.approx(0, abs=0.2)


def test_hue_keeps_greys_and_the_sum_and_turns_red_into_green():
    grey = np.full((3, 2, 2), 0.4, np.float32)
    np.testing.assert_allclose(varied(grey, hue=180.0), grey, atol=1e-6)
    colours = 0.4 + 0.2 * np.random.default_rng(0).random((3, 4, 4), np.float32)
    turned = varied(colours, hue=180.0)
    assert turned.dtype == np.float32
    np.testing.assert_allclose(turned.sum(0), colours.sum(0), rtol=1e-5)
    assert np.abs(turned - colours).max() > 0.01
    red = np.zeros((3, 1, 1), np.float32)
    red[0] = 1
    third = ed._turn_hue(red, np.deg2rad(120))
    np.testing.assert_allclose(np.sort(third.ravel()), [0, 0, 1], atol=1e-6)
    assert third[0] < 1e-6
    with pytest.raises(ValueError, match=r"RGB. Received: shape \(1, 4, 4\)"):
        varied(colours[:1], hue=10.0)


def test_cutout_hides_one_square_behind_the_mean_and_leaves_labels_alone():
    image, label, weights = slice_of(20, 20)
    sides = []
    for seed in range(60):
        given = varied(image[np.newaxis], seed, cutout=0.5)[0]
        changed = np.argwhere(given != image)
        if len(changed):
            np.testing.assert_allclose(given[given != image], image.mean(), rtol=1e-6)
            height, width = np.ptp(changed, axis=0) + 1
            assert len(changed) == height * width
            sides.append(max(height, width))
    assert 9 <= max(sides) <= 10 and min(sides) <= 3
    tile = cut((image, label, weights), 20, replace(NOTHING, cutout=0.5), np.random.default_rng(1))
    np.testing.assert_array_equal(tile[1], label)
    np.testing.assert_allclose(tile[2], weights)
    assert (image == slice_of(20, 20)[0]).all()
