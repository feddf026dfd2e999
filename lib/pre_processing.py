"""Pre-processing of fundus photographs, training and test alike.

retina-unet lib/pre_processing.py: grey -> standardise -> equalise -> gamma -> [0, 1]. The
arithmetic is float64 with the original's truncations to uint8: the published weights saw just that.
"""

import cv2
import numpy as np
from scipy import ndimage

# A field of view that is wider or narrower by less than this is taken as it is.
FOV_TOLERANCE = 0.1
# Between 1, the mean, and infinity, the highest; chosen on the training half of CHASE_DB1.
SIZES_POWER = 4
# Where no mask tells: the FOV is brighter than this share of what is bright in the photograph.
FOV_BRIGHTNESS = 0.15
# It is sought at this longest side at most.
LARGEST_FOR_FOV = 2048
# A round field of view covers at most pi / 4 of an image, a little more where it is cut off.
WHOLE_FOV = 0.95
GAMMA = 1.2
# An image is very unlike those of the training beyond their range times this.
UNLIKE_FACTORS = {"brightness": 1.5, "sharpness": 2.0}
# How images are scaled for networks that take grey values as they are: see scale_to_unit.
DEFAULT_SCALING = "percentile"
ROBUST_PERCENTILES = (0.1, 99.9)
# Extremes that lie farther outside these percentiles than this share of their range are outliers.
MOST_OUTSIDE = 0.5
# What of a photograph the network sees, and in how many channels.
NUM_CHANNELS = {"grey": 1, "green": 1, "rgb": 3}
CLAHE_CLIP_LIMIT = 2.0
CLAHE_TILES = (8, 8)


def preprocess(images, equalization="clahe", channels="grey"):
    """Prepares RGB photographs for the network.

    retina-unet lib/pre_processing.py, my_PreProc. Differs: plain equalisation can be chosen, and
    green or each of the three colours in place of grey. The mean and standard deviation of the
    stack cancel in the min-max scaling of each image, so an image gives the same result alone or
    in a stack (up to rounding).

    Args:
        images: (num_images, 3, height, width) RGB in [0, 255].
        equalization: "clahe" (the original's) or "histogram".
        channels: one of NUM_CHANNELS; "grey" is the original's.
    Returns:
        (num_images, 1 or 3, height, width) float32 in [0, 1].
    Raises:
        ValueError: if the images are not RGB, or the equalisation or the channels are unknown.
    """
    equalize = {"clahe": clahe_equalized, "histogram": histo_equalized}.get(equalization)
    if equalize is None:
        raise ValueError(f"equalization must be clahe or histogram. Received: {equalization}")
    grey = _channels_of(images, channels)
    prepared = np.empty(grey.shape, np.float32)
    for channel in range(grey.shape[1]):
        one = grey[:, channel : channel + 1]
        statistics = np.mean(one), np.std(one)
        for index in range(len(grey)):
            image = dataset_normalized(one[index : index + 1], *statistics)
            prepared[index, channel] = (adjust_gamma(equalize(image), GAMMA) / 255.0)[0, 0]
    return prepared


def _channels_of(images, channels):
    """Takes grey, green or all colours of RGB images: (num_images, 1 or 3, H, W) float64."""
    if channels not in NUM_CHANNELS:
        raise ValueError(f"channels must be one of {list(NUM_CHANNELS)}. Received: {channels}")
    grey = rgb2gray(images)  # it checks the shape too
    if channels == "grey":
        return grey
    colours = slice(1, 2) if channels == "green" else slice(None)
    return np.asarray(images)[:, colours].astype(np.float64)


def estimate_fov(photograph):
    """Finds the field of view of a photograph with a dark surround.

    The largest connected part of the image in which a colour is brighter than FOV_BRIGHTNESS of its
    95th percentile, holes filled. On DRIVE its overlap with the masks (intersection over union) is
    .996, at least .987. A photograph without a dark surround is FOV throughout, or nearly.

    Args:
        photograph: (3, height, width) RGB in [0, 255].
    Returns:
        (height, width) bool.
    """
    height, width = photograph.shape[1:]
    if max(height, width) > LARGEST_FOR_FOV:
        scale = LARGEST_FOR_FOV / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = estimate_fov(resized(photograph[np.newaxis], size)[0]).view(np.uint8)
        # Nearest neighbours keep a FOV of all pixels whole.
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST).view(bool)
    brightness = ndimage.median_filter(photograph.max(axis=0), 5)
    bright = largest_part(brightness > FOV_BRIGHTNESS * np.percentile(brightness, 95))
    if not bright.any():  # black throughout
        return np.ones(brightness.shape, bool)
    return ndimage.binary_fill_holes(bright)


