"""The membrane experiment by its real scripts, on small synthetic slices."""

import json
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.callbacks import TrainingRecorder
from lib.experiment import Experiment
from lib.instances import divided_probability
from lib.phantom import membranes
from lib.weights import TrainedWeights
from src import launch
from tests.processes import Killed, require_refusal, require_success, run, run_forked
from tests.small_data import (
    hashes,
    mentions,
    picture,
    read_log,
    read_weights,
    write_configuration,
)
from tests.small_experiment import TRAINED, note_calls

pytest_plugins = ["tests.finished"]

SIDE, NUM_LABELLED, NUM_TEST = 96, 4, 2
SETTINGS = {
    "data_attributes__tile_size": 76,
    "N_subimgs": 12,
    "batch_size": 1,
    "seed": 3,
    "optimizer": "adam",
    "learning_rate": 0.002,
    "base_filters": 4,
    "best_last": "last",
    "testing_settings__tile_size": 60,
    "N_group_visual": 2,
    "threshold": 0.4,
}
METRICS = ("pixel_error", "rand_error", "warping_error", "v_rand_thin", "v_info_thin")
OF_LABELLED = {"predictions.hdf5", "performances.txt", "all_predictions.png"}
OF_TEST = {"predictions_test.hdf5", "submission.tif", "all_test_predictions.png"}


def configure(folder, **changes):
    return write_configuration(folder, task="membrane", **{**SETTINGS, **changes})


def write_stack(path, pages):
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others)


def data_file(folder, kind, subset="train"):
    return folder / f"ISBI_datasets_training_testing/ISBI_dataset_{kind}_{subset}.hdf5"


