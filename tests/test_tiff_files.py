"""TIFF files are read as their tags say, or refused by name."""

import struct
import time

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from lib import tiff_files
from lib.image_files import (
    iterate_images,
    read_pages,
    read_photograph,
    read_picture,
    read_stack,
)
from lib.label_images import read_label

HEIGHT, WIDTH = 6, 9


@pytest.fixture
def slices(rng):
    return rng.integers(0, 256, (6, HEIGHT, WIDTH), dtype=np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "volume.tif"


def colours(rng, dtype=np.uint8):
    return rng.integers(0, 250, (HEIGHT, WIDTH, 3)).astype(dtype)


# ---------------------------------------------------------------- stacks


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}},  # one directory
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "TYX"}},
        {"metadata": {"axes": "ZYX"}, "ome": True},
        {"metadata": None},
        {"truncate": True},
        {"bigtiff": True},
        {"byteorder": ">"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 4},
        {"volumetric": True, "tile": (16, 16, 16)},
    ],
    ids=str,
)
def test_six_slices_are_six_however_they_are_stored(path, slices, options):
    tifffile.imwrite(path, slices, photometric="minisblack", **options)
    np.testing.assert_array_equal(read_stack(path), slices)


@pytest.mark.parametrize("contiguous", [False, True])
def test_slices_that_were_written_one_after_the_other(path, slices, contiguous):
    with tifffile.TiffWriter(path) as file:
        for image in slices:
            file.write(image, contiguous=contiguous)
    np.testing.assert_array_equal(read_stack(path), slices)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd"])
def test_stack_that_pillow_compressed(path, slices, compression):
    first, *others = [Image.fromarray(image) for image in slices]
    first.save(path, save_all=True, append_images=others, compression=compression)
    np.testing.assert_array_equal(read_stack(path), slices)


def test_two_channels_are_refused_by_name(path, slices):
    stack = np.stack([slices, 255 - slices], 1)
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(ValueError, match="page 1 must be a grey image of 8 bits") as error:
        read_stack(path)
    assert "an image of 2 channels of 8 bits a pixel (ZCYX, 6 x 2 x 6 x 9)" in str(error.value)
    assert "If they are channels, save the wanted one as a file of its own" in str(error.value)
    np.testing.assert_array_equal(read_pages(path), stack)


def test_a_stack_of_every_time_is_refused_by_name(path, slices):
    times = slices.reshape(2, 3, HEIGHT, WIDTH)
    tifffile.imwrite(path, times, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(ValueError, match=r"one stack. Received: TZYX, 2 x 3 x 6 x 9. Save each"):
        read_stack(path)


def test_series_of_several_stacks_are_refused_by_name(path, slices):
    with tifffile.TiffWriter(path) as file:
        file.write(slices, photometric="minisblack")
        file.write(slices[:2, :4], photometric="minisblack")
    with pytest.raises(ValueError, match=r"Received: 2 \(ZYX, 6 x 6 x 9|2 \(QYX, 6 x 6 x 9"):
        read_stack(path)


@pytest.mark.parametrize("number", [3, 4])
def test_slices_that_a_library_wrote_as_colours_are_slices(path, slices, number, capsys):
    tifffile.imwrite(path, slices[:number], photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_stack(path), slices[:number])
    said = f"{path}: {number} slices that were written as one page in colours; read so."
    assert said in capsys.readouterr().out
    predicted = list(iterate_images(path, 1))
    np.testing.assert_array_equal([image[0] for image, _ in predicted], slices[:number])
    assert all("one page in colours" in notes[0] for _, notes in predicted)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True},  # tifffile: CYX
        {"photometric": "rgb", "planarconfig": "separate", "metadata": None},
    ],
)
def test_slices_that_were_written_as_channels_are_refused_with_a_way_out(path, slices, options):
    tifffile.imwrite(path, slices[:3], **options)
    with pytest.raises(ValueError, match="Received: an image of 3 channels of 8 bits a pixel") as e:
        read_stack(path)
    assert "If these are slices, save them as such (ImageJ: Image > Properties" in str(e.value)


