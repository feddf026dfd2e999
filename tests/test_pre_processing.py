"""Tests of the pre-processing against a few lines of independent arithmetic."""

import cv2
import numpy as np
import pytest

from lib import phantom
from lib import pre_processing as pp
from prepare_datasets_DRIVE import read_subset


def expected_preprocessing(images, equalize):
    """The chain of retina-unet for a stack, one pixel formula after the other, in float64."""
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    grey = (grey - grey.mean()) / grey.std()
    prepared = []
    for image in grey:
        scaled = np.floor((image - image.min()) / (image.max() - image.min()) * 255)
        equalized = equalize(scaled.astype("uint8")).astype("float64")
        brightened = np.floor((equalized / 255) ** (1 / 1.2) * 255)
        prepared.append(brightened / 255)
    return np.array(prepared)[:, np.newaxis]


def clahe(image):
    return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(image)


def fov_of(width, shape=(100, 120)):
    """One mask whose field of view is `width` pixels wide."""
    mask = np.zeros((1, 1, *shape), np.uint8)
    mask[:, :, 40:60, 10 : 10 + width] = 1
    return mask


@pytest.mark.parametrize(
    ("seen", "wanted", "size"),
    [
        (100, 0, (100, 120)),  # 0: never
        (100, 50, (50, 60)),
        (50, 100, (200, 240)),
        (100, 109, (100, 120)),  # less than a tenth
        (100, 91, (100, 120)),
        (100, 111, (111, 133)),
    ],
)
def test_size_at_which_the_fov_fits(seen, wanted, size):
    assert pp.size_for_fov(fov_of(seen), wanted) == size


def test_photographs_of_other_cameras_are_seen_at_several_sizes():
    assert pp.sizes_for_fov(fov_of(100), 50, (0.5, 1, 1.5)) == [(25, 30), (50, 60), (75, 90)]
    assert pp.sizes_for_fov(fov_of(100), 95, (0.5, 1, 1.5)) == [(100, 120)]  # as in the training
    assert pp.sizes_for_fov(fov_of(100), 1, (0.1,)) == [(1, 1)]


def test_the_mean_over_sizes_is_near_the_highest(rng):
    several = [rng.random((2, 1, 5, 6)).astype(np.float32) for _ in range(3)]
    kept = [one.copy() for one in several]
    expected = np.mean([one.astype(float) ** 4 for one in several], axis=0) ** 0.25
    mean = pp.power_mean(iter(several))
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert (mean > np.mean(several, axis=0)).all() and (mean <= np.max(several, axis=0)).all()
    np.testing.assert_array_equal(several, kept)
    assert pp.power_mean(several[:1]) is several[0]


def test_a_mask_without_fov_decides_no_size():
    assert pp.size_for_fov(fov_of(0), 50) == (100, 120)
    assert pp.size_for_fov(np.concatenate([fov_of(0), fov_of(100)]), 50) == (50, 60)


def test_resized_images_keep_means_types_and_places(rng):
    images = rng.integers(0, 256, (2, 3, 8, 12), dtype=np.uint8)
    assert pp.resized(images, (8, 12)) is images
    half = pp.resized(images, (4, 6))
    assert (half.shape, half.dtype) == ((2, 3, 4, 6), np.uint8)
    means = images.reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    np.testing.assert_allclose(half, means, atol=0.5)
    ramp = np.tile(np.arange(12, dtype=np.float32), (1, 1, 8, 1))
    wide = pp.resized(ramp, (16, 24))[0, 0, 0]
    np.testing.assert_allclose(wide[1:-1], np.arange(24)[1:-1] / 2 - 0.25)
    for height in (8, 16):
        narrow = pp.resized(images.astype(np.float32), (height, 3))
        np.testing.assert_allclose(narrow.mean((2, 3)), images.mean((2, 3)), rtol=1e-5)
        np.testing.assert_allclose(narrow[:, :, 0], images[:, :, 0].reshape(2, 3, 3, 4).mean(3))


@pytest.fixture
def photographs(rng):
    """Three photographs of 40 x 56 pixels, unlike in brightness and contrast."""
    images = rng.integers(0, 256, (3, 3, 40, 56))
    return (images * np.array([1.0, 0.5, 0.2])[:, None, None, None] + 40).clip(0, 255) // 1


