"""Training and prediction with the paper's unpadded network: tiles of labelled slices, no seams.

Ronneberger, Fischer, Brox 2015, section 3. What the paper leaves open: docs/DIFFERENCES.md.
"""

import math
from functools import partial

import keras
import numpy as np

from lib.devices import ONE_DEVICE, inner_data_format
from lib.elastic_deformation import get_augmentation
from lib.extract_patches import (
    ORIENTATIONS,
    average_orientations,
    describe_average,
    predict_in_blocks,
)
from lib.overlap_tile import margin, output_size, predict_overlap_tile, tile_starts
from lib.patch_dataset import TileDataset, covering_places, uniform_places
from lib.pictures import group_images, visualize
from lib.pre_processing import look_of, power_mean, resized, scale_to_unit
from lib.progress import Progress
from lib.slices import seen_sizes, split_validation
from lib.unet import get_unpadded_unet

NUM_SAMPLES, SAMPLES_PER_ROW = 6, 3
EXPORTED = {
    "input": "(batch, 1, tile, tile) float32 in [0, 1]",
    "output": "(batch, side * side, 2) float32, probabilities, row after row; side = tile - 2 "
    "margin, the middle of the tile",
    "pre_processing": "percentile: each slice from its 0.1 to its 99.9 percentile to [0, 1], "
    "clipped; minmax_stack: from the lowest to the highest value of the stack. Then it is seen at "
    "each of scales times its size, averaged over average_flips orientations, and of the "
    "probabilities of membrane the power mean is taken (lib/pre_processing.py).",
}


def train_on_tiles(run, slices, word="slice"):
    """Trains on tiles of labelled slices, drawn and deformed at random; the last slices validate.

    Args:
        run: lib.training.TrainingRun.
        slices: dictionary: images (N, H, W) float32 in [0, 1], labels (N, H, W) uint8, weights
            (N, H, W) float32, ids.
        word: what a slice is called in messages: slice, frame.
    Raises:
        UserError: as lib.training.TrainingRun.fit.
    """
    # 1. Tiles for training and validation, and a look at what is fed.
    configuration, experiment = run.configuration, run.experiment
    parts = split_validation(configuration, len(slices["ids"]), word)
    run.require_images({use: slices["ids"][part] for use, part in parts.items()})
    run.note_looks([look_of(image) for image in slices["images"][parts["training"]]])
    training_data, validation_data = split_tiles(configuration, slices, parts, run.devices, word)
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
        dropout_kind=settings.dropout_kind,
        data_format=inner_data_format(settings.data_format),
    )


def split_tiles(configuration, slices, parts, devices=ONE_DEVICE, word="slice"):
    """Gives tiles for training, drawn and deformed at random, and for validation, as they are.

    Args:
        configuration: lib.configuration.Configuration with the keys of lib.slices.
        slices: as in train_on_tiles.
        parts: as lib.slices.split_validation gives them.
        devices: lib.devices.Devices that share a batch.
        word: as in train_on_tiles.
    Returns:
        two TileDatasets; where none validate the second is None.
    """
    settings = configuration.training_settings
    training, validation = parts["training"], parts["validation"]
    tile_size = configuration.data_attributes.tile_size
    sides = [(size, size) for size in (tile_size, output_size(tile_size, settings.depth))]
    shape = slices["labels"].shape[1:]
    num_validation = validation.stop - validation.start
    held_out = f"no {word} is held out, so nothing measures this training"
    if num_validation:
        ids = _ids(slices, validation, word)
        held_out = f"held out for validation and never trained on: {ids}"
    ids = _ids(slices, training, word)
    print(f"{settings.N_subimgs} tiles an epoch from {ids}; {held_out}.")

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


def load_predictor(configuration, weights):
    """Builds the network and loads its weights.

    Args:
        configuration: lib.configuration.Configuration with the keys of lib.slices.
        weights: lib.weights.TrainedWeights.
    Returns:
        function of a title and slices (N, H, W) float32 in [0, 1] -> (N, H, W) float32, probability
        of cell, without seams.
    """
    settings = configuration.testing_settings
    depth = configuration.training_settings.depth
    side = output_size(settings.tile_size, depth)
    predict_one = at_scales(configuration, load_slice_predictor(configuration, weights))

    def predict(title, slices):
        print(f"Testing {weights.path} on {len(slices)} {title}.")
        num_tiles = sum(
            math.prod(len(tile_starts(length, side, depth)) for length in size)
            for size in seen_sizes(configuration, slices.shape[1:])
        )
        progress = Progress(num_tiles * settings.average_flips * len(slices))
        predicted = [predict_one(image, progress.add) for image in slices[:, np.newaxis]]
        progress.finish()
        return np.concatenate(predicted)

    return predict


