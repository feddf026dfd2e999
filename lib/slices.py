"""Labelled slices of one size for the unpadded network: their keys, reading them, holding some out.

It knows no Keras, so that configuration and data are checked before a backend is chosen.
"""

import numpy as np

from lib.configuration import (
    DROPOUT_KIND,
    EXPERIMENT_KEYS,
    NETWORK,
    SPLIT,
    TESTING_KEYS,
    TRAINING,
    TRAINING_KEYS,
    Key,
    augmentation_keys,
    best_of_nothing,
    choice,
    eight_orientations,
    integer,
    one_for_each,
    orientations,
    real,
    share_or_number,
    with_defaults,
)
from lib.errors import UserError, raise_if_any
from lib.experiment import data_path
from lib.files import channels_problem, load_companion, load_hdf5, load_ids, load_masks, numbered
from lib.overlap_tile import margin, output_size, tile_starts
from lib.pre_processing import scale_to_unit

# The keys of a task with the unpadded network, but for its files and what its scores are about.
UNPADDED_KEYS = (
    *EXPERIMENT_KEYS,
    Key("data attributes", "tile_size", integer(1), role=TRAINING),
    Key(
        "training settings",
        "N_subimgs",
        integer(1, 100_000_000),
        role=TRAINING,
        old_names={"N_tiles": integer(1, 100_000_000)},
    ),
    Key(
        "training settings",
        "validation_split",
        share_or_number,
        5,
        SPLIT,
        old_names={"validation_images": integer(0)},
    ),
    Key("training settings", "batch_size", integer(1), 1, TRAINING),
    Key("training settings", "momentum", real(0, 0.9999), 0.99, TRAINING),
    Key("training settings", "base_filters", integer(1), 64, NETWORK),
    Key("training settings", "depth", integer(1, 8), 4, NETWORK),
    Key("training settings", "variant", choice("paper", "release"), "paper", NETWORK),
    DROPOUT_KIND,
    Key("testing settings", "tile_size", integer(1), 572),
    Key(
        "testing settings",
        "average_flips",
        orientations,
        8,
        old_names={"symmetries": eight_orientations},
    ),
    Key("testing settings", "scales", one_for_each(real(0, 4, above=True), "0.75, 1"), (1.0,)),
    *with_defaults(TRAINING_KEYS, learning_rate=0.003),
    *augmentation_keys(
        elastic_sigma=10.0, rotation_degrees=180.0, flip=False, brightness=0.05, contrast=0.2
    ),
    *with_defaults(TESTING_KEYS, best_last="last", N_group_visual=5),
)


def check_tiles(configuration):
    """Lists tile sizes that do not fit the depth of the network, and best weights of nothing."""
    depth = configuration.training_settings.depth
    problems = best_of_nothing(configuration)
    for section in ("data attributes", "testing settings"):
        size = configuration.sections[section.replace(" ", "_")].tile_size
        try:
            tile_starts(size, output_size(size, depth), depth)
        except ValueError as error:
            problems.append(f"{configuration.path}: [{section}] tile_size: {error}")
    return problems


def load_slices(path):
    """Reads slices of one channel.

    Args:
        path: the HDF5 file.
    Returns:
        {"images": (N, 1, H, W) as stored, "ids": list of N names}; and a list of problems.
    Raises:
        UserError: if the file cannot be read.
    """
    images = load_hdf5(path)
    ids, problems = load_ids(path, numbered(images))
    if images.shape[1] != 1:
        problems.append(channels_problem(path, 1, images))
    return {"images": images, "ids": ids}, problems


def load_labelled(configuration, scaling):
    """Reads the labelled slices with what the network learns of them.

    Args:
        configuration: lib.configuration.Configuration with train_imgs_original, train_groundTruth
            and train_weight_maps in [data paths].
        scaling: the rule of lib.pre_processing.scale_to_unit that the weights record.
    Returns:
        dictionary: images (N, H, W) float32 in [0, 1]; labels (N, H, W) uint8, 1 = cell; weights
        (N, H, W) float32; ids: list of N names.
    Raises:
        UserError: with all problems: files missing, cut off, or of other lengths, sizes or values;
            where the slices cannot be read, with that alone.
    """
    keys = ("train_imgs_original", "train_groundTruth", "train_weight_maps")
    images_path, labels_path, weights_path = (data_path(configuration, key) for key in keys)
    data, problems = load_slices(images_path)
    labels, found = load_masks(labels_path, images_path, data)
    weights, more = load_companion(weights_path, images_path, data)
    if weights is not None and (weights.min() < 0 or weights.max() <= 0):
        more.append(f"{weights_path} must hold weights of at least 0, some above. Prepare again.")
    raise_if_any(problems + found + more)
    require_context(configuration, data["images"])
    return {
        "images": scale_to_unit(data["images"][:, 0], scaling),
        "labels": labels[:, 0],
        "weights": weights[:, 0].astype(np.float32),
        "ids": data["ids"],
    }


def split_validation(configuration, num_slices, word="slice"):
    """Splits labelled slices or images: the last ones validate and are never trained on.

    Args:
        configuration: lib.configuration.Configuration with [training settings] validation_split.
        num_slices: number of them.
        word: what one is called in messages: slice, frame, image.
    Returns:
        {"training": slice of indices, "validation": slice of indices, empty with
        validation_split = 0; a share holds out one slice at least}.
    Raises:
        UserError: if no slice is left for training.
    """
    split = configuration.training_settings.validation_split
    held_out = int(split) if split >= 1 or not split else max(1, round(split * num_slices))
    if held_out >= num_slices:
        expected = f"below {num_slices}, the number of labelled {word}s"
        advice = f"Use {max(1, num_slices // 5)}."
        if num_slices == 1:
            expected = f"0 with one labelled {word}"
            advice = "[testing settings] best_last = last goes with 0."
        elif split < 1:
            expected = f"a smaller share of {num_slices} labelled {word}s"
        expected += ", or none is left to train on"
        raise UserError(
            configuration.problem("training settings", "validation_split", expected, advice)
        )
    first = num_slices - held_out
    return {"training": slice(0, first), "validation": slice(first, num_slices)}


def seen_sizes(configuration, size):
    """Lists the sizes (height, width) at which the network sees slices of a size when it tests."""
    scales = configuration.testing_settings.scales
    return [tuple(max(1, round(side * scale)) for side in size) for scale in scales]


def require_context(configuration, images):
    """Refuses a network whose margin is wider than the slices: it would see mirrors of mirrors.

    Args:
        configuration: lib.configuration.Configuration with [training settings] depth.
        images: (N, 1, H, W).
    Raises:
        UserError: that names the margin and the size; also where scales make slices as small.
    """
    side = min(images.shape[2:])
    depth = configuration.training_settings.depth
    if margin(depth) >= side:
        raise UserError(
            configuration.problem(
                "training settings",
                "depth",
                f"such that the margin of the network ({margin(depth)} pixels a side) is below the "
                f"sides of the slices ({images.shape[3]} x {images.shape[2]})",
                "Use larger slices, or train with a smaller depth.",
            )
        )
    if margin(depth) >= min(map(min, seen_sizes(configuration, images.shape[2:]))):
        raise UserError(
            configuration.problem(
                "testing settings",
                "scales",
                f"such that the slices ({images.shape[3]} x {images.shape[2]}) stay larger than "
                f"the margin of the network ({margin(depth)} pixels a side)",
                "Leave out the small ones.",
            )
        )
