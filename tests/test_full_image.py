"""Whole images in one pass, by tiles where they are large, and averaged over flips."""

import math
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.extract_patches import (
    ORIENTATIONS,
    average_orientations,
    full_image_places,
    full_image_tile,
    predict_full_image,
    share_orientations,
)
from lib.unet import NETWORKS
from src.retinaNN_predict import by_full_image

multiples_of_4 = st.integers(1, 60).map(lambda number: 4 * number)


def identity(tiles):
    return tiles


def random_image(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


# ---------------------------------------------------------------- where the tiles lie


def test_places_of_the_example():
    # 20 rows by tiles of 12 with a margin of 4; one column of tiles, because 8 columns fit.
    rows, columns = full_image_places((20, 8), (12, 8), margin=4)
    assert rows == [(0, slice(0, 8)), (4, slice(8, 12)), (8, slice(12, 20))]
    assert columns == [(0, slice(0, 8))]


@given(multiples_of_4, multiples_of_4, st.integers(0, 5).map(lambda number: 4 * number))
def test_tiles_show_every_pixel_once_and_never_their_margin(size, tile, margin):
    tile = min(size, tile + 2 * margin)
    places, _ = full_image_places((size, size), (tile, tile), margin)
    shown = np.concatenate([np.arange(size)[part] for _, part in places])
    assert shown.tolist() == list(range(size))
    for start, part in places:
        assert start % 4 == 0 and start + tile <= size
        assert part.start >= start + (margin if start else 0)
        assert part.stop <= start + tile - (margin if start + tile < size else 0)


@given(multiples_of_4, multiples_of_4)
@settings(max_examples=30, deadline=None)
def test_an_identity_predictor_gives_the_image_back(height, width):
    image = random_image(1, height, width)
    tile = full_image_tile((height, width), margin=8, largest=40)
    counted = []
    predicted = predict_full_image(identity, image, tile, 8, 4, counted.append)
    np.testing.assert_array_equal(predicted, image)
    rows, columns = full_image_places((height, width), tile, 8)
    assert sum(counted) == len(rows) * len(columns)


def test_sizes_of_tiles():
    assert full_image_tile((592, 576), 24) == (592, 576)  # DRIVE: one pass
    assert full_image_tile((2336, 3504), 24) == (812, 912)  # HRF: 3 x 4 tiles
    rows, columns = full_image_places((2336, 3504), (812, 912), 24)
    assert (len(rows), len(columns)) == (3, 4)


@given(multiples_of_4, st.integers(60, 200))
def test_no_tile_is_larger_than_the_largest(size, largest):
    side, _ = full_image_tile((8 * size, 8), 24, largest=largest)
    assert side % 4 == 0 and side <= max(largest, min(largest, 8 * size))


@pytest.mark.parametrize(
    "image_size, tile, margin, words",
    [
        ((18, 16), (16, 16), 4, "multiples of 4"),
        ((16, 16), (10, 16), 4, "multiples of 4"),
        ((16, 16), (20, 16), 4, "at most the image"),
        ((16, 16), (12, 16), 6, "multiples of 4"),
        ((32, 32), (8, 32), 4, "larger than two margins of 4 pixels. Received: 8"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(image_size, tile, margin, words):
    with pytest.raises(ValueError, match=words):
        full_image_places(image_size, tile, margin)


def test_a_largest_tile_of_margins_only_is_refused():
    with pytest.raises(ValueError, match="must be 52 pixels or more.*Received: 48"):
        full_image_tile((100, 100), 24, largest=48)


# ---------------------------------------------------------------- tiles equal one pass


def predictor_of(name, weights, size):
    model = NETWORKS[name].build(1, *size, output_activation="linear", data_format="channels_last")
    if weights is not None:
        model.set_weights(weights)
    return model, lambda x: np.asarray(model.predict_on_batch(x))[..., 1].reshape(-1, 1, *size)


@pytest.mark.parametrize("name, largest", [("unet", 76), ("gnet", 92)])
def test_tiles_equal_one_pass(name, largest):
    image = random_image(1, 112, 144)
    model, whole = predictor_of(name, None, image.shape[1:])
    tile = full_image_tile(image.shape[1:], NETWORKS[name].reach, largest=largest)
    assert max(tile) <= largest < 112
    _, by_tiles = predictor_of(name, model.get_weights(), tile)
    expected = whole(image[np.newaxis])[0]
    predicted = predict_full_image(by_tiles, image, tile, NETWORKS[name].reach)
    assert np.ptp(expected) > 0.001
    np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name, reach", [("unet", 23), ("gnet", 29)])
def test_how_far_the_networks_look(name, reach):
    # Positive weights and no bias keep every ReLU open: what can be seen is seen.
    model, _ = predictor_of(name, None, (96, 96))
    model.set_weights([np.abs(w) for w in model.get_weights()])
    last = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)][-1]
    logits = keras.Model(model.inputs, last.output)
    images = np.zeros((17, 1, 96, 96), np.float32)
    places = [(48 + n // 4, 48 + n % 4) for n in range(16)]  # every place in the pooling grid
    for image, place in zip(images, places):
        image[0][place] = 1e6
    answers = np.asarray(logits.predict_on_batch(images)).reshape(17, 96, 96, -1)
    seen = [np.argwhere((answer != answers[16]).any(-1)) for answer in answers[:16]]
    assert max(np.abs(s - p).max() for s, p in zip(seen, places)) == reach <= NETWORKS[name].reach
    assert NETWORKS[name].reach % NETWORKS[name].multiple == 0


@pytest.mark.slow
def test_an_image_of_hrf_takes_less_than_4_gb():
    code = """
import numpy as np
from lib.extract_patches import full_image_tile, predict_full_image
from lib.unet import NETWORKS, get_unet
reach = NETWORKS["unet"].reach
tile = full_image_tile((2336, 3504), reach)
model = get_unet(1, *tile, data_format="channels_last")
predict = lambda x: np.asarray(model.predict_on_batch(x))[..., 1].reshape(-1, 1, *tile)
image = np.random.default_rng(0).random((1, 2336, 3504), np.float32)
assert predict_full_image(predict, image, tile, reach).shape == (1, 2336, 3504)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert before < peak < 4 * 2**20  # in kilobytes


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("rows", "columns", "most"),
    [((70, 90), (100, 130), 96 * 112), ((0, 30), (190, 201), 80 * 64), ((3, 3), (0, 1), 0)],
)
def test_a_window_around_the_fov_is_predicted_as_the_whole_image(name, rows, columns, most):
    image = random_image(1, 150, 201)
    fov = np.zeros((1, 150, 201), np.float32)
    fov[0, slice(*rows), slice(*columns)] = 1
    seen, models = [], {}

    def predictor(tiles):
        size = tiles.shape[2:]
        seen.append(math.prod(size))
        if size not in models:
            weights = next(iter(models.values()))[0].get_weights() if models else None
            models[size] = predictor_of(name, weights, size)
        return models[size][1](tiles)

    configuration = SimpleNamespace(
        training_settings=SimpleNamespace(network=name),
        data_attributes=SimpleNamespace(channels="grey"),
    )
    predict, *_ = by_full_image(configuration, predictor, image.shape[1:])
    expected = predict(image)
    seen.clear()
    predicted = predict(np.concatenate([image, fov]))
    assert sum(seen) <= most
    assert predicted.shape == expected.shape
    inside = fov > 0
    np.testing.assert_allclose(predicted[inside], expected[inside], rtol=0, atol=1e-6)


# ---------------------------------------------------------------- averaging over orientations


def identical(image):
    return np.concatenate([image, 1 - image])


@pytest.mark.parametrize("number", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(1, 8, 12), (2, 5, 5)])
def test_orientations_average_an_even_predictor_to_itself(number, shape):
    image = random_image(*shape)
    averaged = average_orientations(identical, image, ORIENTATIONS[number])
    np.testing.assert_array_equal(averaged, identical(image))
    assert averaged.dtype == np.float32


def corner(image):
    answer = np.zeros((1, *image.shape[1:]), np.float32)
    answer[0, 0, 0] = 1
    return answer


@pytest.mark.parametrize("number", [4, 8])
def test_orientations_of_a_predictor_that_marks_a_corner(number):
    # Each of the four corners is the top left one of one orientation in four: 1/4 each.
    expected = np.zeros((1, 3, 5))
    expected[0][np.ix_([0, 2], [0, 4])] = 0.25
    image = np.zeros((1, 3, 5), np.float32)
    np.testing.assert_array_equal(
        average_orientations(corner, image, ORIENTATIONS[number]), expected
    )


def test_two_orientations_are_mirrored_left_right():
    image = np.zeros((1, 3, 5), np.float32)
    averaged = average_orientations(corner, image, ORIENTATIONS[2])
    np.testing.assert_array_equal(averaged[0, 0], [0.5, 0, 0, 0, 0.5])
    assert averaged.sum() == 1


def test_eight_orientations_show_a_predictor_all_symmetries_of_the_square():
    seen = []

    def remember(image):
        seen.append(image[0].tolist())
        return image

    square = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    average_orientations(remember, square, ORIENTATIONS[8])
    assert len({str(image) for image in seen}) == 8


def test_orientations_are_shared_out_each_once_before_one_comes_again():
    first, second, third = share_orientations((4, 2, 1))
    assert [len(first), len(second), len(third)] == [4, 2, 1]
    assert len({*first, *second, *third}) == 7
    # Of four every quarter turn, two of them mirrored.
    assert sorted(turns for turns, _, _ in first) == [0, 1, 2, 3]
    assert sum(step < 0 for _, _, step in first) == 2
    assert all(set(shared) == set(ORIENTATIONS[8]) for shared in share_orientations((8, 8)))
    assert share_orientations((8, 1)) == [share_orientations((8,))[0], first[:1]]
