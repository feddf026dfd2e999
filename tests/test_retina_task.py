"""Tests of reading the data that a configuration names, and of telling what does not fit."""

from pathlib import Path

import numpy as np
import pytest

from lib.configuration import read_configuration
from lib.errors import UserError
from lib.files import load_hdf5, load_hdf5_extra, write_hdf5
from prepare_datasets_DRIVE import OUTPUT_FOLDER, prepare
from src.retina_task import data_files, load_subset, num_training_patches, validation_images
from src.tasks import TASKS
from tests.small_data import write_configuration


def configure(**changes):
    """Reads a configuration in the current folder."""
    return read_configuration(write_configuration(".", **changes), TASKS)


@pytest.fixture
def configuration(drive_folder, in_tmp_path):
    """A configuration beside a small data set that was prepared for it."""
    prepare(drive_folder, in_tmp_path / OUTPUT_FOLDER)
    return configure()


def rewrite(path, change=None, **others):
    """Writes a file anew with its array and other data sets changed; None leaves one out."""
    names = ("ids", "second_observer", "has_ground_truth")
    kept = {name: load_hdf5_extra(path, name) for name in names}
    image = load_hdf5(path)
    write_hdf5(path, change(image) if change else image, **{**kept, **others})


def problems_of(configuration, subset):
    with pytest.raises(UserError) as error:
        load_subset(configuration, subset)
    return error.value.problems


def test_files_are_those_that_the_configuration_names(configuration):
    files = data_files(configuration, "test")
    folder = Path.cwd() / "DRIVE_datasets_training_testing"
    assert files == {
        "images": folder / "DRIVE_dataset_imgs_test.hdf5",
        "fov_masks": folder / "DRIVE_dataset_borderMasks_test.hdf5",
        "ground_truth": folder / "DRIVE_dataset_groundTruth_test.hdf5",
    }


def test_training_data_are_images_as_stored_and_masks_of_0_and_1(configuration):
    data = load_subset(configuration, "train")
    files = data_files(configuration, "train")
    np.testing.assert_array_equal(data["images"], load_hdf5(files["images"]))
    assert data["images"].shape == (3, 3, 20, 24)
    for kind in ("fov_masks", "ground_truth"):
        assert (data[kind].shape, data[kind].dtype) == ((3, 1, 20, 24), np.uint8)
        np.testing.assert_array_equal(data[kind] * 255, load_hdf5(files[kind]))
        assert data[kind].max() == 1
    assert data["ids"] == ["21", "22", "23"]
    assert data["second_observer"] is None


def test_second_observer_is_read_where_there_is_one(configuration):
    data = load_subset(configuration, "test")
    # The fixture's second observer sees half of the vessels.
    assert data["second_observer"].sum() * 2 == data["ground_truth"].sum()
    assert np.unique(data["second_observer"]).tolist() == [0, 1]


def test_float64_files_of_retina_unet_without_ids_are_read(configuration):
    expected = load_subset(configuration, "test")
    for path in data_files(configuration, "test").values():
        image = load_hdf5(path)
        write_hdf5(path, image.astype(np.float64))
    data = load_subset(configuration, "test")
    for kind in ("images", "fov_masks", "ground_truth"):
        np.testing.assert_array_equal(data[kind], expected[kind])
    assert data["ground_truth"].dtype == np.uint8
    assert data["ids"] == ["00", "01"]


