"""Tests of reading the membranes that a configuration names, and of what is held out."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib.configuration import read_configuration
from lib.files import load_hdf5, write_hdf5
from lib.slices import load_labelled, split_validation
from lib.unpadded import at_scales
from src.membrane_task import load_test_slices
from src.tasks import TASKS
from tests.small_data import problems_of, write_configuration
from tests.tiny_experiments import write_membrane

SCALING = "minmax_stack"


@pytest.fixture
def configuration(in_tmp_path):
    """The configuration of three labelled slices of 40 x 48 pixels, without ids."""
    return read_configuration(write_membrane(in_tmp_path), TASKS)


@pytest.fixture
def file(in_tmp_path):
    """A function that gives the path of one kind of file."""
    return lambda kind, part="train": in_tmp_path / f"membrane/ISBI_dataset_{kind}_{part}.hdf5"


def test_labelled_slices_are_scaled_with_labels_weights_and_ids(configuration, file):
    slices = load_labelled(configuration, SCALING)
    stored = load_hdf5(file("imgs"))[:, 0].astype(np.float32)
    lowest, highest = stored.min(), stored.max()
    expected = (stored - lowest) / (highest - lowest)
    np.testing.assert_allclose(slices["images"], expected, atol=1e-6)
    assert slices["images"].dtype == np.float32
    np.testing.assert_array_equal(slices["labels"] * 255, load_hdf5(file("groundTruth"))[:, 0])
    np.testing.assert_array_equal(slices["weights"], load_hdf5(file("weightMaps"))[:, 0])
    assert slices["ids"] == ["00", "01", "02"]


def test_slices_without_labels_are_read_where_there_are_some(configuration, file):
    assert load_test_slices(configuration, SCALING) is None
    write_hdf5(file("imgs", "test"), load_hdf5(file("imgs"))[:2], ids=["a", "b"])
    slices = load_test_slices(configuration, SCALING)
    assert slices["images"].shape == (2, 40, 48)
    assert slices["ids"] == ["a", "b"]


def test_problems_of_all_files_are_listed_at_once(configuration, file):
    write_hdf5(file("imgs"), load_hdf5(file("imgs")), ids=["a", "b"])
    write_hdf5(file("groundTruth"), load_hdf5(file("groundTruth"))[:, :, 1:])
    write_hdf5(file("weightMaps"), np.zeros((3, 1, 40, 48), np.float32))
    ids, labels, weights = problems_of(load_labelled, configuration, SCALING)
    assert f"{file('imgs')} holds 2 ids for 3 images." in ids
    assert f"{file('groundTruth')} holds arrays of 48 x 39 pixels for images of 48 x 40" in labels
    assert f"{file('weightMaps')} must hold weights of at least 0, some above." in weights


def test_colour_slices_are_refused(configuration, file):
    write_hdf5(file("imgs", "test"), np.zeros((2, 3, 40, 48), np.uint8))
    (problem,) = problems_of(load_test_slices, configuration, SCALING)
    assert f"{file('imgs', 'test')} must hold masks of 1 channel(s). Received: 3." in problem


def test_network_must_see_less_context_than_the_slices_have(in_tmp_path):
    # A depth of 4 has a margin of 92 pixels: mirrored at 40, it would show mirrors of mirrors.
    path = write_membrane(in_tmp_path, "depth = 4")
    path.write_text(path.read_text().replace("tile_size = 44", "tile_size = 204"))
    configuration = read_configuration(path, TASKS)
    (problem,) = problems_of(load_labelled, configuration, SCALING)
    assert "the margin of the network (92 pixels a side) is below the sides" in problem
    assert "(48 x 40)" in problem


def test_slices_must_stay_larger_than_the_context_at_every_scale(configuration):
    configuration = configuration.with_values("testing_settings", scales=(1.0, 0.6))
    load_labelled(configuration, SCALING)
    configuration = configuration.with_values("testing_settings", scales=(1.0, 0.5))
    (problem,) = problems_of(load_labelled, configuration, SCALING)
    assert "scales must be such that the slices (48 x 40) stay larger than the margin" in problem
    assert problem.endswith("Received: (1.0, 0.5). Leave out the small ones.")


def test_slices_are_seen_at_each_scale_and_membranes_at_their_best():
    seen = []

    def predict(image, word):
        seen.append((image.shape, word))
        return np.full_like(image, 0.6 if image.shape[1] == 20 else 0.9)

    def at(*scales):
        settings = SimpleNamespace(testing_settings=SimpleNamespace(scales=scales))
        return at_scales(settings, predict)(np.zeros((1, 40, 48), np.float32), "tile")

    expected = 1 - ((0.4**4 + 0.1**4) / 2) ** 0.25
    np.testing.assert_allclose(at(0.5, 1), np.full((1, 40, 48), expected), rtol=1e-6)
    assert seen == [((1, 20, 24), "tile"), ((1, 40, 48), "tile")]
    np.testing.assert_array_equal(at(1), np.full((1, 40, 48), 0.9, np.float32))
    np.testing.assert_array_equal(at(0.5), np.full((1, 40, 48), 0.6, np.float32))


def test_a_size_above_its_own_gives_no_probability_above_1():
    settings = SimpleNamespace(testing_settings=SimpleNamespace(scales=(1.6,)))
    predicted = at_scales(settings, np.ones_like)(np.zeros((1, 512, 512), np.float32))
    assert predicted.max() == 1


@pytest.mark.parametrize(
    ("split", "num_slices", "first"),
    # A share holds out one slice at least: 0.1 of 3 is none.
    [(5, 30, 25), (0.1, 30, 27), (0.5, 5, 3), (0.1, 3, 2), (0, 3, 3)],
)
def test_last_slices_are_held_out(tmp_path, split, num_slices, first):
    changes = {"validation_split": split, "best_last": "last"}
    path = write_configuration(tmp_path, task="membrane", **changes)
    parts = split_validation(read_configuration(path, TASKS), num_slices)
    assert parts == {"training": slice(0, first), "validation": slice(first, num_slices)}


@pytest.mark.parametrize(
    ("split", "num_slices", "expected", "advice"),
    [
        (5, 5, "below 5, the number of labelled slices", "Use 1."),
        (2, 2, "below 2, the number of labelled slices", "Use 1."),
        (0.9, 3, "a smaller share of 3 labelled slices", "Use 1."),
        (0.5, 1, "0 with one labelled slice", "[testing settings] best_last = last goes with 0."),
    ],
)
def test_no_slice_left_to_train_on(tmp_path, split, num_slices, expected, advice):
    path = write_configuration(tmp_path, task="membrane", validation_split=split)
    (problem,) = problems_of(split_validation, read_configuration(path, TASKS), num_slices)
    assert f"validation_split must be {expected}, or none is left to train on" in problem
    assert f"Received: {split}. {advice}" in problem
