"""Turns the image files of DRIVE into the HDF5 files that training and testing read.

    python prepare_datasets_DRIVE.py [folder] [--output folder] [--only test] [--no-masks]

The folder (default ./DRIVE) holds {training,test}/{images,1st_manual,mask} and perhaps
test/2nd_manual, as DRIVE is given out; any number of images, any one size. Expected result: six
files DRIVE_dataset_{imgs,groundTruth,borderMasks}_{train,test}.hdf5 in the folder
./DRIVE_datasets_training_testing/, 73 MB in all for the 20 + 20 images of DRIVE, in about 2
seconds. Where the test images have no ground truth (as DRIVE is given out today), that file is left
out and said so.

    python prepare_datasets_DRIVE.py [folder] --layout STARE --test im0001
    python prepare_datasets_DRIVE.py [folder] --layout CHASE_DB1 [--test all]
    python prepare_datasets_DRIVE.py [folder] --layout HRF

Other data sets are read as they are given out (lib/fundus_layouts.py), from ./STARE and so on, to
six files of the same names in ./STARE_datasets_training_testing/. --test names the images that
test, in place of the usual split: STARE has none.
"""

import argparse
import sys

from lib.errors import UserError, counted, raise_if_any, run_script, tell_missing_packages

with tell_missing_packages():
    import numpy as np

    from lib.files import absolute_path, folder_for_output, hdf5_files, settle_earlier
    from lib.fundus_layouts import DRIVE, LAYOUTS, find_files, hint, testing_ids, unpaired
    from lib.image_files import (
        list_images,
        read_binary_mask,
        read_photograph,
        tell_copies,
        turned_words,
    )
    from lib.pre_processing import WHOLE_FOV, estimate_fov

OUTPUT_FOLDER = "DRIVE_datasets_training_testing"
KINDS = ("imgs", "borderMasks", "groundTruth")
SUBSETS = {"training": "train", "test": "test"}  # folder: what its files are called
# Ground truth may reach a few pixels beyond the FOV at its rim: 0.05 % of DRIVE's vessel pixels do.
MOST_VESSEL_OUTSIDE_FOV = 0.05
MOST_VESSEL_IN_FOV = 0.5
# Masks are inverted where what is black in them overlaps the estimated FOV by more than this
# (intersection over union).
MOST_OVERLAP_OUTSIDE = 0.8
# The check of the masks takes every n-th pixel, so that about this number of rows is left.
ROWS_TO_CHECK = 100
OTHER_SIZE = "Prepare each size from a folder of its own, with its own --output."
IS_TURNED = (
    "One of the two is turned: images are turned as their cameras noted (EXIF), so masks must be "
    "as viewers show the images."
)


def main():
    """Reads the command line and prepares the data."""
    parser = argparse.ArgumentParser(
        description="Prepares photographs of the eye, DRIVE's or others, for training and testing."
    )
    parser.add_argument("folder", nargs="?", help="default: ./DRIVE, or as --layout is called")
    parser.add_argument("--output", help=f"default: ./{OUTPUT_FOLDER}, or as --layout is called")
    parser.add_argument("--only", choices=SUBSETS, help="prepare one half of the data alone")
    parser.add_argument(
        "--no-masks", action="store_true", help="estimate the field of view from the photographs"
    )
    parser.add_argument(
        "--layout",
        choices=[DRIVE, *LAYOUTS],
        default=DRIVE,
        help="how the files lie: as that data set is given out; default: DRIVE",
    )
    parser.add_argument(
        "--test",
        nargs="+",
        metavar="ID",
        help="images that test, or all; all others train. One ID leaves this image out",
    )
    arguments = parser.parse_args()
    output = arguments.output or OUTPUT_FOLDER.replace(DRIVE, arguments.layout)
    output_folder = absolute_path(output)
    with folder_for_output(output_folder):
        prepare(
            absolute_path(arguments.folder or arguments.layout),
            output_folder,
            subsets=[arguments.only] if arguments.only else SUBSETS,
            has_masks=not arguments.no_masks,
            layout=arguments.layout,
            test=arguments.test,
        )


