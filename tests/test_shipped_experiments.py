"""Shipped experiments: configuration, weights and scores belong together, and the networks work."""

import json
import re
import subprocess

import h5py
import numpy as np
import pytest

from lib import phantom, unpadded
from lib.class_metrics import class_scores
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.evaluation import binary_scores
from lib.experiment import PRETRAINED, Experiment
from lib.membrane_metrics import v_rand_thin
from lib.pre_processing import scale_to_unit
from lib.training import find_begun
from lib.weights import read_weights
from src import retinaNN_predict, retinaNN_training, segmentationNN_training
from src.tasks import TASKS

FINISHED = (
    "vessels",
    "vessels_chase",
    "vessels_held_out",
    "membranes",
    "membranes_held_out",
    "cells",
    "nuclei",
    "lungs",
)
# On a CPU 150 epochs take days: whoever has a GPU can finish it.
BEGUN = "vessels_faithful"
# Its images' licence keeps weights from being given on.
WITHOUT_WEIGHTS = "street_scenes"
STREET = "sky building pole road pavement tree sign fence car pedestrian bicyclist"


def build_network(configuration, weights):
    """Builds the network of a shipped experiment for small inputs."""
    if configuration.task.name == "retina":
        return retinaNN_training.build_network(configuration, 48, 48)
    if configuration.task.name == "segmentation":
        return segmentationNN_training.build_network(configuration, weights.data, 64, 64)
    return unpadded.build_network(configuration, 188)


def read_shipped(name):
    configuration = read_configuration(PRETRAINED / name / f"{name}_configuration.txt", TASKS)
    return configuration, Experiment(configuration.experiment_name.name)


@pytest.fixture(params=[*FINISHED, BEGUN])
def shipped(request, in_tmp_path):
    """A shipped configuration and its experiment, seen from another folder."""
    return read_shipped(request.param)


def weights_of(configuration, experiment):
    return read_weights(experiment.find_weights(configuration.testing_settings.best_last))


def test_every_shipped_folder_is_tested():
    assert {path.name for path in PRETRAINED.iterdir() if path.is_dir()} == {
        *FINISHED,
        BEGUN,
        WITHOUT_WEIGHTS,
    }


@pytest.mark.parametrize("name", [*FINISHED, BEGUN, WITHOUT_WEIGHTS])
def test_the_configuration_names_its_folder(name, in_tmp_path):
    configuration, experiment = read_shipped(name)
    assert experiment.is_shipped
    assert configuration.experiment_name.name == f"pretrained/{experiment.name}"
    assert [path.name for path in experiment.folder.glob("*.txt") if "_conf" in path.name] == [
        f"{experiment.name}_configuration.txt"
    ]


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_training_is_complete(name, in_tmp_path):
    configuration, experiment = read_shipped(name)
    history = read_weights(experiment.weights("last")).history
    assert len(history) == configuration.training_settings.N_epochs
    with h5py.File(experiment.weights("last")) as file:
        assert "optimizer" not in file


def test_an_experiment_without_weights_has_its_log_and_its_scores(in_tmp_path):
    configuration, experiment = read_shipped(WITHOUT_WEIGHTS)
    assert not list(experiment.folder.glob("*.h5"))
    num_epochs = configuration.training_settings.N_epochs
    assert experiment.file("log.csv").read_text().count("\n") == num_epochs + 1
    scores = json.loads((experiment.folder / "performances.json").read_text())
    matrix = np.array(scores["confusion_matrix"])
    assert class_scores(matrix)["mean_iou"] == scores["mean_iou"]
    assert list(scores["classes"]) == STREET.split()
    with pytest.raises(UserError, match="holds no weights"):
        experiment.find_weights("last")


def test_the_faithful_experiment_can_resume(in_tmp_path):
    configuration, experiment = read_shipped(BEGUN)
    template = PRETRAINED.parent / "configuration.txt"
    as_it_stands = read_configuration(template, TASKS).as_dict()
    as_it_stands["experiment_name"]["name"] = f"pretrained/{BEGUN}"
    assert configuration.as_dict() == as_it_stands
    begun = find_begun(experiment, configuration)
    begun.require_optimizer()
    assert experiment.file("log.csv").read_text().count("\n") == len(begun.history) + 1


def test_weights_load_into_the_network(shipped):
    configuration, experiment = shipped
    weights = weights_of(configuration, experiment)
    weights.load_into(build_network(configuration, weights))
    assert weights.looks or experiment.name == BEGUN


