"""Tests of turning DRIVE's folders into HDF5 files, and of what stops it."""

import os
import shutil
import sys

import h5py
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

import prepare_datasets_DRIVE
from lib.errors import UserError
from lib.files import load_hdf5, load_hdf5_extra
from prepare_datasets_DRIVE import prepare
from tests.small_data import draw_fundus

SIX_FILES = {
    f"DRIVE_dataset_{kind}_{subset}.hdf5"
    for kind in ("imgs", "groundTruth", "borderMasks")
    for subset in ("train", "test")
}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "prepared"


def problems_of(folder, output):
    """Prepares what must be refused: gives the problems, after a look that nothing was written."""
    with pytest.raises(UserError) as error:
        prepare(folder, output)
    assert not output.exists()
    return error.value.problems


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def replace_image(path, values):
    Image.fromarray(values).save(path)


def swap(first, second):
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


# ---------------------------------------------------------------- what is written


def test_six_files_hold_the_images_by_id_as_bytes(drive_folder, output):
    prepare(drive_folder, output)
    assert set(os.listdir(output)) == SIX_FILES
    images = load_hdf5(output / "DRIVE_dataset_imgs_train.hdf5")
    assert (images.shape, images.dtype) == ((3, 3, 20, 24), np.uint8)
    truth = load_hdf5(output / "DRIVE_dataset_groundTruth_test.hdf5")
    assert (truth.shape, truth.dtype) == ((2, 1, 20, 24), np.uint8)
    for index, identity in enumerate(("21", "22", "23")):
        photograph = pixels(drive_folder / "training" / "images" / f"{identity}_training.tif")
        np.testing.assert_array_equal(images[index], photograph.transpose(2, 0, 1))
    for name in SIX_FILES:
        expected = ["01", "02"] if "test" in name else ["21", "22", "23"]
        assert load_hdf5_extra(output / name, "ids") == expected


def test_test_images_that_train_too_are_noted(drive_folder, output, capsys):
    prepare_datasets_DRIVE.prepare(drive_folder, output)
    assert "another subset" not in capsys.readouterr().out
    training, test = (drive_folder / half / "images" for half in ("training", "test"))
    shutil.copy(sorted(training.iterdir())[1], sorted(test.iterdir())[0])
    prepare_datasets_DRIVE.prepare(drive_folder, output)
    assert "NOTE: 1 images of test are also in another subset" in capsys.readouterr().out


def test_masks_hold_0_and_255_and_the_second_observer_is_stored(drive_folder, output):
    prepare(drive_folder, output)
    fov = load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5")
    assert np.unique(fov).tolist() == [0, 255]
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    truth, second = load_hdf5(path), load_hdf5_extra(path, "second_observer")
    # The fixture's second observer sees the left half of each stripe: columns 2 to 11.
    np.testing.assert_array_equal(second[..., :12], truth[..., :12])
    assert second[..., 12:].max() == 0
    assert np.unique(second).tolist() == [0, 255]
    train = output / "DRIVE_dataset_groundTruth_train.hdf5"
    assert load_hdf5_extra(train, "second_observer") is None


def test_numbers_are_sorted_by_value(drive_folder, output):
    for kind, ending in (("images", "test.tif"), ("mask", "test_mask.gif")):
        folder = drive_folder / "test" / kind
        (folder / f"01_{ending}").rename(folder / f"10_{ending}")
        (folder / f"02_{ending}").rename(folder / f"9_{ending}")
    for kind, ending in (("1st_manual", "manual1.gif"), ("2nd_manual", "manual2.gif")):
        folder = drive_folder / "test" / kind
        (folder / f"01_{ending}").rename(folder / f"10_{ending}")
        (folder / f"02_{ending}").rename(folder / f"9_{ending}")
    prepare(drive_folder, output)
    assert load_hdf5_extra(output / "DRIVE_dataset_imgs_test.hdf5", "ids") == ["9", "10"]


