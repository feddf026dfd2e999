"""Reads photographs, masks and stacks from image files, and says plainly what is wrong with one.

TIFF files are read by lib/tiff_files.py, all others by Pillow; a single image may be packed (.gz).
"""

import contextlib
import gzip
import hashlib
import io
import re
import struct
import unicodedata
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from skimage import measure

from lib.pre_processing import image_limits
from lib.tiff_files import (
    MOST_PIXELS,
    ImageError,
    Picture,
    check_size,
    check_total,
    coloured,
    colours_of_16_bits,
    compression_of_tiff,
    is_tiff,
    iterate_tiff,
    orientation_of_tiff,
    read_tiff,
    turned,
)

IMAGE_ENDINGS = tuple(".tif .tiff .png .gif .jpg .jpeg .bmp .ppm .pgm .webp .jp2".split())
ROWS_AT_ONCE = 256
# An image in a GIF may have as many pixels, however small the whole claims to be.
MOST_FRAME_PIXELS = 2**24
# What Pillow converts to RGB where that is asked for: print, and others.
OTHER_COLOURS = ("CMYK", "YCbCr", "LAB", "HSV")
# More values than these are greys or object numbers rather than classes.
MOST_CLASSES = 20
FOR_CLASSES = "`task = segmentation` takes them: prepare_datasets_folder.py"
# Object numbers: nearly every number is one connected part, of more than a few pixels.
LEAST_WHOLE_OBJECTS, LEAST_OBJECT_PIXELS, LARGEST_LOOKED_AT = 0.9, 9, 2048
# What data sets add behind the id of a picture: 21_training.tif, 21_manual1.gif, ...
ID_ENDINGS = re.compile(
    r"(?:[ _-]+|(?<=\d))"
    r"(training|train|test|manual ?\d?|mask|fov|labels?|groundtruth|gt|1stHO|2ndHO)$",
    re.IGNORECASE,
)
# Categories of Unicode: control characters, formats, lone surrogates, separators of lines.
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def list_images(folder):
    """Lists the image files of a folder by id, and prints which files are passed over.

    Args:
        folder: a folder.
    Returns:
        {id: path}, sorted by id, numbers by value ("2" before "10").
    Raises:
        ValueError: if the folder is missing or empty, or two files have the same id.
    """
    by_id, problems = {}, []
    for path in sorted(_image_files(Path(folder)), key=lambda path: natural_key(path.name)):
        first = by_id.setdefault(image_id(path), path)
        if first != path:
            problems.append(
                f"{path} and {first.name} both have the id {image_id(path)}. "
                "Remove or rename one of them."
            )
    if problems:
        raise ValueError(" ".join(problems))
    return dict(sorted(by_id.items(), key=lambda item: natural_key(item[0])))


def _image_files(folder):
    """Lists what is named like an image and is a file; says what else is passed over."""
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist.")
    with _readable(folder):
        visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path for path in visible if path.suffix.lower() in IMAGE_ENDINGS]
    others = sorted(path.name for path in visible if path not in files)
    problems = [problem for problem in map(_no_file, sorted(files)) if problem]
    if problems:
        raise ValueError(" ".join(problems))
    if files and others:
        print(f"{folder}: passed over {shortened(others)} (no image file by its name).")
    if not files:
        raise ValueError(f"The folder {folder} holds no image ({', '.join(IMAGE_ENDINGS)}).")
    return files


def image_id(path):
    """Gives what the files of one picture have in common: 21 for 21_training_mask.gif.

    Bytes of a name that are not UTF-8 are taken for Latin-1, both ways to write an accent (NFC and
    NFD) are one, and what could lead out of a folder or move a cursor becomes _.
    """
    stem = image_stem(path)
    name, before = stem, None
    while before != stem:
        before, stem = stem, ID_ENDINGS.sub("", stem)
    return stem or name


def image_stem(path):
    """Gives the name of a file without its ending, in printable letters; see image_id."""
    stem = re.sub("[\udc80-\udcff]", lambda byte: chr(ord(byte[0]) - 0xDC00), Path(path).stem)
    stem = unicodedata.normalize("NFC", stem)
    return "".join("_" if c in "/\\" or unicodedata.category(c) in UNPRINTABLE else c for c in stem)


