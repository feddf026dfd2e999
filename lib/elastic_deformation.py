"""The data augmentation of the U-Net paper: elastic deformation, and what the paper adds to it.

Ronneberger, Fischer, Brox 2015, section 3.1: "We generate smooth deformations using random
displacement vectors on a coarse 3 by 3 grid. The displacements are sampled from a Gaussian
distribution with 10 pixels standard deviation. Per-pixel displacements are then computed using
bicubic interpolation"; and "shift and rotation invariance as well as robustness to deformations
and gray value variations", without numbers.

Where the paper leaves room: the nodes lie on the corners, edge middles and centre of the input
tile; bicubic is cubic convolution with a = -1/2 (Keys 1981) with the edge nodes replicated, which
passes through the nodes, so that the displacement there has the 10 pixels (the released code's
cubic B-spline smooths them to about 5). Deformation, rotation, flips and shift are one backward
map, and image, label and weights are sampled once through it.
"""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np

from lib.overlap_tile import cut_mirrored, mirror_indices

# Nodes along each axis of the tile (paper: "a coarse 3 by 3 grid").
GRID_POINTS = 3
# Rotations of (row, column) by 0, 90, 180 and 270 degrees; in whole numbers, so that places on the
# pixel grid stay on it.
QUARTER_TURNS = np.stack([np.linalg.matrix_power([[0, -1], [1, 0]], turns) for turns in range(4)])


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random transform; a setting of 0 or False switches its part off.

    The defaults are the paper's where it has one (elastic_sigma), else those of the authors' later
    ImageJ plug-in (shift, brightness, contrast); the plug-in has no flips and leaves the range of
    rotations to the user, while here all orientations of the membranes count as equally likely.

    Attributes:
        elastic_sigma: standard deviation of the displacement at the nodes in pixels, >= 0.
        rotation_degrees: rotation about the tile's centre, uniform within +- this, 0 ... 180.
        shift: shift of the tile along each axis in pixels, uniform within +- this, >= 0.
        flip: whether rows and columns are reversed, each with probability 1/2; "horizontal"
            reverses columns only: left and right.
        brightness: added to the grey values, uniform within +- this, 0 ... 1.
        contrast: grey values are stretched about 0.5 by 1 + a factor within +- this, 0 ... 1.
        quarter_turns: whether the tile is turned by 0, 90, 180 or 270 degrees besides; on the pixel
            grid, so without the blur of other rotations. Not the paper's.
        noise: half of the tiles get normal noise added to their grey values, its deviation uniform
            from 0 to this, 0 ... 1. Not the paper's.
        zoom: half of the tiles are enlarged by a factor between 1 / zoom and zoom, uniform in its
            logarithm; the others keep their size. >= 1; 1 is off. Not the paper's.
        shear: columns are slanted against rows by an angle in degrees, uniform within +- this,
            0 ... 60. Not the paper's.
        gamma: values v become v^g, g between 1 / (1 + gamma) and 1 + gamma, uniform in its
            logarithm, 0 ... 4. Not the paper's.
        cutout: one square of each tile takes the mean of the tile, its side uniform from 0 to this
            share of the tile's, its centre anywhere; 0 ... 0.9. Labels and weights stay as they
            are: what is hidden is to be guessed from what is around it (DeVries, Taylor 2017).
            Not the paper's.
        hue: colours (of RGB images only) are turned about the grey axis by an angle in degrees,
            uniform within +- this, 0 ... 180; greys stay grey. Not the paper's.
    """

    elastic_sigma: float = 10.0
    rotation_degrees: float = 180.0
    shift: float = 8.0
    flip: bool | str = True
    brightness: float = 0.05
    contrast: float = 0.2
    quarter_turns: bool = False
    noise: float = 0.0
    zoom: float = 1.0
    shear: float = 0.0
    gamma: float = 0.0
    cutout: float = 0.0
    hue: float = 0.0


NO_AUGMENTATION = Augmentation(
    elastic_sigma=0, rotation_degrees=0, shift=0, flip=False, brightness=0, contrast=0
)


def random_grid(rng, sigma=10.0):
    """Draws the displacements at the nodes.

    Args:
        rng: numpy.random.Generator.
        sigma: standard deviation in pixels, >= 0; paper: 10.
    Returns:
        (2, 3, 3) float64 displacements in pixels: along rows, then along columns.
    """
    return rng.normal(0.0, sigma, (2, GRID_POINTS, GRID_POINTS))


def displacement_field(grid, shape):
    """Interpolates the displacements at the nodes for every pixel, bicubically.

    Cubic convolution is separable, so the field is By G Bx^T with one matrix per axis.

    Args:
        grid: (2, points, points) displacements at the nodes in pixels; the first and last nodes lie
            on the first and last rows and columns. (points, points) for one component is fine too.
        shape: (height, width) of the field in pixels, each >= 2.
    Returns:
        (2, height, width) float64 displacements in pixels, or (height, width) for one component.
    """
    from_rows, from_columns = (
        interpolation_matrix(int(size), points) for size, points in zip(shape, grid.shape[-2:])
    )
    return from_rows @ grid @ from_columns.T


@lru_cache(maxsize=16)
def interpolation_matrix(num_pixels, num_nodes):
    """Builds the matrix of cubic convolution from the nodes of one axis to its pixels.

    Keys 1981, a = -1/2; positions before the first and after the last node take their values.

    Args:
        num_pixels: pixels along the axis, >= 2; the nodes are spread evenly from first to last.
        num_nodes: nodes along the axis, >= 2.
    Returns:
        (num_pixels, num_nodes) float64, rows sum to 1; read-only, because it is kept.
    """
    position = np.arange(num_pixels) * (num_nodes - 1) / (num_pixels - 1)
    matrix = np.zeros((num_pixels, num_nodes))
    for offset in (-1, 0, 1, 2):
        node = np.floor(position).astype(int) + offset
        weight = _cubic_convolution(np.abs(position - node))
        np.add.at(matrix, (np.arange(num_pixels), np.clip(node, 0, num_nodes - 1)), weight)
    matrix.setflags(write=False)
    return matrix


def tile_coordinates(place, size, margin, augmentation, rng):
    """Finds for every pixel of a tile the place in the slice that it shows.

    A pixel at q from the tile's centre shows centre + shift + R F S (q + D(q)) / z: its
    displacement D by the elastic field, shear S, flips F, rotation R and zoom z. The same number of
    random values is drawn whatever the settings, so that switching one part off leaves the others
    as they are (but not the hue, gamma and cutout of vary_grey_values, where shear is switched).

    Args:
        place: (row, column) of the label's tile in the slice; may lie outside: it is mirrored.
        size: side of the image's tile in pixels (572).
        margin: pixels by which that reaches beyond the label's tile on each side (92; 0 for a
            padded network).
        augmentation: Augmentation.
        rng: numpy.random.Generator.
    Returns:
        (2, size, size) float64 rows and columns of the slice, not bounded by its size.
    """
    from_centre = np.arange(size) - (size - 1) / 2.0
    centre = np.asarray(place) - margin + (size - 1) / 2.0
    grid = random_grid(rng, augmentation.elastic_sigma)
    linear, shift = _random_linear_map(augmentation, rng)
    # The field is linear in its nodes: the nodes are rotated and flipped instead of every pixel.
    coordinates = displacement_field(np.tensordot(linear, grid, axes=1), (size, size))
    for component in range(2):
        coordinates[component] += (centre + shift)[component] + linear[component, 1] * from_centre
        coordinates[component] += (linear[component, 0] * from_centre)[:, None]
    return coordinates


def warp(image, coordinates, order):
    """Samples an image at given places, mirrored beyond its borders.

    Backward map: out(p) = image(coordinates(p)). The mirror does not repeat the edge pixel and
    reaches any distance. Exact bilinear interpolation in the image's own precision;
    cv2.remap before OpenCV 5 rounds places to 1/32 pixel.

    Args:
        image: (height, width) or (C, height, width); floating point for order 1, any type for
            order 0.
        coordinates: (2, out_height, out_width) rows and columns in the image, finite.
        order: 1 for linear (images, weights), 0 for nearest (labels; halves go up).
    Returns:
        (out_height, out_width) or (C, out_height, out_width) of the image's type.
    """
    return warp_together([image], coordinates, [order])[0]


def warp_together(images, coordinates, orders):
    """Samples several images of one size at the same places; faster than one by one.

    Args:
        images: list of (height, width) or (C, height, width) arrays, or of what reads such an array
            when it is sliced: only the part that is needed is.
        coordinates: (2, out_height, out_width) rows and columns in the images, finite.
        orders: 1 (linear) or 0 (nearest) for each image.
    Returns:
        list of (out_height, out_width) or (C, out_height, out_width) arrays of the images' types.
    """
    window = _MirroredWindow(images[0].shape[-2:], coordinates)
    return [window.sample(image, order) for image, order in zip(images, orders)]


def vary_grey_values(image, augmentation, rng):
    """Changes the values of an image tile at random: grey values, colours, and what is cut out.

    v -> clip(0.5 + (1 + contrast) * (v - 0.5) + brightness + noise, 0, 1), with contrast and
    brightness drawn uniformly within their settings. Clipped, because the network is trained and
    tested on images in [0, 1]. Then hue, gamma and cutout, as Augmentation says. With all settings
    at 0 the image comes back untouched.

    Args:
        image: (height, width) or (C, height, width) floating point, values in [0, 1].
        augmentation: Augmentation.
        rng: numpy.random.Generator.
    Returns:
        array of the image's shape and type.
    Raises:
        ValueError: if the hue of an image without three channels is to change.
    """
    image = _vary_linearly(image, augmentation, rng)
    if augmentation.hue == augmentation.gamma == augmentation.cutout == 0:
        return image
    more = _more_random(rng)
    angle, exponent = more.uniform(-1.0, 1.0, 2)
    if augmentation.hue:
        image = _turn_hue(image, np.deg2rad(angle * augmentation.hue))
    if augmentation.gamma:
        image = image ** image.dtype.type((1.0 + augmentation.gamma) ** exponent)
    return _cut_out(image, augmentation.cutout, more) if augmentation.cutout else image


def _more_random(rng):
    """Gives a generator for what was added later: the draws of rng itself stay as they were."""
    return rng.spawn(1)[0]


def _turn_hue(image, angle):
    """Turns the colours of an RGB image about the grey axis; Rodrigues' formula."""
    if image.ndim != 3 or len(image) != 3:
        raise ValueError(f"hue needs images of 3 channels, RGB. Received: shape {image.shape}")
    grey = np.full(3, 3**-0.5)
    cross = np.cross(np.eye(3), grey)
    matrix = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    turned = np.tensordot(matrix.astype(image.dtype), image, axes=1)
    return np.clip(turned, 0.0, 1.0)


