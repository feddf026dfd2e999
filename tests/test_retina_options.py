"""Options of the retina experiment that the original lacks: colours, and another loss."""

import json
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.configuration import read_configuration
from lib.errors import run_script
from lib.evaluation import binary_scores
from lib.files import load_hdf5
from lib.weights import read_weights
from src import predict_folder, retinaNN_predict
from src.launch import launch
from src.retinaNN_predict import describe_export, evaluate, scores_to_show
from src.retinaNN_training import loss_and_metrics
from src.tasks import TASKS
from tests.tiny_experiments import write_retina


@pytest.fixture
def start(monkeypatch, capfd):
    """A function that runs training, testing or prediction here: start(step, *arguments)."""

    def starting(step, *arguments):
        monkeypatch.setattr(sys, "argv", [step, *map(str, arguments)])
        capfd.readouterr()
        status = predict_folder.main() if step == "prediction" else launch(step)
        return status, "".join(capfd.readouterr())

    return starting


def test_a_network_of_colours_trained_with_dice_tests_and_predicts(in_tmp_path, start):
    path = write_retina(in_tmp_path, training="loss = dice_cross_entropy", testing="threshold=0.3")
    grey = path.read_text().replace("[data attributes]", "[data attributes]\nfov_width = 48")
    path.write_text(grey.replace("[data attributes]", "[data attributes]\nchannels = rgb"))
    status, output = start("training")
    assert status == 0, output
    weights = read_weights("tiny/tiny_last.weights.h5")
    assert weights.record["settings"]["data_attributes"]["channels"] == "rgb"
    assert {"cross_entropy", "val_mean_iou"} <= set(weights.history[0])
    first = next(size for name, size in weights.parameters.items() if size == 3 * 32 * 9)
    assert first == 864  # kernels of 3 x 3 for 3 colours and 32 filters

    status, output = start("testing")
    assert status == 0, output
    with Image.open("tiny/all_originals.png") as shown:
        assert shown.mode == "RGB"
    probabilities = load_hdf5(in_tmp_path / "tiny" / "predictions.hdf5")

    photograph = load_hdf5(in_tmp_path / "retina" / "DRIVE_dataset_imgs_test.hdf5")[1]
    Image.fromarray(photograph.transpose(1, 2, 0)).save("eye.png")
    status, output = start("prediction", "eye.png", "--experiment", "tiny")
    assert status == 0, output
    with Image.open("segmented/eye_probability.png") as image:
        predicted = np.asarray(image) / 65535
    np.testing.assert_allclose(predicted, probabilities[1, 0], atol=1e-4)

    # Twice the angle: the network sees twice the width.
    status, output = start("testing", "--angle", 90, "--output", "wide")
    assert status == 0, output
    assert "Predicting at 96 x 128 pixels: fov_width = 96." in output
    with h5py.File("wide/predictions.hdf5") as file:
        settings = json.loads(file["settings"].asstr()[()])
        assert file["image"].shape == (2, 1, 64, 48)
    assert settings["data_attributes"]["fov_width"] == 96
    status, output = start("testing", "--angle", 0)
    assert status == 1 and "--angle must be from above 0 to 360. Received: 0." in output

    # A training goes on at the scale at which it began.
    path.write_text(
        path.read_text().replace("= 48", "= 40").replace("N_epochs = 1", "N_epochs = 2")
    )
    status, output = start("training")
    assert status == 1
    assert "fov width: 48 -> 40" in output

    path.write_text(grey)  # the same weights for a network of grey values
    status, output = start("testing")
    assert status == 1
    assert "[data attributes] channels must be rgb, with which" in output
    with h5py.File("tiny/predictions.hdf5") as file:  # nothing was replaced
        np.testing.assert_array_equal(file["image"], probabilities)


def test_the_cross_entropy_stays_keras_own(in_tmp_path):
    path = write_retina(in_tmp_path)
    settings = read_configuration(path, TASKS).training_settings
    assert loss_and_metrics(settings) == ("sparse_categorical_crossentropy", None)
    settings.loss, settings.dice_weight, settings.cross_entropy_weight = "dice", 2.0, 3.0
    loss, make_metrics = loss_and_metrics(settings)
    assert (loss.dice_weight, loss.cross_entropy_weight) == (1.0, 0.0)
    settings.loss = "dice_cross_entropy"
    loss, _ = loss_and_metrics(settings)
    assert (loss.dice_weight, loss.cross_entropy_weight) == (2.0, 3.0)
    assert [metric.name for metric in make_metrics()] == ["accuracy", "cross_entropy", "mean_iou"]


