"""Tests of reading photographs, masks and stacks, and of what is said about unreadable ones."""

import cv2
import numpy as np
import pytest
from PIL import Image

from lib.image_files import (
    image_id,
    list_images,
    read_binary_mask,
    read_grey_images,
    read_photograph,
    read_stack,
)

HEIGHT, WIDTH = 6, 9


@pytest.fixture
def mask(rng):
    """A mask of 0 and 255 that is not square."""
    return (rng.random((HEIGHT, WIDTH)) < 0.5).astype(np.uint8) * 255


@pytest.fixture
def photograph(rng):
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def saved(path, pixels, **options):
    """Saves an image or its pixels; gives the path."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def palette_image(mask, black, white):
    """A palette image with the two given colours where the mask is 0 and 255."""
    image = Image.fromarray(mask // 255).convert("P")
    image.putpalette([*black, *white] + [0, 0, 0] * 254)
    image.putdata((mask // 255).ravel().tolist())
    return image


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "bmp", "pgm"])
def test_mask_of_0_and_255(tmp_path, mask, ending):
    read = read_binary_mask(saved(tmp_path / f"mask.{ending}", mask))
    np.testing.assert_array_equal(read, mask)
    assert read.dtype == np.uint8


def test_mask_of_0_and_1(tmp_path, mask):
    path = saved(tmp_path / "mask.png", mask // 255)
    np.testing.assert_array_equal(read_binary_mask(path), mask)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_mask_of_one_value(tmp_path, value):
    path = saved(tmp_path / "mask.png", np.full((HEIGHT, WIDTH), value, np.uint8))
    np.testing.assert_array_equal(read_binary_mask(path), np.full((6, 9), 255 if value else 0))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_mask_of_one_bit(tmp_path, mask, ending):
    path = saved(tmp_path / f"mask.{ending}", Image.fromarray(mask).convert("1"))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


@pytest.mark.parametrize(
    ("black", "white"),
    [
        ((0, 0, 0), (255, 255, 255)),
        ((0, 0, 0), (1, 1, 1)),
        ((4, 2, 4), (252, 254, 252)),  # DRIVE's test/2nd_manual
    ],
)
@pytest.mark.parametrize("ending", ["gif", "png"])
def test_mask_with_a_palette_of_two_colours(tmp_path, mask, black, white, ending):
    path = saved(tmp_path / f"mask.{ending}", palette_image(mask, black, white))
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_palette_may_name_white_first(tmp_path, mask):
    path = saved(tmp_path / "mask.png", palette_image(255 - mask, (252, 254, 252), (4, 2, 4)))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_mask_that_looks_grey_in_more_channels(tmp_path, mask, mode):
    path = saved(tmp_path / "mask.png", Image.fromarray(mask).convert(mode))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_mask_of_16_bits_with_two_values_0_and_255(tmp_path, mask):
    path = saved(tmp_path / "mask.tif", mask.astype(np.uint16))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_mask_in_colours(tmp_path, photograph):
    path = saved(tmp_path / "mask.png", photograph)
    with pytest.raises(ValueError, match="must be a mask in black and white") as error:
        read_binary_mask(path)
    assert "Are the folders of images and masks swapped?" in str(error.value)
    assert str(path) in str(error.value)


def test_mask_of_other_values_lists_them(tmp_path, mask):
    mask[0, 0], mask[1, :2] = 7, (0, 255)
    with pytest.raises(ValueError, match="Received: 3 values: 0, 7, 255. Threshold it") as error:
        read_binary_mask(saved(tmp_path / "mask.png", mask))
    assert f"{tmp_path / 'mask.png'} must have two values only, the lower for" in str(error.value)


def test_mask_saved_with_loss_lists_the_first_of_its_values(tmp_path):
    greys = np.arange(60, dtype=np.uint8).reshape(6, 10)
    with pytest.raises(ValueError, match=r"60 values: 0, 1, 2, 3, 4, 5, 6, 7, \.\.\."):
        read_binary_mask(saved(tmp_path / "mask.png", greys))


# ---------------------------------------------------------------- photographs


@pytest.mark.parametrize("ending", ["tif", "png", "bmp", "ppm"])
def test_photograph_has_channels_first(tmp_path, photograph, ending):
    read = read_photograph(saved(tmp_path / f"21_training.{ending}", photograph))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, photograph.transpose(2, 0, 1))


def test_alpha_channel_is_left_out(tmp_path, photograph):
    with_alpha = np.dstack([photograph, np.full((HEIGHT, WIDTH), 77, np.uint8)])
    read = read_photograph(saved(tmp_path / "photo.png", with_alpha))
    np.testing.assert_array_equal(read, photograph.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("dtype", "received"),
    [(np.uint8, "a grey image of 8 bits a pixel"), (np.uint16, "a grey image of 16 bits a pixel")],
)
def test_photograph_must_be_rgb_of_8_bits(tmp_path, dtype, received):
    path = saved(tmp_path / "photo.tif", np.zeros((HEIGHT, WIDTH), dtype))
    with pytest.raises(ValueError, match="must be an RGB photograph of 8 bits a channel") as error:
        read_photograph(path)
    assert f"Received: {received}" in str(error.value)
    assert "or are the folders of images and masks swapped?" in str(error.value)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_colours_of_16_bits_are_refused(tmp_path, ending):
    path = tmp_path / f"photo.{ending}"
    assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 4000, np.uint16))
    with pytest.raises(ValueError, match="8 bits a channel. Received: colours of 16 bits"):
        read_photograph(path)


@pytest.mark.parametrize("read", [read_photograph, read_binary_mask])
def test_several_pages_in_a_file_of_one_image_are_refused(tmp_path, photograph, read):
    pages = [Image.fromarray(photograph)] * 2
    path = saved(tmp_path / "photo.tif", pages[0], save_all=True, append_images=pages)
    with pytest.raises(ValueError, match="must hold one image. Received: 3 pages"):
        read(path)


def test_the_previews_of_a_camera_are_no_pages(tmp_path, photograph):
    image = Image.fromarray(photograph)
    path = saved(tmp_path / "photo.jpg", image, format="MPO", save_all=True, append_images=[image])
    assert read_photograph(path).shape == (3, HEIGHT, WIDTH)


def test_photograph_is_turned_as_its_camera_says(tmp_path, photograph):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is the right side
    path = saved(tmp_path / "photo.png", photograph, exif=exif)
    turned = np.rot90(photograph, -1).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_photograph(path), turned)


def test_files_that_are_passed_over_are_named(tmp_path, mask, capsys):
    saved(tmp_path / "1.png", mask)
    (tmp_path / "2.dcm").touch()
    assert list(list_images(tmp_path)) == ["1"]
    assert "passed over 2.dcm" in capsys.readouterr().out


@pytest.mark.parametrize("read", [read_photograph, read_binary_mask, read_stack])
@pytest.mark.filterwarnings("ignore")  # Pillow warns on the way to its error
def test_truncated_tiff(tmp_path, photograph, read, capfd):
    path = saved(tmp_path / "photo.tif", photograph)
    whole = path.read_bytes()
    for length in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cannot be read whole; it may be cut off") as error:
            read(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("ending", ["gif", "png", "jpg", "bmp"])
@pytest.mark.filterwarnings("ignore")
def test_no_truncation_gives_other_pixels_in_silence(tmp_path, photograph, ending):
    path = saved(tmp_path / f"image.{ending}", photograph)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    whole = path.read_bytes()
    outcomes = set()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            outcomes.add(np.array_equal(read_photograph(path), pixels))
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert False not in outcomes


@pytest.mark.parametrize(
    ("content", "held"),
    [(b"<html>\n404</html>", ": a text that starts with '<html>.*404</html>'"), (b"\0\1\xff", "")],
)
def test_file_that_is_no_image_whatever_its_name(tmp_path, content, held):
    path = tmp_path / "21_training.jpg"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"is not an image that can be read \({len(content)} bytes{held}\)"
    ) as error:
        read_photograph(path)
    assert "whatever its name says. Download or convert it again." in str(error.value)


def test_empty_file(tmp_path):
    (tmp_path / "21.tif").touch()
    with pytest.raises(
        ValueError, match=r"21.tif is empty \(0 bytes\). Copy or download it again."
    ):
        read_photograph(tmp_path / "21.tif")


# ---------------------------------------------------------------- ids and folders


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("21_training.tif", "21"),
        ("21_manual1.gif", "21"),
        ("01_manual2.gif", "01"),
        ("21_training_mask.gif", "21"),
        ("01_test_mask.gif", "01"),
        ("Image_01L.jpg", "Image_01L"),
        ("Image_01L_1stHO.png", "Image_01L"),
        ("Image_01L_2ndHO.png", "Image_01L"),
        ("05_h_mask.tif", "05_h"),
        ("7.png", "7"),
        ("patient-3_GT.PNG", "patient-3"),
        ("test.tif", "test"),
        ("latest.png", "latest"),
        ("contest.png", "contest"),
    ],
)
def test_id_is_what_the_files_of_one_picture_have_in_common(name, identity):
    assert image_id(name) == identity


def test_images_are_sorted_by_number_and_other_files_left_out(tmp_path):
    for name in ("10_test.tif", "2_test.TIF", "1_test.png", "b.gif", "a.gif"):
        (tmp_path / name).touch()
    for name in ("notes.txt", ".3_test.tif", "Thumbs.db"):
        (tmp_path / name).touch()
    listed = list_images(tmp_path)
    assert list(listed) == ["1", "2", "10", "a", "b"]
    assert listed["2"] == tmp_path / "2_test.TIF"


def test_numbers_within_names_are_sorted_by_value(tmp_path):
    for name in ("eye10.png", "eye9.png", "eye09b.png"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["eye9", "eye09b", "eye10"]


def test_two_files_with_one_id(tmp_path):
    for name in ("21_training.tif", "21_training.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="both have the id 21. Remove or rename one") as error:
        list_images(tmp_path)
    assert "21_training.png" in str(error.value)
    assert "21_training.tif" in str(error.value)


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=f"The folder {tmp_path / 'none'} does not exist."):
        list_images(tmp_path / "none")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=rf"The folder {tmp_path} holds no image \(.tif, .tiff,"):
        list_images(tmp_path)


# ---------------------------------------------------------------- grey stacks


def test_stack_gives_its_pages_in_order(tmp_path, rng):
    pages = rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    first, *others = [Image.fromarray(page) for page in pages]
    path = saved(tmp_path / "volume.tif", first, save_all=True, append_images=others)
    read = read_stack(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pages)


def test_stack_of_one_page(tmp_path, mask):
    np.testing.assert_array_equal(read_stack(saved(tmp_path / "one.tif", mask)), mask[np.newaxis])


def test_stack_with_pages_of_several_sizes(tmp_path, mask):
    first, second = Image.fromarray(mask), Image.fromarray(mask[:4])
    path = saved(tmp_path / "volume.tif", first, save_all=True, append_images=[second])
    with pytest.raises(
        ValueError, match="must hold pages of one size. Received: 9 x 4, 9 x 6 pixels."
    ):
        read_stack(path)


def test_stack_with_a_page_of_16_bits_or_in_colours_names_the_page(tmp_path, mask, photograph):
    for other, words in ((mask.astype(np.uint16), "of 16 bits"), (photograph, "in colours")):
        pages = [Image.fromarray(other)]
        path = saved(
            tmp_path / "volume.tif", Image.fromarray(mask), save_all=True, append_images=pages
        )
        with pytest.raises(
            ValueError, match="page 2 must be a grey image of 8 bits a pixel"
        ) as error:
            read_stack(path)
        assert words in str(error.value)


def test_missing_stack(tmp_path):
    with pytest.raises(ValueError, match="volume.tif does not exist."):
        read_stack(tmp_path / "volume.tif")


def test_folder_of_grey_images_is_read_in_the_order_of_numbers(tmp_path, rng):
    images = rng.integers(0, 256, (11, HEIGHT, WIDTH), dtype=np.uint8)
    for number, image in enumerate(images):
        saved(tmp_path / f"slice{number}.png", image)
    ids, read = read_grey_images(tmp_path)
    assert ids == [f"slice{number}" for number in range(11)]
    np.testing.assert_array_equal(read, images)


def test_folder_of_grey_images_of_several_sizes(tmp_path, mask):
    saved(tmp_path / "1.png", mask)
    saved(tmp_path / "2.png", mask[:4])
    with pytest.raises(ValueError, match="2.png must have the size of the first image") as error:
        read_grey_images(tmp_path)
    assert "9 x 6 pixels. Received: 9 x 4." in str(error.value)
