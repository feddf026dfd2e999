"""Trains the network of the retina experiment.

    python src/retinaNN_training.py [configuration.txt]

The same as `python run_training.py`, without a log file. Expected result: a folder <name>/ with the
best and the last weights, a log, loss curves and sample pictures. With the original's settings
(190,000 patches, 150 epochs): docs/RESULTS.md gives the times.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # started by itself: lib lies beside src
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from src.launch import launch

    sys.exit(launch("training", "retina"))

import numpy as np

from lib.backends import is_first_host
from lib.devices import ONE_DEVICE, inner_data_format, start_computing
from lib.elastic_deformation import get_augmentation
from lib.errors import UserError
from lib.experiment import Experiment
from lib.extract_patches import crop_to_square, cut_patches, draw_patch_positions
from lib.patch_dataset import PatchDataset
from lib.pictures import group_images, visualize
from lib.pre_processing import preprocess
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
from lib.unet import NETWORKS
from src.retina_data import load_subset

# What must be as in the training, though weights of the same shapes would load.
NETWORK_SETTINGS = (
    ("data attributes", "equalization"),
    ("training settings", "network"),
    ("training settings", "output_activation"),
)
NUM_SAMPLES, SAMPLES_PER_ROW = 40, 5


def main(configuration, overwrite=False):
    """Trains as a configuration says.

    retina-unet src/retinaNN_training.py. Differs: docs/DIFFERENCES.md.

    Args:
        configuration: lib.configuration.Configuration of the retina task.
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

        # 2. Training and validation patches, and a look at what is fed.
        images, ground_truth, positions, image_ids = load_patches(configuration)
        if history:
            require_same_images(experiment.weights("last"), image_ids)
        training_data, validation_data = split_patches(
            configuration, images, ground_truth, positions, len(history), devices
        )
        if experiment.is_first_host:
            save_samples(experiment, training_data)

        # 3. The network.
        with devices.scope():
            model = build_network(configuration, *training_data.patch_size)
            if initial:
                load_weights(model, initial)
            model.compile(
                optimizer=get_optimizer(settings, num_steps=settings.N_epochs * len(training_data)),
                loss="sparse_categorical_crossentropy",
                metrics=["accuracy"],
                steps_per_execution=settings.steps_per_execution,
            )
            model.optimizer.build(model.trainable_variables)
        print(f"Network {settings.network} with {model.count_params():,} parameters.")
        draw_model(model, experiment)

        # 4. The training itself.
        parts = (training_data, validation_data)
        plateau = PlateauDetector(*(class_shares(part) if part else None for part in parts))
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


def load_patches(configuration):
    """Reads the training images and draws where the patches lie in them.

    Returns:
        images (N, 1, H, W) float32 in [0, 1], ground truth (N, 1, H, W) uint8 in {0, 1}, positions
        (N_subimgs, 3), and {"training": ids of the images that train, "validation": of those that
        only validate}.
    """
    data = load_subset(configuration, "train")
    images = crop_to_square(preprocess(data["images"], configuration.data_attributes.equalization))
    positions = _draw_positions(configuration, crop_to_square(data["fov_masks"]))
    image_ids = _split_images(configuration, positions, data["ids"])
    return images, crop_to_square(data["ground_truth"]), positions, image_ids


def split_patches(configuration, images, ground_truth, positions, epoch=0, devices=ONE_DEVICE):
    """Gives the batches for training, shuffled, and for validation, the last ones of all patches.

    Args:
        configuration: lib.configuration.Configuration.
        images: (num_images, 1, height, width) float32 in [0, 1].
        ground_truth: (num_images, 1, height, width) uint8, 1 = vessel.
        positions: (num_patches, 3) as draw_patch_positions gives them.
        epoch: number of the epoch that comes first, 0 unless training is resumed.
        devices: lib.devices.Devices that share a batch.
    Returns:
        two PatchDatasets; with validation_split = 0 the second is None.
    """
    settings, attributes = configuration.training_settings, configuration.data_attributes
    options = {
        "patch_size": (attributes.patch_height, attributes.patch_width),
        "batch_size": settings.batch_size,
        "devices": devices,
    }
    num_training = num_training_patches(configuration)
    training_data = PatchDataset(
        images,
        ground_truth,
        positions[:num_training],
        shuffle_seed=settings.seed,
        augmentation=get_augmentation(settings),
        epoch=epoch,
        **options,
    )
    if num_training == len(positions):
        return training_data, None
    return training_data, PatchDataset(images, ground_truth, positions[num_training:], **options)


