"""Trains the paper's unpadded U-Net on membranes.

    python src/membraneNN_training.py [configuration_ISBI.txt]

The same as `python run_training.py configuration_ISBI.txt`, without a log file. Expected result: a
folder <name>/ with the best and the last weights, a log, loss curves and sample pictures that show
the deformed tiles, their labels and their weights. docs/RESULTS.md gives figures and times.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # started by itself: lib lies beside src
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from src.launch import launch

    sys.exit(launch("training", "membrane"))

import keras
import numpy as np

from lib.backends import is_first_host
from lib.devices import ONE_DEVICE, inner_data_format, start_computing
from lib.elastic_deformation import get_augmentation
from lib.experiment import Experiment
from lib.overlap_tile import output_size
from lib.patch_dataset import TileDataset, covering_places
from lib.pictures import group_images, visualize
from lib.training import (
    PlateauDetector,
    describe_end,
    draw_model,
    find_initial_weights,
    get_optimizer,
    load_weights,
    read_history,
    require_packages,
    require_same_images,
    require_shareable_batches,
    train,
)
from lib.unet import get_unpadded_unet
from src.membrane_data import load_labelled, split_validation

# What must be as in the training, though weights of the same shapes would load.
NETWORK_SETTINGS = [("training settings", key) for key in ("base_filters", "depth", "variant")]
NUM_SAMPLES, SAMPLES_PER_ROW = 6, 3


def main(configuration, overwrite=False):
    """Trains as a configuration says.

    Ronneberger, Fischer, Brox 2015, section 3. What the paper leaves open: docs/DIFFERENCES.md.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        overwrite: whether to start anew where there is an earlier training of the same name.
    Raises:
        UserError: for data or settings that do not fit.
    """
    settings = configuration.training_settings
    experiment = Experiment(configuration.experiment_name.name, is_first_host(settings.distribute))
    with experiment.writable_folder(), experiment.locked_for_training():
        # 1. How far an earlier start came; the device, the seed, the precision.
        require_packages(settings)
        history = [] if overwrite else read_history(experiment, configuration)
        initial = None
        if not history:
            initial = find_initial_weights(experiment, configuration, NETWORK_SETTINGS)
        devices = start_computing(settings.seed, settings.mixed_precision, settings.distribute)
        require_shareable_batches(configuration, devices)

        # 2. Tiles for training and validation, and a look at what is fed.
        data = load_labelled(configuration)
        parts = split_validation(configuration, len(data["images"]))
        uses = ("training", "validation")
        image_ids = {use: list(data["ids"][part]) for use, part in zip(uses, parts)}
        if history:
            require_same_images(experiment.weights("last"), image_ids)
        training_data, validation_data = split_tiles(configuration, data, len(history), devices)
        if experiment.is_first_host:
            save_samples(experiment, training_data)

        # 3. The network, with the weighted cross-entropy: sum(w * ce) / sum(w).
        with devices.scope():
            model = build_network(configuration, configuration.data_attributes.tile_size)
            if initial:
                load_weights(model, initial)
            model.compile(
                optimizer=get_optimizer(settings, num_steps=settings.N_epochs * len(training_data)),
                loss=keras.losses.SparseCategoricalCrossentropy(
                    reduction="mean_with_sample_weight"
                ),
                metrics=["accuracy"],
                steps_per_execution=settings.steps_per_execution,
            )
            model.optimizer.build(model.trainable_variables)
        print(f"Unpadded U-Net ({settings.variant}) with {model.count_params():,} parameters.")
        draw_model(model, experiment)

        # 4. The training itself.
        shares = [weighted_shares(data, part) if part.stop > part.start else None for part in parts]
        plateau = PlateauDetector(*shares)
        train(
            model,
            training_data,
            validation_data,
            experiment,
            configuration,
            history,
            plateau,
            image_ids,
        )
    print(describe_end(history, experiment, configuration))


def build_network(configuration, tile_size):
    """Builds the configured network for square tiles, for this device."""
    settings = configuration.training_settings
    return get_unpadded_unet(
        1,
        tile_size,
        tile_size,
        base_filters=settings.base_filters,
        depth=settings.depth,
        variant=settings.variant,
        data_format=inner_data_format(),
    )


def split_tiles(configuration, data, epoch=0, devices=ONE_DEVICE):
    """Gives tiles for training, drawn and deformed at random, and for validation, as they are.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        data: as src.membrane_data.load_labelled gives it.
        epoch: number of the epoch that comes first, 0 unless training is resumed.
        devices: lib.devices.Devices that share a batch.
    Returns:
        two TileDatasets; with validation_images = 0 the second is None.
    """
    settings = configuration.training_settings
    training, validation = split_validation(configuration, len(data["images"]))
    num_validation = validation.stop - validation.start
    held_out = "no slice is held out, so nothing measures this training"
    if num_validation:
        held_out = f"held out for validation and never trained on: {_ids(data, validation)}"
    print(f"{settings.N_tiles} tiles an epoch from the slices {_ids(data, training)}; {held_out}.")
    tile_size = configuration.data_attributes.tile_size
    sizes = (tile_size, output_size(tile_size, settings.depth))

    def tiles(part, places, **options):
        stacks = (data[kind][part] for kind in ("images", "labels", "weights"))
        return TileDataset(
            *stacks,
            places,
            sizes=sizes,
            batch_size=settings.batch_size,
            devices=devices,
            **options,
        )

    training_data = tiles(
        training,
        settings.N_tiles,
        augmentation=get_augmentation(settings),
        seed=settings.seed,
        epoch=epoch,
    )
    if not num_validation:
        return training_data, None
    places = covering_places(num_validation, data["images"].shape[1:], sizes[1])
    return training_data, tiles(validation, places)


def weighted_shares(data, part):
    """Gives the share of membrane and cell in the sum of all weights of some slices."""
    labels, weights = data["labels"][part], data["weights"][part].astype(np.float64)
    cell = float(weights[labels > 0].sum() / weights.sum())
    return 1 - cell, cell


def save_samples(experiment, training_data):
    """Saves the first training tiles: the images with a grid of their context, labels, weights."""
    number = min(NUM_SAMPLES, training_data.num_tiles)
    tiles = [training_data.cut(n) for n in range(number)]
    images, labels, weights = (np.stack(parts)[:, np.newaxis] for parts in zip(*tiles))
    pictures = {
        "imgs": images,
        "masks": labels.astype(np.float32),
        "weights": weights / weights.max(),
    }
    for kind, stack in pictures.items():
        grid = group_images(stack, SAMPLES_PER_ROW)
        visualize(grid, experiment.folder / f"sample_input_{kind}.png")


def _ids(data, part):
    ids = data["ids"][part]
    return ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