def test_a_photograph_is_no_stack(path, rng):
    tifffile.imwrite(path, colours(rng), photometric="rgb")
    with pytest.raises(ValueError, match="page 1 must be .* Received: an image in colours"):
        read_stack(path)


def test_pages_keep_their_order_where_sizes_change(path, slices):
    pages = [slices[0], slices[1, :4], slices[2]]
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)
    for read, page in zip(read_pages(path), pages, strict=True):
        np.testing.assert_array_equal(read, page[np.newaxis])


def test_thumbnails_and_levels_of_a_pyramid_are_no_images(path, slices):
    with tifffile.TiffWriter(path) as file:
        file.write(slices[0], subifds=1, metadata=None)
        file.write(slices[0, ::2, ::2], subfiletype=1, metadata=None)
        file.write(slices[0, ::3, ::3], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_picture(path).pixels, slices[:1])


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", "uint8 int8 uint16 int16 uint32 float32 float64".split())
@pytest.mark.parametrize("byteorder", "<>")
def test_numbers_keep_their_type(path, rng, dtype, byteorder):
    image = (rng.normal(0, 40, (HEIGHT, WIDTH))).astype(np.int8).astype(dtype)
    tifffile.imwrite(path, image, byteorder=byteorder)
    read = read_picture(path).pixels
    np.testing.assert_array_equal(read, image[np.newaxis])
    assert read.dtype == dtype
    assert read.dtype.isnative


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("uint16", "a grey image of 16 bits a pixel"),
        ("int8", "a grey image of signed numbers"),
        ("float32", "a grey image of floating-point numbers"),
    ],
)
def test_slices_of_other_types_are_refused_by_name(path, slices, dtype, words):
    tifffile.imwrite(path, slices.astype(dtype), photometric="minisblack")
    with pytest.raises(ValueError, match=f"8 bits a pixel. Received: {words}. Convert it to 8-bit"):
        read_stack(path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "group4"])
