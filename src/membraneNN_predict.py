"""Tests the paper's unpadded U-Net on membranes: probabilities, pictures, figures, a submission.

    python src/membraneNN_predict.py [configuration_ISBI.txt]

The same as `python run_testing.py configuration_ISBI.txt`, without a log file. Expected result in
the folder <name>/: predictions.hdf5, grids of pictures and performances.txt and .json of the
held-out slices; submission.tif and segmentations/ of the slices without labels. docs/RESULTS.md
gives figures.
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # started by itself: lib lies beside src
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from src.launch import launch

    sys.exit(launch("prediction", "membrane"))

import numpy as np
from PIL import Image
from skimage.color import label2rgb

from lib.devices import start_computing
from lib.errors import UserError
from lib.experiment import Experiment
from lib.files import atomic_write, write_hdf5
from lib.membrane_metrics import membrane_metrics, thin_membrane
from lib.overlap_tile import output_size, predict_overlap_tile, predict_symmetries, tile_starts
from lib.pictures import group_images, visualize
from lib.progress import Progress
from lib.training import (
    describe_origin,
    load_weights,
    require_same_images,
    require_same_network,
)
from src.membrane_data import (
    load_labelled,
    load_test_slices,
    split_validation,
    test_slices_path,
)
from src.membraneNN_training import NETWORK_SETTINGS, build_network

HELD_OUT_SETTINGS = [("training settings", "validation_images")]
METRICS = {
    "pixel_error": "Pixel error",
    "rand_error": "Rand error",
    "warping_error": "Warping error",
    "v_rand_thin": "V_Rand(thin)",
    "v_info_thin": "V_Info(thin)",
}


def main(configuration):
    """Tests as a configuration says.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
    Raises:
        UserError: for data, weights or settings that do not fit.
    """
    settings, training_settings = configuration.testing_settings, configuration.training_settings
    experiment = Experiment(configuration.experiment_name.name)

    # 1. The device, the weights to test, the slices.
    start_computing(training_settings.seed, training_settings.mixed_precision)
    weights = experiment.find_weights(settings.best_last)
    require_same_network(weights, configuration, NETWORK_SETTINGS)
    labelled, test = load_labelled_slices(configuration, weights), load_test_slices(configuration)
    if labelled is None and test is None:
        raise UserError(
            f"There is nothing to test: no labelled slices ([testing settings] labelled_slices = "
            f"{settings.labelled_slices}) and no file of slices without labels "
            f"({test_slices_path(configuration)}, [data paths] test_imgs_original)."
        )

    # 2. The network, and the prediction of both.
    model = build_network(configuration, settings.tile_size)
    load_weights(model, weights)
    if labelled is not None:
        told = "" if settings.labelled_slices == "all" else "held-out "
        print(f"Testing {weights} on the {told}slices {', '.join(labelled['ids'])}.")
        probabilities = predict_slices(configuration, model, labelled["images"])
    if test is not None:
        print(f"Predicting the {len(test[0])} slices without labels.")
        predicted = predict_slices(configuration, model, test[0])
    experiment.remove_results()

    # 3. Pictures and figures.
    if labelled is None:
        print("No labelled slices, so there are no figures.")
    else:
        write_hdf5(
            experiment.results / "predictions.hdf5",
            probabilities[:, np.newaxis],
            ids=labelled["ids"],
            settings=json.dumps(configuration.as_dict()),
        )
        save_pictures(experiment, labelled, probabilities, settings.N_group_visual)
        figures = membrane_metrics(labelled["labels"], probabilities)
        note = describe_origin(weights)
        save_performances(experiment, figures, labelled["ids"], settings.labelled_slices, note)

    # 4. The slices without labels, in the form of the challenge and as pictures.
    if test is None:
        print(f"{test_slices_path(configuration)} does not exist: no submission.tif.")
        return
    path = experiment.results / "submission.tif"
    save_submission(predicted, path)
    print(f"{path}: {len(predicted)} pages of 32-bit probabilities of cell, as the challenge asks.")
    for name, probability in zip(test[1], predicted):
        cells = (probability > 0.5).astype(np.float32)[..., np.newaxis]
        visualize(cells, experiment.results / "segmentations" / f"{name}.png")
    print(f"{experiment.results / 'segmentations'}: cells white, membranes black, of each slice.")


def load_labelled_slices(configuration, weights):
    """Reads the labelled slices that labelled_slices asks for.

    Args:
        configuration: lib.configuration.Configuration of the membrane task.
        weights: path of the weights, which tell how many slices were held out.
    Returns:
        dictionary as src.membrane_data.load_labelled gives it; None for none, or where none were
        held out.
    Raises:
        UserError: for data that do not fit, or other slices than were held out.
    """
    wanted = configuration.testing_settings.labelled_slices
    if wanted == "held_out":
        require_same_network(weights, configuration, HELD_OUT_SETTINGS)
        if configuration.training_settings.validation_images == 0:
            return None
    if wanted == "none":
        return None
    data = load_labelled(configuration)
    if wanted == "all":
        return data
    _, held_out = split_validation(configuration, len(data["images"]))
    require_same_images(weights, {"validation": data["ids"][held_out]})
    return {kind: values[held_out] for kind, values in data.items()}


def predict_slices(configuration, model, slices):
    """Predicts slices tile by tile, without seams.

    Args:
        configuration: lib.configuration.Configuration.
        model: network for tiles of [testing settings] tile_size.
        slices: (N, H, W) float32 in [0, 1].
    Returns:
        (N, H, W) float32, probability of cell.
    """
    settings = configuration.testing_settings
    depth = configuration.training_settings.depth
    side = output_size(settings.tile_size, depth)
    turns = 8 if settings.symmetries else 1
    num_tiles = np.prod([len(tile_starts(size, side, depth)) for size in slices.shape[1:]])
    progress = Progress(int(num_tiles) * turns * len(slices))

    def predictor(tiles):
        cell = np.asarray(model.predict_on_batch(tiles))[..., 1]
        progress.add(len(tiles))
        return cell.reshape(len(tiles), 1, side, side)

    def predict(image):
        return predict_overlap_tile(predictor, image, settings.tile_size, depth=depth)

    images = slices[:, np.newaxis]
    if settings.symmetries:
        predicted = [predict_symmetries(predict, image) for image in images]
    else:
        predicted = [predict(image) for image in images]
    progress.finish()
    return np.concatenate(predicted)


def save_pictures(experiment, labelled, probabilities, num_in_row):
    """Saves grids of slices, ground truths, probabilities and segmentations in colours.

    The segmentation shows the objects that V_Rand(thin) compares: 4-connected cells at a
    probability above 0.5, their membranes thinned to one pixel.

    Args:
        experiment: lib.experiment.Experiment.
        labelled: with images (N, H, W) float32 in [0, 1] and labels (N, H, W), 1 = cell.
        probabilities: (N, H, W) float32, probability of cell.
        num_in_row: slices side by side.
    """
    slices = labelled["images"]
    stacks = {
        "originals": slices,
        "groundTruths": labelled["labels"].astype(np.float32),
        "predictions": probabilities,
    }
    grids = {name: stack[:, np.newaxis] for name, stack in stacks.items()}
    grids["segmentations"] = np.stack([_coloured(p, s) for p, s in zip(probabilities, slices)])
    for name, stack in grids.items():
        visualize(group_images(stack, num_in_row), experiment.results / f"all_{name}.png")
    rows = [np.broadcast_to(stack, (len(stack), 3, *stack.shape[2:])) for stack in grids.values()]
    for number, first in enumerate(range(0, len(slices), num_in_row)):
        stripes = [group_images(row[first : first + num_in_row], num_in_row) for row in rows]
        ending = f"Original_GroundTruth_Prediction_Segmentation{number}.png"
        visualize(np.concatenate(stripes), experiment.file(ending))


def save_performances(experiment, figures, ids, labelled_slices, note=""):
    """Saves performances.txt and performances.json, and prints the figures.

    Args:
        experiment: lib.experiment.Experiment.
        figures: as membrane_metrics gives them.
        ids: of the slices.
        labelled_slices: the setting: held_out or all.
        note: a sentence about the weights that readers of the figures must know.
    """
    title = "Held-out slices" if labelled_slices == "held_out" else "All labelled slices"
    lines = [f"{title}: {', '.join(ids)}", ""]
    lines.append(f"{'':16}{'best':>12}{'threshold':>12}{'at 0.5':>12}")
    for name, title in METRICS.items():
        row = figures[name]
        lines.append(f"{title:16}{row['best']:12.6f}{row['threshold']:12.1f}{row['at_half']:12.6f}")
    lines += [
        "",
        "Errors: lower is better; V_Rand(thin), V_Info(thin): higher is better. Each best is taken",
        "over the thresholds of the challenge, on these slices, as the challenge does.",
        *([note] if note else []),
    ]
    written = "\n".join(lines) + "\n"
    print("\n" + written)
    with atomic_write(experiment.results / "performances.txt") as beside:
        beside.write_text(written, encoding="utf-8")
    with atomic_write(experiment.results / "performances.json") as beside:
        beside.write_text(json.dumps({"slices": ids, **figures}, indent=1) + "\n")


def save_submission(probabilities, path):
    """Saves a stack in the challenge's form: one page of 32-bit floats a slice.

    Args:
        probabilities: (N, H, W) float32, probability of cell.
        path: the TIFF file.
    """
    first, *others = [Image.fromarray(page.astype(np.float32), mode="F") for page in probabilities]
    with atomic_write(path) as beside:
        first.save(beside, "TIFF", save_all=True, append_images=others)


def _coloured(probability, image):
    """Colours the objects of a probability map over the slice: (3, H, W) float32 in [0, 1]."""
    objects = thin_membrane(probability > 0.5)
    return label2rgb(objects, image, bg_label=0, alpha=0.5).transpose(2, 0, 1).astype(np.float32)
