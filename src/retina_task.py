"""The retina experiment: its keys, their checks, and its data."""

import numpy as np

from lib.configuration import (
    DROPOUT_KIND,
    EXPERIMENT_KEYS,
    LOSS_KEYS,
    NETWORK,
    SPLIT,
    TESTING_KEYS,
    TRAINING,
    TRAINING_KEYS,
    Key,
    augmentation_keys,
    best_of_nothing,
    boolean,
    choice,
    data_keys,
    integer,
    integer_or_all,
    multiple_of_4,
    number_or_none,
    one_for_each,
    orientations,
    real,
    share_or_number,
)
from lib.elastic_deformation import get_augmentation
from lib.errors import UserError, raise_if_any
from lib.experiment import data_path
from lib.files import (
    channels_problem,
    load_hdf5,
    load_hdf5_extra,
    load_ids,
    load_masks,
    numbered,
)

KEYS = (
    *data_keys(
        train_imgs_original="DRIVE_dataset_imgs_train.hdf5",
        train_groundTruth="DRIVE_dataset_groundTruth_train.hdf5",
        train_border_masks="DRIVE_dataset_borderMasks_train.hdf5",
        test_imgs_original="DRIVE_dataset_imgs_test.hdf5",
        test_groundTruth="DRIVE_dataset_groundTruth_test.hdf5",
        test_border_masks="DRIVE_dataset_borderMasks_test.hdf5",
    ),
    *EXPERIMENT_KEYS,
    Key("data attributes", "patch_height", multiple_of_4, role=TRAINING),
    Key("data attributes", "patch_width", multiple_of_4, role=TRAINING),
    Key("data attributes", "equalization", choice("clahe", "histogram"), "clahe", NETWORK),
    # The names of lib.pre_processing.NUM_CHANNELS.
    Key("data attributes", "channels", choice("grey", "green", "rgb"), "grey", NETWORK),
    Key("data attributes", "fov_width", integer(0), 0, old_section="testing settings"),
    Key("data attributes", "fov_angle", real(0, 360, above=True), 45.0),
    Key("training settings", "N_subimgs", integer(1, 100_000_000), role=SPLIT),
    Key("training settings", "validation_split", share_or_number, 0.1, SPLIT),
    Key("training settings", "inside_FOV", boolean, False, TRAINING),
    Key("training settings", "batch_size", integer(1), 32, TRAINING),
    *TRAINING_KEYS,
    Key("training settings", "momentum", real(0, 0.9999), 0.0, TRAINING),
    Key("training settings", "network", choice("unet", "gnet"), "unet", NETWORK),
    Key("training settings", "output_activation", choice("relu", "linear"), "relu", NETWORK),
    Key("training settings", "dropout", real(0, 0.9), 0.2, TRAINING),
    DROPOUT_KIND,
    *LOSS_KEYS,
    *augmentation_keys(
        elastic_sigma=0.0, rotation_degrees=0.0, flip=False, brightness=0.0, contrast=0.0
    ),
    *TESTING_KEYS,
    Key("testing settings", "full_images_to_test", integer_or_all, "all"),
    Key("testing settings", "average_mode", boolean, True),
    Key("testing settings", "stride_height", integer(1), 5),
    Key("testing settings", "stride_width", integer(1), 5),
    Key("testing settings", "inference", choice("patches", "full_image"), "patches"),
    Key("testing settings", "inside_FOV", boolean, False),
    Key("testing settings", "average_flips", orientations, 1),
    Key(
        "testing settings",
        "camera_scales",
        one_for_each(real(0, 4, above=True), "0.67, 1, 1.33"),
        (1.0,),
    ),
    Key(
        "testing settings",
        "camera_flips",
        number_or_none(one_for_each(orientations, "4, 2, 1")),
        None,
    ),
    Key("testing settings", "images", choice("test", "validation", "training"), "test"),
    Key("testing settings", "threshold", real(0, 1), 0.5),
    Key("testing settings", "accuracy_threshold", number_or_none(real(0, 1)), None),
)


