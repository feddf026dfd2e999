"""The segmentation experiment, of any images and classes: its keys, their checks, its data."""

from lib.configuration import (
    DROPOUT_KIND,
    ENCODERS,
    EXPERIMENT_KEYS,
    LOSS_KEYS,
    NETWORK,
    SPLIT,
    TESTING_KEYS,
    TRAINING,
    Key,
    augmentation_keys,
    best_of_nothing,
    boolean,
    choice,
    data_keys,
    integer,
    orientations,
    path_or_none,
    real,
    share_or_number,
    shared_training_keys,
    with_defaults,
)
from lib.errors import UserError, raise_if_any
from lib.experiment import data_path
from lib.image_sets import ImageSet
from lib.overlap_tile import most_overlap
from lib.pre_processing import look_of
from lib.slices import split_validation

# As in lib.unet, which knows Keras: it is not loaded yet when a configuration is read.
NETWORKS = ("unet", "unet_plus_plus")
ENCODER_MULTIPLE = 32
# So many pixels in each direction show how an image looks.
LARGEST_LOOK = 2048

# It need not be there.
VALIDATION_FILE = "validation.hdf5"

KEYS = (
    *data_keys(
        train_images="training.hdf5",
        validation_images=VALIDATION_FILE,
        test_images="test.hdf5",
    ),
    *EXPERIMENT_KEYS,
    Key("data attributes", "tile_size", integer(8), role=TRAINING),
    Key("training settings", "N_subimgs", integer(1, 100_000_000), role=TRAINING),
    Key("training settings", "validation_split", share_or_number, 0.1, SPLIT),
    Key("training settings", "batch_size", integer(1), 8, TRAINING),
    *with_defaults(
        shared_training_keys("val_mean_iou", "val_loss", "val_accuracy"),
        optimizer="adam",
        learning_rate=0.001,
        learning_rate_decay="cosine",
        mixed_precision=True,
    ),
    Key("training settings", "momentum", real(0, 0.9999), 0.9, TRAINING),
    Key("training settings", "network", choice(*NETWORKS), "unet", NETWORK),
    Key("training settings", "base_filters", integer(1), 32, NETWORK),
    Key("training settings", "depth", integer(1, 6), 4, NETWORK),
    Key("training settings", "batch_normalization", boolean, False, NETWORK),
    Key("training settings", "deep_supervision", boolean, False, NETWORK),
    Key("training settings", "encoder", choice("none", *ENCODERS), "none", NETWORK),
    Key("training settings", "encoder_weights", path_or_none, None, TRAINING),
    Key("training settings", "encoder_learning_rate_factor", real(0, 1, above=True), 0.1, TRAINING),
    Key("training settings", "output_activation", choice("softmax", "sigmoid"), "softmax", NETWORK),
    Key("training settings", "dropout", real(0, 0.9), 0.0, TRAINING),
    DROPOUT_KIND,
    *LOSS_KEYS,
    Key("training settings", "class_weights", choice("none", "balanced"), "none", TRAINING),
    *augmentation_keys(
        elastic_sigma=0.0,
        rotation_degrees=0.0,
        flip=True,
        brightness=0.1,
        contrast=0.2,
        colour=True,
    ),
    *with_defaults(TESTING_KEYS, N_group_visual=4),
    Key("testing settings", "images", choice("test", "validation", "training"), "test"),
    Key("testing settings", "tile_size", integer(8), 512),
    Key("testing settings", "overlap", integer(0), 64),
    Key("testing settings", "average_flips", orientations, 1),
    Key("testing settings", "object_threshold", real(0, 1), 0.5),
    Key("testing settings", "smallest_object", integer(0), 0),
)


