"""Tests of reading photographs, masks and stacks, and of what is said about unreadable ones."""

import resource
import struct
import unicodedata

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lib import image_files, tiff_files
from lib.image_files import (
    image_id,
    iterate_images,
    list_images,
    read_binary_mask,
    read_channels,
    read_grey_images,
    read_pages,
    read_photograph,
    read_picture,
    read_stack,
    two_values,
)
from lib.label_images import read_instances, read_label
from tests.fuzz.inputs import png_bomb

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


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 128, "uint8"), (2, 4, "uint8"), (254, 255, "uint8"), (0, 65535, "uint16"),
        (7, 300, "uint16"), (-1, 1, "int8"), (0, 1, "float32"),
    ],
)  # fmt: skip
def test_of_any_two_values_the_lower_is_background(tmp_path, mask, low, high, dtype):
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.where(mask, high, low).astype(dtype))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_mask_of_16_bits_that_is_white_throughout(tmp_path):
    path = saved(tmp_path / "mask.png", np.full((HEIGHT, WIDTH), 65535, np.uint16))
    assert (read_binary_mask(path) == 255).all()


def test_one_value_that_may_be_either_is_refused():
    with pytest.raises(ValueError, match="Received: 1 value: 128"):
        two_values("mask.png", np.full((2, 3), 128, np.uint8))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_two_values_are_numbers(bad):
    with pytest.raises(ValueError, match="must have two values only"):
        two_values("mask.tif", np.array([[0, bad]], np.float32))


@pytest.mark.parametrize(("colours", "mode"), [(0, "RGBA"), (255, "RGBA"), (255, "LA")])
def test_the_shape_may_lie_in_the_alpha_channel(tmp_path, mask, colours, mode):
    planes = [np.full_like(mask, colours)] * (len(mode) - 1)
    path = saved(tmp_path / "mask.png", np.dstack([*planes, mask]))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_the_shape_may_lie_in_the_alpha_channel_of_a_tiff_file(tmp_path, mask):
    planes = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), mask])
    tifffile.imwrite(tmp_path / "mask.tif", planes, photometric="rgb", extrasamples=[2])
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.tif"), mask)


@pytest.mark.parametrize("colour", [0, 255])
def test_where_all_is_transparent_nothing_is_drawn(tmp_path, mask, colour):
    planes = [np.full_like(mask, colour)] * 3
    path = saved(tmp_path / "mask.png", np.dstack([*planes, np.zeros_like(mask)]))
    assert not read_binary_mask(path).any() and not read_label(path).numbers.any()
    path = saved(tmp_path / "shape.png", np.dstack([*planes, mask]))
    np.testing.assert_array_equal(read_label(path).numbers, mask)


def test_a_transparent_colour_of_a_palette_is_the_background(tmp_path, mask):
    image = palette_image(mask, (255, 255, 255), (255, 255, 255))
    image.info["transparency"] = 0
    path = saved(tmp_path / "mask.png", image, transparency=0)
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_where_colours_tell_the_shape_alpha_does_not(tmp_path, mask):
    path = saved(tmp_path / "mask.png", np.dstack([mask, mask, mask, 255 - mask]))
    np.testing.assert_array_equal(read_binary_mask(path), mask)


