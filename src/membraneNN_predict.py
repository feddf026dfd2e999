"""Tests the paper's unpadded U-Net on membranes: probabilities, pictures, scores, a submission.

    python -m src.membraneNN_predict [configuration_ISBI.txt]

The same as `python run_testing.py configuration_ISBI.txt`, without a log file. Expected result in
the folder <name>/: predictions.hdf5, grids of pictures and performances.txt and .json of the
held-out slices; predictions_test.hdf5, submission.tif, probabilities/, segmentations/ and grids of
the slices without labels. The two HDF5 files hold what the network said, all else what `divide`
made of it. docs/RESULTS.md gives scores.
"""

import sys
from functools import partial

import numpy as np
from PIL import Image
from scipy import ndimage

from lib.configuration import SPLIT
from lib.errors import UserError
from lib.evaluation import confusion_scores
from lib.experiment import data_path
from lib.files import atomic_write
from lib.instances import divided_probability
from lib.membrane_metrics import membrane_metrics, thin_membrane, v_rand_thin
from lib.pictures import as_picture, draw_objects
from lib.pre_processing import look_of, unlike_training
from lib.predictions import ImagePredictor, Prediction
from lib.report import Report, ReportImage
from lib.results import Results
from lib.slices import load_labelled, split_validation
from lib.unpadded import (
    describe_prediction,
    describe_views,
    export_network,
    load_image_predictor,
    load_predictor,
)
from lib.weights import open_weights
from src.membrane_task import load_test_slices

METRICS = {
    "pixel_error": "Pixel error",
    "rand_error": "Rand error",
    "warping_error": "Warping error",
    "v_rand_thin": "V_Rand(thin)",
    "v_info_thin": "V_Info(thin)",
}
# What the report shows at its top, the first in its verdict.
SHOWN = ("v_rand_thin", "v_info_thin", "rand_error", "warping_error", "pixel_error")
PROTOCOL = (
    "Whole slices. At the top the metrics of the ISBI 2012 challenge, each the best over its "
    "thresholds on these slices, as the challenge takes it; below, pixel scores of cells at one "
    "threshold."
)
# What a program must know that uses the network by itself.
OBJECTS = (
    "cells: pixels above the threshold that touch along a side. The threshold goes with divide: "
    "where that is above 0, what lies on a line between cells with a lower mean is set to 0 first "
    "(lib/instances.py, divided_probability)."
)
DIVIDED = "Membranes with gaps are closed: cells are divided along lines with a mean below {:g}."


def main(configuration, experiment):
    """Tests as a configuration says; arguments and errors as in src.retinaNN_predict.main."""
    # 1. The device, the weights to test, the slices, the room for the results.
    weights = open_weights(configuration, experiment)
    labelled, test = load_slices(configuration, weights)
    results = Results(experiment.results, experiment.name)
    results.require_room(test["ids"] if test else [])

    # 2. The network, and the prediction of both.
    predict = load_predictor(configuration, weights)
    tested = labelled and predict("labelled slices", labelled["images"])
    predicted = test and predict("slices without labels", test["images"])
    results.remove()

    # 3. Pictures and scores of the cells; what has no labels, also in the challenge's form.
    if labelled:
        save_labelled(results, configuration, labelled, tested, weights)
    if test:
        save_test(results, configuration, test, predicted, weights)


def load_slices(configuration, weights):
    """Reads the slices to test.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        weights: lib.weights.TrainedWeights, which tell the scaling and which slices were held out.
    Returns:
        labelled slices, as lib.slices.load_labelled gives them, and slices without labels;
        None for those that are not there or not asked for.
    Raises:
        UserError: if there are neither, or other slices were held out.
    """
    labelled = load_labelled_slices(configuration, weights)
    test = load_test_slices(configuration, weights.scaling)
    path = data_path(configuration, "test_imgs_original")
    wanted = configuration.testing_settings.labelled_slices
    if labelled is None and test is None:
        raise UserError(
            f"There is nothing to test: no labelled slices ([testing settings] labelled_slices = "
            f"{wanted}) and no file of slices without labels ({path}, [data paths] "
            "test_imgs_original)."
        )
    if labelled is None:
        print("No labelled slices, so there are no scores.")
    if test is None:
        print(f"{path} does not exist: no submission.tif.")
    return labelled, test