def test_one_bit(path, slices, compression):
    image = Image.fromarray(slices[0] > 99)
    if compression == "tiff_lzw":
        image.save(path, compression=compression, tiffinfo={262: 1})
    else:
        image.save(path, compression=compression)
    np.testing.assert_array_equal(read_picture(path).pixels[0], np.where(slices[0] > 99, 255, 0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_may_be_0(path, slices, dtype):
    image = slices[0].astype(dtype)
    tifffile.imwrite(path, image, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(path).pixels[0], np.iinfo(dtype).max - image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_may_be_0_and_compressed(path, slices, dtype):
    image = slices[0].astype(dtype)
    # Pillow writes 8 bits inverted then, and 16 as they are.
    Image.fromarray(image).save(path, compression="tiff_lzw", tiffinfo={262: 0})
    seen = image if dtype == "uint8" else 65535 - image
    np.testing.assert_array_equal(read_picture(path).pixels[0], seen)
    np.testing.assert_array_equal(read_label(path).numbers, np.iinfo(dtype).max - seen)


def tiff_of_few_bits(numbers, bits, photometric):
    """A TIFF file of 2 or 4 bits a pixel, which neither tifffile nor Pillow writes."""
    height, width = numbers.shape
    parts = np.pad(numbers, ((0, 0), (0, -width % (8 // bits)))).reshape(height, -1, 8 // bits)
    rows = (parts << np.arange(8 - bits, -1, -bits)).sum(axis=2).astype(np.uint8).tobytes()
    sizes = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    sizes |= {278: height, 279: len(rows)}
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sizes.items())
    rows += bytes(len(rows) % 2)
    start = b"II*\0" + struct.pack("<I", 8 + len(rows))
    return start + rows + struct.pack("<H", len(sizes)) + tags + bytes(4)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_2_and_4_bits_are_shown_as_8_and_are_the_numbers_they_were(path, rng, bits, photometric):
    numbers = rng.integers(0, 2**bits, (HEIGHT, WIDTH))
    path.write_bytes(tiff_of_few_bits(numbers, bits, photometric))
    grey = numbers * (255 // (2**bits - 1))
    seen = grey if photometric else 255 - grey
    np.testing.assert_array_equal(read_picture(path).pixels[0], seen)
    np.testing.assert_array_equal(read_label(path).numbers, numbers)
    ((pixels, notes),) = iterate_images(path, 1)
    np.testing.assert_array_equal(pixels[0], seen)
    assert not notes


def test_white_may_be_0_in_one_bit(path, slices):
    tifffile.imwrite(path, slices[0] > 99, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(path).pixels[0], np.where(slices[0] > 99, 0, 255))


def test_white_that_is_0_in_floating_point_is_refused(path, slices):
    tifffile.imwrite(path, slices[0].astype(np.float32), photometric="miniswhite")
    with pytest.raises(ValueError, match="counts from white to black.*Save it with 0 for black"):
        read_picture(path)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_palettes_are_expanded(path, rng, compression):
    image = Image.fromarray(colours(rng)).quantize(8)
    image.save(path, compression=compression)
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_picture(path).pixels, expected)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_colours_in_planes_or_pixel_by_pixel(path, rng, planarconfig, compression, dtype):
    image = colours(rng, dtype)
    stored = image if planarconfig == "contig" else image.transpose(2, 0, 1)
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig=planarconfig, compression=compression
    )
    read = read_picture(path).pixels
    np.testing.assert_array_equal(read, image.transpose(2, 0, 1))
    assert read.dtype == dtype
    if dtype == "uint8":
        np.testing.assert_array_equal(read_photograph(path), read)


def test_alpha_is_left_out_but_no_other_channel(path, rng):
    image = np.dstack([colours(rng), np.full((HEIGHT, WIDTH, 2), 7, np.uint8)])
    for kinds, left in (((2,), 3), ((1,), 3), ((0,), 4), ((0, 2), 4), ((2, 0), 4)):
        stored = image[..., : 3 + len(kinds)]
        tifffile.imwrite(path, stored, photometric="rgb", extrasamples=kinds)
        assert read_picture(path).pixels.shape == (left, HEIGHT, WIDTH), kinds


def test_five_channels(path, slices):
    tifffile.imwrite(path, slices[:5], photometric="minisblack", planarconfig="separate")
    np.testing.assert_array_equal(read_picture(path).pixels, slices[:5])


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_the_tag_says(path, rng, orientation, compression):
    image = colours(rng)
    # What is stored, by the turn that shows it: 6 is turned by 90 degrees clockwise, and so on.
    shown = {
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1],
        5: image.swapaxes(0, 1), 6: np.rot90(image, -1), 7: np.rot90(image, -1)[::-1],
        8: np.rot90(image),
    }[orientation]  # fmt: skip
    Image.fromarray(image).save(path, tiffinfo={274: orientation}, compression=compression)
    np.testing.assert_array_equal(read_picture(path).pixels, shown.transpose(2, 0, 1))


# ---------------------------------------------------------------- what tifffile decodes not alone


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_photograph_that_pillow_must_decode(path, rng, compression):
    image = Image.fromarray(np.full((16, 24, 3), (200, 100, 50), np.uint8))
    image.save(path, compression=compression)
    np.testing.assert_allclose(read_photograph(path)[:, 3, 5], (200, 100, 50), atol=3)


def test_lzw_of_16_bits(path, rng):
    grey = rng.integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16)
    Image.fromarray(grey).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(read_picture(path).pixels, grey[np.newaxis])
    image = rng.integers(0, 2**16, (HEIGHT, WIDTH, 3), dtype=np.uint16)
    assert cv2.imwrite(str(path), image[..., ::-1])  # LZW is OpenCV's own choice
    np.testing.assert_array_equal(read_picture(path).pixels, image.transpose(2, 0, 1))


def test_lzw_of_16_bits_is_no_first_page_in_place_of_others(path, rng):
    """OpenCV reads the first page only."""
    if tifffile.TIFF.DECOMPRESSORS.get(5):
        pytest.skip("imagecodecs is installed, which decodes it")
    pages = [colours(rng).astype(np.uint16) * 257 for _ in range(2)]
    assert cv2.imwritemulti(str(path), pages)
    first, *others = iterate_images(path, 3, keeps_16_bits=True)
    np.testing.assert_array_equal(first[0], pages[0][..., ::-1].transpose(2, 0, 1))
    for other in others:
        assert isinstance(other, ValueError) and "which needs the package imagecodecs" in str(other)
    assert len(others) == 1


def test_what_pillow_would_change_is_refused_with_a_way_out(path, rng):
    if tifffile.TIFF.DECOMPRESSORS.get(5):
        pytest.skip("imagecodecs is installed, which decodes it")
    image = Image.fromarray(rng.normal(size=(HEIGHT, WIDTH)).astype(np.float32))
    image.save(path, compression="tiff_lzw")
    with pytest.raises(ValueError, match="compressed with LZW, 1 x 32 bits a pixel.*imagecodecs"):
        read_picture(path)


@pytest.mark.parametrize(("number", "name"), [(50002, "JPEGXL"), (50001, "WEBP")])
def test_compressions_that_nothing_here_knows_are_refused_by_name(path, slices, number, name):
    tifffile.imwrite(path, slices[0])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(number)
    with pytest.raises(ValueError, match=f"compressed with {name}, 1 x 8 bits .* imagecodecs"):
        read_picture(path)


def test_kinds_that_nothing_here_knows_are_refused_by_name(path, slices):
    tifffile.imwrite(path, slices[0])
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(777)
    with pytest.raises(ValueError, match="must be grey or RGB. Received: .* of the kind 777"):
        read_picture(path)


@pytest.mark.parametrize("photometric", ["CMYK", "LAB"])
def test_colours_of_print_are_refused_by_name(path, rng, photometric):
    image = Image.fromarray(colours(rng)).convert("CMYK")
    image = (
        Image.frombytes("LAB", image.size, colours(rng).tobytes())
        if photometric == "LAB"
        else image
    )
    image.save(path)
    with pytest.raises(ValueError, match="must be grey or RGB. Received: a TIFF file of the kind"):
        read_picture(path)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"metadata": None},
        {"truncate": True},
        {"compression": "zlib", "metadata": None},
    ],
    ids=str,
)
def test_no_truncation_gives_other_slices_in_silence(path, slices, options, caplog):
    tifffile.imwrite(path, slices[:3], photometric="minisblack", **options)
    whole = path.read_bytes()
    outcomes = set()
    for length in range(1, len(whole), 3):
        path.write_bytes(whole[:length])
        try:
            outcomes.add(np.array_equal(read_stack(path), slices[:3]))
        except ValueError:
            outcomes.add("refused")
    assert "refused" in outcomes
    assert False not in outcomes
    assert not caplog.records


