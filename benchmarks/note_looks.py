"""Notes in shipped weights how the images looked that they were trained on.

    python -m benchmarks.note_looks pretrained/vessels --data DRIVE_datasets_training_testing

Trainings do this by themselves; it is for weights from before. run_testing.py and run_prediction.py
compare every image with what is noted, and say which are very unlike it. --data is the folder with
the HDF5 files of the training. The weights themselves stay as they are.
"""

import argparse
import importlib
import json

import h5py

from lib.backends import quietly, require_backend
from lib.errors import UserError, run_script
from lib.experiment import Experiment
from lib.files import atomic_write
from lib.pre_processing import look_of, range_of_looks
from lib.slices import load_labelled
from lib.weights import RECORD, open_weights
from src.launch import find_configuration


def main():
    """Reads the command line, measures the training images, writes the record anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configuration", metavar="experiment", help="its folder")
    parser.add_argument("--data", help="folder of its HDF5 files, in place of path_local")
    arguments = parser.parse_args()
    require_backend()
    configuration, folder = find_configuration(arguments)
    with quietly():
        importlib.import_module(configuration.task.training)
    weights = open_weights(configuration, Experiment(folder or configuration.experiment_name.name))
    looks = range_of_looks(looks_of_training(configuration, weights))
    note(weights, looks)
    print(f"{weights.path}: {looks}")


def looks_of_training(configuration, weights):
    """Measures the images that trained some weights, as their training would have.

    Args:
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
    Returns:
        list of what lib.pre_processing.look_of gives.
    Raises:
        UserError: if the data are those of other images.
    """
    name, ids = configuration.task.name, weights.record["images"]["training"]
    problem = f"--data must hold the images that trained {weights.path}: {ids}."
    if name in ("membrane", "cells"):
        slices = load_labelled(configuration, weights.scaling)
        images = dict(zip(slices["ids"], slices["images"]))
        if not set(ids) <= set(images):
            raise UserError(problem)
        return [look_of(images[identity]) for identity in ids]
    training = importlib.import_module(configuration.task.training)
    if name == "retina":
        looks = training.looks_of_training(configuration, ids)
        if len(looks) != len(ids):
            raise UserError(problem)
        return looks
    _, parts = training.load_training(configuration)
    weights.require_images({use: part["ids"] for use, part in parts.items()})
    return training.looks_of_training(parts["training"])


def note(weights, looks):
    """Writes how the training images look into the record of a weights file, in its place.

    Args:
        weights: lib.weights.TrainedWeights.
        looks: as lib.pre_processing.range_of_looks gives them.
    """
    with atomic_write(weights.path) as beside:
        beside.write_bytes(weights.content)
        with h5py.File(beside, "r+") as file:
            del file[RECORD]
            file[RECORD] = json.dumps(weights.record | {"looks": looks})


if __name__ == "__main__":
    raise SystemExit(run_script(main))
