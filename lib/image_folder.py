"""A folder of images and label images: which belong together, and whether all can be used."""

import os
import re
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from lib.class_metrics import IGNORE
from lib.errors import UserError, counted, raise_if_any
from lib.image_files import (
    copies_words,
    list_images,
    pixel_digest,
    read_channels,
    shortened,
    turned_words,
)
from lib.instances import BACKGROUND, OBJECT_CLASSES, border_targets, is_mostly_in_pieces
from lib.label_images import (
    Classes,
    content_of,
    find_coding,
    read_instances,
    read_label,
    resized_label,
)
from lib.pre_processing import percentiles, resized, resized_labels

# What each folder may be called.
SUBSETS = {
    "training": ("training", "train"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
KINDS = {"images": ("images", "image", "imgs"), "labels": ("labels", "label", "masks", "mask")}
# An image of 8 bits is dark whose 99.9 percentile is below this.
DARK = 64
OBJECT_COLOURS = ((0, 0, 0), (86, 180, 233), (230, 159, 0))


# ---------------------------------------------------------------- which files there are


def find_files(folder, test=None, validation=None):
    """Pairs images and labels, and holds out images to test and to validate.

    Args:
        folder: holds images and labels, by subset or not.
        test: which images are held out to test, as in hold_out; None for those of the folder
            `test`, if there is one.
        validation: which of the others are held out to validate, alike.
    Returns:
        {subset: {id: (path of the image, path of the label or None)}}, training always.
    Raises:
        UserError: with all problems found.
    """
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist. Give the folder of your images.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"The folder {folder} cannot be read: no permission (chmod a+rx).")
    problems, files = [], {}
    images = _subfolder(folder, KINDS["images"], problems)
    found = {name: _subfolder(folder, names, problems) for name, names in SUBSETS.items()}
    folders = {name: path for name, path in found.items() if path}
    if images and folders:
        others = " and ".join(path.name for path in folders.values())
        problems.append(
            f"{folder} must hold images by subset, or images alone. Received: {images.name} beside "
            f"{others}. Move the ones or the others elsewhere."
        )
    if images:
        folders = {"training": folder}
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
    elif not kind and re.fullmatch(r"0?\.\d*[1-9]\d*", number):
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
    pairs = {name: (path, (labels or {}).get(name)) for name, path in (images or {}).items()}
    return pairs, problems


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
    label: object = None  # LabelContent
    written: object = None  # the same of what is written: scaled; of objects (3,) pixels by class
    num_objects: int = 0
    num_lost: int = 0  # of which so many are lost where labels are scaled
    num_parts: int = 0
    is_in_pieces: bool = False  # most of its objects are
    problems: list = field(default_factory=list)


class Survey:
    """Reads every file once, finds the classes, and lists all problems at once.

    Args:
        files: {subset: {id: (path of the image, path of the label or None)}}.
        has_instances: whether labels hold object numbers.
        scaling: the rule of lib.image_sets.channel_limits.
        size: (height, width) that all is scaled to when it is written; None leaves it.

    Attributes:
        problems: list of messages.
        classes: lib.label_images.Classes, once all is read.
    """

    def __init__(self, files, has_instances=False, scaling="auto", size=None):
        self.files, self.has_instances, self.scaling = files, has_instances, scaling
        self.size = size
        self.problems, self.remarks = [], []
        self.found, self.classes, self.coding = {}, None, None
        self.has_list = False

    def read(self, listed, ignored):
        """Reads and checks all files.

        Args:
            listed: Classes of classes.txt, or None.
            ignored: names or numbers of classes that count nowhere.
        Raises:
            UserError: with all problems.
        """
        print(f"Checking {sum(map(len, self.files.values()))} images ...", flush=True)
        self.has_list = listed is not None
        for subset, pairs in self.files.items():
            self.found[subset] = [self._look_at(*paths) for paths in pairs.values()]
            self.problems += counted([p for f in self.found[subset] for p in f.problems])
        everything = [found for subset in self.found.values() for found in subset]
        self._check_channels([found for found in everything if found.shape])
        labels = [found for found in everything if found.written is not None]
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
        self._require_two_classes()
        self.remarks += copies_words(
            {
                subset: [(one.image_path.name, one.digest) for one in found]
                for subset, found in self.found.items()
            }
        )
        for pairs in self.files.values():
            self.remarks += turned_words(image_path for image_path, _ in pairs.values())

    def _require_two_classes(self):
        """Refuses labels to train on in which one class alone is left to learn."""
        found = [one for one in self.found.get("training", []) if one.written is not None]
        present = np.flatnonzero(sum(self._class_counts(one) for one in found))
        if found and len(present) < 2:
            there = ", ".join(self.classes.names[number] for number in present) or "none"
            needed = "The training labels must show two classes or more, besides what is ignored."
            scaled = f" {self._at_size} (--size)" if self.size else ""
            raise UserError([f"{needed} Received: {there}{scaled}.", *self.remarks])

    def prepared(self, subset):
        """Reads the pairs of a subset again, one after the other, as they are stored.

        Args:
            subset: a name.
        Yields:
            (id, image (C, H, W), label (H, W) uint8 or None, object numbers (H, W) int32 or None).
        """
        for identity, (image_path, label_path) in self.files[subset].items():
            image, label, instances = read_channels(image_path)[0], None, None
            image = np.repeat(image, self.num_channels // len(image), axis=0)
            if self.size:
                image = resized(image[np.newaxis], self.size)[0]
            if label_path and self.has_instances:
                instances = resized_labels(read_instances(label_path), self.size)
                label = border_targets(instances)
            elif label_path:
                label = resized_labels(self.coding.decode(read_label(label_path)), self.size)
            yield identity, image, label, instances

    def report(self):
        """Prints what is written: sizes, channels, scales, and the share of every class."""
        if self.size:
            print(
                f"All images and labels are scaled to {_width_height(self.size)} pixels (--size)."
            )
        for subset, found in self.found.items():
            ids = list(self.files[subset])
            print(f"{subset}: {len(ids)} images of {_sizes(found)}, ids {ids[0]} to {ids[-1]}")
            if found[0].written is None:
                print(f"{subset}: no labels; testing will predict and draw, but give no scores.")
                continue
            counts = sum(self._class_counts(one) for one in found)
            shares = counts / max(1, counts.sum())
            named = (f"{name} {share:.2%}" for name, share in zip(self.classes.names, shares))
            ignored = 1 - counts.sum() / sum(np.prod(self.size or one.shape[1:]) for one in found)
            rest = f"; ignored {ignored:.2%}" if ignored > 0 else ""
            print(f"  classes: {', '.join(named)}{rest}")
            self._report_absent(subset, found, counts)
            if self.has_instances:
                self._report_objects(found)
        self._report_scale([one for found in self.found.values() for one in found])
        for remark in self.remarks:
            print(remark)

    def _report_absent(self, subset, found, counts):
        """Notes classes that never occur, and those that are lost where labels are scaled."""
        absent, lost = np.flatnonzero(counts == 0), []
        if self.size and not self.has_instances:
            before = sum(self.coding.count(one.label, len(self.classes)) for one in found)
            lost = [number for number in absent if before[number]]
        never = [number for number in absent if number not in lost]
        if never:
            names = ", ".join(self.classes.names[number] for number in never)
            print(f"  NOTE: never in {subset}: {names}{self._why_a_class(never[-1])}")
        if lost:
            names = ", ".join(self.classes.names[number] for number in lost)
            print(f"  NOTE: lost from {subset} {self._at_size}: {names}")

    def _report_objects(self, found):
        """Prints how many objects are written, and how many are lost."""
        total, lost = (sum(getattr(one, n) for one in found) for n in ("num_objects", "num_lost"))
        print(f"  {total - lost} objects")
        if lost:
            print(f"  NOTE: {lost} of {total} objects are lost {self._at_size}.")

    @property
    def _at_size(self):
        return f"at {_width_height(self.size)} pixels"

    def _why_a_class(self, number):
        """Words in which labels a number lies that made this a class; nothing where it was said.

        Without a list, a number is a class because it, or one above it, occurs.
        """
        is_said = self.has_instances or self.has_list or self.coding.by_colour
        if is_said or len(self.classes) == 2:
            return ""
        labels = [one.label for found in self.found.values() for one in found if one.label]
        lowest = self.coding.values[self.coding.classes == number][0]
        reason = min(n for one in labels for n in one.numbers if n >= lowest and n != IGNORE)
        paths = [one.path for one in labels if reason in one.numbers]
        return (
            f". The number {reason} is in {shortened(paths, 3)}. If it is a mistake, correct the "
            "label, or list the classes in classes.txt, one a line, which refuses others."
        )

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
        """Counts the pixels of every class as they are written."""
        if self.has_instances:
            return found.written
        return self.coding.count(found.written, len(self.classes))

    def _look_at(self, image_path, label_path):
        """Reads one pair -> Found, with its problems."""
        found = Found(image_path, label_path)
        try:
            image, found.are_planes = read_channels(image_path)
            found.shape, found.bits = image.shape, 8 * image.dtype.itemsize
            found.is_dark = found.bits == 8 and percentiles(image)[1] < DARK
            found.digest = pixel_digest(image)
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
            label = read_label(found.label_path)
            found.label = found.written = content_of(found.label_path, label)
            if self.size:
                found.written = content_of(found.label_path, resized_label(label, self.size))
            return found.label.shape
        instances = read_instances(found.label_path)
        if found.shape and instances.shape != found.shape[1:]:
            return instances.shape  # a problem; the work below grows with the size
        written = resized_labels(instances, self.size)
        found.written = np.bincount(border_targets(written).ravel(), minlength=3)
        found.num_objects = np.count_nonzero(np.unique(instances))
        found.num_lost = found.num_objects - np.count_nonzero(np.unique(written))
        if found.num_objects == 1:
            found.num_parts = ndimage.label(instances, np.ones((3, 3)))[1]
        found.is_in_pieces = is_mostly_in_pieces(instances)
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
        """Adds a problem, or a remark, where numbers of labels do not tell objects apart."""
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
        in_pieces = [one.label_path for one in found if one.is_in_pieces]
        if in_pieces:
            self.remarks.append(
                f"NOTE: most numbers in {shortened(in_pieces, 4)} stand for several pieces that "
                "lie apart. Each object needs a number of its own (skimage.measure.label); class "
                "numbers are prepared without --instances."
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
    smallest, largest = (_width_height(shape) for shape in (sizes[0], sizes[-1]))
    if len(sizes) == 1:
        return f"{smallest} pixels"
    return f"{len(sizes)} sizes, {smallest} to {largest} pixels"


def _width_height(shape):
    """Words (height, width) as width x height."""
    return f"{shape[1]} x {shape[0]}"