def test_two_colours_are_a_mask_and_the_darker_is_background(tmp_path, mask):
    colours = np.where(mask[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(read_binary_mask(saved(tmp_path / "mask.png", colours)), mask)


def test_more_colours_may_be_classes(tmp_path, mask):
    colours = np.where(mask[..., None], (255, 0, 0), (0, 0, 255)).astype(np.uint8)
    colours[0, 0] = 0, 255, 0
    with pytest.raises(ValueError, match="Received: 3 colours. If they are classes, `task = seg"):
        read_binary_mask(saved(tmp_path / "mask.png", colours))


def blocks(size=12):
    """Numbers 1 to 20 in blocks of size x size pixels that touch each other."""
    return np.kron(np.arange(1, 21).reshape(4, 5), np.ones((size, size), int))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("has_background", [False, True])
def test_numbers_of_objects_are_for_the_task_cells(dtype, has_background):
    numbers = blocks().astype(dtype)
    numbers[::12] = 0 if has_background else numbers[::12]
    with pytest.raises(ValueError, match="`task = cells` .configuration_CTC.txt. takes those"):
        two_values("labels.tif", np.stack([np.zeros_like(numbers), numbers]))


def test_classes_are_for_the_task_segmentation():
    classes = (blocks() % 3 * 100).astype(np.uint8)  # three values, each in many places
    with pytest.raises(
        ValueError,
        match="if they are classes, `task = segmentation` takes them: prepare_datasets_folder.py",
    ):
        two_values("labels.tif", classes)


def test_greys_are_neither_objects_nor_classes(rng):
    greys = rng.integers(0, 100, (60, 60), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"Threshold it and save it without loss \(PNG.*TIFF\)\.$"):
        two_values("mask.jpg", greys)


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


def test_single_pixels_of_many_greys_are_no_objects():
    greys = np.zeros((100, 100), np.uint8)
    greys[50:] = 255
    greys[50, 10:60] = np.arange(100, 150)
    with pytest.raises(ValueError, match="Received: 52 values: .* Threshold it"):
        two_values("mask.jpg", greys)


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


def test_a_folder_a_broken_link_and_a_missing_file_are_told_apart(tmp_path):
    (tmp_path / "old.tif").mkdir()
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    for name, words in (
        ("old.tif", "is a folder, but is named like an image. Rename it or move it elsewhere."),
        ("gone.png", "is a link to nowhere.png, which does not exist. Copy the file itself."),
        ("none.png", "does not exist."),
    ):
        with pytest.raises(ValueError) as error:
            read_picture(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name} {words}"
    with pytest.raises(ValueError, match="gone.png is a link to .*old.tif is a folder"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(13, "Permission denied"),
            "cannot be opened: Permission denied. Ask its o",
        ),
        (OSError(5, "Input/output error"), "cannot be opened: Input/output error.$"),
        (MemoryError("Unable to allocate 9 GiB"), "does not fit into the memory .*allocate 9 GiB"),
        (OSError("image file is truncated"), "cut off or half downloaded: image file is truncated"),
    ],
)
def test_what_keeps_a_file_from_being_read_is_told_apart(tmp_path, mask, monkeypatch, error, words):
    def fail(path):
        raise error

    path = saved(tmp_path / "mask.png", mask)
    monkeypatch.setattr(image_files, "is_tiff", fail)
    with pytest.raises(ValueError, match=words) as raised:
        read_picture(path)
    assert ("Download it again" in str(raised.value)) == ("truncated" in str(error))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_large_images_are_for_run_prediction(tmp_path, mask, ending):
    path = saved(tmp_path / f"large.{ending}", mask)
    with pytest.raises(
        ValueError, match="has 9 x 6 = 54 pixels; expected at most 53. Cut"
    ) as error:
        read_picture(path, most_pixels=53)
    assert "run_prediction.py takes large images" in str(error.value)
    assert read_picture(path, most_pixels=None).pixels.shape == (1, HEIGHT, WIDTH)


