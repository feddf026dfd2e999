"""The experiment on cells by its real scripts, on small sequences with what real ones may hold."""

import json
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.instance_metrics import count_overlaps, leave_out_unknown, summarize
from lib.instances import objects_from_probability
from tests.processes import require_refusal, require_success, run
from tests.small_data import picture, write_configuration
from tests.small_sequences import SIDE, write_hard_sequences

pytest_plugins = ["tests.finished"]

SETTINGS = {
    "data_attributes__tile_size": 76,
    "N_subimgs": 80,
    "N_epochs": 1,
    "batch_size": 1,
    "seed": 3,
    "optimizer": "adam",
    "learning_rate": 0.003,
    "base_filters": 4,
    "best_last": "last",
    "testing_settings__tile_size": 60,
    "N_group_visual": 2,
    # So short a training is sure of little.
    "threshold": 0.44,
    "smallest_object": 30,
}


def configure(folder, **changes):
    return write_configuration(folder, task="cells", **{**SETTINGS, **changes})


def read_predictions(folder):
    with h5py.File(folder / "predictions.hdf5") as file:
        return file["image"][:, 0], file["ids"].asstr()[...].tolist()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One experiment, prepared, trained and tested; never changed."""
    folder = tmp_path_factory.mktemp("cells")
    written = write_hard_sequences(folder / "CTC")
    configure(folder)
    prepared = run("prepare_datasets_CTC.py", cwd=folder)
    trained = run("run_training.py", "configuration.txt", cwd=folder)
    tested = run("run_testing.py", "configuration.txt", cwd=folder)
    return SimpleNamespace(
        folder=folder,
        experiment=folder / "small",
        written=written,
        outputs=[require_success(done) for done in (prepared, trained, tested)],
    )


def test_training_tells_its_frames_and_leaves_its_files(finished):
    _, trained, _ = finished.outputs
    assert "80 tiles an epoch from the frames 01_0000 to 01_0003; held out" in trained
    assert "never trained on: frame 01_0004." in trained
    names = {path.name for path in finished.experiment.iterdir()}
    assert {"small_last.weights.h5", "small_log.csv", "sample_input_weights.png"} <= names


def test_all_test_frames_are_predicted_and_the_annotated_ones_scored(finished):
    folder = finished.experiment
    probabilities, ids = read_predictions(folder)
    assert ids == ["02_0000", "02_0001", "02_0002"]
    assert probabilities.shape == (3, SIDE, SIDE)
    scores = json.loads((folder / "performances.json").read_text())
    assert list(scores["frames"]) == ["02_0000", "02_0002"]
    objects = [objects_from_probability(one, 0.44, 1, 30) for one in probabilities]
    truths = finished.written["02"]
    expected = summarize([count_overlaps(truths[n], objects[n]) for n in (0, 2)])
    assert {name: scores[name] for name in expected} == expected
    text = (folder / "performances.txt").read_text()
    assert f"\nSEG                     {expected['seg']:.6f}\n" in text
    assert text.startswith("Test frames: 2 annotated\n")
    assert "SEG" in finished.outputs[2]


def test_results_have_the_form_of_the_challenge(finished):
    folder = finished.experiment / "02_RES"
    names = ["mask0000.tif", "mask0001.tif", "mask0002.tif", "res_track.txt"]
    assert sorted(path.name for path in folder.iterdir()) == names
    probabilities, _ = read_predictions(finished.experiment)
    lines = (folder / "res_track.txt").read_text().splitlines()
    tracks = [list(map(int, line.split())) for line in lines]
    assert tracks
    for number, probability in enumerate(probabilities):
        with Image.open(folder / f"mask{number:04d}.tif") as mask:
            pixels = np.asarray(mask)
        assert pixels.dtype == np.uint16
        objects = objects_from_probability(probability, 0.44, 1, 30)
        np.testing.assert_array_equal(pixels > 0, objects > 0)
        present = [track for track, begin, end, _ in tracks if begin <= number <= end]
        assert sorted(set(pixels[pixels > 0].tolist())) == present


def test_grids_show_objects_with_outlines_of_the_truth(finished):
    folder = finished.experiment
    for name in ("originals", "predictions"):
        assert picture(folder / f"all_{name}.png").shape == (2 * SIDE, 2 * SIDE)
    grid = picture(folder / "all_segmentations.png")
    assert grid.shape == (2 * SIDE, 2 * SIDE, 3)
    yellow = (grid == (255, 255, 0)).all(axis=-1)
    assert yellow[:SIDE, :SIDE].any() and yellow[SIDE:, :SIDE].any()
    assert not yellow[:SIDE, SIDE:].any(), "frame 0001 is not annotated"
    rows = picture(folder / "small_Original_Prediction_Segmentation0.png")
    assert rows.shape == (3 * SIDE, 2 * SIDE, 3)


def test_held_out_frames_have_a_folder_of_their_own(step):
    done = step("testing", images="validation")
    assert done.returncode == 0, done.output
    folder = step.folder / "small" / "validation"
    assert read_predictions(folder)[1] == ["01_0004"]
    assert (folder / "performances.txt").read_text().startswith("Held-out frames: 1 annotated")
    assert (folder / "01_RES" / "mask0004.tif").is_file()
    require_refusal(step("testing", images="validation", validation_split=2), "validation_split")


def test_training_frames_are_said_to_have_trained(step):
    assert step("testing", images="training", threshold=0.99).returncode == 0
    text = (step.folder / "small/training/performances.txt").read_text()
    assert text.startswith("Training frames: 4 annotated")
    assert "trained on" in text


def test_frames_without_any_annotation_are_predicted_without_scores(step):
    path = step.folder / "CTC_datasets_training_testing/CTC_dataset_instances_test.hdf5"
    with h5py.File(path, "r+") as file:
        file["labelled"][...] = False
    done = step("testing")
    assert done.returncode == 0 and "No frame is annotated, so there are no scores." in done.output
    assert (step.folder / "small/02_RES/mask0001.tif").is_file()
    assert not (step.folder / "small/performances.txt").exists(), "old scores are removed"


def test_pixels_of_unknown_kind_count_in_no_score(finished, step):
    path = step.folder / "CTC_datasets_training_testing/CTC_dataset_instances_test.hdf5"
    truths = finished.written["02"][[0, 2]].copy()
    probabilities, _ = read_predictions(step.folder / "small")
    found = [objects_from_probability(probabilities[index], 0.44, 1, 30) for index in (0, 2)]
    unknown = np.zeros((3, 1, SIDE, SIDE), bool)
    unknown[0, 0] = found[0] == found[0].max()  # one predicted object, and half of the frame
    unknown[0, 0, : SIDE // 2] = True
    truths[0, unknown[0, 0]] = 0
    with h5py.File(path, "r+") as file:
        file["image"][0] = np.where(unknown[0], 0, file["image"][0])
        file["unknown"] = unknown
    done = step("testing")
    assert done.returncode == 0, done.output
    known = leave_out_unknown(found[0], unknown[0, 0]), found[1]
    expected = summarize([count_overlaps(*pair) for pair in zip(truths, known)])
    scores = json.loads((step.folder / "small/performances.json").read_text())
    assert {name: scores[name] for name in expected} == expected
    assert scores["num_predicted"] < sum(len(np.unique(one)) - 1 for one in found)
    text = (step.folder / "small/performances.txt").read_text()
    assert "Pixels of unknown kind count in no score" in text
    page = (step.folder / "small/report.html").read_text()
    assert page.count('<figure class="inside">') == 1, "of the frame that has such pixels"
    with h5py.File(path, "r+") as file:
        del file["unknown"]
        file["unknown"] = unknown[:, :, 1:]
    require_refusal(step("testing"), "`unknown` must have the shape of `image`, (3, 1, 96, 96)")


def test_no_id_leads_out_of_the_folder(step):
    data = step.folder / "CTC_datasets_training_testing"
    for path in data.glob("*_test.hdf5"):
        with h5py.File(path, "r+") as file:
            file["ids"][...] = [f"../../out_{number:03d}" for number in range(len(file["ids"]))]
    assert step("testing").returncode == 0
    assert not list(step.folder.glob("*_RES")) and not list(step.folder.parent.glob("*_RES"))
    folder = step.folder / "small" / "out_RES"
    assert {path.name for path in folder.iterdir()} >= {"mask000.tif", "res_track.txt"}


def test_mistakes_in_data_and_settings_are_refused(step):
    path = step.folder / "CTC_datasets_training_testing/CTC_dataset_instances_test.hdf5"
    require_refusal(step("testing", divide=1.5), "divide must be a number of at least 0 and at")
    require_refusal(step("testing", base_filters=5), "base_filters must be 4, with which")
    with h5py.File(path, "r+") as file:
        shape = file["image"].shape
        del file["image"]
        file["image"] = np.full(shape, 0.5, np.float32)
    require_refusal(step("testing"), "must hold the numbers of objects, from 0. Received: float32")
    path.unlink()
    require_refusal(step("testing"), f"{path} does not exist.")
    own = step.folder / "small" / "09_RES" / "mask000.tif"
    own.parent.mkdir()
    own.write_bytes(b"mine")
    require_refusal(step("testing", test_instances="CTC_dataset_imgs_test.hdf5"), "09_RES")
