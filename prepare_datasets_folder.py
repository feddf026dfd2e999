"""Turns a folder of images and label images of your own into the HDF5 files that the scripts read.

    python prepare_datasets_folder.py my_data [--output FOLDER] [--size 256x256] [--instances]
        [--test last:N|every:N] [--validation SHARE] [--ignore CLASS] [--classes FILE]
        [--scale image] [--check]

my_data holds {training,validation,test}/{images,labels}; or images and labels alone, of which
--test and --validation hold some out. Image and label have the same name. Images: grey, RGB or more
channels, 8 or 16 bits, any sizes. Labels: class numbers from 0 (255: ignored), palettes, two values
or colours; classes.txt may name them, one a line: name #rrggbb. Expected result: training.hdf5 and,
where there are such images, validation.hdf5 and test.hdf5 in ./my_data_datasets/, with preview.png;
in about 10 seconds for 1,000 images of 256 x 256 pixels. --check writes nothing.
"""

import argparse
import re
import sys

from lib.errors import UserError, raise_if_any, run_script, tell_missing_packages

with tell_missing_packages():
    import hashlib
    from dataclasses import dataclass, field

    import numpy as np
    from scipy import ndimage

    from lib.files import absolute_path
    from lib.image_files import list_images, read_channels, shortened
    from lib.image_sets import SCALINGS, channel_limits, scaled, write_image_sets
    from lib.instances import BACKGROUND, OBJECT_CLASSES, border_targets
    from lib.label_images import (
        Classes,
        content_of,
        counted,
        find_coding,
        read_classes,
        read_instances,
        read_label,
    )
    from lib.pictures import colour_classes, legend, visualize
    from lib.pre_processing import percentiles, resized, resized_labels

