"""Trains the network of the retina experiment.

    python -m src.retinaNN_training [configuration.txt]

The same as `python run_training.py`, without a log file. Expected result: a folder <name>/ with the
best and the last weights, a log, loss curves and sample pictures. With the original's settings
(190,000 patches, 150 epochs): docs/RESULTS.md gives the times.
"""

import sys
from functools import partial

import numpy as np

from lib.devices import ONE_DEVICE, inner_data_format
from lib.elastic_deformation import get_augmentation
from lib.errors import UserError
from lib.extract_patches import crop_to_square, cut_patches, draw_patch_positions
from lib.losses import get_loss, segmentation_metrics
from lib.patch_dataset import TileDataset
from lib.pictures import group_images, visualize
from lib.pre_processing import (
    NUM_CHANNELS,
    look_of_photographs,
    preprocess,
    resized,
    resized_mask,
    size_for_fov,
)
from lib.training import training_run
from lib.unet import NETWORKS
from src.retina_task import load_subset, num_training_patches

NUM_SAMPLES, SAMPLES_PER_ROW = 40, 5


def main(configuration, experiment, overwrite=False):
    """Trains as a configuration says.

    retina-unet src/retinaNN_training.py. Differs: docs/DIFFERENCES.md.

    Args and errors are those of lib.training.training_run; data that do not fit are a UserError
    too.
    """
    with training_run(configuration, experiment, overwrite) as run:
        # 1. Patches, and a look at what is fed.
        images, ground_truth, positions, image_ids = load_patches(configuration)
        run.require_images(image_ids)
        run.require_data({"fov_width": configuration.data_attributes.fov_width})
        run.note_looks(looks_of_training(configuration, image_ids["training"]))
        parts = split_patches(configuration, images, ground_truth, positions, run.devices)
        if experiment.is_first_host:
            save_samples(experiment, parts[0])

        # 2. The network.
        network = partial(build_network, configuration, *parts[0].input_size)
        loss, make_metrics = loss_and_metrics(configuration.training_settings)
        model = run.build(network, loss, len(parts[0]), make_metrics=make_metrics)

        # 3. The training itself.
        run.fit(model, *parts, [class_shares(part) if part else None for part in parts])


def load_patches(configuration):
    """Reads the training images and draws where the patches lie in them.

    Returns:
        images (N, C, H, W) float32 in [0, 1], ground truth (N, H, W) uint8 in {0, 1}, positions
        (N_subimgs, 3), and {"training": ids of the images that train, "validation": of those that
        only validate}.
    """
    data = load_subset(configuration, "train")
    attributes = configuration.data_attributes
    size = size_for_fov(data["fov_masks"], attributes.fov_width)
    if size != data["images"].shape[2:]:
        print(f"Training at {size[1]} x {size[0]} pixels: fov_width = {attributes.fov_width}.")
    photographs = resized(data["images"], size)
    images = preprocess(photographs, attributes.equalization, attributes.channels)
    images = crop_to_square(images)
    fov_masks, ground_truth = (
        crop_to_square(resized_mask(data[kind], size)) for kind in ("fov_masks", "ground_truth")
    )
    positions = _draw_positions(configuration, fov_masks)
    image_ids = _split_images(configuration, positions, data["ids"])
    return images, ground_truth[:, 0], positions, image_ids


def looks_of_training(configuration, ids):
    """Measures how the photographs that train look, at the size at which the network sees them."""
    data = load_subset(configuration, "train")
    size = size_for_fov(data["fov_masks"], configuration.data_attributes.fov_width)
    photographs, masks = resized(data["images"], size), resized_mask(data["fov_masks"], size)
    trains = np.isin(data["ids"], ids)
    return look_of_photographs(photographs[trains], masks[trains])


