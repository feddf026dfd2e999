"""Reads photographs and masks from image files, and says plainly what is wrong with one."""

import contextlib
import re
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_ENDINGS = tuple(".tif .tiff .png .gif .jpg .jpeg .bmp .ppm .pgm .webp .jp2".split())
# What Pillow's modes other than the wanted one are, in words.
KINDS = {
    "L": "a grey image",
    "1": "an image of two values",
    "P": "an image with a palette",
    "RGB": "an image in colours",
    "RGBA": "an image in colours",
    "CMYK": "an image in the colours of print",
    "I;16": "a grey image of 16 bits a pixel",
}
# What data sets add behind the id of a picture: 21_training.tif, 21_manual1.gif, ...
ID_ENDINGS = re.compile(
    r"(?:[ _-]+|(?<=\d))"
    r"(training|train|test|manual ?\d?|mask|fov|labels?|groundtruth|gt|1stHO|2ndHO)$",
    re.IGNORECASE,
)


def list_images(folder):
    """Lists the image files of a folder by id, and prints which files are passed over.

    Args:
        folder: a folder.
    Returns:
        {id: path}, sorted by id, numbers by value ("2" before "10").
    Raises:
        ValueError: if the folder is missing or empty, or two files have the same id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} does not exist.")
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    files = [path for path in visible if path.suffix.lower() in IMAGE_ENDINGS]
    others = sorted(path.name for path in visible if path not in files)
    if files and others:
        print(f"{folder}: passed over {_shortened(others)} (no image file by its name).")
    if not files:
        raise ValueError(f"The folder {folder} holds no image ({', '.join(IMAGE_ENDINGS)}).")
    by_id = {}
    for path in sorted(files, key=lambda path: _natural_key(path.name)):
        if image_id(path) in by_id:
            raise ValueError(
                f"{path} and {by_id[image_id(path)].name} both have the id {image_id(path)}. "
                "Remove or rename one of them."
            )
        by_id[image_id(path)] = path
    return dict(sorted(by_id.items(), key=lambda item: _natural_key(item[0])))


def image_id(path):
    """Gives what the files of one picture have in common: 21 for 21_training_mask.gif."""
    stem, before = Path(path).stem, None
    while before != stem:
        before, stem = stem, ID_ENDINGS.sub("", stem)
    return stem or Path(path).stem


def read_photograph(path):
    """Reads an RGB photograph.

    Args:
        path: an image file of 8 bits a channel; an alpha channel is left out.
    Returns:
        (3, height, width) uint8.
    Raises:
        ValueError: if it cannot be read whole or is not RGB.
    """
    image = _open_whole(path)
    if image.mode not in ("RGB", "RGBA", "RGBX"):
        kind = KINDS.get(image.mode, "an image")
        raise ValueError(
            f"{path} must be an RGB photograph of 8 bits a channel. Received: {kind} (mode "
            f"{image.mode}). Convert it to RGB; or are the folders of images and masks swapped?"
        )
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def read_binary_mask(path):
    """Reads a mask of two values: 0/255 or 0/1, as grey, 1-bit, palette or grey-looking RGB image.

    Args:
        path: an image file.
    Returns:
        (height, width) uint8 in {0, 255}.
    Raises:
        ValueError: if it cannot be read whole or has other values; they are listed.
    """
    return two_values(path, _as_grey(path, _open_whole(path)))


def read_stack(path):
    """Reads a TIFF file of any number of grey pages of 8 bits and one size.

    Args:
        path: a TIFF file, for example train-volume.tif of ISBI 2012.
    Returns:
        (num_pages, height, width) uint8.
    Raises:
        ValueError: if it cannot be read whole, a page is not grey of 8 bits, or sizes differ.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist.")
    pages = [_grey_page(f"{path}, page {n}", page) for n, page in enumerate(_pages(path), start=1)]
    sizes = {page.shape for page in pages}
    if len(sizes) > 1:
        received = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise ValueError(f"{path} must hold pages of one size. Received: {received} pixels.")
    return np.stack(pages)


