"""The membrane experiment by its real scripts, on small synthetic slices."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.phantom import membranes
from src import launch
from tests.processes import TIMEOUT, run, start
from tests.small_data import hashes, picture, read_log, read_weights

SIDE, NUM_LABELLED, NUM_TEST = 96, 4, 2
CONFIGURATION = """\
[data paths]
path_local = ./data/
train_imgs_original = ISBI_dataset_imgs_train.hdf5
train_groundTruth = ISBI_dataset_groundTruth_train.hdf5
train_weight_maps = ISBI_dataset_weightMaps_train.hdf5
test_imgs_original = ISBI_dataset_imgs_test.hdf5

[experiment name]
name = small
task = membrane

[data attributes]
tile_size = 76

[training settings]
N_tiles = 12
validation_images = 1
N_epochs = 2
nohup = False
seed = 3
optimizer = adam
learning_rate = 0.002
base_filters = 4
depth = 2

[testing settings]
best_last = last
tile_size = 60
N_group_visual = 2
nohup = False
"""


def write_configuration(folder, *replacements, name="configuration.txt"):
    text = CONFIGURATION
    for old, new in replacements:
        assert old in text, f"the pattern has no {old!r}"
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return name


def write_stack(path, pages):
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One experiment, prepared, trained and tested; never changed."""
    folder = tmp_path_factory.mktemp("membranes")
    (folder / "ISBI").mkdir()
    slices, labels = membranes(0, SIDE, SIDE, NUM_LABELLED)
    write_stack(folder / "ISBI" / "train-volume.tif", slices)
    write_stack(folder / "ISBI" / "train-labels.tif", labels)
    write_stack(folder / "ISBI" / "test-volume.tif", slices[:NUM_TEST])
    write_configuration(folder)
    prepared = run("prepare_datasets_ISBI.py", "ISBI", "--output", "data", cwd=folder)
    trained = run("run_training.py", "configuration.txt", cwd=folder)
    tested = run("run_testing.py", "configuration.txt", cwd=folder)
    return SimpleNamespace(folder=folder, prepared=prepared, trained=trained, tested=tested)


