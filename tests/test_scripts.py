"""The scripts as their users start them, on small pictures: prepare, train, test."""

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from lib.configuration import read_configuration
from lib.evaluation import binary_scores
from lib.experiment import Experiment
from lib.pre_processing import power_mean
from lib.weights import TrainedWeights
from lib.weights import read_weights as read_trained
from src.tasks import TASKS
from tests.processes import require_quiet, require_refusal, require_success, run
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
    write_keras1_weights,
)
from tests.small_experiment import (
    NUM_EPOCHS,
    PREDICTED,
    SCORES,
    TRAINED,
    configure,
    note_calls,
    read_predictions,
    read_scores,
)

pytest_plugins = ["tests.finished"]

# ---------------------------------------------------------------- the whole way, once


def test_preparing_writes_six_files(finished):
    output = require_success(finished.prepared)
    assert mentions(output, "3 images of 80 x 64 pixels", "ids 21 to 23")
    for subset, number in (("train", 3), ("test", 2)):
        for kind, channels in (("imgs", 3), ("groundTruth", 1), ("borderMasks", 1)):
            path = finished.folder / DATA_FOLDER / f"DRIVE_dataset_{kind}_{subset}.hdf5"
            with h5py.File(path) as file:
                assert file["image"].shape == (number, channels, HEIGHT, WIDTH)
                assert file["image"].dtype == np.uint8


def test_training_survives_a_closed_terminal_and_tells_where_its_log_is(finished):
    log = finished.experiment / "small_training.nohup"
    output = require_success(finished.trained)
    assert mentions(output, f"tail -f {log}", f"Done; see {log}.")
    assert mentions(log.read_text(), "54 patches for training", "Epoch 3/3", "Trained.")
    assert "Epoch" not in output


def test_training_writes_every_file(finished):
    names = {path.name for path in finished.experiment.iterdir()}
    assert names >= TRAINED
    assert names & {"small_model.png", "small_model.txt"}
    hidden = {name for name in names if name.startswith(".")}
    assert hidden == {".training.lock", ".testing_files.txt"}


