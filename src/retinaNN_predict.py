"""Tests the network of the retina experiment: probabilities, pictures and scores.

    python -m src.retinaNN_predict [configuration.txt]

The same as `python run_testing.py`, without a log file. Expected result in the folder <name>/:
predictions.hdf5, grids of pictures, ROC and precision-recall curves, performances.txt and .json.
With the weights that retina-unet published, DRIVE at stride 5 gives an area under the ROC curve of
0.979034 (docs/RESULTS.md gives the times).
"""

import sys
from functools import partial

import numpy as np
from skimage.morphology import skeletonize

from lib.errors import UserError
from lib.evaluation import (
    best_accuracy_threshold,
    best_f1_threshold,
    binary_scores,
    cl_dice,
    confusion_scores,
    performances_text,
    pred_only_FOV,
    rank_pixels,
    roc_and_pr_curves,
    skeleton_counts,
    spread,
)
from lib.extract_patches import (
    ORIENTATIONS,
    average_orientations,
    describe_average,
    full_image_places,
    full_image_tile,
    num_overlap_patches,
    pad_to_multiple,
    predict_full_image,
    predict_overlap,
    share_orientations,
)
from lib.pictures import as_grey_levels, as_picture
from lib.plots import draw_precision_recall, draw_roc
from lib.pre_processing import (
    NUM_CHANNELS,
    WHOLE_FOV,
    estimate_fov,
    look_of_photographs,
    power_mean,
    preprocess,
    resized,
    resized_mask,
    size_for_fov,
    sizes_for_fov,
    unlike_training,
    without_rim,
)
from lib.predictions import ImagePredictor, Prediction
from lib.progress import Progress
from lib.report import Curve, Report, ReportImage
from lib.results import open_results
from lib.unet import NETWORKS
from lib.weights import open_weights
from src.retina_task import load_subset, validation_images
from src.retinaNN_training import build_network

# One pass over a whole image pads it to a multiple of this, or of the network's own where it is
# larger.
FULL_IMAGE_MULTIPLE = 16
# What a program must know that uses the network by itself.
EXPORTED = {
    "classes": ["background", "vessel"],
    "input": "(batch, {num_channels}, height, width) float32 in [0, 1]",
    "output": "(batch, height * width, 2) float32, probabilities, row after row",
    "pre_processing": "{channels}, scaled from its minimum to its maximum (its 0.1 to its 99.9 "
    "percentile where single pixels lie far outside) to [0, 255]; equalised (clahe: 8 x 8 tiles, "
    "clip limit 2); gamma 1.2; divided by 255. The photograph is scaled before, at each of "
    "camera_scales, so that its field of view is fov_width times that many pixels wide.",
    "averages": "over average_flips orientations, or of each of camera_scales over as many as "
    "camera_flips says; over camera_scales the power mean of the probabilities of vessel "
    "(lib/pre_processing.py)",
}
CHANNELS_IN_WORDS = {
    "grey": "grey = 0.299 R + 0.587 G + 0.114 B",
    "green": "green",
    "rgb": "each of red, green and blue by itself",
}


def main(configuration, experiment):
    """Tests as a configuration says.

    retina-unet src/retinaNN_predict.py. Differs: docs/DIFFERENCES.md.

    Args:
        configuration: lib.configuration.Configuration of the retina task.
        experiment: lib.experiment.Experiment.
    Raises:
        UserError: for data, weights or settings that do not fit.
    """
    # 1. The device, the weights to test, the images, the room for the results.
    weights = open_weights(configuration, experiment)
    data = load_images(configuration, weights)
    results = open_results(configuration, experiment, data["ids"])

    # 2. The prediction.
    images, probabilities = predict_images(configuration, weights, data)
    results.remove()
    results.save_predictions(probabilities, data["ids"], configuration)

    # 3. The pictures.
    save_segmentations(results, configuration, probabilities, data)
    save_pictures(results, configuration, images, probabilities, data)

    # 4. The scores, where there is ground truth, and the page that shows it all.
    note = weights.describe_origin(data["ids"])
    scores = save_scores(results, configuration, probabilities, data, note)
    save_report(results, configuration, probabilities, data, weights, scores, note)