def read_pages(path, most_pixels=MOST_PIXELS):
    """Reads all images of a file, as read_picture does -> list of (C, height, width)."""
    return [picture.pixels for picture in _pictures(path, most_pixels)]


def read_channels(path, most_pixels=MOST_PIXELS):
    """Reads an image of any number of channels, of 8 or 16 bits.

    Pages of an axis without a name are channels: NumPy arrays of (C, H, W) that tifffile wrote
    without a word about their axes are such files. Alpha channels are left out.

    Args:
        path: an image file.
        most_pixels: as in read_picture.
    Returns:
        (C, height, width) uint8 or uint16; and whether they may be slices as well as channels, by
        what the file says.
    Raises:
        ValueError: as read_picture, and for other numbers; for pages, how channels are written.
    """
    pixels, may_be_slices = _channels(path, most_pixels)
    pixels = _in_16_bits(pixels)
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels, may_be_slices
    raise ImageError(
        f"{path} must have 8 or 16 bits a channel. Received: {pixels.dtype}, from "
        f"{pixels.min():g} to {pixels.max():g}. Scale it and save it with 16 bits."
    )


def _in_16_bits(pixels):
    """Gives whole numbers of other types as uint16 where they fit, and bool as 0 and 255."""
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    is_other = pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16)
    if is_other and pixels.min() >= 0 and pixels.max() < 2**16:
        return pixels.astype(np.uint16)
    return pixels


def _channels(path, most_pixels):
    """Reads (C, height, width) as stored, and whether its channels may be slices."""
    pictures = _pictures(path, most_pixels)
    first = pictures[0]
    if len(pictures) > 1 and first.axes.startswith("Q"):
        return np.concatenate([picture.pixels for picture in pictures]), True
    if len(pictures) > 1:
        raise ImageError(
            f"{path} must hold one image. Received: {len(pictures)} pages"
            f"{_in_brackets(first.axes)}. Save each as a file of its own; or, if they are "
            "channels, say so (tifffile: metadata={'axes': 'CYX'})."
        )
    if first.is_array and first.alpha is not None:
        return np.concatenate([first.pixels, first.alpha[np.newaxis]]), True
    return first.pixels, first.is_array


def iterate_images(path, channels, keeps_16_bits=False):
    """Reads the images of a file one after the other, whatever they are, for a prediction.

    Grey, palettes, alpha channels, CMYK, 16 bits and numbers that are not whole all become grey or
    RGB of 8 bits; any number of pixels is read.

    Args:
        path: an image file; each page of it is an image. Slices that a library wrote as the colours
            of one page are images too where they are to be grey.
        channels: 1 for grey images, 3 for RGB; of other numbers a file holds one image, with
            exactly these channels, as read_channels reads it.
        keeps_16_bits: whether images of 16 bits stay as they are.
    Yields:
        (channels, height, width) uint8, or uint16 where 16 bits stay; and notes, a list of
        sentences on what was changed. In the place of an image that cannot be read, or whose
        channels cannot become the wanted ones, the ImageError that says so: the next ones may be.
    Raises:
        ImageError: if the file cannot be read, or not from here on.
    """
    problem = _no_file(path)
    if problem:
        raise ImageError(problem)
    with _readable(path):
        if channels not in (1, 3):
            pixels, _ = read_channels(path, None)
            _require_channels(path, pixels, f"have {channels} channels", channels)
            yield pixels, []
            return
        pages = iterate_tiff(path, None) if is_tiff(path) and not _has_ink(path) else None
        for decode in pages or _pillow_pages(path):
            pictures = _or_error(path, decode)
            if isinstance(pictures, ImageError):
                if not is_tiff(path):
                    raise pictures  # what follows in an animation is drawn upon this image
                yield pictures
                continue
            for picture in pictures:
                is_array = channels == 1 and picture.is_array
                for image in _slices_of(picture) if is_array else [picture]:
                    notes = ["A slice of several written as one page in colours."] * is_array
                    wanted = (path, image.pixels, channels, keeps_16_bits, notes)
                    yield _or_error(path, _as_wanted, *wanted)