def without_rim(fov):
    """Takes the outermost pixels off a field of view (height, width) bool that was found.

    They lie half in the surround, and the edge to it looks like a vessel. The sides of the image
    are no edge.
    """
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return cv2.erode(fov.view(np.uint8), cross).view(bool)


def largest_part(mask):
    """Keeps the largest connected part of a mask (height, width) bool."""
    number, parts, sizes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    return parts == 1 + np.argmax(sizes[1:, cv2.CC_STAT_AREA]) if number > 1 else mask


def size_for_fov(fov_masks, fov_width):
    """Finds the size at which the field of view is as wide as in the images of the training.

    Cameras differ in pixels per degree, and a network knows vessels of the widths it has seen.

    Example: a FOV 1080 pixels wide in images of 1200 x 1000, for a fov_width of 540: 600 x 500.

    Args:
        fov_masks: (num_images, 1, height, width), 0 outside.
        fov_width: wanted width in pixels; 0 leaves every image as it is.
    Returns:
        (height, width) in pixels for all images; their own where the median width of the FOV is
        less than a tenth off, or no mask shows a FOV.
    """
    height, width = fov_masks.shape[2:]
    # Of the largest part: stray pixels of a mask say nothing about the camera.
    columns = [np.flatnonzero(largest_part(mask > 0).any(axis=0)) for mask in fov_masks[:, 0]]
    widths = [np.ptp(seen) + 1 for seen in columns if len(seen)]
    if not widths or not fov_width:
        return height, width
    scale = fov_width / np.median(widths)
    if abs(np.log(scale)) < np.log1p(FOV_TOLERANCE):
        return height, width
    return max(1, round(height * scale)), max(1, round(width * scale))


def sizes_for_fov(fov_masks, fov_width, factors):
    """Lists the sizes at which the network sees photographs.

    Args:
        fov_masks: as of size_for_fov.
        fov_width: as of size_for_fov.
        factors: of fov_width.
    Returns:
        (height, width) in pixels for each factor; their own size alone where size_for_fov leaves
        photographs as they are.
    """
    size = size_for_fov(fov_masks, fov_width)
    if size == fov_masks.shape[2:]:
        return [size]
    return [tuple(max(1, round(side * factor)) for side in size) for factor in factors]


def power_mean(predictions):
    """Averages probabilities that were found at several sizes, near the highest of each pixel.

    As in the filter of Frangi et al. (1998), a line is seen best at one of them. The highest
    ranks pixels hardly better than this mean, and more of it lies above a threshold that was chosen
    at one size (docs/RESULTS.md).

    Args:
        predictions: arrays of one shape, or what makes them one after the other.
    Returns:
        (sum of p ** SIZES_POWER / number) ** (1 / SIZES_POWER); one array as it is.
    """
    predictions = iter(predictions)
    mean, number = next(predictions), 1
    for number, prediction in enumerate(predictions, 2):  # in place: images may fill the memory
        if number == 2:
            mean = mean**SIZES_POWER
        prediction = prediction**SIZES_POWER
        mean += prediction
    if number > 1:
        mean /= number
        mean **= 1 / SIZES_POWER
    return mean


def look_of(image, inside=None):
    """Measures how bright and how sharp an image is, to be compared with those of a training.

    Args:
        image: (H, W) or (C, H, W) float32 in [0, 1], at the size at which the network sees it. Of
            channels the mean is taken.
        inside: (H, W) bool, the pixels that count; None for all.
    Returns:
        {"brightness": mean, "sharpness": standard deviation of the Laplacian by that of the image}.
    """
    image = image if image.ndim == 2 else image.mean(axis=0)
    inside = np.ones(image.shape, bool) if inside is None or not inside.any() else inside
    image = np.ascontiguousarray(image, np.float32)
    deviation = float(image[inside].std())
    edges = float(cv2.Laplacian(image, cv2.CV_32F)[inside].std())
    sharpness = edges / deviation if deviation else 0.0
    return {"brightness": float(image[inside].mean()), "sharpness": sharpness}