def check(configuration):
    """Lists what does not go together: strides, patches to be turned, best weights of nothing."""
    problems = best_of_nothing(configuration)
    attributes = configuration.data_attributes
    is_square = attributes.patch_height == attributes.patch_width
    if get_augmentation(configuration.training_settings) and not is_square:
        problems.append(
            configuration.problem(
                "data attributes",
                "patch_width",
                f"patch_height = {attributes.patch_height} where patches are turned, deformed or "
                "varied",
                "Or switch off elastic_sigma, rotation_degrees, shear, quarter_turns, flip, zoom, "
                "shift, brightness, contrast, gamma, noise and cutout in [training settings].",
            )
        )
    settings = configuration.testing_settings
    scales, flips = settings.camera_scales, settings.camera_flips
    if flips is not None and len(flips) != len(scales):
        factors = ", ".join(f"{scale:g}" for scale in scales)
        problems.append(
            configuration.problem(
                "testing settings",
                "camera_flips",
                f"a number for each of camera_scales = {factors}",
                "With none each is averaged as average_flips says.",
            )
        )
    return problems + _stride_problems(configuration)


def _stride_problems(configuration):
    """Lists strides that would leave pixels between patches."""
    problems = []
    for side in ("height", "width"):
        patch = getattr(configuration.data_attributes, f"patch_{side}")
        if getattr(configuration.testing_settings, f"stride_{side}") > patch:
            problems.append(
                configuration.problem(
                    "testing settings",
                    f"stride_{side}",
                    f"at most patch_{side} = {patch}, else pixels between patches are never seen",
                    "The original uses 5.",
                )
            )
    return problems


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
    ids, problems = load_ids(files["images"], numbered(images))
    data = {"images": images, "ids": ids, "ground_truth": None, "second_observer": None}
    if images.shape[1] != 3:
        problems.append(channels_problem(files["images"], 3, images))
    masks = {"fov_masks": files["fov_masks"], "ground_truth": files["ground_truth"]}
    if subset == "test" and not _has_ground_truth(files):
        del masks["ground_truth"]
    for kind, path in masks.items():
        data[kind], found = load_masks(path, files["images"], data)
        problems += found
    raise_if_any(problems)
    if "ground_truth" in masks:
        data["second_observer"] = _load_second_observer(files["ground_truth"], data)
    return data


def _load_second_observer(path, data):
    """Reads the masks of a second observer, which lie in the file of the ground truth, or None."""
    second = load_hdf5_extra(path, "second_observer")
    if second is None:
        return None
    expected, received = data["ground_truth"].shape, np.shape(second)
    if received != expected:
        raise UserError(
            f"{path}: `second_observer` must hold masks like `image`, of the shape {expected}. "
            f"Received: {received}. Prepare the data again."
        )
    return (second > 0).astype(np.uint8)


def data_files(configuration, subset):
    """Names the HDF5 files of one half: {"images": path, "fov_masks": ..., "ground_truth": ...}."""
    keys = {"images": "imgs_original", "fov_masks": "border_masks", "ground_truth": "groundTruth"}
    return {kind: data_path(configuration, f"{subset}_{key}") for kind, key in keys.items()}


def _has_ground_truth(files):
    """Reads what prepare_datasets_DRIVE.py noted; files of retina-unet always have ground truth."""
    noted = load_hdf5_extra(files["images"], "has_ground_truth")
    return noted is None or bool(noted)


def num_training_patches(configuration, num_images):
    """Counts the patches that train; those after them validate.

    Example: 20 images and 190,000 patches, 9,500 each; validation_split = 0.1, or 2 (images). The
    first 171,000 train: images 0 ... 17.

    Args:
        configuration: lib.configuration.Configuration.
        num_images: number of training images.
    Raises:
        UserError: if N_subimgs is no multiple of the number of images, or no image would train.
    """
    settings = configuration.training_settings
    num_patches, split = settings.N_subimgs, settings.validation_split
    if num_patches % num_images:
        multiple = max(num_images, num_patches // num_images * num_images)
        expected = f"a multiple of the {num_images} training images"
        raise UserError(
            configuration.problem("training settings", "N_subimgs", expected, f"Use {multiple}.")
        )
    if split >= num_images:
        expected = f"below {num_images}, the number of training images, or a share"
        raise UserError(configuration.problem("training settings", "validation_split", expected))
    share = split / num_images if split >= 1 else split
    return int(round(num_patches * (1 - share), 6))


def validation_images(configuration, num_images):
    """Gives the slice of training images that give patches for validation alone."""
    per_image = configuration.training_settings.N_subimgs // num_images
    return slice(-(-num_training_patches(configuration, num_images) // per_image), num_images)