def _or_error(path, read, *arguments):
    """Gives what a function reads of a file, or the ImageError that it raises."""
    try:
        with _readable(path):
            return read(*arguments)
    except ImageError as error:
        return error


def _has_ink(path):
    """Tells whether a TIFF file holds colours of print, or others that Pillow can convert."""
    try:
        with Image.open(path) as image:
            return image.mode in OTHER_COLOURS
    except (OSError, ValueError, SyntaxError):
        return False


def _pillow_pages(path):
    """Reads the pages of a file, colours of print as RGB; yields what iterate_tiff does."""
    with open_image(path) as image:
        check_size(path, image.height, image.width, None)
        for page in range(_num_pages(image)):
            yield lambda page=page: [_page_of(path, image, page, convert=True)]


def _require_channels(path, pixels, words, *numbers):
    if len(pixels) not in numbers:
        raise ImageError(
            f"{path} must {words}. Received: an image of {len(pixels)} channels. Save the "
            "wanted ones as a file of their own."
        )


def _as_wanted(path, pixels, channels, keeps_16_bits, notes):
    """Makes (any, H, W) of any type (channels, H, W) of 8 or 16 bits; notes what was changed."""
    _require_channels(path, pixels, "be grey or RGB", 1, 3)
    if keeps_16_bits or pixels.dtype == bool:
        pixels = _in_16_bits(pixels)
    if pixels.dtype != np.uint8 and not (keeps_16_bits and pixels.dtype == np.uint16):
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ImageError(f"{path} holds numbers that are not finite (NaN, infinity).")
        low, high = image_limits(pixels)
        kind = f"{8 * pixels.dtype.itemsize} bits"
        notes.append(f"{kind} a channel, scaled from {low:g} ... {high:g} to 8 bits.")
        scale = 255 / (high - low) if high > low else 0.0
        planes = (np.clip((plane - np.float32(low)) * scale, 0, 255) for plane in pixels)
        pixels = np.stack([np.rint(plane).astype(np.uint8) for plane in planes])
    if len(pixels) == channels:
        return pixels, notes
    if channels == 3:
        notes.append("Grey, where the network was trained on colours.")
        return np.repeat(pixels, 3, axis=0), notes
    if (pixels != pixels[:1]).any():
        notes.append("Colours, made grey (0.299 red + 0.587 green + 0.114 blue).")
    return cv2.cvtColor(pixels.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY)[np.newaxis], notes


def require_lossless(path):
    """Refuses label images that lost something when they were saved, in JPEG above all.

    At borders there are then numbers between those on both sides.

    Raises:
        ImageError: for JPEG and JPEG 2000, WebP with loss, and TIFF that is compressed by them.
    """
    if is_tiff(path):
        name = compression_of_tiff(path)
        kind = f"TIFF file with {name} in it" if re.search("JPEG|JP2000|WEBP", name) else None
    else:
        with open_image(path) as image:
            kind = image.format
        is_lossy = kind in ("JPEG", "MPO", "JPEG2000")
        if kind == "WEBP":
            file = _unpacked(path)
            is_lossy = _is_lossy_webp(Path(path).read_bytes() if file is path else file.getvalue())
        kind = f"{kind} file" if is_lossy else None
    if kind:
        raise ImageError(
            f"{path} must be a label image saved without loss. Received: a {kind}, which blurs the "
            "numbers at every border. Take the original labels, or draw them anew, and save them "
            "as PNG."
        )


def _is_lossy_webp(content):
    """Tells whether a WebP file holds an image with loss, a chunk VP8, in place of VP8L."""
    place = 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], content[place + 4 : place + 8]
        if name == b"VP8 ":
            return True
        # The chunks of an animation's frame lie in that of the frame, behind 16 bytes.
        length = 16 if name == b"ANMF" else int.from_bytes(size, "little")
        place += 8 + length + length % 2
    return False


