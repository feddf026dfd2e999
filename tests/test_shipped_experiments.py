"""Shipped experiments: configuration, weights and figures belong together."""

import json
import re
import subprocess
from pathlib import Path

import h5py
import pytest

from lib import training
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.experiment import Experiment
from src import membraneNN_training, retinaNN_training

REPOSITORY = Path(__file__).resolve().parents[1]
FINISHED = (
    "configuration_best.txt",
    "best_held_out/best_held_out_configuration.txt",
    "configuration_membrane.txt",
    "membrane_held_out/membrane_held_out_configuration.txt",
)
# On a CPU 150 epochs take days: whoever has a GPU can finish it.
BEGUN = "faithful/faithful_configuration.txt"
TRAININGS = {"retina": retinaNN_training, "membrane": membraneNN_training}


@pytest.fixture(params=[*FINISHED, BEGUN])
def shipped(request, monkeypatch):
    """A shipped configuration and its experiment, in the project's folder."""
    monkeypatch.chdir(REPOSITORY)
    configuration = read_configuration(request.param)
    return configuration, Experiment(configuration.experiment_name.name)


@pytest.mark.parametrize("shipped", FINISHED, indirect=True)
def test_weights_are_those_of_the_configuration(shipped):
    configuration, experiment = shipped
    with pytest.raises(UserError, match="is complete"):
        training.read_history(experiment, configuration)
    with h5py.File(experiment.weights("last")) as file:
        assert "optimizer" not in file


@pytest.mark.parametrize("shipped", [BEGUN], indirect=True)
def test_the_faithful_experiment_can_go_on(shipped):
    configuration, experiment = shipped
    as_it_stands = read_configuration("configuration.txt").as_dict()
    as_it_stands["experiment_name"]["name"] = experiment.name
    assert configuration.as_dict() == as_it_stands
    history = training.read_history(experiment, configuration)
    assert experiment.file("log.csv").read_text().count("\n") == len(history) + 1
    with h5py.File(experiment.weights("last")) as file:
        assert "optimizer" in file


def test_the_kept_configuration_is_the_one_at_the_top(shipped):
    configuration, experiment = shipped
    kept = read_configuration(experiment.file("configuration.txt"))
    assert kept.as_dict() == configuration.as_dict()


def test_weights_load_into_the_network(shipped):
    configuration, experiment = shipped
    weights = experiment.find_weights(configuration.testing_settings.best_last)
    script = TRAININGS[configuration.task]
    size = {"retina": (48, 48), "membrane": (188,)}[configuration.task]
    training.load_weights(script.build_network(configuration, *size), weights)


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a clone: git names no files")
def test_no_data_set_and_no_path_of_a_machine_ships(shipped):
    _, experiment = shipped
    files = subprocess.run(
        ["git", "ls-files", experiment.folder], capture_output=True, text=True, check=True
    ).stdout.split()
    endings = ("txt", "json", "csv", "h5")
    drawn = ("loss_curves.png", "ROC.png", "Precision_recall.png")
    assert [name for name in files if not name.endswith(endings + drawn)] == []
    texts = [Path(name).read_text() for name in files if name.endswith(("txt", "json", "csv"))]
    texts.append(json.dumps(training.read_training_state(experiment.weights("last"))))
    assert not [text for text in texts if re.search(r"/(home|root|tmp|work|Users)/", text)]


def test_the_results_page_gives_the_shipped_figures():
    page = (REPOSITORY / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    membrane = json.loads((REPOSITORY / "membrane_held_out/performances.json").read_text())
    (row,) = (line for line in page.splitlines() if "membrane_held_out/`, shipped" in line)
    for name in ("v_rand_thin", "v_info_thin", "pixel_error", "rand_error"):
        assert f"{membrane[name]['best']:.4f}".lstrip("0") in row
    for folder in ("best", "faithful"):
        vessels = json.loads((REPOSITORY / folder / "performances.json").read_text())["inside_FOV"]
        (row,) = (line for line in page.splitlines() if f"`{folder}/`, shipped" in line)
        for name, digits in (("auc_roc", 6), ("auc_pr", 6), ("f1", 4), ("accuracy", 4)):
            assert f"{vessels[name]:.{digits}f}".lstrip("0") in row
    state = training.read_training_state(REPOSITORY / "faithful/faithful_last.weights.h5")
    assert f"after {len(state['history'])} of 150 epochs" in row
