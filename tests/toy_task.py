"""What a task costs: discs and bars in colour images of two sizes; see tests/test_toy_task.py."""

from functools import partial

import numpy as np

from lib import configuration as keys
from lib.devices import inner_data_format, start_computing
from lib.experiment import locate
from lib.extract_patches import average_orientations, pad_to_multiple
from lib.files import load_hdf5
from lib.patch_dataset import TileDataset, covering_places
from lib.pictures import as_picture, colour_classes
from lib.predictions import ImagePredictor
from lib.report import Report, ReportImage
from lib.results import Results
from lib.training import training_run
from lib.unet import NETWORKS
from lib.weights import read_weights

COLOURS = {"ground": (0, 0, 0), "disc": (230, 60, 60), "bar": (60, 160, 230)}
NETWORK = NETWORKS["unet"]

KEYS = (
    *keys.data_keys(),
    *keys.EXPERIMENT_KEYS,
    keys.Key("data attributes", "patch_size", keys.multiple_of_4, role=keys.TRAINING),
    keys.Key("training settings", "N_subimgs", keys.integer(1), role=keys.TRAINING),
    keys.Key("training settings", "batch_size", keys.integer(1), 8, keys.TRAINING),
    *keys.TRAINING_KEYS,
    *keys.TESTING_KEYS,
)


def load(configuration, subset):
    """Reads (3, H, W) images in [0, 1], (H, W) classes and the ids, of both sizes in one list."""
    images, labels, ids = [], [], []
    for size in ("small", "large"):
        path = locate(configuration.data_paths.path_local) / f"{size}_{subset}.hdf5"
        stack = load_hdf5(path)  # (N, 4, H, W): colours and classes
        images += list(stack[:, :3].astype(np.float32) / 255)
        labels += list(stack[:, 3])
        ids += [f"{size}_{number}" for number in range(len(stack))]
    return images, labels, ids


def main(configuration, experiment, **overwrite):
    """Trains, or tests where nothing says whether to overwrite an earlier training."""
    (train if overwrite else test)(configuration, experiment, **overwrite)


def train(configuration, experiment, overwrite):
    """Trains on tiles drawn anew every epoch, and validates on tiles that cover the others."""
    settings, side = configuration.training_settings, configuration.data_attributes.patch_size
    with training_run(configuration, experiment, overwrite) as run:
        images, labels, ids = load(configuration, "train")
        others, truth, other_ids = load(configuration, "validation")
        run.require_images({"training": ids, "validation": other_ids})

        def draw_place(rng):
            index = rng.integers(len(images))
            return index, *(rng.integers(0, n - side + 1) for n in labels[index].shape)

        tiles = partial(TileDataset, input_size=(side, side), batch_size=settings.batch_size)
        places = covering_places([one.shape for one in truth], (side, side))
        training_data = tiles(
            images, labels, None, settings.N_subimgs, draw_place=draw_place, seed=settings.seed
        )
        network = partial(build, side, side)
        model = run.build(network, "sparse_categorical_crossentropy", len(training_data))
        shares = [class_shares(of) for of in (labels, truth)]
        run.fit(model, training_data, tiles(others, truth, None, places), shares)


def test(configuration, experiment):
    """Predicts whole images, mirrored and averaged, and tells the share of right pixels."""
    weights = read_weights(experiment.find_weights(configuration.testing_settings.best_last))
    start_computing(configuration.training_settings.seed, mixed_precision=False)
    images, labels, ids = load(configuration, "test")
    results = Results(experiment.results, experiment.name)
    results.require_room(ids)
    predicted = [average_orientations(partial(predict, weights), image, 4) for image in images]
    results.remove()
    classes = [probabilities.argmax(axis=0) for probabilities in predicted]
    colours = [colour_classes(one, list(COLOURS.values())) for one in classes]
    results.save_pictures("segmentations", ids, colours)
    shown = map(ReportImage, ids, map(as_picture, images), classes, labels)
    report = Report("Toys", shown, classes=COLOURS, sort_by="accuracy")
    results.save_report(report, configuration, weights, protocol="All pixels of all images.")
    right = np.concatenate([(a == b).ravel() for a, b in zip(classes, labels)]).mean()
    text = f"Accuracy: {right:.4f} of all pixels of {len(ids)} images.\n"
    results.save_performances(text, {"accuracy": float(right), "images": ids})


def make_predictor(configuration, weights, threshold):
    """Tells run_prediction.py how an image of one's own is predicted."""
    return ImagePredictor(lambda one: predict(weights, np.float32(one / 255)), 3, classes=COLOURS)


def predict(weights, image):
    """Predicts one image, (3, H, W) -> (3 classes, H, W), in one pass of a network of its size."""
    padded = pad_to_multiple(image, NETWORK.multiple)
    model = build(*padded.shape[1:])
    weights.load_into(model)
    (whole,) = np.asarray(model.predict_on_batch(padded[np.newaxis]))  # (H*W, 3)
    whole = whole.T.reshape(-1, *padded.shape[1:])
    return whole[:, : image.shape[1], : image.shape[2]]


def build(height, width):
    """Builds the network for colour images and three classes."""
    options = {"output_activation": "linear", "data_format": inner_data_format()}
    return NETWORK.build(3, height, width, num_classes=len(COLOURS), **options)


def class_shares(labels):
    """Gives the share of every class in a list of (H, W) classes."""
    counts = sum(np.bincount(one.ravel(), minlength=len(COLOURS)) for one in labels)
    return (counts / counts.sum()).tolist()
