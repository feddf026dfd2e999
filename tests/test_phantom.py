import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence
from scipy import ndimage
from skimage.morphology import skeletonize

from demo import prepare_datasets_phantom as script
from lib import phantom
from lib.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--num-training", "2", "--num-test", "1", "--num-slices", "2"]
SMALL += ["--num-frames", "2", "--height", "96"]
SMALL += ["--width", "128"]


@pytest.fixture(scope="module")
def photograph():
    return phantom.fundus(3)


@pytest.fixture(scope="module")
def stack():
    return phantom.membranes(5, num_slices=4)


def num_cells(label):
    return ndimage.label(label == 255)[1]  # 4-connected


# Fundus photographs ------------------------------------------------------------------------------
def test_same_seed_gives_same_fundus():
    for first, second in zip(phantom.fundus(11, 120, 150), phantom.fundus(11, 120, 150)):
        np.testing.assert_array_equal(first, second)


def test_generator_and_seed_give_same_fundus():
    first = phantom.fundus(11, 120, 150)[0]
    np.testing.assert_array_equal(first, phantom.fundus(np.random.default_rng(11), 120, 150)[0])


def test_seeds_give_different_vessels():
    _, first, _ = phantom.fundus(1, 160, 150)
    _, second, _ = phantom.fundus(2, 160, 150)
    overlap = np.count_nonzero(first & second) / np.count_nonzero(first | second)
    assert overlap < 0.5


@pytest.mark.parametrize("height, width", [(584, 565), (96, 200), (300, 64), (700, 650)])
def test_fundus_shapes_and_values(height, width):
    image, vessels, fov = phantom.fundus(7, height, width)
    assert image.shape == (height, width, 3) and vessels.shape == fov.shape == (height, width)
    assert image.dtype == vessels.dtype == fov.dtype == np.uint8
    assert set(np.unique(vessels)) == set(np.unique(fov)) == {0, 1}


@pytest.mark.parametrize("height, width", [(584, 565), (96, 200), (300, 64), (700, 650)])
def test_field_of_view_is_a_whole_circle(height, width):
    _, vessels, fov = phantom.fundus(7, height, width)
    edges = np.concatenate([fov[0], fov[-1], fov[:, 0], fov[:, -1]])
    radius = 270 * min(height / 584, width / 565)
    assert not edges.any()
    assert fov.sum() == pytest.approx(np.pi * radius**2, rel=0.02)
    assert not (vessels & (1 - fov)).any()


@pytest.mark.parametrize("seed", range(4))
def test_vessels_cover_about_as_much_as_in_drive(seed):
    # DRIVE's training images 21, 28 and 33 have 10.9, 14.2 and 11.7 per cent.
    _, vessels, fov = phantom.fundus(seed)
    assert 0.09 < vessels[fov == 1].mean() < 0.15


def test_vessels_are_darker_than_their_surroundings_in_green(photograph):
    image, vessels, fov = photograph
    green = image[..., 1].astype(float)
    surroundings = cv2.dilate(vessels, np.ones((9, 9))) - cv2.dilate(vessels, np.ones((3, 3)))
    inside = cv2.erode(fov, np.ones((15, 15))) == 1
    difference = green[inside & (surroundings == 1)].mean() - green[inside & (vessels == 1)].mean()
    assert 4 < difference < 25  # DRIVE: 5 to 10 over all vessels


def test_vessels_branch_and_are_connected(photograph):
    vessels = photograph[1]
    components, number = ndimage.label(vessels, np.ones((3, 3)))
    largest = np.bincount(components.ravel())[1:].max()
    assert number < 40
    assert largest > 0.5 * vessels.sum()
    skeleton = skeletonize(vessels == 1)
    neighbours = ndimage.convolve(skeleton.astype(int), np.ones((3, 3), int), mode="constant") - 1
    assert np.count_nonzero(skeleton & (neighbours >= 3)) > 50  # bifurcations and crossings
    assert np.count_nonzero(skeleton & (neighbours == 1)) > 25  # ends


def test_vessels_taper(photograph):
    vessels = photograph[1]
    radii = ndimage.distance_transform_edt(vessels)[skeletonize(vessels == 1)]
    assert radii.max() >= 4
    assert np.median(radii) <= 2


def test_outside_of_the_field_of_view_is_black(photograph):
    image, _, fov = photograph
    assert image[cv2.dilate(fov, np.ones((5, 5))) == 0].max() <= 20