def prepare(
    folder,
    output_folder,
    *,
    subsets=("training", "test"),
    has_masks=True,
    layout=DRIVE,
    test=None,
):
    """Checks all images of a folder in a data set's layout and writes the HDF5 files.

    retina-unet prepare_datasets_DRIVE.py, get_datasets. Differs: uint8 in place of float64; pairs
    by id and sorted, not in the order of the file system; any number of images; files are checked;
    other layouts than DRIVE's.

    Args:
        folder: holds {training,test}/{images,1st_manual,mask}, or what another layout has.
        output_folder: where the six files go.
        subsets: which halves to prepare, "training" and "test".
        has_masks: whether there are FOV masks; without, they are estimated from the photographs.
        layout: DRIVE or one of lib.fundus_layouts.LAYOUTS.
        test: ids of the images that test, or ["all"]; None for the layout's own split.
    Raises:
        UserError: with all problems found; nothing is written then.
    """
    if layout == DRIVE:
        read = _read_drive(folder, subsets, has_masks, test)
    else:
        halves = _halves(folder, layout, subsets, has_masks, test)
        read = {name: read_files(files, folder) for name, files in halves.items()}
    raise_if_any([problem for _, problems in read.values() for problem in problems])
    tell_copies({name: (images["ids"], images["images"]) for name, (images, _) in read.items()})
    with hdf5_files() as write:
        for name, (images, _) in read.items():
            write_subset(write, output_folder, SUBSETS[name], images)
    for name, (images, _) in read.items():
        if "1st_manual" not in images:
            truth = _file(output_folder, "groundTruth", SUBSETS[name])
            settle_earlier([truth], f"There is no ground truth for {name}")
    for name in (name for name in subsets if name not in read):
        # What trained then may be what tests now.
        files = [_file(output_folder, kind, SUBSETS[name]) for kind in KINDS]
        settle_earlier(files, f"--test leaves no image for {name}")
    print(f"Written to {output_folder}")


def _read_drive(folder, subsets, has_masks, test):
    """Reads the halves of a folder in DRIVE's layout: {name: as read_subset gives it}."""
    if test is not None:
        raise UserError(
            "--test is for data sets that lie in one piece. In DRIVE's layout the folders training "
            f"and test say which images test; --layout is one of {', '.join(LAYOUTS)}."
        )
    read = {name: read_subset(folder / name, has_masks) for name in subsets}
    is_there = any((folder / name).is_dir() for name in subsets)
    sentence = "" if is_there else hint(folder, DRIVE)
    if sentence:
        # Nothing of DRIVE lies there, but another data set does: that is the problem.
        raise UserError(f"{folder} must hold the folders {' and '.join(subsets)}. {sentence}")
    return read


def _halves(folder, layout, subsets, has_masks, test):
    """Shares the files of another layout: {half: {kind: {id: path}}}."""
    files, problems = find_files(folder, layout, has_masks)
    raise_if_any(problems)
    ids = list(files["images"])
    if test is None and list(subsets) == ["test"] and LAYOUTS[layout].first_test is None:
        test = ["all"]
    testing, problems = testing_ids(layout, ids, test)
    raise_if_any(problems)
    shares = {"training": [one for one in ids if one not in testing], "test": testing}
    shares = {name: shares[name] for name in subsets}
    if test is None:
        print(f"{layout}: {LAYOUTS[layout].split}.")
        raise_if_any(
            [
                f"{folder} holds no image of {layout} for {name} ({LAYOUTS[layout].split}). "
                "Prepare one half with --only, or choose the images that test with --test."
                for name, share in shares.items()
                if not share
            ]
        )
    halves = {
        name: {kind: {one: by_id[one] for one in share} for kind, by_id in files.items()}
        for name, share in shares.items()
        if share
    }
    if not halves:
        raise UserError(f"--test {' '.join(test)} leaves no image for --only {' '.join(subsets)}.")
    return halves


def read_subset(folder, has_masks=True):
    """Reads and checks one half of the data set in DRIVE's layout.

    Args:
        folder: holds images, 1st_manual, mask and perhaps 2nd_manual.
        has_masks: whether to read FOV masks; without, they are estimated.
    Returns:
        as read_files; a test set without ground truth has no "1st_manual".
    """
    files, problems = _find_files(folder, folder.name == "test", has_masks)
    return ({}, problems) if problems else read_files(files, folder)


