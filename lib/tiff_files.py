"""Reads TIFF files as their tags say, or refuses them by name.

tifffile knows axes, samples, bits, palettes and the hyperstacks of ImageJ. What it decodes only
with the package imagecodecs (LZW, JPEG, CCITT) is decoded by Pillow, page by page, where Pillow
keeps every bit; DRIVE's photographs are such files.
"""

import contextlib
import functools
import logging
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import tifffile
from PIL import Image

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pillow refuses images above this number of pixels as decompression bombs.
MOST_PIXELS = 178_956_970
# All images of a file that are read at once, in bytes.
MOST_BYTES = 2**31
# The least that a prediction holds of a pixel: its colours twice, and its probability.
BYTES_OF_A_PREDICTION = 12
# Every image is checked against these limits, with a message that says what to do.
Image.MAX_IMAGE_PIXELS = None

_COLOURS = tifffile.PHOTOMETRIC
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_ORIENTATION = 274
# The numbers of none, CCITT's three, LZW, JPEG, Deflate, PackBits and ZSTD, which every Pillow
# decodes.
_PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 50000)
# (bits, samples) of a page: what Pillow makes of it without losing any.
_PILLOW_MODES = {
    (1, 1): ("1",),
    (2, 1): ("L", "P"),
    (4, 1): ("L", "P"),
    (8, 1): ("L", "P"),
    (8, 2): ("LA",),
    (8, 3): ("RGB",),
    (8, 4): ("RGBA", "RGBX"),
    (16, 1): ("I;16", "I;16B"),
}


class ImageError(ValueError):
    """An image file that is not read; the message says why, and what to do."""


class Picture(NamedTuple):
    """One image of a file: (C, H, W) of the file's own type, and what else the file tells."""

    pixels: np.ndarray
    alpha: np.ndarray | None = None  # (H, W)
    indices: np.ndarray | None = (
        None  # (H, W): the numbers of the colours, where there is a palette
    )
    axes: str = ""  # "ZCYX, 4 x 2 x 256 x 256": how the file counts
    is_array: bool = False  # 3 or 4 slices that tifffile wrote as the colours of one page
    stored: np.ndarray | None = None  # (H, W): the numbers as stored, where pixels are others

    @property
    def has_planes(self):
        """Tells whether the channels lie behind each other, as slices would."""
        axes = self.axes.partition(",")[0]
        return len(self.pixels) > 1 and ("C" in axes or axes.startswith("S"))


def is_tiff(path):
    """Tells from its first bytes whether a file is a TIFF file."""
    with Path(path).open("rb") as file:
        return file.read(4) in SIGNATURES


def orientation_of_tiff(path):
    """Gives the orientation, 1 to 8, of the first page of a TIFF file: see turned."""
    with _complaints_raised(), tifffile.TiffFile(path) as tiff:
        return tiff.pages[0].tags.valueof(_ORIENTATION, 1)


def compression_of_tiff(path):
    """Names how the first page of a TIFF file is compressed: NONE, LZW, JPEG."""
    with _complaints_raised(), tifffile.TiffFile(path) as tiff:
        return str(_name(tiff.pages[0].compression))


def check_size(path, height, width, most_pixels):
    """Raises an ImageError for more pixels than most_pixels; None: than the memory that is free."""
    if not most_pixels:
        check_memory(path, height * width * BYTES_OF_A_PREDICTION)
    elif height * width > most_pixels:
        raise ImageError(
            f"{path} has {width} x {height} = {width * height:,} pixels; expected at most "
            f"{most_pixels:,}. Cut it into parts or scale it down; run_prediction.py takes large "
            "images as they are."
        )


def check_memory(path, num_bytes):
    """Raises an ImageError for an image that needs more bytes than there is free memory."""
    free = free_memory()
    if num_bytes > free:
        raise ImageError(
            f"{path} needs at least {num_bytes / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are "
            "free. Cut it into parts, or use a machine with more memory."
        )


def check_total(path, num_images, num_bytes):
    """Raises an ImageError where the images of a file, which are read at once, are too many."""
    if num_bytes > MOST_BYTES:
        raise ImageError(
            f"{path} holds {num_images:,} images, together {num_bytes / 1e9:.1f} GB; expected at "
            f"most {MOST_BYTES / 1e9:.1f} GB. Cut the stack into parts."
        )