def test_a_claim_of_billions_of_tags_ends_at_the_first(path):
    claim = b"II+\0\x08\0\0\0" + (16).to_bytes(8, "little") + (2**60).to_bytes(8, "little")
    path.write_bytes(claim + b"\xff" * 100)
    start = time.process_time()
    with pytest.raises(tifffile.TiffFileError):
        tiff_files.read_tiff(path)
    assert time.process_time() - start < 1


def test_pages_that_together_are_too_large_are_refused_before_they_are_read(path, monkeypatch):
    tifffile.imwrite(path, np.zeros((9, 30, 40), np.uint8), photometric="minisblack")
    monkeypatch.setattr(tiff_files, "MOST_BYTES", 10_000)
    with pytest.raises(tiff_files.ImageError, match="together 0.0 GB; expected at most"):
        tiff_files.read_tiff(path)


def test_a_tile_that_was_never_written_is_no_black_one(path, slices):
    tiles = [np.full((16, 16), 9, np.uint8), None]
    tifffile.imwrite(path, iter(tiles), shape=(16, 32), dtype=np.uint8, tile=(16, 16))
    with pytest.raises(ValueError, match="cannot be read whole; .* it ends before its last pixel"):
        read_picture(path)


def test_a_hyperstack_whose_numbers_cannot_be_is_not_read_as_one_slice(path, slices):
    tifffile.imwrite(path, slices, imagej=True, truncate=True, metadata={"axes": "ZYX"})
    path.write_bytes(path.read_bytes().replace(b"slices=6", b"slices=0"))
    with pytest.raises(ValueError, match="ImageJ series metadata invalid"):
        read_stack(path)