def read_files(files, folder):
    """Reads and checks photographs and what belongs to them.

    Args:
        files: {kind: {id: path}} of images and of 1st_manual, 2nd_manual and mask as far as they
            are there; without mask it is estimated.
        folder: that they come from, for messages.
    Returns:
        ({"ids": [...], "images": (N, 3, H, W), "1st_manual": (N, 1, H, W), ...} uint8, problems).
        Where there are problems, no images.
    """
    arrays, problems = {"ids": list(files["images"])}, []
    for kind, by_id in files.items():
        arrays[kind], found = _read_all(kind, [by_id[identity] for identity in arrays["ids"]])
        problems += found
    if problems:
        return {}, problems
    problems = _check_sizes(files, arrays)
    if not problems:
        arrays["mask"] = arrays.get("mask") or _estimated_masks(folder, arrays)
        problems = _check_masks(files, arrays)
    for note in turned_words(files["images"].values()):
        print(note)
    return _stacked(arrays) if not problems else {}, problems


def write_subset(write, output_folder, subset, arrays):
    """Writes the three files of one half; two without ground truth.

    Args:
        write: as lib.files.hdf5_files gives it.
        output_folder: where the files go.
        subset: "train" or "test".
        arrays: as read_subset gives them.
    """
    ids = arrays["ids"]
    print(f"{subset}: {len(ids)} images of {_size(arrays['images'])}, ids {ids[0]} to {ids[-1]}")
    imgs, masks, truth = (_file(output_folder, kind, subset) for kind in KINDS)
    has_ground_truth = "1st_manual" in arrays
    blank = [name for name, mask in zip(ids, arrays.get("1st_manual", [])) if not mask.any()]
    if blank:
        print(f"{subset}: note that the ground truth shows no vessel at all in {', '.join(blank)}.")
    write(imgs, arrays["images"], ids=ids, has_ground_truth=has_ground_truth)
    write(masks, arrays["mask"], ids=ids)
    if has_ground_truth:
        write(truth, arrays["1st_manual"], ids=ids, second_observer=arrays.get("2nd_manual"))
        return
    print(
        f"{subset}: no ground truth (no folder 1st_manual). {truth.name} is left out; testing will "
        "predict and draw, but cannot give figures."
    )


def _file(output_folder, kind, subset):
    return output_folder / f"DRIVE_dataset_{kind}_{subset}.hdf5"


def _find_files(folder, is_test, has_masks):
    """Lists the files of every kind by id -> ({kind: {id: path}}, problems)."""
    kinds = ["images", "mask"] if has_masks else ["images"]
    if not is_test or (folder / "1st_manual").is_dir():
        kinds.append("1st_manual")
    if (folder / "2nd_manual").is_dir():
        kinds.append("2nd_manual")
    if not folder.is_dir():
        return {}, [
            f"The folder {folder} does not exist. Expected there: {', '.join(kinds)}. Download "
            "DRIVE (see DRIVE/README.md) and give its folder as the argument, or put photographs "
            f"of your own into {folder / 'images'}. With one half of the data: --only training or "
            "--only test."
        ]
    files, problems = {}, []
    for kind in kinds:
        try:
            files[kind] = list_images(folder / kind)
        except ValueError as error:
            advice = " Put FOV masks there, or add --no-masks." if kind == "mask" else ""
            problems.append(f"{error}{advice}")
    for kind in kinds[1:]:
        if kind in files and "images" in files:
            pairs = (files["images"], files[kind])
            problems += unpaired(folder / kind, folder / "images", *pairs)
    return files, problems


def _read_all(kind, paths):
    """Reads the files of one kind -> (list of arrays, problems); many problems are counted."""
    read = read_photograph if kind == "images" else read_binary_mask
    arrays, problems = [], []
    for path in paths:
        try:
            arrays.append(read(path))
        except ValueError as error:
            problems.append(str(error))
    return arrays, counted(problems, paths[0].parent)


def _check_sizes(files, arrays):
    """Lists the files whose size differs from that of the first image."""
    expected = arrays["images"][0].shape[-2:]
    first = files["images"][arrays["ids"][0]].name
    problems = []
    for kind, by_id in files.items():
        found = [
            f"{by_id[identity]} must have {expected[1]} x {expected[0]} pixels (width x height) "
            f"as {first} has. Received: {image.shape[-1]} x {image.shape[-2]}. "
            + (IS_TURNED if image.shape[-2:] == expected[::-1] else OTHER_SIZE)
            for identity, image in zip(arrays["ids"], arrays[kind])
            if image.shape[-2:] != expected
        ]
        problems += counted(found, by_id[arrays["ids"][0]].parent)
    return problems