def test_the_log_tells_of_every_epoch(finished):
    rows = read_log(finished.experiment / "small_log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert set(row) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}
        assert all(map(math.isfinite, row.values()))
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_kept_configuration_is_the_one_trained_with(finished):
    kept = read_configuration(finished.experiment / "small_configuration.txt", TASKS)
    used = read_configuration(finished.folder / "configuration.txt", TASKS)
    assert kept.as_dict() == used.as_dict()


def test_the_architecture_is_json(finished):
    written = json.loads((finished.experiment / "small_architecture.json").read_text())
    assert written["config"]["name"] == "unet"


def test_sample_pictures_are_grids_of_40_patches_5_in_a_row(finished):
    for kind in ("imgs", "masks"):
        grid = picture(finished.experiment / f"sample_input_{kind}.png")
        assert grid.shape == (8 * 16, 5 * 16)
        assert np.ptp(grid) > 0
    assert set(np.unique(grid)) == {0, 255}


def test_best_weights_are_of_the_lowest_validation_loss_and_last_ones_of_the_last_epoch(
    finished, monkeypatch
):
    monkeypatch.chdir(finished.folder)
    losses = [row["val_loss"] for row in read_log(finished.experiment / "small_log.csv")]
    found = validation_losses(finished.experiment / f"small_{n}.weights.h5" for n in BEST_LAST)
    assert list(found) == pytest.approx([min(losses), losses[-1]], rel=1e-4)


def test_looks_are_those_of_the_photographs_that_train(finished, monkeypatch):
    from src.retina_task import load_subset
    from src.retinaNN_training import looks_of_training

    monkeypatch.chdir(finished.folder)
    configuration = read_configuration("configuration.txt", TASKS)
    ids = load_subset(configuration, "train")["ids"]
    looks = looks_of_training(configuration, ids)
    assert len(looks) == len(ids) > 1
    assert looks_of_training(configuration, ids[1:]) == looks[1:]


BEST_LAST = ("best", "last")


def validation_losses(files):
    """Computes the validation loss of weights by other means: NumPy over one prediction."""
    from src.retinaNN_training import build_network, load_patches, split_patches

    configuration = read_configuration("configuration.txt", TASKS)
    patches = split_patches(configuration, *load_patches(configuration)[:3])[1]
    batches = [patches[index] for index in range(len(patches))]
    x, labels = (np.concatenate(parts) for parts in zip(*batches))
    model = build_network(configuration, 16, 16)
    for file in files:
        read_trained(file).load_into(model)
        answered = model.predict_on_batch(x)
        probability = np.take_along_axis(answered, labels[..., np.newaxis], axis=-1)
        yield -np.log(probability).mean()


def test_testing_writes_every_file(finished):
    output = require_success(finished.tested)
    assert str(finished.experiment / "small_best.weights.h5") in output
    names = {path.name for path in finished.experiment.iterdir()}
    assert names >= PREDICTED | SCORES
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


def test_scores_agree_with_each_other_and_with_the_predictions(finished):
    inside = read_scores(finished.experiment)["inside_FOV"]
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
    line = f"Area under the ROC curve: {inside['auc_roc']:.12g}"
    assert line in (finished.experiment / "performances.txt").read_text()
    assert line in finished.tested.output


# ---------------------------------------------------------------- a quiet start


def test_a_training_says_little_before_its_first_batch(finished):
    log = (finished.experiment / "small_training.nohup").read_text()
    before, epoch, _ = log.partition("Epoch 1/3")
    assert epoch
    terminal, done, _ = finished.trained.output.partition("Done;")
    assert done
    require_quiet((terminal + before).splitlines(), "nohup = True: the output goes to ")


def test_a_testing_says_little_before_its_scores(finished):
    before, scores, _ = finished.tested.output.partition("Area under the ROC curve")
    assert scores
    require_quiet(before.splitlines(), "Keras ")


# ---------------------------------------------------------------- other ways of testing


def test_one_pass_over_each_image_in_groups(workspace, call):
    averaged, _ = read_predictions(workspace / "small")
    changes = {"full_images_to_test": "all", "N_group_visual": 3, "threshold": 0.3}
    configure(workspace, inference="full_image", **changes)
    require_success(call("testing", workspace))
    probabilities, _ = read_predictions(workspace / "small")
    assert probabilities.shape == averaged.shape
    # Another way to the same answer: near it, but not it.
    assert 0 < np.abs(probabilities - averaged).mean() < 0.1

    # A group of three that two images do not fill: no third column, no second picture.
    (comparison,) = (workspace / "small").glob("*GroundTruth_Prediction*.png")
    assert picture(comparison).shape == (3 * HEIGHT, 2 * WIDTH)

    inside = picture(workspace / "DRIVE/test/mask/02_test_mask.gif") > 0
    saved = picture(workspace / "small" / "segmentations" / "02.png")
    np.testing.assert_array_equal(saved, 255 * ((probabilities[1] >= 0.3) & inside))
    written = read_scores(workspace / "small")
    assert written["inside_FOV"]["threshold"] == 0.3
    assert written["per_image"]["images"][1]["threshold"] == 0.3


def test_patches_side_by_side_of_the_first_image_with_the_last_weights(workspace, call):
    averaged, _ = read_predictions(workspace / "small")
    configure(workspace, average_mode=False, full_images_to_test=1, best_last="last")
    output = require_success(call("testing", workspace))
    assert f"Testing {workspace / 'small' / 'small_last.weights.h5'} on 1 test" in output
    probabilities, ids = read_predictions(workspace / "small")
    assert ids == ["01"]
    assert 0 < np.abs(probabilities - averaged[:1]).mean() < 0.1


def test_images_of_another_camera_are_predicted_at_the_size_of_the_training(workspace, call):
    predicted = []
    for factors, sizes in (
        ("1", ["54 x 43"]),
        ("1.5", ["81 x 64"]),
        ("1, 1.5", ["54 x 43", "81 x 64"]),
    ):
        configure(workspace, fov_width=40, inference="full_image", camera_scales=factors)
        output = require_success(call("testing", workspace))
        assert f"Predicting at {' and '.join(sizes)} pixels: fov_width = 40" in output
        predicted.append(read_predictions(workspace / "small")[0])
    assert predicted[0].shape == (2, HEIGHT, WIDTH)
    first, second, both = predicted
    np.testing.assert_allclose(both, power_mean([first, second]), atol=1e-6)
    assert np.abs(first - second).max() > 0.01


def test_at_each_size_photographs_are_seen_in_other_orientations(workspace, call):
    def predict(scales="1", **settings):
        settings = {"fov_width": 40, **settings}
        configure(workspace, inference="full_image", camera_scales=scales, **settings)
        require_success(call("testing", workspace))
        return read_predictions(workspace / "small")[0]

    one = predict()
    np.testing.assert_array_equal(predict(camera_flips=1), one)  # the first is as it is
    report = (workspace / "small" / "report.html").read_text()
    assert "scaled to fov_width: seen at 1 times of it, in 1 orientations." in report
    eight = predict(average_flips=8)
    np.testing.assert_allclose(predict(camera_flips=8), eight, atol=1e-6)
    assert np.abs(one - eight).max() > 0.01
    shared = predict("1, 1", camera_flips="8, 1")
    # The mean is taken before it is enlarged to the size of the photographs.
    np.testing.assert_allclose(shared, power_mean([eight, one]), atol=1e-3)
    # A photograph that is not scaled is averaged as average_flips says.
    np.testing.assert_array_equal(predict(fov_width=0, camera_flips=8), predict(fov_width=0))


@pytest.mark.slow
@pytest.mark.parametrize("inference", ["patches", "full_image"])
@pytest.mark.parametrize("flips", [False, True])
def test_leaving_out_what_is_outside_the_fov_changes_nothing_inside(
    workspace, flips, inference, call
):
    fov = picture(workspace / "DRIVE/test/mask/01_test_mask.gif") > 0
    predicted, whole = [], []
    for inside_fov in (False, True):
        changes = {"inference": inference, "average_flips": flips}
        configure(workspace, testing_settings__inside_FOV=inside_fov, **changes)
        require_success(call("testing", workspace))
        predicted.append(read_predictions(workspace / "small")[0][0])
        whole.append(read_scores(workspace / "small")["whole_image"])
    np.testing.assert_allclose(predicted[1][fov], predicted[0][fov], atol=1e-6)
    assert predicted[0][~fov].any() and not predicted[1][~fov].any()
    assert whole[0] and whole[1] is None


def test_results_of_an_earlier_test_do_not_stay_beside_new_ones(workspace, call):
    configure(workspace, N_group_visual=2, inference="full_image")
    output = require_success(call("testing", workspace))
    assert f"Removed the results of an earlier test in {workspace / 'small'}." in output
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= TRAINED | SCORES
    assert "small_Original_GroundTruth_Prediction0.png" in names
    assert "small_Original_GroundTruth_Prediction1.png" not in names


def test_images_without_ground_truth_give_predictions_and_pictures(workspace, call):
    for path in (workspace / "DRIVE/test/1st_manual").iterdir():
        path.unlink()
    (workspace / "DRIVE/test/1st_manual").rmdir()
    output = require_success(call("prepare", workspace))
    assert mentions(output, "no ground truth")
    output = require_success(call("testing", workspace))
    assert mentions(output, "no ground truth", "no scores")
    names = {path.name for path in (workspace / "small").iterdir()}
    assert names >= PREDICTED - {"all_groundTruths.png"}
    assert not names & (SCORES | {"all_groundTruths.png"})
    shown = picture(workspace / "small" / "small_Original_GroundTruth_Prediction0.png")
    assert shown.shape == (2 * HEIGHT, WIDTH)


def test_a_network_that_answers_one_grey_is_reported(workspace, call):
    (workspace / "small" / "small_best.weights.h5").unlink()
    path = workspace / "small" / "small_best_weights.h5"
    write_keras1_weights(path, unet_shapes(), scale=0)
    configure(workspace, inference="full_image")
    output = require_success(call("testing", workspace))
    assert mentions(output, "WARNING", "0.500 for every pixel", "one grey", "PLATEAU")


# ---------------------------------------------------------------- folders as arguments


def test_an_experiment_is_tested_from_elsewhere_and_opened_once(
    workspace, call, tmp_path, monkeypatch
):
    """The folder as argument, --data and --output, the current folder another one."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (workspace / DATA_FOLDER).rename(tmp_path / "moved")
    before = hashes(workspace)
    weights = workspace / "small" / "small_best.weights.h5"
    classes = TrainedWeights, h5py.File, Experiment
    read, opened, made = (note_calls(monkeypatch, cls) for cls in classes)

    words = ("../workspace/small", "--data", "../moved", "--output", "../results")
    output = require_success(call("testing", elsewhere, *words))

    assert len(made) == 1
    assert [str(path) for path in read].count(str(weights)) == 1
    assert str(weights) not in map(str, opened), "what was read is not looked for again"
    assert hashes(workspace) == before
    assert not list(elsewhere.iterdir())
    assert {path.name for path in (tmp_path / "results").iterdir()} >= PREDICTED | SCORES
    assert mentions(output, str(weights), str(tmp_path / "results"))
    assert ".." not in output


def test_an_experiment_s_folder_is_trained_further_as_its_configuration_says(workspace, call):
    (workspace / "configuration.txt").unlink()
    done = call("training", workspace, "small")
    require_refusal(done, f"3 epochs are in {workspace}/small/small_last.weights.h5", "N_epochs")


# ---------------------------------------------------------------- validation images


def test_a_training_from_published_weights_validated_on_an_image(workspace, call):
    """Weights of 2016, patches that are varied, and an image that validates and never trains."""
    initial = Path("published") / "test_best_weights.h5"
    (workspace / "published").mkdir()
    write_keras1_weights(workspace / initial, unet_shapes())
    settings = {"name": "tuned", "initial_weights": initial, "validation_split": 1}
    settings |= {"flip": True, "zoom": 1.5, "brightness": 0.2, "dropout": 0.1}
    settings |= {"images": "validation", "inference": "full_image"}
    configure(workspace, N_epochs=1, **settings)
    output = require_success(call("training", workspace))
    assert mentions(output, f"Starting from the weights {workspace / initial}.", "180 degrees")
    assert mentions(output, "40 patches for training; 20 for validation, from the images 23.")
    plain, shown = (
        picture(workspace / name / "sample_input_imgs.png") for name in ("small", "tuned")
    )
    assert shown.shape == plain.shape
    assert (shown != plain).any()

    # The image that validates is tested beside the test images.
    before = hashes(workspace / "tuned")
    output = require_success(call("testing", workspace))
    assert "on 1 validation images" in output
    require_best_f1(workspace, float(output.partition("at a probability of ")[2].split(". For")[0]))
    after = hashes(workspace / "tuned")
    assert {name: after[name] for name in before} == before

    # It resumes without the weights that it started from.
    (workspace / initial).unlink()
    configure(workspace, N_epochs=2, **settings)
    output = require_success(call("training", workspace))
    assert "Resuming after epoch 1 of 2" in output
    assert "Starting from" not in output

    # Other images neither resume nor pass as validation images.
    configure(workspace, N_epochs=3, **settings)
    for kind in ("imgs", "groundTruth", "borderMasks"):
        path = workspace / DATA_FOLDER / f"DRIVE_dataset_{kind}_train.hdf5"
        with h5py.File(path, "a") as file:
            del file["ids"]
            file["ids"] = ["20", "21", "22"]
    before = hashes(workspace / "tuned")
    done = call("testing", workspace)
    require_refusal(done, "was trained with other images. For validation then: 23. Now: 22.")
    done = call("training", workspace)
    require_refusal(done, "was trained with other images. For training then: 21, 22. Now: 20, 21.")
    assert hashes(workspace / "tuned") == before


def require_best_f1(folder, told):
    """Requires that no threshold near the one told has a higher F1."""
    probabilities, ids = read_predictions(folder / "tuned" / "validation")
    assert ids == ["23"]
    truth = picture(folder / "DRIVE/training/1st_manual/23_manual1.gif").ravel() > 0
    inside = picture(folder / "DRIVE/training/mask/23_training_mask.gif").ravel() > 0
    f1 = [
        binary_scores(truth[inside], probabilities.ravel()[inside], threshold)["f1"]
        for threshold in (told - 0.01, told, told + 0.01)
    ]
    assert max(f1) == f1[1]


def test_training_images_that_trained_are_no_validation_images(workspace, call):
    configure(workspace, images="validation", inference="full_image")
    done = call("testing", workspace)
    require_refusal(done, "[testing settings] images must be test", "none of the 3 training images")
    configure(workspace, validation_split=0.34, images="validation")
    done = call("testing", workspace)
    weights = workspace / "small" / "small_best.weights.h5"
    require_refusal(done, f"validation_split must be 0.1, with which {weights} was trained")


def test_a_training_on_all_images_from_the_weights_of_another(finished, workspace, call):
    initial = "small/small_last.weights.h5"
    settings = {"name": "tuned", "N_epochs": 1, "optimizer": "adam", "learning_rate": 1e-9}
    settings |= {"initial_weights": initial, "validation_split": 0}
    configure(workspace, best_last="last", inference="full_image", **settings)
    output = require_success(call("training", workspace))
    assert f"Starting from the weights {workspace / initial}." in output
    assert "60 patches for training; none validates" in output
    tuned = workspace / "tuned"
    assert not (tuned / "tuned_best.weights.h5").exists()
    assert "val_loss" not in (tuned / "tuned_log.csv").read_text()
    # At such a rate the weights stay where they began.
    begun, ended = (
        {name: array for name, array in read_weights(path).items() if "optimizer" not in name}
        for path in (workspace / initial, tuned / "tuned_last.weights.h5")
    )
    assert begun.keys() == ended.keys()
    for name, array in begun.items():
        np.testing.assert_allclose(ended[name], array, atol=1e-6, err_msg=name)

    require_success(call("testing", workspace))
    configure(workspace, best_last="best", **settings)
    done = call("testing", workspace)
    require_refusal(done, "[testing settings] best_last must be last where validation_split = 0")


# ---------------------------------------------------------------- an earlier training stands there


def test_overwrite_starts_anew_and_another_seed_is_another_training(finished, workspace, call):
    configure(workspace, N_epochs=1, seed=8)
    require_success(call("training", workspace, "--overwrite"))
    (row,) = read_log(workspace / "small" / "small_log.csv")
    assert row != read_log(finished.experiment / "small_log.csv")[0]
    best, last = (read_weights(workspace / f"small/small_{n}.weights.h5") for n in BEST_LAST)
    assert best  # saved in the same epoch, without the optimiser
    assert all(np.array_equal(array, last[name]) for name, array in best.items())
    # The results of the earlier network went with it.
    assert not {path.name for path in (workspace / "small").iterdir()} & (PREDICTED | SCORES)


# ---------------------------------------------------------------- foreign surroundings


def test_a_keras_json_of_the_user_changes_nothing_and_one_seed_is_one_training(
    finished, workspace, call
):
    """What the finished experiment's scripts gave with one, this process gives without."""
    configure(workspace, name="again", N_epochs=1)
    require_success(call("training", workspace))
    (row,) = read_log(workspace / "again" / "again_log.csv")
    assert row == read_log(finished.experiment / "small_log.csv")[0]
    configure(workspace)
    require_success(call("testing", workspace))
    assert read_scores(workspace / "small") == read_scores(finished.experiment)


@pytest.mark.slow
def test_without_onednn_the_results_are_the_same_up_to_rounding(finished, workspace):
    configure(workspace, name="plain")
    for script in ("run_training.py", "run_testing.py"):
        require_success(run(script, cwd=workspace, TF_ENABLE_ONEDNN_OPTS="0"))
    rows = read_log(workspace / "plain" / "plain_log.csv")
    assert len(rows) == NUM_EPOCHS
    for row, expected in zip(rows, read_log(finished.experiment / "small_log.csv"), strict=True):
        assert row == pytest.approx(expected, rel=1e-2)


@pytest.mark.slow
def test_a_name_with_a_space_and_umlauts_in_the_locale_c(workspace):
    name = "Gefäße 2"
    configure(workspace, name=name, N_epochs=1)
    for script in ("run_training.py", "run_testing.py"):
        require_success(run(script, cwd=workspace, LC_ALL="C", LANG="C"))
    assert (workspace / name / f"{name}_best.weights.h5").is_file()
