"""Tests a network on images of one's own: segmentations, pictures and scores.

    python -m src.segmentationNN_predict [configuration_folder.txt]

The same as `python run_testing.py configuration_folder.txt`, without a log file. Expected result in
the folder <name>/: segmentations/<id>.png, whose pixel values are class numbers,
predictions.hdf5, comparisons in class colours, and, where there are labels, confusion_matrix.png,
performances.txt and .json; with numbered objects objects/<id>.png too.
"""

import math
import sys

import numpy as np

from lib.class_metrics import IGNORE, class_scores, confusion_matrix
from lib.configuration import NETWORK, SPLIT
from lib.devices import start_computing
from lib.errors import UserError
from lib.extract_patches import average_orientations
from lib.instance_metrics import count_overlaps, summarize
from lib.instances import objects_from_borders
from lib.overlap_tile import num_blended_tiles, predict_blended
from lib.pictures import (
    as_grey_levels,
    as_rgb,
    colour_classes,
    draw_objects,
    group_images,
    legend,
    on_canvas,
    visualize,
)
from lib.plots import draw_confusion_matrix
from lib.progress import Progress
from lib.results import Results, file_names
from lib.weights import read_weights
from src.segmentation_task import (
    describe_data,
    load_training,
    open_images,
    part_of,
    size_multiple,
)
from src.segmentationNN_training import build_network

# A tile that holds a whole image has sides of these multiples, so that images of many sizes need
# few networks.
SIDE_MULTIPLE = 64
# How errors are drawn.
RIGHT, WRONG, UNKNOWN = (40, 40, 40), (255, 194, 10), (128, 128, 128)


def main(configuration, experiment):
    """Tests as a configuration says; arguments and errors as in src.retinaNN_predict.main."""
    # 1. The device, the weights to test, the images, the room for the results.
    weights = open_weights(configuration, experiment)
    tested = load_tested(configuration, weights)
    results = open_results(configuration, experiment, tested["ids"])

    # 2. The prediction of one image after the other, with its pictures and its counts.
    print(f"Testing {weights.path} on {len(tested['ids'])} images.")
    predict = load_predictor(configuration, weights, tested["shapes"])
    results.remove()
    counts = save_predictions(results, configuration, weights.data, tested, predict)

    # 3. The scores, where there are labels.
    if tested["labels"] is None:
        print(f"The images have no labels: no scores. Pictures are in {results.folder}.")
        return
    save_scores(results, weights.data, counts, weights.describe_origin(tested["ids"]))


def open_weights(configuration, experiment):
    """Starts the device and reads the weights to test.

    Returns:
        lib.weights.TrainedWeights.
    Raises:
        UserError: if there are none, or they were trained for another network or, for scores of
            validation images, may have been trained on these.
    """
    settings, training = configuration.testing_settings, configuration.training_settings
    weights = read_weights(experiment.find_weights(settings.best_last))
    weights.require_settings(configuration, NETWORK)
    if settings.images == "validation":
        weights.require_settings(configuration, SPLIT)
    start_computing(training.seed, training.mixed_precision)
    return weights


def load_tested(configuration, weights):
    """Opens the images to test: of the test file, or those that trained or validated.

    Returns:
        dictionary as src.segmentation_task.part_of gives it.
    Raises:
        UserError: if there are none, or they have other classes or channels than those that trained
            the weights.
    """
    wanted = configuration.testing_settings.images
    if wanted == "test":
        images = open_images(configuration, "test")
        tested = part_of(images)
    else:
        images, parts = load_training(configuration)
        tested = parts[wanted]
        weights.require_images({wanted: tested["ids"]})
        if not tested["ids"]:
            expected = "test or training, because no image only validates"
            raise UserError(configuration.problem("testing settings", "images", expected))
    weights.require_data(describe_data(images))
    return tested


def open_results(configuration, experiment, ids):
    """Gives the folder of the results: validation/ and training/ have their own.

    Raises:
        UserError: if files of somebody else are in the way.
    """
    subset = configuration.testing_settings.images
    folder = experiment.results if subset == "test" else experiment.results / subset
    results = Results(folder, experiment.name)
    results.require_room(ids)
    return results


# ---------------------------------------------------------------- prediction


def load_predictor(configuration, weights, shapes):
    """Builds the network for tiles of every size that comes, and loads its weights.

    Args:
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        shapes: (height, width) of the images to come in pixels, for the time that is left.
    Returns:
        function of an image (C, H, W) float32 in [0, 1], in memory or read when sliced -> (K, H, W)
        float32, probabilities of the classes.
    """
    settings, models = configuration.testing_settings, {}
    multiple = math.gcd(settings.tile_size, SIDE_MULTIPLE)
    multiple = max(multiple, size_multiple(configuration.training_settings))
    tiling = (settings.tile_size, settings.overlap, multiple)
    num_tiles = sum(num_blended_tiles(shape, *tiling) for shape in shapes)
    progress = Progress(num_tiles * settings.average_flips)

    def predict_tile(tile):
        size = tile.shape[1:]
        if size not in models:
            models[size] = build_network(configuration, weights.data, *size)
            weights.load_into(models[size], settings.skip_order)
        (predicted,) = np.asarray(models[size].predict_on_batch(tile[np.newaxis]))  # (H*W, K)
        progress.add(1)
        return predicted.T.reshape(-1, *size)

    def predict_orientations(tile):
        return average_orientations(predict_tile, tile, settings.average_flips)

    return lambda image: predict_blended(predict_orientations, image, *tiling)