def load_slice_predictor(configuration, weights):
    """Builds the network and loads its weights; arguments as in load_predictor.

    Returns:
        function of a slice (1, H, W) float32 in [0, 1], called with what counts its tiles, ->
        (1, H, W) float32, probability of cell.
    """
    settings = configuration.testing_settings
    depth = configuration.training_settings.depth
    side = output_size(settings.tile_size, depth)
    model = build_network(configuration, settings.tile_size)
    weights.load_into(model, settings.skip_order)

    def predict(image, on_tile=None):
        def predictor(tiles):
            cell = np.asarray(model.predict_on_batch(tiles))[..., 1]
            if on_tile:
                on_tile(len(tiles))
            return cell.reshape(len(tiles), 1, side, side)

        def predict_turned(turned):
            return predict_overlap_tile(predictor, turned, settings.tile_size, depth)

        return average_orientations(predict_turned, image, ORIENTATIONS[settings.average_flips])

    return predict


def at_scales(configuration, predict):
    """Lets slices be predicted at each of [testing settings] scales times their size.

    Args:
        configuration: lib.configuration.Configuration with the keys of lib.slices.
        predict: function of (1, H, W) float32, and of others that are handed on, -> (1, H, W)
            float32, probability of cell.
    Returns:
        such a function: a power mean, near the lowest, as a membrane is seen best at one of them.
    """

    def predict_scaled(image, *others):
        own_size = image.shape[1:]

        def predict_at(size):
            predicted = predict(resized(image[np.newaxis], size)[0], *others)
            # The mean of an area of ones may be the next number above 1.
            return resized(predicted[np.newaxis], own_size)[0].clip(0, 1)

        sizes = seen_sizes(configuration, own_size)
        if len(sizes) == 1:
            return predict_at(*sizes)
        return 1 - power_mean(1 - predict_at(size) for size in sizes)

    return predict_scaled


def load_image_predictor(configuration, weights):
    """Builds the network for images of one's own, and loads its weights; as load_predictor.

    Returns:
        function of an image (1, H, W) uint8 -> the image float32 in [0, 1], scaled by itself as the
        weights record, and probability of cell, (1, H, W) float32. ValueError for an image that is
        smaller than what the network sees around a pixel.
    """
    predict_one = load_slice_predictor(configuration, weights)
    depth = configuration.training_settings.depth
    reach, step = margin(depth), 2**depth
    least = math.ceil((reach + 1) / min(configuration.testing_settings.scales))
    predict_scaled = at_scales(
        configuration, lambda image: predict_in_blocks(predict_one, image, -(-reach // step) * step)
    )

    def predict(image):
        if min(image.shape[1:]) < least:
            raise ValueError(
                f"it must be at least {least} pixels wide and high, what the network sees around "
                f"a pixel. Received: {image.shape[2]} x {image.shape[1]}"
            )
        scaled = scale_to_unit(image, weights.scaling)
        return scaled, predict_scaled(scaled)

    return predict


def describe_views(configuration, word):
    """Words at which sizes and in how many orientations images are seen; word: what one is."""
    settings = configuration.testing_settings
    seen = "as they are"
    if settings.scales != (1.0,):
        seen = f"at {' and '.join(f'{scale:g}' for scale in settings.scales)} times their size"
    return f"{word.capitalize()}s {seen}{describe_average(settings.average_flips)}."


def describe_prediction(configuration, word):
    """Words how images of one's own are predicted; word: what one is called."""
    views = describe_views(configuration, word)
    return f"{views} Grey values are scaled in each {word} by itself."


def export_network(configuration, weights, classes, objects, keys):
    """Gives the network for one size of tiles, and what a program must know that uses it by itself.

    Args:
        configuration: lib.configuration.Configuration with the keys of lib.slices.
        weights: lib.weights.TrainedWeights.
        classes: names of the two classes.
        objects: words how objects are found.
        keys: testing settings by which they are, beside the threshold.
    Returns:
        keras.Model and {name: value}.
    """
    settings, depth = configuration.testing_settings, configuration.training_settings.depth
    network = build_network(configuration, settings.tile_size)
    weights.load_into(network, settings.skip_order)
    return network, {
        "classes": classes,
        **EXPORTED,
        "objects": objects,
        "scaling": weights.scaling,
        **{name: getattr(settings, name) for name in ("scales", "average_flips", *keys)},
        "margin": margin(depth),
    }


def _ids(slices, part, word):
    ids = slices["ids"][part]
    return f"{word} {ids[0]}" if len(ids) == 1 else f"the {word}s {ids[0]} to {ids[-1]}"
