"""The scripts as their users start them: on small pictures, killed, resumed and misused.

One experiment is prepared, trained and tested for the whole file (fixture `finished`). What only
needs an answer to a mistake runs inside this process, on a copy of that experiment.
"""

import json
import math
import runpy
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

import prepare_datasets_DRIVE
from lib.configuration import read_configuration
from lib.errors import UserError, run_script
from lib.evaluation import binary_figures
from lib.files import atomic_write
from src import launch
from tests.processes import REPOSITORY, TIMEOUT, run, start
from tests.small_data import (
    DATA_FOLDER,
    HEIGHT,
    WIDTH,
    hashes,
    mentions,
    picture,
    read_log,
    read_weights,
    unet_shapes,
    write_configuration,
    write_drive,
    write_keras1_weights,
)

TRAINED = {
    "small_best.weights.h5",
    "small_last.weights.h5",
    "small_log.csv",
    "small_loss_curves.png",
    "small_configuration.txt",
    "small_architecture.json",
    "sample_input_imgs.png",
    "sample_input_masks.png",
}
PREDICTED = {
    "predictions.hdf5",
    "all_originals.png",
    "all_groundTruths.png",
    "all_predictions.png",
    "small_Original_GroundTruth_Prediction0.png",
    "small_Original_GroundTruth_Prediction1.png",
}
FIGURES = {"ROC.png", "Precision_recall.png", "performances.txt", "performances.json"}


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One experiment, prepared, trained with a log file (nohup) and tested; never changed."""
    folder = tmp_path_factory.mktemp("finished")
    write_drive(folder / "DRIVE")
    write_configuration(folder, training_settings__nohup=True)
    prepared = run("prepare_datasets_DRIVE.py", cwd=folder)
    output = folder / "training.output"
    process = start("run_training.py", cwd=folder, output=output)
    wait_until(lambda: "nohup = True" in output.read_text(), process)
    process.send_signal(signal.SIGHUP)  # what a closed terminal sends
    status = process.wait(TIMEOUT)
    tested = run("run_testing.py", cwd=folder)
    return SimpleNamespace(
        folder=folder,
        experiment=folder / "small",
        prepared=prepared,
        trained=SimpleNamespace(returncode=status, output=output.read_text()),
        tested=tested,
    )


@pytest.fixture
def workspace(finished, tmp_path):
    """A copy of the finished experiment and its data, to be spoilt; taken away afterwards."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished.folder, folder)
    write_configuration(folder)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def call(monkeypatch, capfd):
    """A function that runs a step inside this process: call(step, folder, *arguments)."""
    steps = {
        "training": lambda: launch.launch("training"),
        "prediction": lambda: launch.launch("prediction"),
        "prepare": lambda: run_script(prepare_datasets_DRIVE.main),
    }

    def calling(step, folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [step, *arguments])
        capfd.readouterr()
        status = steps[step]()
        return SimpleNamespace(returncode=status, output="".join(capfd.readouterr()))

    return calling


def wait_until(condition, process):
    """Waits for something that a process brings about; fails if it ends before."""
    latest = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, f"ended with status {process.returncode}"
        assert time.monotonic() < latest, "waited too long"
        time.sleep(0.01)


def require_refusal(done, *words):
    """Requires status 1 and one readable message that holds all words."""
    assert done.returncode == 1, done.output
    assert "Traceback" not in done.output
    assert done.output.count("ERROR: ") == 1, done.output
    assert mentions(done.output.partition("ERROR: ")[2], *words), done.output


# ---------------------------------------------------------------- the whole way, once


def test_preparing_writes_six_files(finished):
    assert finished.prepared.returncode == 0, finished.prepared.output
    assert mentions(finished.prepared.output, "3 images of 80 x 64 pixels", "ids 21 to 23")
    for subset, number in (("train", 3), ("test", 2)):
        for kind, channels in (("imgs", 3), ("groundTruth", 1), ("borderMasks", 1)):
            path = finished.folder / DATA_FOLDER / f"DRIVE_dataset_{kind}_{subset}.hdf5"
            with h5py.File(path) as file:
                assert file["image"].shape == (number, channels, HEIGHT, WIDTH)
                assert file["image"].dtype == np.uint8


def test_training_survives_a_closed_terminal_and_tells_where_its_log_is(finished):
    assert finished.trained.returncode == 0, finished.trained.output
    assert mentions(finished.trained.output, "tail -f small/small_training.nohup", "Done")
    log = (finished.experiment / "small_training.nohup").read_text()
    assert mentions(log, "54 patches for training", "Epoch 5/5", "Trained.")
    assert "Epoch" not in finished.trained.output


def test_training_writes_every_file(finished):
    names = {path.name for path in finished.experiment.iterdir()}
    assert names >= TRAINED
    assert names & {"small_model.png", "small_model.txt"}
    assert not [name for name in names if name.startswith(".")], "left-overs"


