"""Reads the data of the membrane experiment that a configuration names, and checks that it fits."""

from pathlib import Path

import numpy as np

from lib.errors import UserError, raise_if_any
from lib.files import load_hdf5, load_hdf5_extra
from lib.overlap_tile import margin
from src.retina_data import channels_problem, load_companion, load_masks, numbered


def load_labelled(configuration):
    """Reads the labelled slices.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
    Returns:
        dictionary: images (N, H, W) float32 in [0, 1]; labels (N, H, W) uint8, 1 = cell; weights
        (N, H, W) float32; ids: list of N names.
    Raises:
        UserError: with all problems: files missing, cut off, or of other lengths, sizes or values;
            where the slices cannot be read, with that alone.
    """
    paths = configuration.data_paths
    folder = Path(paths.path_local)
    images_path, weights_path = folder / paths.train_imgs_original, folder / paths.train_weight_maps
    data, problems = _load_slices(images_path)
    labels, found = load_masks(folder / paths.train_groundTruth, images_path, data)
    weights, more = load_companion(weights_path, images_path, data)
    if weights is not None and (weights.min() < 0 or weights.max() <= 0):
        more.append(f"{weights_path} must hold weights of at least 0, some above. Prepare again.")
    raise_if_any(problems + found + more)
    _require_context(configuration, data["images"])
    return {
        "images": scale_to_unit(data["images"][:, 0]),
        "labels": labels[:, 0],
        "weights": weights[:, 0].astype(np.float32),
        "ids": data["ids"],
    }


def load_test_slices(configuration):
    """Reads the slices without labels.

    Returns:
        images (M, H, W) float32 in [0, 1] and their ids; None where prepare_datasets_ISBI.py found
        no test slices.
    Raises:
        UserError: if the file is not whole, or the slices are smaller than the network's margin.
    """
    path = test_slices_path(configuration)
    if not path.is_file():
        return None
    data, problems = _load_slices(path)
    raise_if_any(problems)
    _require_context(configuration, data["images"])
    return scale_to_unit(data["images"][:, 0]), data["ids"]


def test_slices_path(configuration):
    """Gives the path of the slices without labels."""
    paths = configuration.data_paths
    return Path(paths.path_local) / paths.test_imgs_original


def split_validation(configuration, num_slices):
    """Splits the labelled slices: the last ones validate and are never trained on.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        num_slices: number of labelled slices.
    Returns:
        two slices of indices: training, validation; the second is empty with validation_images = 0.
    Raises:
        UserError: if no slice is left for training.
    """
    held_out = configuration.training_settings.validation_images
    if held_out >= num_slices:
        raise UserError(
            configuration.problem(
                "training settings",
                "validation_images",
                f"below {num_slices}, the number of labelled slices, or none is left to train on",
                f"Use {num_slices // 5}.",
            )
        )
    return slice(0, num_slices - held_out), slice(num_slices - held_out, num_slices)


def scale_to_unit(stack):
    """Scales a stack from its lowest and highest value to [0, 1], float32; a constant one to 0."""
    stack = stack.astype(np.float32)
    lowest, highest = float(stack.min()), float(stack.max())
    return (stack - lowest) / (highest - lowest if highest > lowest else 1.0)


def _load_slices(path):
    images = load_hdf5(path)
    ids = load_hdf5_extra(path, "ids") or numbered(images)
    problems = [] if images.shape[1] == 1 else [channels_problem(path, 1, images)]
    return {"images": images, "ids": ids}, problems


def _require_context(configuration, images):
    """Refuses a network whose margin is wider than the slices: it would see mirrors of mirrors."""
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
