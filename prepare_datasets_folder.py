"""Turns a folder of images and label images of your own into the HDF5 files that the scripts read.

    python prepare_datasets_folder.py my_data [--output FOLDER] [--size 256x256] [--instances]
        [--test last:N|every:N] [--validation SHARE] [--ignore CLASS] [--classes FILE]
        [--scale image] [--check]

my_data holds {training,validation,test}/{images,labels}; or images and labels alone, of which
--test and --validation hold some out. Image and label have the same name. Images: grey, RGB or more
channels, 8 or 16 bits, any sizes. Labels: class numbers from 0 (255: ignored), palettes, two values
or colours; classes.txt may name them, one a line: name #rrggbb. Expected result: training.hdf5 and,
where there are such images, validation.hdf5 and test.hdf5 in ./my_data_datasets/, with preview.png;
in about 5 seconds for 566 grey images of 256 x 256 pixels. --check writes nothing.
"""

import argparse
import contextlib
import re
import sys

from lib.errors import UserError, run_script, tell_missing_packages

with tell_missing_packages():
    import numpy as np

    from lib.files import (
        absolute_path,
        folder_for_output,
        remove_left_overs_of,
        settle_earlier,
    )
    from lib.image_folder import SUBSETS, Survey, find_files
    from lib.image_sets import SCALINGS, channel_limits, is_image_set, scaled, write_image_sets
    from lib.label_images import read_classes
    from lib.pictures import as_picture, colour_classes, visualize, with_legend
    from lib.pre_processing import resized, resized_labels

PREVIEW_PAIRS, PREVIEW_SIDE, PREVIEW_GAP = 4, 256, 4  # side and gap in pixels


def main():
    """Reads the command line and prepares the data."""
    parser = argparse.ArgumentParser(
        description="Prepares images and label images of your own for training and testing."
    )
    parser.add_argument("folder", help="holds training/images, training/labels and so on")
    parser.add_argument("--output", metavar="FOLDER", help="default: ./<name of folder>_datasets")
    parser.add_argument(
        "--size", metavar="WIDTHxHEIGHT", help="scale every image; default: sizes stay as they are"
    )
    parser.add_argument(
        "--instances",
        action="store_true",
        help="labels hold object numbers; they become background, object and border",
    )
    how = "last:N, every:N (each N-th), or a share of the last ones by name (0.2)"
    parser.add_argument("--test", metavar="HOW", help=f"hold test images out: {how}")
    parser.add_argument("--validation", metavar="HOW", help=f"then images to validate on: {how}")
    parser.add_argument(
        "--ignore",
        metavar="CLASS",
        action="append",
        default=[],
        help="a class, by name or number, that counts nowhere; may be given several times",
    )
    parser.add_argument("--classes", metavar="FILE", help="default: classes.txt in the folder")
    parser.add_argument(
        "--scale",
        choices=SCALINGS,
        default="auto",
        help="what becomes 0 and 1: the range of the type, 0 to 255; or of each image, its 0.1 and "
        "99.9 percentiles, for images that are dark or of different brightness; auto: type for 8 "
        "bits, image for 16 bits",
    )
    parser.add_argument("--check", action="store_true", help="check all files and write nothing")
    arguments = parser.parse_args()
    folder = absolute_path(arguments.folder)
    size = _parsed_size(arguments.size)
    output_folder = absolute_path(arguments.output or f"{folder.name}_datasets")
    with contextlib.nullcontext() if arguments.check else folder_for_output(output_folder):
        survey = check(
            folder,
            has_instances=arguments.instances,
            test=arguments.test,
            validation=arguments.validation,
            ignored=arguments.ignore,
            classes_file=arguments.classes and absolute_path(arguments.classes),
            scaling=arguments.scale,
            size=size,
        )
        if arguments.check:
            print("All files can be used. Nothing was written (--check).")
        else:
            write(survey, output_folder)


def check(
    folder,
    *,
    has_instances=False,
    test=None,
    validation=None,
    ignored=(),
    classes_file=None,
    scaling="auto",
    size=None,
):
    """Checks all images and labels of a folder, and prints what they are.

    Args:
        folder: holds images and labels, by subset or not.
        has_instances: whether labels hold object numbers.
        test: which images are held out to test: "last:N", "every:N", or a share; None for those of
            the folder `test`.
        validation: which of the others are held out to validate, alike.
        ignored: names or numbers (texts) of classes that count nowhere.
        classes_file: lists the classes; None for classes.txt in the folder, if there is one.
        scaling: the rule of lib.image_sets.channel_limits.
        size: (height, width) that all images are scaled to; None leaves them as they are.
    Returns:
        Survey that has read all files.
    Raises:
        UserError: with all problems found.
    """
    survey = Survey(find_files(folder, test, validation), has_instances, scaling, size)
    listed = _listed_classes(folder, classes_file, has_instances, ignored, survey.problems)
    survey.read(listed, ignored)
    survey.report()
    return survey


