"""Turns the stacks of the ISBI 2012 membrane challenge into the HDF5 files that the scripts read.

    python prepare_datasets_ISBI.py [folder] [--output folder] [--only test] [--w0 10] [--sigma 5]

The folder (default ./ISBI) holds train-volume.tif, train-labels.tif and perhaps test-volume.tif, of
any number of pages, or the numbered images train/image, train/label and perhaps test, as many
copies of the data do; with --only test the slices without labels suffice. Expected result:
ISBI_dataset_{imgs,groundTruth,weightMaps}_train.hdf5 and ISBI_dataset_imgs_test.hdf5 in
./ISBI_datasets_training_testing/, 55 MB for 30 + 30 slices of 512 x 512, in about 10 seconds,
nearly all of it for the weight maps.
"""

import argparse
import sys

from lib.errors import UserError, raise_if_any, run_script, tell_missing_packages

with tell_missing_packages():
    import numpy as np

    from lib.files import (
        absolute_path,
        folder_for_output,
        hdf5_files,
        numbered,
        settle_earlier,
    )
    from lib.image_files import read_grey_images, read_stack, tell_copies, two_values
    from lib.weight_map import class_weights, instances, weight_map

OUTPUT_FOLDER = "ISBI_datasets_training_testing"
# What each kind of data is called as a stack, and as a folder of images.
NAMES = {
    "slices": ("train-volume.tif", "train/image"),
    "labels": ("train-labels.tif", "train/label"),
    "test": ("test-volume.tif", "test"),
}
# Cells are many and fill most of a slice (ISBI: 78 %); membranes are few connected networks.
LEAST_CELL_SHARE, LARGEST_CELL_OF_ALL = 0.5, 0.5


def main():
    """Reads the command line and prepares the data."""
    parser = argparse.ArgumentParser(description="Prepares ISBI 2012 for training and testing.")
    parser.add_argument("folder", nargs="?", default="ISBI", help="default: ./ISBI")
    parser.add_argument("--output", default=OUTPUT_FOLDER, help=f"default: ./{OUTPUT_FOLDER}")
    parser.add_argument("--only", choices=["test"], help="prepare the slices without labels alone")
    parser.add_argument("--w0", type=float, default=10, help="height of the border term, paper: 10")
    parser.add_argument(
        "--sigma", type=float, default=5, help="its width in pixels, paper: about 5"
    )
    arguments = parser.parse_args()
    output_folder = absolute_path(arguments.output)
    with folder_for_output(output_folder):
        prepare(
            absolute_path(arguments.folder),
            output_folder,
            only_test=arguments.only == "test",
            w0=arguments.w0,
            sigma=arguments.sigma,
        )


def prepare(folder, output_folder, *, only_test=False, w0=10.0, sigma=5.0):
    """Checks the slices and labels of a folder and writes the HDF5 files, weight maps among them.

    Args:
        folder: holds the TIFF stacks or the folders of images.
        output_folder: where the files go.
        only_test: whether only the slices without labels are read and written.
        w0: height of the border term of the weight map (paper, equation 2).
        sigma: its width in pixels.
    Raises:
        UserError: with all problems found; nothing is written then.
    """
    if not (w0 >= 0 and sigma > 0 and np.isfinite([w0, sigma]).all()):
        raise UserError(
            f"--w0 must be at least 0 and --sigma above 0 pixels. Received: {w0:g} and {sigma:g}. "
            "The paper has 10 and about 5."
        )
    found = read_folder(folder, only_test)
    test = found["test"]
    if test is not None and not only_test:
        tell_copies({"train": found["slices"], "test": test})

    def path(kind):
        return output_folder / f"ISBI_dataset_{kind}.hdf5"

    with hdf5_files() as write:
        if not only_test:
            (ids, slices), (_, labels) = found["slices"], found["labels"]
            weights = weight_maps(labels, w0, sigma)
            write(path("imgs_train"), slices[:, np.newaxis], ids=ids)
            write(path("groundTruth_train"), labels[:, np.newaxis], ids=ids)
            write(path("weightMaps_train"), weights[:, np.newaxis], ids=ids, w0=w0, sigma=sigma)
        if test is not None:
            write(path("imgs_test"), test[1][:, np.newaxis], ids=test[0])
    if test is None:
        settle_earlier([path("imgs_test")], "There are no slices to test on")
        print("No test-volume.tif (or test): testing will give figures, but no submission.")
    else:
        print(f"test: {len(test[0])} slices of {_size(test[1])}, without labels")
    print(f"Written to {output_folder}")