def save_predictions(results, configuration, data, tested, predict):
    """Predicts and saves one image after the other: no more than one is held in memory.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        data: what the weights know of their data: src.segmentation_task.describe_data.
        tested: dictionary as load_tested gives it.
        predict: as load_predictor gives it.
    Returns:
        for each image with labels a dictionary: id, matrix (K, K), and with numbered objects their
        overlaps, lib.instance_metrics.Overlaps.
    """
    settings, counts, rows = configuration.testing_settings, [], []
    names, has_labels = file_names(tested["ids"]), tested["labels"] is not None
    with results.predictions_by_image(tested["ids"], configuration) as save:
        for number, name in enumerate(names):
            image = np.asarray(tested["images"][number])
            probabilities = predict(image)
            save(number, probabilities)
            found = find_classes(probabilities, data, settings)
            results.save_class_numbers(name, found["classes"], data["class_colours"])
            if "objects" in found:
                results.save_object_numbers(name, found["objects"])
            truth = read_truth(tested, number) if has_labels else {}
            if has_labels:
                counts.append({"id": tested["ids"][number], **count(found, truth, data)})
            rows.append(draw_row(image, found, truth, data["class_colours"]))
            if len(rows) == settings.N_group_visual or number == len(names) - 1:
                save_comparison(results, rows, data, number // settings.N_group_visual)
                rows = []
    return counts


def find_classes(probabilities, data, settings):
    """Decides on classes and, where the network was trained for objects, on objects.

    Args:
        probabilities: (K, H, W) float32.
        data: what the weights know of their data.
        settings: the testing settings, with smallest_object in pixels.
    Returns:
        dictionary: classes (H, W) uint8, the most probable one; objects (H, W) int32 perhaps.
    """
    found = {"classes": probabilities.argmax(axis=0).astype(np.uint8)}
    if data["has_instances"]:
        objects = objects_from_borders(probabilities, smallest=settings.smallest_object)
        found["objects"] = objects
    return found


def read_truth(tested, number):
    """Reads classes (H, W) uint8, and objects (H, W) int32 where there are any, of an image."""
    truth = {"classes": np.asarray(tested["labels"][number])}
    if tested["instances"] is not None:
        truth["objects"] = np.asarray(tested["instances"][number])
    return truth


def count(found, truth, data):
    """Counts what all scores of an image follow from.

    Returns:
        dictionary: matrix (K, K), and overlaps, lib.instance_metrics.Overlaps, of objects.
    """
    num_classes = len(data["class_names"])
    counts = {"matrix": confusion_matrix(truth["classes"], found["classes"], num_classes)}
    if "objects" in found and "objects" in truth:
        counts["overlaps"] = count_overlaps(truth["objects"], found["objects"])
    return counts


# ---------------------------------------------------------------- pictures


def draw_row(image, found, truth, colours):
    """Draws an image, its truth, its prediction, its objects if there are any, and the errors.

    Args:
        image: (C, H, W) float32 in [0, 1]; of other than 3 channels the first is shown.
        found: as find_classes gives it.
        truth: as read_truth gives it; empty without labels.
        colours: of the classes.
    Returns:
        list of (3, H, W) uint8.
    """
    shown = as_rgb(as_grey_levels(image if len(image) == 3 else image[:1])[np.newaxis])[0]
    classes = [of["classes"] for of in (truth, found) if of]
    pictures = [shown, *(colour_classes(one, colours) for one in classes)]
    if "objects" in found:
        grey = shown.mean(axis=0) / 255
        drawn = draw_objects(grey, found["objects"], truth.get("objects"))
        pictures.append(as_grey_levels(drawn))
    if truth:
        errors = np.where(truth["classes"] == found["classes"], 0, 1)
        errors[truth["classes"] == IGNORE] = 2
        pictures.append(colour_classes(errors, (RIGHT, WRONG, UNKNOWN)))
    return pictures


def save_comparison(results, rows, data, number):
    """Saves images side by side, below each of them what was found, and the colours' names.

    Args:
        results: lib.results.Results.
        rows: as draw_row gives them, of images of any sizes.
        data: what the weights know of their data.
        number: of the picture.
    """
    size = np.max([pictures[0].shape[1:] for pictures in rows], axis=0)
    stripes = [group_images(on_canvas(list(kind), size), len(rows)) for kind in zip(*rows)]
    has_truth = len(stripes) > 2 + data["has_instances"]
    names, colours = list(data["class_names"]), [tuple(c) for c in data["class_colours"]]
    if has_truth:
        names += ["right", "wrong", "ignored"]
        colours += [RIGHT, WRONG, UNKNOWN]
    stripes.append(legend(names, colours, stripes[0].shape[1]).transpose(1, 2, 0))
    title = "Original_GroundTruth_Prediction_Errors" if has_truth else "Original_Prediction"
    visualize(np.concatenate(stripes), results.file(f"{results.name}_{title}{number}.png"))


# ---------------------------------------------------------------- scores


def save_scores(results, data, counts, note=""):
    """Computes and saves performances.txt, performances.json and confusion_matrix.png.

    Args:
        results: lib.results.Results.
        data: what the weights know of their data.
        counts: of each image, as save_predictions gives them.
        note: a sentence about the weights that readers of the scores must know.
    """
    scores = evaluate(counts, data["class_names"], data["has_instances"])
    results.save_performances(performances_text(scores, note), scores)
    path = results.file("confusion_matrix.png")
    draw_confusion_matrix(scores["confusion_matrix"], data["class_names"], path)
    print(f"Pictures, scores and predictions.hdf5 are in {results.folder}.")


def evaluate(counts, names, has_instances=False):
    """Computes all scores.

    Args:
        counts: of each image: id, matrix (K, K), perhaps overlaps.
        names: of the K classes.
        has_instances: whether the classes are background, object and border of objects.
    Returns:
        dictionary that JSON can hold, as performances.json has it: mean_iou and pixel_accuracy of
        all pixels together; classes {name: iou, dice, precision, recall}; confusion_matrix (row:
        truth); mean_over_images of mean_iou and of the IoU of every class; per_image, worst first;
        with objects foreground_iou, of objects and borders together, and objects, as
        lib.instance_metrics.summarize gives them.
    """
    matrix = np.sum([one["matrix"] for one in counts], axis=0)
    pooled = class_scores(matrix)
    images = []
    for one in counts:
        scores = class_scores(one["matrix"])
        images.append({"id": one["id"], **_summary(scores), "iou": dict(zip(names, scores["iou"]))})
    images.sort(key=lambda image: (image["mean_iou"] is not None, image["mean_iou"]))
    kinds = ("iou", "dice", "precision", "recall")
    performances = {
        **_summary(pooled),
        "classes": {
            name: {kind: pooled[kind][number] for kind in kinds}
            for number, name in enumerate(names)
        },
        "confusion_matrix": matrix.tolist(),
        "mean_over_images": {
            "mean_iou": _mean(image["mean_iou"] for image in images),
            "iou": {name: _mean(image["iou"][name] for image in images) for name in names},
        },
        "per_image": images,
    }
    if has_instances:
        performances["foreground_iou"] = _foreground_iou(matrix)
        overlaps = [one["overlaps"] for one in counts if "overlaps" in one]
        performances["objects"] = summarize(overlaps)
    return performances


def performances_text(performances, note=""):
    """Words the scores as performances.txt has them.

    Args:
        performances: as evaluate gives them.
        note: a sentence that readers of the scores must know.
    """
    over_images = performances["mean_over_images"]
    lines = [
        f"Mean IoU: {_shown(performances['mean_iou'])} (all pixels together; mean over images: "
        f"{_shown(over_images['mean_iou'])})",
        f"Pixel accuracy: {_shown(performances['pixel_accuracy'])}",
        "",
        f"{'class':24}{'IoU':>10}{'Dice':>10}{'precision':>12}{'recall':>10}{'IoU, images':>14}",
    ]
    for name, row in performances["classes"].items():
        lines.append(
            f"{name[:23]:24}{_shown(row['iou']):>10}{_shown(row['dice']):>10}"
            f"{_shown(row['precision']):>12}{_shown(row['recall']):>10}"
            f"{_shown(over_images['iou'][name]):>14}"
        )
    if "objects" in performances:
        objects = performances["objects"]
        ap = ", ".join(f"{_shown(value)} at {t}" for t, value in objects["ap"].items())
        lines += [
            "",
            f"Foreground IoU (object and border): {_shown(performances['foreground_iou'])}",
            f"Objects: {objects['num_true']} true, {objects['num_predicted']} predicted, "
            f"{objects['splits']} split, {objects['merges']} merging several",
            f"Average precision TP / (TP + FP + FN), by IoU: {ap}",
            f"Mean IoU of the pairs at 0.5: {_shown(objects['mean_matched_iou'])}",
        ]
    lines += ["", "Images, the worst first:"]
    lines += [
        f"{image['id']}: mean IoU {_shown(image['mean_iou'])}, "
        f"accuracy {_shown(image['pixel_accuracy'])}"
        for image in performances["per_image"]
    ]
    lines += [
        "",
        "A class that is in neither truth nor prediction has no IoU (-) and enters no mean.",
        *([note] if note else []),
    ]
    return "\n".join(lines) + "\n"


def _summary(scores):
    return {kind: scores[kind] for kind in ("mean_iou", "pixel_accuracy")}


def _foreground_iou(matrix):
    """Gives the IoU of all classes but background (0) together."""
    hits, union = matrix[1:, 1:].sum(), matrix.sum() - matrix[0, 0]
    return float(hits / union) if union else None


def _mean(values):
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _shown(value):
    return "-" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("testing", "segmentation"))