def read_photograph(path):
    """Reads an RGB photograph.

    Args:
        path: an image file of 8 bits a channel; an alpha channel is left out.
    Returns:
        (3, height, width) uint8.
    Raises:
        ValueError: if it cannot be read whole or is not RGB.
    """
    picture = read_picture(path)
    pixels = picture.pixels
    if len(pixels) == 3 and pixels.dtype == np.uint16:
        raise ImageError(
            f"{path} must have 8 bits a channel. Received: colours of 16 bits. Scale and save it "
            "with 8."
        )
    if len(pixels) != 3 or pixels.dtype != np.uint8 or picture.indices is not None:
        raise ImageError(
            f"{path} must be an RGB photograph of 8 bits a channel. Received: {kind_of(picture)}. "
            "Convert it to RGB; or are the folders of images and masks swapped?"
        )
    return pixels


def read_binary_mask(path):
    """Reads a mask of any two values, the lower for background.

    It may be grey, in two colours (the darker is background), or in the alpha channel of an image
    of one colour.

    Args:
        path: an image file.
    Returns:
        (height, width) uint8 in {0, 255}.
    Raises:
        ValueError: if it cannot be read whole or has more values; they are listed.
    """
    return two_values(path, _as_grey(path, read_picture(path)))


def read_stack(path, is_label=False):
    """Reads a TIFF file of any number of grey slices of 8 bits and one size.

    Three or four slices that a library wrote as the colours of one page are read as slices, which
    is said.

    Args:
        path: a TIFF file, for example train-volume.tif of ISBI 2012.
        is_label: whether it holds labels, which may have any type and two colours.
    Returns:
        (num_slices, height, width) uint8; labels of their own type.
    Raises:
        ValueError: if it cannot be read whole, a slice is not grey of 8 bits, or sizes differ.
    """
    pictures = _pictures(path)
    if len(pictures) == 1 and pictures[0].is_array:
        pictures = _slices_of(pictures[0])
        print(f"{path}: {len(pictures)} slices that were written as one page in colours; read so.")
    slices = _grey_slices(
        [f"{path}, page {n + 1}" for n in range(len(pictures))], pictures, is_label
    )
    sizes = {image.shape for image in slices}
    if len(sizes) > 1:
        received = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ImageError(f"{path} must hold pages of one size. Received: {received} pixels.")
    return np.stack(slices)


def _slices_of(picture):
    """Takes apart the slices that a library wrote as the colours of one page."""
    alpha = [] if picture.alpha is None else [picture.alpha]
    return [Picture(plane[np.newaxis]) for plane in (*picture.pixels, *alpha)]


def read_grey_images(folder, is_label=False):
    """Reads the grey images of a folder as one stack, in the order of their numbers.

    Args:
        folder: holds images of 8 bits and one size.
        is_label: whether they are labels, which may have any type and two colours.
    Returns:
        (list of ids, (num_images, height, width) uint8; labels of their own type).
    Raises:
        ValueError: if one cannot be read whole, is not grey of 8 bits, or sizes differ.
    """
    files = list_images(folder)
    pictures = [read_picture(path) for path in files.values()]
    images = _grey_slices(files.values(), pictures, is_label)
    for path, image in zip(files.values(), images):
        if image.shape != images[0].shape:
            (height, width), (expected_height, expected_width) = image.shape, images[0].shape
            raise ImageError(
                f"{path} must have the size of the first image in {folder}, {expected_width} x "
                f"{expected_height} pixels. Received: {width} x {height}."
            )
    return list(files), np.stack(images)


def two_values(place, grey):
    """Makes a mask or a stack of labels of two values, the lower for background.

    Args:
        place: where it came from, for the message.
        grey: (..., height, width) of numbers; of one value, it is 0, or 1, 255 or the highest.
    Returns:
        array of the same shape, uint8 in {0, 255}.
    Raises:
        ValueError: if it has more values; they are listed, with what they look like.
    """
    values = np.unique(grey)
    if len(values) == 2 and np.isfinite(values).all():
        return (grey == values[1]).astype(np.uint8) * np.uint8(255)
    if len(values) == 1 and values[0] in (0, 1, 255, _highest(grey.dtype)):
        return (grey > 0).astype(np.uint8) * np.uint8(255)
    raise ImageError(
        f"{place} must have two values only, the lower for background (0 and 255, 0 and 1, ...). "
        f"Received: {_list_values(values)}. {_advice(grey, values)}"
    )