def _cut_out(image, cutout, rng):
    """Writes the mean of each channel over one square of an image tile."""
    height, width = image.shape[-2:]
    half = 0.5 * rng.random() * cutout * min(height, width)
    spans = []
    for size in (height, width):
        centre = rng.random() * size
        spans.append(slice(max(0, round(centre - half)), max(0, round(centre + half))))
    image = image.copy()
    image[..., spans[0], spans[1]] = image.mean((-2, -1), keepdims=True)
    return image


def _vary_linearly(image, augmentation, rng):
    """Changes brightness and contrast at random, and adds noise to half of the tiles."""
    contrast, brightness = rng.uniform(-1.0, 1.0, 2)
    if augmentation.contrast == augmentation.brightness == augmentation.noise == 0:
        return image
    slope = 1.0 + float(contrast) * augmentation.contrast
    offset = 0.5 - 0.5 * slope + float(brightness) * augmentation.brightness
    varied = image * slope + offset
    # Drawn last: what is drawn for the other parts does not depend on it.
    if augmentation.noise and rng.random() < 0.5:
        deviation = varied.dtype.type(rng.random() * augmentation.noise)
        varied += deviation * rng.standard_normal(varied.shape, dtype=np.float32)
    return np.clip(varied, 0.0, 1.0)