def test_left_and_right_eyes_have_their_disc_on_either_side():
    sides = set()
    for seed in range(8):
        image, _, fov = phantom.fundus(seed, 146, 141)
        bright = cv2.GaussianBlur(image[..., 1], (0, 0), 4) * fov
        sides.add(int(np.argmax(bright.max(axis=0)) > image.shape[1] / 2))
    assert sides == {0, 1}


# Membranes ---------------------------------------------------------------------------------------
def test_same_seed_gives_same_membranes():
    for first, second in zip(phantom.membranes(4, 80, 96, 2), phantom.membranes(4, 80, 96, 2)):
        np.testing.assert_array_equal(first, second)


def test_seeds_give_different_membranes():
    _, first = phantom.membranes(1, 128, 128, 1)
    _, second = phantom.membranes(2, 128, 128, 1)
    assert (first == second).mean() < 0.8


@pytest.mark.parametrize("num_slices, height, width", [(1, 64, 64), (3, 80, 150), (2, 200, 90)])
def test_membrane_shapes_and_values(num_slices, height, width):
    slices, labels = phantom.membranes(6, height, width, num_slices)
    assert slices.shape == labels.shape == (num_slices, height, width)
    assert slices.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 255}
    assert len(np.unique(slices)) > 100


def test_membrane_share_and_number_of_cells_are_like_isbi(stack):
    # ISBI 2012, 25 labelled slices: 18 to 27 per cent membrane, 88 to 137 cells.
    _, labels = stack
    assert all(0.17 < (label == 0).mean() < 0.28 for label in labels)
    assert all(85 <= num_cells(label) <= 145 for label in labels)


def test_label_zero_is_the_dark_membrane(stack):
    # ISBI 2012: 85 on membranes, 137 in cells.
    slices, labels = stack
    assert slices[labels == 255].mean() - slices[labels == 0].mean() > 35


def test_cells_hold_dark_organelles(stack):
    slices, labels = stack
    deep = ndimage.distance_transform_edt(labels[0]) > 6
    smooth = cv2.GaussianBlur(slices[0].astype(np.float32), (0, 0), 2)
    assert (smooth[deep] < 115).mean() > 0.01


def test_consecutive_slices_are_more_alike_than_distant_ones(stack):
    _, labels = stack
    near, distant = (labels[0] == labels[1]).mean(), (labels[0] == labels[3]).mean()
    assert 0.75 < distant + 0.05 < near < 1


def test_cells_touch_and_keep_their_numbers():
    frames, objects = phantom.touching_cells(4, 160, 200, 3)
    assert frames.shape == objects.shape == (3, 160, 200)
    assert (frames.dtype, objects.dtype) == (np.uint8, np.uint16)
    assert 0.3 < (objects > 0).mean() < 0.9
    right, left = objects[:, :, 1:], objects[:, :, :-1]
    touching = (right > 0) & (left > 0) & (right != left)
    assert touching.any(axis=(1, 2)).all()
    same = (objects[0] == objects[1]) & (objects[0] > 0)
    assert same.sum() > 0.8 * (objects[0] > 0).sum(), "cells drift slowly"
    again, _ = phantom.touching_cells(4, 160, 200, 3)
    np.testing.assert_array_equal(again, frames)


# The script --------------------------------------------------------------------------------------
def write(folder, *options):
    arguments = script.parse_arguments([str(folder), *SMALL, *options])
    script.check(arguments)
    script.write(folder, arguments)


