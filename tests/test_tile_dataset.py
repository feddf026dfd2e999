"""Tiles for the membrane training: what is cut, when, and that the seed decides it."""

import numpy as np
import pytest

from lib.elastic_deformation import Augmentation
from lib.patch_dataset import TileDataset, covering_places

SIZES = (92, 52)  # depth 2: margin 20


@pytest.fixture
def stacks(rng):
    images = rng.random((3, 100, 120), np.float32)
    return images, (images > 0.5).astype(np.uint8), images + 1


def test_a_batch_holds_tiles_labels_and_weights_of_one_place(stacks):
    tiles = TileDataset(*stacks, np.array([[2, 30, 40]]), sizes=SIZES)
    images, labels, weights = tiles[0]
    assert (images.shape, images.dtype) == ((1, 1, 92, 92), np.float32)
    assert (labels.shape, labels.dtype) == ((1, 52 * 52), np.int32)
    assert (weights.shape, weights.dtype) == ((1, 52 * 52), np.float32)
    # The label's tile starts at (30, 40); the image's 20 pixels before: rows 10 ... 101, of which
    # 100 and 101 are mirrored rows 98 and 97.
    expected = np.pad(stacks[0][2], ((0, 2), (0, 0)), mode="reflect")[10:102, 20:112]
    np.testing.assert_allclose(images[0, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(labels[0], stacks[1][2, 30:82, 40:92].ravel())
    np.testing.assert_allclose(weights[0], stacks[2][2, 30:82, 40:92].ravel(), atol=1e-6)


def test_seed_epoch_and_number_decide_a_tile(stacks):
    def tiles(**options):
        dataset = TileDataset(
            *stacks, 4, sizes=SIZES, batch_size=3, augmentation=Augmentation(), **options
        )
        return np.concatenate([dataset[index][0] for index in range(len(dataset))])

    first = tiles(seed=1)
    assert len(first) == 4
    np.testing.assert_array_equal(first, tiles(seed=1))
    assert not np.array_equal(first, tiles(seed=2))
    assert not np.array_equal(first, tiles(seed=1, epoch=1))
    assert not np.array_equal(first[0], first[1])


def test_an_epoch_later_is_the_next_epoch(stacks):
    running = TileDataset(*stacks, 2, sizes=SIZES, augmentation=Augmentation(), seed=5)
    running.on_epoch_end()
    resumed = TileDataset(*stacks, 2, sizes=SIZES, augmentation=Augmentation(), seed=5, epoch=1)
    np.testing.assert_array_equal(running[1][0], resumed[1][0])


def test_places_spread_over_all_slices_and_rows(stacks):
    tiles = TileDataset(*stacks, 400, sizes=SIZES, seed=0)
    places = np.array([tiles._draw_place(np.random.default_rng(n)) for n in range(400)])
    assert set(places[:, 0]) == {0, 1, 2}
    # 100 - 52 = 48 and 120 - 52 = 68: the label's tile stays in the slice, and reaches its edges.
    assert (places[:, 1].min(), places[:, 1].max()) == (0, 48)
    assert (places[:, 2].min(), places[:, 2].max()) == (0, 68)


def test_covering_places_cover_every_pixel():
    places = covering_places(2, (100, 120), 52)
    covered = np.zeros((2, 100, 120), bool)
    for index, row, column in places:
        assert 0 <= row <= 48
        assert 0 <= column <= 68
        covered[index, row : row + 52, column : column + 52] = True
    assert covered.all()
    assert len(places) == 2 * 2 * 3  # 100 / 52 and 120 / 52, rounded up


def test_a_tile_larger_than_the_slice_lies_in_its_middle():
    # (40 - 52) // 2 = -6: the slice is mirrored on both sides.
    assert covering_places(1, (40, 40), 52).tolist() == [[0, -6, -6]]