def load_labelled_slices(configuration, weights):
    """Reads the labelled slices that labelled_slices asks for; see load_slices."""
    wanted = configuration.testing_settings.labelled_slices
    if wanted == "held_out":
        weights.require_settings(configuration, SPLIT)
    no_slices = wanted == "held_out" and configuration.training_settings.validation_split == 0
    if wanted == "none" or no_slices:
        return None
    path, test = (data_path(configuration, f"{part}_imgs_original") for part in ("train", "test"))
    if test.is_file() and not path.is_file():
        expected = f"none without labelled slices: {path} does not exist, {test.name} does"
        advice = "Or prepare the labelled slices too, or fix path_local."
        raise UserError(
            configuration.problem("testing settings", "labelled_slices", expected, advice)
        )
    slices = load_labelled(configuration, weights.scaling)
    if wanted == "all":
        return slices
    ids = slices["ids"]
    split = ids[split_validation(configuration, len(ids))["validation"]]
    held_out = weights.held_out(ids, split)
    if held_out != split:
        print(f"Slices that did not train these weights: {', '.join(held_out)}. All are tested.")
    numbers = [ids.index(name) for name in held_out]
    arrays = {kind: slices[kind][numbers] for kind in ("images", "labels", "weights")}
    return {**arrays, "ids": held_out}


def make_predictor(configuration, weights, threshold=None):
    """Tells run_prediction.py how a slice is predicted; as src.retinaNN_predict.make_predictor.

    A slice is scaled by itself, by the rule that the weights record.
    """
    predict_image = load_image_predictor(configuration, weights)
    threshold = configuration.testing_settings.threshold if threshold is None else threshold

    def predict(image):
        scaled, probabilities = predict_image(image)
        probabilities = divide_cells(configuration, probabilities)
        measurements = measure_cells(probabilities[0] >= threshold)
        notes = unlike_training(look_of(scaled[0]), weights.looks)
        return Prediction(probabilities, measurements=measurements, notes=notes)

    return ImagePredictor(
        predict,
        1,
        "cell",
        threshold=threshold,
        protocol=f"{describe_prediction(configuration, 'slice')} {_divided(configuration)}".strip(),
        export=partial(
            export_network, configuration, weights, ["membrane", "cell"], OBJECTS, ("divide",)
        ),
    )


def divide_cells(configuration, probabilities):
    """Closes membranes with gaps as the testing settings say: probabilities of cell, (N, H, W)."""
    divide = configuration.testing_settings.divide
    if not divide:
        return probabilities
    return np.stack([divided_probability(probability, divide) for probability in probabilities])


def _divided(configuration):
    """Words what divide_cells does; empty for nothing."""
    divide = configuration.testing_settings.divide
    return DIVIDED.format(divide) if divide else ""


def measure_cells(cells):
    """Counts cells, (H, W) bool: {"name [unit]": number}, parts that touch along a side are one."""
    _, number = ndimage.label(cells)
    area = np.count_nonzero(cells)
    return {
        "membrane [%]": 100 * (1 - area / cells.size),
        "number of cells": number,
        "mean area of a cell [pixels]": area / number if number else None,
    }


def save_labelled(results, configuration, labelled, probabilities, weights):
    """Saves predictions.hdf5, pictures and scores of the labelled slices.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        labelled: with images (N, H, W) float32 in [0, 1], labels (N, H, W), 1 = cell, and ids.
        probabilities: (N, H, W) float32, probability of cell, as the network gave it.
        weights: lib.weights.TrainedWeights, for a note on the slices that trained them.
    """
    ids = labelled["ids"]
    results.save_predictions(probabilities[:, np.newaxis], ids, configuration)
    probabilities = divide_cells(configuration, probabilities)
    truth = labelled["labels"][:, np.newaxis].astype(np.float32)
    settings = configuration.testing_settings
    threshold, num_in_row = settings.threshold, settings.N_group_visual
    stacks = _pictures(labelled["images"], probabilities, threshold, {"groundTruths": truth})
    results.save_grids(stacks, num_in_row)
    results.save_comparisons(stacks, num_in_row, "Original_GroundTruth_Prediction_Segmentation")
    metrics = membrane_metrics(labelled["labels"], probabilities, threshold=threshold)
    truth = labelled["labels"].ravel() > 0
    metrics["accuracy"] = confusion_scores(truth, probabilities.ravel() > threshold)["accuracy"]
    text = performances_text(metrics, ids, settings, weights.describe_origin(ids))
    results.save_performances(text, {"slices": ids, "threshold": threshold, **metrics})
    save_report(results, configuration, labelled, probabilities, weights, metrics)


def save_test(results, configuration, test, probabilities, weights):
    """Saves the slices without labels: submission.tif, probabilities, segmentations and grids.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        test: with images (M, H, W) float32 in [0, 1] and ids.
        probabilities: (M, H, W) float32, probability of cell, as the network gave it.
        weights: lib.weights.TrainedWeights, for the report.
    """
    ids, settings = test["ids"], configuration.testing_settings
    raw = probabilities[:, np.newaxis]
    results.save_predictions(raw, ids, configuration, "predictions_test.hdf5")
    probabilities = divide_cells(configuration, probabilities)
    planes = probabilities[:, np.newaxis]
    results.save_pictures("probabilities", ids, planes)
    results.save_pictures("segmentations", ids, (planes > settings.threshold) * np.uint8(255))
    stacks = _pictures(test["images"], probabilities, settings.threshold)
    results.save_grids(stacks, settings.N_group_visual, "all_test")
    path = results.file("submission.tif")
    save_submission(probabilities, path)
    print(f"{path}: {len(ids)} pages of 32-bit probabilities of cell, as the challenge asks.")
    print(f"{results.folder / 'segmentations'}: cells white, membranes black, of each slice.")
    save_report(results, configuration, test, probabilities, weights)