def test_masks_of_0_and_1_are_read(configuration):
    expected = load_subset(configuration, "train")["fov_masks"]
    rewrite(data_files(configuration, "train")["fov_masks"], lambda masks: masks // 255)
    np.testing.assert_array_equal(load_subset(configuration, "train")["fov_masks"], expected)


def test_test_images_without_ground_truth(configuration):
    files = data_files(configuration, "test")
    files["ground_truth"].unlink()
    rewrite(files["images"], has_ground_truth=False)
    data = load_subset(configuration, "test")
    assert data["ground_truth"] is None
    assert data["second_observer"] is None
    assert data["fov_masks"].shape == (2, 1, 20, 24)


def test_ground_truth_that_should_be_there_is_missed(configuration):
    path = data_files(configuration, "test")["ground_truth"]
    path.unlink()
    (problem,) = problems_of(configuration, "test")
    assert problem.startswith(f"{path} does not exist. Prepare the data first, or fix path_local")


def test_all_missing_files_are_listed_at_once(configuration):
    files = data_files(configuration, "train")
    files["fov_masks"].unlink()
    files["ground_truth"].write_bytes(b"cut off")
    missing, truncated = problems_of(configuration, "train")
    assert missing.startswith(f"{files['fov_masks']} does not exist.")
    assert truncated.startswith(f"{files['ground_truth']} is not a whole HDF5 file")


def test_another_number_of_masks(configuration):
    path = data_files(configuration, "train")["fov_masks"]
    rewrite(path, lambda masks: masks[:2], ids=["21", "22"])
    (problem,) = problems_of(configuration, "train")
    assert f"{path} holds 2 arrays for the 3 images of DRIVE_dataset_imgs_train.hdf5." in problem


def test_masks_of_another_size(configuration):
    path = data_files(configuration, "train")["ground_truth"]
    rewrite(path, lambda masks: masks[..., :-2])
    (problem,) = problems_of(configuration, "train")
    assert f"{path} holds arrays of 22 x 20 pixels for images of 24 x 20" in problem


def test_masks_of_other_images(configuration):
    path = data_files(configuration, "train")["ground_truth"]
    rewrite(path, ids=["31", "32", "33"])
    (problem,) = problems_of(configuration, "train")
    assert f"{path} belongs to other images (ids 31 to 33) than DRIVE_dataset_imgs" in problem
    assert "(ids 21 to 23). Correct the file names in [data paths]." in problem


def test_masks_of_other_values(configuration):
    path = data_files(configuration, "train")["fov_masks"]
    rewrite(path, lambda masks: masks // 2)
    (problem,) = problems_of(configuration, "train")
    assert f"{path} must hold masks of 0 and 255. Received: 2 values from 0 to 127." in problem


def test_files_swapped_in_the_configuration(configuration):
    images, masks = "DRIVE_dataset_imgs_train.hdf5", "DRIVE_dataset_borderMasks_train.hdf5"
    swapped = configure(train_imgs_original=masks, train_border_masks=images)
    problems = problems_of(swapped, "train")
    assert len(problems) == 3
    assert f"{masks} must hold RGB images of 3 channel(s). Received: 1." in problems[0]
    assert f"{images} must hold masks of 1 channel(s). Received: 3." in problems[1]
    assert f"{images} must hold masks of 0 and 255. Received: " in problems[2]
    assert all("Are files swapped in [data paths]?" in problem for problem in problems)


@pytest.mark.parametrize("shape", [(2, 1, 20, 22), (1, 1, 20, 24), (2, 20, 24)])
def test_second_observer_of_another_shape_is_refused(configuration, shape):
    path = data_files(configuration, "test")["ground_truth"]
    rewrite(path, second_observer=np.zeros(shape, np.uint8))
    assert problems_of(configuration, "test") == [
        f"{path}: `second_observer` must hold masks like `image`, of the shape (2, 1, 20, 24). "
        f"Received: {shape}. Prepare the data again."
    ]


def test_ids_are_as_many_as_images_and_may_be_numbers(configuration):
    files = data_files(configuration, "train")
    for path in files.values():
        rewrite(path, ids=np.array([21, 22, 23]))
    assert load_subset(configuration, "train")["ids"] == ["21", "22", "23"]
    rewrite(files["images"], ids=["21", "22"])
    assert f"{files['images']} holds 2 ids for 3 images." in problems_of(configuration, "train")[0]


# ---------------------------------------------------------------- what validates


@pytest.mark.parametrize(
    ("split", "number", "validating"),
    [
        # 60 patches, 20 an image: the patches that train, the images that give none of them.
        (0.1, 54, slice(3, 3)),
        (0.34, 39, slice(2, 3)),  # 39.6 patches
        (1, 40, slice(2, 3)),
        (2, 20, slice(1, 3)),
    ],
)
def test_last_patches_validate_by_share_or_by_images(in_tmp_path, split, number, validating):
    configuration = configure(validation_split=split)
    assert num_training_patches(configuration, 3) == number
    assert validation_images(configuration, 3) == validating


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"N_subimgs": 61}, "N_subimgs must be a multiple of the 3 training images. Received: 61."),
        ({"N_subimgs": 2}, "Received: 2. Use 3."),
        ({"validation_split": 3}, "validation_split must be below 3, the number of training"),
    ],
)
def test_patches_that_do_not_fit_the_images(in_tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        num_training_patches(configure(**changes), 3)
    assert words in str(error.value)
