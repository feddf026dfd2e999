"""The membrane experiment: its keys, their checks, and its data."""

from lib.configuration import (
    Key,
    choice,
    data_keys,
    real,
)
from lib.errors import raise_if_any
from lib.experiment import data_path
from lib.pre_processing import scale_to_unit
from lib.slices import UNPADDED_KEYS, check_tiles, load_slices, require_context

KEYS = (
    *data_keys(
        train_imgs_original="ISBI_dataset_imgs_train.hdf5",
        train_groundTruth="ISBI_dataset_groundTruth_train.hdf5",
        train_weight_maps="ISBI_dataset_weightMaps_train.hdf5",
        test_imgs_original="ISBI_dataset_imgs_test.hdf5",
    ),
    *UNPADDED_KEYS,
    Key("testing settings", "labelled_slices", choice("held_out", "all", "none"), "held_out"),
    Key("testing settings", "threshold", real(0, 1), 0.5),
    Key("testing settings", "divide", real(0, 1), 0.0),
)


check = check_tiles


def load_test_slices(configuration, scaling):
    """Reads the slices without labels; arguments as of lib.slices.load_labelled.

    Returns:
        dictionary: images (M, H, W) float32 in [0, 1] and their ids; None where
        prepare_datasets_ISBI.py found no test slices.
    Raises:
        UserError: if the file is not whole, or the slices are smaller than the network's margin.
    """
    path = data_path(configuration, "test_imgs_original")
    if not path.is_file():
        return None
    data, problems = load_slices(path)
    raise_if_any(problems)
    require_context(configuration, data["images"])
    return {"images": scale_to_unit(data["images"][:, 0], scaling), "ids": data["ids"]}
