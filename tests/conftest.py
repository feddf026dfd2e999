"""Fixtures that several test files share."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# TensorFlow reads it once, when it is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A file with the keys of retina-unet and no others, laid out as its users have it.
ORIGINAL_KEYS_ONLY = """[data paths]
path_local =  ./DRIVE_datasets_training_testing/
train_imgs_original = DRIVE_dataset_imgs_train.hdf5
train_groundTruth = DRIVE_dataset_groundTruth_train.hdf5
train_border_masks = DRIVE_dataset_borderMasks_train.hdf5
test_imgs_original = DRIVE_dataset_imgs_test.hdf5
test_groundTruth = DRIVE_dataset_groundTruth_test.hdf5
test_border_masks = DRIVE_dataset_borderMasks_test.hdf5



[experiment name]
name = test


[data attributes]
#Size of a patch
patch_height = 48
patch_width = 48


[training settings]
#patches in all:
N_subimgs = 190000
#only inside the field of view:
inside_FOV = False
#Epochs
N_epochs = 150
batch_size = 32
#in the background
nohup = True


[testing settings]
#best==lowest loss, last==last epoch
best_last = best
#test images (max 20)
full_images_to_test = 20
#images side by side
N_group_visual = 1
#Averaged over overlapping patches
average_mode = True
#Only if average_mode==True
stride_height = 5
stride_width = 5
#in the background
nohup = False
"""


@pytest.fixture(autouse=True)
def keras_as_it_starts():
    """Puts back what a test, or a script that it calls, set for its whole process."""
    yield
    if "keras" in sys.modules:
        config = sys.modules["keras"].config
        config.set_dtype_policy("float32")
        config.set_floatx("float32")
        config.set_epsilon(1e-7)


@pytest.fixture
def rng():
    """A generator that draws the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture
def unet_test_data():
    """The folder with DRIVE/, ISBI2012/ and orobix_test/, which is not part of the project."""
    if "UNET_TEST_DATA" not in os.environ:
        pytest.skip("the environment variable UNET_TEST_DATA names no folder of real data")
    return Path(os.environ["UNET_TEST_DATA"])


@pytest.fixture
def in_tmp_path(tmp_path, monkeypatch):
    """A fresh current directory: experiments lie in folders of it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write_configuration(tmp_path):
    """A function that writes the original's configuration with lines replaced, gives its path."""

    def write(*replacements, append=""):
        text = ORIGINAL_KEYS_ONLY
        for old, new in replacements:
            assert old in text, f"the pattern has no {old!r}"
            text = text.replace(old, new, 1)
        path = tmp_path / "configuration.txt"
        path.write_text(text + append, encoding="utf-8")
        return path

    return write


def write_image(path, pixels, **options):
    """Saves pixels as an image file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def drive_folder(tmp_path, rng):
    """DRIVE's layout in small: 3 training images (21-23), 2 test images (01, 02), 20 x 24 pixels.

    The FOV is a rectangle; vessels are a stripe in it; the second observer sees half of it.
    """
    height, width = 20, 24
    folder = tmp_path / "DRIVE"
    fov = np.zeros((height, width), np.uint8)
    fov[2:18, 2:22] = 255
    for subset, ending, ids in (("training", "training", "21 22 23"), ("test", "test", "01 02")):
        for number, identity in enumerate(ids.split()):
            photograph = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            vessels = np.zeros_like(fov)
            vessels[5 + number : 9 + number, 2:22] = 255
            half = vessels.copy()
            half[:, 12:] = 0
            write_image(folder / subset / "images" / f"{identity}_{ending}.tif", photograph)
            write_image(folder / subset / "1st_manual" / f"{identity}_manual1.gif", vessels)
            write_image(folder / subset / "mask" / f"{identity}_{ending}_mask.gif", fov)
            if subset == "test":
                write_image(folder / subset / "2nd_manual" / f"{identity}_manual2.gif", half)
    return folder