def look_of_photographs(photographs, fov_masks):
    """Gives look_of for RGB photographs (N, 3, H, W) in [0, 255], inside their (N, 1, H, W) FOV."""
    return [
        look_of(grey / 255, mask > 0) for (grey,), (mask,) in zip(rgb2gray(photographs), fov_masks)
    ]


def range_of_looks(looks):
    """Gives the lowest and the highest value of every part: {"brightness": [low, high], ...}."""
    return {
        part: [min(look[part] for look in looks), max(look[part] for look in looks)]
        for part in looks[0]
    }


def unlike_training(look, ranges):
    """Says in what an image is very unlike the images of the training.

    Args:
        look: as look_of gives it.
        ranges: as range_of_looks gives them; None where the weights do not record them.
    Returns:
        tuple of sentences; empty where it is like them.
    """
    sentences = []
    for part, factor in UNLIKE_FACTORS.items():
        if not ranges or part not in ranges:
            continue
        low, high = ranges[part]
        if not low / factor <= look[part] <= high * factor:
            sentences.append(
                f"Very unlike the training in {part}: {look[part]:.2f}, where its images have "
                f"{low:.2f} to {high:.2f}."
            )
    return tuple(sentences)


def scale_to_unit(stack, rule=DEFAULT_SCALING):
    """Scales slices to [0, 1] by the rule that the weights record.

    percentile: each image by itself from its 0.1 to its 99.9 percentile, clipped, so that an image
    alone is scaled as in a stack, and single pixels decide nothing. minmax_stack: from the lowest
    to the highest value of the stack, as the first weights were trained. Where one or two pixels
    would decide that range, the percentiles of the stack are taken, and a message says so.

    Args:
        stack: (N, H, W) of any number type.
        rule: "percentile" or "minmax_stack".
    Returns:
        (N, H, W) float32; a constant image becomes 0.
    """
    stack = stack.astype(np.float32)
    if rule == "percentile":
        return np.stack([_scaled(image, *percentiles(image)) for image in stack])
    lowest, highest = robust_limits(stack)
    if (lowest, highest) != (stack.min(), stack.max()):
        print(
            f"Grey values from {stack.min():g} to {stack.max():g}, but all but 2 in 1,000 pixels "
            f"lie between {lowest:g} and {highest:g}: scaled by the latter."
        )
    return _scaled(stack, lowest, highest)


def image_limits(image):
    """Finds the values that are scaled to 0 and 1, of an image by itself.

    Args:
        image: array of numbers.
    Returns:
        two floats: 0 and 255 for 8 bits, ROBUST_PERCENTILES of the image for other types.
    """
    return (0.0, 255.0) if image.dtype == np.uint8 else percentiles(image)


def robust_limits(values):
    """Gives the lowest and the highest value, or percentiles where single pixels are far outside.

    Args:
        values: array of numbers.
    Returns:
        two floats: the extremes; ROBUST_PERCENTILES where an extreme lies outside these by more
        than MOST_OUTSIDE of their range.
    """
    lowest, highest = float(values.min()), float(values.max())
    robust = percentiles(values)
    tolerance = MOST_OUTSIDE * (robust[1] - robust[0])
    if robust[0] - lowest <= tolerance and highest - robust[1] <= tolerance:
        return lowest, highest
    return robust


def percentiles(values):
    """Gives ROBUST_PERCENTILES of an array; its extremes where nearly all values are the same."""
    lowest, highest = map(float, np.percentile(values, ROBUST_PERCENTILES))
    return (lowest, highest) if highest > lowest else (float(values.min()), float(values.max()))


def _scaled(values, lowest, highest):
    scaled = values - lowest
    scaled /= highest - lowest if highest > lowest else 1.0
    return np.clip(scaled, 0, 1, out=scaled)