def load_images(configuration, weights):
    """Reads the images to test: the test half, the training half, or what of it only validated.

    Returns:
        dictionary as src.retina_task.load_subset gives it; of the test images, the first
        full_images_to_test.
    Raises:
        UserError: if there are fewer, no training image only validates, or others validated when
            the weights were trained.
    """
    settings = configuration.testing_settings
    if settings.images == "test":
        return _first_images(load_subset(configuration, "test"), configuration)
    data = load_subset(configuration, "train")
    if settings.images == "training":
        return data
    number = len(data["images"])
    held_out = validation_images(configuration, number)
    if held_out.start == number:
        raise UserError(
            configuration.problem(
                "testing settings",
                "images",
                f"test, because none of the {number} training images validates alone",
                "Set [training settings] validation_split to a whole number of images.",
            )
        )
    data = {name: None if values is None else values[held_out] for name, values in data.items()}
    weights.require_images({"validation": data["ids"]})
    return data


# ---------------------------------------------------------------- prediction


def predict_images(configuration, weights, data):
    """Pre-processes and predicts, at the size at which the FOV is as wide as fov_width.

    Args:
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        data: with images (num_images, 3, height, width) and fov_masks.
    Returns:
        at the images' own size, (num_images, channels, height, width) float32, pre-processed
        images; and (num_images, 1, height, width) float32, the probability of vessel.
    """
    settings, number = configuration.testing_settings, len(data["images"])
    print(f"Testing {weights.path} on {number} {settings.images} images, {settings.inference}.")
    own_size = data["images"].shape[2:]
    sizes = _sizes(configuration, data["fov_masks"])
    if sizes != [own_size]:
        wide = " and ".join(f"{width} x {height}" for height, width in sizes)
        fov_width = configuration.data_attributes.fov_width
        print(f"Predicting at {wide} pixels: fov_width = {fov_width}.")
    predictor = load_predictor(configuration, weights)
    given = data["images"], data["fov_masks"]
    probabilities = _predict_at_sizes(configuration, predictor, *given, has_progress=True)
    if settings.inside_FOV:
        probabilities[data["fov_masks"] == 0] = 0
    _tell_constant(probabilities[data["fov_masks"] > 0], weights)
    return resized(_prepared(configuration, data["images"], sizes[-1]), own_size), probabilities


def _prepared(configuration, photographs, size):
    """Scales and pre-processes photographs: (num_images, channels, *size) float32."""
    attributes = configuration.data_attributes
    return preprocess(resized(photographs, size), attributes.equalization, attributes.channels)


def _sizes(configuration, fov_masks):
    """Lists the sizes at which the network sees photographs, by camera_scales."""
    fov_width = configuration.data_attributes.fov_width
    return sizes_for_fov(fov_masks, fov_width, configuration.testing_settings.camera_scales)


def _predict_at_sizes(configuration, predictor, photographs, fov_masks, has_progress=False):
    """Predicts photographs at each size at which the network sees them.

    Args:
        configuration: lib.configuration.Configuration.
        predictor: as load_predictor gives it.
        photographs: (num_images, 3, H, W) RGB.
        fov_masks: (num_images, 1, H, W), 0 outside.
        has_progress: whether to tell the time left.
    Returns:
        (num_images, 1, H, W) float32, the probability of vessel.
    """
    own_size, sizes = photographs.shape[2:], _sizes(configuration, fov_masks)
    largest = min(own_size, max(sizes))  # at their own size photographs may fill the memory
    given = configuration, predictor, photographs, fov_masks, has_progress
    settings = configuration.testing_settings
    orientations = [ORIENTATIONS[settings.average_flips]] * len(sizes)
    if settings.camera_flips and sizes != [own_size]:
        orientations = share_orientations(settings.camera_flips)
    views = zip(sizes, orientations)
    predictions = (resized(_predict_at(*given, *view), largest) for view in views)
    return resized(power_mean(predictions), own_size)


def _predict_at(configuration, predictor, photographs, fov_masks, has_progress, size, orientations):
    """Predicts photographs as the network sees them at one size.

    Args:
        configuration: lib.configuration.Configuration.
        predictor: as load_predictor gives it.
        photographs: (num_images, 3, H, W) RGB.
        fov_masks: (num_images, 1, H, W), 0 outside.
        has_progress: whether to tell the time left.
        size: (height, width).
        orientations: in which they are averaged, as average_orientations takes them.
    Returns:
        (num_images, 1, *size) float32, the probability of vessel.
    """
    settings = configuration.testing_settings
    images = _prepared(configuration, photographs, size)
    if settings.inside_FOV:
        images = with_fov(images, fov_masks, size)
    predict, per_image, words = WAYS[settings.inference](configuration, predictor, size)
    if has_progress:
        if words:
            print(words)
        progress = Progress(per_image * len(images) * len(orientations))
        predict = partial(predict, on_part=progress.add)
    predicted = [average_orientations(predict, image, orientations) for image in images]
    if has_progress:
        progress.finish()
    return np.stack(predicted)