@pytest.mark.parametrize(
    ("equalization", "equalize"), [("clahe", clahe), ("histogram", cv2.equalizeHist)]
)
def test_chain_equals_independent_arithmetic(photographs, equalization, equalize):
    prepared = pp.preprocess(photographs, equalization)
    assert prepared.shape == (3, 1, 40, 56)
    assert prepared.dtype == np.float32
    expected = expected_preprocessing(photographs, equalize)
    # A last bit may decide a truncation (1/255) here and there, and CLAHE spreads it no further.
    assert np.mean(np.abs(prepared - expected) > 1e-6) < 0.002
    np.testing.assert_allclose(prepared, expected, atol=2 / 255)


def test_clahe_is_the_default(photographs):
    np.testing.assert_array_equal(pp.preprocess(photographs), pp.preprocess(photographs, "clahe"))
    assert (pp.preprocess(photographs) != pp.preprocess(photographs, "histogram")).any()


def test_green_and_colours_in_place_of_grey(photographs):
    # A photograph whose colours are all the green one is grey of that value; what is rounded in
    # 0.299 + 0.587 + 0.114 decides truncations here and there.
    green = pp.preprocess(photographs, channels="green")
    repeated = np.repeat(photographs[:, 1:2], 3, axis=1)
    assert np.mean(np.abs(green - pp.preprocess(repeated)) > 2 / 255) < 0.05
    assert np.mean(np.abs(green - pp.preprocess(photographs)) > 2 / 255) > 0.5
    colours = pp.preprocess(photographs, channels="rgb")
    assert colours.shape == (3, 3, 40, 56)
    np.testing.assert_array_equal(colours[:, 1:2], green)
    turned = pp.preprocess(photographs[:, ::-1], channels="rgb")
    np.testing.assert_array_equal(turned, colours[:, ::-1])
    with pytest.raises(ValueError, match="channels must be one of"):
        pp.preprocess(photographs, channels="blue")


def test_image_gives_the_same_alone_and_in_a_stack(photographs):
    stack = pp.preprocess(photographs)
    alone = np.concatenate([pp.preprocess(image[np.newaxis]) for image in photographs])
    assert np.mean(stack != alone) < 0.002
    np.testing.assert_allclose(stack, alone, atol=2 / 255)


def test_bytes_and_floats_give_the_same(photographs):
    # The original stores float64; what it stores is whole numbers.
    np.testing.assert_array_equal(
        pp.preprocess(photographs.astype(np.uint8)), pp.preprocess(photographs.astype(np.float64))
    )


def test_input_is_left_as_it_is(photographs):
    before = photographs.copy()
    pp.preprocess(photographs)
    np.testing.assert_array_equal(photographs, before)


@pytest.mark.filterwarnings("error")
def test_constant_image_divides_by_nothing():
    prepared = pp.preprocess(np.full((1, 3, 20, 24), 100, np.uint8))
    assert np.ptp(prepared) == 0
    assert 0 <= prepared.min() <= prepared.max() <= 1


@pytest.mark.filterwarnings("error")
def test_constant_image_beside_others_changes_nothing(photographs):
    constant = np.full_like(photographs[:1], 7)
    prepared = pp.preprocess(np.concatenate([photographs, constant]))
    assert np.ptp(prepared[3]) == 0
    np.testing.assert_allclose(prepared[:3], pp.preprocess(photographs), atol=2 / 255)


def test_grey_of_pure_colours():
    pure = np.eye(3).reshape(1, 3, 1, 3) * 255  # a red, a green and a blue pixel
    # 0.299 * 255 = 76.245, 0.587 * 255 = 149.685, 0.114 * 255 = 29.07
    np.testing.assert_allclose(pp.rgb2gray(pure), [[[[76.245, 149.685, 29.07]]]])


def test_normalisation_stretches_each_image_to_0_and_255():
    images = np.array([[10.0, 20.0, 40.0], [0.0, 100.0, 200.0]]).reshape(2, 1, 1, 3)
    # (20 - 10) / (40 - 10) * 255 = 85; (100 - 0) / 200 * 255 = 127.5
    expected = np.array([[0, 85, 255], [0, 127.5, 255]]).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(pp.dataset_normalized(images), expected)