def check(configuration):
    """Lists tiles that do not fit the network, and settings that exclude each other."""
    problems = []
    settings = configuration.training_settings
    multiple = size_multiple(settings)
    for section in ("data attributes", "testing settings"):
        size = configuration.sections[section.replace(" ", "_")].tile_size
        if size % multiple:
            lower = max(multiple, size // multiple * multiple)
            expected = (
                f"a multiple of {multiple}, because the network halves it "
                f"{multiple.bit_length() - 1} times; {lower} or {lower + multiple} would do"
            )
            problems.append(configuration.problem(section, "tile_size", expected))
    testing = configuration.testing_settings
    most = most_overlap(testing.tile_size, multiple)
    if testing.tile_size % multiple == 0 and testing.overlap > most:
        expected = f"at most {most} with a tile_size of {testing.tile_size}"
        problems.append(configuration.problem("testing settings", "overlap", expected))
    if settings.deep_supervision and settings.network != "unet_plus_plus":
        expected = "False with network = unet, which has one output"
        problems.append(configuration.problem("training settings", "deep_supervision", expected))
    if settings.encoder == "none" and settings.encoder_weights is not None:
        expected = "none with encoder = none"
        problems.append(configuration.problem("training settings", "encoder_weights", expected))
    return problems


def size_multiple(settings):
    """Gives the multiple of which the sides of the network's input must be, of its settings."""
    return 2**settings.depth if settings.encoder == "none" else ENCODER_MULTIPLE


def open_images(configuration, use):
    """Opens the images of a use.

    Args:
        configuration: lib.configuration.Configuration of the segmentation task.
        use: "train", "validation" or "test".
    Returns:
        lib.image_sets.ImageSet; None for a validation file that is not there, by its usual name.
    Raises:
        UserError: if the file is missing, not whole or of another kind.
    """
    path = data_path(configuration, f"{use}_images")
    if use == "validation" and not path.is_file():
        if configuration.data_paths.validation_images == VALIDATION_FILE:
            return None
        expected = f"a file that is there (looked for {path})"
        advice = "Leave the key out, and validation_split says which images validate."
        raise UserError(configuration.problem("data paths", "validation_images", expected, advice))
    return ImageSet(path)


def load_training(configuration):
    """Opens the images that train and those that validate.

    Those of the validation file validate; where there is none, validation_split says how many of
    the training images do, the last ones.

    Args:
        configuration: lib.configuration.Configuration of the segmentation task.
    Returns:
        the ImageSet of the training images, and {"training": part, "validation": part}: as
        part_of gives them, the second of no images where none validates.
    Raises:
        UserError: as open_images; if there are no labels, files do not fit each other, or none is
            left to train on.
    """
    training, validation = (open_images(configuration, use) for use in ("train", "validation"))
    problems = [
        f"{images.path} holds no labels. Prepare the data again, with labels."
        for images in (training, validation)
        if images is not None and images.labels is None
    ]
    if validation is not None and describe_data(validation) != describe_data(training):
        problems.append(
            f"{validation.path} holds other classes or channels than {training.path}: "
            f"{describe_data(validation)}, {describe_data(training)}. Prepare them together."
        )
    num_classes = len(training.classes)
    if configuration.training_settings.output_activation == "sigmoid" and num_classes != 2:
        expected = f"softmax, because there are {num_classes} classes; sigmoid is for 2"
        problems.append(configuration.problem("training settings", "output_activation", expected))
    if configuration.training_settings.hue and training.num_channels != 3:
        expected = f"0, because the images have {training.num_channels} channels; hue is of RGB"
        problems.append(configuration.problem("training settings", "hue", expected))
    raise_if_any(problems)
    if validation is not None:
        return training, {"training": part_of(training), "validation": part_of(validation)}
    raise_if_any(best_of_nothing(configuration))
    parts = split_validation(configuration, len(training), "image")
    return training, {use: part_of(training, part) for use, part in parts.items()}


def part_of(images, part=slice(None)):
    """Gives some of an ImageSet.

    Args:
        images: lib.image_sets.ImageSet.
        part: slice of image numbers.
    Returns:
        dictionary of lists: ids, shapes, images, labels and instances (None without), and
        class_counts (K,), their pixels of every class.
    """
    kinds = ("ids", "shapes", "images", "labels", "instances")
    values = {kind: getattr(images, kind) for kind in kinds}
    chosen = {kind: value if value is None else value[part] for kind, value in values.items()}
    return {**chosen, "class_counts": images.image_class_counts[part].sum(axis=0)}


def look_at(image):
    """Measures how an image looks, a large one by its middle: lib.pre_processing.look_of.

    Args:
        image: (C, H, W) float32 in [0, 1], or what gives one when it is sliced.
    """
    middle = [
        slice(max(0, (size - LARGEST_LOOK) // 2), (size + LARGEST_LOOK) // 2)
        for size in image.shape[1:]
    ]
    return look_of(image[:, middle[0], middle[1]])


def describe_data(images):
    """Gives what a network must know of its data: the weights record it.

    Args:
        images: lib.image_sets.ImageSet.
    Returns:
        dictionary that JSON can hold: num_channels, class_names, class_colours, has_instances,
        scaling (the rule of lib.image_sets.channel_limits); and size, [height, width], to which
        all images were scaled, or None.
    """
    return {
        "size": list(images.size) if images.size else None,
        "num_channels": images.num_channels,
        "class_names": list(images.classes.names),
        "class_colours": [list(colour) for colour in images.classes.colours],
        "has_instances": images.has_instances,
        "scaling": images.scaling,
    }