def write(survey, output_folder):
    """Writes the HDF5 files and the preview; files of an earlier preparation go.

    Args:
        survey: Survey that has read all files.
        output_folder: where the files go.
    Raises:
        UserError: if a file cannot be written, or would replace another one than an earlier
            preparation's; all stay as they were then.
    """
    paths = {subset: output_folder / f"{subset}.hdf5" for subset in SUBSETS}
    picture = output_folder / "preview.png"
    _require_room(paths.values(), picture, survey)
    sets = {paths[subset]: survey.prepared(subset) for subset in survey.files}
    write_image_sets(
        sets,
        survey.classes,
        has_instances=survey.has_instances,
        scaling=survey.scaling,
        size=survey.size,
    )
    for subset in SUBSETS:
        if subset not in survey.files:
            # What tested then may be what trains now.
            settle_earlier([paths[subset]], f"There are no images for {subset}")
    remove_left_overs_of(picture)
    visualize(preview(survey).transpose(1, 2, 0), picture)
    print(f"Written to {output_folder}. Look at {picture}.")


def _require_room(paths, picture, survey):
    """Refuses a folder of the images themselves, and one with other files of the same names."""
    folder = picture.parent.resolve()
    read = {
        path.parent.resolve()
        for found in survey.files.values()
        for pair in found.values()
        for path in pair
        if path
    }
    if folder in read:
        raise UserError(
            f"{folder} holds the images, or their labels: the next preparation would take "
            f"{picture.name} for one of them. Choose another folder (--output)."
        )
    there = [path for path in paths if path.exists()]
    foreign = [path.name for path in there if not is_image_set(path)]
    if picture.exists() and not there:
        foreign.append(picture.name)
    if foreign:
        raise UserError(
            f"{folder} holds files that no preparation wrote, and that this one would replace: "
            f"{', '.join(foreign)}. Move them, or choose another folder (--output)."
        )


def _parsed_size(text):
    """Reads "256x128" (width, height) -> (height, width), or None."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text)
    if not found:
        raise UserError(f"--size must be WIDTHxHEIGHT in pixels, like 256x256. Received: {text}")
    return int(found[2]), int(found[1])


def _listed_classes(folder, path, has_instances, ignored, problems):
    """Reads the list of classes -> Classes, or None without one; adds to the problems."""
    if has_instances:
        if path or ignored:
            problems.append(
                "--instances makes the classes background, object and border; "
                "it does not go with --classes or --ignore."
            )
        return None
    path = path or folder / "classes.txt"
    if not path.exists() and path == folder / "classes.txt":
        return None
    try:
        return read_classes(path)
    except UserError as error:
        problems += error.problems
        return None


# ---------------------------------------------------------------- the preview


def preview(survey):
    """Draws the first pairs of every subset, the label in colours below its image, and a legend.

    Args:
        survey: Survey that has read all files.
    Returns:
        (3, height, width) uint8.
    """
    rows = []
    for subset in survey.files:
        pairs = [pair for _, pair in zip(range(PREVIEW_PAIRS), survey.prepared(subset))]
        rows.append(
            [_fitted(_as_picture(image, survey.scaling), resized) for _, image, _, _ in pairs]
        )
        if pairs[0][2] is not None:
            labels = [colour_classes(label, survey.classes.colours) for _, _, label, _ in pairs]
            rows.append([_fitted(label, resized_labels) for label in labels])
    step = PREVIEW_SIDE + PREVIEW_GAP
    canvas = np.full((3, len(rows) * step, PREVIEW_PAIRS * step), 128, np.uint8)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            place = canvas[:, row * step : (row + 1) * step, column * step : (column + 1) * step]
            place[:, : picture.shape[1], : picture.shape[2]] = picture
    return with_legend(canvas, survey.classes.names, survey.classes.colours)


def _fitted(picture, resize):
    """Scales (3, H, W) so that its longer side is PREVIEW_SIDE."""
    scale = PREVIEW_SIDE / max(picture.shape[1:])
    size = tuple(max(1, round(scale * side)) for side in picture.shape[1:])
    return resize(picture[np.newaxis], size)[0]


def _as_picture(image, scaling):
    """Scales an image (C, H, W) to a picture (3, H, W) uint8; of other channels the first."""
    shown = image if len(image) == 3 else image[:1]
    return as_picture(scaled(shown, channel_limits(shown, scaling))).transpose(2, 0, 1)


if __name__ == "__main__":
    sys.exit(run_script(main))
