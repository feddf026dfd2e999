"""Tests the paper's unpadded U-Net on cells that touch: objects, pictures, scores, tracks.

    python -m src.cellsNN_predict [configuration_CTC.txt]

The same as `python run_testing.py configuration_CTC.txt`, without a log file. Expected result in
the folder <name>/, or <name>/validation/ and <name>/training/ for frames of the training
sequences: predictions.hdf5, grids of pictures, performances.txt and .json of the annotated frames,
and all frames in the form of the Cell Tracking Challenge: <sequence>_RES/mask000.tif, ...,
res_track.txt. docs/RESULTS.md gives scores.
"""

import sys
from functools import partial
from itertools import groupby

import numpy as np

from lib import unpadded
from lib.instance_metrics import (
    count_overlaps,
    leave_out_unknown,
    none_found,
    seg,
    summarize,
)
from lib.instances import objects_from_probability
from lib.pictures import as_picture, draw_objects
from lib.pre_processing import look_of, unlike_training
from lib.predictions import ImagePredictor, Prediction, measure_objects
from lib.report import Report, ReportImage
from lib.results import file_names, open_results
from lib.tracks import link_tracks, save_sequence, split_id
from lib.weights import open_weights
from src.cells_task import load_tested

PROTOCOL = (
    "Annotated frames. SEG is the mean Jaccard index of the true cells, each with the object that "
    "covers more than half of it, 0 for none; AP: at an IoU of 0.5. Below, pixel scores of cells "
    "at the recorded threshold."
)

# What a program must know that uses the network by itself.
OBJECTS = (
    "connected pixels above the threshold, which goes with divide: where that is above 0 they are "
    "divided along lines with a lower mean. Cells of fewer than smallest_object pixels are left "
    "out, holes filled, and each cell grows by grow pixels (lib/instances.py)."
)
UNKNOWN_LEFT_OUT = (
    "Pixels of unknown kind count in no score, nor do predicted objects of which more than half "
    "lies there."
)


def main(configuration, experiment):
    """Tests as a configuration says; arguments and errors as in src.retinaNN_predict.main."""
    # 1. The device, the weights to test, the frames, the room for the results.
    weights = open_weights(configuration, experiment)
    frames = load_frames(configuration, weights)
    results = open_results(configuration, experiment)

    # 2. The probabilities, and the objects in them, followed from frame to frame.
    predict = unpadded.load_predictor(configuration, weights)
    probabilities = predict("frames", frames["images"])
    objects = np.stack([find_objects(configuration, frame) for frame in probabilities])
    sequences = follow(file_names(frames["ids"]), objects)
    results.remove()

    # 3. All frames in the challenge's form and as pictures; scores of those that are annotated.
    results.save_predictions(probabilities[:, np.newaxis], frames["ids"], configuration)
    for sequence in sequences:
        save_sequence(results, **sequence)
    save_pictures(results, configuration, frames, probabilities, sequences)
    save_scores(results, configuration, frames, probabilities, objects, weights)


def load_frames(configuration, weights):
    """Reads the frames to test, as src.cells_task.load_tested gives them."""
    subset = configuration.testing_settings.images
    frames = load_tested(configuration, weights.scaling, subset)
    if subset == "validation":
        weights.require_images({"validation": frames["ids"]})
    return frames


def find_objects(configuration, probability, threshold=None):
    """Numbers the objects of a frame as the testing settings say: (H, W) int32."""
    testing = configuration.testing_settings
    return objects_from_probability(
        probability,
        testing.threshold if threshold is None else threshold,
        testing.grow,
        testing.smallest_object,
        testing.divide or None,
    )


def make_predictor(configuration, weights, threshold=None):
    """Tells run_prediction.py how a frame is predicted; as src.retinaNN_predict.make_predictor.

    A frame is scaled by itself, by the rule that the weights record.
    """
    predict_image = unpadded.load_image_predictor(configuration, weights)
    recorded = configuration.testing_settings.threshold
    threshold = recorded if threshold is None else threshold

    def predict(image):
        scaled, probabilities = predict_image(image)
        objects = find_objects(configuration, probabilities[0], threshold)
        return Prediction(
            probabilities,
            objects=objects,
            measurements=measure_objects(objects),
            notes=unlike_training(look_of(scaled[0]), weights.looks),
        )

    return ImagePredictor(
        predict,
        1,
        "cell",
        threshold=threshold,
        protocol=unpadded.describe_prediction(configuration, "frame"),
        export=partial(
            unpadded.export_network,
            configuration,
            weights,
            ["background", "cell"],
            OBJECTS,
            ("divide", "smallest_object", "grow"),
        ),
    )


def follow(ids, objects):
    """Sorts frames into sequences and links their objects.

    Args:
        ids: N names for files such as 01_000, the frames of a sequence together and by number.
        objects: (N, H, W) whole numbers.
    Returns:
        list of what lib.tracks.save_sequence takes; frames in the order of the ids.
    """
    sequences, first = [], 0
    for sequence, group in groupby(map(split_id, ids), key=lambda parts: parts[0]):
        names = [name for _, name in group]
        frames, tracks = list(objects[first : first + len(names)]), None
        if all(name.isdecimal() for name in names):
            frames, tracks = link_tracks(list(map(int, names)), frames)
        sequences.append({"sequence": sequence, "names": names, "frames": frames, "tracks": tracks})
        first += len(names)
    return sequences


