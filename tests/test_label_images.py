"""What label files hold, and what it means: numbers, palettes, colours, and their lists."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.class_metrics import IGNORE
from lib.errors import UserError
from lib.image_files import require_lossless
from lib.label_images import (
    content_of,
    default_colours,
    find_coding,
    read_classes,
    read_instances,
    read_label,
)

RED, GREEN, BLUE = (200, 0, 0), (0, 150, 0), (0, 0, 250)


@pytest.fixture
def save(tmp_path):
    """A function that saves pixels as <name>, and gives the path."""

    def save_as(name, pixels, palette=None, **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels))
        if palette is not None:
            image = Image.fromarray(np.asarray(pixels, np.uint8), "L")
            image.putpalette([value for colour in palette for value in colour])
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save_as


def grey(*rows):
    return np.array(rows, np.uint8)


def decoded(paths, listed=None, ignored=()):
    labels = [read_label(path) for path in paths]
    contents = [content_of(path, label) for path, label in zip(paths, labels)]
    coding, classes, remarks = find_coding(contents, listed, ignored)
    arrays = [coding.decode(label) for label in labels]
    counts = [coding.count(content, len(classes)) for content in contents]
    for array, count in zip(arrays, counts):
        assert array.dtype == np.uint8
        expected = np.bincount(array.ravel(), minlength=256)[: len(classes)]
        np.testing.assert_array_equal(count, expected)
    return [array.tolist() for array in arrays], classes, remarks


def message_of(paths, listed=None, ignored=()):
    with pytest.raises(UserError) as error:
        decoded(paths, listed, ignored)
    return str(error.value)


@pytest.fixture
def classes_of(tmp_path):
    """A function that writes classes.txt and reads it."""

    def write(*lines):
        (tmp_path / "classes.txt").write_text("\n".join(lines), encoding="utf-8")
        return read_classes(tmp_path / "classes.txt")

    return write


# ---------------------------------------------------------------- classes.txt


def test_names_and_colours_are_read(classes_of):
    classes = classes_of("# my classes", "sky #8080FF", "", "road surface: #804080")
    assert classes.names == ("sky", "road surface")
    assert classes.colours == ((128, 128, 255), (128, 64, 128))
    assert classes_of("\ufeffä", "b").colours is None
    assert classes_of("\ufeffä", "b").names == ("ä", "b")


@pytest.mark.parametrize(
    "lines, messages",
    [
        (["a", "b", "a"], ["lists the class a twice"]),
        (["a", "b\0"], ["line 2 holds signs that cannot be shown: 'b\\x00'"]),
        (["a #ffffff", "b #ffffff", "c #12"], ["#ffffff twice", "line 3 must end with a colour"]),
        (["a #ffffff", "b"], ["colours to some classes only; without: b"]),
        (["#ffffff", "b #000000"], ["line 1 has a colour without a name"]),
        (
            ["1 a", "0 b"],
            ["by number, from 0 and without gaps. Received: 1 a, in the place of class 0"],
        ),
        (["0 a #ffffff", "2: b #000000"], ["Received: 2: b, in the place of class 1. Sort the l"]),
        (["a"], ["2 to 255 classes, one a line; the background counts as one. Received: 1"]),
        (["#ff0000 a", "#00ff00 b"], ["Received: 0. Lines that begin with a colour are comments"]),
    ],
)
def test_lists_that_contradict_themselves_are_refused(classes_of, lines, messages):
    with pytest.raises(UserError) as error:
        classes_of(*lines)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.parametrize("lines", [("0 a", "01: b"), ("1 a", "b"), ("3d", "2d"), ("1.5 mm", "0.5")])
def test_numbers_in_a_list_are_places_or_parts_of_names(classes_of, lines):
    assert classes_of(*lines).names == lines


def test_default_colours_differ():
    assert len(set(default_colours(255))) == 255
    assert default_colours(3)[0] == (0, 0, 0)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("white", [1, 7, 128, 255, 65535])
def test_two_values_are_two_classes(save, white):
    pixels = np.array([[0, white]], np.uint16 if white > 255 else np.uint8)
    arrays, classes, _ = decoded([save("a.png", pixels), save("b.png", pixels[:, :1])])
    assert arrays == [[[0, 1]], [[0]]]
    assert classes.names == ("background", "foreground")


def test_numbers_are_classes_and_255_is_ignored(save):
    arrays, classes, _ = decoded([save("a.png", grey([0, 1, 255])), save("b.tif", grey([2, 2, 0]))])
    assert arrays == [[[0, 1, IGNORE]], [[2, 2, 0]]]
    assert len(classes) == 3


def test_numbers_of_2_and_4_bits_are_not_stretched(tmp_path):
    # Pillow writes no such files: a PNG by hand, 4 pixels of 2 bits: 0 1 2 3.
    import struct
    import zlib

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes([0b00011011]))
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    assert decoded([tmp_path / "a.png"])[0] == [[[0, 1, 2, 3]]]


def test_an_ignored_class_leaves_no_gap(save):
    path = save("a.png", grey([0, 1, 2, 3]))
    arrays, classes, remarks = decoded([path], ignored=["1"])
    assert arrays == [[[0, IGNORE, 1, 2]]]
    assert classes.names == ("class 0", "class 2", "class 3")
    assert "class 2 2 to 1, class 3 3 to 2" in remarks[0]


def test_classes_are_ignored_by_name_too(save, classes_of):
    listed = classes_of("sky", "road", "void")
    arrays, classes, remarks = decoded([save("a.png", grey([0, 1, 2]))], listed, ["void"])
    assert (arrays, classes.names) == ([[[0, 1, IGNORE]]], ("sky", "road"))
    assert remarks == ["Ignored: void."]
    assert "must name a class" in message_of([save("a.png", grey([0, 1]))], listed, ["car"])


@pytest.mark.parametrize("number", ["2", "4", "255"])
def test_a_number_that_is_ignored_must_occur(save, classes_of, number):
    paths = [save("a.png", grey([0, 1, 3]))]
    for listed in (None, classes_of("a", "b", "c", "d")):
        message = message_of(paths, listed, [number])
        assert f"or a number that label pixels have. Received: {number}. The classes" in message
    assert decoded(paths, listed, ["c"])[0] == [[[0, 1, 2]]]
    paths = [save("b.png", np.array([[GREEN, RED]], np.uint8))]
    assert f"Received: {number}. The classes" in message_of(paths, None, [number])


def test_a_listed_class_may_never_occur(save, classes_of):
    arrays, classes, _ = decoded([save("a.png", grey([0, 2]))], classes_of("a", "b", "c"))
    assert (arrays, len(classes)) == ([[[0, 2]]], 3)


@pytest.mark.parametrize(
    "pixels, listed, message",
    [
        ([[0, 1], [1, 3]], "abc", "has the number 3 at row 1, column 1. classes.txt lists 3"),
        ([[1, 2, 3]], "abc", "All labels start at 1"),
        ([[0, 0]], None, "at least two classes, background and another. Received: class 0"),
        ([[0, 85, 170, 255]], None, "Received: 0, 85, 170, the largest in a.png"),
        ([list(range(100))], None, "100 values from 0 to 99"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(save, classes_of, pixels, listed, message):
    listed = classes_of(*listed) if listed else None
    assert message in message_of([save("a.png", grey(*pixels))], listed)


def test_object_numbers_are_recognised(save):
    numbers = np.arange(40_000, dtype=np.uint16).reshape(200, 200)
    path = save("a.png", numbers)
    assert "if they are the numbers of objects, add --instances" in message_of([path])
    np.testing.assert_array_equal(read_instances(path), numbers)
    few = [save(f"{n}.png", grey(list(range(1, n)))) for n in (25, 31)]
    assert decoded(few)[2] == [
        "NOTE: 30 classes: if they are the numbers of objects, add --instances."
    ]


# ---------------------------------------------------------------- palettes


def test_numbers_of_a_palette_are_the_classes_and_its_colours_theirs(save):
    palette = [(0, 0, 0), RED, (128, 128, 128)]
    first = save("a.png", grey([0, 1, 2]), palette, transparency=0)
    arrays, classes, _ = decoded([first, save("b.gif", grey([0, 2, 2]), palette)])
    assert arrays == [[[0, 1, 2]], [[0, 2, 2]]]
    assert classes.colours == tuple(palette)


def test_numbers_of_a_palette_of_16_bits(tmp_path):
    colours = np.zeros((3, 2**16), np.uint16)
    colours[0, 300] = 200 * 257
    numbers = np.array([[0, 300]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=colours)
    content = content_of(tmp_path / "a.tif", read_label(tmp_path / "a.tif"))
    assert (content.numbers, content.colours) == ({0: 1, 300: 1}, {0: 1, 200 << 16: 1})


def test_palettes_that_disagree_are_read_by_their_colours(save):
    paths = [save("a.png", grey([0, 1]), [BLUE, RED]), save("b.png", grey([0, 1]), [RED, BLUE])]
    arrays, classes, _ = decoded(paths)
    assert arrays == [[[0, 1]], [[1, 0]]]  # blue is darker
    assert classes.names == ("#0000fa", "#c80000")


def test_a_palette_of_greys_in_no_order_is_a_grey_picture(save):
    path = save("a.png", grey([0, 1]), [(255, 255, 255), (0, 0, 0)])
    assert decoded([path])[0] == [[[1, 0]]]


@pytest.mark.parametrize("white", [1, 255])
def test_black_and_white_mean_the_same_as_palettes_and_as_greys(save, classes_of, white):
    palette = [(0, 0, 0)] * white + [(255, 255, 255)]
    first = save("a.gif", grey([0, 1]), [(0, 0, 0), (255, 255, 255)])
    paths = [first, save("b.png", grey([white, 0]), palette), save("c.png", grey([0, 255]))]
    for listed, names in ((None, ("background", "foreground")), (classes_of("a", "b"), ("a", "b"))):
        arrays, classes, remarks = decoded(paths, listed)
        assert arrays == [[[0, 1]], [[1, 0]], [[0, 1]]]
        assert classes.names == names
        assert remarks == ["The labels have two colours: #000000 is class 0, #ffffff is class 1."]


def test_black_and_white_with_more_numbers_or_classes_are_numbers(save, classes_of):
    palette = [(0, 0, 0), (255, 255, 255), (255, 255, 255)]
    path, other = (save(f"{row}.png", grey(row), palette) for row in ([0, 1, 2], [0, 1]))
    assert decoded([path, other])[0] == [[[0, 1, 2]], [[0, 1]]]
    paths = [other, save("c.png", grey([0, 255]))]
    assert decoded(paths, classes_of("a", "b", "c"))[0] == [[[0, 1]], [[0, IGNORE]]]
    assert decoded(paths, ignored=["255"])[0] == [[[0, 1]], [[0, IGNORE]]]


def test_listed_colours_decide_about_a_palette(save, classes_of):
    listed = classes_of("a #0000fa", "b #c80000")
    assert decoded([save("a.png", grey([0, 1]), [RED, BLUE])], listed)[0] == [[[1, 0]]]


# ---------------------------------------------------------------- colours


def test_colours_are_looked_up_in_the_list(save, classes_of):
    listed = classes_of("ground #000000", "red #c80000", "green #009600")
    paths = [
        save("a.png", np.array([[GREEN, RED]], np.uint8)),
        save("b.png", np.zeros((1, 2, 3), np.uint8)),  # black alone looks grey
    ]
    arrays, classes, _ = decoded(paths, listed, ["red"])
    assert arrays == [[[1, IGNORE]], [[0, 0]]]
    assert classes.names == ("ground", "green")


def test_an_unlisted_colour_is_named_with_its_place_and_the_nearest(save, classes_of):
    listed = classes_of("ground #000000", "red #c80000")
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[2, 3], pixels[0, 0] = (190, 0, 0), RED
    message = message_of([save("a.png", pixels)], listed)
    assert "a.png has the colour #be0000 at row 2, column 3" in message
    assert "the nearest is red #c80000" in message


def test_colours_need_a_list_of_colours_if_there_is_a_list(save, classes_of):
    path = save("a.png", np.array([[GREEN, RED]], np.uint8))
    assert "Write the colour behind each name" in message_of([path], classes_of("a", "b"))


def test_too_many_colours_are_no_classes(save, rng):
    path = save("a.png", rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    assert "81 colours. Expected at most 64" in message_of([path])


# ---------------------------------------------------------------- files


def test_a_shape_on_transparency_is_read_from_the_alpha_channel(save):
    pixels = np.full((1, 2, 4), 255, np.uint8)
    pixels[0, 0, 3] = 0
    assert decoded([save("a.png", pixels)])[0] == [[[0, 1]]]
    pixels[0, 1, 0] = 0
    with pytest.raises(ValueError, match="must not be transparent in places"):
        read_label(save("b.png", pixels))


def drawn(alpha, colour):
    """Gives RGBA of one colour."""
    return np.dstack([np.full((*np.shape(alpha), 3), colour, np.uint8), grey(*alpha)])


@pytest.mark.parametrize("colour", [(255, 255, 255), RED, (0, 0, 0)])
def test_where_all_is_transparent_nothing_is_drawn(save, colour):
    paths = [save("a.png", drawn([[0, 255]], RED)), save("b.png", drawn([[0, 0]], colour))]
    assert decoded(paths)[0] == [[[0, 1]], [[0, 0]]]
    assert not read_instances(paths[1]).any()


def test_colours_that_nobody_sees_are_refused(save):
    pixels = drawn([[0, 0]], RED)
    pixels[0, 0, :3] = GREEN
    with pytest.raises(ValueError, match="must not be transparent: what class do these pixels"):
        read_label(save("a.png", pixels))


def test_opaque_labels_among_shapes_are_taken_where_they_mean_the_same(save):
    shape = save("a.png", drawn([[0, 255]], RED))
    alike = [grey([0, 255]), grey([0, 0]), drawn([[255, 255]], (255, 255, 255))]
    paths = [save(f"{number}.png", pixels) for number, pixels in enumerate(alike)]
    assert decoded([shape, *paths])[0] == [[[0, 1]], [[0, 1]], [[0, 0]], [[1, 1]]]


@pytest.mark.parametrize(
    "ink, opaque",
    [
        (RED, drawn([[255, 255]], RED)),
        (RED, np.array([[(0, 0, 0), RED]], np.uint8)),
        (RED, grey([0, 1])),
        ((0, 0, 0), grey([0, 0])),
        ((0, 0, 0), grey([0, 255])),
    ],
)
def test_opaque_labels_among_shapes_are_refused_where_they_may_mean_another_thing(
    save, ink, opaque
):
    shape, empty = save("a.png", drawn([[0, 255]], ink)), save("b.png", drawn([[0, 0]], ink))
    path = save("c.png", opaque)
    in_black = "" if any(ink) else ", drawn in black,"
    message = message_of([empty, shape, path])
    assert message.startswith(
        f"{path} must be transparent around its shapes, as {shape}{in_black} is, or"
    )
    assert "Received: an opaque image. Save all labels alike" in message


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_jpeg_is_refused_whatever_its_name(save, ending):
    path = save(f"a.{ending}", np.zeros((8, 8), np.uint8), format="JPEG")
    with pytest.raises(ValueError, match="saved without loss. Received: a JPEG"):
        read_label(path)


@pytest.mark.parametrize("animated", [False, True])
def test_webp_is_refused_where_it_lost_something(save, animated, rng):
    numbers = rng.integers(0, 3, (8, 8), np.uint8)
    options = {"format": "WEBP"}
    if animated:  # the image then lies in a frame
        other = Image.fromarray(numbers[::-1].copy())
        options |= {"save_all": True, "append_images": [other], "exif": b"Exif\0\0"}
    with pytest.raises(ValueError, match="saved without loss. Received: a WEBP file"):
        require_lossless(save("a.webp", numbers, lossless=False, quality=90, **options))
    require_lossless(save("b.webp", numbers, lossless=True, **options))


def test_a_lossless_webp_is_read(save, rng):
    numbers = rng.integers(0, 3, (8, 8), np.uint8)
    np.testing.assert_array_equal(
        read_label(save("a.webp", numbers, lossless=True)).numbers, numbers
    )


def test_tiff_with_jpeg_in_it_is_refused(save, rng):
    numbers = rng.integers(0, 3, (16, 16), np.uint8)
    path = save("a.tif", numbers, compression="jpeg")
    for read in (read_label, read_instances):
        with pytest.raises(ValueError, match="without loss. Received: a TIFF file with JPEG in it"):
            read(path)
    packed = save("b.tif", numbers, compression="tiff_lzw")
    np.testing.assert_array_equal(read_label(packed).numbers, numbers)


def test_numbers_above_255_beside_colours_are_named(save):
    colours = save("a.png", np.array([[GREEN, RED]], np.uint8))
    numbers = save("b.png", np.array([[0, 300]], np.uint16))
    with pytest.raises(UserError) as error:
        decoded([colours, numbers])
    assert error.value.problems == [
        f"{numbers} must show colours as the other labels do. Received: numbers."
    ]


@pytest.mark.parametrize(
    "pixels, message",
    [
        (np.array([[0, 0.5]], np.float32), "must hold whole numbers"),
        (np.array([[0, -1]], np.int16), "at least 0. Received: -1"),
        (np.zeros((5, 6, 7), np.uint8), "must hold one image. Received: 5 pages"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(tmp_path, pixels, message):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ValueError, match=message):
        read_label(tmp_path / "a.tif")


def test_whole_numbers_may_be_stored_as_others(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 2, 1]], np.float32))
    assert decoded([tmp_path / "a.tif"])[0] == [[[0, 2, 1]]]


def test_colours_are_no_object_numbers(save):
    with pytest.raises(ValueError, match="must hold object numbers. Received: an image in colours"):
        read_instances(save("a.png", np.array([[GREEN, RED]], np.uint8)))