def read_predictions(folder, name="predictions.hdf5"):
    with h5py.File(folder / "small" / name) as file:
        return file["image"][...], file["ids"].asstr()[...].tolist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One experiment, prepared, trained and tested with a log file (nohup); never changed."""
    folder = tmp_path_factory.mktemp("membranes")
    (folder / "ISBI").mkdir()
    slices, labels = membranes(0, SIDE, SIDE, NUM_LABELLED)
    stacks = {"train-volume": slices, "train-labels": labels, "test-volume": slices[:NUM_TEST]}
    for name, pages in stacks.items():
        write_stack(folder / "ISBI" / f"{name}.tif", pages)
    configure(folder, testing_settings__nohup=True)
    prepared = run("prepare_datasets_ISBI.py", cwd=folder)
    trained = run_forked("run_training.py", "configuration.txt", cwd=folder)
    tested = run_forked("run_testing.py", "configuration.txt", cwd=folder)
    experiment = folder / "small"
    return SimpleNamespace(
        folder=folder, experiment=experiment, prepared=prepared, trained=trained, tested=tested
    )


# ---------------------------------------------------------------- the whole way, once


def test_all_three_scripts_end_well(finished):
    for done in (finished.prepared, finished.trained, finished.tested):
        require_success(done)


def test_training_leaves_its_files_and_tells_the_split(finished):
    names = {path.name for path in finished.experiment.iterdir()}
    assert {*TRAINED, "sample_input_weights.png"} <= names
    assert "12 tiles an epoch from the slices 00 to 02; held out" in finished.trained.output
    assert "never trained on: slice 03." in finished.trained.output
    assert len(read_log(finished.experiment / "small_log.csv")) == 2


def test_samples_show_context_around_labels(finished):
    folder = finished.experiment
    # Six tiles, three in a row: inputs of 76 pixels, labels of 76 - 40 = 36.
    assert picture(folder / "sample_input_imgs.png").shape == (2 * 76, 3 * 76)
    assert picture(folder / "sample_input_masks.png").shape == (2 * 36, 3 * 36)
    weights = picture(folder / "sample_input_weights.png")
    assert weights.shape == (2 * 36, 3 * 36)
    assert weights.max() == 255
    assert len(np.unique(weights)) > 20, "the border term gives many different weights"


def test_testing_writes_its_output_to_a_log_of_its_own(finished):
    log = finished.experiment / "small_testing.nohup"
    assert mentions(finished.tested.output, f"tail -f {log}", f"Done; see {log}.")
    assert mentions(log.read_text(), "on 1 labelled slices", "on 2 slices without labels")
    assert "Testing" not in finished.tested.output


def test_predictions_pictures_and_scores_of_the_held_out_slice(finished):
    folder = finished.experiment
    probabilities, ids = read_predictions(finished.folder)
    assert ids == ["03"]
    assert (probabilities.shape, probabilities.dtype) == ((1, 1, SIDE, SIDE), np.float32)
    assert 0 <= probabilities.min() < probabilities.max() <= 1
    with h5py.File(folder / "predictions.hdf5") as file:
        settings = json.loads(file["settings"].asstr()[()])
    assert settings["training_settings"]["base_filters"] == 4
    for name in ("originals", "groundTruths", "predictions"):
        assert picture(folder / f"all_{name}.png").shape == (SIDE, SIDE)
    assert picture(folder / "all_segmentations.png").shape == (SIDE, SIDE, 3)
    rows = picture(folder / "small_Original_GroundTruth_Prediction_Segmentation0.png")
    assert rows.shape == (4 * SIDE, SIDE, 3)
    scores = json.loads((folder / "performances.json").read_text())
    assert scores["slices"] == ["03"]
    assert all(0 <= scores[name]["best"] <= 1 for name in METRICS)
    with h5py.File(data_file(finished.folder, "groundTruth")) as file:
        accuracy = np.mean((probabilities > 0.4) == (file["image"][3:] > 0))
    assert scores["accuracy"] == pytest.approx(accuracy)
    for name in METRICS[:2]:
        assert scores[name]["at_threshold"] == scores[name]["curve"][4]
    text = (folder / "performances.txt").read_text()
    assert f"Accuracy at 0.4: {accuracy:.6f} of all pixels." in text
    assert "V_Rand(thin)" in text


def test_slices_without_labels_give_probabilities_pictures_and_a_submission(finished):
    folder = finished.experiment
    probabilities, ids = read_predictions(finished.folder, "predictions_test.hdf5")
    assert ids == ["00", "01"]
    assert probabilities.shape == (NUM_TEST, 1, SIDE, SIDE)
    for name, plane in zip(ids, probabilities[:, 0]):
        grey = picture(folder / "probabilities" / f"{name}.png")
        np.testing.assert_array_equal(grey, np.rint(plane * 255))
        segmentation = picture(folder / "segmentations" / f"{name}.png")
        np.testing.assert_array_equal(segmentation, (plane > np.float32(0.4)) * 255)
    for name in ("originals", "predictions"):
        assert picture(folder / f"all_test_{name}.png").shape == (SIDE, 2 * SIDE)
    assert picture(folder / "all_test_segmentations.png").shape == (SIDE, 2 * SIDE, 3)
    with Image.open(folder / "submission.tif") as stack:
        assert stack.n_frames == NUM_TEST
        for page, plane in enumerate(probabilities[:, 0]):
            stack.seek(page)
            assert stack.mode == "F"
            np.testing.assert_array_equal(np.asarray(stack), plane)


def test_the_module_runs_by_itself_without_a_log(workspace, call):
    configure(workspace, testing_settings__nohup=True)
    output = require_success(call("src.membraneNN_predict", workspace, "configuration.txt"))
    assert "Accuracy at 0.4" in output
    assert "nohup" not in output


# ---------------------------------------------------------------- other ways of testing


def test_tile_size_does_not_change_the_prediction(finished, workspace, step):
    require_success(step("testing", testing_settings__tile_size=136))
    before, after = (read_predictions(folder)[0] for folder in (finished.folder, workspace))
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_eight_orientations_are_averaged_under_the_name_of_before_too(finished, workspace, call):
    averaged = []
    for setting in ("average_flips = 8", "symmetries = True"):
        path = configure(workspace)
        path.write_text(path.read_text().replace("average_flips = False", setting))
        require_success(call("testing", workspace, "configuration.txt"))
        averaged.append(read_predictions(workspace)[0])
    np.testing.assert_array_equal(*averaged)
    difference = np.abs(averaged[0] - read_predictions(finished.folder)[0])
    assert 1e-4 < difference.max() < 0.6


def test_slices_are_tested_at_several_scales(finished, workspace, step):
    one = read_predictions(finished.folder)[0]
    predicted = {}
    for scales in ("1.5", "1, 1.5"):
        require_success(step("testing", scales=scales))
        predicted[scales] = read_predictions(workspace)[0]
    page = (workspace / "small" / "report_test.html").read_text()
    assert "Slices at 1 and 1.5 times their size." in page
    other, both = 1 - predicted["1.5"], 1 - predicted["1, 1.5"]
    np.testing.assert_allclose(both, (((1 - one) ** 4 + other**4) / 2) ** 0.25, atol=1e-5)
    assert np.abs(other - (1 - one)).max() > 0.01


def test_divided_cells_go_into_all_but_the_hdf5_files(finished, workspace, step):
    output = require_success(step("testing", divide=0.6))
    words = "cells are divided along lines with a mean below 0.6"
    for place in (output, *(workspace / "small" / f"report{kind}.html" for kind in ("", "_test"))):
        assert words in (place if isinstance(place, str) else place.read_text())
    for name in ("predictions.hdf5", "predictions_test.hdf5"):
        raw, _ = read_predictions(workspace, name)
        np.testing.assert_array_equal(raw, read_predictions(finished.folder, name)[0])
    divided = np.stack([divided_probability(plane, 0.6) for plane in raw[:, 0]])
    assert (divided != raw[:, 0]).any()
    with Image.open(workspace / "small" / "submission.tif") as stack:
        for page, plane in enumerate(divided):
            stack.seek(page)
            np.testing.assert_array_equal(np.asarray(stack), plane)
    segmentation = picture(workspace / "small" / "segmentations" / "00.png")
    np.testing.assert_array_equal(segmentation, (divided[0] > np.float32(0.4)) * 255)
    require_refusal(step("testing", divide=-0.1), "divide must be a number of at least 0 and at")


def test_without_test_slices_there_is_no_submission(workspace, step):
    data_file(workspace, "imgs", "test").unlink()
    output = require_success(step("testing"))
    assert "no submission.tif" in output
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= OF_LABELLED
    assert not names & OF_TEST
    assert not list(workspace.glob("small/segmentations/*"))


def test_all_labelled_slices_can_be_tested_and_are_called_so(workspace, step):
    output = require_success(step("testing", labelled_slices="all"))
    assert "All labelled slices: 00, 01, 02, 03" in output
    words = "trained on images with the ids 00, 01, 02."
    assert words in output and words in (workspace / "small" / "report.html").read_text()
    # The slices without labels have ids of their own, though the same numbers.
    unlabelled = (workspace / "small" / "report_test.html").read_text()
    assert "There is no ground truth" in unlabelled and "trained on images" not in unlabelled
    assert "eld-out" not in output


def test_slices_that_came_since_are_held_out_too(workspace, step):
    for kind in ("imgs", "groundTruth", "weightMaps"):
        with h5py.File(data_file(workspace, kind), "a") as file:
            values = file["image"][...]
            del file["image"], file["ids"]
            file["image"] = np.concatenate([values, values[:2]])
            file["ids"] = [f"{number:02d}" for number in range(NUM_LABELLED + 2)]
    output = require_success(step("testing"))
    assert "Slices that did not train these weights: 03, 04, 05. All are tested." in output
    assert "Held-out slices: 03, 04, 05" in output and "trained on images" not in output
    assert read_predictions(workspace)[1] == ["03", "04", "05"]
    # One that validated is missing.
    for kind in ("imgs", "groundTruth", "weightMaps"):
        with h5py.File(data_file(workspace, kind), "a") as file:
            del file["ids"]
            file["ids"] = ["00", "01", "02", "04", "05", "06"]
    require_refusal(step("testing"), "trained with other images. For validation then: 03. Now: 06")


def test_slices_without_labels_need_no_labelled_ones(workspace, step):
    for kind in ("imgs", "groundTruth", "weightMaps"):
        data_file(workspace, kind).unlink()
    words = "[testing settings] labelled_slices must be none without labelled slices"
    found = "ISBI_dataset_imgs_train.hdf5 does not exist, ISBI_dataset_imgs_test.hdf5 does"
    require_refusal(step("testing"), words, found, "Received: held_out.")
    require_success(step("testing", labelled_slices="none"))
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= OF_TEST
    assert not names & OF_LABELLED
    data_file(workspace, "imgs", "test").unlink()
    before = hashes(workspace / "small")
    require_refusal(step("testing", labelled_slices="none"), "There is nothing to test")
    assert hashes(workspace / "small") == before


def test_a_testing_makes_one_experiment_and_opens_its_weights_once(workspace, monkeypatch):
    weights = workspace / "small" / "small_last.weights.h5"
    classes = TrainedWeights, h5py.File, Experiment
    read, opened, made = (note_calls(monkeypatch, cls) for cls in classes)
    monkeypatch.chdir(workspace)
    launch.test(
        SimpleNamespace(configuration="configuration.txt", data=None, output=None, angle=None)
    )
    assert len(made) == 1
    assert [str(path) for path in read].count(str(weights)) == 1
    assert str(weights) not in map(str, opened), "what was read is not looked for again"


# ---------------------------------------------------------------- other ways of training


def test_killed_in_the_second_epoch_it_resumes_and_equals_an_uninterrupted_run(
    finished, workspace, call, monkeypatch
):
    shutil.rmtree(workspace / "small")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr("lib.callbacks.TrainingRecorder.on_epoch_begin", kill_in_second_epoch())
        call("training", workspace, "configuration.txt")
    output = require_success(call("training", workspace, "configuration.txt"))
    assert "Resuming after epoch 1 of 2" in output
    # The finished experiment is the same training, undisturbed.
    assert_same_training(workspace, finished.folder)


def kill_in_second_epoch():
    begin = TrainingRecorder.on_epoch_begin

    def killed(self, epoch, logs=None):
        begin(self, epoch, logs)
        if epoch == 1:
            raise Killed

    return killed


def assert_same_training(first, second):
    logs = [read_log(folder / "small" / "small_log.csv") for folder in (first, second)]
    assert logs[0] == logs[1]
    weights = [
        read_weights(folder / "small" / "small_last.weights.h5") for folder in (first, second)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][name], err_msg=name)


def test_names_of_before_and_the_same_seed_give_the_same_weights(finished, workspace, call):
    path = configure(workspace)
    text = path.read_text().replace("N_subimgs", "N_tiles")
    path.write_text(text.replace("validation_split", "validation_images"))
    shutil.rmtree(workspace / "small")
    require_success(call("training", workspace, "configuration.txt"))
    assert_same_training(workspace, finished.folder)


def test_scores_tell_from_which_weights_the_training_started(workspace, step):
    initial = "small/small_last.weights.h5"
    changes = {"name": "tuned", "N_epochs": 1, "initial_weights": initial}
    # Those weights were trained on slice 03, which validates here.
    with h5py.File(workspace / initial, "a") as file:
        record = json.loads(file["training_state"].asstr()[()])
        record["images"] = {"training": ["01", "02", "03"], "validation": ["00"]}
        del file["training_state"]
        file["training_state"] = json.dumps(record)
    output = require_success(step("training", **changes))
    assert f"Starting from the weights {workspace / initial}." in output
    require_success(step("testing", **changes))
    words = f"the weights that they started from ({initial}) were trained on images with the ids 03"
    assert mentions((workspace / "tuned" / "performances.txt").read_text(), words)


def test_a_training_on_all_slices_has_last_weights_and_no_scores(workspace, step):
    shutil.rmtree(workspace / "small")
    output = require_success(step("training", validation_split=0))
    assert "no slice is held out" in output
    assert f"Trained. Weights: {workspace}/small/small_last.weights.h5." in output
    assert not (workspace / "small" / "small_best.weights.h5").exists()
    assert "val_loss" not in (workspace / "small" / "small_log.csv").read_text()
    output = require_success(step("testing", validation_split=0))
    assert "no scores" in output
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= OF_TEST
    assert not names & OF_LABELLED


# ---------------------------------------------------------------- mistakes that only data show


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("testing", {"validation_split": 2}, "validation_split must be 1, with which"),
        ("testing", {"base_filters": 8}, "base_filters must be 4, with which"),
        ("testing", {"name": "nobody"}, "nobody does not exist. Train first"),
        ("testing", {"path_local": "./nothing/"}, "does not exist. Prepare"),
        ("training", {"name": "new", "validation_split": 4}, "must be below 4, the number of"),
    ],
)
def test_mistakes_are_named_and_leave_everything_as_it_was(workspace, step, name, changes, words):
    before = hashes(workspace / "small")
    require_refusal(step(name, **changes), words)
    assert hashes(workspace / "small") == before
    assert not (workspace / "new").exists()


def test_test_slices_smaller_than_the_margin_are_refused(workspace, step):
    with h5py.File(data_file(workspace, "imgs", "test"), "a") as file:
        part = file["image"][..., :16, :16]
        del file["image"]
        file["image"] = part
    require_refusal(step("testing"), "sides of the slices (16 x 16)")


@pytest.mark.parametrize("kind", ["groundTruth", "weightMaps"])
def test_files_of_other_slices_are_refused(workspace, step, kind):
    with h5py.File(data_file(workspace, kind), "a") as file:
        shorter = file["image"][:3]
        del file["image"], file["ids"]
        file["image"] = shorter
    require_refusal(step("testing"), "holds 3 arrays for the 4 images")