def save_pictures(results, configuration, frames, probabilities, sequences):
    """Saves grids: frames, probabilities, and objects in the colours of their tracks.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        frames: as load_frames gives them; true objects are outlined.
        probabilities: (N, H, W) float32.
        sequences: as follow gives them.
    """
    tracked = [frame for sequence in sequences for frame in sequence["frames"]]
    truths = [o if known else None for o, known in zip(frames["objects"], frames["labelled"])]
    drawn = [draw_objects(*three) for three in zip(frames["images"], tracked, truths)]
    stacks = {
        "originals": frames["images"][:, np.newaxis],
        "predictions": probabilities[:, np.newaxis],
        "segmentations": np.stack(drawn),
    }
    num_in_row = configuration.testing_settings.N_group_visual
    results.save_grids(stacks, num_in_row)
    results.save_comparisons(stacks, num_in_row, "Original_Prediction_Segmentation")


def save_scores(results, configuration, frames, probabilities, objects, weights):
    """Saves performances.txt and performances.json of the annotated frames, if there are any."""
    known = np.flatnonzero(frames["labelled"])
    if not len(known):
        print("No frame is annotated, so there are no scores.")
        return
    ids = [frames["ids"][index] for index in known]
    truths, unknown = frames["objects"][known], frames["unknown"][known]
    found = np.stack([leave_out_unknown(*pair) for pair in zip(objects[known], unknown)])
    tables = [count_overlaps(*pair) for pair in zip(truths, found)]
    scores = summarize(tables)
    scores["frames"] = dict(zip(ids, map(_of_frame, tables)))
    subset = configuration.testing_settings.images
    note = weights.describe_origin(ids)
    if unknown.any():
        note = f"{note} {UNKNOWN_LEFT_OUT}".strip()
    results.save_performances(performances_text(scores, subset, note), scores)
    frames = {name: frames[name][known] for name in ("images", "objects", "unknown")}
    save_report(results, configuration, frames, probabilities[known], found, weights, scores, note)


def save_report(results, configuration, frames, probabilities, objects, weights, scores, note):
    """Saves report.html of the annotated frames.

    Args:
        results: lib.results.Results.
        configuration: lib.configuration.Configuration.
        frames: images (N, H, W) float32 in [0, 1], objects (N, H, W), the true ones, and unknown
            (N, H, W) bool.
        probabilities: (N, H, W) float32.
        objects: (N, H, W), those found that are scored.
        weights: lib.weights.TrainedWeights.
        scores: as performances_text takes them.
        note: a sentence about the weights that readers of the scores must know.
    """
    threshold = configuration.testing_settings.threshold
    report = Report(
        f"Cells: {results.name}, {len(objects)} frames",
        positive="cell",
        threshold=threshold,
        sort_by="SEG",
    )
    stacks = (frames[name] for name in ("images", "objects", "unknown"))
    for (name, of), image, truth, unknown, probability, found in zip(
        scores["frames"].items(), *stacks, probabilities, objects
    ):
        report.add(
            ReportImage(
                name,
                as_picture(image[np.newaxis]),
                probability,
                truth > 0,
                ~unknown if unknown.any() else None,
                scores={"SEG": of["seg"]},
                flags=unlike_training(look_of(image), weights.looks),
                objects=found,
                true_objects=truth,
            )
        )
    results.save_report(
        report,
        configuration,
        weights,
        protocol=f"{PROTOCOL} {unpadded.describe_views(configuration, 'frame')} {note}".strip(),
        flags=none_found(scores),
        scores={"SEG": scores["seg"], "Mean IoU": scores["mean_iou"], "AP": scores["ap"]["0.5"]},
    )


def _of_frame(overlaps):
    num_true, num_predicted = len(overlaps.true_sizes), len(overlaps.predicted_sizes)
    mean = float(seg(overlaps).mean()) if num_true else None
    return {"seg": mean, "num_true": num_true, "num_predicted": num_predicted}


def performances_text(scores, subset, note=""):
    """Words the scores as performances.txt has them.

    Args:
        scores: as lib.instance_metrics.summarize gives them, and those of each frame.
        subset: test, validation or training.
        note: a sentence about the weights that readers of the scores must know.
    """
    titles = {"test": "Test frames", "validation": "Held-out frames", "training": "Training frames"}
    lines = [f"{titles[subset]}: {len(scores['frames'])} annotated", ""]
    lines.append(f"{'SEG':24}{_number(scores['seg'])}")
    lines.append(f"{'Mean IoU':24}{_number(scores['mean_iou'])}")
    lines += [f"{f'AP at {t}':24}{_number(value)}" for t, value in scores["ap"].items()]
    lines.append(f"{'Mean AP':24}{_number(scores['mean_ap'])}")
    lines.append(f"{'Mean IoU of pairs':24}{_number(scores['mean_matched_iou'])}")
    counts = {
        "True objects": "num_true",
        "Predicted objects": "num_predicted",
        "Missed": "missed",
        "False": "false",
        "Split": "splits",
        "Merging": "merges",
    }
    lines += [f"{words:24}{scores[name]:8}" for words, name in counts.items()]
    lines += ["", f"{'Frame':16}{'SEG':>8}{'true':>8}{'predicted':>12}"]
    lines += [
        f"{name:16}{_number(of['seg'])}{of['num_true']:8}{of['num_predicted']:12}"
        for name, of in scores["frames"].items()
    ]
    lines += [
        "",
        "SEG as the Cell Tracking Challenge defines it: mean Jaccard index of the true objects,",
        "each with the object that covers more than half of it, 0 for none. AP: pairs / (pairs +",
        "missed + false) at an IoU of at least that. Missed, False: without a pair at 0.5.",
        *([note] if note else []),
    ]
    return "\n".join(lines) + "\n"


def _number(value):
    return f"{'-':>8}" if value is None else f"{value:8.6f}"


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("testing", "cells"))