def split_patches(configuration, images, ground_truth, positions, devices=ONE_DEVICE):
    """Gives the batches for training, shuffled, and for validation, the last ones of all patches.

    Args:
        configuration: lib.configuration.Configuration.
        images: (num_images, channels, height, width) float32 in [0, 1].
        ground_truth: (num_images, height, width) uint8, 1 = vessel.
        positions: (num_patches, 3) as draw_patch_positions gives them.
        devices: lib.devices.Devices that share a batch.
    Returns:
        two TileDatasets; with validation_split = 0 the second is None.
    """
    settings, attributes = configuration.training_settings, configuration.data_attributes
    patches = partial(
        TileDataset,
        list(images),
        list(ground_truth),
        None,
        input_size=(attributes.patch_height, attributes.patch_width),
        batch_size=settings.batch_size,
        seed=settings.seed,
        devices=devices,
    )
    number = num_training_patches(configuration, len(images))
    augmentation = get_augmentation(settings)
    training_data = patches(positions[:number], shuffle=True, augmentation=augmentation)
    return training_data, patches(positions[number:]) if number < len(positions) else None


def build_network(configuration, height, width):
    """Builds the configured network for inputs of height x width pixels (None: any)."""
    settings = configuration.training_settings
    return NETWORKS[settings.network].build(
        NUM_CHANNELS[configuration.data_attributes.channels],
        height,
        width,
        output_activation=settings.output_activation,
        dropout=settings.dropout,
        dropout_kind=settings.dropout_kind,
        data_format=inner_data_format(settings.data_format),
    )


def loss_and_metrics(settings):
    """Gives the configured loss and what makes its metrics, as TrainingRun.build takes them.

    The cross-entropy is Keras's own, as in the trainings that had no other.

    Args:
        settings: the training settings.
    """
    if settings.loss == "cross_entropy":
        return "sparse_categorical_crossentropy", None
    loss = get_loss(
        settings.loss,
        dice_weight=settings.dice_weight,
        cross_entropy_weight=settings.cross_entropy_weight,
    )
    return loss, partial(segmentation_metrics, 2)


def class_shares(patches):
    """Gives the share of background and vessel on the pixels of (up to 2,000) patches.

    Args:
        patches: TileDataset.
    Returns:
        two numbers that add up to 1.
    """
    chosen = patches.places[:: max(1, len(patches.places) // 2000)]
    truth = np.stack(patches.labels)[:, np.newaxis]
    vessel = float(cut_patches(truth, chosen, *patches.input_size).mean())
    return 1 - vessel, vessel


def save_samples(experiment, training_data):
    """Saves 40 training patches of all images and their masks as grids of 5 in a row."""
    number = min(NUM_SAMPLES, training_data.num_tiles)
    spread = np.linspace(0, training_data.num_tiles - 1, number).astype(int)
    patches, labels, _ = training_data.cut(spread)
    masks = labels[:, np.newaxis].astype(np.float32)
    for kind, stack in (("imgs", patches), ("masks", masks)):
        grid = group_images(stack, SAMPLES_PER_ROW)
        visualize(grid, experiment.folder / f"sample_input_{kind}.png")


def _draw_positions(configuration, fov_masks):
    settings, attributes = configuration.training_settings, configuration.data_attributes
    num_training_patches(configuration, len(fov_masks))  # as many in each image
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
    number = num_training_patches(configuration, len(ids))
    training, validation = np.split(positions[:, 0], [number])
    if not len(training):
        expected = "such that validation_split leaves patches for training"
        raise UserError(configuration.problem("training settings", "N_subimgs", expected))
    validating = [ids[i] for i in np.unique(validation)]
    print(f"{len(training):,} patches for training; {_words_of(len(validation), validating)}.")
    shared = [ids[i] for i in np.intersect1d(training, validation)]
    if shared:
        print(
            f"Note: image {', '.join(shared)} gives patches to both, so the validation loss is too "
            "good. Set validation_split to a whole number of images, or to 0 with one image."
        )
    return {
        "training": [ids[i] for i in np.unique(training)],
        "validation": [name for name in validating if name not in shared],
    }


def _words_of(num_patches, ids):
    if not num_patches:
        return "none validates, so nothing measures this training"
    return f"{num_patches:,} for validation, from the images {', '.join(ids)}"


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("training", "retina"))