def _highest(dtype):
    return np.iinfo(dtype).max if dtype.kind in "ui" else 1


def _advice(grey, values):
    """Says what more than two values look like, and what to do."""
    slices = grey.reshape(-1, *grey.shape[-2:])
    if len(values) > 2 and _are_objects(max(slices, key=lambda image: len(np.unique(image)))):
        return (
            "They look like the numbers of objects: `task = cells` (configuration_CTC.txt) takes "
            "those. For this task, draw the borders black (0) and the objects white (255)."
        )
    classes = f"; if they are classes, {FOR_CLASSES}"
    is_few = 2 < len(values) <= MOST_CLASSES
    return f"Threshold it and save it without loss (PNG, GIF or TIFF){classes if is_few else ''}."


def _are_objects(image):
    """Tells whether numbers (H, W) count objects: each is one connected part, 0 aside.

    Of a large image, its middle tells.
    """
    top, left = (max(0, side - LARGEST_LOOKED_AT) // 2 for side in image.shape)
    image = image[top : top + LARGEST_LOOKED_AT, left : left + LARGEST_LOOKED_AT]
    numbers, inverse, sizes = np.unique(image, return_inverse=True, return_counts=True)
    if image.dtype.kind not in "ui" or not 4 <= len(numbers) <= image.size // 99:
        return False
    inverse = inverse.reshape(image.shape)
    parts = measure.label(inverse, background=-1, connectivity=2)
    number_of = np.zeros(parts.max() + 1, inverse.dtype)
    number_of[parts] = inverse
    is_whole = (np.bincount(number_of[1:]) == 1) & (sizes >= LEAST_OBJECT_PIXELS)
    return np.mean(is_whole[numbers != 0]) >= LEAST_WHOLE_OBJECTS


def read_picture(path, most_pixels=MOST_PIXELS):
    """Reads the one image of a file, with all that the file tells of it.

    Args:
        path: an image file.
        most_pixels: refuses larger images; None reads any.
    Returns:
        lib.tiff_files.Picture.
    Raises:
        ValueError: if it cannot be read whole or holds several images.
    """
    pictures = _pictures(path, most_pixels)
    if len(pictures) > 1:
        raise ImageError(
            f"{path} must hold one image. Received: {len(pictures)} pages"
            f"{_in_brackets(pictures[0].axes)}. Save each as a file of its own."
        )
    return pictures[0]


def _pictures(path, most_pixels=MOST_PIXELS):
    """Reads all images of a file -> list of Picture."""
    problem = _no_file(path)
    if problem:
        raise ImageError(problem)
    with _readable(path):
        if is_tiff(path):
            return read_tiff(path, most_pixels)
        with open_image(path) as image:
            check_size(path, image.height, image.width, most_pixels)
            num_pages = _num_pages(image)
            check_total(path, num_pages, 4 * image.height * image.width * num_pages)
            return [_page_of(path, image, page) for page in range(_num_pages(image))]


def _unpacked(path):
    """Gives what Pillow opens: the path, or what is in a .gz file, as STARE is given out."""
    if Path(path).suffix.lower() != ".gz":
        return path
    with gzip.open(path) as file:
        return io.BytesIO(file.read())


def _num_pages(image):
    """Counts the images of a file; the further pictures of a camera's MPO file are previews."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def pixel_digest(image):
    """Gives 64 bytes that tell whether two arrays of one type hold the same pixels."""
    return hashlib.blake2b(np.ascontiguousarray(image)).digest()


def copies_words(subsets):
    """Words which images are in two subsets, pixel by pixel: their scores would say nothing.

    Args:
        subsets: {subset: pairs (name, what pixel_digest gives)}.
    Returns:
        list of notes, one for each subset that repeats images of those before it.
    """
    seen, notes = {}, []
    for subset, images in subsets.items():
        copies = [
            f"{name} = {seen[digest][1]}"
            for name, digest in images
            if seen.setdefault(digest, (subset, name))[0] != subset
        ]
        if copies:
            notes.append(
                f"NOTE: {len(copies)} images of {subset} are also in another subset, pixel by "
                f"pixel: {shortened(copies, 4)}. Take them out, or the scores are too good."
            )
    return notes


def tell_copies(subsets):
    """Prints copies_words of {subset: (names, images)}."""
    digests = {
        subset: list(zip(names, map(pixel_digest, images)))
        for subset, (names, images) in subsets.items()
    }
    for note in copies_words(digests):
        print(note)


def turned_words(paths):
    """Words which images are read turned, as their cameras noted -> list of one note or none."""
    names = [Path(path).name for path in paths if _orientation(path) in range(2, 9)]
    if not names:
        return []
    return [
        f"NOTE: turned or mirrored, as the camera noted (EXIF): {shortened(names)}. Labels and "
        "masks must be as viewers show these images."
    ]


def _orientation(path):
    if is_tiff(path):
        return orientation_of_tiff(path)
    with open_image(path) as image:
        return image.getexif().get(0x0112, 1)


def _page_of(path, image, page, convert=False):
    """Decodes one page of an open image -> Picture; convert: colours of print become RGB."""
    _seek(path, image, page)
    if image.format == "BMP" and _is_misread_bmp(image):
        raise ImageError(
            f"{path} must be a BMP file that can be read: Pillow takes its pixels for others, as "
            "its palette holds black and white, or greys, alone. Save it as PNG."
        )
    has_16_bits, highest = _has_colours_of_16_bits(path, image), _highest_stored(image)
    orientation = image.getexif().get(0x0112, 1)
    image.load()  # finds out whether it is whole
    if has_16_bits:
        channels = turned(colours_of_16_bits(path).transpose(2, 0, 1), orientation)
        return Picture(channels[:3], channels[3] if len(channels) > 3 else None)
    if orientation != 1:  # else Pillow copies it
        image = ImageOps.exif_transpose(image)  # turned as every viewer shows it
    if convert and image.mode in OTHER_COLOURS:
        image = image.convert("RGB")
    picture = _from_pillow(path, image)
    if highest is None or len(picture.pixels) > 1:
        return picture
    (grey,) = picture.pixels
    shown = 2**16 - 1 if image.mode == "I" else 255
    return picture._replace(stored=np.rint(grey * (highest / shown)).astype(np.uint16))


def _has_colours_of_16_bits(path, image):
    """Tells whether colours have more than 8 bits: Pillow keeps 8, of 12 bits 16 levels."""
    if image.mode[0] == "I":
        return False
    if image.format == "JPEG2000":
        with Path(path).open("rb") as file:
            _, is_there, size = file.read(2**16).partition(b"\xff\x4f\xff\x51")  # SOC, SIZ
        return bool(is_there) and image.mode[:3] == "RGB" and size[38] & 0x7F > 7
    of_tile = image.tile[0][3] if image.tile else None
    if image.format == "PPM":
        return image.mode == "RGB" and isinstance(of_tile, tuple) and of_tile[1] > 255
    return ";16" in str(of_tile)


def _highest_stored(image):
    """Gives the highest number of a grey PNG or PGM file of which Pillow makes 255 or 65535.

    None where it leaves the numbers as they are.
    """
    for tile in image.tile:
        match tile[3]:
            case "L;2" | ("L;2", *_):
                return 3
            case "L;4" | ("L;4", *_):
                return 15
            case ("L", int(highest)) if image.format == "PPM" and highest not in (255, 65_535):
                return highest
    return None


def _is_misread_bmp(image):
    """Tells whether Pillow forgot with a BMP file's palette of greys how many bits a pixel has."""
    ((codec, _, _, arguments),) = image.tile
    if codec != "raw":
        return image.mode == "1"
    bits = {"1": 1, "L": 8}.get(image.mode)
    return bits is not None and arguments[1] != (image.width * bits + 31) // 32 * 4


def open_image(path):
    """Opens a file with Pillow, which makes room at once for what a GIF says of its first image.

    Args:
        path: the file; it may be packed (.gz).
    Returns:
        PIL.Image.Image, not loaded.
    Raises:
        ImageError: for a GIF in which an image is far larger than the whole.
    """
    file = _unpacked(path)
    if file is path:
        with open(path, "rb") as opened:
            start = opened.read(10)
    else:
        start = file.getvalue()[:10]
    if not start.startswith(b"GIF"):
        return Image.open(file)
    width, height = struct.unpack("<HH", start[6:].ljust(4, b"\0"))
    with _no_large_frames(path, width * height):
        return Image.open(file)


def _seek(path, image, page):
    """Goes to a page of an open image."""
    is_gif = image.format == "GIF"
    with _no_large_frames(path, image.width * image.height) if is_gif else contextlib.nullcontext():
        image.seek(page)


@contextlib.contextmanager
def _no_large_frames(path, num_pixels):
    """Has Pillow refuse images in a GIF that claim to be far larger than the whole, num_pixels."""
    Image.MAX_IMAGE_PIXELS = max(num_pixels, MOST_FRAME_PIXELS)  # twice as many are refused
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{path}: an image in it claims to be far larger than the whole ({error}). The file is "
            "damaged. Download it again."
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = None


def _array_of(image):
    """Gives np.asarray(image), to be written to; row by row, as Pillow holds its bytes twice."""
    pixels = None
    for top in range(0, image.height, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, image.height)
        rows = np.asarray(image.crop((0, top, image.width, bottom)))
        if pixels is None:
            pixels = np.empty((image.height, *rows.shape[1:]), rows.dtype.newbyteorder("="))
        pixels[top:bottom] = rows
    return pixels


def _from_pillow(path, image):
    """Makes a Picture of Pillow's modes."""
    indices = _array_of(image) if image.mode == "P" else None
    alpha = None
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or (
        image.mode in ("L", "P", "RGB") and image.has_transparency_data
    ):
        image = image.convert("LA" if image.mode in ("L", "LA", "La") else "RGBA")
        alpha = _array_of(image)[..., -1]
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3).T
        return Picture(coloured(palette, indices), None, indices)
    if image.mode not in ("1", "L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L"):
        raise ImageError(
            f"{path} must be grey or RGB. Received: an image of the mode {image.mode} (CMYK: the "
            "colours of print). Convert it to RGB."
        )
    pixels = _array_of(image.convert("L") if image.mode == "1" else image)
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    return Picture(pixels if alpha is None else pixels[:-1], alpha, indices)