@pytest.mark.parametrize(
    ("channels", "number", "words"),
    [("grey", 1, "grey = 0.299 R + "), ("green", 1, "green, scaled"), ("rgb", 3, "each of red")],
)
def test_an_exported_network_says_what_it_takes(channels, number, words):
    attributes = SimpleNamespace(channels=channels, equalization="clahe", fov_width=540)
    settings = SimpleNamespace(average_flips=8, camera_scales=(0.8, 1.0), camera_flips=None)
    described = describe_export(
        SimpleNamespace(data_attributes=attributes, testing_settings=settings)
    )
    assert described["input"] == f"(batch, {number}, height, width) float32 in [0, 1]"
    assert described["pre_processing"].startswith(words)
    assert (described["channels"], described["fov_width"]) == (channels, 540)


def test_other_channels_and_losses_are_refused(in_tmp_path, capfd):
    path = write_retina(in_tmp_path, training="loss = mcc")
    path.write_text(
        path.read_text().replace("[data attributes]", "[data attributes]\nchannels=hsv")
    )
    assert run_script(lambda: read_configuration(path, TASKS)) == 1
    said = capfd.readouterr().err
    assert "channels must be grey or green or rgb. Received: hsv." in said
    assert "loss must be cross_entropy or dice or dice_cross_entropy. Received: mcc." in said


def test_scores_inside_and_whole_pooled_and_image_by_image(in_tmp_path, rng):
    path = write_retina(in_tmp_path, testing="images = training\naccuracy_threshold = 0.7")
    settings = read_configuration(path, TASKS).testing_settings
    masks = np.zeros((3, 1, 20, 30), np.uint8)
    masks[:, :, 2:18, 3:27] = 1
    truth = (rng.random(masks.shape) < 0.2).astype(np.uint8) * masks
    probabilities = (rng.random(masks.shape) * 0.6 + 0.4 * truth).astype(np.float32)
    data = {"fov_masks": masks, "ground_truth": truth, "ids": list("abc"), "second_observer": None}
    performances, _ = evaluate(probabilities, data, settings)

    images = [binary_scores(t.ravel(), p.ravel()) for t, p in zip(truth, probabilities)]
    whole = performances["per_image_whole"]
    assert [image["auc_roc"] for image in whole["images"]] == [i["auc_roc"] for i in images]
    assert whole["spread"]["auc_pr"]["mean"] == pytest.approx(
        np.mean([i["auc_pr"] for i in images])
    )
    pooled = binary_scores(truth.ravel(), probabilities.ravel())
    assert performances["whole_image"] == pooled

    at, inside = performances["at_accuracy_threshold"], masks > 0
    expected = [binary_scores(t[m], p[m], 0.7) for t, p, m in zip(truth, probabilities, inside)]
    mean = np.mean([scores["accuracy"] for scores in expected])
    assert at["mean_of_images"]["accuracy"] == pytest.approx(mean)
    together = binary_scores(truth[inside], probabilities[inside], 0.7)
    assert {name: at[name] for name in ("threshold", "accuracy", "f1")} == {
        name: together[name] for name in ("threshold", "accuracy", "f1")
    }
    best = performances["best_accuracy"]
    again = binary_scores(truth[inside], probabilities[inside], best["threshold"])
    assert again["accuracy"] == best["accuracy"] >= at["accuracy"]
    assert 0 < performances["inside_FOV"]["cldice"] < 1
    shown = scores_to_show(performances)
    assert shown["AUC, whole image"] == pooled["auc_roc"]
    assert shown["Accuracy from a probability of 0.7"] == at["accuracy"]

    settings.inside_FOV, settings.images, settings.accuracy_threshold = True, "test", None
    performances, _ = evaluate(probabilities, data, settings)
    left_out = ("whole_image", "per_image_whole", "best_accuracy", "at_accuracy_threshold")
    assert [performances[name] for name in left_out] == [None] * 4
    assert "AUC, whole image" not in scores_to_show(performances)


@pytest.mark.parametrize(("average_mode", "way"), [(True, "overlapping patches"), (False, "side")])
def test_the_report_says_whether_patches_overlap(average_mode, way):
    configuration = read_configuration("configuration.txt", TASKS)
    configuration = configuration.with_values("testing_settings", average_mode=average_mode)
    assert way in retinaNN_predict.describe_way(configuration.testing_settings)
