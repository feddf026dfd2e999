"""Stacks and folders of membranes become HDF5 files; what is wrong with them is said."""

import sys

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

import prepare_datasets_ISBI
from lib.errors import UserError, run_script
from lib.phantom import membranes
from lib.weight_map import class_weights, instances, weight_map

NUM_SLICES = 4


@pytest.fixture(scope="module")
def stacks():
    return membranes(3, 96, 112, NUM_SLICES)


def write_stack(path, pages):
    first, *others = [Image.fromarray(page) for page in pages]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=others)


@pytest.fixture
def folder(tmp_path, stacks):
    slices, labels = stacks
    write_stack(tmp_path / "ISBI" / "train-volume.tif", slices)
    write_stack(tmp_path / "ISBI" / "train-labels.tif", labels)
    write_stack(tmp_path / "ISBI" / "test-volume.tif", slices[:2])
    return tmp_path / "ISBI"


def prepared(folder, **options):
    output = folder.parent / "out"
    prepare_datasets_ISBI.prepare(folder, output, **options)
    arrays = {}
    for path in output.iterdir():
        with h5py.File(path) as file:
            arrays[path.stem.removeprefix("ISBI_dataset_")] = file["image"][...]
    return arrays


def message_of(folder, **options):
    with pytest.raises(UserError) as error:
        prepare_datasets_ISBI.prepare(folder, folder.parent / "out", **options)
    assert not (folder.parent / "out").exists(), "nothing may be written"
    return str(error.value)


def test_stacks_are_stored_with_their_weight_maps(folder, stacks):
    slices, labels = stacks
    arrays = prepared(folder)
    np.testing.assert_array_equal(arrays["imgs_train"][:, 0], slices)
    np.testing.assert_array_equal(arrays["groundTruth_train"][:, 0], labels)
    np.testing.assert_array_equal(arrays["imgs_test"][:, 0], slices[:2])
    balance = class_weights(labels > 0)
    expected = [weight_map(label > 0, balance) for label in labels]
    np.testing.assert_allclose(arrays["weightMaps_train"][:, 0], expected, rtol=1e-6)
    assert arrays["weightMaps_train"].dtype == np.float32


def test_test_slices_that_train_too_are_noted(folder, stacks, capsys):
    prepared(folder)
    note = "NOTE: 2 images of test are also in another subset, pixel by pixel: 00 = 00, 01 = 01."
    assert note in capsys.readouterr().out
    write_stack(folder / "test-volume.tif", 255 - stacks[0][:2])
    prepared(folder)
    assert "another subset" not in capsys.readouterr().out


def test_w0_and_sigma_reach_the_weight_maps(folder):
    flat = prepared(folder, w0=0.0)["weightMaps_train"]
    assert len(np.unique(flat)) == 2  # w_c alone: one weight for each class


def test_folders_of_numbered_images_give_the_same(folder, stacks, tmp_path):
    slices, labels = stacks
    other = tmp_path / "png" / "membrane"
    for kind, stack in (("train/image", slices), ("train/label", labels), ("test", slices[:2])):
        (other / kind).mkdir(parents=True)
        for number, page in enumerate(stack):
            Image.fromarray(page).save(other / kind / f"{number}.png")
    from_images, from_stacks = prepared(other), prepared(folder)
    assert set(from_images) == set(from_stacks)
    for name, array in from_stacks.items():
        np.testing.assert_array_equal(from_images[name], array)


def test_without_test_slices_an_older_file_of_them_goes(folder, capsys):
    assert "imgs_test" in prepared(folder)
    (folder / "test-volume.tif").unlink()
    assert "imgs_test" not in prepared(folder)
    said = capsys.readouterr().out
    assert "no submission" in said
    assert "on: ISBI_dataset_imgs_test.hdf5 of an earlier run is removed." in said


