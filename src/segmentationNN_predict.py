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
from lib.errors import UserError
from lib.extract_patches import ORIENTATIONS, average_orientations, describe_average
from lib.image_sets import channel_limits, scaled
from lib.instance_metrics import count_overlaps, none_found, summarize
from lib.instances import objects_from_borders
from lib.overlap_tile import most_overlap, num_blended_tiles, predict_blended
from lib.pictures import (
    as_grey_levels,
    as_picture,
    colour_classes,
    draw_objects,
    group_images,
    on_canvas,
    visualize,
    with_legend,
)
from lib.plots import draw_confusion_matrix
from lib.pre_processing import resized, resized_labels, unlike_training
from lib.predictions import ImagePredictor, Prediction, measure_objects
from lib.progress import Progress
from lib.report import Report, ReportImage
from lib.results import file_names, open_results
from lib.weights import open_weights
from src.segmentation_task import (
    describe_data,
    load_training,
    look_at,
    open_images,
    part_of,
    size_multiple,
)
from src.segmentationNN_training import build_network

# A tile that holds a whole image has sides of these multiples, so that images of many sizes are
# computed in few.
SIDE_MULTIPLE = 64
PROTOCOL = (
    "All pixels of all images together, but those that nobody labelled. Mean IoU is the mean over "
    "the classes that occur in truth or prediction."
)
# What a program must know that uses the network by itself.
EXPORTED = {
    "input": "(batch, channels, height, width) float32 in [0, 1]",
    "output": "(batch, height * width, classes) float32, probabilities, row after row",
    "pre_processing": "auto: 8 bits from 0 to 255, 16 bits from the image's 0.1 to its 99.9 "
    "percentile to [0, 1], clipped; type: from 0 to the type's highest; image: percentiles",
}
OBJECTS = (
    "cores, connected pixels above object_threshold in the class object, of at least "
    "smallest_object pixels; each gets its border by a watershed (lib/instances.py)"
)
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
    progress = Progress(count_passes(configuration, tested["shapes"]))
    predict = load_predictor(configuration, weights, progress.add)
    report = begin_report(results, weights.data)
    results.remove()
    counts = save_predictions(results, configuration, weights, tested, predict, report)
    progress.finish()

    # 3. The scores, where there are labels.
    predicted = f"Predicted {describe_tiles(configuration.testing_settings)}."
    words = {"protocol": predicted}
    if tested["labels"] is None:
        print(f"The images have no labels: no scores. Pictures are in {results.folder}.")
    else:
        note = weights.describe_origin(tested["ids"])
        scores, flags = save_scores(results, weights.data, counts, note)
        flags += filter(None, [note])
        words = {"protocol": f"{PROTOCOL} {predicted}", "scores": scores, "flags": flags}
    results.save_report(report, configuration, weights, **words)


def load_tested(configuration, weights):
    """Opens the images to test: of the test file, or those that trained or validated.

    Returns:
        dictionary as src.segmentation_task.part_of gives it.
    Raises:
        UserError: if there are none, or they have other classes or channels than those that trained
            the weights; or if the weights do not tell these.
    """
    _require_record(weights)
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


def _require_record(weights):
    if not weights.data:
        raise UserError(
            f"{weights.path} does not tell the classes and channels that it was trained on, as the "
            "weights of this task do. Choose weights that a training of this task has written."
        )


# ---------------------------------------------------------------- prediction


def tiling(configuration):
    """Gives tile size, overlap and multiple, as lib.overlap_tile.predict_blended takes them."""
    settings = configuration.testing_settings
    needed = size_multiple(configuration.training_settings)
    multiple = max(math.gcd(settings.tile_size, SIDE_MULTIPLE), needed)
    if settings.overlap > most_overlap(settings.tile_size, multiple):
        multiple = needed  # a tile no larger than the multiple could not be moved on
    return settings.tile_size, settings.overlap, multiple


def count_passes(configuration, shapes):
    """Counts the tiles, in all their orientations, of images of (height, width) pixels."""
    num_tiles = sum(num_blended_tiles(shape, *tiling(configuration)) for shape in shapes)
    return num_tiles * configuration.testing_settings.average_flips


def load_predictor(configuration, weights, on_pass=None):
    """Builds the network for tiles of any size, and loads its weights.

    Args:
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        on_pass: called with 1 after each tile in each orientation, for a progress bar.
    Returns:
        function of an image (C, H, W) float32 in [0, 1], in memory or read when sliced -> (K, H, W)
        float32, probabilities of the classes.
    """
    settings = configuration.testing_settings
    network = build_network(configuration, weights.data, None, None)
    weights.load_into(network, settings.skip_order)

    def predict_tile(tile):
        (predicted,) = np.asarray(network.predict_on_batch(tile[np.newaxis]))  # (H*W, K)
        if on_pass:
            on_pass(1)
        return predicted.T.reshape(-1, *tile.shape[1:])

    def predict_orientations(tile):
        return average_orientations(predict_tile, tile, ORIENTATIONS[settings.average_flips])

    return lambda image: predict_blended(predict_orientations, image, *tiling(configuration))


