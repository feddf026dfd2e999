"""What a task costs: discs and bars in colour images of two sizes; see tests/test_toy_task.py."""

from functools import cache, partial

import numpy as np

from lib import configuration as keys
from lib.devices import inner_data_format
from lib.experiment import locate
from lib.extract_patches import ORIENTATIONS, average_orientations, pad_to_multiple
from lib.files import load_hdf5
from lib.patch_dataset import TileDataset, covering_places, places_by_area
from lib.pictures import as_picture, colour_classes
from lib.predictions import ImagePredictor
from lib.report import Report, ReportImage
from lib.results import Results
from lib.training import training_run
from lib.unet import NETWORKS
from lib.weights import open_weights

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
    """Reads (3, H, W) images in [0, 1], (H, W) classes and the ids, of both sizes."""
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

        tiles = partial(TileDataset, input_size=(side, side), batch_size=settings.batch_size)
        shapes, other_shapes = ([one.shape for one in of] for of in (labels, truth))
        options = {"draw_place": places_by_area(shapes, (side, side)), "seed": settings.seed}
        training_data = tiles(images, labels, None, settings.N_subimgs, **options)
        network = partial(build, side, side)
        model = run.build(network, "sparse_categorical_crossentropy", len(training_data))
        validation_data = tiles(others, truth, None, covering_places(other_shapes, (side, side)))
        counts = [
            sum(np.bincount(one.ravel(), minlength=3) for one in of) for of in (labels, truth)
        ]
        run.fit(model, training_data, validation_data, [(c / c.sum()).tolist() for c in counts])


def test(configuration, experiment):
    """Predicts whole images, mirrored and averaged, and tells the share of right pixels."""
    weights = open_weights(configuration, experiment)
    images, labels, ids = load(configuration, "test")
    results = Results(experiment.results, experiment.name)
    results.require_room(ids)
    predict = predictor_of(weights)
    predicted = [average_orientations(predict, image, ORIENTATIONS[4]) for image in images]
    results.remove()
    classes = [probabilities.argmax(axis=0) for probabilities in predicted]
    coloured = [colour_classes(one, list(COLOURS.values())) for one in classes]
    results.save_pictures("segmentations", ids, coloured)
    shown = map(ReportImage, ids, map(as_picture, images), classes, labels)
    report = Report("Toys", shown, classes=COLOURS, sort_by="accuracy")
    results.save_report(report, configuration, weights, protocol="All pixels of all images.")
    right = np.concatenate([(a == b).ravel() for a, b in zip(classes, labels)]).mean()
    scores = {"accuracy": float(right), "images": ids}
    results.save_performances(f"Accuracy: {right:.4f} of all pixels.\n", scores)


def predictor_of(weights):
    """Gives a function that predicts one image, (3, H, W) -> (3 classes, H, W), in one pass."""

    networks = cache(partial(build, weights=weights))

    def predict(image):
        padded = pad_to_multiple(image, NETWORK.multiple)
        size = padded.shape[1:]
        (answer,) = np.asarray(networks(*size).predict_on_batch(padded[np.newaxis]))
        return answer.T.reshape(-1, *size)[:, : image.shape[1], : image.shape[2]]

    return predict


def make_predictor(configuration, weights, threshold):
    """Tells run_prediction.py how an image of one's own is predicted."""
    network = predictor_of(weights)
    return ImagePredictor(lambda image: network(np.float32(image / 255)), 3, classes=COLOURS)


def build(height, width, weights=None):
    """Builds the network for colour images and three classes, with weights if there are any."""
    options = {"output_activation": "linear", "data_format": inner_data_format()}
    network = NETWORK.build(3, height, width, num_classes=len(COLOURS), **options)
    if weights:
        weights.load_into(network)
    return network
