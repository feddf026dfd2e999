"""Pictures: stacks of images as grids, written as PNG."""

import math
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries
from skimage.util import montage

from lib.files import atomic_write
from lib.pre_processing import image_limits

LEGEND_TEXT, LEGEND_LINE = 14, 20  # pixels
# Pillow's own font has no umlauts.
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
OUTLINE = (1.0, 1.0, 0.0)


def group_images(images, per_row):
    """Lays images out as a grid, row by row; a last row that is not full stays black at its end.

    retina-unet lib/help_functions.py, group_images. Differs: any number of images.

    Args:
        images: (num_images, channels, height, width), channels 1 or 3.
        per_row: images in a row.
    Returns:
        (num_rows * height, per_row * width, channels).
    """
    num_images, channels = images.shape[:2]
    per_row = min(per_row, num_images)
    grid_shape = (-(-num_images // per_row), per_row)
    return montage(images, (0,) * channels, grid_shape=grid_shape, channel_axis=1)


def as_grey_levels(images):
    """Rounds floats in [0, 1], of any shape, to uint8 in [0, 255]; uint8 stays as it is."""
    if images.dtype == np.uint8:
        return images
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def colour_classes(labels, colours):
    """Draws class numbers in colours; numbers that are no class are white.

    Args:
        labels: (..., H, W) integers.
        colours: K tuples of red, green and blue in [0, 255].
    Returns:
        (..., 3, H, W) uint8.
    """
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return np.moveaxis(table[np.minimum(labels, 255)], -1, -3)


def draw_objects(image, objects, truth=None, alpha=0.35):
    """Colours objects over their image, and outlines the true ones in yellow.

    Args:
        image: (H, W) floats in [0, 1].
        objects: (H, W) whole numbers, 0 is background; equal numbers have equal colours.
        truth: (H, W), the true objects; None where they are not known.
        alpha: how strongly the colours cover the image, in [0, 1].
    Returns:
        (3, H, W) float32 in [0, 1].
    """
    coloured = label2rgb(objects, image, bg_label=0, alpha=alpha)
    if truth is not None:
        coloured[find_boundaries(truth, mode="inner")] = OUTLINE
    return coloured.transpose(2, 0, 1).astype(np.float32)


def on_canvas(images, size):
    """Puts images of several sizes on black canvases of one size, in the top left corner.

    Args:
        images: list of (C, H, W), one C.
        size: (height, width) of the canvas in pixels, at least that of every image.
    Returns:
        (N, C, height, width) of the images' type.
    """
    canvases = np.zeros((len(images), len(images[0]), *size), images[0].dtype)
    for canvas, image in zip(canvases, images):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvases


def with_legend(picture, names, colours):
    """Draws a list of classes with their colours below a picture, in as many lines as it takes.

    Args:
        picture: (3, height, width) uint8; white is added on the right where a name needs it.
        names: K texts.
        colours: K tuples of red, green and blue in [0, 255].
    Returns:
        (3, height and that of the list, width) uint8.
    """
    below = _legend(names, colours, picture.shape[2])
    added = below.shape[2] - picture.shape[2]
    wide = np.pad(picture, ((0, 0), (0, 0), (0, added)), constant_values=255)
    return np.concatenate([wide, below], axis=1)


def _legend(names, colours, width):
    font = ImageFont.truetype(FONT, LEGEND_TEXT)
    lengths = [2 * LEGEND_LINE + math.ceil(font.getlength(name)) for name in names]
    width = max(width, *lengths)
    places, row, column = [], 0, 0
    for needed in lengths:
        if column and column + needed > width:
            row, column = row + 1, 0
        places.append((column, row * LEGEND_LINE))
        column += needed
    picture = Image.new("RGB", (width, (row + 1) * LEGEND_LINE), "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), name, colour in zip(places, names, colours):
        box = (x + 3, y + 3, x + LEGEND_TEXT + 3, y + LEGEND_TEXT + 3)
        draw.rectangle(box, fill=tuple(colour), outline="black")
        draw.text((x + LEGEND_LINE + 2, y + 1), name, "black", font)
    return np.asarray(picture).transpose(2, 0, 1)


def as_rgb(stack):
    """Repeats grey images: (N, 1, H, W) -> (N, 3, H, W); those of three channels stay."""
    return np.broadcast_to(stack, (len(stack), 3, *stack.shape[2:]))


def as_picture(image):
    """Makes an image something to look at.

    Args:
        image: (C, H, W) uint8, floats in [0, 1], or uint16, of which the 0.1 and the 99.9
            percentile become black and white; of more than 3 channels, the first is shown.
    Returns:
        (H, W, 3) uint8; where the image's memory is laid out so, a view of it.
    """
    shown = image if len(image) == 3 else image[:1]
    if shown.dtype == np.uint16:
        low, high = image_limits(shown)
        shown = (shown - np.float32(low)) / max(high - low, 1)
    levels = as_grey_levels(shown)
    colours = levels if len(levels) == 3 else np.repeat(levels, 3, axis=0)
    picture = np.ascontiguousarray(colours.transpose(1, 2, 0))
    # With one pixel in a row or column NumPy leaves strides that OpenCV does not draw on.
    return picture.copy() if 1 in picture.shape else picture


def visualize(image, path):
    """Saves an image as PNG.

    retina-unet lib/help_functions.py, visualize.

    Args:
        image: (height, width, channels) with 1 or 3 channels; uint8, or floats in [0, 1].
        path: the PNG file.
    """
    image = as_grey_levels(image)
    with atomic_write(path) as beside:
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(beside, "PNG")