def _grey_slices(places, pictures, is_label):
    """Takes the one channel of each picture; of 8 bits a pixel, unless they are labels."""
    if is_label:
        return [_as_grey(place, picture) for place, picture in zip(places, pictures)]
    for place, picture in zip(places, pictures):
        if len(picture.pixels) != 1 or picture.pixels.dtype != np.uint8:
            raise ImageError(
                f"{place} must be a grey image of 8 bits a pixel. Received: {kind_of(picture)}. "
                f"{_how_to_grey(picture)}"
            )
    return [picture.pixels[0] for picture in pictures]


def _how_to_grey(picture):
    if not picture.has_planes:
        return "Convert it to 8-bit grey."
    return (
        "If these are slices, save them as such (ImageJ: Image > Properties; tifffile: photometric="
        "'minisblack', metadata={'axes': 'ZYX'}). If they are channels, save the wanted one as a "
        "file of its own (ImageJ: Image > Color > Split Channels)."
    )


def is_transparent(picture):
    """Tells whether a Picture is transparent, in places or throughout: nothing is drawn there."""
    alpha = picture.alpha
    return alpha is not None and bool(np.ptp(alpha) or not alpha.any())


def drawn_shape(picture):
    """Gives the alpha channel (H, W) of shapes drawn in one colour on transparency; else None.

    It is 0 throughout where nothing was drawn.
    """
    colours = picture.pixels
    is_shape = is_transparent(picture) and (colours == colours[:, :1, :1]).all()
    return picture.alpha if is_shape else None