def resized(images, size):
    """Scales images: means of areas to make sides smaller, linear interpolation to enlarge them.

    Args:
        images: (num_images, channels, height, width) uint8 or floating point.
        size: (height, width) in pixels; images of that size are returned as they are.
    Returns:
        (num_images, channels, *size) of the same type.
    """
    # OpenCV takes means of areas only where no side grows.
    smaller = tuple(map(min, size, images.shape[2:]))
    return _interpolated(_interpolated(images, smaller, cv2.INTER_AREA), size, cv2.INTER_LINEAR)


def _interpolated(images, size, interpolation):
    """Scales (N, C, H, W) by one of OpenCV's ways; images of that size stay as they are."""
    if images.shape[2:] == tuple(size):
        return images
    scaled = np.empty((*images.shape[:2], *size), images.dtype)
    for image, planes in zip(images, scaled):
        for channel, plane in zip(image, planes):
            cv2.resize(channel, size[::-1], dst=plane, interpolation=interpolation)
    return scaled


def resized_labels(labels, size):
    """Scales numbers, each pixel taking that of the pixel its middle falls into.

    Args:
        labels: (..., height, width) of any type.
        size: (height, width) in pixels; None leaves the labels as they are.
    Returns:
        (..., *size) of the same type.
    """
    if size is None:
        return labels
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip(size, labels.shape[-2:])
    )
    return labels[..., rows[:, None], columns]


def resized_mask(masks, size):
    """Scales masks (num_masks, 1, height, width) in {0, 1}; half of a pixel's area is in it."""
    if masks.shape[2:] == tuple(size):
        return masks
    return (resized((masks > 0).astype(np.float32), size) >= 0.5).astype(np.uint8)


def rgb2gray(images):
    """Weighs red, green and blue by 0.299, 0.587 and 0.114 (ITU-R BT.601 luma).

    Args:
        images: (num_images, 3, height, width).
    Returns:
        (num_images, 1, height, width) float64.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"RGB images must have the shape (num_images, 3, height, width). "
            f"Received: {images.shape}"
        )
    # The same order of the sums as in the original: the last bit decides truncations further down.
    grey = np.empty((len(images), 1, *images.shape[2:]))
    for index, (red, green, blue) in enumerate(images):
        grey[index, 0] = red * 0.299 + green * 0.587 + blue * 0.114
    return grey


def dataset_normalized(images, mean=None, deviation=None):
    """Standardises by mean and deviation, then scales each image to [0, 255].

    A constant image has nothing to scale and becomes 0; the original divides by zero there. Where
    single pixels are far darker or brighter than all others, they do not decide the scale.

    Args:
        images: (num_images, 1, height, width).
        mean: of the grey values; that of these images if None.
        deviation: standard deviation of the grey values; that of these images if None.
    Returns:
        (num_images, 1, height, width) float64 in [0, 255].
    """
    mean = np.mean(images) if mean is None else mean
    deviation = np.std(images) if deviation is None else deviation
    standardised = (images - mean) / (deviation if deviation > 0 else 1.0)
    return np.stack([_scaled(image, *robust_limits(image)) * 255 for image in standardised])


def histo_equalized(images):
    """Equalises the histogram of each image; in and out as clahe_equalized."""
    return _for_each_image(cv2.equalizeHist, images)


def clahe_equalized(images):
    """Equalises contrast-limited in 8 x 8 tiles (CLAHE, clip limit 2.0).

    Args:
        images: (num_images, 1, height, width) in [0, 255]; truncated to uint8.
    Returns:
        (num_images, 1, height, width) uint8.
    """
    clahe = cv2.createCLAHE(clipLimit=CLAHE_CLIP_LIMIT, tileGridSize=CLAHE_TILES)
    return _for_each_image(clahe.apply, images)


def adjust_gamma(images, gamma):
    """Brightens by the exponent 1 / gamma through a table of 256 truncated values.

    Args:
        images: (num_images, 1, height, width) in [0, 255]; truncated to uint8.
        gamma: 1 leaves the image as it is, above 1 brightens.
    Returns:
        (num_images, 1, height, width) uint8.
    """
    table = (((np.arange(256) / 255.0) ** (1.0 / gamma)) * 255).astype(np.uint8)
    return table[np.asarray(images).astype(np.uint8)]


def _for_each_image(equalize, images):
    grey = np.asarray(images).astype(np.uint8)
    return np.stack([equalize(image[0])[np.newaxis] for image in grey])
