"""Feeds the training: a batch of patches is cut when it is asked for."""

import keras
import numpy as np

from lib.extract_patches import cut_patches


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
        epoch: number of the epoch that comes first, 0 unless training is resumed.
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
        epoch=0,
    ):
        # Several workers have hung at the end of epochs; cutting a batch takes well under 1 ms.
        super().__init__(workers=1, use_multiprocessing=False)
        self.images = images
        self.ground_truth = ground_truth
        self.positions = positions
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.epoch = epoch
        self._order_epoch()

    def __len__(self):
        """Counts the batches of an epoch."""
        return -(-len(self.positions) // self.batch_size)

    def __getitem__(self, index):
        """Cuts one batch.

        Returns:
            (B, 1, H, W) float32 patches and (B, H*W) int32 labels, 1 = vessel.
        """
        start = index * self.batch_size
        positions = self.positions[self._order[start : start + self.batch_size]]
        patches = cut_patches(self.images, positions, *self.patch_size)
        labels = cut_patches(self.ground_truth, positions, *self.patch_size)
        return patches, labels.reshape(len(positions), -1).astype(np.int32)

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