def read_grey_images(folder):
    """Reads the grey images of a folder as one stack, in the order of their numbers.

    Args:
        folder: holds images of 8 bits and one size.
    Returns:
        (list of ids, (num_images, height, width) uint8).
    Raises:
        ValueError: if one cannot be read whole, is not grey of 8 bits, or sizes differ.
    """
    files = list_images(folder)
    images = [_grey_page(path, _open_whole(path)) for path in files.values()]
    for path, image in zip(files.values(), images):
        if image.shape != images[0].shape:
            (height, width), (expected_height, expected_width) = image.shape, images[0].shape
            raise ValueError(
                f"{path} must have the size of the first image in {folder}, {expected_width} x "
                f"{expected_height} pixels. Received: {width} x {height}."
            )
    return list(files), np.stack(images)


def two_values(place, grey):
    """Checks that a mask or a stack of labels has two values.

    Args:
        place: where it came from, for the message.
        grey: array of whole numbers.
    Returns:
        array of the same shape, uint8 in {0, 255}.
    Raises:
        ValueError: if it has other values than 0 and 255 (or 0 and 1); they are listed.
    """
    values = np.unique(grey)
    if set(values.tolist()) <= {0, 255}:
        return grey.astype(np.uint8)
    if set(values.tolist()) <= {0, 1}:
        return (grey * 255).astype(np.uint8)
    raise ValueError(
        f"{place} must have the values 0 and 255 (or 0 and 1) only. Received: "
        f"{_list_values(values)}. Threshold it and save it without loss (PNG, GIF or TIFF)."
    )


def _pages(path):
    """Reads all pages of an image file."""
    pages = []
    with _readable(path), Image.open(path) as image:
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            pages.append(image.copy())
    return pages


def _grey_page(place, image):
    if image.mode in ("1", "P"):
        return _as_grey(place, image)
    if image.mode != "L":
        kind = KINDS.get(image.mode, "an image")
        raise ValueError(
            f"{place} must be a grey image of 8 bits a pixel. Received: {kind} (mode "
            f"{image.mode}). Convert it to 8-bit grey."
        )
    return np.asarray(image)


def _open_whole(path):
    with _readable(path), Image.open(path) as image:
        # The further pictures of a camera's MPO file are previews.
        num_pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        # Pillow reads the upper 8 of 16 bits a colour: of 12-bit photographs 16 levels are left.
        has_16_bits = image.mode in ("RGB", "RGBA") and ";16" in str([t[3] for t in image.tile])
        image = ImageOps.exif_transpose(image)  # loads it; turned as every viewer shows it
    if num_pages > 1:
        raise ValueError(
            f"{path} must hold one image. Received: {num_pages} pages. Save each as a file of its "
            "own."
        )
    if has_16_bits:
        raise ValueError(
            f"{path} must have 8 bits a channel. Received: colours of 16 bits. Scale and save it "
            "with 8."
        )
    return image


@contextlib.contextmanager
def _readable(path):
    """Words what Pillow raises when a file is no image or not whole."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what it then raises, or of metadata
            yield
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is not an image that can be read ({Path(path).stat().st_size} bytes), "
            "whatever its name says. Download or convert it again."
        ) from None
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise ValueError(
            f"{path} cannot be read whole; it may be cut off or half downloaded: {error}. "
            "Download it again."
        ) from None


def _as_grey(path, image):
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode == "P":
        return _two_colours_as_mask(np.asarray(image.convert("L")))
    if image.mode in ("PA", "RGB", "RGBA", "LA"):
        colours = np.asarray(image.convert("RGB"))
        if (colours != colours[..., :1]).any():
            raise ValueError(
                f"{path} must be a mask in black and white. Received: an image in colours. "
                "Are the folders of images and masks swapped?"
            )
        return colours[..., 0]
    return np.asarray(image)


def _two_colours_as_mask(grey):
    """Takes the darker of two palette colours for 0: DRIVE's 2nd_manual has (4, 2, 4) for black."""
    values = np.unique(grey)
    if len(values) == 2 and values[1] > 1:
        return np.where(grey == values[1], 255, 0)
    return grey


def _list_values(values):
    return f"{len(values)} values: {_shortened(values)}"


def _shortened(items, most=8):
    shown = ", ".join(str(item) for item in items[:most])
    return f"{shown}{', ...' if len(items) > most else ''}"


def _natural_key(name):
    """Sorts numbers by value; the text itself decides between 1 and 01."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], name