def cut_tile(image, label, weights, place, input_size, output_size, augmentation=None, rng=None):
    """Cuts one training tile out of an image and transforms it at random, sampling it once.

    Args:
        image: (C, height, width) float32 in [0, 1], the whole image; or what gives one when it is
            sliced (lib.image_sets): no more is read than the tile shows.
        label: (height, width) uint8 classes of the image, alike.
        weights: (height, width) float32 weights of the image (weight_map), alike; None for none.
        place: (row, column) of the label's tile. May lie outside: the image is mirrored.
        input_size: (height, width) of the image's tile.
        output_size: (height, width) of the label's tile, in the middle of it.
        augmentation: Augmentation of square tiles; None cuts the tile as it is.
        rng: numpy.random.Generator; needed with an augmentation.
    Returns:
        image (C, *input_size), label and weights (or None) of output_size; types as given.
    """
    if augmentation is None:
        outer = [at - (a - b) // 2 for at, a, b in zip(place, input_size, output_size)]
        weights = None if weights is None else _cut_mirrored(weights, place, output_size)
        cut = _cut_mirrored(image, outer, input_size)
        return cut, _cut_mirrored(label, place, output_size), weights
    margin = (input_size[0] - output_size[0]) // 2
    coordinates = tile_coordinates(place, input_size[0], margin, augmentation, rng)
    middle = slice(margin, margin + output_size[0])
    image = warp(image, coordinates, order=1)
    others = [label] if weights is None else [label, weights]
    label, *weights = warp_together(others, coordinates[:, middle, middle], [0, 1])
    image = vary_grey_values(image, augmentation, rng)
    return image, label, weights[0] if weights else None


def _cut_mirrored(array, place, size):
    """Cuts a tile of (..., height, width) at (row, column), mirrored outside the array."""
    shape = array.shape[-2:]
    if all(0 <= at and at + n <= length for at, n, length in zip(place, size, shape)):
        return array[..., place[0] : place[0] + size[0], place[1] : place[1] + size[1]]
    rows, columns = (
        mirror_indices(np.arange(n) + at, length) for at, n, length in zip(place, size, shape)
    )
    return cut_mirrored(array, rows, columns)


def get_augmentation(settings):
    """Gathers the training settings of the random transform.

    Args:
        settings: with an attribute for each field of Augmentation; what a task has no key for
            stays off.
    Returns:
        Augmentation; None where every part is switched off.
    """
    augmentation = Augmentation(
        **{
            field.name: getattr(settings, field.name, getattr(NO_AUGMENTATION, field.name))
            for field in fields(Augmentation)
        }
    )
    return None if augmentation == NO_AUGMENTATION else augmentation


class _MirroredWindow:
    """The part of a mirrored image plane that coordinates fall into, and their places in it.

    The window is cut out of each image with one pair of index tables. Within it no border needs
    care, and the four neighbours of a place are four views of one flat array, all read with one
    array of indices.
    """

    def __init__(self, shape, coordinates):
        """Lays the window around the coordinates (2, out_height, out_width)."""
        self.places = [_fold(places, size) for places, size in zip(coordinates, shape)]
        self.first = [int(np.floor(places.min())) for places in self.places]
        # One more than the highest floor: the neighbour below or right, or a half that goes up.
        last = [int(np.floor(places.max())) + 1 for places in self.places]
        self.row_indices, self.column_indices = (
            mirror_indices(np.arange(start, stop + 1), size)
            for start, stop, size in zip(self.first, last, shape)
        )

    def sample(self, image, order):
        """Returns the image's values at the places: nearest for order 0, linear for order 1."""
        window = cut_mirrored(image, self.row_indices, self.column_indices)
        if window.ndim == 3:
            return np.stack([self._sample(plane.ravel(), order) for plane in window])
        return self._sample(window.ravel(), order)

    def _sample(self, flat, order):
        if order == 0:
            return flat.take(self._nearest_index)
        index, below, right = self._linear_index
        below, right = below.astype(flat.dtype), right.astype(flat.dtype)
        upper_row = _mix(flat.take(index), flat[1:].take(index), right)
        next_row = flat[len(self.column_indices) :]
        return _mix(upper_row, _mix(next_row.take(index), next_row[1:].take(index), right), below)

    @cached_property
    def _nearest_index(self):
        """Flat index of the pixel nearest to each place."""
        return self._flat_index(*(np.floor(places + 0.5) for places in self.places))

    @cached_property
    def _linear_index(self):
        """Flat index of the upper left neighbour, and the distances below and right of it."""
        rows, columns = (np.floor(places) for places in self.places)
        index = self._flat_index(rows, columns)
        return index, np.subtract(self.places[0], rows), np.subtract(self.places[1], columns)

    def _flat_index(self, rows, columns):
        """Flat index in the window of whole rows and columns of the mirrored plane."""
        index = (rows - self.first[0]) * len(self.column_indices)
        index += columns
        index -= self.first[1]
        return index.astype(np.intp)


def _mix(start, end, share):
    """Returns start + share * (end - start), written over end."""
    end -= start
    end *= share
    end += start
    return end


def _fold(places, size):
    """Brings places along one mirrored axis that spread over many periods into one period."""
    period = max(2 * (size - 1), 1)
    return np.mod(places, period) if np.ptp(places) > period else places


def _cubic_convolution(distance):
    """Computes Keys' kernel with a = -1/2 for distances >= 0 in nodes."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def _random_linear_map(augmentation, rng):
    """Draws rotation, flips, zoom, shear as a (2, 2) matrix on (row, column), and the shift."""
    angle = np.deg2rad(rng.uniform(-1.0, 1.0) * augmentation.rotation_degrees)
    mirrored = np.array([augmentation.flip is True, bool(augmentation.flip)])
    flips = np.where((rng.random(2) < 0.5) & mirrored, -1.0, 1.0)
    shift = rng.uniform(-1.0, 1.0, 2) * augmentation.shift
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # The backward map looks at a smaller part of the slice to enlarge it.
    enlarged = augmentation.zoom ** (rng.uniform(-1.0, 1.0) * (rng.random() < 0.5))
    turn = QUARTER_TURNS[rng.integers(4) * augmentation.quarter_turns]
    linear = turn @ rotation * flips / enlarged
    if augmentation.shear:
        angle = np.deg2rad(_more_random(rng).uniform(-1.0, 1.0) * augmentation.shear)
        linear = linear @ np.array([[1.0, 0.0], [np.tan(angle), 1.0]])
    return linear, shift
