"""The experiment on cells that touch: its keys, their checks, and its data."""

import numpy as np

from lib.configuration import (
    Key,
    choice,
    data_keys,
    integer,
    real,
    with_defaults,
)
from lib.errors import UserError, raise_if_any
from lib.experiment import data_path
from lib.files import load_companion, load_hdf5_extra
from lib.pre_processing import scale_to_unit
from lib.slices import (
    UNPADDED_KEYS,
    check_tiles,
    load_slices,
    require_context,
    split_validation,
)

KEYS = (
    *data_keys(
        train_imgs_original="CTC_dataset_imgs_train.hdf5",
        train_groundTruth="CTC_dataset_groundTruth_train.hdf5",
        train_weight_maps="CTC_dataset_weightMaps_train.hdf5",
        train_instances="CTC_dataset_instances_train.hdf5",
        test_imgs_original="CTC_dataset_imgs_test.hdf5",
        test_instances="CTC_dataset_instances_test.hdf5",
    ),
    *with_defaults(UNPADDED_KEYS, validation_split=0.2),
    Key("testing settings", "images", choice("test", "validation", "training"), "test"),
    Key("testing settings", "threshold", real(0, 1), 0.5),
    Key("testing settings", "divide", real(0, 1), 0.0),
    Key("testing settings", "grow", integer(0, 100), 1),
    Key("testing settings", "smallest_object", integer(0), 100),
)


check = check_tiles


def load_tested(configuration, scaling, subset):
    """Reads frames to test on, and their objects.

    Args:
        configuration: lib.configuration.Configuration of the cells task.
        scaling: the rule of lib.pre_processing.scale_to_unit that the weights record.
        subset: "test"; "training", all frames to train on; or "validation", those held out.
    Returns:
        dictionary: images (N, H, W) float32 in [0, 1]; objects (N, H, W) of whole numbers; unknown
        (N, H, W) bool, pixels of which it is not known what they show; labelled (N,) bool, whether
        a frame is annotated; ids: list of N names.
    Raises:
        UserError: with all problems: files missing, cut off, or of other lengths or sizes; where
            the frames cannot be read, with that alone; or if no frame validates.
    """
    part = "test" if subset == "test" else "train"
    images_path = data_path(configuration, f"{part}_imgs_original")
    objects_path = data_path(configuration, f"{part}_instances")
    data, problems = load_slices(images_path)
    objects, found = load_companion(objects_path, images_path, data)
    raise_if_any(problems + found + _problems_of_objects(objects_path, objects))
    require_context(configuration, data["images"])
    labelled = load_hdf5_extra(objects_path, "labelled")
    tested = {
        "images": scale_to_unit(data["images"][:, 0], scaling),
        "objects": objects[:, 0],
        "unknown": _load_unknown(objects_path, objects.shape)[:, 0],
        "labelled": np.full(len(objects), True) if labelled is None else labelled.astype(bool),
        "ids": data["ids"],
    }
    if subset != "validation":
        return tested
    held_out = _held_out(configuration, len(objects))
    return {kind: values[held_out] for kind, values in tested.items()}


def _problems_of_objects(path, objects):
    if objects is None or (objects.dtype.kind in "ui" and objects.min() >= 0):
        return []
    return [
        f"{path} must hold the numbers of objects, from 0. Received: {objects.dtype} from "
        f"{objects.min()} to {objects.max()}. Are files swapped in [data paths]?"
    ]


def _load_unknown(path, shape):
    """Reads which pixels are of unknown kind; files without any have no such data set."""
    unknown = load_hdf5_extra(path, "unknown")
    if unknown is None:
        return np.zeros(shape, bool)
    if np.shape(unknown) != shape:
        raise UserError(
            f"{path}: `unknown` must have the shape of `image`, {shape}. Received: "
            f"{np.shape(unknown)}. Prepare the data again."
        )
    return np.asarray(unknown) != 0


def _held_out(configuration, num_frames):
    part = split_validation(configuration, num_frames, "frame")["validation"]
    if part.start == part.stop:
        raise UserError(
            configuration.problem(
                "testing settings",
                "images",
                "test or training, because no frame is held out (validation_split = 0)",
            )
        )
    return part
