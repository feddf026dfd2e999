"""Turns sequences of the Cell Tracking Challenge into the HDF5 files that the scripts read.

    python prepare_datasets_CTC.py [folder] [--training 01] [--test 02] [--labels both]
                    [--skip 01:067] [--border 1] [--w0 10] [--sigma 5] [--output folder]

The folder (default ./CTC) holds the challenge's own layout: 01/t000.tif, its annotated frames
01_GT/SEG/man_seg000.tif (gold truth) and 01_ST/SEG/man_seg000.tif (silver truth), 02/... A pair of
folders of one's own, images and 16-bit label images of the same names, is taken in their place with
--training-pair IMAGES LABELS and --test-pair IMAGES LABELS; one alone prepares this half alone, and
with the sequences of the other (--training-pair IMAGES LABELS --test 02) both.

Expected result: CTC_dataset_{imgs,instances,groundTruth,weightMaps}_train.hdf5 and
CTC_dataset_{imgs,instances}_test.hdf5 in ./CTC_datasets_training_testing/; for the 84
and 84 frames of DIC-C2DH-HeLa 250 MB, in about 15 seconds, most of it for the weight maps.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from lib.errors import UserError, raise_if_any, run_script, tell_missing_packages

with tell_missing_packages():
    import numpy as np
    from scipy import ndimage

    from lib.files import absolute_path, folder_for_output, hdf5_files, settle_earlier
    from lib.image_files import (
        list_images,
        read_pages,
        read_picture,
        shortened,
        tell_copies,
    )
    from lib.instances import carve_touching, is_mostly_in_pieces
    from lib.label_images import read_instances
    from lib.weight_map import class_weights, weight_map

OUTPUT_FOLDER = "CTC_datasets_training_testing"
FRAME, ANNOTATION = re.compile(r"t(\d{3,4})\.tif"), re.compile(r"man_seg(\d{3,4})\.tif")
KINDS = {"GT": "gold", "ST": "silver"}
# An annotation with fewer objects than this share of the silver truth's, or of the frames around
# it, is taken for a partial one.
LEAST_OBJECTS = 0.6
# Object numbers of a label image: 16 bits, as the challenge has them.
MOST_OBJECTS = 65_535


def main():
    """Reads the command line and prepares the data."""
    arguments = parse_arguments()
    with folder_for_output(absolute_path(arguments.output)):
        prepare_as(arguments)


def prepare(folder, output_folder, *words):
    """Prepares the data of a folder; for scripts.

    Args:
        folder: holds the sequences.
        output_folder: where the files go.
        words: further words of the command line.
    Raises:
        UserError: with all problems found; nothing is written then.
    """
    prepare_as(parse_arguments([str(folder), "--output", str(output_folder), *words]))


def prepare_as(arguments):
    """Prepares the data as the command line says; see prepare."""
    # 1. Which frames and annotations there are.
    sequences = find_sequences(arguments)

    # 2. Read and checked: images, objects.
    read = {use: read_frames(frames, arguments.ignore) for use, frames in sequences.items()}
    check(read, arguments.ignore)

    # 3. Borders between objects that touch, weight maps, and the HDF5 files.
    write(read, arguments)


def parse_arguments(words=None):
    """Reads the command line; `words` stands in for it in tests."""
    parser = argparse.ArgumentParser(
        description="Prepares sequences of the Cell Tracking Challenge for training and testing."
    )
    parser.add_argument("folder", nargs="?", default="CTC", help="default: ./CTC")
    parser.add_argument("--output", default=OUTPUT_FOLDER, help=f"default: ./{OUTPUT_FOLDER}")
    parser.add_argument("--training", nargs="+", help="sequences; without pairs 01")
    parser.add_argument("--test", nargs="*", help="sequences; without pairs 02")
    pair = {"nargs": 2, "metavar": ("IMAGES", "LABELS"), "help": "folders, in place of sequences"}
    parser.add_argument("--training-pair", **pair)
    parser.add_argument("--test-pair", **pair)
    parser.add_argument(
        "--labels",
        choices=["both", "GT", "ST"],
        default="both",
        help="gold truth (GT), silver truth (ST), or gold where it is whole, else silver (both, "
        "the default); scores are about the gold truth alone, unless ST is given",
    )
    parser.add_argument(
        "--skip",
        nargs="+",
        default=[],
        metavar="SEQUENCE:FRAME",
        help="annotations that are not to be used, such as 01:067",
    )
    parser.add_argument(
        "--ignore",
        type=int,
        help="number of label pixels of unknown kind, which train nothing and count in no score",
    )
    parser.add_argument(
        "--border",
        type=int,
        default=1,
        help="pixels that each of two touching objects gives up to a border; default: 1",
    )
    parser.add_argument("--w0", type=float, default=10, help="height of the border term, paper: 10")
    parser.add_argument(
        "--sigma", type=float, default=5, help="its width in pixels, paper: about 5"
    )
    arguments = parser.parse_args(words)
    arguments.has_pair = bool(arguments.training_pair or arguments.test_pair)
    for use, sequence in (("training", "01"), ("test", "02")):
        if getattr(arguments, use) is None:
            setattr(arguments, use, [] if arguments.has_pair else [sequence])
        # With tab completion there is a slash behind: 01/.
        setattr(arguments, use, [Path(name).as_posix() for name in getattr(arguments, use)])
    raise_if_any(_problems_of(arguments))
    return arguments


def _problems_of(arguments):
    problems = []
    is_finite = np.isfinite([arguments.w0, arguments.sigma]).all()
    if not (arguments.w0 >= 0 and arguments.sigma > 0 and is_finite):
        problems.append(
            f"--w0 must be at least 0 and --sigma above 0 pixels. Received: {arguments.w0:g} and "
            f"{arguments.sigma:g}. The paper has 10 and about 5."
        )
    if arguments.border < 0:
        problems.append(f"--border must be at least 0 pixels. Received: {arguments.border}.")
    if arguments.ignore is not None and arguments.ignore < 1:
        problems.append(f"--ignore must be a number above 0. Received: {arguments.ignore}.")
    problems += [
        f"--{use} and --{use}-pair must not be given together. Take the sequences or the folders."
        for use in ("training", "test")
        if getattr(arguments, use) and getattr(arguments, f"{use}_pair")
    ]
    problems += [
        f"--{use} must be the name of a folder of {arguments.folder}, such as 01. Received: {name}."
        for use in ("training", "test")
        for name in getattr(arguments, use)
        if "/" in name or name in (".", "..")
    ]
    if arguments.labels != "both" and not (arguments.training or arguments.test):
        problems.append(
            f"--labels {arguments.labels} chooses between the truths of sequences. The label "
            "images of pairs are taken as they are: leave it out."
        )
    twice = sorted(set(arguments.training) & set(arguments.test))
    if twice:
        problems.append(
            f"--training and --test must name different sequences. Received twice: "
            f"{', '.join(twice)}. What a network was trained on tells nothing about it."
        )
    return problems


# ---------------------------------------------------------------- which files there are


@dataclass(frozen=True)
class Frame:
    """One frame: its id (01_000), its image, and its annotations by kind (GT, ST), as paths."""

    id: str
    image: Path
    labels: dict


def find_sequences(arguments):
    """Lists the frames to train on and to test on.

    Args:
        arguments: as parse_arguments gives them.
    Returns:
        {"train": list of (Frame, kinds of its annotation to take, the best first), "test": alike}.
    Raises:
        UserError: with all sequences, annotations and frames that are not there.
    """
    folder = absolute_path(arguments.folder)
    pairs = {"train": arguments.training_pair, "test": arguments.test_pair}
    names = {"train": arguments.training, "test": arguments.test}
    frames, problems = {"train": [], "test": []}, []
    if any(names.values()) and not folder.is_dir():
        raise UserError(
            f"The folder {folder} does not exist. Give the folder that holds the sequences 01, "
            "01_GT, ... as the argument (see CTC/README.md)."
        )
    for use in frames:
        try:
            if pairs[use]:
                frames[use] = find_pair(*map(absolute_path, pairs[use]))
            for name in dict.fromkeys(names[use]):
                frames[use] += find_frames(folder, name)
        except UserError as error:
            problems += error.problems
    skipped = _skipped(arguments.skip, [frame for use in frames.values() for frame in use])
    if isinstance(skipped, list):
        problems += skipped
    raise_if_any(problems)
    # The label images of a pair are all there are.
    wanted = {use: "both" if pairs[use] else arguments.labels for use in frames}
    return {use: _with_kinds(use, frames[use], skipped, wanted[use]) for use in frames}


def find_frames(folder, sequence):
    """Lists the frames of a sequence and their annotations, in the challenge's layout.

    Args:
        folder: holds <sequence>/, <sequence>_GT/SEG/ and <sequence>_ST/SEG/.
        sequence: its name, such as 01.
    Returns:
        list of Frame by number.
    Raises:
        UserError: if there is no such sequence, or an annotation belongs to no frame.
    """
    images = _numbered_files(folder / sequence, FRAME)
    if not images:
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        others = sorted((folder / sequence).glob("t[0-9]*.*"))
        if others:
            raise UserError(
                f"{folder / sequence} must hold the frames of the sequence as TIFF files "
                f"(t000.tif, t001.tif, ...). Received: {others[0].name}. Save them so, or give "
                "them with --training-pair and --test-pair, which take other image files."
            )
        raise UserError(
            f"{folder / sequence} must hold the frames of the sequence (t000.tif, t001.tif, ...). "
            f"It {'holds none' if (folder / sequence).is_dir() else 'does not exist'}. Folders in "
            f"{folder}: {', '.join(there[:8]) or 'none'}. Choose with --training and --test."
        )
    labels = {
        kind: _numbered_files(folder / f"{sequence}_{kind}" / "SEG", ANNOTATION) for kind in KINDS
    }
    problems = [
        f"{labels[kind][number]} annotates a frame that does not exist: there is no "
        f"{folder / sequence / f't{number}.tif'}. Copy it there, or remove the annotation."
        for kind in KINDS
        for number in sorted(set(labels[kind]) - set(images))
    ]
    raise_if_any(problems)
    return [
        Frame(
            f"{sequence}_{number}",
            path,
            {k: of[number] for k, of in labels.items() if number in of},
        )
        for number, path in images.items()
    ]


def find_pair(images_folder, labels_folder):
    """Lists the images of a folder and their label images, which count as gold truth.

    Returns:
        list of Frame.
    Raises:
        UserError: if a folder is missing or empty, or a label image belongs to no image.
    """
    try:
        images, labels = list_images(images_folder), list_images(labels_folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    alone = [labels[name].name for name in labels if name not in images]
    if alone:
        raise UserError(
            f"{labels_folder} holds label images that belong to no image of {images_folder}: "
            f"{', '.join(alone[:8])}. They must have the names of the images."
        )
    without = [path.name for name, path in images.items() if name not in labels]
    if without:
        print(
            f"NOTE: {shortened(without, 8)} of {images_folder} have no label image in "
            f"{labels_folder}: they do not train, and are tested without a score."
        )
    return [
        Frame(name, path, {"GT": labels[name]} if name in labels else {})
        for name, path in images.items()
    ]


def _numbered_files(folder, pattern):
    """Gives {number as written: path} of the files that are named so; empty without the folder."""
    if not folder.is_dir():
        return {}
    found = {pattern.fullmatch(path.name): path for path in sorted(folder.iterdir())}
    files = {match[1]: path for match, path in found.items() if match}
    return dict(sorted(files.items(), key=lambda item: int(item[0])))


def _skipped(words, frames):
    """Reads --skip into a set of ids of frames; a list of problems where one names no frame."""
    ids = {frame.id for frame in frames}
    skipped = {word: "_".join(word.rsplit(":", 1)) for word in words}
    problems = [
        f"--skip must name annotated frames as SEQUENCE:FRAME, such as 01:067. Received: {word}, "
        "which is none of the frames."
        for word, name in skipped.items()
        if name not in ids and word not in ids
    ]
    return problems or {*skipped.values(), *words}


def _with_kinds(use, frames, skipped, wanted):
    """Chooses the annotations; leaves frames to train on out where there is none."""
    kinds = {"both": ["GT", "ST"], "GT": ["GT"], "ST": ["ST"]}[wanted]
    has_gold = any("GT" in frame.labels for frame in frames)
    if use == "test" and wanted == "both":
        # Scores are about the gold truth alone, as the challenge's are.
        kinds = ["GT"] if has_gold else ["ST"]
    chosen = []
    for frame in frames:
        of_frame = [] if frame.id in skipped else [kind for kind in kinds if kind in frame.labels]
        if of_frame or use == "test":
            chosen.append((frame, of_frame))
    if use == "train" and frames and not chosen:
        raise UserError(
            f"No frame to train on has an annotation ({', '.join(kinds)}): expected "
            "<sequence>_GT/SEG/man_seg000.tif or <sequence>_ST/SEG/man_seg000.tif beside the "
            "sequence. Choose with --training, --labels and --skip."
        )
    return chosen


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Labelled:
    """Frames that were read: ids, images and objects (N, H, W), and which are annotated.

    Objects are 0 on pixels of unknown kind, which is_unknown (N, H, W) tells; has_unknown also
    counts annotations in whose place others were taken.
    """

    ids: list
    images: np.ndarray
    objects: np.ndarray
    is_unknown: np.ndarray
    is_labelled: np.ndarray
    has_unknown: bool


def read_frames(frames, ignore=None):
    """Reads images and annotations; of several annotations of a frame the first whole one.

    Args:
        frames: list of (Frame, kinds) as find_sequences gives them.
        ignore: number of label pixels of unknown kind; None without them.
    Returns:
        Labelled; None without frames.
    Raises:
        UserError: with all files that cannot be read or do not fit.
    """
    if not frames:
        return None
    images, objects, unknown, kinds, problems = [], [], [], [], []
    has_unknown = False
    for frame, of_frame in frames:
        try:
            images.append(_read_image(frame.image))
            labels = {kind: _read_objects(frame.labels[kind], images[-1]) for kind in of_frame}
        except ValueError as error:
            problems.append(str(error))
            continue
        is_unknown = {kind: one == ignore for kind, one in labels.items()}
        has_unknown |= any(one.any() for one in is_unknown.values())
        labels = {kind: np.where(is_unknown[kind], 0, one) for kind, one in labels.items()}
        chosen = _whole(frame, labels)
        kinds.append(chosen)
        shape = images[-1].shape
        objects.append(labels.get(chosen, np.zeros(shape, np.uint16)))
        unknown.append(is_unknown.get(chosen, np.zeros(shape, bool)))
    problems += _unlike_sizes([frame for frame, _ in frames], images) if not problems else []
    raise_if_any(problems)
    ids = [frame.id for frame, _ in frames]
    _tell(ids, objects, kinds)
    highest = max(image.dtype for image in images)
    is_labelled = np.array([kind is not None for kind in kinds])
    images = np.stack(images).astype(highest)
    stacks = images, np.stack(objects), np.stack(unknown)
    return Labelled(ids, *stacks, is_labelled, has_unknown)


def _read_image(path):
    pages = read_pages(path)
    # A library may write few slices as the colours of one page.
    picture = read_picture(path) if len(pages) == 1 and len(pages[0]) > 1 else None
    if picture and (picture.is_array or picture.has_planes):
        pages = picture.pixels
    if len(pages) > 1:
        raise ValueError(
            f"{path} is a stack of {len(pages)} planes. Expected: one grey image, a frame of a "
            "2-D sequence, in a file of its own. Sequences of stacks (3-D) are not supported; save "
            "one plane of each."
        )
    (image,) = pages
    if len(image) != 1 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{path} must be a grey image of 8 or 16 bits. Received: {len(image)} channel(s) of "
            f"the type {image.dtype}. Convert it to grey; are images and labels swapped?"
        )
    return image[0]


def _read_objects(path, image):
    objects = read_instances(path, MOST_OBJECTS)
    if objects.shape != image.shape:
        raise ValueError(
            f"{path} must have the size of its frame, {_size(image)}. Received: {_size(objects)}."
        )
    return objects.astype(np.uint16)


def _whole(frame, labels):
    """Gives the kind of the annotation to take: silver where gold is clearly partial; or None."""
    if {"GT", "ST"} <= set(labels):
        gold, silver = (_count(labels[kind]) for kind in ("GT", "ST"))
        if gold < LEAST_OBJECTS * silver:
            print(
                f"Frame {frame.id}: the gold truth has {gold} objects, the silver truth {silver}; "
                "the gold is taken for partial, the silver is used."
            )
            return "ST"
    return next(iter(labels), None)


def _unlike_sizes(frames, images):
    return [
        f"{frame.image} must have the size of the first frame, {_size(images[0])}. Received: "
        f"{_size(image)}. Frames of one size are trained and tested together."
        for frame, image in zip(frames, images)
        if image.shape != images[0].shape
    ]


def _tell(ids, objects, kinds):
    """Says what was read, and which annotations are doubtful.

    Of a doubtful one most objects lie in pieces, or it has far fewer than those around it.
    """
    labelled = [(name, _count(one)) for name, one, kind in zip(ids, objects, kinds) if kind]
    numbers = ", ".join(
        f"{kinds.count(kind)} {words} truth" for kind, words in KINDS.items() if kind in kinds
    )
    total = sum(count for _, count in labelled)
    print(f"{len(ids)} frames, {ids[0]} to {ids[-1]}: {numbers or 'no truth'}, {total} objects.")
    in_pieces = [name for name, one in zip(ids, objects) if is_mostly_in_pieces(one)]
    if in_pieces:
        print(
            f"NOTE: most numbers in {shortened(in_pieces, 4)} stand for several pieces that lie "
            "apart. Each object needs a number of its own (skimage.measure.label); class numbers "
            "are prepared with prepare_datasets_folder.py."
        )
    for index, (name, count) in enumerate(labelled):
        around = [n for _, n in labelled[max(0, index - 2) : index + 3]]
        if count < LEAST_OBJECTS * np.median(around):
            print(
                f"Frame {name} has {count} objects, those around it {np.median(around):.0f}. If it "
                f"is annotated in part only, leave it out: --skip {':'.join(name.rsplit('_', 1))}"
            )


def check(read, ignore=None):
    """Raises a UserError where annotations cannot be meant.

    No frame holds an object, all of a frame have one number, or no pixel has that of unknown kind.

    Args:
        read: {"train": Labelled or None, "test": Labelled or None}.
        ignore: number of label pixels of unknown kind; None without them.
    """
    problems = _ignored_nowhere(read, ignore) if ignore is not None else []
    for use, data in read.items():
        if not data or not data.is_labelled.any():
            continue
        frames = (
            f"the {data.is_labelled.sum()} annotated frames to "
            f"{'train on' if use == 'train' else 'test on'} ({data.ids[0]} to {data.ids[-1]})"
        )
        most = max(map(_count, data.objects))
        if not most:
            problems.append(f"No object in any of {frames}. Are these the right annotations?")
        elif most == 1 and _are_masks(data.objects):
            problems.append(
                f"In {frames} every object must have a number of its own. Received: one number for "
                "all of a frame. Number them (skimage.measure.label); objects that touch need "
                "different numbers."
            )
    raise_if_any(problems)
    tell_copies({use: (data.ids, data.images) for use, data in read.items() if data})


def _ignored_nowhere(read, ignore):
    """Words that no label pixel has the number of unknown kind -> list of one problem or none."""
    labelled = [data for data in read.values() if data and data.is_labelled.any()]
    if not labelled or any(data.has_unknown for data in labelled):
        return []
    highest = np.unique(np.concatenate([np.unique(data.objects) for data in labelled]))[-3:]
    return [
        f"--ignore must be a number that label pixels have. Received: {ignore}, which none has; "
        f"the highest are {', '.join(map(str, highest))}. Correct it, or leave it out."
    ]


# ---------------------------------------------------------------- writing


def write(read, arguments):
    """Writes the HDF5 files.

    Of a half without frames the files of an earlier run stay where the other half is a pair, as
    with --only of the other preparations. With sequences they are removed: all were chosen anew,
    and what trains now may be what tested then.

    Args:
        read: {"train": Labelled or None, "test": Labelled or None}.
        arguments: as parse_arguments gives them.
    """
    output_folder = absolute_path(arguments.output)

    def path(kind, use):
        return output_folder / f"CTC_dataset_{kind}_{use}.hdf5"

    with hdf5_files() as store:
        for use, data in read.items():
            if data is None:
                continue
            objects, unknown, ids = data.objects, data.is_unknown, data.ids
            if use == "train":
                labels, weights = learnt(objects, unknown, arguments)
                names = ("w0", "sigma", "border")
                settings = {name: getattr(arguments, name) for name in names}
                store(path("groundTruth", use), labels[:, np.newaxis], ids=ids)
                store(path("weightMaps", use), weights[:, np.newaxis], ids=ids, **settings)
            extra = {"ids": ids, "labelled": data.is_labelled}
            if unknown.any():
                extra["unknown"] = unknown[:, np.newaxis]
            store(path("instances", use), objects[:, np.newaxis], **extra)
            store(path("imgs", use), data.images[:, np.newaxis], ids=ids)
    for use in (use for use, data in read.items() if data is None):
        kinds = ("imgs", "instances", "groundTruth", "weightMaps")
        reason = f"No frames to {use} on were given"
        settle_earlier([path(kind, use) for kind in kinds], reason, stay=arguments.has_pair)
    print(f"Written to {output_folder}")


def learnt(objects, is_unknown, arguments):
    """Makes what the network learns of the objects: a binary label and a weight map.

    Args:
        objects: (N, H, W) uint16.
        is_unknown: (N, H, W) bool, pixels that train nothing.
        arguments: with border, w0 and sigma.
    Returns:
        labels (N, H, W) uint8 in {0, 255}; weights (N, H, W) float32.
    """
    cells = np.stack([carve_touching(one, arguments.border) for one in objects])
    if not cells.any():
        raise UserError(
            f"--border {arguments.border} leaves nothing of any object that trains. Received: "
            "touching objects that are smaller. The default is 1."
        )
    labels = np.where(is_unknown, 1, cells * 255).astype(np.uint8)
    try:
        balance = class_weights(labels, ignore=1)
    except ValueError as error:  # no background anywhere
        raise UserError(str(error)) from error
    width = 2 * arguments.border
    print(f"class weights w_c: background {balance[0]:.5f}, cell {balance[1]:.5f}", flush=True)
    print(f"Between touching objects lies a border of {width} pixels, {arguments.border} of each.")
    weights = [
        weight_map(label, balance, arguments.w0, arguments.sigma, instance_map=one, ignore=1)
        for label, one in zip(labels, objects)
    ]
    labels[is_unknown] = 0
    return labels, np.stack(weights).astype(np.float32)


def _are_masks(objects):
    """Tells whether frames of one number each show no objects, but what is foreground."""
    highest = {0, 255, 65_535}
    return highest.issuperset(np.unique(objects)) or any(
        ndimage.label(one, np.ones((3, 3)))[1] > 1 for one in objects
    )


def _count(objects):
    return np.count_nonzero(np.unique(objects))


def _size(image):
    return f"{image.shape[1]} x {image.shape[0]} pixels"


if __name__ == "__main__":
    sys.exit(run_script(main))