def with_fov(images, fov_masks, size):
    """Adds the field of view as a last channel: it is mirrored together with the image.

    Args:
        images: (num_images, channels, *size) float32.
        fov_masks: (num_images, 1, height, width) at the images' own size.
        size: (height, width).
    Returns:
        (num_images, channels + 1, *size) float32.
    """
    inside = resized((fov_masks > 0).astype(np.float32), size) > 0
    return np.concatenate([images, inside], axis=1)


def by_patches(configuration, predictor, size):
    """Predicts by patches, overlapping and averaged or (average_mode = False) apart.

    Args:
        configuration: lib.configuration.Configuration.
        predictor: as load_predictor gives it.
        size: (height, width) of the images.
    Returns:
        function (channels, height, width) float32, called with what counts its progress, ->
        (1, height, width), the probability of vessel; a channel more is the FOV: patches that
        show nothing of it are left out. What it counts for an image, and a sentence.
    """
    settings, attributes = configuration.testing_settings, configuration.data_attributes
    patch_size = (attributes.patch_height, attributes.patch_width)
    stride = (settings.stride_height, settings.stride_width)
    stride = stride if settings.average_mode else patch_size

    num_channels = NUM_CHANNELS[attributes.channels]

    def predict(image, on_part=None):
        fov = image[num_channels] > 0 if len(image) > num_channels else None
        image = image[:num_channels]
        return predict_overlap(predictor, image, patch_size, stride, on_part, fov)

    number = num_overlap_patches(size, patch_size, stride)
    return predict, number, f"{number:,} patches an image."


def by_full_image(configuration, predictor, size):
    """Predicts in one pass: the zero-padded image in place of patches.

    The network is fully convolutional, so its weights fit inputs of any size. Not in the original;
    about 75 times less work than stride 5, at slightly lower scores (docs/RESULTS.md). Images that
    are much larger than DRIVE's go tile by tile, to the same result.
    Arguments and result as in by_patches. With the channel of the FOV only the rectangle around it
    is predicted, with as much more as its pixels see; the rest is 0.
    """
    network = NETWORKS[configuration.training_settings.network]
    multiple = max(FULL_IMAGE_MULTIPLE, network.multiple)
    num_channels = NUM_CHANNELS[configuration.data_attributes.channels]

    def places(size):
        """The tiles of an image: it may be turned, so that height and width change places."""
        tile_size = full_image_tile(size, network.reach, network.multiple)
        return tile_size, full_image_places(size, tile_size, network.reach, network.multiple)

    def predict_all(image, on_part):
        padded = pad_to_multiple(image, multiple)
        tile_size, _ = places(padded.shape[1:])
        predicted = predict_full_image(
            predictor, padded, tile_size, network.reach, network.multiple, on_part
        )
        return predicted[:, : image.shape[1], : image.shape[2]]

    def predict(image, on_part=None):
        if len(image) == num_channels:
            return predict_all(image, on_part)
        predicted = np.zeros((1, *image.shape[1:]), np.float32)
        window = _window_around(image[num_channels] > 0, network.reach, multiple)
        if window:
            predicted[window] = predict_all(image[:num_channels][window], on_part)
        return predicted

    tile_size, (rows, columns) = places([side + -side % multiple for side in size])
    number = len(rows) * len(columns)
    words = f"{number} tiles of {tile_size[1]} x {tile_size[0]} pixels an image."
    return predict, number, words if number > 1 else ""


def _window_around(fov, reach, multiple):
    """Finds the rectangle around a FOV (H, W) with what its pixels see: a place in (C, H, W).

    It starts at multiples, so that the same pixels are pooled together. None without a FOV.
    """
    window = [slice(None)]
    for axis in (1, 0):
        inside = np.flatnonzero(fov.any(axis=axis))
        if not len(inside):
            return None
        first = max(0, inside[0] - reach) // multiple * multiple
        window.append(slice(first, inside[-1] + 1 + reach))
    return tuple(window)


WAYS = {"patches": by_patches, "full_image": by_full_image}


