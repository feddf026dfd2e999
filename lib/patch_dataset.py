"""Feeds the training: a batch of patches is cut when it is asked for."""

import keras
import numpy as np

from lib.devices import ONE_DEVICE
from lib.elastic_deformation import Tile, cut_tile, tile_coordinates, vary_grey_values, warp
from lib.extract_patches import patch_windows, take_patches


class PatchDataset(keras.utils.PyDataset):
    """Cuts batches of patches and their ground truth.

    The original holds 190,000 patches and their one-hot masks in memory, 14 GB; this holds the
    images and one batch. The order of each epoch follows from the seed and the epoch's number, so
    that a resumed training sees what an uninterrupted one would have seen.

    Args:
        images: (num_images, 1, height, width) float32 in [0, 1].
        ground_truth: (num_images, 1, height, width) uint8 in {0, 1}.
        positions: (num_patches, 3) int32: image, top row, left column.
        patch_size: (height, width) of a patch in pixels.
        batch_size: patches in a batch; the last batch of an epoch may be smaller.
        shuffle_seed: a new order every epoch from this seed; None keeps the given order.
        augmentation: lib.elastic_deformation.Augmentation of square patches, drawn anew every epoch
            from the shuffle seed; None leaves them as they are.
        epoch: number of the epoch that comes first, 0 unless training is resumed.
        devices: lib.devices.Devices that share a batch.
    """

    def __init__(
        self,
        images,
        ground_truth,
        positions,
        *,
        patch_size,
        batch_size,
        shuffle_seed=None,
        augmentation=None,
        epoch=0,
        devices=ONE_DEVICE,
    ):
        # Several workers have hung at the end of epochs; one cuts well ahead of the network.
        super().__init__(workers=1, use_multiprocessing=False)
        self.images = images
        self.ground_truth = ground_truth
        self.positions = positions
        self._windows = [patch_windows(stack, *patch_size) for stack in (images, ground_truth)]
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.augmentation = augmentation
        self.epoch = epoch
        self.devices = devices
        self._order_epoch()

    def __len__(self):
        """Counts the batches of an epoch."""
        return -(-len(self.positions) // self.batch_size)

    def __getitem__(self, index):
        """Cuts one batch.

        Returns:
            (B, 1, H, W) float32 patches and (B, H*W) int32 labels, 1 = vessel.
        """
        numbers = batch_numbers(index, self.batch_size, len(self.positions), self.devices)
        patches, labels = self.cut(self._order[numbers])
        return patches, labels.reshape(len(labels), -1).astype(np.int32)

    def cut(self, numbers):
        """Cuts the patches of given numbers as this epoch shows them.

        Args:
            numbers: (B,) places in `positions`.
        Returns:
            (B, 1, H, W) float32 patches and (B, 1, H, W) uint8 labels, 1 = vessel.
        """
        if self.augmentation is None:
            positions = self.positions[numbers]
            return tuple(take_patches(windows, positions) for windows in self._windows)
        pairs = [self._cut_augmented(int(number)) for number in numbers]
        return tuple(np.stack(parts)[:, np.newaxis] for parts in zip(*pairs))

    def _cut_augmented(self, number):
        """Cuts one patch and its labels, (H, W) each, through one random transform."""
        rng = np.random.default_rng([self.shuffle_seed, self.epoch, number])
        index, row, column = self.positions[number]
        tile = Tile(int(row), int(column), self.patch_size[0], self.patch_size[0])
        coordinates = tile_coordinates(tile, self.augmentation, rng)
        patch = warp(self.images[index, 0], coordinates, 1)
        patch = vary_grey_values(patch, self.augmentation, rng)
        return patch, warp(self.ground_truth[index, 0], coordinates, 0)

    def on_epoch_end(self):
        """Goes on to the order of the next epoch."""
        self.epoch += 1
        self._order_epoch()

    def _order_epoch(self):
        num_patches = len(self.positions)
        if self.shuffle_seed is None:
            self._order = np.arange(num_patches)
        else:
            rng = np.random.default_rng([self.shuffle_seed, self.epoch])
            self._order = rng.permutation(num_patches)


class TileDataset(keras.utils.PyDataset):
    """Cuts tiles with their context, labels and weights, deformed at random if asked for.

    The paper's training: one large tile a step. A tile's place and deformation follow from the
    seed, the epoch's number and the tile's, so that a resumed training sees what an uninterrupted
    one would have seen.

    Args:
        images: (num_slices, height, width) float32 in [0, 1].
        labels: (num_slices, height, width) uint8, 1 = cell.
        weights: (num_slices, height, width) float32 weight maps.
        places: (num_tiles, 3) fixed slice, row and column of the label's tile; or a number of
            tiles an epoch, drawn uniformly over the slices.
        sizes: (input size, output size) of a tile in pixels.
        batch_size: tiles in a batch; the last batch of an epoch may be smaller.
        augmentation: lib.elastic_deformation.Augmentation, or None.
        seed: of places and deformations.
        epoch: number of the epoch that comes first, 0 unless training is resumed.
        devices: lib.devices.Devices that share a batch.
    """

    def __init__(
        self,
        images,
        labels,
        weights,
        places,
        *,
        sizes,
        batch_size=1,
        augmentation=None,
        seed=0,
        epoch=0,
        devices=ONE_DEVICE,
    ):
        super().__init__(workers=1, use_multiprocessing=False)
        self.slices = (images, labels, weights)
        self.places = None if np.isscalar(places) else places
        self.num_tiles = places if np.isscalar(places) else len(places)
        self.sizes = sizes
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = epoch
        self.devices = devices

    def __len__(self):
        """Counts the batches of an epoch."""
        return -(-self.num_tiles // self.batch_size)

    def __getitem__(self, index):
        """Cuts one batch.

        Returns:
            (B, 1, H, W) float32 tiles, (B, H'*W') int32 labels, (B, H'*W') float32 weights.
        """
        numbers = batch_numbers(index, self.batch_size, self.num_tiles, self.devices)
        tiles = [self.cut(int(number)) for number in numbers]
        images, labels, weights = (np.stack(parts) for parts in zip(*tiles))
        flat = (len(tiles), -1)
        return images[:, np.newaxis], labels.reshape(flat).astype(np.int32), weights.reshape(flat)

    def cut(self, number):
        """Cuts one tile of this epoch: image (H, W), label and weights (H', W')."""
        rng = np.random.default_rng([self.seed, self.epoch, number])
        index, row, column = self._draw_place(rng) if self.places is None else self.places[number]
        parts = (stack[index] for stack in self.slices)
        tile = Tile(int(row), int(column), *self.sizes)
        return cut_tile(*parts, tile, self.augmentation, rng)

    def on_epoch_end(self):
        """Goes on to the tiles of the next epoch."""
        self.epoch += 1

    def _draw_place(self, rng):
        num_slices, *shape = self.slices[0].shape
        # A tile that is larger than the slice lies in its middle, mirrored around.
        spare = [size - self.sizes[1] for size in shape]
        place = [rng.integers(0, s + 1) if s > 0 else s // 2 for s in spare]
        return rng.integers(num_slices), *place


def batch_numbers(index, batch_size, num_items, devices=ONE_DEVICE):
    """Numbers the patches or tiles that this host cuts for one batch.

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


def covering_places(num_slices, shape, output_size):
    """Lays tiles evenly over every slice, as few as cover it.

    Args:
        num_slices: number of slices.
        shape: (height, width) of a slice in pixels.
        output_size: side of the label's tile in pixels.
    Returns:
        (num_tiles, 3) int: slice, row and column of the label's tile.
    """
    starts = []
    for size in shape:
        number = -(-size // output_size)
        last = size - output_size
        evenly = np.linspace(0, last, number) if number > 1 else np.array([last // 2])
        starts.append(np.rint(evenly).astype(int))
    return np.array([(i, r, c) for i in range(num_slices) for r in starts[0] for c in starts[1]])
