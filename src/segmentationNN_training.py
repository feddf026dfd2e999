"""Trains a network on images and label images of one's own.

    python -m src.segmentationNN_training [configuration_folder.txt]

The same as `python run_training.py configuration_folder.txt`, without a log file. Expected result:
a folder <name>/ with the best and the last weights, a log, loss curves and sample pictures.
"""

import sys
from functools import partial

from lib.devices import ONE_DEVICE, inner_data_format
from lib.elastic_deformation import get_augmentation
from lib.encoders import ENCODER, Encoder, find_encoder_weights
from lib.losses import balanced_weights, get_loss, segmentation_metrics
from lib.patch_dataset import TileDataset, covering_places, places_by_area
from lib.pictures import as_grey_levels, colour_classes, group_images, visualize
from lib.training import training_run
from lib.unet import PADDED_NETWORKS
from src.segmentation_task import describe_data, load_training, look_at

NUM_SAMPLES, SAMPLES_PER_ROW = 8, 4
# Of so many images the training remembers how they look.
NUM_LOOKS = 100


def main(configuration, experiment, overwrite=False):
    """Trains as a configuration says.

    Arguments and errors as in src.retinaNN_training.main.
    """
    with training_run(configuration, experiment, overwrite) as run:
        # 1. Tiles for training and validation, and a look at what is fed.
        images, parts = load_training(configuration)
        data = describe_data(images)
        run.require_images({use: part["ids"] for use, part in parts.items()})
        run.require_data(data)
        run.note_looks(looks_of_training(parts["training"]))
        training_data, validation_data = split_tiles(configuration, parts, run.devices)
        if experiment.is_first_host:
            save_samples(experiment, training_data, data["class_colours"])

        # 2. The network, its loss and its metrics.
        settings, side = configuration.training_settings, configuration.data_attributes.tile_size
        network = partial(build_network, configuration, data, side, side, run.is_new)
        model = run.build(
            network,
            build_loss(settings, parts["training"]["class_counts"]),
            len(training_data),
            make_metrics=partial(segmentation_metrics, len(images.classes)),
            slow_layer=None if settings.encoder == "none" else ENCODER,
            slow_factor=settings.encoder_learning_rate_factor,
        )

        # 3. The training itself.
        run.fit(model, training_data, validation_data, [shares(part) for part in parts.values()])


def looks_of_training(part):
    """Measures how training images look; of many, of NUM_LOOKS spread evenly over them.

    Args:
        part: as src.segmentation_task.part_of gives it.
    Returns:
        list of what lib.pre_processing.look_of gives.
    """
    images = part["images"]
    return [look_at(image) for image in images[:: -(-len(images) // NUM_LOOKS)]]


def build_network(configuration, data, height, width, is_new=False):
    """Builds the configured network for inputs of height x width pixels, for this device.

    Args:
        configuration: lib.configuration.Configuration of the segmentation task.
        data: what the network knows of its data: src.segmentation_task.describe_data.
        height: of the input in pixels; None for any.
        width: of the input in pixels.
        is_new: whether it starts a new training, with encoder_weights in its encoder.
    Returns:
        keras.Model.
    Raises:
        UserError: if encoder_weights are not there, or do not fit.
    """
    settings, options = configuration.training_settings, {}
    encoder = None
    if settings.encoder != "none":
        start = find_encoder_weights(settings.encoder, settings.encoder_weights) if is_new else None
        encoder = Encoder(settings.encoder, start)
    if settings.network == "unet_plus_plus":
        options["deep_supervision"] = settings.deep_supervision
    return PADDED_NETWORKS[settings.network](
        data["num_channels"],
        height,
        width,
        depth=settings.depth,
        encoder=encoder,
        num_classes=len(data["class_names"]),
        base_filters=settings.base_filters,
        batch_normalization=settings.batch_normalization,
        dropout=settings.dropout,
        dropout_kind=settings.dropout_kind,
        output_activation=settings.output_activation,
        data_format=inner_data_format(settings.data_format),
        **options,
    )


def build_loss(settings, class_counts):
    """Builds the configured loss.

    Args:
        settings: the training settings.
        class_counts: number of training pixels of each class, for class_weights = balanced.
    Returns:
        lib.losses.SegmentationLoss.
    """
    weights = balanced_weights(class_counts) if settings.class_weights == "balanced" else None
    return get_loss(
        settings.loss,
        dice_weight=settings.dice_weight,
        cross_entropy_weight=settings.cross_entropy_weight,
        class_weights=weights,
    )


def split_tiles(configuration, parts, devices=ONE_DEVICE):
    """Gives tiles for training, drawn and changed at random, and for validation, as they are.

    Args:
        configuration: lib.configuration.Configuration of the segmentation task.
        parts: as src.segmentation_task.load_training gives them.
        devices: lib.devices.Devices that share a batch.
    Returns:
        two TileDatasets; where none validate the second is None.
    """
    settings, side = configuration.training_settings, configuration.data_attributes.tile_size
    training, validation = parts["training"], parts["validation"]

    def tiles(part, places, **options):
        return TileDataset(
            part["images"],
            part["labels"],
            None,
            places,
            input_size=(side, side),
            batch_size=settings.batch_size,
            devices=devices,
            **options,
        )

    training_data = tiles(
        training,
        settings.N_subimgs,
        draw_place=places_by_area([labels.shape for labels in training["labels"]], (side, side)),
        augmentation=get_augmentation(settings),
        seed=settings.seed,
    )
    held_out = "none is held out, so nothing measures this training"
    if validation["ids"]:
        held_out = f"held out for validation and never trained on: {_listed(validation['ids'])}"
    print(f"{settings.N_subimgs} tiles an epoch from {_listed(training['ids'])}; {held_out}.")
    if not validation["ids"]:
        return training_data, None
    places = covering_places([labels.shape for labels in validation["labels"]], (side, side))
    return training_data, tiles(validation, places)


def _listed(ids):
    return f"image {ids[0]}" if len(ids) == 1 else f"the {len(ids)} images {ids[0]} to {ids[-1]}"


def shares(part):
    """Gives the share of each class in the labelled pixels of images; None of no images."""
    total = part["class_counts"].sum()
    return (part["class_counts"] / total).tolist() if total else None


def save_samples(experiment, training_data, colours):
    """Saves the first training tiles and their labels in class colours as grids."""
    images, labels, _ = training_data.cut(range(min(NUM_SAMPLES, training_data.num_tiles)))
    # Of images with other channels than RGB, the first.
    shown = images if images.shape[1] == 3 else images[:, :1]
    masks = colour_classes(labels, colours)
    for kind, stack in (("imgs", as_grey_levels(shown)), ("masks", masks)):
        grid = group_images(stack, SAMPLES_PER_ROW)
        visualize(grid, experiment.folder / f"sample_input_{kind}.png")


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("training", "segmentation"))
