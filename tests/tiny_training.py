"""A training through the shared code, with a network of a few hundred parameters."""

from pathlib import Path

import keras
import numpy as np

from lib.configuration import read_configuration
from lib.experiment import Experiment
from lib.patch_dataset import TileDataset
from lib.training import training_run
from src.tasks import TASKS
from tests.small_data import write_configuration

SIDE = 4
# 24 patches in batches of 6: 4 batches an epoch; 6 more validate.
NUM_TRAINING, NUM_PATCHES, NUM_BATCHES = 24, 30, 4
SHARES = (0.75, 0.25)
IMAGE_IDS = {"training": ["21", "22"], "validation": ["23"]}
# 16 * 8 + 8 + 8 * 32 + 32
NUM_PARAMETERS = 424


def tiny_network(num_units=8):
    """Labels the 16 pixels of a 4 x 4 patch; has dropout, as the real networks do."""
    layers = keras.layers
    inputs = keras.Input((1, SIDE, SIDE))
    x = layers.Dense(num_units, activation="relu")(layers.Flatten()(inputs))
    x = layers.Dense(2 * SIDE * SIDE)(layers.Dropout(0.3)(x))
    x = layers.Reshape((-1, 2))(x)
    return keras.Model(inputs, layers.Softmax(dtype="float32")(x), name="tiny")


def configure(folder=".", num_epochs=2, **settings):
    """Reads a configuration of the retina task with further training settings."""
    settings = {"batch_size": 6, "N_epochs": num_epochs, "learning_rate": 0.01, **settings}
    return read_configuration(write_configuration(folder, **settings), TASKS)


def experiment_in(folder):
    """Makes the folder of an experiment."""
    Path(folder).mkdir(exist_ok=True)
    return Experiment(folder)


def datasets(configuration):
    """Gives patches of one image whose bright pixels are vessels: for training and validation."""
    rng = np.random.default_rng(1)
    image = rng.random((1, 12, 12), np.float32)
    truth = (image[0] > 0.75).astype(np.uint8)
    places = np.stack([np.zeros(NUM_PATCHES, int), *rng.integers(0, 9, (2, NUM_PATCHES))], -1)
    settings = configuration.training_settings
    options = {"input_size": (SIDE, SIDE), "batch_size": settings.batch_size}

    def tiles(chosen, **more):
        return TileDataset([image], [truth], None, chosen, **options, **more)

    training = tiles(places[:NUM_TRAINING], shuffle=True, seed=settings.seed)
    return training, tiles(places[NUM_TRAINING:])


def train(
    configuration,
    experiment,
    overwrite=False,
    network=tiny_network,
    image_ids=IMAGE_IDS,
    loss="sparse_categorical_crossentropy",
    **options,
):
    """Trains, or resumes, as a task's script does; gives the network and the run."""
    with training_run(configuration, experiment, overwrite) as run:
        run.require_images(image_ids)
        training, validation = datasets(configuration)
        model = run.build(network, loss, len(training), **options)
        run.fit(model, training, validation, [SHARES, SHARES])
    return model, run


def layer_weights(model):
    """Gives all weights of a network in one row."""
    return np.concatenate([weights.ravel() for weights in model.get_weights()])