def free_memory():
    """Gives the bytes of memory that are free; without an end where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    free = (1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    return next(free, math.inf)


def read_tiff(path, most_pixels=MOST_PIXELS):
    """Reads all images of a TIFF file as a list of Picture; see iterate_tiff."""
    return [picture for decode in iterate_tiff(path, most_pixels) for picture in decode()]


def iterate_tiff(path, most_pixels=MOST_PIXELS):
    """Reads the images of a TIFF file one after the other; all are checked before the first.

    Thumbnails and the levels of a pyramid are no images. Pages are decoded one by one, so that a
    damaged one is alone; of series that metadata describe, those whose pages are images too.

    Args:
        path: a TIFF file.
        most_pixels: of one image; None for any number.
    Yields:
        functions without arguments, in the file's order: each decodes a page or a whole series, and
        gives its Pictures as a list. They are called while the file is open: before the next.
    Raises:
        ImageError: for what is not read, by name. A damaged file raises almost anything; so do the
            functions.
    """
    with contextlib.ExitStack() as opened:
        with _complaints_raised():
            tiff = opened.enter_context(tifffile.TiffFile(path))
            parts = _parts(path, tiff)
            for part in parts:
                _check_part(path, part, tiff.filehandle.size, most_pixels)
            if most_pixels:
                sizes = [part.size * part.keyframe.dtype.itemsize for part in parts]
                check_total(path, len(parts), sum(sizes))
        for part in parts:
            for page in _single_images(part):
                yield functools.partial(_pictures, path, page, _layout(part))


@contextlib.contextmanager
def _complaints_raised():
    """Raises what tifffile only logs: a stack that is cut off would be read as its first slice.

    At once, because a file may claim billions of tags, each of which is an error.
    """
    logger, warnings = logging.getLogger("tifffile"), []

    def listen(record):
        if record.levelno >= logging.ERROR:
            raise tifffile.TiffFileError(record.getMessage())
        warnings.append(record.getMessage())  # and is not logged

    logger.addFilter(listen)
    try:
        yield
    finally:
        logger.removeFilter(listen)
    for message in warnings:
        if "series" in message:
            raise tifffile.TiffFileError(message)


def _parts(path, tiff):
    """Gives the pages of a file, or its series where metadata tell more than the pages do."""
    pages = [page for page in tiff.pages if not (page.is_reduced or page.is_mask)]
    series = [one for one in tiff.series if not one.keyframe.is_reduced]
    if not pages:
        raise tifffile.TiffFileError("it holds no page")
    if all(one.kind in ("generic", "uniform") for one in series):
        return pages
    are_pages = all(one.shape == one.keyframe.shape for one in series)
    if len(series) > 1 and not are_pages:
        found = "; ".join(_layout(one) for one in series[:4])
        raise ImageError(
            f"{path} must hold one image or one stack. Received: {len(series)} ({found}). Save "
            "each as a file of its own."
        )
    return series


def _check_part(path, part, file_size, most_pixels):
    """Checks the size of a page or series, its colours, and that the file holds all of it."""
    page = part.keyframe
    check_size(path, page.imagelength, page.imagewidth, most_pixels)
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG
    known = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", *(("YCBCR",) if is_jpeg else ()))
    if _name(page.photometric) not in known:
        raise ImageError(
            f"{path} must be grey or RGB. Received: a TIFF file of the kind "
            f"{_name(page.photometric)}. Convert it to RGB, or to grey."
        )
    if page.photometric == _COLOURS.MINISWHITE and page.dtype.kind not in "bu":
        raise ImageError(
            f"{path} counts from white to black, in numbers that are not whole or below 0 "
            f"({page.dtype}). Save it with 0 for black."
        )
    for one in _pages_of(part):
        segments = () if one is None else zip(one.dataoffsets, one.databytecounts)
        ends = [offset + count if offset and count else np.inf for offset, count in segments]
        if not ends or max(ends) > file_size:
            raise tifffile.TiffFileError("it ends before its last pixel")


def _single_images(part):
    """Takes a series apart into its pages where each is an image; others stay whole."""
    pages, page = _pages_of(part), part.keyframe
    is_stack = part.axes[1:] == page.axes and part.axes[0] not in "SC"
    return pages if is_stack and part.shape == (len(pages), *page.shape) else [part]


@_complaints_raised()
def _pictures(path, part, layout):
    """Decodes a page or series -> list of Picture; layout: of the series that it belongs to."""
    page = part.keyframe
    planes, is_as_seen = _planes(path, part)
    indices = planes if page.photometric == _COLOURS.PALETTE else None
    stored = None
    if not is_as_seen and indices is None:
        planes = _of_8_bits_or_more(planes, page)
    if page.photometric == _COLOURS.MINISWHITE:
        inverted = planes.dtype.type(2 ** max(8, page.bitspersample) - 1) - planes
        is_stored = not is_as_seen or page.bitspersample > 8  # Pillow inverts up to 8 bits
        stored, planes = (planes, inverted) if is_stored else (inverted, planes)
    if page.bitspersample in (2, 4) and indices is None:
        stored = (planes if stored is None else stored) // (255 // (2**page.bitspersample - 1))
    orientation = 1 if is_as_seen else page.tags.valueof(_ORIENTATION, 1)
    planes = turned(_stacked(path, part, planes), orientation)
    if indices is not None:
        numbers = planes[:, 0]
        colours = [coloured(page.colormap >> 8, image) for image in numbers]
        return [Picture(c, None, n, layout) for c, n in zip(colours, numbers)]
    is_array = getattr(part, "kind", "") == "shaped" and part.axes == "SYX"
    pictures = [_without_alpha(image, page, layout, is_array) for image in planes]
    if stored is None:
        return pictures
    stored = turned(_stacked(path, part, stored), orientation)
    return [one._replace(stored=numbers[0]) for one, numbers in zip(pictures, stored)]


def _planes(path, part):
    """Decodes -> (array of part.shape, whether it is turned and scaled as it is to be seen)."""
    try:
        return part.asarray(), False
    except (ValueError, ImportError, NotImplementedError) as error:
        is_codec = any(sign in str(error) for sign in ("imagecodecs", "not supported"))
        if not is_codec and not isinstance(error, ImportError):
            raise
    images = [_page_by_others(path, page.aspage()) for page in _pages_of(part)]
    leading = part.shape[: len(part.shape) - images[0].ndim]
    return np.stack(images).reshape(*leading, *images[0].shape), True


def _page_by_others(path, page):
    """Decodes one page with Pillow; colours of 16 bits, which Pillow cuts to 8, with OpenCV.

    OpenCV reads the first page of a file.
    """
    is_plain = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.sampleformat == 1
    key = (page.bitspersample, page.samplesperpixel)
    if is_plain and key == (16, 3) and page.index == 0:
        return turned(colours_of_16_bits(path), page.tags.valueof(_ORIENTATION, 1), first=0)
    if is_plain and key in _PILLOW_MODES and page.compression in _PILLOW_COMPRESSIONS:
        with Image.open(path) as image:
            image.seek(page.index)
            if image.mode in _PILLOW_MODES[key]:
                image.load()
                pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
                return pixels.astype(pixels.dtype.newbyteorder("="))
    raise ImageError(
        f"{path} is compressed with {page.compression.name}, {page.samplesperpixel} x "
        f"{page.bitspersample} bits a pixel, which needs the package imagecodecs: pip install "
        "imagecodecs. Or save it without compression."
    )


def _of_8_bits_or_more(planes, page):
    """Makes of 1, 2 or 4 bits a pixel 8: 0 to 255."""
    if page.bitspersample >= 8:
        return planes
    return planes.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))


def _stacked(path, part, planes):
    """Orders the axes -> (num_images, C, H, W); more than one axis of images is refused."""
    lengths = dict(zip(part.axes, planes.shape))
    images = [axis for axis in part.axes if axis not in "SCYX" and lengths[axis] > 1]
    channels = [axis for axis in part.axes if axis in "SC" and lengths[axis] > 1]
    if len(images) > 1 or len(channels) > 1 or not {"Y", "X"} <= set(lengths):
        raise ImageError(
            f"{path} must hold one image or one stack. Received: {_layout(part)}. Save each stack "
            "as a file of its own (ImageJ: Image > Hyperstacks > Reduce Dimensionality)."
        )
    single = [axis for axis in part.axes if lengths[axis] == 1 and axis not in "YX"]
    order = [part.axes.index(axis) for axis in (*single, *images, *channels, "Y", "X")]
    num_channels = lengths[channels[0]] if channels else 1
    return planes.transpose(order).reshape(-1, num_channels, lengths["Y"], lengths["X"])


def _without_alpha(image, page, layout, is_array):
    """Takes the alpha channel out of (C, H, W); other extra channels stay."""
    first = page.samplesperpixel - len(page.extrasamples)
    alphas = [first + n for n, kind in enumerate(page.extrasamples) if kind in _ALPHA]
    if not alphas or len(image) != page.samplesperpixel:
        return Picture(image, axes=layout, is_array=is_array)
    return Picture(np.delete(image, alphas, axis=0), image[alphas[0]], None, layout, is_array)


def coloured(palette, indices):
    """Looks the colours of a palette up.

    Args:
        palette: (3, num_colours) from 0 to 255.
        indices: (H, W) numbers of colours.
    Returns:
        (3, H, W) uint8; (1, H, W) where all colours in use are greys.
    """
    used = np.unique(indices)
    is_grey = (palette[:, used] == palette[:1, used]).all()
    return palette.astype(np.uint8)[: 1 if is_grey else 3, indices]


def colours_of_16_bits(path):
    """Reads colours of 16 bits, of which Pillow keeps 8 -> (H, W, 3 or 4) uint16."""
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16:
        raise ImageError(f"{path} has colours of 16 bits that cannot be decoded. Save it as PNG.")
    return pixels[..., [2, 1, 0, *range(3, pixels.shape[2])]]  # OpenCV has blue first


def turned(pixels, orientation, first=-2):
    """Turns and flips as a camera's orientation 1 to 8 says (EXIF and TIFF tag 274).

    Args:
        pixels: array.
        orientation: 6 for an image whose first row is the right side.
        first: its axis of rows; that of columns follows.
    """
    rows, columns = first, first + 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(rows, columns)
    flipped = [a for a, ns in ((rows, (3, 4, 7, 8)), (columns, (2, 3, 6, 7))) if orientation in ns]
    return np.flip(pixels, flipped) if flipped else pixels


def _pages_of(part):
    return list(part.pages) if isinstance(part, tifffile.TiffPageSeries) else [part]


def _name(value):
    return getattr(value, "name", value)  # tifffile gives numbers that it does not know as they are


def _layout(part):
    return f"{part.axes}, {' x '.join(str(length) for length in part.shape)}"