def _as_grey(path, picture):
    """Gives the numbers of a mask (H, W): its grey, its shape in the alpha channel, or 0 and 1."""
    colours, shape = picture.pixels, drawn_shape(picture)
    if shape is not None:
        return shape
    if (colours == colours[:1]).all():
        return colours[0]
    if len(colours) == 3 and colours.dtype == np.uint8:
        numbers = packed(colours)
        in_use = np.unique(numbers)
        if len(in_use) == 2:
            return (numbers == max(in_use, key=luma)).astype(np.uint8)
        if len(in_use) <= MOST_CLASSES:
            raise ImageError(
                f"{path} must be a mask in black and white. Received: {len(in_use)} colours. If "
                f"they are classes, {FOR_CLASSES}."
            )
    raise ImageError(
        f"{path} must be a mask in black and white. Received: {kind_of(picture)}. "
        "Are the folders of images and masks swapped?"
    )


def packed(colours):
    """Packs colours (3, ...) from 0 to 255 into numbers 0xRRGGBB, int32."""
    red, green, blue = np.asarray(colours)
    numbers = red.astype(np.int32)
    for channel in (green, blue):  # in place: images may fill the memory
        numbers <<= 8
        numbers |= channel.astype(np.int32, copy=False)
    return numbers


def unpacked(colour):
    """Gives red, green and blue of 0xRRGGBB."""
    return colour >> 16, colour >> 8 & 255, colour & 255