@pytest.fixture
def call(finished, tmp_path, monkeypatch, capfd):
    """A function that runs a step inside this process, on a copy of the finished experiment."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    monkeypatch.chdir(folder)

    def calling(step, *replacements):
        name = write_configuration(folder, *replacements, name="other.txt")
        monkeypatch.setattr(sys, "argv", [step, name])
        capfd.readouterr()
        status = launch.launch(step)
        return SimpleNamespace(returncode=status, output="".join(capfd.readouterr()))

    calling.folder = folder
    return calling


def test_all_three_scripts_end_well(finished):
    for step in (finished.prepared, finished.trained, finished.tested):
        assert step.returncode == 0, step.output
        assert "Traceback" not in step.output


def test_training_leaves_its_files_and_tells_the_split(finished):
    names = {path.name for path in (finished.folder / "small").iterdir()}
    assert {
        "small_best.weights.h5",
        "small_last.weights.h5",
        "small_log.csv",
        "small_loss_curves.png",
        "small_configuration.txt",
        "small_architecture.json",
        "sample_input_imgs.png",
        "sample_input_masks.png",
        "sample_input_weights.png",
    } <= names
    assert "12 tiles an epoch from the slices 00 to 02; held out" in finished.trained.output
    assert "never trained on: 03." in finished.trained.output
    assert len(read_log(finished.folder / "small" / "small_log.csv")) == 2


def test_samples_show_context_around_labels(finished):
    folder = finished.folder / "small"
    # Six tiles, three in a row: inputs of 76 pixels, labels of 76 - 40 = 36.
    assert picture(folder / "sample_input_imgs.png").shape == (2 * 76, 3 * 76)
    assert picture(folder / "sample_input_masks.png").shape == (2 * 36, 3 * 36)
    weights = picture(folder / "sample_input_weights.png")
    assert weights.shape == (2 * 36, 3 * 36)
    assert weights.max() == 255
    assert len(np.unique(weights)) > 20, "the border term gives many different weights"


def test_predictions_pictures_and_figures_of_the_held_out_slice(finished):
    folder = finished.folder / "small"
    with h5py.File(folder / "predictions.hdf5") as file:
        probabilities = file["image"][...]
        assert file["ids"].asstr()[...].tolist() == ["03"]
        settings = json.loads(file["settings"].asstr()[()])
    assert (probabilities.shape, probabilities.dtype) == ((1, 1, SIDE, SIDE), np.float32)
    assert 0 <= probabilities.min() < probabilities.max() <= 1
    assert settings["training_settings"]["base_filters"] == 4
    for name in ("originals", "groundTruths", "predictions"):
        assert picture(folder / f"all_{name}.png").shape == (SIDE, SIDE)
    assert picture(folder / "all_segmentations.png").shape == (SIDE, SIDE, 3)
    rows = picture(folder / "small_Original_GroundTruth_Prediction_Segmentation0.png")
    assert rows.shape == (4 * SIDE, SIDE, 3)
    figures = json.loads((folder / "performances.json").read_text())
    assert figures["slices"] == ["03"]
    for name in ("pixel_error", "rand_error", "warping_error", "v_rand_thin", "v_info_thin"):
        assert 0 <= figures[name]["best"] <= 1
    assert "V_Rand(thin)" in (folder / "performances.txt").read_text()


def test_submission_has_a_page_of_floats_for_each_slice(finished):
    with Image.open(finished.folder / "small" / "submission.tif") as stack:
        assert stack.n_frames == NUM_TEST
        for page in range(NUM_TEST):
            stack.seek(page)
            pixels = np.asarray(stack)
            assert (stack.mode, pixels.dtype, pixels.shape) == ("F", np.float32, (SIDE, SIDE))
            assert 0 <= pixels.min() < pixels.max() <= 1


def test_tile_size_does_not_change_the_prediction(finished, call):
    before = finished.folder / "small" / "predictions.hdf5"
    assert call("prediction", ("tile_size = 60", "tile_size = 136")).returncode == 0
    with h5py.File(before) as one, h5py.File(call.folder / "small" / "predictions.hdf5") as other:
        np.testing.assert_allclose(one["image"][...], other["image"][...], atol=1e-5)


def test_symmetries_are_averaged(finished, call):
    ended = call("prediction", ("tile_size = 60", "tile_size = 60\nsymmetries = True"))
    assert ended.returncode == 0, ended.output
    with h5py.File(finished.folder / "small" / "predictions.hdf5") as one:
        with h5py.File(call.folder / "small" / "predictions.hdf5") as other:
            difference = np.abs(one["image"][...] - other["image"][...])
    assert 1e-4 < difference.max() < 0.6


def test_without_test_slices_there_is_no_submission(call):
    (call.folder / "data" / "ISBI_dataset_imgs_test.hdf5").unlink()
    (call.folder / "small" / "submission.tif").unlink()
    ended = call("prediction")
    assert ended.returncode == 0
    assert "no submission.tif" in ended.output
    assert not (call.folder / "small" / "submission.tif").exists()


def test_killed_in_the_second_epoch_it_goes_on_and_equals_an_uninterrupted_run(finished, tmp_path):
    folder = tmp_path / "killed"
    shutil.copytree(finished.folder / "data", folder / "data")
    write_configuration(folder, ("N_epochs = 2", "N_epochs = 3"))
    log = folder / "small" / "small_log.csv"
    process = start("run_training.py", "configuration.txt", cwd=folder, output=folder / "out")
    deadline = time.monotonic() + TIMEOUT
    while not log.exists():
        assert process.poll() is None, (folder / "out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rows_before = len(read_log(log))
    resumed = run("run_training.py", "configuration.txt", cwd=folder)
    assert resumed.returncode == 0, resumed.output
    assert f"Going on after epoch {rows_before} of 3" in resumed.output
    rows = read_log(log)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    # The finished experiment ran the first two epochs of the same training.
    assert rows[:2] == read_log(finished.folder / "small" / "small_log.csv")


def test_same_seed_same_weights(finished, call):
    before = read_weights(finished.folder / "small" / "small_last.weights.h5")
    shutil.rmtree(call.folder / "small")
    assert call("training").returncode == 0
    after = read_weights(call.folder / "small" / "small_last.weights.h5")
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


def test_figures_tell_from_which_weights_the_training_started(call):
    changes = [
        ("name = small", "name = tuned"),
        ("N_epochs = 2", "N_epochs = 1\ninitial_weights = small/small_last.weights.h5"),
    ]
    trained = call("training", *changes)
    assert trained.returncode == 0, trained.output
    assert "Starting from the weights small/small_last.weights.h5." in trained.output
    tested = call("prediction", *changes)
    assert tested.returncode == 0, tested.output
    performances = (call.folder / "tuned" / "performances.txt").read_text()
    assert "Trained from the weights small/small_last.weights.h5. Figures on images" in performances
    assert "Trained from" not in (call.folder / "small" / "performances.txt").read_text()


def test_a_training_on_all_slices_has_last_weights_and_no_figures(call):
    shutil.rmtree(call.folder / "small")
    all_slices = ("validation_images = 1", "validation_images = 0")
    done = call("training", all_slices)
    assert done.returncode == 0, done.output
    assert "no slice is held out" in done.output
    assert "Trained. Weights: small/small_last.weights.h5." in done.output
    assert not (call.folder / "small" / "small_best.weights.h5").exists()
    assert "val_loss" not in (call.folder / "small" / "small_log.csv").read_text()
    done = call("prediction", all_slices)
    assert done.returncode == 0, done.output
    assert "no figures" in done.output
    names = {path.name for path in (call.folder / "small").iterdir()}
    assert "submission.tif" in names
    assert not names & {"performances.txt", "predictions.hdf5", "all_predictions.png"}
    done = call("prediction", all_slices, ("best_last = last", "best_last = best"))
    assert done.returncode == 1
    assert "[testing settings] best_last must be last where validation_images = 0" in done.output


LAST_LINE = "N_group_visual = 2"


def test_slices_that_were_trained_on_do_not_pass_as_held_out(call):
    done = call("prediction", ("validation_images = 1", "validation_images = 4"))
    assert done.returncode == 1
    assert "validation_images must be 1, with which small/small_" in done.output


def test_all_labelled_slices_can_be_tested_and_are_called_so(call):
    done = call("prediction", (LAST_LINE, f"{LAST_LINE}\nlabelled_slices = all"))
    assert done.returncode == 0, done.output
    assert "on the slices 00, 01, 02, 03" in done.output
    assert "All labelled slices: 00, 01, 02, 03" in done.output
    assert "eld-out" not in done.output


def test_a_slice_must_be_left_to_train_on(call):
    shutil.rmtree(call.folder / "small")
    done = call("training", ("validation_images = 1", "validation_images = 4"))
    assert done.returncode == 1
    assert "must be below 4, the number of labelled slices, or none is left" in done.output


def test_slices_without_labels_need_no_labelled_ones(call):
    for kind in ("imgs", "groundTruth", "weightMaps"):
        (call.folder / "data" / f"ISBI_dataset_{kind}_train.hdf5").unlink()
    assert call("prediction").returncode == 1
    alone = (LAST_LINE, f"{LAST_LINE}\nlabelled_slices = none")
    done = call("prediction", alone)
    assert done.returncode == 0, done.output
    with Image.open(call.folder / "small" / "submission.tif") as stack:
        cells = np.asarray(stack) > 0.5
    with Image.open(call.folder / "small" / "segmentations" / "00.png") as segmentation:
        np.testing.assert_array_equal(np.asarray(segmentation), cells * 255)
    (call.folder / "data" / "ISBI_dataset_imgs_test.hdf5").unlink()
    done = call("prediction", alone)
    assert done.returncode == 1
    assert "There is nothing to test" in done.output
    assert (call.folder / "small" / "submission.tif").exists()


@pytest.mark.parametrize(
    ("step", "old", "new", "words"),
    [
        ("training", "tile_size = 76", "tile_size = 75", "Received: 75. Use 72 or 76"),
        ("prediction", "tile_size = 60", "tile_size = 570", "Received: 570. Use 568 or 572"),
        (
            "prediction",
            "validation_images = 1",
            "validation_images = 0",
            "validation_images must be 1, with which",
        ),
        ("training", "validation_images = 1", "validation_images = all", "a whole number of at"),
        ("training", "depth = 2", "depth = 9", "must be a whole number from 1 to 8"),
        ("training", "base_filters = 4", "base_filters = 0", "a whole number of at least 1"),
        (
            "training",
            "seed = 3",
            "elastic_sigma = -1",
            "elastic_sigma must be a number of at least",
        ),
        ("training", "seed = 3", "rotation_degrees = 200", "at most 180"),
        ("training", "seed = 3", "stride_height = 5", "has an unknown key stride_height"),
        ("training", "task = membrane", "task = membranes", "task must be retina or membrane"),
        (
            "prediction",
            "path_local = ./data/",
            "path_local = ./nothing/",
            "does not exist. Prepare",
        ),
        (
            "prediction",
            "base_filters = 4",
            "base_filters = 8",
            "base_filters must be 4, with which small/small_last.weights.h5 was trained",
        ),
        ("prediction", "name = small", "name = nobody", "experiment folder nobody does not exist"),
    ],
)
def test_mistakes_are_named_and_leave_everything_as_it_was(call, step, old, new, words):
    before = hashes(call.folder / "small")
    ended = call(step, (old, new))
    assert ended.returncode == 1
    assert words in " ".join(ended.output.split())
    assert "Traceback" not in ended.output
    assert hashes(call.folder / "small") == before


def test_a_network_too_deep_for_the_slices_is_refused(call):
    # Depth 4 has a margin of 92 pixels; slices of 96 still hold it. Depth 5 has one of 188.
    replacements = [("tile_size = 76", "tile_size = 444"), ("tile_size = 60", "tile_size = 444")]
    ended = call("training", *replacements, ("depth = 2", "depth = 5"), ("= small", "= deep"))
    assert ended.returncode == 1
    assert "margin of the network (188 pixels a side)" in " ".join(ended.output.split())
    assert not (call.folder / "deep").exists()


def test_test_slices_smaller_than_the_margin_are_refused(call):
    path = call.folder / "data" / "ISBI_dataset_imgs_test.hdf5"
    with h5py.File(path, "a") as file:
        part = file["image"][..., :16, :16]
        del file["image"]
        file["image"] = part
    ended = call("prediction")
    assert ended.returncode == 1
    assert "sides of the slices (16 x 16)" in " ".join(ended.output.split())


@pytest.mark.parametrize("kind", ["groundTruth", "weightMaps"])
def test_files_of_other_slices_are_refused(call, kind):
    path = call.folder / "data" / f"ISBI_dataset_{kind}_train.hdf5"
    with h5py.File(path, "a") as file:
        shorter = file["image"][:3]
        del file["image"], file["ids"]
        file["image"] = shorter
    ended = call("prediction")
    assert ended.returncode == 1
    assert "holds 3 arrays for the 4 images" in ended.output


def test_the_sources_run_by_themselves(finished):
    module = Path(launch.__file__).parent / "membraneNN_predict.py"
    ended = run(module, "configuration.txt", cwd=finished.folder)
    assert ended.returncode == 0, ended.output