def load_predictor(configuration, weights):
    """Builds the network for inputs of any size, and loads its weights.

    Returns:
        function (N, channels, height, width) float32 -> (N, 1, height, width) float32, probability
        of vessel.
    """
    network = build_network(configuration, None, None)
    weights.load_into(network, configuration.testing_settings.skip_order)

    def predictor(inputs):
        vessel = np.asarray(network.predict_on_batch(inputs))[..., 1]
        return vessel.reshape(-1, 1, *inputs.shape[2:])

    return predictor


# ---------------------------------------------------------------- pictures and scores


def save_pictures(results, configuration, images, probabilities, data):
    """Saves grids of originals, ground truths and predictions, and comparisons row by row.

    Everything outside the FOV is black in the predictions. N_group_visual images stand side by side
    in each comparison; the last one may hold fewer.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        images: (num_images, channels, height, width) float32, pre-processed.
        probabilities: (num_images, 1, height, width) float32.
        data: with fov_masks and ground_truth (or None), like probabilities.
    """
    stacks = {"originals": as_grey_levels(images)}
    if data["ground_truth"] is not None:
        stacks["groundTruths"] = data["ground_truth"] * np.uint8(255)
    stacks["predictions"] = as_grey_levels(probabilities) * data["fov_masks"]
    num_in_row = configuration.testing_settings.N_group_visual
    results.save_grids(stacks, num_in_row)
    results.save_comparisons(stacks, num_in_row, "Original_GroundTruth_Prediction")


def save_segmentations(results, configuration, probabilities, data):
    """Saves what counts as vessel inside the FOV, white on black: segmentations/<id>.png."""
    vessels = probabilities >= configuration.testing_settings.threshold
    inside = (vessels & (data["fov_masks"] > 0)) * np.uint8(255)
    results.save_pictures("segmentations", data["ids"], inside)


def save_scores(results, configuration, probabilities, data, note):
    """Computes and saves performances.txt, performances.json and both curves.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        probabilities: (num_images, 1, height, width) float32.
        data: as load_images gives it.
        note: a sentence about the weights that readers of the scores must know.
    Returns:
        performances and curves as evaluate gives them; None for what there is not.
    """
    if data["ground_truth"] is None:
        print(
            "The test images have no ground truth: no scores, no curves. Probabilities and "
            f"pictures are in {results.folder}."
        )
        return None, None
    settings = configuration.testing_settings
    performances, curves = evaluate(probabilities, data, settings)
    text = performances_text(performances) + (f"\n{note}\n" if note else "")
    results.save_performances(text, performances)
    if curves is None:
        print("The ground truth holds one class only: areas and curves are undefined.")
        return performances, None
    inside, second = performances["inside_FOV"], performances["second_observer"]
    roc_point = second and (second["specificity"], second["sensitivity"])
    pr_point = second and (second["sensitivity"], second["precision"])
    draw_roc(*curves["roc"], inside["auc_roc"], results.file("ROC.png"), roc_point)
    path = results.file("Precision_recall.png")
    draw_precision_recall(*curves["pr"], inside["auc_pr"], path, pr_point)
    print(f"Pictures, scores and predictions.hdf5 are in {results.folder}.")
    return performances, curves


def save_report(results, configuration, probabilities, data, weights, scores, note):
    """Saves report.html.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        probabilities: (num_images, 1, height, width) float32.
        data: as load_images gives it.
        weights: lib.weights.TrainedWeights.
        scores: performances and curves as save_scores gives them.
        note: a sentence about the weights that readers of the scores must know.
    """
    performances, curves = scores
    settings, number = configuration.testing_settings, len(data["ids"])
    title = f"Vessels: {results.name}, {number} {settings.images} image{'s' * (number != 1)}"
    sort_by = "F1" if performances else None
    report = Report(title, positive="vessel", threshold=settings.threshold, sort_by=sort_by)
    truth = data["ground_truth"]
    for index, name in enumerate(data["ids"]):
        # Colours of float64, as retina-unet stored them, go from 0 to 255 too.
        picture = as_picture(np.clip(data["images"][index], 0, 255).astype(np.uint8))
        inside = data["fov_masks"][index, 0] > 0
        shown = None if truth is None else truth[index, 0]
        look = look_at(configuration, data["images"][index], inside)
        flags = unlike_training(look, weights.looks)
        probability = probabilities[index, 0]
        report.add(ReportImage(name, picture, probability, shown, inside, flags=flags))
    results.save_report(
        report,
        configuration,
        weights,
        protocol=describe_way(settings) if truth is None else _protocol(settings),
        flags=[note] if note and truth is not None else [],
        scores=performances and scores_to_show(performances),
        curves=[] if curves is None else curves_to_show(curves, performances),
    )


def _protocol(settings):
    """Words on which pixels the scores were computed, and how the prediction was made."""
    return (
        f"Pixels inside the field of view, pooled over the images; vessel from a probability of "
        f"{settings.threshold:g}. {describe_way(settings)}"
    )


def describe_way(settings):
    """Words how images are predicted."""
    patches = "overlapping patches" if settings.average_mode else "patches side by side"
    way = {"patches": patches, "full_image": "one pass over each image"}
    averaged = describe_average(settings.average_flips)
    words = f"Predicted by {way[settings.inference]}{averaged}."
    if settings.camera_scales != (1.0,) or settings.camera_flips:
        factors = " and ".join(f"{factor:g}" for factor in settings.camera_scales)
        words += f" Photographs that are scaled to fov_width: seen at {factors} times of it"
        flips = " and ".join(map(str, settings.camera_flips or ()))
        words += f", in {flips} orientations." if flips else "."
    return words


def scores_to_show(performances):
    """Chooses the scores at the top of the report: {name: number or None}."""
    inside, second = performances["inside_FOV"], performances["second_observer"]
    shown = {"F1": inside["f1"], "AUC, ROC": inside["auc_roc"]}
    shown["AUC, precision-recall"] = inside["auc_pr"]
    over_images = performances["per_image"]["spread"]["auc_roc"]
    shown["AUC, mean of images"] = over_images and over_images["mean"]
    if performances["whole_image"]:
        shown["AUC, whole image"] = performances["whole_image"]["auc_roc"]
    shown["clDice"] = inside["cldice"]
    for name in ("sensitivity", "specificity", "precision", "accuracy"):
        shown[name.capitalize()] = inside[name]
    if at := performances["at_accuracy_threshold"]:
        shown[f"Accuracy from a probability of {at['threshold']:g}"] = at["accuracy"]
    return {**shown, "F1 of a second observer": second["f1"]} if second else shown


def curves_to_show(curves, performances):
    """Gives both curves as the report takes them, with the second observer as a point."""
    inside, second = performances["inside_FOV"], performances["second_observer"]
    at = {"this threshold": (1 - inside["specificity"], inside["sensitivity"])}
    on = {"this threshold": (inside["sensitivity"], inside["precision"] or 0)}
    if second:
        at["second observer"] = (1 - second["specificity"], second["sensitivity"])
        on["second observer"] = (second["sensitivity"], second["precision"] or 0)
    roc = {f"area {inside['auc_roc']:.4f}": curves["roc"]}
    pr = {f"area {inside['auc_pr']:.4f}": curves["pr"]}
    return [
        Curve("ROC curve", "1 - specificity", "sensitivity", roc, at),
        Curve("Precision and recall", "recall", "precision", pr, on),
    ]


def evaluate(probabilities, data, settings):
    """Computes all scores.

    Args:
        probabilities: (num_images, 1, height, width) float32.
        data: with fov_masks, ground_truth, ids and perhaps second_observer.
        settings: the testing settings: threshold, accuracy_threshold, inside_FOV (nothing was
            predicted outside, so there are no scores of the whole image) and images (the thresholds
            with the highest F1 and accuracy are sought on others than the test images).
    Returns:
        dictionary as performances.json has it: inside_FOV, whole_image, per_image and
        per_image_whole (the same two, image by image), second_observer, best_f1, best_accuracy,
        at_accuracy_threshold; and both curves inside the FOV as lib.evaluation.roc_and_pr_curves
        gives them, None where the ground truth holds one class only.
    """
    masks, ground_truth, second = data["fov_masks"], data["ground_truth"], data["second_observer"]
    in_fov, truth = pred_only_FOV(probabilities, ground_truth > 0, masks)
    curves, best_f1, best_accuracy, second_observer = None, None, None, None
    if truth.any() and not truth.all():
        ranking = rank_pixels(truth, in_fov)
        curves = roc_and_pr_curves(ranking)
        if settings.images != "test":
            best_f1 = dict(zip(("threshold", "f1"), best_f1_threshold(ranking)))
            found = best_accuracy_threshold(ranking)
            best_accuracy = dict(zip(("threshold", "accuracy"), found))
    if second is not None:
        observed, _ = pred_only_FOV(second > 0, ground_truth, masks)
        second_observer = confusion_scores(truth, observed)
    whole_image, per_image_whole = whole_image_scores(probabilities, data, settings)
    images, cldice = _scores_of_images(probabilities, data, settings.threshold)
    performances = {
        "inside_FOV": {
            **binary_scores(truth, in_fov, settings.threshold, curves),
            "cldice": cldice,
        },
        "whole_image": whole_image,
        "per_image": {"spread": spread(images), "images": images},
        "per_image_whole": per_image_whole,
        "second_observer": second_observer,
        "best_f1": best_f1,
        "best_accuracy": best_accuracy,
        "at_accuracy_threshold": _at_accuracy_threshold(probabilities, data, settings),
    }
    return performances, curves


def whole_image_scores(probabilities, data, settings):
    """Computes the scores over all pixels, the surround of the field of view too.

    Arguments as evaluate takes them.

    Returns:
        scores of the pixels of all images together, and {"spread", "images"} of each by itself;
        None twice where nothing was predicted outside.
    """
    if settings.inside_FOV:
        return None, None
    truth, threshold = data["ground_truth"], settings.threshold
    images = [
        {"id": name, **binary_scores(one.ravel(), probability.ravel(), threshold)}
        for name, one, probability in zip(data["ids"], truth, probabilities)
    ]
    pooled = binary_scores(truth.ravel(), probabilities.ravel(), threshold)
    return pooled, {"spread": spread(images), "images": images}


def _scores_of_images(probabilities, data, threshold):
    """Computes the scores inside the FOV image by image, and the clDice of all of them."""
    images, total = [], np.zeros(4, int)
    stacks = zip(data["ids"], data["ground_truth"] > 0, data["fov_masks"] > 0, probabilities)
    for name, truth, inside, probability in stacks:
        counts = skeleton_counts((truth & inside)[0], ((probability >= threshold) & inside)[0])
        total += counts
        scores = binary_scores(truth[inside], probability[inside], threshold)
        images.append({"id": name, **scores, "cldice": cl_dice(counts)})
    return images, cl_dice(total)


def _at_accuracy_threshold(probabilities, data, settings):
    """Computes what needs no curve at the threshold that was chosen for the accuracy, or None."""
    threshold = settings.accuracy_threshold
    if threshold is None:
        return None
    masks, truth = data["fov_masks"], data["ground_truth"] > 0
    vessels = probabilities >= threshold
    images = [
        confusion_scores(one[mask > 0], seen[mask > 0])
        for one, mask, seen in zip(truth, masks, vessels)
    ]
    means = {}
    for name in ("accuracy", "f1"):
        values = [scores[name] for scores in images if scores[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    pooled = confusion_scores(*reversed(pred_only_FOV(vessels, truth, masks)))
    return {"threshold": threshold, **pooled, "mean_of_images": means}


# ---------------------------------------------------------------- photographs of one's own


def make_predictor(configuration, weights, threshold=None):
    """Tells run_prediction.py how a photograph is predicted: alone, at the size of the training.

    Args:
        configuration: lib.configuration.Configuration.
        weights: lib.weights.TrainedWeights.
        threshold: from which probability a pixel is vessel; None for the configuration's.
    Returns:
        lib.predictions.ImagePredictor.
    """
    # What lies outside is not shown, so it is not predicted either.
    configuration = configuration.with_values("testing_settings", inside_FOV=True)
    settings = configuration.testing_settings
    threshold = settings.threshold if threshold is None else threshold
    predictor = load_predictor(configuration, weights)
    protocol = f"{describe_way(settings)} The field of view was found in each photograph."
    if width := configuration.data_attributes.fov_width:
        protocol += f" The network saw it {width} pixels wide."

    def predict(photograph):
        return predict_photograph(configuration, predictor, photograph, threshold, weights.looks)

    def export():
        attributes = configuration.data_attributes
        network = build_network(configuration, attributes.patch_height, attributes.patch_width)
        weights.load_into(network, settings.skip_order)
        return network, describe_export(configuration)

    return ImagePredictor(
        predict, 3, "vessel", threshold=threshold, protocol=protocol, export=export
    )


def describe_export(configuration):
    """Gives the metadata of an exported network: EXPORTED, and the settings that it names."""
    attributes, settings = configuration.data_attributes, configuration.testing_settings
    words = {
        "channels": CHANNELS_IN_WORDS[attributes.channels],
        "num_channels": NUM_CHANNELS[attributes.channels],
    }
    described = {**EXPORTED}
    for name in ("input", "pre_processing"):
        described[name] = described[name].format(**words)
    for section, names in (
        (attributes, ("channels", "equalization", "fov_width")),
        (settings, ("average_flips", "camera_scales", "camera_flips")),
    ):
        described |= {name: getattr(section, name) for name in names}
    return described


def predict_photograph(configuration, predictor, photograph, threshold, looks=None):
    """Predicts one photograph and measures its vessels.

    Args:
        configuration: lib.configuration.Configuration.
        predictor: as load_predictor gives it.
        photograph: (3, height, width) uint8 RGB.
        threshold: from which probability a pixel is vessel.
        looks: of the photographs of the training: lib.pre_processing.range_of_looks; or None.
    Returns:
        lib.predictions.Prediction.
    """
    inside = estimate_fov(photograph)
    notes = []
    if inside.mean() > WHOLE_FOV:
        notes.append("No dark surround: all of it was taken as the field of view.")
    notes += unlike_training(look_at(configuration, photograph, inside), looks)
    (probabilities,) = _predict_at_sizes(
        configuration, predictor, photograph[np.newaxis], inside[np.newaxis, np.newaxis]
    )
    inside = without_rim(inside)
    vessels = probabilities[0] >= threshold
    vessels &= inside  # in place: a photograph may fill the memory
    measurements = measure_vessels(vessels, inside)
    return Prediction(probabilities, inside, None, measurements, tuple(notes))


def look_at(configuration, photograph, inside):
    """Measures how a photograph (3, H, W) looks inside its FOV (H, W), at the network's size."""
    masks = inside[np.newaxis, np.newaxis].astype(np.uint8)
    size = size_for_fov(masks, configuration.data_attributes.fov_width)
    small = resized(photograph[np.newaxis], size)
    (look,) = look_of_photographs(small, resized_mask(masks, size))
    return look


def measure_vessels(vessels, inside):
    """Measures vessels: their share of the field of view, their length and their mean width.

    Args:
        vessels: (height, width) bool.
        inside: (height, width) bool, the field of view.
    Returns:
        {"name [unit]": number}: the length is that of the skeleton, steps along rows and columns
        counted as 1 and diagonal ones, where no corner leads to the same pixel, as the root of 2;
        the width is area by length, None where the skeleton has no step.
    """
    skeleton = skeletonize(vessels)
    length = _length(skeleton)
    area = np.count_nonzero(vessels)
    return {
        "vessels in the field of view [%]": 100 * area / max(1, np.count_nonzero(inside)),
        "length of the skeleton [pixels]": length,
        "mean width [pixels]": area / length if length else None,
    }


def _length(skeleton):
    """Adds up the steps between neighbours of a skeleton (H, W), as in measure_vessels."""
    rows, columns = skeleton[1:] & skeleton[:-1], skeleton[:, 1:] & skeleton[:, :-1]
    here, right = skeleton[:-1, :-1], skeleton[:-1, 1:]
    below, across = skeleton[1:, :-1], skeleton[1:, 1:]
    diagonal = (here & across & ~(right | below)) | (right & below & ~(here | across))
    return np.count_nonzero(rows) + np.count_nonzero(columns) + 2**0.5 * np.count_nonzero(diagonal)


def _first_images(data, configuration):
    """Keeps the first full_images_to_test images."""
    number = configuration.testing_settings.full_images_to_test
    available = len(data["images"])
    if number == "all":
        return data
    if number > available:
        raise UserError(
            configuration.problem(
                "testing settings",
                "full_images_to_test",
                f"at most {available}, the number of test images",
                f"Use {available}.",
            )
        )
    return {name: None if values is None else values[:number] for name, values in data.items()}


def _tell_constant(in_fov, weights):
    """Says so when the pictures will be one grey: (num_pixels,) probabilities inside the FOV."""
    if in_fov.size and float(np.ptp(in_fov)) < 1e-3:
        print(
            f"WARNING: the network answers {float(in_fov.mean()):.3f} for every pixel, so "
            f"the predictions are one grey. {weights.path} holds a network that learnt nothing; "
            "look for PLATEAU in the training's output.",
            flush=True,
        )


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("testing", "retina"))