def test_the_log_tells_of_every_epoch(finished):
    rows = read_log(finished.experiment / "small_log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    for row in rows:
        assert set(row) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
        assert all(map(math.isfinite, row.values()))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_kept_configuration_is_the_one_trained_with(finished):
    kept = read_configuration(finished.experiment / "small_configuration.txt")
    assert kept.as_dict() == read_configuration(finished.folder / "configuration.txt").as_dict()


def test_the_architecture_is_json(finished):
    written = json.loads((finished.experiment / "small_architecture.json").read_text())
    assert written["config"]["name"] == "unet"


def test_sample_pictures_are_grids_of_40_patches_5_in_a_row(finished):
    for kind in ("imgs", "masks"):
        grid = picture(finished.experiment / f"sample_input_{kind}.png")
        assert grid.shape == (8 * 16, 5 * 16)
        assert np.ptp(grid) > 0
    assert set(np.unique(grid)) == {0, 255}


def test_best_weights_are_of_the_lowest_validation_loss(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    rows = read_log(finished.experiment / "small_log.csv")
    loss = validation_loss(finished.experiment / "small_best.weights.h5")
    assert loss == pytest.approx(min(row["val_loss"] for row in rows), rel=1e-4)


def test_last_weights_are_of_the_last_epoch(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    rows = read_log(finished.experiment / "small_log.csv")
    loss = validation_loss(finished.experiment / "small_last.weights.h5")
    assert loss == pytest.approx(rows[-1]["val_loss"], rel=1e-4)


def validation_loss(weights):
    """Computes the validation loss of weights by other means: NumPy over one prediction."""
    from lib.training import load_weights
    from src.retinaNN_training import build_network, load_patches, split_patches

    configuration = read_configuration("configuration.txt")
    patches = split_patches(configuration, *load_patches(configuration)[:3])[1]
    model = build_network(configuration, 16, 16)
    load_weights(model, weights)
    batches = [patches[index] for index in range(len(patches))]
    x, labels = (np.concatenate(parts) for parts in zip(*batches))
    probability = np.take_along_axis(model.predict_on_batch(x), labels[..., np.newaxis], axis=-1)
    return -np.log(probability).mean()


def test_testing_writes_every_file(finished):
    assert finished.tested.returncode == 0, finished.tested.output
    names = {path.name for path in finished.experiment.iterdir()}
    assert names >= PREDICTED | FIGURES
    for name in (name for name in names if name.endswith(".png")):
        assert picture(finished.experiment / name).size > 0


def test_predictions_are_probabilities_of_whole_images(finished):
    with h5py.File(finished.experiment / "predictions.hdf5") as file:
        probabilities = file["image"][...]
        assert list(file["ids"].asstr()[...]) == ["01", "02"]
    assert probabilities.shape == (2, 1, HEIGHT, WIDTH)
    assert probabilities.dtype == np.float32
    assert 0 <= probabilities.min() < probabilities.max() <= 1


def test_pictures_show_original_truth_and_prediction_one_below_the_other(finished):
    shown = picture(finished.experiment / "small_Original_GroundTruth_Prediction0.png")
    assert shown.shape == (3 * HEIGHT, WIDTH)
    truth = picture(finished.folder / "DRIVE/test/1st_manual/01_manual1.gif")
    np.testing.assert_array_equal(shown[HEIGHT : 2 * HEIGHT], truth)
    outside = picture(finished.folder / "DRIVE/test/mask/01_test_mask.gif") == 0
    assert not shown[2 * HEIGHT :][outside].any()
    assert shown[2 * HEIGHT :].any()


def test_figures_agree_with_each_other_and_with_the_predictions(finished):
    written = json.loads((finished.experiment / "performances.json").read_text())
    inside = written["inside_FOV"]
    (tn, fp), (fn, tp) = inside["confusion_matrix"]
    with h5py.File(finished.experiment / "predictions.hdf5") as file:
        probabilities = file["image"][:, 0]
    ids = ("01", "02")
    fov = np.stack([picture(finished.folder / f"DRIVE/test/mask/{i}_test_mask.gif") for i in ids])
    truth = [picture(finished.folder / f"DRIVE/test/1st_manual/{i}_manual1.gif") for i in ids]
    truth = np.stack(truth)
    seen = probabilities[fov > 0] >= 0.5
    assert [[tn, fp], [fn, tp]] == [
        [np.sum(~seen & (truth[fov > 0] == 0)), np.sum(seen & (truth[fov > 0] == 0))],
        [np.sum(~seen & (truth[fov > 0] > 0)), np.sum(seen & (truth[fov > 0] > 0))],
    ]
    assert inside["accuracy"] == pytest.approx((tn + tp) / (tn + fp + fn + tp))
    assert 0.5 < inside["auc_roc"] <= 1
    assert (
        f"Area under the ROC curve: {inside['auc_roc']:.12g}"
        in (finished.experiment / "performances.txt").read_text()
    )
    assert f"Area under the ROC curve: {inside['auc_roc']:.12g}" in finished.tested.output


@pytest.mark.slow
@pytest.mark.parametrize("flips", [False, True])
def test_leaving_patches_outside_the_fov_out_changes_nothing_inside(workspace, flips):
    fov = picture(workspace / "DRIVE/test/mask/01_test_mask.gif") > 0
    predicted, whole = [], []
    for inside_fov in (False, True):
        settings = {"average_flips": flips, "testing_settings__inside_FOV": inside_fov}
        write_configuration(workspace, stride_height=8, stride_width=8, **settings)
        done = run("run_testing.py", cwd=workspace)
        assert done.returncode == 0, done.output
        with h5py.File(workspace / "small" / "predictions.hdf5") as file:
            predicted.append(file["image"][0, 0])
        written = json.loads((workspace / "small" / "performances.json").read_text())
        whole.append(written["whole_image"])
    np.testing.assert_allclose(predicted[1][fov], predicted[0][fov], atol=1e-6)
    assert predicted[0][~fov].any() and not predicted[1][~fov].any()
    assert whole[0] and whole[1] is None


@pytest.mark.parametrize(
    "changes",
    [{"average_mode": False}, {"inference": "full_image"}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_ways_of_testing(workspace, call, changes):
    with h5py.File(workspace / "small" / "predictions.hdf5") as file:
        averaged = file["image"][...]
    write_configuration(workspace, **changes, N_group_visual=1)
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    with h5py.File(workspace / "small" / "predictions.hdf5") as file:
        probabilities = file["image"][...]
    assert probabilities.shape == averaged.shape
    # Another way to the same answer: near it, but not it.
    assert 0 < np.abs(probabilities - averaged).mean() < 0.1


def test_the_last_weights_are_tested_when_asked_for(workspace, call):
    write_configuration(workspace, best_last="last", inference="full_image")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert "Testing small/small_last.weights.h5" in done.output


def test_a_group_that_does_not_divide_the_images_is_filled_with_black(workspace, call):
    for path in (workspace / "small").glob("*.png"):
        path.unlink()
    write_configuration(workspace, N_group_visual=3, inference="full_image")
    assert call("prediction", workspace).returncode == 0
    assert len(list((workspace / "small").glob("*GroundTruth_Prediction*.png"))) == 1
    shown = picture(workspace / "small" / "small_Original_GroundTruth_Prediction0.png")
    assert shown.shape == (3 * HEIGHT, 2 * WIDTH)  # 2 images, so no third column


def test_the_first_images_alone_are_tested(workspace, call):
    write_configuration(workspace, full_images_to_test=1, inference="full_image")
    assert call("prediction", workspace).returncode == 0
    with h5py.File(workspace / "small" / "predictions.hdf5") as file:
        assert file["image"].shape == (1, 1, HEIGHT, WIDTH)


def test_all_images_are_tested_when_asked_for_and_their_vessels_saved(workspace, call):
    write_configuration(workspace, full_images_to_test="all", inference="full_image", threshold=0.3)
    assert call("prediction", workspace).returncode == 0
    with h5py.File(workspace / "small" / "predictions.hdf5") as file:
        probabilities = file["image"][:, 0]
    inside = picture(workspace / "DRIVE/test/mask/02_test_mask.gif") > 0
    saved = picture(workspace / "small" / "segmentations" / "02.png")
    np.testing.assert_array_equal(saved, 255 * ((probabilities[1] >= 0.3) & inside))
    written = json.loads((workspace / "small" / "performances.json").read_text())
    assert written["inside_FOV"]["threshold"] == 0.3
    assert written["per_image"]["images"][1]["threshold"] == 0.3


def test_validation_images_are_tested_beside_the_test_images(workspace, call):
    # A third of the patches, so of 3 images the last validates alone.
    write_configuration(workspace, N_epochs=1, validation_split=0.34)
    trained = call("training", workspace, "--overwrite")
    assert trained.returncode == 0, trained.output
    before = hashes(workspace / "small")
    write_configuration(
        workspace, N_epochs=1, validation_split=0.34, images="validation", inference="full_image"
    )
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert "on 1 validation images" in done.output
    with h5py.File(workspace / "small" / "validation" / "predictions.hdf5") as file:
        assert list(file["ids"].asstr()[...]) == ["23"]
        probabilities = file["image"][...].ravel()
    truth = picture(workspace / "DRIVE/training/1st_manual/23_manual1.gif").ravel() > 0
    inside = picture(workspace / "DRIVE/training/mask/23_training_mask.gif").ravel() > 0
    told = float(done.output.partition("at a probability of ")[2].split(". For")[0])
    f1 = [
        binary_figures(truth[inside], probabilities[inside], threshold)["f1"]
        for threshold in (told - 0.01, told, told + 0.01)
    ]
    assert max(f1) == f1[1]
    after = hashes(workspace / "small")
    assert {name: after[name] for name in before} == before


def test_other_images_are_not_tested_as_validation_images(workspace, call):
    settings = {"N_epochs": 1, "validation_split": 0.34, "inference": "full_image"}
    write_configuration(workspace, **settings)
    assert call("training", workspace, "--overwrite").returncode == 0
    write_configuration(workspace, images="validation", **settings)
    for kind in ("imgs", "groundTruth", "borderMasks"):
        path = workspace / DATA_FOLDER / f"DRIVE_dataset_{kind}_train.hdf5"
        with h5py.File(path, "a") as file:
            del file["ids"]
            file["ids"] = ["20", "21", "22"]
    done = call("prediction", workspace)
    require_refusal(done, "was trained with other images. For validation then: 23. Now: 22.")
    before = hashes(workspace / "small")
    write_configuration(workspace, **{**settings, "N_epochs": 2})
    done = call("training", workspace)
    require_refusal(done, "was trained with other images. For training then: 21, 22. Now: 20, 21.")
    assert hashes(workspace / "small") == before


def test_training_images_that_all_train_are_no_validation_images(workspace, call):
    write_configuration(workspace, images="validation", inference="full_image")
    done = call("prediction", workspace)
    require_refusal(done, "[testing settings] images must be test", "none of the 3 training images")


@pytest.mark.parametrize("split", [0, 0.05, 0.1, 0.15, 0.55, 0.8, 0.9])
def test_whole_images_validate(split, tmp_path):
    """20 images and a split of whole images: none is shared, whatever the rounding of 1 - split."""
    from src.retinaNN_training import validation_images

    write_configuration(tmp_path, N_subimgs=6000, validation_split=split, best_last="last")
    configuration = read_configuration(tmp_path / "configuration.txt")
    assert validation_images(configuration, 20) == slice(20 - round(20 * split), 20)


def test_other_numbers_of_images_than_patches_are_made_for(tmp_path):
    from src.retinaNN_training import validation_images

    write_configuration(tmp_path, N_subimgs=10)
    configuration = read_configuration(tmp_path / "configuration.txt")
    with pytest.raises(UserError, match="N_subimgs must be a multiple of the 20 training images"):
        validation_images(configuration, 20)


def test_images_that_trained_are_not_tested_as_validation_images(workspace, call):
    write_configuration(workspace, validation_split=0.34, images="validation")
    done = call("prediction", workspace)
    require_refusal(done, "[training settings] validation_split must be 0.1, with which small/")


def test_a_training_on_all_images_has_last_weights_only(workspace, call):
    write_configuration(workspace, N_epochs=1, validation_split=0, best_last="last")
    done = call("training", workspace, "--overwrite")
    assert done.returncode == 0, done.output
    assert "from all 3 images; none validates" in done.output
    assert not (workspace / "small" / "small_best.weights.h5").exists()
    assert "val_loss" not in (workspace / "small" / "small_log.csv").read_text()
    assert call("prediction", workspace).returncode == 0
    write_configuration(workspace, N_epochs=1, validation_split=0, best_last="best")
    done = call("prediction", workspace)
    require_refusal(done, "[testing settings] best_last must be last where validation_split = 0")


def test_images_of_another_camera_are_predicted_at_the_size_of_the_training(workspace, call):
    write_configuration(workspace, fov_width=40, inference="full_image")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert "fov_width = 40" in done.output
    with h5py.File(workspace / "small" / "predictions.hdf5") as file:
        assert file["image"].shape == (2, 1, HEIGHT, WIDTH)


def test_a_training_with_augmentation_shows_what_it_feeds_and_goes_on(workspace, call):
    plain = picture(workspace / "small" / "sample_input_imgs.png")
    changes = {"flip": True, "zoom": 1.5, "brightness": 0.2, "dropout": 0.1, "N_epochs": 1}
    write_configuration(workspace, **changes)
    done = call("training", workspace, "--overwrite")
    assert done.returncode == 0, done.output
    shown = picture(workspace / "small" / "sample_input_imgs.png")
    assert shown.shape == plain.shape
    assert (shown != plain).any()


def test_a_training_may_start_from_the_weights_of_another(finished, workspace, call, monkeypatch):
    initial = "small/small_last.weights.h5"
    settings = {"name": "tuned", "N_epochs": 1, "optimizer": "adam", "learning_rate": 1e-9}
    write_configuration(workspace, initial_weights=initial, **settings)
    done = call("training", workspace)
    assert done.returncode == 0, done.output
    assert f"Starting from the weights {initial}." in done.output
    monkeypatch.chdir(workspace)
    # At such a rate the weights stay where they began.
    loss = read_log(workspace / "tuned/tuned_log.csv")[-1]["val_loss"]
    begun = read_log(finished.experiment / "small_log.csv")[-1]["val_loss"]
    assert loss == pytest.approx(begun, rel=1e-4)


def test_a_training_may_start_from_the_weights_of_2016_and_goes_on_without_them(workspace, call):
    initial = workspace / "published" / "test_best_weights.h5"
    initial.parent.mkdir()
    write_keras1_weights(initial, unet_shapes())
    changes = {"name": "tuned", "initial_weights": "published/test_best_weights.h5"}
    write_configuration(workspace, N_epochs=1, **changes)
    done = call("training", workspace)
    assert done.returncode == 0, done.output
    assert mentions(done.output, "Starting from the weights published/", "180 degrees")
    initial.unlink()
    write_configuration(workspace, N_epochs=2, **changes)
    done = call("training", workspace)
    assert done.returncode == 0, done.output
    assert "Going on after epoch 1 of 2" in done.output
    assert "Starting from" not in done.output


# ---------------------------------------------------------------- seeds, kills and resumes


def test_a_killed_training_goes_on_as_if_nothing_had_happened(finished, tmp_path):
    shutil.copytree(finished.folder / DATA_FOLDER, tmp_path / DATA_FOLDER)
    write_configuration(tmp_path)
    log, curves = tmp_path / "small/small_log.csv", tmp_path / "small/small_loss_curves.png"
    output = tmp_path / "output"

    process = start("run_training.py", cwd=tmp_path, output=output)
    wait_until(lambda: log.exists() and len(read_log(log)) >= 2, process)
    wait_until(lambda: curves.stat().st_mtime_ns > log.stat().st_mtime_ns, process)
    process.kill()
    process.wait(TIMEOUT)
    num_done = len(read_log(log))
    assert num_done < 5, "killed too late to show anything"

    (tmp_path / "small" / ".4711_small_last.weights.h5").write_bytes(b"half")  # as if in a save

    resumed = run("run_training.py", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.output
    assert f"Going on after epoch {num_done} of 5" in resumed.output
    assert f"Epoch {num_done + 1}/5" in resumed.output
    assert f"Epoch {num_done}/5" not in resumed.output
    assert read_log(log) == read_log(finished.experiment / "small_log.csv")
    for name in ("best", "last"):
        expected = read_weights(finished.experiment / f"small_{name}.weights.h5")
        weights = read_weights(tmp_path / f"small/small_{name}.weights.h5")
        assert weights.keys() == expected.keys()
        for key, array in weights.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name} {key}")
    left = [path.name for path in (tmp_path / "small").iterdir() if path.name.startswith(".")]
    assert not left


def test_one_seed_gives_one_training_and_another_seed_another(finished, workspace, call):
    expected = read_log(finished.experiment / "small_log.csv")
    write_configuration(workspace, name="again", N_epochs=2)
    assert call("training", workspace).returncode == 0
    assert read_log(workspace / "again" / "again_log.csv") == expected[:2]
    write_configuration(workspace, name="other_seed", seed=8, N_epochs=1)
    assert call("training", workspace).returncode == 0
    assert read_log(workspace / "other_seed" / "other_seed_log.csv")[0] != expected[0]


def test_more_epochs_go_on_by_the_script_of_src_itself(finished, workspace):
    write_configuration(workspace, N_epochs=6)
    done = run("src/retinaNN_training.py", cwd=workspace)
    assert done.returncode == 0, done.output
    assert "Going on after epoch 5 of 6" in done.output
    rows = read_log(workspace / "small" / "small_log.csv")
    assert rows[:5] == read_log(finished.experiment / "small_log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_the_prediction_script_of_src_runs_by_itself(workspace):
    before = hashes(workspace / "small")
    write_configuration(workspace, "mine.txt")
    (workspace / "configuration.txt").unlink()
    (workspace / "small" / "predictions.hdf5").unlink()
    (workspace / "small" / "ROC.png").unlink()
    done = run("src/retinaNN_predict.py", "mine.txt", cwd=workspace)
    assert done.returncode == 0, done.output
    after = hashes(workspace / "small")
    assert after.keys() == before.keys()
    assert after["performances.json"] == before["performances.json"]


@pytest.mark.parametrize("script", ["retinaNN_training.py", "retinaNN_predict.py"])
def test_the_scripts_of_src_report_mistakes(script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "nowhere.txt"])
    with pytest.raises(SystemExit) as ending:
        runpy.run_path(str(REPOSITORY / "src" / script), run_name="__main__")
    done = SimpleNamespace(returncode=ending.value.code, output="".join(capfd.readouterr()))
    require_refusal(done, "nowhere.txt does not exist")


# ---------------------------------------------------------------- an earlier training stands there


def test_a_finished_training_is_not_overwritten_silently(workspace, call):
    before = hashes(workspace)
    done = call("training", workspace)
    require_refusal(done, "small", "5 epochs", "N_epochs", "--overwrite")
    assert hashes(workspace) == before


def test_changed_settings_are_refused(workspace, call):
    write_configuration(workspace, N_epochs=6, learning_rate=0.2, patch_width=20)
    before = hashes(workspace)
    done = call("training", workspace)
    require_refusal(done, "learning_rate: 0.1 -> 0.2", "patch_width: 16 -> 20", "--overwrite")
    assert hashes(workspace) == before


def test_overwrite_starts_anew(workspace, call):
    write_configuration(workspace, N_epochs=1, learning_rate=0.2)
    done = call("training", workspace, "--overwrite")
    assert done.returncode == 0, done.output
    assert len(read_log(workspace / "small" / "small_log.csv")) == 1
    best, last = (read_weights(workspace / f"small/small_{n}.weights.h5") for n in ("best", "last"))
    assert all(np.array_equal(array, last[name]) for name, array in best.items())


def test_weights_of_2016_stay_when_a_training_takes_their_name(workspace, call):
    shutil.rmtree(workspace / "small")
    (workspace / "small").mkdir()
    original = workspace / "small" / "small_best_weights.h5"
    write_keras1_weights(original, unet_shapes())
    before = original.read_bytes()
    write_configuration(workspace, N_epochs=1)
    done = call("training", workspace)
    assert done.returncode == 0, done.output
    assert mentions(done.output, "(small_best_weights.h5). They stay; it starts anew")
    assert original.read_bytes() == before


@pytest.mark.parametrize("name", ["small", "of_which_small_is_a_copy"])
def test_results_of_an_earlier_test_do_not_stay_beside_new_ones(workspace, call, name):
    old = workspace / "small" / f"{name}_Original_GroundTruth_Prediction7.png"
    old.write_bytes(b"of an earlier test")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert not old.exists()


# ---------------------------------------------------------------- nohup


def launch_fake(folder, step, body):
    """Launches a step whose script is replaced by a few lines, so that no TensorFlow starts."""
    code = (
        "import sys, types\n"
        "from src import launch\n"
        "fake = types.ModuleType('fake')\n"
        f"exec({body!r}, fake.__dict__)\n"
        "sys.modules['fake'] = fake\n"
        f"launch.SCRIPTS['retina', {step!r}] = 'fake'\n"
        f"sys.exit(launch.launch({step!r}))\n"
    )
    return run("-c", code, cwd=folder)


def test_nohup_shows_the_end_of_the_log_after_a_defect(tmp_path):
    write_configuration(tmp_path, training_settings__nohup=True)
    body = "import os\ndef main(c, overwrite):\n    os.system('echo from C')\n    1 / 0"
    done = launch_fake(tmp_path, "training", body)
    assert done.returncode == 1
    assert mentions(done.output, "last lines of small/small_training.nohup", "ZeroDivisionError")
    log = (tmp_path / "small" / "small_training.nohup").read_text()
    assert mentions(log, "from C", "ZeroDivisionError")


def test_nohup_tells_a_mistake_in_both_places(tmp_path):
    write_configuration(tmp_path, training_settings__nohup=True)
    body = (
        "from lib.errors import UserError\n"
        "def main(c, overwrite):\n    raise UserError('[training settings] no such thing.')"
    )
    done = launch_fake(tmp_path, "training", body)
    require_refusal(done, "[training settings] no such thing.")
    assert "no such thing." in (tmp_path / "small" / "small_training.nohup").read_text()


def test_nohup_of_testing_has_a_log_of_its_own(workspace):
    write_configuration(workspace, testing_settings__nohup=True)
    done = launch_fake(workspace, "prediction", "def main(c):\n    print('figures')")
    assert done.returncode == 0, done.output
    assert "figures" not in done.output
    assert (workspace / "small" / "small_prediction.nohup").read_text() == "figures\n"


# ---------------------------------------------------------------- mistakes: the image files


def spoil_nothing(folder):
    """Leaves all as it is; the mistake is in the configuration."""


def remove_data(folder):
    shutil.rmtree(folder / "DRIVE")


def remove_a_mask(folder):
    (folder / "DRIVE/training/mask/22_training_mask.gif").unlink()


def remove_all_masks(folder):
    shutil.rmtree(folder / "DRIVE/test/mask")


def cut_a_photograph(folder):
    path = folder / "DRIVE/training/images/22_training.tif"
    path.write_bytes(path.read_bytes()[:5000])


def shrink_a_ground_truth(folder):
    path = folder / "DRIVE/training/1st_manual/23_manual1.gif"
    Image.fromarray(picture(path)[:, :-8]).save(path)


def blur_a_mask(folder):
    path = folder / "DRIVE/test/mask/02_test_mask.gif"
    mask = picture(path).copy()
    mask[:3, :3] = 7
    path.unlink()
    Image.fromarray(mask).save(path.with_suffix(".png"))


def write_text_as_photograph(folder):
    (folder / "DRIVE/test/images/01_test.tif").write_text("<html>Please log in</html>")


def swap(first, second):
    def swapping(folder):
        (folder / first).rename(folder / "between")
        (folder / second).rename(folder / first)
        (folder / "between").rename(folder / second)

    return swapping


def give_one_id_twice(folder):
    images = folder / "DRIVE/training/images"
    shutil.copy(images / "21_training.tif", images / "21_training.png")


BROKEN_PICTURES = {
    "no data folder": (remove_data, ["DRIVE/training does not exist", "Download"]),
    "no masks": (remove_all_masks, ["DRIVE/test/mask does not exist"]),
    "a mask too few": (remove_a_mask, ["training/mask has 2 files for 3 images", "id: 22"]),
    "cut TIFF": (cut_a_photograph, ["22_training.tif cannot be read whole", "Download it again"]),
    "other size": (shrink_a_ground_truth, ["23_manual1.gif must have 80 x 64", "72 x 64"]),
    "values 0, 7, 255": (blur_a_mask, ["02_test_mask.png", "3 values: 0, 7, 255", "Threshold it"]),
    "text as TIFF": (write_text_as_photograph, ["01_test.tif is not an image", "26 bytes"]),
    "images and masks swapped": (
        swap("DRIVE/training/images", "DRIVE/training/mask"),
        ["21_training_mask.gif must be an RGB photograph", "swapped?"],
    ),
    "masks and vessels swapped": (
        swap("DRIVE/test/mask", "DRIVE/test/1st_manual"),
        ["01_test_mask.gif", "outside the FOV", "swapped"],
    ),
    "one id twice": (give_one_id_twice, ["21_training.tif", "21_training.png", "rename"]),
}


@pytest.mark.parametrize("name", BROKEN_PICTURES)
def test_broken_pictures_are_reported_and_nothing_is_written(name, workspace, call):
    spoil, words = BROKEN_PICTURES[name]
    spoil(workspace)
    before = hashes(workspace)
    require_refusal(call("prepare", workspace), *words)
    assert hashes(workspace) == before


@pytest.mark.parametrize("size", [0, 4, 8, 100, 3000])
def test_a_photograph_cut_anywhere_is_reported(size, workspace, call):
    path = workspace / "DRIVE/test/images/02_test.tif"
    path.write_bytes(path.read_bytes()[:size])
    require_refusal(call("prepare", workspace), "02_test.tif", "again")


# ---------------------------------------------------------------- mistakes: the HDF5 files


def rewrite(name, change):
    """Gives a function that replaces the array of an HDF5 file."""

    def rewriting(folder):
        with h5py.File(folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5", "a") as file:
            image = file["image"][...]
            del file["image"]
            changed = change(image)
            if changed is not None:
                file["image"] = changed

    return rewriting


def cut_hdf5(name):
    def cutting(folder):
        path = folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cutting


def damage_hdf5(name):
    return lambda folder: damage(folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5")


def remove_hdf5(name):
    return lambda folder: (folder / DATA_FOLDER / f"DRIVE_dataset_{name}.hdf5").unlink()


# The words may name {subset}: train for training, test for testing.
BROKEN_HDF5 = {
    "missing": (remove_hdf5, "imgs", None, ["imgs_{subset}.hdf5 does not exist", "path_local"]),
    "cut": (cut_hdf5, "imgs", None, ["imgs_{subset}.hdf5 is not a whole HDF5", "Prepare"]),
    "damaged": (damage_hdf5, "imgs", None, ["imgs_{subset}.hdf5 is not a whole", "damaged"]),
    "cut masks": (cut_hdf5, "borderMasks", None, ["borderMasks_{subset}.hdf5 is not a whole"]),
    "no image": (
        rewrite,
        "groundTruth",
        lambda image: None,
        ["groundTruth_{subset}.hdf5 holds no data set `image`", "Prepare"],
    ),
    "of other length": (
        rewrite,
        "groundTruth",
        lambda image: image[:1],
        ["groundTruth_{subset}.hdf5 holds 1 arrays for the", "imgs_{subset}.hdf5"],
    ),
    "of other size": (
        rewrite,
        "borderMasks",
        lambda image: image[..., :-4],
        ["borderMasks_{subset}.hdf5 holds arrays of 76 x 64", "80 x 64"],
    ),
    "of other values": (
        rewrite,
        "borderMasks",
        lambda image: np.maximum(image, 7),
        ["borderMasks_{subset}.hdf5 must hold masks of 0 and 255", "7 to 255"],
    ),
    "grey images": (
        rewrite,
        "imgs",
        lambda image: image[:, :1],
        ["imgs_{subset}.hdf5 must hold RGB images of 3 channel(s)", "swapped"],
    ),
    "no four axes": (
        rewrite,
        "imgs",
        lambda image: image[:, 0],
        ["imgs_{subset}.hdf5", "(num_images, channels, height, width)"],
    ),
}


@pytest.mark.parametrize("step", ["training", "prediction"])
@pytest.mark.parametrize("name", BROKEN_HDF5)
def test_broken_hdf5_is_reported_and_nothing_is_written(name, step, workspace, call):
    spoil, kind, change, words = BROKEN_HDF5[name]
    subset = "train" if step == "training" else "test"
    file = f"{kind}_{subset}"
    (spoil(file, change) if change else spoil(file))(workspace)
    if step == "training":  # `small` is trained already
        write_configuration(workspace, name="other")
    before = hashes(workspace)
    require_refusal(call(step, workspace), *(word.format(subset=subset) for word in words))
    assert hashes(workspace) == before


def test_overwriting_with_broken_data_leaves_the_earlier_training(workspace, call):
    cut_hdf5("imgs_train")(workspace)
    before = hashes(workspace)
    require_refusal(call("training", workspace, "--overwrite"), "imgs_train.hdf5")
    assert hashes(workspace) == before


# ---------------------------------------------------------------- mistakes: the configuration

# key: (step, changes, words); a training begins under a new name.
WRONG_VALUES = {
    "not a multiple": ("training", {"N_subimgs": 61}, ["N_subimgs", "3 training", "61", "Use 60"]),
    "too few patches": ("training", {"N_subimgs": 0}, ["N_subimgs", "from 1 to", "Received: 0"]),
    "stride 0": ("prediction", {"stride_height": 0}, ["stride_height", "Received: 0"]),
    "stride too large": (
        "prediction",
        {"stride_width": 17},
        ["stride_width must be at most patch_width = 16", "Received: 17"],
    ),
    "odd patch": ("training", {"patch_width": 15}, ["patch_width", "multiple of 4", "12 or 16"]),
    "large patch": ("training", {"patch_height": 68}, ["patch_height", "80 x 64", "smaller"]),
    "no place in FOV": (
        "training",
        {"patch_height": 64, "patch_width": 64, "stride_height": 8, "inside_FOV": True},
        ["patch_height", "inside_FOV = False"],
    ),
    "negative epochs": ("training", {"N_epochs": -3}, ["N_epochs", "at least 1", "-3"]),
    "epochs in words": ("training", {"N_epochs": "ten"}, ["N_epochs", "whole number", "ten"]),
    "no epochs": ("training", {"N_epochs": ""}, ["N_epochs", "whole number", "nothing"]),
    "worst": ("prediction", {"best_last": "worst"}, ["best_last", "best or last", "worst"]),
    "25 of 2 images": (
        "prediction",
        {"full_images_to_test": 25},
        ["full_images_to_test", "at most 2", "25", "Use 2"],
    ),
    "neither true nor false": ("training", {"inside_FOV": "maybe"}, ["inside_FOV", "maybe"]),
    "unknown key": ("training", {"N_epoch": 3}, ["unknown key N_epoch", "N_epochs"]),
    "name with a slash": ("training", {"name": "../small"}, ["name", "../small", "slashes"]),
    "name of the project's": ("training", {"name": "src"}, ["name", "src"]),
    "long name": ("training", {"name": 300 * "x"}, ["name", "at most 150 letters"]),
    "no such weights": (
        "training",
        {"initial_weights": "best_last.weights.h5"},
        ["initial_weights", "best_last.weights.h5", "or use none"],
    ),
    "path elsewhere": ("training", {"path_local": "/nowhere"}, ["/nowhere/", "path_local"]),
}


@pytest.mark.parametrize("name", WRONG_VALUES)
def test_wrong_values_are_reported_and_nothing_is_written(name, workspace, call):
    step, changes, words = WRONG_VALUES[name]
    if step == "training":
        changes = {"name": "other", **changes}
    write_configuration(workspace, **changes)
    before = hashes(workspace)
    require_refusal(call(step, workspace), *words)
    assert hashes(workspace) == before


def test_all_wrong_values_are_listed_at_once(workspace, call):
    write_configuration(workspace, N_epochs=0, best_last="worst", patch_height=15, momentun=1)
    done = call("training", workspace)
    require_refusal(done, "4 problems", "N_epochs", "best_last", "patch_height", "momentun")


def broken_file(text=None, change=None):
    def breaking(folder):
        path = folder / "configuration.txt"
        path.write_bytes(text if change is None else change(path.read_text()).encode())

    return breaking


def configuration_as_folder(folder):
    (folder / "configuration.txt").unlink()
    (folder / "configuration.txt").mkdir()


BROKEN_CONFIGURATIONS = {
    "missing": (lambda f: (f / "configuration.txt").unlink(), ["does not exist", "Looked in"]),
    "a folder": (configuration_as_folder, ["configuration.txt is a folder"]),
    "empty": (broken_file(b""), ["configuration.txt", "is missing"]),
    "a picture": (broken_file(bytes(range(256))), ["not a text file in UTF-8"]),
    "no section": (broken_file(b"name = small\n"), ["configuration.txt", "[brackets]"]),
    "key twice": (
        broken_file(change=lambda t: t.replace("seed = 7", "seed = 7\nN_epochs = 9")),
        ["[training settings] N_epochs stands there twice", "line"],
    ),
    "section twice": (
        broken_file(change=lambda t: t + "[experiment name]\nname = b\n"),
        ["[experiment name] stands there twice"],
    ),
    "section left out": (
        broken_file(change=lambda t: t.replace("[experiment name]\nname = small\n", "")),
        ["[experiment name] name is missing"],
    ),
}


@pytest.mark.parametrize("step", ["training", "prediction"])
@pytest.mark.parametrize("name", BROKEN_CONFIGURATIONS)
def test_broken_configuration_is_reported(name, step, workspace, call):
    spoil, words = BROKEN_CONFIGURATIONS[name]
    spoil(workspace)
    before = hashes(workspace)
    require_refusal(call(step, workspace), *words)
    assert hashes(workspace) == before


@pytest.mark.parametrize("script", ["run_training.py", "run_testing.py"])
def test_a_real_start_without_configuration_gives_status_1(script, tmp_path):
    done = run(script, cwd=tmp_path)
    require_refusal(done, "configuration.txt does not exist", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_configuration_may_have_windows_line_ends_and_a_mark_of_byte_order(tmp_path):
    path = write_configuration(tmp_path)
    expected = read_configuration(path).as_dict()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_configuration(path).as_dict() == expected


# ---------------------------------------------------------------- mistakes: the experiment's folder


def remove_best(folder):
    (folder / "small/small_best.weights.h5").unlink()


def remove_experiment(folder):
    shutil.rmtree(folder / "small")


def cut_best(folder):
    path = folder / "small/small_best.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_last(folder):
    path = folder / "small/small_last.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(path):
    """Spoils an HDF5 file inside: its length is right, its tables of contents are not."""
    path.write_bytes(path.read_bytes().replace(b"HEAP", b"PAEH"))


def damage_best(folder):
    damage(folder / "small/small_best.weights.h5")


def damage_last(folder):
    damage(folder / "small/small_last.weights.h5")


def best_of_gnet(folder):
    from lib.training import save_weights
    from lib.unet import get_gnet

    save_weights(get_gnet(1, 16, 16), folder / "small/small_best.weights.h5")


def best_of_another_keras1_network(folder):
    remove_best(folder)
    shapes = unet_shapes(filters=(16, 32, 64))
    write_keras1_weights(folder / "small/small_best_weights.h5", shapes)


def best_of_a_deeper_keras1_network(folder):
    remove_best(folder)
    shapes = [(16, 1, 3, 3), *unet_shapes()]
    write_keras1_weights(folder / "small/small_best_weights.h5", shapes)


def best_cut_keras1(folder):
    remove_best(folder)
    path = folder / "small/small_best_weights.h5"
    write_keras1_weights(path, unet_shapes())
    path.write_bytes(path.read_bytes()[:-3000])


def data_as_best(folder):
    data = folder / DATA_FOLDER / "DRIVE_dataset_imgs_test.hdf5"
    shutil.copy(data, folder / "small/small_best.weights.h5")


def make_read_only(folder):
    (folder / "small").chmod(0o555)


def file_as_experiment(folder):
    shutil.rmtree(folder / "small")
    (folder / "small").write_text("my notes\n")


BROKEN_EXPERIMENTS = {
    "no weights": ("prediction", remove_best, ["small_best.weights.h5", "small_last.weights.h5"]),
    "no experiment": ("prediction", remove_experiment, ["folder small does not exist", "Train"]),
    "cut weights": ("prediction", cut_best, ["small_best.weights.h5 is not a whole", "cut off"]),
    "damaged weights": ("prediction", damage_best, ["small_best.weights.h5 is not a whole"]),
    "last weights damaged": ("training", damage_last, ["small_last.weights.h5", "--overwrite"]),
    "weights of gnet": ("prediction", best_of_gnet, ["small_best.weights.h5", "network unet"]),
    "data as weights": ("prediction", data_as_best, ["small_best.weights.h5", "network unet"]),
    "Keras 1, narrower": (
        "prediction",
        best_of_another_keras1_network,
        ["small_best_weights.h5", "convolution2d_1", "(3, 3, 1, 32)", "network"],
    ),
    "Keras 1, deeper": (
        "prediction",
        best_of_a_deeper_keras1_network,
        ["small_best_weights.h5", "11 convolutions", "Received: 12"],
    ),
    "Keras 1, cut": ("prediction", best_cut_keras1, ["small_best_weights.h5", "not a whole"]),
    "read-only to test": ("prediction", make_read_only, ["folder small", "read-only", "chmod"]),
    "read-only to train": ("training", make_read_only, ["folder small", "read-only", "chmod"]),
    "a file to test": ("prediction", file_as_experiment, ["small", "is a file"]),
    "a file to train": ("training", file_as_experiment, ["small", "is a file"]),
    "last weights cut": ("training", cut_last, ["small_last.weights.h5", "--overwrite"]),
    "last weights gone": (
        "training",
        lambda folder: (folder / "small/small_last.weights.h5").unlink(),
        ["no small_last.weights.h5", "--overwrite"],
    ),
}


@pytest.mark.parametrize("name", BROKEN_EXPERIMENTS)
def test_broken_experiment_is_reported_and_left_alone(name, workspace, call):
    step, spoil, words = BROKEN_EXPERIMENTS[name]
    spoil(workspace)
    before = hashes(workspace)
    require_refusal(call(step, workspace), *words)
    assert hashes(workspace) == before


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]], ids=["resumed", "overwritten"])
def test_tensorboard_without_its_package_is_reported_in_time(
    arguments, workspace, call, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    write_configuration(workspace, N_epochs=6, tensorboard=True)
    before = hashes(workspace)
    done = call("training", workspace, *arguments)
    require_refusal(done, "tensorboard = True", "pip install tensorboard", "False")
    assert hashes(workspace) == before


def test_a_second_training_of_the_same_name_is_refused(workspace, call):
    fcntl = pytest.importorskip("fcntl")
    write_configuration(workspace, N_epochs=6)
    with open(workspace / "small" / ".training.lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = hashes(workspace)
        require_refusal(call("training", workspace), "small", "process 4711", "Wait")
        assert hashes(workspace) == before


def test_a_missing_package_or_backend_is_reported(workspace, call, monkeypatch):
    monkeypatch.setitem(launch.SCRIPTS, ("retina", "training"), "no_such_package")
    done = call("training", workspace)
    require_refusal(done, "no_such_package", sys.executable, "KERAS_BACKEND=tensorflow")


def test_a_full_disk_is_called_so(tmp_path):
    hidden = (
        "[Errno 28] Unable to close file (errno = 28, error message = 'No space left on device')"
    )
    with pytest.raises(UserError, match=r"Cannot write .*a\.hdf5: the disk is full"):
        with atomic_write(tmp_path / "a.hdf5"):
            raise OSError(hidden)
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_hides_nothing(tmp_path):
    """A full disk takes the traceback away; the terminal still names the error."""
    write_configuration(tmp_path, training_settings__nohup=True)
    body = (
        "import os\ndef main(c, overwrite):\n"
        "    full = os.open('/dev/full', os.O_WRONLY)\n"
        "    os.dup2(full, 1); os.dup2(full, 2)\n"
        "    raise OSError('No space left on device')"
    )
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = launch_fake(tmp_path, "training", body)
    assert done.returncode == 1
    assert "OSError: No space left on device" in done.output


# ---------------------------------------------------------------- other test sets and networks


def test_images_without_ground_truth_give_predictions_and_pictures(workspace, call):
    shutil.rmtree(workspace / "DRIVE/test/1st_manual")
    for name in FIGURES | PREDICTED:
        (workspace / "small" / name).unlink()
    prepared = call("prepare", workspace)
    assert prepared.returncode == 0, prepared.output
    assert mentions(prepared.output, "no ground truth", "cannot give figures")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert mentions(done.output, "no ground truth", "no figures")
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= PREDICTED - {"all_groundTruths.png"}
    assert not names & (FIGURES | {"all_groundTruths.png"})
    shown = picture(workspace / "small" / "small_Original_GroundTruth_Prediction0.png")
    assert shown.shape == (2 * HEIGHT, WIDTH)


def test_a_network_that_answers_one_grey_is_reported(workspace, call):
    remove_best(workspace)
    path = workspace / "small" / "small_best_weights.h5"
    write_keras1_weights(path, unet_shapes(), scale=0)
    write_configuration(workspace, inference="full_image")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert mentions(done.output, "WARNING", "0.500 for every pixel", "one grey", "PLATEAU")


@pytest.mark.parametrize("folder_name", ["small", "renamed"])
def test_a_folder_of_2016_is_tested_as_it_is(folder_name, workspace, call):
    shutil.rmtree(workspace / "small")
    folder = workspace / folder_name
    folder.mkdir()
    for seed, kind in enumerate(("best", "last")):
        write_keras1_weights(folder / f"small_{kind}_weights.h5", unet_shapes(), seed)
    before = hashes(folder)
    write_configuration(workspace, name=folder_name, inference="full_image")
    done = call("prediction", workspace)
    assert done.returncode == 0, done.output
    assert mentions(done.output, "small_best_weights.h5", "Keras 1", "180 degrees")
    with h5py.File(folder / "predictions.hdf5") as file:
        assert np.ptp(file["image"][...]) > 0.01
    after = hashes(folder)
    assert {name: after[name] for name in before} == before


# ---------------------------------------------------------------- foreign surroundings


def test_a_keras_json_of_the_user_changes_nothing(finished, workspace):
    home = workspace / "keras_home"
    home.mkdir()
    theirs = {"floatx": "float64", "epsilon": 1e-3, "image_data_format": "channels_first"}
    (home / "keras.json").write_text(json.dumps({**theirs, "backend": "tensorflow"}))
    write_configuration(workspace, name="theirs", N_epochs=2)
    done = run("run_training.py", cwd=workspace, KERAS_HOME=str(home))
    assert done.returncode == 0, done.output
    expected = read_log(finished.experiment / "small_log.csv")[:2]
    assert read_log(workspace / "theirs" / "theirs_log.csv") == expected


@pytest.mark.slow
def test_a_keras_json_of_the_user_changes_no_prediction(workspace):
    home = workspace / "keras_home"
    home.mkdir()
    theirs = {"floatx": "float64", "epsilon": 1e-3, "image_data_format": "channels_last"}
    (home / "keras.json").write_text(json.dumps({**theirs, "backend": "tensorflow"}))
    before = hashes(workspace / "small")["performances.json"]
    done = run("run_testing.py", cwd=workspace, KERAS_HOME=str(home))
    assert done.returncode == 0, done.output
    assert hashes(workspace / "small")["performances.json"] == before


@pytest.mark.slow
def test_without_onednn_the_results_are_the_same_up_to_rounding(finished, workspace):
    write_configuration(workspace, name="plain")
    for script in ("run_training.py", "run_testing.py"):
        done = run(script, cwd=workspace, TF_ENABLE_ONEDNN_OPTS="0")
        assert done.returncode == 0, done.output
    rows = read_log(workspace / "plain" / "plain_log.csv")
    for row, expected in zip(rows, read_log(finished.experiment / "small_log.csv"), strict=True):
        assert row == pytest.approx(expected, rel=1e-2)


@pytest.mark.slow
def test_a_name_with_a_space_and_umlauts_in_the_locale_c(workspace):
    name = "Gefäße 2"
    write_configuration(workspace, name=name, N_epochs=1)
    for script in ("run_training.py", "run_testing.py"):
        done = run(script, cwd=workspace, LC_ALL="C", LANG="C")
        assert done.returncode == 0, done.output
    assert (workspace / name / f"{name}_best.weights.h5").is_file()


@pytest.mark.slow
def test_ctrl_c_stops_in_order_and_the_training_goes_on_later(workspace):
    write_configuration(workspace, name="stopped", N_epochs=200)
    log, output = workspace / "stopped/stopped_log.csv", workspace / "output"
    process = start("run_training.py", cwd=workspace, output=output)
    wait_until(lambda: log.exists(), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130
    assert "Stopped by Ctrl-C" in output.read_text()
    assert "Traceback" not in output.read_text()
    write_configuration(workspace, name="stopped", N_epochs=len(read_log(log)) + 1)
    done = run("run_training.py", cwd=workspace)
    assert done.returncode == 0, done.output
    assert "Going on after epoch" in done.output


# ---------------------------------------------------------------- what retina-unet published


@pytest.fixture
def published(unet_test_data, tmp_path):
    """DRIVE, prepared, and the folder `test` as retina-unet left it in 2016."""
    data = unet_test_data.resolve()
    prepared = run("prepare_datasets_DRIVE.py", f"{data}/DRIVE", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.output
    (tmp_path / "test").mkdir()
    for ending in ("architecture.json", "best_weights.h5", "last_weights.h5"):
        shutil.copyfile(f"{data}/orobix_test/test_{ending}", tmp_path / f"test/test_{ending}")
    original = tmp_path / "original_configuration.txt"
    shutil.copyfile(f"{data}/orobix_test/original_configuration.txt", original)
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_the_published_weights_give_the_known_figures_in_one_pass(published):
    path = published / "original_configuration.txt"
    assert read_configuration(path).testing_settings.inference == "patches"
    path.write_text(path.read_text() + "inference = full_image\n")
    done = run("run_testing.py", path, cwd=published)
    assert done.returncode == 0, done.output
    figures = json.loads((published / "test" / "performances.json").read_text())["inside_FOV"]
    # The same weights, one pass over the whole zero-padded image of 592 x 576 pixels.
    assert figures["auc_roc"] == pytest.approx(0.97728, abs=2e-5)
    assert figures["f1"] == pytest.approx(0.81756, abs=2e-4)
    assert sum(map(sum, figures["confusion_matrix"])) == 4_538_143
    assert sum(figures["confusion_matrix"][1]) == 577_649