def test_slices_without_labels_can_be_prepared_alone(folder, stacks):
    for name in ("train-volume.tif", "train-labels.tif"):
        (folder / name).unlink()
    arrays = prepared(folder, only_test=True)
    assert list(arrays) == ["imgs_test"]
    np.testing.assert_array_equal(arrays["imgs_test"][:, 0], stacks[0][:2])


@pytest.mark.parametrize("labelled_in_folders", [False, True])
def test_test_slices_may_come_in_the_other_form(folder, stacks, labelled_in_folders):
    def as_images(stack, name):
        for number, page in enumerate(stack):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(page).save(folder / name / f"{number}.png")

    if labelled_in_folders:
        for name, stack in zip(("train/image", "train/label"), stacks):
            as_images(stack, name)
        (folder / "train-volume.tif").unlink()
        (folder / "train-labels.tif").unlink()
    else:
        (folder / "test-volume.tif").unlink()
        as_images(stacks[0][:2], "test")
    arrays = prepared(folder)
    np.testing.assert_array_equal(arrays["imgs_train"][:, 0], stacks[0])
    np.testing.assert_array_equal(arrays["imgs_test"][:, 0], stacks[0][:2])


@pytest.mark.parametrize("also", [["train"], ["train/image", "train/label"]])
def test_a_folder_beside_the_stacks_is_passed_over(folder, stacks, also, capsys):
    for name in also:
        (folder / name).mkdir(parents=True)
    np.testing.assert_array_equal(prepared(folder)["imgs_train"][:, 0], stacks[0])
    told = "holds train-volume.tif and train/image: the former is taken."
    assert (told in capsys.readouterr().out) == (len(also) == 2)


def test_only_test_slices_that_are_missing(folder):
    (folder / "test-volume.tif").unlink()
    assert "test-volume.tif does not exist" in message_of(folder, only_test=True)


