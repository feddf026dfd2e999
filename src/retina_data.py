"""Reads the data of the retina experiment that a configuration names, and checks that it fits."""

from pathlib import Path

import numpy as np

from lib.errors import UserError, raise_if_any
from lib.files import load_hdf5, load_hdf5_extra


def load_subset(configuration, subset):
    """Reads images, FOV masks and ground truth of one half of the data.

    Args:
        configuration: lib.configuration.Configuration of the retina task.
        subset: "train" or "test".
    Returns:
        dictionary: images (N, 3, H, W) uint8, float32 or float64; fov_masks and ground_truth
        (N, 1, H, W) uint8 in {0, 1}; ids: list of N names; second_observer like ground_truth. For
        test images without ground truth, ground_truth is None; second_observer is None where there
        is none.
    Raises:
        UserError: with all problems: files missing, cut off, or of other lengths, sizes or values;
            where the images cannot be read, with that alone.
    """
    files = data_files(configuration, subset)
    images = load_hdf5(files["images"])
    if images.dtype not in (np.uint8, np.float32, np.float64):
        images = images.astype(np.float64)  # other types cannot be scaled to another size
    data = {
        "images": images,
        "ids": load_hdf5_extra(files["images"], "ids") or numbered(images),
        "ground_truth": None,
        "second_observer": None,
    }
    problems = [] if images.shape[1] == 3 else [channels_problem(files["images"], 3, images)]
    masks = {"fov_masks": files["fov_masks"], "ground_truth": files["ground_truth"]}
    if subset == "test" and not _has_ground_truth(files):
        del masks["ground_truth"]
    for kind, path in masks.items():
        data[kind], found = load_masks(path, files["images"], data)
        problems += found
    raise_if_any(problems)
    if "ground_truth" in masks:
        second = load_hdf5_extra(files["ground_truth"], "second_observer")
        data["second_observer"] = None if second is None else (second > 0).astype(np.uint8)
    return data


def data_files(configuration, subset):
    """Names the HDF5 files of one half: {"images": path, "fov_masks": ..., "ground_truth": ...}."""
    paths = configuration.data_paths
    keys = {"images": "imgs_original", "fov_masks": "border_masks", "ground_truth": "groundTruth"}
    return {
        kind: Path(paths.path_local) / getattr(paths, f"{subset}_{key}")
        for kind, key in keys.items()
    }


def _has_ground_truth(files):
    """Reads what prepare_datasets_DRIVE.py noted; files of retina-unet always have ground truth."""
    noted = load_hdf5_extra(files["images"], "has_ground_truth")
    return noted is None or bool(noted)


def load_companion(path, images_path, data):
    """Reads a file that belongs to images: one array of one channel for each.

    Args:
        path: the file.
        images_path: the file of the images, for messages.
        data: with images (N, C, H, W) and ids.
    Returns:
        array as stored, None for a file that cannot be read; and a list of problems.
    """
    try:
        array = load_hdf5(path)
    except UserError as error:
        return None, error.problems
    images, problems = data["images"], []
    if array.shape[1] != 1:
        problems.append(channels_problem(path, 1, array))
    if len(array) != len(images):
        problems.append(
            f"{path} holds {len(array)} arrays for the {len(images)} images of {images_path.name}. "
            "Prepare the data again, or mend the file names in [data paths]."
        )
    if array.shape[2:] != images.shape[2:]:
        problems.append(
            f"{path} holds arrays of {array.shape[3]} x {array.shape[2]} pixels for images of "
            f"{images.shape[3]} x {images.shape[2]} in {images_path.name}. Prepare the data again."
        )
    ids = load_hdf5_extra(path, "ids")
    if ids is not None and len(ids) == len(images) and ids != data["ids"]:
        problems.append(
            f"{path} belongs to other images (ids {ids[0]} to {ids[-1]}) than {images_path.name} "
            f"(ids {data['ids'][0]} to {data['ids'][-1]}). Mend the file names in [data paths]."
        )
    return array, problems


def load_masks(path, images_path, data):
    """Reads masks that belong to images -> (uint8 in {0, 1}, problems); see load_companion."""
    masks, problems = load_companion(path, images_path, data)
    if masks is None:
        return None, problems
    values = np.unique(masks)
    if not (set(values.tolist()) <= {0, 1} or set(values.tolist()) <= {0, 255}):
        problems.append(
            f"{path} must hold masks of 0 and 255. Received: {len(values)} values from "
            f"{values[0]} to {values[-1]}. Are files swapped in [data paths]?"
        )
    return (masks > 0).astype(np.uint8), problems


def channels_problem(path, expected, array):
    """Words that an array has another number of channels than expected."""
    return (
        f"{path} must hold {'RGB images' if expected == 3 else 'masks'} of {expected} channel(s). "
        f"Received: {array.shape[1]}. Are files swapped in [data paths]?"
    )


def numbered(images):
    """Gives ids to the images of files that have none."""
    return [f"{number:02d}" for number in range(len(images))]
