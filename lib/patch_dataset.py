"""Feeds the training: a batch of tiles is cut when it is asked for."""

import keras
import numpy as np

from lib.devices import ONE_DEVICE
from lib.elastic_deformation import cut_tile


class TileDataset(keras.utils.PyDataset):
    """Cuts batches of tiles with their labels and weights, changed at random if asked for.

    retina-unet holds 190,000 patches and their one-hot masks in memory, 14 GB; this holds the
    images and one batch; of images that lie in a file (lib.image_sets) it reads what a tile shows.
    What an epoch shows, and in which order, follows from the seed and the
    number of the epoch alone, so that a training resumed at any batch sees what an uninterrupted
    one would have seen.

    Args:
        images: list of (C, H, W) float32 in [0, 1], of any sizes, in memory or read when sliced.
        labels: list of (H, W) uint8 class numbers, alike.
        weights: list of (H, W) float32 weight maps; None where every pixel counts alike.
        places: (num_tiles, 3) int: image, row and column of the label's tile; or, with draw_place,
            the number of tiles of an epoch.
        input_size: (height, width) of the image's tile in pixels.
        output_size: (height, width) of the label's tile, in the middle of it; alike for a network
            that pads.
        batch_size: tiles in a batch; the last batch of an epoch may be smaller.
        seed: of order, places and augmentation.
        shuffle: whether every epoch has an order of its own.
        draw_place: function rng -> (image, row, column) of a tile; None for fixed places.
        augmentation: lib.elastic_deformation.Augmentation of square tiles, drawn anew every epoch;
            None leaves them as they are.
        devices: lib.devices.Devices that share a batch.
    """

    def __init__(
        self,
        images,
        labels,
        weights,
        places,
        *,
        input_size,
        output_size=None,
        batch_size=1,
        seed=0,
        shuffle=False,
        draw_place=None,
        augmentation=None,
        devices=ONE_DEVICE,
    ):
        # With several workers Keras has hung at the end of epochs; it cuts ahead all the same.
        super().__init__(workers=1, use_multiprocessing=False)
        self.images, self.labels, self.weights = images, labels, weights
        self.places = places
        self.num_tiles = places if draw_place else len(places)
        self.input_size = tuple(input_size)
        self.output_size = tuple(output_size or input_size)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.draw_place = draw_place
        self.augmentation = augmentation
        self.devices = devices
        self.first_batch = 0
        self.start_epoch(1)

    @property
    def num_batches_of_epoch(self):
        """Batches of a whole epoch."""
        return -(-self.num_tiles // self.batch_size)

    def __len__(self):
        """Counts the batches that are left of the epoch."""
        return self.num_batches_of_epoch - self.first_batch

    def start_epoch(self, epoch, first_batch=0):
        """Turns to an epoch, counted from 1, and leaves out the batches before first_batch."""
        self.epoch, self.first_batch = epoch, first_batch
        self._order = np.arange(self.num_tiles)
        if self.shuffle:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_tiles)

    def __getitem__(self, index):
        """Cuts one batch.

        Returns:
            (B, C, H, W) float32 tiles, (B, H'*W') int32 labels, and (B, H'*W') float32 weights
            where there are any.
        """
        index += self.first_batch
        numbers = batch_numbers(index, self.batch_size, self.num_tiles, self.devices)
        images, labels, weights = self.cut(self._order[numbers])
        labels = labels.reshape(len(labels), -1).astype(np.int32)
        if weights is None:
            return images, labels
        return images, labels, weights.reshape(len(weights), -1)

    def cut(self, numbers):
        """Cuts the tiles of given numbers as this epoch shows them.

        Args:
            numbers: (B,) numbers of tiles in [0, num_tiles).
        Returns:
            (B, C, H, W) float32 images, (B, H', W') uint8 labels, (B, H', W') float32 weights or
            None.
        """
        images, labels, weights = zip(*(self._cut_one(int(number)) for number in numbers))
        return np.stack(images), np.stack(labels), np.stack(weights) if self.weights else None

    def _cut_one(self, number):
        rng = np.random.default_rng([self.seed, self.epoch, number])
        index, *place = self.draw_place(rng) if self.draw_place else self.places[number]
        return cut_tile(
            self.images[index],
            self.labels[index],
            self.weights[index] if self.weights else None,
            place,
            self.input_size,
            self.output_size,
            self.augmentation,
            rng,
        )


def uniform_places(num_images, shape, output_size):
    """Gives a function that draws tiles uniformly over images of one size.

    Args:
        num_images: number of images.
        shape: (height, width) of them in pixels.
        output_size: (height, width) of the label's tile.
    Returns:
        function rng -> (image, row, column). A tile that is larger than the image lies in its
        middle, mirrored around.
    """
    spare = [size - tile for size, tile in zip(shape, output_size)]

    def draw(rng):
        row, column = (rng.integers(0, s + 1) if s > 0 else s // 2 for s in spare)
        return rng.integers(num_images), row, column

    return draw


def places_by_area(shapes, output_size):
    """Gives a function that draws tiles over images of several sizes.

    An image is drawn in proportion to its area, so that a pixel of a large image is seen as often
    as one of a small image, and pooled scores are trained for. A side shorter than the tile counts
    as long as the tile: a small image is not passed over.

    Args:
        shapes: (height, width) of each image in pixels.
        output_size: (height, width) of the label's tile.
    Returns:
        function rng -> (image, row, column). A tile that is larger than the image lies in its
        middle, mirrored around.
    """
    sides = np.asarray(shapes, np.int64)
    areas = np.maximum(sides, output_size).prod(axis=1)
    bounds = np.cumsum(areas)

    def draw(rng):
        index = int(np.searchsorted(bounds, rng.integers(bounds[-1]), side="right"))
        spare = sides[index] - output_size
        return index, *(int(rng.integers(0, s + 1)) if s > 0 else int(s // 2) for s in spare)

    return draw


def batch_numbers(index, batch_size, num_items, devices=ONE_DEVICE):
    """Numbers the tiles that this host cuts for one batch.

    The last batch of an epoch is filled up with the first items of the epoch until every device has
    as many as the others, because the mean over devices would weigh an item of a smaller part more.

    Example: 10 items in batches of 4 on 2 devices of 2 hosts. Batch 1 is 4 5 | 6 7, batch 2 is
    8 | 9; with 9 items batch 2 is 8 | 0.

    Args:
        index: number of the batch.
        batch_size: items in a batch, of all devices together.
        num_items: items in an epoch.
        devices: lib.devices.Devices that share the batch.
    Returns:
        array of whole numbers in [0, num_items).
    """
    first = index * batch_size
    last = min(first + batch_size, num_items)
    filled = last + -(last - first) % devices.num_devices
    numbers = np.arange(first, filled) % num_items
    return np.split(numbers, devices.num_hosts)[devices.host]


def covering_places(shapes, output_size):
    """Lays tiles evenly over every image, as few as cover it.

    Args:
        shapes: (height, width) of each image in pixels.
        output_size: (height, width) of the label's tile in pixels.
    Returns:
        (num_tiles, 3) int: image, row and column of the label's tile.
    """
    places = []
    for index, shape in enumerate(shapes):
        starts = []
        for size, tile in zip(shape, output_size):
            number, last = -(-size // tile), size - tile
            evenly = np.linspace(0, last, number) if number > 1 else np.array([last // 2])
            starts.append(np.rint(evenly).astype(int))
        places += [(index, row, column) for row in starts[0] for column in starts[1]]
    return np.array(places)