def save_report(results, configuration, slices, probabilities, weights, metrics=None):
    """Saves report.html of labelled slices, or report_test.html of slices without labels.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        slices: with images (N, H, W) float32 in [0, 1], ids and perhaps labels, 1 = cell.
        probabilities: (N, H, W) float32, probability of cell.
        weights: lib.weights.TrainedWeights.
        metrics: as membrane_metrics gives them, and accuracy; None without labels.
    """
    ids, labels = slices["ids"], slices.get("labels", [None] * len(probabilities))
    kind = "slices without labels" if metrics is None else "labelled slices"
    title = f"Membranes: {results.name}, {len(ids)} {kind}"
    threshold = configuration.testing_settings.threshold
    score = f"V_Rand(thin) at {threshold:g}" if metrics else None
    report = Report(title, positive="cell", threshold=threshold, sort_by=score)
    for name, image, probability, label in zip(ids, slices["images"], probabilities, labels):
        scores = {}
        if metrics:
            scores[score] = float(
                v_rand_thin(label[np.newaxis], probability[np.newaxis], threshold)
            )
        picture = as_picture(image[np.newaxis])
        flags = unlike_training(look_of(image), weights.looks)
        report.add(ReportImage(name, picture, probability, label, scores=scores, flags=flags))
    views, divided = describe_views(configuration, "slice"), _divided(configuration)
    protocol = metrics and PROTOCOL, views, divided, metrics and weights.describe_origin(ids)
    results.save_report(
        report,
        configuration,
        weights,
        protocol=" ".join(filter(None, protocol)),
        scores=metrics and {METRICS[key]: metrics[key]["best"] for key in SHOWN},
        name="report" if metrics else "report_test",
    )


def performances_text(metrics, ids, settings, note=""):
    """Words the scores as performances.txt has them.

    Args:
        metrics: as membrane_metrics gives them, and accuracy.
        ids: of the slices.
        settings: the testing settings: labelled_slices (held_out or all) and threshold.
        note: a sentence about the weights that readers of the scores must know.
    """
    is_held_out = settings.labelled_slices == "held_out"
    title = "Held-out slices" if is_held_out else "All labelled slices"
    at = f"at {settings.threshold:g}"
    lines = [f"{title}: {', '.join(ids)}", ""]
    lines.append(f"{'':16}{'best':>12}{'threshold':>12}{at:>12}")
    for name, words in METRICS.items():
        row = metrics[name]
        best = f"{'-':>12}{'-':>12}"
        if row["best"] is not None:
            best = f"{row['best']:12.6f}{row['threshold']:12.1f}"
        lines.append(f"{words:16}{best}{row['at_threshold']:12.6f}")
    lines += [
        "",
        "Errors: lower is better; V_Rand(thin), V_Info(thin): higher is better. Each best is taken",
        "over the thresholds of the challenge, on these slices, as the challenge does.",
        *([DIVIDED.format(settings.divide)] if settings.divide else []),
        f"Accuracy {at}: {metrics['accuracy']:.6f} of all pixels. The weight map favours",
        "membranes, which moves probabilities away from the highest accuracy.",
        *([note] if note else []),
    ]
    return "\n".join(lines) + "\n"


def save_submission(probabilities, path):
    """Saves a stack in the challenge's form: one page of 32-bit floats a slice.

    Args:
        probabilities: (N, H, W) float32, probability of cell.
        path: the TIFF file.
    """
    first, *others = [Image.fromarray(page.astype(np.float32), mode="F") for page in probabilities]
    with atomic_write(path) as beside:
        first.save(beside, "TIFF", save_all=True, append_images=others)


def _pictures(slices, probabilities, threshold, truth=None):
    """Gives stacks of slices, ground truths, probabilities, and segmentations in colours.

    The segmentation shows the objects that V_Rand(thin) compares: 4-connected cells at a
    probability above the threshold, their membranes thinned to one pixel.
    """
    objects = [thin_membrane(probability > threshold) for probability in probabilities]
    coloured = np.stack([draw_objects(*pair, alpha=0.5) for pair in zip(slices, objects)])
    stacks = {"originals": slices[:, np.newaxis], **(truth or {})}
    return {**stacks, "predictions": probabilities[:, np.newaxis], "segmentations": coloured}


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("testing", "membrane"))
