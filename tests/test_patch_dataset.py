"""Tests of feeding the training: batches of patches and of tiles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.elastic_deformation import NO_AUGMENTATION, Augmentation
from lib.patch_dataset import PatchDataset, TileDataset, covering_places

PATCH = (3, 4)


@pytest.fixture
def source(rng):
    """Images, ground truth and 10 positions of patches 3 x 4."""
    images = rng.random((2, 1, 9, 11), np.float32)
    truth = rng.integers(0, 2, images.shape).astype(np.uint8)
    positions = np.stack([rng.integers(0, high, 10) for high in (2, 7, 8)], axis=-1)
    return images, truth, positions


def patches(source, **options):
    return PatchDataset(*source, patch_size=PATCH, batch_size=4, **options)


def epoch_of(dataset):
    """All images of an epoch, batch after batch."""
    return np.concatenate([dataset[index][0] for index in range(len(dataset))])


def test_batches_hold_the_patches_in_order_and_the_last_is_smaller(source):
    images, truth, positions = source
    dataset = patches(source)
    assert len(dataset) == 3
    batches = [dataset[index] for index in range(3)]
    assert [batch[0].shape for batch in batches] == [(4, 1, 3, 4), (4, 1, 3, 4), (2, 1, 3, 4)]
    cut = [(slice(top, top + 3), slice(left, left + 4)) for _, top, left in positions]
    expected = [images[i, :, rows, columns] for (i, *_), (rows, columns) in zip(positions, cut)]
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), expected)


def test_labels_are_rows_of_pixels_behind_each_other(source):
    _, truth, positions = source
    images, labels = patches(source)[1]
    assert (images.dtype, labels.dtype, labels.shape) == (np.float32, np.int32, (4, 12))
    index, top, left = positions[4]
    np.testing.assert_array_equal(
        labels[0].reshape(PATCH), truth[index, 0, top : top + 3, left : left + 4]
    )


def test_validation_keeps_its_order_over_the_epochs(source):
    dataset = patches(source)
    first = epoch_of(dataset)
    dataset.on_epoch_end()
    np.testing.assert_array_equal(epoch_of(dataset), first)


def test_each_epoch_holds_every_patch_once_in_an_order_of_its_own(source):
    dataset = patches(source, shuffle_seed=1)
    in_order = epoch_of(patches(source))
    epochs = [epoch_of(dataset)]
    dataset.on_epoch_end()
    epochs.append(epoch_of(dataset))
    for epoch in epochs:
        assert sorted(epoch.sum((1, 2, 3))) == pytest.approx(sorted(in_order.sum((1, 2, 3))))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != in_order).any()


def test_images_and_labels_are_shuffled_alike(rng):
    images = rng.integers(0, 2, (1, 1, 9, 11)).astype(np.float32)
    positions = np.stack([np.zeros(10, int), *rng.integers(0, 7, (2, 10))], axis=-1)
    dataset = patches((images, images.astype(np.uint8), positions), shuffle_seed=1)
    for index in range(len(dataset)):
        batch, labels = dataset[index]
        np.testing.assert_array_equal(batch.reshape(len(labels), -1), labels)


def test_order_follows_from_seed_and_epoch(source):
    uninterrupted = patches(source, shuffle_seed=5)
    uninterrupted.on_epoch_end()
    uninterrupted.on_epoch_end()
    resumed = patches(source, shuffle_seed=5, epoch=2)
    np.testing.assert_array_equal(epoch_of(resumed), epoch_of(uninterrupted))
    assert (epoch_of(patches(source, shuffle_seed=6, epoch=2)) != epoch_of(resumed)).any()


def test_augmented_patches_are_one_transform_of_image_and_labels(rng):
    images = rng.integers(0, 2, (1, 1, 9, 11)).astype(np.float32)
    positions = np.stack([np.zeros(30, int), *rng.integers(0, 5, (2, 30))], axis=-1)
    augmentation = Augmentation(
        elastic_sigma=0, rotation_degrees=0, shift=0, quarter_turns=True, brightness=0, contrast=0
    )
    options = {"patch_size": (4, 4), "batch_size": 30}
    source = (images, images.astype(np.uint8), positions)
    plain, _ = PatchDataset(*source, **options)[0]
    dataset = PatchDataset(*source, **options, shuffle_seed=3, augmentation=augmentation)
    patches, labels = dataset[0]
    np.testing.assert_array_equal(patches.reshape(30, -1), labels)
    # Turned and mirrored, but each patch is there, with its sum.
    np.testing.assert_array_equal(np.sort(patches.sum((1, 2, 3))), np.sort(plain.sum((1, 2, 3))))
    dataset.on_epoch_end()
    resumed = PatchDataset(*source, **options, shuffle_seed=3, augmentation=augmentation, epoch=1)
    np.testing.assert_array_equal(resumed[0][0], dataset[0][0])
    assert (dataset.cut(np.arange(30))[0] != plain).any()


def test_grey_values_of_patches_vary_and_their_labels_do_not(source):
    images, truth, positions = source
    augmentation = replace(NO_AUGMENTATION, brightness=0.5)
    options = {"patch_size": (3, 3), "batch_size": 10, "shuffle_seed": 0}
    patches, labels = PatchDataset(*source, augmentation=augmentation, **options).cut(range(10))
    plain, plain_labels = PatchDataset(*source, **options).cut(range(10))
    assert (np.abs(patches - plain).max((1, 2, 3)) > 0.01).any()
    np.testing.assert_array_equal(labels, plain_labels)


def test_last_tenth_of_drives_patches_is_that_of_the_last_two_images():
    # 190,000 patches of 20 images are 9,500 each: the last 19,000 come from images 18 and 19.
    image_of_patch = np.repeat(np.arange(20), 9500)
    assert np.unique(image_of_patch[171000:]).tolist() == [18, 19]
    assert image_of_patch[170999] == 17


# ---------------------------------------------------------------- tiles


@pytest.fixture
def slices(rng):
    """Two slices of 20 x 24 pixels with labels and weights that tell where a pixel lies."""
    images = rng.random((2, 20, 24), np.float32)
    labels = (images > 0.5).astype(np.uint8)
    weights = np.arange(images.size, dtype=np.float32).reshape(images.shape)
    return images, labels, weights


def test_tile_has_context_around_its_label(slices):
    images, labels, weights = slices
    dataset = TileDataset(*slices, np.array([[1, 6, 8]]), sizes=(12, 4))
    tiles, tile_labels, tile_weights = dataset[0]
    # The label's tile begins at (6, 8); 4 = (12 - 4) / 2 pixels of context lie around it.
    np.testing.assert_array_equal(tiles, images[np.newaxis, 1:2, 2:14, 4:16])
    np.testing.assert_array_equal(tile_labels, labels[1:2, 6:10, 8:12].reshape(1, 16))
    np.testing.assert_array_equal(tile_weights, weights[1:2, 6:10, 8:12].reshape(1, 16))
    assert (tiles.dtype, tile_labels.dtype, tile_weights.dtype) == (
        np.float32,
        np.int32,
        np.float32,
    )


def test_drawn_tiles_lie_in_the_slices_and_differ_from_epoch_to_epoch(slices):
    dataset = TileDataset(*slices, 7, sizes=(8, 4), batch_size=3, seed=2)
    assert len(dataset) == 3
    assert [len(dataset[index][0]) for index in range(3)] == [3, 3, 1]
    first = [dataset[index][2] for index in range(3)]
    corners = np.concatenate(first)[:, 0].astype(int)  # weights number the pixels
    _, rows, columns = np.unravel_index(corners, slices[0].shape)
    assert rows.max() <= 20 - 4
    assert columns.max() <= 24 - 4
    assert len(np.unique(corners)) > 3
    dataset.on_epoch_end()
    assert (dataset[0][2] != first[0]).any()
    resumed = TileDataset(*slices, 7, sizes=(8, 4), batch_size=3, seed=2, epoch=1)
    np.testing.assert_array_equal(resumed[0][2], dataset[0][2])


def test_tiles_are_drawn_from_all_places(slices):
    dataset = TileDataset(*slices, 4000, sizes=(20, 18), batch_size=4000)
    corners = dataset[0][2][:, 0].astype(int)
    # 2 slices, 20 - 18 + 1 = 3 rows, 24 - 18 + 1 = 7 columns: 42 places
    counts = np.unique(corners, return_counts=True)[1]
    assert len(counts) == 42
    # Chi-squared of 42 equal shares has 41 degrees of freedom and a deviation of sqrt(82) = 9.1.
    expected = 4000 / 42
    assert ((counts - expected) ** 2 / expected).sum() < 41 + 5 * 9.1


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    output_size=st.integers(1, 12),
)
def test_covering_tiles_cover_every_pixel_with_as_few_as_can(shape, output_size):
    places = covering_places(2, shape, output_size)
    covered = np.zeros((2, *shape), int)
    for index, row, column in places:
        rows = slice(max(row, 0), row + output_size)
        covered[index, rows, max(column, 0) : column + output_size] += 1
    assert covered.min() >= 1
    assert len(places) == 2 * np.prod([-(-size // output_size) for size in shape])