def read_folder(folder, only_test=False):
    """Reads and checks slices, labels and test slices.

    Args:
        folder: holds the TIFF stacks or the folders of images.
        only_test: whether only the test slices are read, which must be there then.
    Returns:
        {"slices": (ids, (N, H, W) uint8), "labels": (ids, (N, H, W) uint8 in {0, 255}),
        "test": (ids, (M, H, W) uint8), or None without test slices}, or the last of them alone.
    Raises:
        UserError: with all problems found.
    """
    if not folder.is_dir():
        raise UserError(
            f"The folder {folder} does not exist. Give the folder of the slices as the argument "
            "(for the ISBI 2012 data see ISBI/README.md)."
        )
    is_stack, is_folder = ((folder / name).exists() for name in NAMES["slices"])
    names = {kind: pair[is_folder and not is_stack] for kind, pair in NAMES.items()}
    if is_stack and is_folder and not only_test:
        print(f"{folder} holds {' and '.join(NAMES['slices'])}: the former is taken.")
    # Slices to test may come in the other form than the labelled ones.
    forms = sorted(NAMES["test"], key=lambda name: name != names["test"])
    there = [name for name in forms if (folder / name).exists()]
    if only_test:
        names = {"test": there[0] if there else NAMES["test"][0]}
    elif there:
        names["test"] = there[0]
    else:
        del names["test"]
    if len(there) > 1:
        print(f"{folder} holds {there[0]} and {there[1]}: the former is taken.")
    found, problems = {"test": None}, []
    for kind, name in names.items():
        if not (folder / name).exists():
            present = sorted(path.name for path in folder.iterdir())
            problems.append(
                f"{folder / name} does not exist (nor {NAMES[kind][name == NAMES[kind][0]]}). "
                f"Found in {folder}: {', '.join(present[:8]) or 'nothing'}."
            )
            continue
        try:
            found[kind] = _read_numbered(folder / name, is_label=kind == "labels")
        except ValueError as error:
            problems.append(str(error))
    raise_if_any(problems)
    if not only_test:
        ids, slices = found["slices"]
        found["labels"] = ids, _checked_labels(folder, names, found)
        print(f"train: {len(ids)} labelled slices of {_size(slices)}, ids {ids[0]} to {ids[-1]}")
    return found


def weight_maps(labels, w0, sigma):
    """Computes the weight map of every slice (paper, equation 2).

    Args:
        labels: (N, H, W) uint8 in {0, 255}.
        w0: height of the border term.
        sigma: its width in pixels.
    Returns:
        (N, H, W) float32.
    """
    balance = class_weights(labels > 0)
    print(f"class weights w_c: membrane {balance[0]:.5f}, cell {balance[1]:.5f}", flush=True)
    maps = [weight_map(label > 0, balance, w0, sigma).astype(np.float32) for label in labels]
    return np.stack(maps)


def _read_numbered(path, is_label):
    """Reads a stack or a folder of images -> (ids, (N, H, W) uint8, of labels any type)."""
    if path.suffix != ".tif":
        return read_grey_images(path, is_label)
    stack = read_stack(path, is_label)
    return numbered(stack), stack


def _checked_labels(folder, names, found):
    """Compares labels with slices, and looks for labels that cannot be right."""
    (ids, slices), (label_ids, labels) = found["slices"], found["labels"]
    place = folder / names["labels"]
    if len(labels) != len(slices) or labels.shape[1:] != slices.shape[1:]:
        raise UserError(
            f"{place} must hold a label for each of the {len(slices)} slices of {_size(slices)} in "
            f"{folder / names['slices']}. Received: {len(labels)} of {_size(labels)}."
        )
    if label_ids != ids:
        unlike = [a for a, b in zip(label_ids, ids) if a != b]
        raise UserError(
            f"{place} must have the numbers of {folder / names['slices']}. "
            f"Received others: {', '.join(unlike)}."
        )
    try:
        labels = two_values(place, labels)
    except ValueError as error:
        swapped = " Or are slices and labels swapped?" if len(np.unique(slices)) <= 2 else ""
        raise UserError(f"{error}{swapped}") from error
    raise_if_any(_label_problems(place, ids, labels))
    return labels


def _label_problems(place, ids, labels):
    """Lists slices whose labels have one class only, or membranes in white."""
    expected = f"{place} must show cells in white (255) and membranes in black (0)."
    found = {}
    for name, label in zip(ids, labels):
        found.setdefault(_look_of_label(label > 0), []).append(name)
    found.pop(None, None)
    return [
        f"{expected} Received: {look} in "
        f"{'every slice' if len(names) == len(ids) else 'slice ' + ', '.join(names)}."
        for look, names in found.items()
    ]


def _look_of_label(cells):
    """Words what is wrong with one label of (height, width) bool; None if nothing is."""
    share = cells.mean()
    if share in (0, 1):
        return f"nothing but {'white' if share else 'black'}"
    sizes = np.bincount(instances(cells).ravel())[1:]
    if share < LEAST_CELL_SHARE and sizes.max() / sizes.sum() > LARGEST_CELL_OF_ALL:
        return "labels that seem inverted (membranes white, in one piece; invert them)"
    return None


def _size(stack):
    return f"{stack.shape[-1]} x {stack.shape[-2]} pixels"


if __name__ == "__main__":
    sys.exit(run_script(main))