def _estimated_masks(folder, arrays):
    """Estimates the FOV masks, (height, width) uint8 in {0, 255} each, and says what came out."""
    fovs = [estimate_fov(image) for image in arrays["images"]]
    shares = [fov.mean() for fov in fovs]
    print(
        f"{folder}: the field of view was estimated: {min(shares):.0%} to {max(shares):.0%} of "
        "the image. Predictions are black outside; if that is wrong, give masks."
    )
    whole = [name for name, share in zip(arrays["ids"], shares) if share > WHOLE_FOV]
    if whole:
        print(
            f"{folder}: no dark surround was found in {', '.join(whole)}, so that nothing tells "
            "how wide the camera's field of view is there. [data attributes] fov_width scales by "
            "that width: see docs/OWN_IMAGES.md."
        )
    return [fov * np.uint8(255) for fov in fovs]


def _check_masks(files, arrays):
    """Lists empty or inverted FOV masks, and vessels that cannot be vessels: swapped files."""
    fovs = [mask > 0 for mask in arrays["mask"]]
    if "mask" not in files:  # an estimate refuses nobody's ground truth
        fovs = [np.ones(fov.shape, bool) for fov in fovs]
    elif problems := _problems_of_fovs(files, arrays, fovs):
        return counted(problems, files["mask"][arrays["ids"][0]].parent)
    problems = []
    for kind in ("1st_manual", "2nd_manual"):
        if kind in files:
            paths = [files[kind][identity] for identity in arrays["ids"]]
            pairs = zip(paths, arrays[kind], fovs)
            looks = [(path, _look_of_vessels(vessels > 0, fov)) for path, vessels, fov in pairs]
            found = [
                f"{path}: {look} Are {kind} and mask swapped, or files renamed?"
                for path, look in looks
                if look
            ]
            problems += counted(found, paths[0].parent)
    return problems


def _problems_of_fovs(files, arrays, fovs):
    """Lists FOV masks that are black, throughout or where the photograph shows the eye."""
    problems = []
    for identity, photograph, fov in zip(arrays["ids"], arrays["images"], fovs):
        path, image = files["mask"][identity], files["images"][identity]
        if not fov.any():
            problems.append(f"{path} must show the FOV in white; it is black.")
        elif _seems_inverted(photograph, fov):
            problems.append(
                f"{path} must show the FOV in white. Received: black where {image} shows the eye. "
                "Are the masks inverted? Invert them, or leave them out with --no-masks."
            )
    return problems


def _seems_inverted(photograph, fov):
    """Tells whether a FOV mask (height, width) bool fits the photograph far better inverted.

    A photograph without a dark surround tells nothing. The surround must be the more even part,
    too: a bright one is no FOV.
    """
    step = max(1, len(fov) // ROWS_TO_CHECK)
    photograph, fov = photograph[:, ::step, ::step], fov[::step, ::step]
    estimate = estimate_fov(photograph)
    if estimate.mean() > WHOLE_FOV or fov.all() or not fov.any():
        return False
    is_even = photograph[:, fov].std() < photograph[:, ~fov].std()
    overlap = np.count_nonzero(estimate & ~fov) / np.count_nonzero(estimate | ~fov)
    return is_even and overlap > MOST_OVERLAP_OUTSIDE


def _look_of_vessels(vessels, fov):
    """Words what is wrong with a ground truth, both (height, width) bool; None if nothing is."""
    share = np.count_nonzero(vessels & fov) / np.count_nonzero(fov)
    outside = np.count_nonzero(vessels & ~fov) / max(1, np.count_nonzero(vessels))
    if outside > MOST_VESSEL_OUTSIDE_FOV:
        is_inverted = share > MOST_VESSEL_IN_FOV and fov.mean() > 0.5
        inverted = " Vessels must be white on black." if is_inverted else ""
        return (
            f"{outside:.0%} of its vessels lie outside the FOV; expected at most "
            f"{MOST_VESSEL_OUTSIDE_FOV:.0%}.{inverted}"
        )
    if share > MOST_VESSEL_IN_FOV:
        return (
            f"vessels must be white on black. Received: white on {share:.0%} of the FOV; expected "
            f"at most {MOST_VESSEL_IN_FOV:.0%} (DRIVE: 9 to 17 %)."
        )
    return None


def _stacked(arrays):
    stacks = {"ids": arrays.pop("ids")}
    for kind in list(arrays):
        stack = np.stack(arrays.pop(kind))  # one kind at a time: HRF's photographs take 1.1 GB
        stacks[kind] = stack if stack.ndim == 4 else stack[:, np.newaxis]
    return stacks


def _size(images):
    return f"{images.shape[-1]} x {images.shape[-2]} pixels"


if __name__ == "__main__":
    sys.exit(run_script(main))
