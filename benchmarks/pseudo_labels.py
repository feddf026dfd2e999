"""Adds the slices without labels to prepared ISBI 2012 data, labelled by a network (self-training).

    python run_testing.py pretrained/membranes_held_out
    python -m benchmarks.pseudo_labels results/membranes_held_out

The folder holds predictions_test.hdf5. Expected result: ISBI_pseudo_labels/ with the files of
prepare_datasets_ISBI.py: the labelled slices twice, then those of the challenge's test volume,
cells where the network gives more than --threshold; 30 seconds. With --held-out 5 the last five
labelled slices stay apart: they come once, at the end, for validation_split = 5.
"""

import argparse

import numpy as np
from skimage.morphology import area_opening

from lib.errors import UserError, run_script
from lib.experiment import locate
from lib.files import hdf5_files, load_hdf5, load_hdf5_extra
from lib.weight_map import class_weights, weight_map

DATA, OUTPUT = "ISBI_datasets_training_testing", "ISBI_pseudo_labels"
KINDS = ("imgs", "groundTruth", "weightMaps")
# Cells and pieces of membrane of fewer pixels are the network's noise.
SMALLEST = 60


def main():
    """Reads the command line and writes the data."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predictions", help="folder of a test, with predictions_test.hdf5")
    parser.add_argument("--data", default=DATA, help=f"prepared slices; default: ./{DATA}")
    parser.add_argument("--output", default=OUTPUT, help=f"default: ./{OUTPUT}")
    parser.add_argument("--threshold", type=float, default=0.25, help="default: 0.25")
    parser.add_argument("--held-out", type=int, default=0, help="last labelled slices; default: 0")
    arguments = parser.parse_args()
    data, output, folder = map(locate, (arguments.data, arguments.output, arguments.predictions))
    probabilities = load_hdf5(folder / "predictions_test.hdf5")[:, 0]
    labels = np.stack([label_of(p, arguments.threshold) for p in probabilities])
    write(data, output, labels, arguments.held_out)
    print(f"Cell: {labels.mean():.1%} of the slices that the network labelled.")
    print(f"Written to {output}")


def label_of(probability, threshold):
    """Labels a slice as a network sees it.

    Args:
        probability: (H, W) floats in [0, 1], of cell.
        threshold: cell is above it.
    Returns:
        (H, W) bool, True for cell, without specks of either class.
    """
    cell = area_opening((probability > threshold).view(np.uint8), SMALLEST, connectivity=1)
    return area_opening(1 - cell, SMALLEST, connectivity=2) == 0


def write(data, output, labels, held_out=0):
    """Writes slices, labels and weight maps: the labelled ones twice, then those labelled here.

    Args:
        data: folder of prepare_datasets_ISBI.py, with slices to test.
        output: another folder.
        labels: (M, H, W) bool of the M slices to test, True for cell.
        held_out: how many of the last labelled slices come once, at the end.
    Raises:
        UserError: if the data lack something, or the labels are of other slices.
    """
    train = {kind: load_hdf5(data / f"ISBI_dataset_{kind}_train.hdf5") for kind in KINDS}
    ids = load_hdf5_extra(data / "ISBI_dataset_imgs_train.hdf5", "ids")
    tests = data / "ISBI_dataset_imgs_test.hdf5"
    new = {"imgs": load_hdf5(tests), "groundTruth": labels[:, np.newaxis] * np.uint8(255)}
    if output == data or new["imgs"].shape != new["groundTruth"].shape:
        raise UserError(
            f"--data must be of the slices that the predictions are of, and --output another "
            f"folder. Received: {len(new['imgs'])} slices in {tests}, {len(labels)} predictions; "
            f"--output {output}."
        )
    if not 0 <= held_out < len(ids):
        raise UserError(f"--held-out must be from 0 to {len(ids) - 1}. Received: {held_out}.")
    border = {
        name: load_hdf5_extra(data / "ISBI_dataset_weightMaps_train.hdf5", name)[()]
        for name in ("w0", "sigma")
    }
    balance = class_weights(train["groundTruth"][:, 0] > 0)
    maps = [weight_map(label, balance, **border) for label in labels]
    new["weightMaps"] = np.stack(maps).astype(np.float32)[:, np.newaxis]
    first = len(ids) - held_out
    names = [
        *ids[:first],
        *(f"{name} again" for name in ids[:first]),
        *(f"test {name}" for name in load_hdf5_extra(tests, "ids")),
        *ids[first:],
    ]
    with hdf5_files() as write_one:
        for kind, stack in train.items():
            twice = [stack[:first], stack[:first], new[kind], stack[first:]]
            more = border if kind == "weightMaps" else {}
            path = output / f"ISBI_dataset_{kind}_train.hdf5"
            write_one(path, np.concatenate(twice), ids=names, **more)
        write_one(output / tests.name, new["imgs"], ids=load_hdf5_extra(tests, "ids"))


if __name__ == "__main__":
    raise SystemExit(run_script(main))
