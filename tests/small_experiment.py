"""The small retina experiment that most tests of scripts vary, and what it writes."""

import json

import h5py

from tests.small_data import hashes, write_configuration

NUM_EPOCHS = 3
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
SCORES = {"ROC.png", "Precision_recall.png", "performances.txt", "performances.json"}


def configure(folder, *file_name, **changes):
    """Writes the configuration of the finished experiment with changed values."""
    return write_configuration(folder, *file_name, **{"N_epochs": NUM_EPOCHS, **changes})


def read_scores(folder):
    """Reads performances.json of a folder of results."""
    return json.loads((folder / "performances.json").read_text())


def read_predictions(folder):
    """Gives the probabilities (N, H, W) of a folder of results, and the ids."""
    with h5py.File(folder / "predictions.hdf5") as file:
        return file["image"][:, 0], list(file["ids"].asstr()[...])


def kept(folder):
    """Gives the hashes of all files but the locks, which name the process that had them last."""
    return {
        name: content for name, content in hashes(folder).items() if ".training.lock" not in name
    }


def note_calls(monkeypatch, cls):
    """Gives a list that gets the first argument of every object that is made of a class."""
    original, calls = cls.__init__, []

    def noting(self, first, *arguments, **options):
        calls.append(first)
        original(self, first, *arguments, **options)

    monkeypatch.setattr(cls, "__init__", noting)
    return calls