def test_labels_of_0_and_1_are_understood(folder, stacks):
    write_stack(folder / "train-labels.tif", stacks[1] // 255)
    np.testing.assert_array_equal(prepared(folder)["groundTruth_train"][:, 0], stacks[1])


def test_missing_folder_and_missing_stack(folder):
    assert "does not exist. Give the folder of the slices" in message_of(folder.parent / "nowhere")
    (folder / "train-labels.tif").rename(folder / "labels.tif")
    message = message_of(folder)
    assert "train-labels.tif does not exist (nor train/label). Found in" in message
    assert "labels.tif, test-volume.tif, train-volume.tif" in message


def test_too_few_labels(folder, stacks):
    write_stack(folder / "train-labels.tif", stacks[1][:3])
    message = message_of(folder)
    assert "must hold a label for each of the 4 slices of 112 x 96 pixels" in message
    assert "Received: 3 of 112 x 96" in message


def test_labels_of_another_size(folder, stacks):
    write_stack(folder / "train-labels.tif", stacks[1][:, :90])
    assert "Received: 4 of 112 x 90" in message_of(folder)


def test_colour_and_16_bit_pages_are_refused(folder, stacks):
    slices = stacks[0]
    write_stack(folder / "train-volume.tif", np.repeat(slices[..., None], 3, axis=3))
    write_stack(folder / "test-volume.tif", slices.astype(np.uint16) * 256)
    message = message_of(folder)
    assert "train-volume.tif, page 1 must be a grey image of 8 bits" in message
    assert "Received: an image in colours. Convert it to 8-bit grey." in message
    assert "test-volume.tif, page 1" in message
    assert "of 16 bits a pixel" in message


def test_grey_labels_are_listed(folder, stacks):
    grey = stacks[1].copy()
    grey[0, 0, :2] = 99, 7
    write_stack(folder / "train-labels.tif", grey)
    message = message_of(folder)
    assert "must have two values only, the lower for background" in message
    assert "4 values: 0, 7, 99, 255" in message and "swapped" not in message


def test_slices_and_labels_that_are_swapped_are_asked_about(folder, stacks):
    slices, labels = stacks
    write_stack(folder / "train-volume.tif", labels)
    write_stack(folder / "train-labels.tif", slices)
    assert message_of(folder).endswith("Or are slices and labels swapped?")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbered_cells_are_for_another_task(folder, stacks, dtype):
    numbers = np.stack([instances(label > 0) for label in stacks[1]]).astype(dtype)
    write_stack(folder / "train-labels.tif", numbers)
    assert (
        "the numbers of objects: `task = cells` (configuration_CTC.txt) takes those"
        in message_of(folder)
    )


@pytest.mark.parametrize("in_folders", [False, True])
def test_labels_may_have_16_bits_and_any_two_values(folder, stacks, in_folders):
    labels = np.where(stacks[1], 65535, 7).astype(np.uint16)
    if in_folders:
        for name, stack in (("image", stacks[0]), ("label", labels)):
            (folder / "train" / name).mkdir(parents=True)
            for number, page in enumerate(stack):
                Image.fromarray(page).save(folder / "train" / name / f"{number}.png")
    else:
        write_stack(folder / "train-labels.tif", labels)
    np.testing.assert_array_equal(prepared(folder)["groundTruth_train"][:, 0], stacks[1])


def test_two_channels_of_a_hyperstack_are_no_slices(folder, stacks):
    channels = np.stack([stacks[0], 255 - stacks[0]], 1)
    path = folder / "test-volume.tif"
    tifffile.imwrite(path, channels, imagej=True, metadata={"axes": "ZCYX"})
    message = message_of(folder)
    assert f"{path}, page 1 must be a grey image of 8 bits a pixel" in message
    assert "an image of 2 channels of 8 bits a pixel (ZCYX, 4 x 2 x 96 x 112)" in message


@pytest.mark.parametrize(("value", "word"), [(255, "white"), (0, "black")])
def test_labels_of_one_value_are_refused(folder, stacks, value, word):
    write_stack(folder / "train-labels.tif", np.full_like(stacks[1], value))
    assert f"Received: nothing but {word} in every slice." in message_of(folder)


def test_single_wrong_slices_are_named(folder, stacks):
    labels = stacks[1].copy()
    labels[0], labels[2] = 255 - labels[0], 0
    write_stack(folder / "train-labels.tif", labels)
    message = message_of(folder)
    assert "Received: labels that seem inverted (membranes white, in one piece; invert" in message
    assert "them) in slice 00." in message
    assert "Received: nothing but black in slice 02." in message


def test_inverted_labels_are_recognised(folder, stacks):
    write_stack(folder / "train-labels.tif", 255 - stacks[1])
    message = message_of(folder)
    assert (
        "labels that seem inverted (membranes white, in one piece; invert them) in every slice"
        in (message)
    )


def test_truncated_stack(folder):
    path = folder / "train-volume.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = message_of(folder)
    assert "train-volume.tif" in message
    assert "cut off or half downloaded" in message


@pytest.mark.parametrize("options", [{"sigma": 0.0}, {"sigma": -1.0}, {"w0": -1.0}])
def test_weight_map_settings_out_of_range(folder, options):
    assert "--w0 must be at least 0 and --sigma above 0" in message_of(folder, **options)


def test_command_line_ends_with_status_1_and_no_traceback(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare", str(folder), "--sigma", "0"])
    assert run_script(prepare_datasets_ISBI.main) == 1
    captured = capsys.readouterr()
    assert captured.err.strip().startswith("ERROR: --w0 must")
    assert "Traceback" not in captured.err


def test_inverted_real_labels_are_recognised(unet_test_data):
    labels = prepare_datasets_ISBI.read_stack(unet_test_data / "ISBI2012" / "train-labels.tif")
    ids = [str(n) for n in range(len(labels))]
    assert prepare_datasets_ISBI._label_problems("labels", ids, labels) == []
    (problem,) = prepare_datasets_ISBI._label_problems("labels", ids, 255 - labels)
    assert "inverted" in problem