# What each folder may be called.
SUBSETS = {
    "training": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
KINDS = {"images": ("images", "image", "imgs"), "labels": ("labels", "label", "masks", "mask")}
PREVIEW_PAIRS, PREVIEW_SIDE, PREVIEW_GAP = 4, 256, 4
# An image of 8 bits is dark whose 99.9 percentile is below this.
DARK = 64
OBJECT_COLOURS = ((0, 0, 0), (86, 180, 233), (230, 159, 0))


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
    survey = check(
        folder,
        has_instances=arguments.instances,
        test=arguments.test,
        validation=arguments.validation,
        ignored=arguments.ignore,
        classes_file=arguments.classes and absolute_path(arguments.classes),
        scaling=arguments.scale,
    )
    if arguments.check:
        print("All files can be used. Nothing was written (--check).")
    else:
        write(survey, absolute_path(arguments.output or f"{folder.name}_datasets"), size)


def check(
    folder,
    *,
    has_instances=False,
    test=None,
    validation=None,
    ignored=(),
    classes_file=None,
    scaling="auto",
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
    Returns:
        Survey that has read all files.
    Raises:
        UserError: with all problems found.
    """
    survey = Survey(find_files(folder, test, validation), has_instances, scaling)
    listed = _listed_classes(folder, classes_file, has_instances, ignored, survey.problems)
    survey.read(listed, ignored)
    survey.report()
    return survey


def write(survey, output_folder, size=None):
    """Writes the HDF5 files and the preview; files of an earlier preparation go.

    Args:
        survey: Survey that has read all files.
        output_folder: where the files go.
        size: (height, width) that all images are scaled to; None leaves them as they are.
    Raises:
        UserError: if a file cannot be written; all stay as they were then.
    """
    paths = {subset: output_folder / f"{subset}.hdf5" for subset in SUBSETS}
    sets = {paths[subset]: survey.prepared(subset, size) for subset in survey.files}
    write_image_sets(
        sets, survey.classes, has_instances=survey.has_instances, scaling=survey.scaling
    )
    for subset in SUBSETS.keys() - survey.files:
        paths[subset].unlink(missing_ok=True)
    visualize(preview(survey).transpose(1, 2, 0), output_folder / "preview.png")
    print(f"Written to {output_folder}. Look at {output_folder / 'preview.png'}.")


# ---------------------------------------------------------------- which files there are


def find_files(folder, test=None, validation=None):
    """Pairs images and labels, and holds out images to test and to validate.

    Args:
        folder: holds images and labels, by subset or not.
        test: as in check.
        validation: as in check.
    Returns:
        {subset: {id: (path of the image, path of the label or None)}}, training always.
    Raises:
        UserError: with all problems found.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Give the folder of your images.")
    problems, files = [], {}
    if _subfolder(folder, KINDS["images"], problems):
        folders = {"training": folder}
    else:
        found = {name: _subfolder(folder, names, problems) for name, names in SUBSETS.items()}
        folders = {name: path for name, path in found.items() if path}
    if "training" not in folders:
        present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        raise UserError(
            f"{folder} must hold training/images and training/labels, or images and labels. "
            f"Found there: {shortened(present) or 'nothing'}."
        )
    for subset, path in folders.items():
        files[subset], found = _pairs(path, subset)
        problems += found
    for subset, how in (("test", test), ("validation", validation)):
        if how is not None and subset in folders:
            problems.append(
                f"--{subset} {how} would hold images out, but there is the folder "
                f"{folders[subset]}. Leave the option or the folder out."
            )
    raise_if_any(problems)
    for subset, how in (("test", test), ("validation", validation)):
        if how is not None:
            files["training"], files[subset] = hold_out(files["training"], subset, how)
    return {subset: files[subset] for subset in SUBSETS if subset in files}


def hold_out(pairs, subset, how):
    """Splits pairs that are sorted by id into those to train on and those held out.

    Args:
        pairs: {id: paths}.
        subset: name of the option, for messages.
        how: "last:N"; "every:N" for the N-th, the 2 N-th and so on; or a share above 0 and below 1,
            of the last ones, so that pictures of one sequence stay together.
    Returns:
        two dictionaries like pairs.
    Raises:
        UserError: if it cannot be read, or one of both would be empty.
    """
    names = list(pairs)
    kind, _, number = how.rpartition(":")
    held = set()
    if kind == "last" and number.isdecimal():
        held = set(names[len(names) - int(number) :]) if 0 < int(number) < len(names) else set()
    elif kind == "every" and number.isdecimal():
        held = set(names[int(number) - 1 :: int(number)]) if int(number) > 1 else set()
    elif not kind and re.fullmatch(r"0?\.\d+", number):
        held = set(names[-max(1, round(float(number) * len(names))) :])
    if not 0 < len(held) < len(names):
        raise UserError(
            f"--{subset} must be last:N, every:N or a share like 0.2, and hold out some of the "
            f"{len(names)} images, not all. Received: {how}"
        )
    return tuple({n: pairs[n] for n in names if (n in held) == out} for out in (False, True))


def _subfolder(folder, names, problems):
    """Finds the one folder that has one of some names; None without."""
    found = [p for p in sorted(folder.iterdir()) if p.name.lower() in names and p.is_dir()]
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        problems.append(f"{folder} holds {both}, which are the same. Leave one of them.")
    return found[0] if found else None


def _pairs(folder, subset):
    """Pairs the images and labels of one subset -> ({id: paths}, problems)."""
    listed, problems = {}, []
    for kind, names in KINDS.items():
        path = _subfolder(folder, names, problems)
        if path is None and not (kind == "labels" and subset == "test"):
            problems.append(f"{folder} must hold a folder {kind} (or {', '.join(names[1:])}).")
        try:
            listed[kind] = list_images(path) if path else None
        except ValueError as error:
            problems.append(str(error))
    images, labels = listed.get("images"), listed.get("labels")
    if images and labels:
        without = [images[name].name for name in images if name not in labels]
        surplus = [labels[name].name for name in labels if name not in images]
        if without:
            problems.append(
                f"{folder}: {len(without)} of {len(images)} images have no label: "
                f"{shortened(without)}. Image and label have the same name."
            )
        if surplus:
            problems.append(f"{folder}: {len(surplus)} labels have no image: {shortened(surplus)}.")
    return {name: (path, (labels or {}).get(name)) for name, path in (images or {}).items()}, (
        problems
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


# ---------------------------------------------------------------- what is in them


@dataclass
class Found:
    """What the survey keeps of a pair: no pixels."""

    image_path: object
    label_path: object
    shape: tuple = None  # (C, H, W)
    bits: int = 0
    is_dark: bool = False  # uses less than a quarter of 8 bits
    are_planes: bool = False  # channels that the file does not call so
    digest: bytes = b""
    label: object = None  # LabelContent; of object numbers (3,) pixels of each class
    num_objects: int = 0
    num_parts: int = 0
    problems: list = field(default_factory=list)


class Survey:
    """Reads every file once, finds the classes, and lists all problems at once.

    Args:
        files: {subset: {id: (path of the image, path of the label or None)}}.
        has_instances: whether labels hold object numbers.
        scaling: the rule of lib.image_sets.channel_limits.

    Attributes:
        problems: list of messages.
        classes: lib.label_images.Classes, once all is read.
    """

    def __init__(self, files, has_instances=False, scaling="auto"):
        self.files, self.has_instances, self.scaling = files, has_instances, scaling
        self.problems, self.remarks = [], []
        self.found, self.classes, self.coding = {}, None, None

    def read(self, listed, ignored):
        """Reads and checks all files.

        Args:
            listed: Classes of classes.txt, or None.
            ignored: names or numbers of classes that count nowhere.
        Raises:
            UserError: with all problems.
        """
        print(f"Checking {sum(map(len, self.files.values()))} images ...", flush=True)
        for subset, pairs in self.files.items():
            self.found[subset] = [self._look_at(*paths) for paths in pairs.values()]
            self.problems += counted([p for f in self.found[subset] for p in f.problems])
        everything = [found for subset in self.found.values() for found in subset]
        self._check_channels([found for found in everything if found.shape])
        labels = [found for found in everything if found.label is not None]
        if self.has_instances:
            self.classes = Classes(OBJECT_CLASSES, OBJECT_COLOURS)
            self._check_objects(labels)
        elif labels and (listed or not self.problems):
            # Where files or the list cannot be read, what the labels mean is still unknown.
            try:
                contents = [found.label for found in labels]
                self.coding, self.classes, remarks = find_coding(contents, listed, ignored)
                self.remarks += remarks
            except UserError as error:
                self.problems += error.problems
        raise_if_any(self.problems)
        self._note_copies()

    def prepared(self, subset, size=None):
        """Reads the pairs of a subset again, one after the other, as they are stored.

        Args:
            subset: a name.
            size: (height, width) that all is scaled to; None leaves it.
        Yields:
            (id, image (C, H, W), label (H, W) uint8 or None, object numbers (H, W) int32 or None).
        """
        for identity, (image_path, label_path) in self.files[subset].items():
            image, label, instances = read_channels(image_path)[0], None, None
            image = np.repeat(image, self.num_channels // len(image), axis=0)
            if size:
                image = resized(image[np.newaxis], size)[0]
            if label_path and self.has_instances:
                instances = resized_labels(read_instances(label_path), size)
                label = border_targets(instances)
            elif label_path:
                label = resized_labels(self.coding.decode(read_label(label_path)), size)
            yield identity, image, label, instances

    def report(self):
        """Prints what there is: sizes, channels, scales, and the share of every class."""
        for subset, found in self.found.items():
            ids = list(self.files[subset])
            print(f"{subset}: {len(ids)} images of {_sizes(found)}, ids {ids[0]} to {ids[-1]}")
            if found[0].label is None:
                print(f"{subset}: no labels; testing will predict and draw, but give no scores.")
                continue
            counts = sum(self._class_counts(one) for one in found)
            shares = counts / max(1, counts.sum())
            named = (f"{name} {share:.2%}" for name, share in zip(self.classes.names, shares))
            ignored = 1 - counts.sum() / sum(one.shape[1] * one.shape[2] for one in found)
            rest = f"; ignored {ignored:.2%}" if ignored > 0 else ""
            print(f"  classes: {', '.join(named)}{rest}")
            absent = [name for name, count in zip(self.classes.names, counts) if not count]
            if absent:
                print(f"  NOTE: never in {subset}: {', '.join(absent)}")
            if self.has_instances:
                print(f"  {sum(one.num_objects for one in found)} objects")
        self._report_scale([one for found in self.found.values() for one in found])
        for remark in self.remarks:
            print(remark)

    def _report_scale(self, found):
        """Prints which values become 0 and 1, and advises another rule for dark images."""
        rules = []
        for bits in sorted({one.bits for one in found}):
            by_image = self.scaling == "image" or (self.scaling == "auto" and bits > 8)
            limits = "its 0.1 to its 99.9 percentile" if by_image else f"0 to {2**bits - 1}"
            rules.append(f"each image of {bits} bits from {limits}")
        print(f"{self.num_channels} channel(s). Scaled to [0, 1]: {'; '.join(rules)}.")
        dark = [one.image_path.name for one in found if one.is_dark]
        if self.scaling != "image" and dark:
            print(
                f"NOTE: {len(dark)} images use less than a quarter of the range: "
                f"{shortened(dark, 4)}. --scale image stretches each image by itself."
            )

    @property
    def num_channels(self):
        """Channels of every image as it is stored."""
        return max(one.shape[0] for found in self.found.values() for one in found)

    def _class_counts(self, found):
        if self.has_instances:
            return found.label
        return self.coding.count(found.label, len(self.classes))

    def _look_at(self, image_path, label_path):
        """Reads one pair -> Found, with its problems."""
        found = Found(image_path, label_path)
        try:
            image, found.are_planes = read_channels(image_path)
            found.shape, found.bits = image.shape, 8 * image.dtype.itemsize
            found.is_dark = found.bits == 8 and percentiles(image)[1] < DARK
            found.digest = hashlib.blake2b(np.ascontiguousarray(image)).digest()
        except ValueError as error:
            found.problems.append(str(error))
        try:
            shape = self._look_at_label(found) if label_path else None
        except ValueError as error:
            found.problems.append(str(error))
            return found
        if shape and found.shape and shape != found.shape[1:]:
            found.problems.append(_size_problem(found, shape))
        return found

    def _look_at_label(self, found):
        """Reads a label into Found -> (height, width)."""
        if not self.has_instances:
            found.label = content_of(found.label_path, read_label(found.label_path))
            return found.label.shape
        instances = read_instances(found.label_path)
        found.label = np.bincount(border_targets(instances).ravel(), minlength=3)
        numbers = np.unique(instances)
        found.num_objects = np.count_nonzero(numbers)
        if found.num_objects == 1:
            found.num_parts = ndimage.label(instances, np.ones((3, 3)))[1]
        return instances.shape

    def _check_channels(self, found):
        """Adds a problem where images differ in their channels; grey among RGB is repeated."""
        by_number = {}
        for one in found:
            by_number.setdefault(one.shape[0], []).append(one.image_path.name)
        if set(by_number) == {1, 3}:
            self.remarks.append(
                f"{len(by_number[1])} grey images among {len(by_number[3])} in colours are stored "
                f"in colours: {shortened(by_number[1])}."
            )
        elif len(by_number) > 1:
            listed = "; ".join(f"{n} in {shortened(names, 3)}" for n, names in by_number.items())
            self.problems.append(
                f"All images must have the same channels. Received: {listed}. "
                "Take the others out, or save all with the same channels."
            )
        planes = [one.image_path.name for one in found if one.are_planes]
        if planes:
            self.remarks.append(
                f"Read as channels, though the file does not say so: {shortened(planes)}. If they "
                "are slices, save each as a file of its own."
            )

    def _check_objects(self, found):
        """Adds a problem where labels show objects, but no numbers that tell them apart."""
        most = max((one.num_objects for one in found), default=0)
        if found and most <= 1 and any(one.num_parts > 1 for one in found):
            self.problems.append(
                f"The labels in {found[0].label_path.parent} must hold a number for each object. "
                "Received: one number for all of them. Number them (skimage.measure.label), or "
                "leave --instances out."
            )
        elif found and not most:
            self.problems.append(
                f"The labels in {found[0].label_path.parent} hold no object at all "
                f"(all {BACKGROUND})."
            )

    def _note_copies(self):
        """Remarks on pictures that are in two subsets: their scores would say nothing."""
        seen = {}
        for subset, found in self.found.items():
            copies = [
                f"{one.image_path.name} = {seen[one.digest][1]}"
                for one in found
                if seen.setdefault(one.digest, (subset, one.image_path.name))[0] != subset
            ]
            if copies:
                self.remarks.append(
                    f"NOTE: {len(copies)} images of {subset} are also in another subset, pixel by "
                    f"pixel: {shortened(copies, 4)}. Take them out, or the scores are too good."
                )


def _size_problem(found, shape):
    advice = ""
    if shape == found.shape[:0:-1]:  # (width, height) of the image
        advice = (
            " Image or label is turned. Images are turned as the camera's note says (EXIF); labels "
            "must be as viewers show the image."
        )
    return (
        f"{found.label_path} must have the size of {found.image_path.name}, {found.shape[2]} x "
        f"{found.shape[1]} pixels (width x height). Received: {shape[1]} x {shape[0]}.{advice}"
    )


def _sizes(found):
    """Words the sizes of images: one, or from the smallest to the largest."""
    sizes = sorted({one.shape[1:] for one in found}, key=lambda shape: (shape[0] * shape[1], shape))
    smallest, largest = (f"{shape[1]} x {shape[0]}" for shape in (sizes[0], sizes[-1]))
    if len(sizes) == 1:
        return f"{smallest} pixels"
    return f"{len(sizes)} sizes, {smallest} to {largest} pixels"


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
    names = legend(survey.classes.names, survey.classes.colours, canvas.shape[2])
    return np.concatenate([canvas, names], axis=1)


def _fitted(picture, resize):
    """Scales (3, H, W) so that its longer side is PREVIEW_SIDE."""
    scale = PREVIEW_SIDE / max(picture.shape[1:])
    size = tuple(max(1, round(scale * side)) for side in picture.shape[1:])
    return resize(picture[np.newaxis], size)[0]


def _as_picture(image, scaling):
    """Scales an image (C, H, W) to a picture (3, H, W) uint8; of other channels the first."""
    shown = image if len(image) == 3 else image[:1]
    shown = np.rint(255 * scaled(shown, channel_limits(shown, scaling))).astype(np.uint8)
    return np.broadcast_to(shown, (3, *shown.shape[1:]))


if __name__ == "__main__":
    sys.exit(run_script(main))