def test_weights_tell_their_images_and_those_of_their_ancestors(shipped):
    configuration, experiment = shipped
    weights = weights_of(configuration, experiment)
    assert weights.record["images"]["training"]
    assert all(ancestor["images"]["training"] for ancestor in weights.ancestors)
    held_out = weights.record["images"]["validation"]
    if held_out:  # no ancestor saw what is called held out
        assert weights.describe_origin(held_out) == ""
    seen = weights.record["images"]["training"][:1]
    assert f"trained on images with the ids {seen[0]}" in weights.describe_origin(seen)


@pytest.mark.parametrize("name", ["vessels", "vessels_chase", "vessels_held_out"])
def test_shipped_weights_find_the_vessels_of_phantoms(name, in_tmp_path):
    configuration, experiment = read_shipped(name)
    configuration = configuration.with_values("testing_settings", average_flips=1)
    photograph, vessels, fov = phantom.fundus(1, 292, 283)
    data = {"images": photograph.transpose(2, 0, 1)[np.newaxis], "fov_masks": fov[np.newaxis, None]}
    weights = weights_of(configuration, experiment)
    _, probabilities = retinaNN_predict.predict_images(configuration, weights, data)
    inside = fov > 0
    scores = binary_scores(vessels[inside] > 0, probabilities[0, 0][inside])
    assert scores["auc_roc"] > 0.9


@pytest.mark.parametrize("name", ["membranes", "membranes_held_out"])
def test_shipped_weights_separate_the_cells_of_phantoms(name, in_tmp_path):
    configuration, experiment = read_shipped(name)
    testing = {"average_flips": 1, "tile_size": 380}
    configuration = configuration.with_values("testing_settings", **testing)
    weights = weights_of(configuration, experiment)
    slices, labels = phantom.membranes(1, 196, 196, num_slices=1)
    predict = unpadded.load_predictor(configuration, weights)
    probabilities = predict("slices", scale_to_unit(slices, weights.scaling))
    assert v_rand_thin((labels > 0).astype(np.uint8), probabilities) > 0.9


@pytest.mark.skipif(
    not (PRETRAINED.parent / ".git").exists(), reason="not a clone: git names no files"
)
def test_no_data_set_and_no_path_of_a_machine_ships(shipped):
    _, experiment = shipped
    files = subprocess.run(
        ["git", "ls-files", experiment.folder],
        capture_output=True,
        text=True,
        check=True,
        cwd=PRETRAINED.parent,
    ).stdout.split()
    assert files
    endings = ("txt", "json", "csv", "h5")
    drawn = ("loss_curves.png", "ROC.png", "Precision_recall.png")
    assert [name for name in files if not name.endswith(endings + drawn)] == []
    paths = [PRETRAINED.parent / name for name in files]
    texts = [path.read_text() for path in paths if path.suffix in (".txt", ".json", ".csv")]
    texts.append(json.dumps(read_weights(experiment.weights("last")).record))
    assert not [text for text in texts if re.search(r"/(home|root|tmp|work|Users)/", text)]


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("vessels", {"auc_roc": 6, "auc_pr": 6, "f1": 4, "accuracy": 4}),
        ("vessels_faithful", {"auc_roc": 6, "auc_pr": 6, "f1": 4, "accuracy": 4}),
        ("vessels_chase", {"auc_roc": 5, "auc_pr": 4, "f1": 4, "accuracy": 4}),
        ("membranes_held_out", {"v_rand_thin": 4, "v_info_thin": 4, "pixel_error": 4}),
        ("nuclei", {"foreground_iou": 4}),
    ],
)
def test_the_results_page_gives_the_shipped_scores(name, scores):
    page = (PRETRAINED.parent / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    performances = json.loads((PRETRAINED / name / "performances.json").read_text())
    rows = [
        row for row in page.splitlines() if row.startswith("|") and f"pretrained/{name}`" in row
    ]
    for score, digits in scores.items():
        value = performances.get("inside_FOV", performances)[score]
        value = value["best"] if isinstance(value, dict) else value
        assert any(f"{value:.{digits}f}".lstrip("0") in row for row in rows), (score, value)


def test_a_finished_training_is_not_started_again(in_tmp_path):
    configuration, experiment = read_shipped("vessels")
    with pytest.raises(UserError, match="is complete"):
        find_begun(experiment, configuration)