def build_network(configuration, height, width):
    """Builds the configured network for grey inputs of height x width pixels, for this device."""
    settings = configuration.training_settings
    return NETWORKS[settings.network](
        1,
        height,
        width,
        output_activation=settings.output_activation,
        dropout=settings.dropout,
        data_format=inner_data_format(),
    )


def class_shares(patches):
    """Gives the share of background and vessel on the pixels of (up to 2,000) patches.

    Args:
        patches: PatchDataset.
    Returns:
        two numbers that add up to 1.
    """
    chosen = patches.positions[:: max(1, len(patches.positions) // 2000)]
    vessel = float(cut_patches(patches.ground_truth, chosen, *patches.patch_size).mean())
    return 1 - vessel, vessel


def save_samples(experiment, training_data):
    """Saves the first 40 training patches and their masks as grids of 5 in a row."""
    number = min(NUM_SAMPLES, len(training_data.positions))
    patches, labels = training_data.cut(np.arange(number))
    for kind, stack in (("imgs", patches), ("masks", labels.astype(np.float32))):
        grid = group_images(stack, SAMPLES_PER_ROW)
        visualize(grid, experiment.folder / f"sample_input_{kind}.png")


def _draw_positions(configuration, fov_masks):
    settings, attributes = configuration.training_settings, configuration.data_attributes
    _patches_per_image(configuration, len(fov_masks))
    try:
        return draw_patch_positions(
            np.random.default_rng(settings.seed),
            settings.N_subimgs,
            fov_masks,
            attributes.patch_height,
            attributes.patch_width,
            settings.inside_FOV,
        )
    except ValueError as error:
        advice = "Choose smaller patches" + (", or inside_FOV = False" * settings.inside_FOV)
        raise UserError(
            f"{configuration.path}: [data attributes] patch_height and patch_width do not fit the "
            f"training images: {error}. {advice}."
        ) from error


def num_training_patches(configuration):
    """Counts the patches that train; those after them validate."""
    settings = configuration.training_settings
    return int(round(settings.N_subimgs * (1 - settings.validation_split), 6))


def validation_images(configuration, num_images):
    """Gives the slice of training images that give patches for validation alone.

    Example: 20 images and 190,000 patches, 9,500 each; validation_split = 0.1. The first 171,000
    train: images 0 ... 17.

    Raises:
        UserError: if N_subimgs is no multiple of the number of images.
    """
    per_image = _patches_per_image(configuration, num_images)
    return slice(-(-num_training_patches(configuration) // per_image), num_images)


def _patches_per_image(configuration, num_images):
    num_patches = configuration.training_settings.N_subimgs
    if num_patches % num_images:
        multiple = max(num_images, num_patches // num_images * num_images)
        expected = f"a multiple of the {num_images} training images"
        raise UserError(
            configuration.problem("training settings", "N_subimgs", expected, f"Use {multiple}.")
        )
    return num_patches // num_images


def _split_images(configuration, positions, ids):
    """Says which images train and which validate; an image that gives patches to both is named.

    Args:
        configuration: lib.configuration.Configuration.
        positions: (num_patches, 3), the image of each patch first.
        ids: of all images.
    Returns:
        {"training": ids of the images that train, "validation": of those that only validate}.
    Raises:
        UserError: if no patch trains.
    """
    training, validation = np.split(positions[:, 0], [num_training_patches(configuration)])
    if not len(training):
        expected = "such that validation_split leaves patches for training"
        raise UserError(configuration.problem("training settings", "N_subimgs", expected))
    only_validating = np.setdiff1d(validation, training)
    image_ids = {
        "training": [ids[i] for i in np.unique(training)],
        "validation": [ids[i] for i in only_validating],
    }
    if not len(validation):
        print(
            f"{len(training):,} patches for training, from all {len(ids)} images; none validates, "
            "so nothing measures this training."
        )
        return image_ids
    validating = [ids[i] for i in np.unique(validation)]
    print(
        f"{len(training):,} patches for training; {len(validation):,} for validation, "
        f"from the images {', '.join(validating)}."
    )
    shared = [ids[i] for i in np.intersect1d(training, validation)]
    if shared:
        advice = "With one image, validation_split = 0 is honest."
        if len(ids) > 1:
            # As many digits as it takes for N_subimgs times it to be a whole number.
            advice = (
                f"Choose validation_split as a whole number of images: 1 of {len(ids)} is "
                f"{1 / len(ids):.12g}."
            )
        print(
            f"Note: image {', '.join(shared)} gives patches to both, so the validation loss is "
            f"too good. {advice}"
        )
    return image_ids