def test_test_images_without_ground_truth_are_prepared_and_a_stale_file_is_removed(
    drive_folder, output, capsys
):
    prepare(drive_folder, output)
    shutil.rmtree(drive_folder / "test" / "1st_manual")
    shutil.rmtree(drive_folder / "test" / "2nd_manual")
    prepare(drive_folder, output)
    assert set(os.listdir(output)) == SIX_FILES - {"DRIVE_dataset_groundTruth_test.hdf5"}
    said = capsys.readouterr().out
    assert "test: no ground truth (no folder 1st_manual)" in said
    assert "DRIVE_dataset_groundTruth_test.hdf5 is left out" in said
    words = (
        "There is no ground truth for test: DRIVE_dataset_groundTruth_test.hdf5 of an earlier ru"
    )
    assert words in said
    for subset, has_ground_truth in (("train", True), ("test", False)):
        noted = load_hdf5_extra(output / f"DRIVE_dataset_imgs_{subset}.hdf5", "has_ground_truth")
        assert bool(noted) is has_ground_truth


def test_command_line_takes_folder_and_output(drive_folder, output, monkeypatch, capsys):
    arguments = ["prepare_datasets_DRIVE.py", str(drive_folder), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    prepare_datasets_DRIVE.main()
    assert set(os.listdir(output)) == SIX_FILES
    said = capsys.readouterr().out
    assert "train: 3 images of 24 x 20 pixels, ids 21 to 23" in said
    assert f"Written to {output}" in said


def test_drive_itself(unet_test_data, output, rng):
    # The figures of the data set: 4,538,143 pixels inside the FOV of the test images, 577,649 of
    # them vessel; the second observer has F1 .789 and accuracy .9473 there.
    prepare(unet_test_data / "DRIVE", output)
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    fov = load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5") > 0
    truth, second = load_hdf5(path) > 0, load_hdf5_extra(path, "second_observer") > 0
    assert fov.shape == (20, 1, 584, 565)
    assert np.count_nonzero(fov) == 4538143
    assert np.count_nonzero(truth & fov) == 577649
    assert np.mean(truth[fov] == second[fov]) == pytest.approx(0.9473, abs=5e-5)
    both = 2 * np.count_nonzero(truth & second & fov)
    f1 = both / (np.count_nonzero(truth & fov) + np.count_nonzero(second & fov))
    assert f1 == pytest.approx(0.789, abs=5e-4)


# ---------------------------------------------------------------- what stops it


def test_missing_mask(drive_folder, output):
    (drive_folder / "training" / "mask" / "22_training_mask.gif").unlink()
    (problem,) = problems_of(drive_folder, output)
    folder = drive_folder / "training" / "mask"
    assert problem == f"{folder} has 2 files for 3 images. Missing for id: 22."


def test_mask_without_an_image(drive_folder, output):
    (drive_folder / "training" / "images" / "22_training.tif").unlink()
    problems = problems_of(drive_folder, output)
    training = drive_folder / "training"
    assert set(problems) == {
        f"{training / kind} has files without an image in {training / 'images'}, id: 22."
        for kind in ("mask", "1st_manual")
    }


def test_training_without_ground_truth(drive_folder, output):
    shutil.rmtree(drive_folder / "training" / "1st_manual")
    (problem,) = problems_of(drive_folder, output)
    assert problem == f"The folder {drive_folder / 'training' / '1st_manual'} does not exist."


def test_missing_masks_say_what_to_do(drive_folder, output):
    shutil.rmtree(drive_folder / "test" / "mask")
    (problem,) = problems_of(drive_folder, output)
    assert problem.endswith("mask does not exist. Put FOV masks there, or add --no-masks.")


def test_missing_folder_says_what_belongs_there(tmp_path, output):
    training, test = problems_of(tmp_path / "nowhere", output)
    assert f"The folder {tmp_path / 'nowhere' / 'training'} does not exist." in training
    assert "Expected there: images, mask, 1st_manual. Download DRIVE" in training
    assert "Expected there: images, mask. Download DRIVE" in test


def test_ground_truth_of_another_size(drive_folder, output):
    path = drive_folder / "training" / "1st_manual" / "23_manual1.gif"
    replace_image(path, pixels(path)[:, :-3])
    (problem,) = problems_of(drive_folder, output)
    assert problem == (
        f"{path} must have 24 x 20 pixels (width x height) as 21_training.tif has. "
        "Received: 21 x 20. Prepare each size from a folder of its own, with its own --output."
    )


def test_photographs_that_a_camera_turned(drive_folder, output, capsys):
    path = drive_folder / "training" / "images" / "21_training.tif"
    upside_down = TiffImagePlugin.ImageFileDirectory_v2()
    upside_down[274] = 3
    with Image.open(path) as image:
        image.save(path, tiffinfo=upside_down)
    prepare(drive_folder, output)
    noted = "NOTE: turned or mirrored, as the camera noted (EXIF): 21_training.tif."
    assert noted in capsys.readouterr().out
    turned = TiffImagePlugin.ImageFileDirectory_v2()
    turned[274] = 6
    with Image.open(path) as image:
        image.save(path, tiffinfo=turned)
    problems = problems_of(drive_folder, output.with_name("other"))
    assert problems and all("One of the two is turned" in problem for problem in problems)


def test_swapped_folders_of_images_and_masks(drive_folder, output):
    for subset in ("training", "test"):
        swap(drive_folder / subset / "images", drive_folder / subset / "mask")
    problems = problems_of(drive_folder, output)
    assert len(problems) == 2 * (3 + 2)  # each image and each mask
    assert all("re the folders of images and masks swapped?" in problem for problem in problems)


def test_swapped_folders_of_ground_truth_and_masks(drive_folder, output):
    swap(drive_folder / "training" / "1st_manual", drive_folder / "training" / "mask")
    problems = problems_of(drive_folder, output)
    assert len(problems) == 3
    # FOV 16 x 20 pixels, stripe 4 x 20 of them: 240 of 320 "vessel" pixels lie outside.
    assert "21_training_mask.gif: 75% of its vessels lie outside the FOV; ex" in problems[0]
    assert "expected at most 5%. Are 1st_manual and mask swapped, or files" in problems[0]


def test_few_vessels_outside_the_fov_are_no_problem(drive_folder, output):
    path = drive_folder / "training" / "1st_manual" / "21_manual1.gif"
    vessels = pixels(path).copy()
    vessels[0, :4] = vessels.max()  # 4 of 84 pixels, 4.8 %
    replace_image(path, vessels)
    prepare(drive_folder, output)
    vessels[0, :5] = vessels.max()  # 5 of 85 pixels, 5.9 %
    replace_image(path, vessels)
    shutil.rmtree(output)
    (problem,) = problems_of(drive_folder, output)
    assert "21_manual1.gif: 6% of its vessels lie outside the FOV" in problem


def test_inverted_vessels_are_refused(drive_folder, output):
    path = drive_folder / "test" / "1st_manual" / "01_manual1.gif"
    vessels = pixels(path).copy()
    vessels[2:18, 2:22] = vessels.max() - vessels[2:18, 2:22]  # 16 - 4 of 16 rows are white: 75 %
    replace_image(path, vessels)
    (problem,) = problems_of(drive_folder, output)
    assert f"{path}: vessels must be white on black. Received: white on 75% of the FOV" in problem


def test_many_files_of_another_size_are_counted(drive_folder, output):
    for number in range(24, 32):
        for kind, ending in (("images", "training.tif"), ("1st_manual", "manual1.gif")):
            first = drive_folder / "training" / kind / f"21_{ending}"
            shutil.copy(first, first.with_name(f"{number}_{ending}"))
        mask = drive_folder / "training" / "mask" / f"{number}_training_mask.gif"
        shutil.copy(mask.with_name("21_training_mask.gif"), mask)
    for path in (drive_folder / "training" / "1st_manual").iterdir():
        replace_image(path, pixels(path)[:, :-3])
    problems = problems_of(drive_folder, output)
    assert len(problems) == 6
    assert problems[-1].endswith("1st_manual: 6 more files have such problems.")


def test_black_fov_mask(drive_folder, output):
    path = drive_folder / "test" / "mask" / "01_test_mask.gif"
    replace_image(path, np.zeros((20, 24), np.uint8))
    (problem,) = problems_of(drive_folder, output)
    assert problem == f"{path} must show the FOV in white; it is black."


def write_eyes(folder, rng, change=lambda photograph, fov: (photograph, fov), ground_truth=False):
    """Writes two photographs of a test half with masks, changed; gives the masks' paths."""
    masks = []
    for name in ("eye1", "eye2"):
        photograph, vessels, fov = draw_fundus(rng)
        arrays = dict(zip(("images", "mask"), change(photograph, fov)))
        arrays.update({"1st_manual": vessels} if ground_truth else {})
        for kind, array in arrays.items():
            (folder / "test" / kind).mkdir(parents=True, exist_ok=True)
            replace_image(folder / "test" / kind / f"{name}.png", array)
        masks.append(folder / "test" / "mask" / f"{name}.png")
    return masks


@pytest.mark.parametrize("ground_truth", [False, True])
def test_inverted_fov_masks_are_refused(tmp_path, output, rng, ground_truth):
    masks = write_eyes(tmp_path, rng, lambda image, fov: (image, 255 - fov), ground_truth)
    with pytest.raises(UserError) as error:
        prepare(tmp_path, output, subsets=["test"])
    for mask, problem in zip(masks, error.value.problems, strict=True):
        assert problem.startswith(f"{mask} must show the FOV in white. Received: black where ")
        assert f"{tmp_path / 'test' / 'images' / mask.name} shows the eye" in problem
        assert "Are the masks inverted? Invert them, or leave them out with --no-masks" in problem


@pytest.mark.parametrize(
    "change",
    [
        lambda image, fov: (image, fov),
        lambda image, fov: (np.maximum(image, 255 - fov[..., None]), fov),  # a white surround
        lambda image, fov: (np.maximum(image // 9, 255 - fov[..., None]), fov),  # and a dark eye
        # A white surround that the image's edge cuts in two: no hole of it is the eye.
        lambda image, fov: tuple(
            a[:, 8:40] for a in (np.maximum(image // 9, 255 - fov[..., None]), fov)
        ),
        lambda image, fov: (image[16:48, 24:56], fov[16:48, 24:56]),  # no surround
        lambda image, fov: (image, fov * (np.arange(fov.shape[1]) < 50).astype(np.uint8)),  # a part
        lambda image, fov: (image, np.full_like(fov, 255)),
        lambda image, fov: (np.zeros_like(image), fov),
    ],
)
def test_masks_of_unusual_photographs_are_not_refused(tmp_path, output, rng, change):
    write_eyes(tmp_path, rng, change)
    prepare(tmp_path, output, subsets=["test"])
    assert load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5").any()


def test_names_that_are_not_utf_8_and_either_way_to_write_an_accent(tmp_path, output, rng):
    write_eyes(tmp_path, rng)
    for kind, accent in (("images", "e\u0301"), ("mask", "\u00e9")):  # NFD, NFC
        folder = tmp_path / "test" / kind
        (folder / "eye1.png").rename(folder / "M\udcfcller.png")
        (folder / "eye2.png").rename(folder / f"{accent}.png")
    prepare(tmp_path, output, subsets=["test"])
    ids = load_hdf5_extra(output / "DRIVE_dataset_imgs_test.hdf5", "ids")
    assert sorted(ids) == ["M\u00fcller", "\u00e9"]


def test_photographs_in_jpeg_and_masks_of_one_bit_as_in_chase(tmp_path, output, rng):
    for name in ("Image_01L", "Image_01R"):
        photograph, vessels, _ = draw_fundus(rng)
        for kind, ending, image in (
            ("images", ".jpg", Image.fromarray(photograph)),
            ("1st_manual", "_1stHO.png", Image.fromarray(vessels).convert("1")),
            ("2nd_manual", "_2ndHO.png", Image.fromarray(vessels).convert("1")),
        ):
            (tmp_path / "test" / kind).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "test" / kind / f"{name}{ending}")
    prepare(tmp_path, output, subsets=["test"], has_masks=False)
    path = output / "DRIVE_dataset_groundTruth_test.hdf5"
    np.testing.assert_array_equal(load_hdf5(path)[1, 0], vessels)
    assert load_hdf5_extra(path, "ids") == ["Image_01L", "Image_01R"]


def test_paths_may_start_with_the_home_and_are_said_in_full(drive_folder, monkeypatch, capsys):
    home = drive_folder.parent
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(sys, "argv", ["prepare", "~/DRIVE", "--output=~/prepared"])
    prepare_datasets_DRIVE.main()
    assert f"Written to {home / 'prepared'}" in capsys.readouterr().out
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["prepare", "nowhere"])
    with pytest.raises(UserError, match=f"The folder {home / 'nowhere' / 'training'} does not"):
        prepare_datasets_DRIVE.main()


def test_ground_truth_without_a_vessel_is_allowed(drive_folder, output):
    path = drive_folder / "training" / "1st_manual" / "21_manual1.gif"
    replace_image(path, np.zeros((20, 24), np.uint8))
    prepare(drive_folder, output)
    assert load_hdf5(output / "DRIVE_dataset_groundTruth_train.hdf5")[0].max() == 0


def test_problems_of_both_halves_are_listed_at_once(drive_folder, output):
    (drive_folder / "training" / "images" / "21_training.tif").write_text("no image")
    (drive_folder / "training" / "mask" / "21_training_mask.gif").write_text("no image")
    (drive_folder / "test" / "1st_manual" / "01_manual1.gif").unlink()
    problems = problems_of(drive_folder, output)
    assert len(problems) == 3
    assert "21_training.tif is not an image that can be read" in problems[0]
    assert "21_training_mask.gif is not an image that can be read" in problems[1]
    assert "has 1 files for 2 images. Missing for id: 01." in problems[2]


def test_errors_leave_earlier_files_as_they_are(drive_folder, output):
    prepare(drive_folder, output)
    before = {name: (output / name).read_bytes() for name in SIX_FILES}
    (drive_folder / "test" / "mask" / "01_test_mask.gif").unlink()
    with pytest.raises(UserError):
        prepare(drive_folder, output)
    assert {name: (output / name).read_bytes() for name in os.listdir(output)} == before


def test_output_that_is_a_file(drive_folder, output):
    output.write_text("a file")
    with pytest.raises(UserError, match="Cannot write .*DRIVE_dataset_imgs_train.hdf5: "):
        prepare(drive_folder, output)


def test_written_file_opens_with_nothing_but_h5py(drive_folder, output):
    prepare(drive_folder, output)
    with h5py.File(output / "DRIVE_dataset_imgs_train.hdf5", "r") as file:
        assert file["image"].shape == (3, 3, 20, 24)


def test_one_half_alone_and_images_without_masks(drive_folder, tmp_path):
    for unused in ("training", "test/mask", "test/1st_manual", "test/2nd_manual"):
        shutil.rmtree(drive_folder / unused)
    output = tmp_path / "own"
    prepare_datasets_DRIVE.prepare(drive_folder, output, subsets=["test"], has_masks=False)
    assert sorted(path.name for path in output.iterdir()) == [
        "DRIVE_dataset_borderMasks_test.hdf5",
        "DRIVE_dataset_imgs_test.hdf5",
    ]
    assert (load_hdf5(output / "DRIVE_dataset_borderMasks_test.hdf5") == 255).all()


def test_inverted_vessels_are_refused_without_masks_too(drive_folder, output):
    path = drive_folder / "test" / "1st_manual" / "01_manual1.gif"
    replace_image(path, 255 - pixels(path))
    with pytest.raises(UserError, match="vessels must be white on black"):
        prepare_datasets_DRIVE.prepare(drive_folder, output, subsets=["test"], has_masks=False)


def test_a_photograph_without_a_dark_surround_is_named(drive_folder, output, capsys):
    path = drive_folder / "test" / "images" / "01_test.tif"
    replace_image(path, np.maximum(pixels(path), 200))
    prepare_datasets_DRIVE.prepare(drive_folder, output, subsets=["test"], has_masks=False)
    assert "no dark surround was found in 01" in capsys.readouterr().out
