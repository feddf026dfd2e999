"""Trains the paper's unpadded U-Net on membranes.

    python -m src.membraneNN_training [configuration_ISBI.txt]

The same as `python run_training.py configuration_ISBI.txt`, without a log file. Expected result: a
folder <name>/ with the best and the last weights, a log, loss curves and sample pictures that show
the deformed tiles, their labels and their weights. docs/RESULTS.md gives scores and times.
"""

import sys
from functools import partial

import keras
import numpy as np

from lib.devices import ONE_DEVICE, inner_data_format
from lib.elastic_deformation import get_augmentation
from lib.overlap_tile import output_size
from lib.patch_dataset import TileDataset, covering_places, uniform_places
from lib.pictures import group_images, visualize
from lib.pre_processing import look_of
from lib.training import training_run
from lib.unet import get_unpadded_unet
from src.membrane_task import load_labelled, split_validation

NUM_SAMPLES, SAMPLES_PER_ROW = 6, 3


def main(configuration, experiment, overwrite=False):
    """Trains as a configuration says.

    Ronneberger, Fischer, Brox 2015, section 3. What the paper leaves open: docs/DIFFERENCES.md.

    Arguments and errors as in src.retinaNN_training.main.
    """
    with training_run(configuration, experiment, overwrite) as run:
        # 1. Tiles for training and validation, and a look at what is fed.
        slices = load_labelled(configuration, run.scaling)
        parts = split_validation(configuration, len(slices["ids"]))
        run.require_images({use: slices["ids"][part] for use, part in parts.items()})
        run.note_looks([look_of(image) for image in slices["images"][parts["training"]]])
        training_data, validation_data = split_tiles(configuration, slices, parts, run.devices)
        if experiment.is_first_host:
            save_samples(experiment, training_data)

        # 2. The network, with the weighted cross-entropy: sum(w * ce) / sum(w).
        loss = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
        network = partial(build_network, configuration, configuration.data_attributes.tile_size)
        model = run.build(network, loss, len(training_data))

        # 3. The training itself.
        shares = [weighted_shares(slices, part) for part in parts.values()]
        run.fit(model, training_data, validation_data, shares)


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
        data_format=inner_data_format(settings.data_format),
    )


def split_tiles(configuration, slices, parts, devices=ONE_DEVICE):
    """Gives tiles for training, drawn and deformed at random, and for validation, as they are.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        slices: as src.membrane_task.load_labelled gives them.
        parts: as src.membrane_task.split_validation gives them.
        devices: lib.devices.Devices that share a batch.
    Returns:
        two TileDatasets; where none validate the second is None.
    """
    settings = configuration.training_settings
    training, validation = parts["training"], parts["validation"]
    tile_size = configuration.data_attributes.tile_size
    sides = [(size, size) for size in (tile_size, output_size(tile_size, settings.depth))]
    shape = slices["labels"].shape[1:]
    num_validation = validation.stop - validation.start
    held_out = "no slice is held out, so nothing measures this training"
    if num_validation:
        held_out = f"held out for validation and never trained on: {_ids(slices, validation)}"
    print(f"{settings.N_subimgs} tiles an epoch from {_ids(slices, training)}; {held_out}.")

    def tiles(part, places, **options):
        images = list(slices["images"][part, np.newaxis])
        stacks = (list(slices[kind][part]) for kind in ("labels", "weights"))
        sizes = {"input_size": sides[0], "output_size": sides[1]}
        common = {"batch_size": settings.batch_size, "devices": devices}
        return TileDataset(images, *stacks, places, **sizes, **common, **options)

    training_data = tiles(
        training,
        settings.N_subimgs,
        draw_place=uniform_places(training.stop, shape, sides[1]),
        augmentation=get_augmentation(settings),
        seed=settings.seed,
    )
    if not num_validation:
        return training_data, None
    return training_data, tiles(validation, covering_places([shape] * num_validation, sides[1]))


def weighted_shares(slices, part):
    """Gives the share of membrane and cell in the sum of all weights of slices; None of none."""
    labels, weights = slices["labels"][part], slices["weights"][part].astype(np.float64)
    if not len(labels):
        return None
    cell = float(weights[labels > 0].sum() / weights.sum())
    return 1 - cell, cell


def save_samples(experiment, training_data):
    """Saves the first training tiles: the images with a grid of their context, labels, weights."""
    images, labels, weights = training_data.cut(range(min(NUM_SAMPLES, training_data.num_tiles)))
    pictures = {
        "imgs": images,
        "masks": labels[:, np.newaxis].astype(np.float32),
        "weights": weights[:, np.newaxis] / weights.max(),
    }
    for kind, stack in pictures.items():
        grid = group_images(stack, SAMPLES_PER_ROW)
        visualize(grid, experiment.folder / f"sample_input_{kind}.png")


def _ids(slices, part):
    ids = slices["ids"][part]
    return f"slice {ids[0]}" if len(ids) == 1 else f"the slices {ids[0]} to {ids[-1]}"


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("training", "membrane"))
