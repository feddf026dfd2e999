"""Tests of feeding the training: what is cut, when, and that seed and epoch decide it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.devices import Devices
from lib.elastic_deformation import NO_AUGMENTATION, Augmentation
from lib.patch_dataset import (
    TileDataset,
    batch_numbers,
    covering_places,
    places_by_area,
    uniform_places,
)

PATCH = (3, 4)
TURNS = replace(NO_AUGMENTATION, flip=True, quarter_turns=True)


@pytest.fixture
def source(rng):
    """Images, ground truth, no weights, and 10 positions of patches 3 x 4."""
    images = rng.random((2, 1, 9, 11), np.float32)
    truth = rng.integers(0, 2, (2, 9, 11)).astype(np.uint8)
    positions = np.stack([rng.integers(0, high, 10) for high in (2, 7, 8)], axis=-1)
    return list(images), list(truth), None, positions


@pytest.fixture
def slices(rng):
    """Two slices of 20 x 24 pixels with labels and weights that tell where a pixel lies."""
    images = rng.random((2, 1, 20, 24), np.float32)
    labels = (images[:, 0] > 0.5).astype(np.uint8)
    weights = np.arange(images.size, dtype=np.float32).reshape(labels.shape)
    return list(images), list(labels), list(weights)


def patches(source, **options):
    return TileDataset(*source, **{"input_size": PATCH, "batch_size": 4, **options})


def drawn_tiles(slices, number, input_side, output_side, **options):
    output_size = (output_side, output_side)
    return TileDataset(
        *slices,
        number,
        input_size=(input_side, input_side),
        output_size=output_size,
        draw_place=uniform_places(2, (20, 24), output_size),
        **options,
    )


def epoch_of(dataset, number=None, first_batch=0):
    """All images of an epoch, batch after batch; of the current one where no number is given."""
    if number is not None:
        dataset.start_epoch(number, first_batch)
    return np.concatenate([dataset[index][0] for index in range(len(dataset))])


# ---------------------------------------------------------------- fixed places


def test_batches_hold_the_patches_in_order_and_the_last_is_smaller(source):
    images, _, _, positions = source
    dataset = patches(source)
    assert len(dataset) == dataset.num_batches_of_epoch == 3
    batches = [dataset[index] for index in range(3)]
    assert [batch[0].shape for batch in batches] == [(4, 1, 3, 4), (4, 1, 3, 4), (2, 1, 3, 4)]
    expected = [images[i][:, top : top + 3, left : left + 4] for i, top, left in positions]
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), expected)


def test_labels_are_rows_of_pixels_behind_each_other(source):
    _, truth, _, positions = source
    images, labels = patches(source)[1]
    assert (images.dtype, labels.dtype, labels.shape) == (np.float32, np.int32, (4, 12))
    index, top, left = positions[4]
    np.testing.assert_array_equal(
        labels[0].reshape(PATCH), truth[index][top : top + 3, left : left + 4]
    )


def test_images_of_any_sizes_channels_and_classes_are_cut_together(rng):
    images = [rng.random((3, *size), np.float32) for size in ((9, 11), (30, 5), (4, 4))]
    labels = [rng.integers(0, 7, image.shape[1:]).astype(np.uint8) for image in images]
    places = covering_places([label.shape for label in labels], (4, 4))
    dataset = TileDataset(images, labels, None, places, input_size=(8, 8), output_size=(4, 4))
    assert len(dataset) == 3 * 3 + 8 * 2 + 1 * 1
    tiles, tile_labels, none = dataset.cut(range(len(places)))
    assert (tiles.shape, tile_labels.shape, none) == ((26, 3, 8, 8), (26, 4, 4), None)
    # The last tile is the whole third image, with two mirrored pixels around.
    np.testing.assert_array_equal(tile_labels[-1], labels[2])
    padded = np.pad(images[2], ((0, 0), (2, 2), (2, 2)), mode="reflect")
    np.testing.assert_array_equal(tiles[-1], padded)


def test_tile_has_context_around_its_label(slices):
    images, labels, weights = slices
    sizes = {"input_size": (12, 14), "output_size": (4, 6)}
    tiles, tile_labels, tile_weights = TileDataset(*slices, np.array([[1, 6, 8]]), **sizes)[0]
    # The label's tile begins at (6, 8); 4 = (12 - 4) / 2 pixels of context lie around it.
    np.testing.assert_array_equal(tiles, images[1][np.newaxis, :, 2:14, 4:18])
    np.testing.assert_array_equal(tile_labels, labels[1][6:10, 8:14].reshape(1, 24))
    np.testing.assert_array_equal(tile_weights, weights[1][6:10, 8:14].reshape(1, 24))
    types = (np.float32, np.int32, np.float32)
    assert (tiles.dtype, tile_labels.dtype, tile_weights.dtype) == types


# ---------------------------------------------------------------- epochs


def test_validation_keeps_its_order_over_the_epochs(source):
    dataset = patches(source)
    np.testing.assert_array_equal(epoch_of(dataset, 2), epoch_of(dataset, 1))


def test_each_epoch_holds_every_patch_once_in_an_order_of_its_own(source):
    dataset = patches(source, seed=1, shuffle=True)
    in_order = epoch_of(patches(source))
    epochs = [epoch_of(dataset), epoch_of(dataset, 2)]
    for epoch in epochs:
        assert sorted(epoch.sum((1, 2, 3))) == pytest.approx(sorted(in_order.sum((1, 2, 3))))
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != in_order).any()


def test_a_new_data_set_stands_at_epoch_1(source):
    dataset = patches(source, seed=1, shuffle=True)
    np.testing.assert_array_equal(epoch_of(dataset), epoch_of(dataset, 1))


def test_order_follows_from_seed_and_epoch(source):
    uninterrupted = patches(source, seed=5, shuffle=True)
    for number in (1, 2, 3):
        epoch = epoch_of(uninterrupted, number)
    resumed = patches(source, seed=5, shuffle=True)
    np.testing.assert_array_equal(epoch_of(resumed, 3), epoch)
    assert (epoch_of(patches(source, seed=6, shuffle=True), 3) != epoch).any()


@pytest.mark.parametrize("augmentation", [None, TURNS])
def test_an_epoch_resumed_in_its_middle_shows_the_batches_that_are_left(source, augmentation):
    options = {"seed": 5, "shuffle": True, "augmentation": augmentation, "input_size": (3, 3)}
    whole = epoch_of(patches(source, **options), 2)
    resumed = patches(source, **options)
    np.testing.assert_array_equal(epoch_of(resumed, 2, first_batch=1), whole[4:])
    assert (len(resumed), resumed.num_batches_of_epoch) == (2, 3)
    # The epoch after it is whole again.
    assert len(epoch_of(resumed, 3)) == 10


def test_drawn_tiles_resume_in_the_middle_of_an_epoch_too(slices):
    options = {"batch_size": 3, "seed": 2, "augmentation": Augmentation()}
    whole = epoch_of(drawn_tiles(slices, 7, 16, 8, **options), 4)
    resumed = epoch_of(drawn_tiles(slices, 7, 16, 8, **options), 4, first_batch=2)
    np.testing.assert_array_equal(resumed, whole[6:])


def test_seed_epoch_and_number_decide_a_tile(slices):
    def tiles(seed, epoch):
        dataset = drawn_tiles(slices, 4, 16, 8, seed=seed, augmentation=Augmentation())
        return epoch_of(dataset, epoch)

    first = tiles(seed=1, epoch=1)
    assert len(first) == 4
    np.testing.assert_array_equal(first, tiles(seed=1, epoch=1))
    assert not np.array_equal(first, tiles(seed=2, epoch=1))
    assert not np.array_equal(first, tiles(seed=1, epoch=2))
    assert not np.array_equal(first[0], first[1])


# ---------------------------------------------------------------- augmentation


def test_images_and_labels_are_shuffled_alike(rng):
    images = rng.integers(0, 2, (1, 1, 9, 11)).astype(np.float32)
    positions = np.stack([np.zeros(10, int), *rng.integers(0, 7, (2, 10))], axis=-1)
    labels = list(images[:, 0].astype(np.uint8))
    dataset = patches((list(images), labels, None, positions), seed=1, shuffle=True)
    for index in range(len(dataset)):
        batch, labels = dataset[index]
        np.testing.assert_array_equal(batch.reshape(len(labels), -1), labels)


def test_augmented_patches_are_one_transform_of_image_and_labels(rng):
    images = rng.integers(0, 2, (1, 1, 9, 11)).astype(np.float32)
    positions = np.stack([np.zeros(30, int), *rng.integers(0, 5, (2, 30))], axis=-1)
    source = (list(images), list(images[:, 0].astype(np.uint8)), None, positions)
    options = {"input_size": (4, 4), "batch_size": 30, "seed": 3}
    plain, _ = patches(source, **options)[0]
    dataset = patches(source, **options, shuffle=True, augmentation=TURNS)
    turned, labels = dataset[0]
    np.testing.assert_array_equal(turned.reshape(30, -1), labels)
    # Turned and mirrored, but each patch is there, with its sum.
    np.testing.assert_array_equal(np.sort(turned.sum((1, 2, 3))), np.sort(plain.sum((1, 2, 3))))
    assert (dataset.cut(np.arange(30))[0] != plain).any()
    first = dataset.cut(np.arange(30))[0]
    dataset.start_epoch(2)
    assert (dataset.cut(np.arange(30))[0] != first).any()


def test_all_channels_of_an_image_are_deformed_alike(rng):
    grey = rng.random((1, 20, 24), np.float32)
    augmentation = replace(NO_AUGMENTATION, elastic_sigma=3.0, rotation_degrees=180.0)
    source = ([np.repeat(grey, 3, axis=0)], [grey[0] > 0.5], None, np.array([[0, 2, 5]]))
    (tile,), _, _ = patches(source, input_size=(12, 12), augmentation=augmentation).cut([0])
    assert tile.std() > 0.1
    np.testing.assert_array_equal(tile[1:], [tile[0], tile[0]])


def test_grey_values_of_patches_vary_and_their_labels_do_not(source):
    options = {"input_size": (3, 3), "batch_size": 10}
    brighter = replace(NO_AUGMENTATION, brightness=0.5)
    varied, labels, _ = patches(source, augmentation=brighter, **options).cut(range(10))
    plain, plain_labels, _ = patches(source, **options).cut(range(10))
    assert (np.abs(varied - plain).max((1, 2, 3)) > 0.01).any()
    np.testing.assert_array_equal(labels, plain_labels)


# With one size, seed and epoch the tiles are those that PatchDataset and TileDataset of commit
# 427e74e cut, so that figures measured there stay: whole epochs were equal to the last bit. Sums of
# images, vessel or cell pixels of each tile, sums of weights, as that commit gave them for batch 1
# of epoch 2 (there too the first epoch of a fit was number 1).
ALL_PARTS = Augmentation(elastic_sigma=3.0, shift=2.0, quarter_turns=True, noise=0.1, zoom=1.5)


@pytest.fixture
def golden_source():
    rng = np.random.default_rng(0)
    images = rng.random((3, 60, 70), np.float32)
    labels = (images > 0.5).astype(np.uint8)
    positions = np.stack([rng.integers(0, n, 12) for n in (3, 45, 55)], axis=-1)
    return list(images[:, np.newaxis]), list(labels), list(images + 1), positions


@pytest.mark.parametrize(
    ("augmentation", "expected", "vessels"),
    [
        (None, 641.5416189432144, [125, 134, 142, 121, 135]),
        (ALL_PARTS, 604.7327899411321, [117, 124, 131, 114, 131]),
    ],
)
def test_patches_are_those_of_before(golden_source, augmentation, expected, vessels):
    images, labels, _, positions = golden_source
    options = {"input_size": (16, 16), "batch_size": 5, "seed": 5, "shuffle": True}
    dataset = TileDataset(images, labels, None, positions, augmentation=augmentation, **options)
    dataset.start_epoch(2)
    tiles, tile_labels = dataset[1]
    assert tiles.sum(dtype=float) == pytest.approx(expected, rel=1e-6)
    assert tile_labels.sum(1).tolist() == vessels


@pytest.mark.parametrize(
    ("augmentation", "expected", "cells", "expected_weights"),
    [
        (None, 2923.9196989536285, [298, 296, 289], 2594.663922071457),
        (ALL_PARTS, 2932.4489399418235, [297, 286, 291], 2586.185808300972),
    ],
)
def test_drawn_tiles_are_those_of_before(
    golden_source, augmentation, expected, cells, expected_weights
):
    dataset = TileDataset(
        *golden_source[:3],
        7,
        input_size=(44, 44),
        output_size=(24, 24),
        batch_size=3,
        seed=5,
        draw_place=uniform_places(3, (60, 70), (24, 24)),
        augmentation=augmentation,
    )
    dataset.start_epoch(2)
    tiles, tile_labels, tile_weights = dataset[1]
    assert tiles.sum(dtype=float) == pytest.approx(expected, rel=1e-6)
    assert tile_labels.sum(1).tolist() == cells
    assert tile_weights.sum(dtype=float) == pytest.approx(expected_weights, rel=1e-6)


def test_last_tenth_of_drives_patches_is_that_of_the_last_two_images():
    # 190,000 patches of 20 images are 9,500 each: the last 19,000 come from images 18 and 19.
    image_of_patch = np.repeat(np.arange(20), 9500)
    assert np.unique(image_of_patch[171000:]).tolist() == [18, 19]
    assert image_of_patch[170999] == 17


# ---------------------------------------------------------------- drawn places


def test_drawn_tiles_lie_in_the_slices_and_differ_from_epoch_to_epoch(slices):
    dataset = drawn_tiles(slices, 7, 8, 4, batch_size=3, seed=2)
    assert len(dataset) == 3
    assert [len(dataset[index][0]) for index in range(3)] == [3, 3, 1]
    first = [dataset[index][2] for index in range(3)]
    corners = np.concatenate(first)[:, 0].astype(int)  # weights number the pixels
    _, rows, columns = np.unravel_index(corners, (2, 20, 24))
    assert rows.max() <= 20 - 4
    assert columns.max() <= 24 - 4
    assert len(np.unique(corners)) > 3
    dataset.start_epoch(2)
    assert (dataset[0][2] != first[0]).any()


def test_tiles_are_drawn_from_all_places(slices):
    corners = drawn_tiles(slices, 4000, 20, 18, batch_size=4000)[0][2][:, 0].astype(int)
    # 2 slices, 20 - 18 + 1 = 3 rows, 24 - 18 + 1 = 7 columns: 42 places
    counts = np.unique(corners, return_counts=True)[1]
    assert len(counts) == 42
    # Chi-squared of 42 equal shares has 41 degrees of freedom and a deviation of sqrt(82) = 9.1.
    expected = 4000 / 42
    assert ((counts - expected) ** 2 / expected).sum() < 41 + 5 * 9.1


def test_a_drawn_tile_larger_than_the_slice_lies_in_its_middle(rng):
    # (20 - 26) // 2 = -3 rows, mirrored on both sides; 24 - 23 + 1 = 2 columns to draw from.
    places = [uniform_places(2, (20, 24), (26, 23))(rng) for _ in range(40)]
    assert {(row, column) for _, row, column in places} == {(-3, 0), (-3, 1)}
    assert {index for index, _, _ in places} == {0, 1}


# ---------------------------------------------------------------- covering places


@settings(max_examples=80, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3),
    tile=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_covering_tiles_cover_every_pixel_with_as_few_as_can(shapes, tile):
    covered = [np.zeros(shape, int) for shape in shapes]
    places = covering_places(shapes, tile)
    for index, row, column in places:
        rows, columns = (slice(max(at, 0), at + n) for at, n in zip((row, column), tile))
        covered[index][rows, columns] += 1
    assert min(image.min() for image in covered) >= 1
    fewest = [np.prod([-(-n // side) for n, side in zip(shape, tile)]) for shape in shapes]
    assert len(places) == sum(fewest)


def test_a_tile_larger_than_the_slice_lies_in_its_middle():
    # (40 - 52) // 2 = -6: the slice is mirrored on both sides.
    assert covering_places([(40, 40)], (52, 52)).tolist() == [[0, -6, -6]]


# ---------------------------------------------------------------- devices


def test_hosts_share_a_batch_and_the_last_one_is_filled_up():
    # The example of batch_numbers: 9 items in batches of 4 on 2 devices of 2 hosts.
    for host, expected in enumerate(([0, 1], [2, 3])):
        devices = Devices(num_devices=2, host=host, num_hosts=2)
        assert batch_numbers(0, 4, 9, devices).tolist() == expected
        assert batch_numbers(2, 4, 9, devices).tolist() == [[8], [0]][host]


def test_a_host_cuts_its_part_of_every_batch(source):
    alone = patches(source, seed=1, shuffle=True)
    parts = [
        patches(source, seed=1, shuffle=True, devices=Devices(2, host, 2)) for host in range(2)
    ]
    for index in range(3):
        together = np.concatenate([part[index][0] for part in parts])
        np.testing.assert_array_equal(together, alone[index][0])


# ---------------------------------------------------------------- places in images of several sizes


def test_places_are_drawn_by_area_and_small_images_count_as_a_tile(rng):
    draw = places_by_area([(40, 30), (20, 30), (5, 4)], (10, 20))
    places = np.array([draw(rng) for _ in range(4000)])
    # Areas: 1200, 600, and 10 x 20 for the image that is smaller than the tile.
    shares = np.bincount(places[:, 0]) / len(places)
    np.testing.assert_allclose(shares, np.array([1200, 600, 200]) / 2000, atol=0.03)
    for index, highest in ((0, (30, 10)), (1, (10, 10))):
        inside = places[places[:, 0] == index, 1:]
        assert tuple(inside.min(0)) == (0, 0) and tuple(inside.max(0)) == highest
    # (5 - 10) // 2 and (4 - 20) // 2: in its middle.
    assert set(map(tuple, places[places[:, 0] == 2, 1:])) == {(-3, -8)}