def make_predictor(configuration, weights, threshold=None):
    """Tells run_prediction.py how an image is predicted; as src.retinaNN_predict.make_predictor.

    threshold: of two classes, from which probability a pixel is the second one; 0.5 for None.
    """
    _require_record(weights)
    data, settings = weights.data, configuration.testing_settings
    names, colours = data["class_names"], map(tuple, data["class_colours"])
    predict_scaled = load_predictor(configuration, weights)
    is_binary = len(names) == 2
    sizes = "at their own sizes"
    size = data.get("size")  # none in the records of earlier versions
    if size:
        height, width = size
        sizes = f"scaled to {width} x {height} pixels, as those of the training, and back"

    def predict(image):
        own_size = image.shape[1:]
        image = resized(image[np.newaxis], tuple(size or own_size))[0]
        image = scaled(image, channel_limits(image, data["scaling"]))
        at_training_size = predict_scaled(image)
        probabilities = resized(at_training_size[np.newaxis], own_size)[0]
        measured = {"notes": unlike_training(look_at(image), weights.looks)}
        if data["has_instances"]:
            objects = find_classes(at_training_size, data, settings)["objects"]
            objects = resized_labels(objects, own_size)
            measured |= {"objects": objects, "measurements": measure_objects(objects)}
        elif is_binary:
            found = probabilities[1] >= (0.5 if threshold is None else threshold)
            measured["measurements"] = {f"{names[1]} [%]": 100 * float(found.mean())}
        return Prediction(probabilities[1:] if is_binary else probabilities, **measured)

    def export():
        side = settings.tile_size
        network = build_network(configuration, data, side, side)
        weights.load_into(network, settings.skip_order)
        known = {"scaling": data["scaling"], "average_flips": settings.average_flips}
        known |= {"size": size} if size else {}
        if data["has_instances"]:
            keys = ("object_threshold", "smallest_object")
            known |= {"objects": OBJECTS, **{name: getattr(settings, name) for name in keys}}
        return network, {**EXPORTED, "classes": names, **known}

    return ImagePredictor(
        predict,
        data["num_channels"],
        keeps_16_bits=True,
        positive=names[1] if is_binary else None,
        classes=None if is_binary else dict(zip(names, colours)),
        threshold=0.5 if threshold is None else threshold,
        protocol=f"Images {sizes}, {describe_tiles(settings)}.",
        export=export,
    )


def describe_tiles(settings):
    """Words in which tiles, and how many orientations of them, images are predicted."""
    averaged = describe_average(settings.average_flips)
    return f"in tiles of at most {settings.tile_size} pixels{averaged}"


def save_predictions(results, configuration, weights, tested, predict, report):
    """Predicts and saves one image after the other: no more than one is held in memory.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        tested: dictionary as load_tested gives it.
        predict: as load_predictor gives it.
        report: lib.report.Report, which is shown every image.
    Returns:
        for each image with labels a dictionary: id, matrix (K, K), and with numbered objects their
        overlaps, lib.instance_metrics.Overlaps.
    """
    settings, data, counts, rows = configuration.testing_settings, weights.data, [], []
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
            flags = unlike_training(look_at(image), weights.looks)
            report.add(show(tested["ids"][number], image, probabilities, found, truth, flags))
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
        settings: the testing settings, with object_threshold, and smallest_object in pixels.
    Returns:
        dictionary: classes (H, W) uint8, the most probable one; objects (H, W) int32 perhaps.
    """
    found = {"classes": probabilities.argmax(axis=0).astype(np.uint8)}
    if data["has_instances"]:
        objects = objects_from_borders(
            probabilities, settings.object_threshold, settings.smallest_object
        )
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


def begin_report(results, data):
    """Makes the page that takes the images, of two classes or of more."""
    names, colours = data["class_names"], map(tuple, data["class_colours"])
    title = f"Segmentation: {results.name}"
    if len(names) == 2:
        return Report(title, positive=names[1], sort_by="F1")
    return Report(title, classes=dict(zip(names, colours)), sort_by="accuracy")


def show(identity, image, probabilities, found, truth, flags=()):
    """Gives what the report shows of an image: lib.report.ReportImage.

    Args:
        identity: of the image.
        image: (C, H, W) float32 in [0, 1].
        probabilities: (K, H, W) float32.
        found: as find_classes gives it.
        truth: as read_truth gives it; empty without labels.
        flags: sentences about the image that one must know.
    """
    labels = truth.get("classes")
    return ReportImage(
        identity,
        as_picture(image),
        probabilities[1] if len(probabilities) == 2 else found["classes"],
        labels,
        inside=None if labels is None else labels != IGNORE,
        objects=found.get("objects"),
        true_objects=truth.get("objects"),
        flags=flags,
    )


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
    shown = as_picture(image).transpose(2, 0, 1)
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
    picture = with_legend(np.concatenate(stripes).transpose(2, 0, 1), names, colours)
    title = "Original_GroundTruth_Prediction_Errors" if has_truth else "Original_Prediction"
    path = results.file(f"{results.name}_{title}{number}.png")
    visualize(picture.transpose(1, 2, 0), path)


# ---------------------------------------------------------------- scores


def save_scores(results, data, counts, note=""):
    """Computes and saves performances.txt, performances.json and confusion_matrix.png.

    Args:
        results: lib.results.Results.
        data: what the weights know of their data.
        counts: of each image, as save_predictions gives them.
        note: a sentence about the weights that readers of the scores must know.
    Returns:
        {words: score}, those that the report shows at its top; and what it must say of them.
    """
    scores = evaluate(counts, data["class_names"], data["has_instances"])
    results.save_performances(performances_text(scores, note), scores)
    path = results.file("confusion_matrix.png")
    draw_confusion_matrix(scores["confusion_matrix"], data["class_names"], path)
    print(f"Pictures, scores and predictions.hdf5 are in {results.folder}.")
    shown = {"Mean IoU": scores["mean_iou"], "Accuracy": scores["pixel_accuracy"]}
    if "objects" not in scores:
        return shown, []
    objects = scores["objects"]
    shown |= {f"AP at {t}": value for t, value in objects["ap"].items()}
    return shown, none_found(objects)


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