def test_a_bomb_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """100,000 x 100,000 pixels in some hundred bytes, and an animation of many frames."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(100_000, 100_000))
    monkeypatch.setattr(tiff_files, "free_memory", lambda: 10**9)
    for read in (read_photograph, read_binary_mask):
        with pytest.raises(ValueError, match="10,000,000,000 pixels; expected at most 178,956,970"):
            read(path)
    with pytest.raises(ValueError, match="needs at least 120.0 GB of memory; 1.0 GB are free"):
        next(iterate_images(path, 3))
    frames = [Image.fromarray(np.full((20, 20), n, np.uint8)) for n in range(50)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    monkeypatch.setattr(tiff_files, "MOST_BYTES", 50_000)
    with pytest.raises(ValueError, match="holds 50 images, together"):
        read_binary_mask(tmp_path / "a.gif")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("disposal", [0, 2])
def test_an_image_in_a_gif_that_claims_to_be_huge_is_refused_before_there_is_room_for_it(
    tmp_path, number, disposal
):
    """Found by fuzzing: 7.5 GB for one of 65,535 x 65,535 in a file of 14 x 12 pixels."""
    path = tmp_path / "a.gif"
    frames = [Image.fromarray(np.full((12, 14), n, np.uint8)) for n in (0, 255)]
    frames[0].save(path, save_all=True, append_images=frames[1:], disposal=disposal)
    start, *images = path.read_bytes().split(b"\x2c\0\0\0\0\x0e\0\x0c\0")
    assert len(images) == 2
    sizes = [(14, 12), (14, 12)]
    sizes[number] = (65535, 65535)
    for size, image in zip(sizes, images):
        start += b"\x2c\0\0\0\0" + struct.pack("<HH", *size) + image
    path.write_bytes(start)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_photograph, read_label, lambda path: list(iterate_images(path, 3))):
        with pytest.raises(ValueError, match="an image in it claims to be far larger"):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def bmp(indices, palette, bits):
    """A BMP file of 4 or 8 bits a pixel and as many greys in its palette as are given."""
    height, width = indices.shape
    rows = indices[::-1] if bits == 8 else indices[::-1, ::2] * 16 + indices[::-1, 1::2]
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).astype(np.uint8).tobytes()
    start = 54 + 4 * len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, len(palette), 0)
    return head + bytes(value for grey in palette for value in (grey, grey, grey, 0)) + rows


@pytest.mark.parametrize(
    ("bits", "palette", "is_refused"),
    [
        (8, (0, 255), True),  # Pillow reads other pixels
        (4, (0, 255), True),
        (4, range(16), True),
        (8, range(256), False),
        (8, (255, 0), False),
        (4, (255, 0), False),
        (8, (0, 1), False),
    ],
)
def test_bmp_files_with_a_palette_of_greys_are_read_right_or_refused(
    tmp_path, rng, bits, palette, is_refused
):
    indices = rng.integers(0, len(palette), (20, 70))
    path = tmp_path / "mask.bmp"
    path.write_bytes(bmp(indices, palette, bits))
    if is_refused:
        with pytest.raises(ValueError, match="a BMP file that can be read: .* Save it as PNG"):
            read_picture(path)
        return
    np.testing.assert_array_equal(read_picture(path).pixels[0], np.array(palette)[indices])


def test_pillows_limit_is_worded(tmp_path):
    Image.new("1", (14000, 14000)).save(tmp_path / "huge.png")
    with pytest.raises(
        ValueError, match="has 14000 x 14000 = 196,000,000 pixels; expected at most"
    ):
        read_binary_mask(tmp_path / "huge.png")


# ---------------------------------------------------------------- any image


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3)])
def test_any_image_has_channels_first_and_no_alpha(tmp_path, photograph, mode, channels):
    image = Image.fromarray(photograph).convert(mode)
    expected = np.asarray(image).reshape(HEIGHT, WIDTH, -1).transpose(2, 0, 1)[:channels]
    np.testing.assert_array_equal(
        read_picture(saved(tmp_path / "image.png", image)).pixels, expected
    )


def test_any_image_of_16_bits(tmp_path, rng):
    colours = rng.integers(0, 2**16, (HEIGHT, WIDTH, 4), dtype=np.uint16)
    for channels, kept in ((1, 1), (3, 3), (4, 3)):
        path = tmp_path / f"{channels}.png"
        assert cv2.imwrite(str(path), colours[..., [2, 1, 0, 3][:channels]])
        first = [2] if channels == 1 else range(kept)
        np.testing.assert_array_equal(
            read_picture(path).pixels, colours[..., first].transpose(2, 0, 1)
        )


@pytest.mark.parametrize("ending", ["ppm", "jp2"])
def test_colours_of_12_bits_keep_them(tmp_path, rng, ending):
    colours = rng.integers(0, 2**12, (64, 70, 3), dtype=np.uint16)
    path = tmp_path / f"photo.{ending}"
    if ending == "ppm":
        path.write_bytes(b"P6 70 64 4095\n" + colours.astype(">u2").tobytes())
    else:
        lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
        assert cv2.imwrite(str(path), colours[..., ::-1], lossless)
    np.testing.assert_array_equal(read_picture(path).pixels, colours.transpose(2, 0, 1))
    ((pixels, _),) = iterate_images(path, 3, keeps_16_bits=True)
    assert pixels.dtype == np.uint16
    with pytest.raises(ValueError, match="Received: colours of 16 bits"):
        read_photograph(path)
    assert cv2.imwrite(str(path), colours.astype(np.uint8))
    assert read_picture(path).pixels.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["i2", "i4", "u4"])
def test_whole_numbers_of_16_bits_are_the_same_for_training_and_prediction(tmp_path, rng, dtype):
    path = tmp_path / "counts.tif"
    tifffile.imwrite(path, rng.integers(300, 2**14, (40, 50)).astype(dtype))
    trained, _ = read_channels(path)
    ((predicted, notes),) = iterate_images(path, 1, keeps_16_bits=True)
    assert predicted.dtype == trained.dtype == np.uint16 and notes == []
    np.testing.assert_array_equal(predicted, trained)
    tifffile.imwrite(path, rng.integers(-9, 300, (40, 50)).astype("i4"))
    ((predicted, (note,)),) = iterate_images(path, 1, keeps_16_bits=True)
    assert predicted.dtype == np.uint8 and "scaled from" in note


@pytest.mark.parametrize(
    ("highest", "numbers", "dtype"),
    [(1, [0, 1, 0, 1], "u1"), (3, [0, 1, 2, 3], "u1"), (1000, [0, 1, 7, 999], ">u2")],
)
def test_labels_of_a_pgm_file_are_its_numbers(tmp_path, highest, numbers, dtype):
    (tmp_path / "a.pgm").write_bytes(b"P5 4 1 %d\n" % highest + np.array(numbers, dtype).tobytes())
    assert read_label(tmp_path / "a.pgm").numbers.tolist() == [numbers]
    (tmp_path / "b.pgm").write_text(f"P2 4 1 {highest} {' '.join(map(str, numbers))}\n")
    assert read_instances(tmp_path / "b.pgm").tolist() == [numbers]


def test_pages_of_a_gif(tmp_path, mask):
    frames = [Image.fromarray(frame) for frame in (mask, 255 - mask)]
    path = saved(tmp_path / "two.gif", frames[0], save_all=True, append_images=frames[1:])
    first, second = read_pages(path)
    np.testing.assert_array_equal(first[0], mask)
    np.testing.assert_array_equal(second[0], 255 - mask)


@pytest.mark.parametrize("ending", ["png", "tif", "gif"])
def test_labels_of_a_palette_are_its_numbers(tmp_path, mask, ending):
    image = palette_image(mask, (128, 0, 0), (0, 128, 0))
    path = saved(tmp_path / f"classes.{ending}", image)
    np.testing.assert_array_equal(read_label(path).numbers, mask // 255)
    np.testing.assert_array_equal(read_picture(path).pixels[0], np.where(mask, 0, 128))


def test_objects_in_colours_are_refused(tmp_path, photograph, mask):
    grey = saved(tmp_path / "grey.png", np.dstack([mask] * 3))
    np.testing.assert_array_equal(read_instances(grey), mask)
    with pytest.raises(ValueError, match="must hold object numbers. Received: an image in colours"):
        read_instances(saved(tmp_path / "colours.png", photograph))


def test_colours_of_print_are_refused(tmp_path, photograph):
    path = saved(tmp_path / "photo.jpg", Image.fromarray(photograph).convert("CMYK"))
    with pytest.raises(
        ValueError, match="must be grey or RGB. Received: an image of the mode CMYK"
    ):
        read_photograph(path)


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


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("M\udcfcller_mask.png", "Müller"),  # the byte 0xFC: Latin-1
        ("a\udc81b.png", "a_b"),  # no character of Latin-1
        ("a\\b\nc\x1b[2J\u202e.png", "a_b_c_[2J_"),
        (unicodedata.normalize("NFD", "Müller_mask.png"), unicodedata.normalize("NFC", "Müller")),
    ],
)
def test_ids_can_be_printed_and_lead_nowhere(name, identity):
    assert image_id(name) == identity
    assert image_id(name).encode()


def test_both_ways_to_write_an_accent_are_one_id(tmp_path):
    for form in ("NFC", "NFD"):
        (tmp_path / form).mkdir()
        (tmp_path / form / unicodedata.normalize(form, "é_mask.png")).touch()
    assert list(list_images(tmp_path / "NFC")) == list(list_images(tmp_path / "NFD"))


def test_images_are_sorted_by_number_and_other_files_left_out(tmp_path):
    for name in ("10_test.tif", "2_test.TIF", "1_test.png", "b.gif", "a.gif"):
        (tmp_path / name).touch()
    for name in ("notes.txt", ".3_test.tif", "Thumbs.db"):
        (tmp_path / name).touch()
    listed = list_images(tmp_path)
    assert list(listed) == ["1", "2", "10", "a", "b"]
    assert listed["2"] == tmp_path / "2_test.TIF"


def test_numbers_within_names_are_sorted_by_value(tmp_path):
    for name in ("eye10.png", "eye9.png", "eye09b.png", "eye10².png", "eye9⑤.png"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["eye9", "eye09b", "eye9⑤", "eye10", "eye10²"]


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


@pytest.mark.parametrize("grid", [12, 0])
def test_of_a_large_mask_the_middle_tells_whether_it_counts_objects(grid, rng, monkeypatch):
    """Noise of 255 values once took a pass over the whole image for each of them."""
    monkeypatch.setattr(image_files, "LARGEST_LOOKED_AT", 60)
    image = rng.integers(0, 255, (90, 200)).astype(np.uint8)
    if grid:
        numbers = np.arange(1, 1 + 25, dtype=np.uint8).reshape(5, 5)
        image[15:75, 70:130] = numbers.repeat(grid, 0).repeat(grid, 1)
    with pytest.raises(ValueError) as refused:
        image_files.two_values("a.png", image)
    assert ("They look like the numbers of objects" in str(refused.value)) == bool(grid)