def luma(colour):
    """Weighs 0xRRGGBB by ITU-R BT.601, thousandfold; colours of the same weight by their number."""
    red, green, blue = unpacked(int(colour))
    return 299 * red + 587 * green + 114 * blue, colour


def kind_of(picture):
    """Says in words what kind of image a lib.tiff_files.Picture is."""
    dtype, channels = picture.pixels.dtype, len(picture.pixels)
    numbers = {"f": "floating-point numbers", "i": "signed numbers"}.get(dtype.kind)
    numbers = f"of {numbers}" if numbers else f"of {8 * dtype.itemsize} bits a pixel"
    if picture.indices is not None:
        return "an image with a palette"
    if channels == 1:
        return f"a grey image {numbers}"
    if channels == 3 and dtype == np.uint8 and not picture.has_planes:
        return "an image in colours"
    return f"an image of {channels} channels {numbers}{_in_brackets(picture.axes)}"


def _in_brackets(text):
    return f" ({text})" if text else ""


def _no_file(path):
    """Says why a path is no file that can be opened; None if it is one."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to {path.readlink()}, which does not exist. Copy the file itself."
    if path.is_dir():
        return f"{path} is a folder, but is named like an image. Rename it or move it elsewhere."
    if not path.exists():
        return f"{path} does not exist."
    return None


@contextlib.contextmanager
def _readable(path):
    """Words what is raised when a file is no image, not whole, or not to be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what it then raises, or of metadata
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(_no_image(path)) from None
    except MemoryError as error:
        raise ImageError(
            f"{path} does not fit into the memory that is free ({error or 'no details'}). End "
            "other programs, or use a machine with more memory; the file itself may be right."
        ) from None
    except Exception as error:  # a damaged file makes Pillow and tifffile raise almost anything
        if isinstance(error, OSError) and error.errno:
            raise ImageError(_not_to_be_opened(path, error)) from None
        raise ImageError(
            f"{path} cannot be read whole; it may be cut off or half downloaded: {error}. "
            "Download it again."
        ) from None


def _not_to_be_opened(path, error):
    advice = "Ask its owner for the right to read it (chmod a+r)." * isinstance(
        error, PermissionError
    )
    return f"{path} cannot be opened: {error.strerror}. {advice}".rstrip()


def _no_image(path):
    """Says what a file is that no reader knows."""
    content = Path(path).read_bytes()
    if not content:
        return f"{path} is empty (0 bytes). Copy or download it again."
    start = content[:60].decode("ascii", "replace").strip()
    is_text = start.replace("\n", " ").isprintable() and "\ufffd" not in start
    held = f": a text that starts with {start!r}" if is_text else ""
    return (
        f"{path} is not an image that can be read ({len(content)} bytes{held}), whatever its name "
        "says. Download or convert it again."
    )


def _list_values(values):
    word = "value" if len(values) == 1 else "values"
    return f"{len(values)} {word}: {shortened(values)}"


def shortened(items, most=8):
    """Lists the first items, and says by ... that there are more."""
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown}{', ...' if len(items) > most else ''}"


def natural_key(name):
    """Sorts texts with their numbers by value; the text itself decides between 1 and 01."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name