def relative_files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_files_have_the_names_and_formats_of_the_data_sets(tmp_path):
    write(tmp_path)
    assert relative_files(tmp_path) == [
        "CTC/01/t000.tif",
        "CTC/01/t001.tif",
        "CTC/01_GT/SEG/man_seg000.tif",
        "CTC/01_GT/SEG/man_seg001.tif",
        "CTC/02/t000.tif",
        "CTC/02/t001.tif",
        "CTC/02_GT/SEG/man_seg000.tif",
        "CTC/02_GT/SEG/man_seg001.tif",
        "DRIVE/test/1st_manual/01_manual1.gif",
        "DRIVE/test/images/01_test.tif",
        "DRIVE/test/mask/01_test_mask.gif",
        "DRIVE/training/1st_manual/21_manual1.gif",
        "DRIVE/training/1st_manual/22_manual1.gif",
        "DRIVE/training/images/21_training.tif",
        "DRIVE/training/images/22_training.tif",
        "DRIVE/training/mask/21_training_mask.gif",
        "DRIVE/training/mask/22_training_mask.gif",
        "ISBI/test-volume.tif",
        "ISBI/train-labels.tif",
        "ISBI/train-volume.tif",
        "PHANTOM",
        "stained/classes.txt",
        *(
            f"stained/{subset}/{kind}/{subset}_{index}.png"
            for subset, number in (("test", 1), ("training", 2))
            for kind in ("images", "labels")
            for index in range(number)
        ),
    ]
    image = Image.open(tmp_path / "DRIVE/training/images/21_training.tif")
    assert (image.format, image.mode, image.size) == ("TIFF", "RGB", (128, 96))
    for name in ("1st_manual/21_manual1.gif", "mask/21_training_mask.gif"):
        mask = Image.open(tmp_path / "DRIVE/training" / name)
        # Pillow reads a GIF with the grey palette as "L", and so it reads DRIVE's.
        assert (mask.format, mask.mode, mask.size) == ("GIF", "L", (128, 96))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
    for name, values in (("train-volume", None), ("train-labels", {0, 255}), ("test-volume", None)):
        volume = Image.open(tmp_path / f"ISBI/{name}.tif")
        pages = np.stack([np.asarray(page) for page in ImageSequence.Iterator(volume)])
        assert volume.mode == "L" and pages.shape == (2, 96, 128)
        assert values is None or set(np.unique(pages)) == values
    frame = np.asarray(Image.open(tmp_path / "CTC/01/t000.tif"))
    objects = np.asarray(Image.open(tmp_path / "CTC/01_GT/SEG/man_seg000.tif"))
    assert (frame.dtype, objects.dtype, frame.shape) == (np.uint8, np.uint16, objects.shape)


def test_files_hold_what_the_generator_drew(tmp_path):
    write(tmp_path)
    seed = np.random.SeedSequence(0).spawn(4)[0].spawn(2)[1]
    image, vessels, fov = phantom.fundus(seed, 96, 128)
    training = tmp_path / "DRIVE/training"
    np.testing.assert_array_equal(Image.open(training / "images/22_training.tif"), image)
    np.testing.assert_array_equal(Image.open(training / "1st_manual/22_manual1.gif"), vessels * 255)
    np.testing.assert_array_equal(Image.open(training / "mask/22_training_mask.gif"), fov * 255)


def test_training_and_test_pictures_differ(tmp_path):
    write(tmp_path)
    drive, isbi = tmp_path / "DRIVE", tmp_path / "ISBI"
    pairs = [
        (drive / "training/1st_manual/21_manual1.gif", drive / "test/1st_manual/01_manual1.gif"),
        (
            drive / "training/1st_manual/21_manual1.gif",
            drive / "training/1st_manual/22_manual1.gif",
        ),
        (isbi / "train-volume.tif", isbi / "test-volume.tif"),
    ]
    for first, second in pairs:
        assert not np.array_equal(Image.open(first), Image.open(second))


def test_a_second_run_replaces_the_first(tmp_path):
    write(tmp_path)
    path = tmp_path / "DRIVE/training/images/21_training.tif"
    before = path.read_bytes()
    write(tmp_path)
    assert path.read_bytes() == before
    write(tmp_path, "--seed", "1", "--num-training", "1")
    assert path.read_bytes() != before
    assert not (tmp_path / "DRIVE/training/images/22_training.tif").exists()


def test_real_data_are_refused_and_left_alone(tmp_path):
    write(tmp_path)
    real = tmp_path / "DRIVE/training/images/23_training.tif"
    real.write_bytes(b"a real photograph")
    with pytest.raises(UserError, match="1 file.*did not write, such as 23_training.tif"):
        write(tmp_path)
    assert real.read_bytes() == b"a real photograph"


def test_all_wrong_options_are_reported_at_once(tmp_path):
    arguments = script.parse_arguments([str(tmp_path), "--num-test", "0", "--height", "20"])
    with pytest.raises(UserError) as caught:
        script.check(arguments)
    assert caught.value.problems == [
        "--num-test must be 1 or more. Received: 0.",
        "--height must be 64 or more. Received: 20.",
    ]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "phantom"
    path.write_text("")
    with pytest.raises(UserError, match="is a file"):
        script.check(script.parse_arguments([str(path)]))


def run_script(folder, *options):
    command = [sys.executable, "demo/prepare_datasets_phantom.py", str(folder), *SMALL, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_script_writes_hdf5_files_too(tmp_path):
    result = run_script(tmp_path)
    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "DRIVE_datasets_training_testing").iterdir()}
    assert {"DRIVE_dataset_imgs_train.hdf5", "DRIVE_dataset_groundTruth_test.hdf5"} <= names


def test_script_ends_with_status_1_and_no_traceback_on_a_mistake(tmp_path):
    result = run_script(tmp_path, "--num-slices", "-1")
    assert result.returncode == 1
    assert "--num-slices must be 1 or more. Received: -1." in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []
