"""Tests the network of the retina experiment: probabilities, pictures and figures.

    python src/retinaNN_predict.py [configuration.txt]

The same as `python run_testing.py`, without a log file. Expected result in the folder <name>/:
predictions.hdf5, grids of pictures, ROC and precision-recall curves, performances.txt and .json.
With the weights that retina-unet published, DRIVE at stride 5 gives an area under the ROC curve of
0.979034 (docs/RESULTS.md gives the times).
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # started by itself: lib lies beside src
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from src.launch import launch

    sys.exit(launch("prediction", "retina"))

import numpy as np

from lib.devices import start_computing
from lib.errors import UserError
from lib.evaluation import (
    best_f1_threshold,
    binary_figures,
    confusion_figures,
    performances_text,
    pred_only_FOV,
    rank_pixels,
    roc_and_pr_curves,
    spread,
)
from lib.experiment import Experiment
from lib.extract_patches import (
    average_flips,
    full_image_places,
    full_image_tile,
    num_overlap_patches,
    pad_to_multiple,
    predict_full_image,
    predict_overlap,
)
from lib.files import atomic_write, write_hdf5
from lib.pictures import as_grey_levels, group_images, visualize
from lib.plots import draw_precision_recall, draw_roc
from lib.pre_processing import preprocess, resized, size_for_fov
from lib.progress import Progress
from lib.training import (
    describe_origin,
    load_weights,
    require_same_images,
    require_same_network,
)
from lib.unet import REACH
from src.retina_data import load_subset
from src.retinaNN_training import NETWORK_SETTINGS, build_network, validation_images

# What must be as in the training, or images that trained would count as held out.
HELD_OUT_SETTINGS = (("training settings", "N_subimgs"), ("training settings", "validation_split"))
# One pass over a whole image pads it to a multiple of this.
FULL_IMAGE_MULTIPLE = 16


def main(configuration):
    """Tests as a configuration says.

    retina-unet src/retinaNN_predict.py. Differs: docs/DIFFERENCES.md.

    Args:
        configuration: lib.configuration.Configuration of the retina task.
    Raises:
        UserError: for data, weights or settings that do not fit.
    """
    settings = configuration.testing_settings
    is_test = settings.images == "test"
    name = configuration.experiment_name.name
    experiment = Experiment(name, results="" if is_test else settings.images)

    # 1. The device, the weights to test, the images.
    training_settings = configuration.training_settings
    start_computing(training_settings.seed, training_settings.mixed_precision)
    weights = find_weights(configuration)
    data = load_images(configuration)
    if settings.images == "validation":
        require_same_images(weights, {"validation": data["ids"]})

    # 2. The network and its weights, and the prediction.
    number = len(data["images"])
    print(f"Testing {weights} on {number} {settings.images} images, {settings.inference}.")
    images, probabilities = predict_images(configuration, weights, data)
    _tell_constant(probabilities[data["fov_masks"] > 0], weights)
    experiment.remove_results()
    write_hdf5(
        experiment.results / "predictions.hdf5",
        probabilities,
        ids=data["ids"],
        settings=json.dumps(configuration.as_dict()),
    )

    # 3. The pictures.
    save_segmentations(experiment, probabilities >= settings.threshold, data)
    save_pictures(experiment, images, probabilities, data, settings.N_group_visual)

    # 4. The figures, where there is ground truth.
    if data["ground_truth"] is None:
        print(
            "The test images have no ground truth: no figures, no curves. Probabilities and "
            f"pictures are in {experiment.results}."
        )
        return
    performances, curves = evaluate(probabilities, data, settings)
    note = "" if is_test else describe_origin(weights)
    save_performances(experiment, performances, curves, note)


def find_weights(configuration):
    """Finds the weights to test.

    Returns:
        path of an existing file.
    Raises:
        UserError: if there is none, or it was trained for another network or, for figures of
            validation images, may have been trained on these.
    """
    settings = configuration.testing_settings
    weights = Experiment(configuration.experiment_name.name).find_weights(settings.best_last)
    require_same_network(weights, configuration, NETWORK_SETTINGS)
    if settings.images == "validation":
        require_same_network(weights, configuration, HELD_OUT_SETTINGS)
    return weights


def load_images(configuration):
    """Reads the images to test: the test half, the training half, or what of it only validated.

    Returns:
        dictionary as src.retina_data.load_subset gives it; of the test images, the first
        full_images_to_test.
    Raises:
        UserError: if there are fewer, or no training image only validates.
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
                "With 10 training images or more and validation_split = 0.1 the last ones do.",
            )
        )
    return {name: None if values is None else values[held_out] for name, values in data.items()}


# ---------------------------------------------------------------- prediction


def predict_images(configuration, weights, data):
    """Pre-processes and predicts, at the size at which the FOV is as wide as fov_width.

    Args:
        configuration: lib.configuration.Configuration.
        weights: path of the weights.
        data: with images (num_images, 3, height, width) and fov_masks.
    Returns:
        (num_images, 1, height, width) float32 twice, at the images' own size: pre-processed images,
        and the probability of vessel.
    """
    settings, equalization = (
        configuration.testing_settings,
        configuration.data_attributes.equalization,
    )
    own_size = data["images"].shape[2:]
    size = size_for_fov(data["fov_masks"], settings.fov_width)
    if size != own_size:
        print(f"Predicting at {size[1]} x {size[0]} pixels: fov_width = {settings.fov_width}.")
    images = preprocess(resized(data["images"], size), equalization)
    if settings.inference == "full_image":
        probabilities = predict_full_images(configuration, weights, images)
    elif settings.inside_FOV:
        inside = resized((data["fov_masks"] > 0).astype(np.float32), size) > 0
        probabilities = predict_by_patches(configuration, weights, images, inside)
    else:
        probabilities = predict_by_patches(configuration, weights, images)
    probabilities = resized(probabilities, own_size)
    if settings.inside_FOV:
        probabilities[data["fov_masks"] == 0] = 0
    return resized(images, own_size), probabilities


def predict_by_patches(configuration, weights, images, inside=None):
    """Predicts each image by patches, overlapping and averaged or (average_mode = False) apart.

    Args:
        configuration: lib.configuration.Configuration.
        weights: path of the weights.
        images: (num_images, 1, height, width) float32 in [0, 1].
        inside: (num_images, 1, height, width) bool, the FOV: patches that show nothing of it are
            left out. None for all patches.
    Returns:
        (num_images, 1, height, width) float32, probability of vessel.
    """
    settings, attributes = configuration.testing_settings, configuration.data_attributes
    patch_size = (attributes.patch_height, attributes.patch_width)
    stride = (settings.stride_height, settings.stride_width)
    stride = stride if settings.average_mode else patch_size
    predictor = load_predictor(configuration, weights, patch_size)
    per_image = num_overlap_patches(images.shape[2:], patch_size, stride)
    print(f"{per_image:,} patches an image, {per_image * len(images):,} in all.")

    def predict(image, on_patches):
        fov = None if inside is None else image[1] > 0
        return predict_overlap(predictor, image[:1], patch_size, stride, on_patches, fov)

    # The FOV goes along as a second channel, so that both are mirrored together.
    given = images if inside is None else np.concatenate([images, inside], axis=1)
    return _predict_each(predict, given, per_image, settings.average_flips)


def predict_full_images(configuration, weights, images):
    """Predicts each image in one pass: the zero-padded image in place of patches.

    The network is fully convolutional, so its weights fit inputs of any size. Not in the original;
    about 75 times less work than stride 5, at slightly lower figures (docs/RESULTS.md). Images that
    are much larger than DRIVE's go tile by tile, to the same result.
    Arguments and result as in predict_by_patches, without `inside`.
    """
    height, width = images.shape[2:]
    padded_size = pad_to_multiple(images[0], FULL_IMAGE_MULTIPLE).shape[1:]
    margin = REACH[configuration.training_settings.network]
    tile_size = full_image_tile(padded_size, margin)
    predictor = load_predictor(configuration, weights, tile_size)

    def predict(image, on_tile):
        padded = pad_to_multiple(image, FULL_IMAGE_MULTIPLE)
        return predict_full_image(predictor, padded, tile_size, margin, on_tile)[:height, :width]

    rows, columns = full_image_places(padded_size, tile_size, margin)
    per_image = len(rows) * len(columns)
    if per_image > 1:
        print(f"{per_image} tiles of {tile_size[1]} x {tile_size[0]} pixels an image.")
    return _predict_each(predict, images, per_image, configuration.testing_settings.average_flips)


def load_predictor(configuration, weights, input_size):
    """Builds the network for inputs of (height, width) pixels and loads its weights.

    Returns:
        function (N, 1, height, width) float32 -> (N, height, width) float32, probability of vessel.
    """
    model = build_network(configuration, *input_size)
    load_weights(model, weights)

    def predictor(inputs):
        vessel = np.asarray(model.predict_on_batch(inputs))[..., 1]
        return vessel.reshape(-1, *input_size)

    return predictor


def _predict_each(predict, images, per_image, flips):
    """Predicts image by image, with the time left.

    Args:
        predict: (1, height, width), function told of progress -> (height, width).
        images: (num_images, 1, height, width) float32 in [0, 1].
        per_image: what `predict` counts for one image.
        flips: whether to average over the mirrored images.
    Returns:
        (num_images, 1, height, width) float32.
    """
    progress = Progress(per_image * len(images) * (4 if flips else 1))

    def predict_one(image):
        return predict(image, progress.add)

    predicted = [average_flips(predict_one, x) if flips else predict_one(x) for x in images]
    progress.finish()
    return np.stack(predicted)[:, np.newaxis]


# ---------------------------------------------------------------- pictures and figures


def save_pictures(experiment, images, probabilities, data, num_in_row):
    """Saves grids of originals, ground truths and predictions, and comparisons row by row.

    Everything outside the FOV is black in the predictions. N_group_visual images stand side by side
    in each comparison; the last one may hold fewer.

    Args:
        experiment: lib.experiment.Experiment.
        images: (num_images, 1, height, width) float32, pre-processed.
        probabilities: like images.
        data: with fov_masks and ground_truth (or None), like images.
        num_in_row: images side by side.
    """
    rows = {"originals": as_grey_levels(images)}
    if data["ground_truth"] is not None:
        rows["groundTruths"] = data["ground_truth"] * np.uint8(255)
    rows["predictions"] = as_grey_levels(probabilities) * data["fov_masks"]
    for name, row in rows.items():
        visualize(group_images(row, num_in_row), experiment.results / f"all_{name}.png")
    for number, first in enumerate(range(0, len(images), num_in_row)):
        stripes = [
            group_images(row[first : first + num_in_row], num_in_row) for row in rows.values()
        ]
        picture = f"{experiment.name}_Original_GroundTruth_Prediction{number}.png"
        visualize(np.concatenate(stripes), experiment.results / picture)


def save_segmentations(experiment, vessels, data):
    """Saves what counts as vessel inside the FOV, white on black: segmentations/<id>.png.

    Args:
        experiment: lib.experiment.Experiment.
        vessels: (num_images, 1, height, width) bool.
        data: with fov_masks and ids.
    """
    inside = (vessels & (data["fov_masks"] > 0)) * np.uint8(255)
    for name, segmentation in zip(data["ids"], inside.transpose(0, 2, 3, 1)):  # (H, W, 1) each
        visualize(segmentation, experiment.results / "segmentations" / f"{name}.png")


def evaluate(probabilities, data, settings):
    """Computes all figures.

    Args:
        probabilities: (num_images, 1, height, width) float32.
        data: with fov_masks, ground_truth, ids and perhaps second_observer.
        settings: the testing settings: threshold, inside_FOV (nothing was predicted outside, so
            there are no figures of the whole image) and images (the threshold with the highest F1
            is sought on others than the test images).
    Returns:
        dictionary as performances.json has it: inside_FOV, whole_image, per_image, second_observer,
        best_f1; and both curves inside the FOV as lib.evaluation.roc_and_pr_curves gives them, None
        where the ground truth holds one class only.
    """
    masks, ground_truth, second = data["fov_masks"], data["ground_truth"], data["second_observer"]
    in_fov, truth = pred_only_FOV(probabilities, ground_truth > 0, masks)
    whole_image, second_observer, curves, best_f1 = None, None, None, None
    if truth.any() and not truth.all():
        ranking = rank_pixels(truth, in_fov)
        curves = roc_and_pr_curves(ranking)
        if settings.images != "test":
            best_f1 = dict(zip(("threshold", "f1"), best_f1_threshold(ranking)))
    images = [
        {"id": name, **binary_figures(truth[mask > 0], probability[mask > 0], settings.threshold)}
        for name, truth, mask, probability in zip(data["ids"], ground_truth, masks, probabilities)
    ]
    if not settings.inside_FOV:
        whole = ground_truth.ravel(), probabilities.ravel()
        whole_image = binary_figures(*whole, settings.threshold)
    if second is not None:
        observed, _ = pred_only_FOV(second > 0, ground_truth, masks)
        second_observer = confusion_figures(truth, observed)
    performances = {
        "inside_FOV": binary_figures(truth, in_fov, settings.threshold, curves),
        "whole_image": whole_image,
        "per_image": {"spread": spread(images), "images": images},
        "second_observer": second_observer,
        "best_f1": best_f1,
    }
    return performances, curves


def save_performances(experiment, performances, curves, note=""):
    """Saves performances.txt, performances.json and both curves, and prints the figures.

    Args:
        experiment: lib.experiment.Experiment.
        performances: dictionary as evaluate gives it.
        curves: inside the FOV, as lib.evaluation.roc_and_pr_curves gives them; None for none.
        note: a sentence about the weights that readers of the figures must know.
    """
    written = performances_text(performances) + (f"\n{note}\n" if note else "")
    print("\n" + written)
    with atomic_write(experiment.results / "performances.txt") as beside:
        beside.write_text(written, encoding="utf-8")
    with atomic_write(experiment.results / "performances.json") as beside:
        beside.write_text(json.dumps(performances, indent=1) + "\n", encoding="utf-8")
    if curves is None:
        print("The ground truth holds one class only: areas and curves are undefined.")
        return
    inside, second = performances["inside_FOV"], performances["second_observer"]
    roc_point = second and (second["specificity"], second["sensitivity"])
    pr_point = second and (second["sensitivity"], second["precision"])
    draw_roc(*curves["roc"], inside["auc_roc"], experiment.results / "ROC.png", roc_point)
    path = experiment.results / "Precision_recall.png"
    draw_precision_recall(*curves["pr"], inside["auc_pr"], path, pr_point)
    print(f"Pictures, figures and predictions.hdf5 are in {experiment.results}.")


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
            f"the predictions are one grey. {weights} holds a network that learnt nothing; look "
            "for PLATEAU in the training's output.",
            flush=True,
        )