def test_gamma_table_by_hand():
    # (64 / 255)^(1 / 1.2) * 255 = 80.58..., truncated; 0 and 255 stay.
    given = np.array([0, 64, 255]).reshape(1, 1, 1, 3)
    np.testing.assert_array_equal(pp.adjust_gamma(given, 1.2).ravel(), [0, 80, 255])


def test_gamma_truncates_its_input_and_1_changes_nothing():
    given = np.array([0.9, 64.99, 254.5]).reshape(1, 1, 1, 3)
    # A value v may come back as v - 1 where v / 255 * 255 falls short of v in its last bit.
    np.testing.assert_allclose(pp.adjust_gamma(given, 1.0).ravel(), [0, 64, 254], atol=1)
    assert pp.adjust_gamma(given, 1.2).dtype == np.uint8


def test_histogram_equalisation_of_two_halves():
    # Two values, half of the pixels each: the lower becomes 0, the higher 255.
    image = np.repeat([[90, 110]], 8, axis=0).reshape(1, 1, 8, 2)
    equalized = pp.histo_equalized(image)
    np.testing.assert_array_equal(equalized[0, 0, 0], [0, 255])


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 8, 8), (1, 8, 8, 3)])
def test_images_that_are_not_rgb(shape):
    with pytest.raises(ValueError, match="RGB images must have the shape") as error:
        pp.preprocess(np.zeros(shape))
    assert f"Received: {shape}" in str(error.value)


def test_unknown_equalisation():
    with pytest.raises(
        ValueError, match="equalization must be clahe or histogram. Received: retinex"
    ):
        pp.preprocess(np.zeros((1, 3, 8, 8)), "retinex")


# ---------------------------------------------------------------- field of view


def test_the_fov_of_a_photograph_is_found():
    photograph, _, mask = phantom.fundus(3, 146, 142)
    found, mask = pp.estimate_fov(np.asarray(photograph).transpose(2, 0, 1)), np.asarray(mask) > 0
    assert (found & mask).sum() / (found | mask).sum() > 0.97


def test_estimated_fovs_are_those_of_drives_masks(unet_test_data):
    arrays, problems = read_subset(unet_test_data / "DRIVE" / "test")
    assert not problems
    pairs = [(pp.estimate_fov(i), m[0] > 0) for i, m in zip(arrays["images"], arrays["mask"])]
    overlaps = [(found & mask).sum() / (found | mask).sum() for found, mask in pairs]
    # docs/DIFFERENCES.md
    assert np.mean(overlaps) == pytest.approx(0.996, abs=0.001)
    assert min(overlaps) > 0.985


def test_a_photograph_without_dark_surround_is_fov_throughout(rng):
    bright = rng.integers(60, 200, (3, 40, 50)).astype(np.uint8)
    assert pp.estimate_fov(bright).all()
    assert pp.estimate_fov(np.zeros((3, 40, 50), np.uint8)).all()


def test_a_bright_label_beside_the_fov_is_not_part_of_it():
    photograph = np.zeros((3, 60, 60), np.uint8)
    photograph[:, 10:50, 5:45] = 120
    photograph[:, 20:30, 20:30] = 0  # a dark hole within
    photograph[:, 2:8, 50:58] = 250
    expected = np.zeros((60, 60), bool)
    expected[10:50, 5:45] = True
    found = pp.estimate_fov(photograph)
    assert np.count_nonzero(found != expected) <= 4 * 3  # the median rounds each corner


def test_the_rim_that_is_taken_off_is_one_pixel_wide_and_no_side_of_the_image():
    fov = np.zeros((8, 9), bool)
    fov[:6, 2:] = True
    expected = np.zeros((8, 9), bool)
    expected[:5, 3:] = True
    np.testing.assert_array_equal(pp.without_rim(fov), expected)
    assert pp.without_rim(np.ones((4, 5), bool)).all()


def test_labels_are_scaled_by_the_nearest_pixel(rng):
    labels = rng.integers(0, 2**31, (6, 9), dtype=np.int32)
    np.testing.assert_array_equal(pp.resized_labels(labels, (2, 3)), labels[1::3, 1::3])
    larger = pp.resized_labels(labels, (12, 27))
    np.testing.assert_array_equal(larger, labels.repeat(2, 0).repeat(3, 1))
    assert pp.resized_labels(labels, None) is labels
