"""Writes synthetic data with ground truth: as DRIVE, ISBI 2012, the CTC, and a folder of one's own.

They need no download and no permission: the demonstration and the tests run on them.

    python demo/prepare_datasets_phantom.py [folder] [--num-training 8] [--num-test 4]
                   [--num-slices 6] [--num-frames 6] [--seed 0] [--height pixels] [--width pixels]

Expected result in the folder (default ./demo/phantom), after about 15 seconds on one CPU core:
    DRIVE/{training,test}/{images,1st_manual,mask}      21_training.tif, 01_test.tif ...
    ISBI/{train-volume,train-labels,test-volume}.tif    8-bit stacks, 255 = cell, 0 = membrane
    CTC/{01,02}/t000.tif, {01,02}_GT/SEG/man_seg000.tif the Cell Tracking Challenge's layout
    stained/{training,test}/{images,labels}/*.png       photographs and classes, classes.txt
    {DRIVE,ISBI,CTC}_datasets_training_testing/*.hdf5,
    stained_datasets/*.hdf5                             what run_training.py reads
    PHANTOM                                             the list of the files written here

The same seed gives the same pictures. Files of an earlier run are replaced; a folder whose DRIVE,
ISBI, CTC or stained holds files that this script did not write is refused, so that no real data
are lost or mixed.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project lies above

from lib.errors import UserError, run_script, tell_missing_packages  # noqa: E402

with tell_missing_packages():
    import numpy as np
    from PIL import Image

    import prepare_datasets_CTC
    import prepare_datasets_DRIVE
    import prepare_datasets_folder
    import prepare_datasets_ISBI
    from lib import phantom

MARKER = "PHANTOM"
FIRST_TRAINING_ID, FIRST_TEST_ID = 21, 1
SMALLEST_SIDE = 64
DRIVE_SIZE, ISBI_SIZE, CTC_SIZE = (584, 565), (512, 512), (256, 256)  # height, width
STAINED_SIZES = ((128, 160), (97, 130))  # in turn
FOLDERS = ("DRIVE", "ISBI", "CTC", "stained")
SEQUENCES = ("01", "02")


def main():
    """Reads the command line, writes the pictures and prepares them for the training."""
    arguments = parse_arguments()

    # 1. Check before anything is written.
    check(arguments)

    # 2. Draw the pictures and write them.
    write(arguments.folder, arguments)

    # 3. Turn them into the HDF5 files that the trainings read.
    for name, preparation in zip(
        FOLDERS, (prepare_datasets_DRIVE, prepare_datasets_ISBI, prepare_datasets_CTC)
    ):
        output_folder = arguments.folder / f"{name}_datasets_training_testing"
        preparation.prepare(arguments.folder / name, output_folder)
    survey = prepare_datasets_folder.check(arguments.folder / "stained")
    prepare_datasets_folder.write(survey, arguments.folder / "stained_datasets")


def parse_arguments(words=None):
    """Reads the command line; `words` stands in for it in tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo/phantom"))
    parser.add_argument("--num-training", type=int, default=8, help="fundus images to train on")
    parser.add_argument("--num-test", type=int, default=4, help="fundus images to test on")
    parser.add_argument("--num-slices", type=int, default=6, help="slices in each membrane stack")
    parser.add_argument("--num-frames", type=int, default=6, help="frames in each sequence")
    parser.add_argument("--seed", type=int, default=0, help="0 or more")
    parser.add_argument("--height", type=int, help="of every picture; default 584, 512 and 256")
    parser.add_argument("--width", type=int, help="of every picture; default 565, 512 and 256")
    return parser.parse_args(words)


def check(arguments):
    """Raises a UserError that lists all problems of the arguments and of the folder."""
    least = {
        "--num-training": 1, "--num-test": 1, "--num-slices": 1, "--num-frames": 1,
        "--seed": 0,
        "--height": SMALLEST_SIDE, "--width": SMALLEST_SIDE,
    }  # fmt: skip
    problems = []
    for option, smallest in least.items():
        value = getattr(arguments, option.lstrip("-").replace("-", "_"))
        if value is not None and value < smallest:
            problems.append(f"{option} must be {smallest} or more. Received: {value}.")
    problems += find_foreign_files(arguments.folder)
    if problems:
        raise UserError(problems)


def find_foreign_files(folder):
    """Gives a problem for each sub-folder that holds files which this script did not write."""
    if folder.exists() and not folder.is_dir():
        return [f"{folder} is a file; name a folder for the phantom data."]
    written = read_marker(folder)
    problems = []
    for name in FOLDERS:
        files = (path for path in sorted((folder / name).rglob("*")) if not path.is_dir())
        foreign = [path for path in files if path.relative_to(folder).as_posix() not in written]
        if foreign:
            problems.append(
                f"{folder / name} holds {len(foreign)} file(s) that this script did not write, "
                f"such as {foreign[0].name}. Real data are never replaced by synthetic ones: "
                f"name another folder, for example {folder}_2."
            )
    return problems


def read_marker(folder):
    """Gives the files that an earlier run wrote, as a set of paths relative to the folder."""
    marker = folder / MARKER
    if not marker.is_file():
        return set()
    lines = marker.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
    # Nothing outside these folders is ever taken away, whatever the marker says.
    ours = tuple(f"{name}/" for name in FOLDERS)
    return {line for line in lines if line.startswith(ours) and ".." not in line}


def write(folder, arguments):
    """Writes the data sets; the files of an earlier run are removed.

    The marker comes first: the files of a run that is killed are recognised by the next one.
    """
    seeds = np.random.SeedSequence(arguments.seed).spawn(8)
    drive_size = (arguments.height or DRIVE_SIZE[0], arguments.width or DRIVE_SIZE[1])
    isbi_size = (arguments.height or ISBI_SIZE[0], arguments.width or ISBI_SIZE[1])
    ctc_size = (arguments.height or CTC_SIZE[0], arguments.width or CTC_SIZE[1])
    numbers = {"training": arguments.num_training, "test": arguments.num_test}

    planned = [*drive_files(numbers), *isbi_files(), *ctc_files(arguments.num_frames)]
    planned += stained_files(numbers)
    start_afresh(folder, planned)
    for (split, number), seed in zip(numbers.items(), seeds):
        write_drive_split(folder / "DRIVE" / split, split, seed.spawn(number), drive_size)
    write_isbi(folder / "ISBI", seeds[2:4], arguments.num_slices, isbi_size)
    for sequence, seed in zip(SEQUENCES, seeds[4:6]):
        write_ctc(folder / "CTC", sequence, seed, arguments.num_frames, ctc_size)
    write_stained(folder / "stained", numbers, seeds[6:])
    print(f"Wrote {sum(numbers.values())} fundus images to {folder / 'DRIVE'}, "
          f"2 x {arguments.num_slices} slices to {folder / 'ISBI'}, "
          f"2 x {arguments.num_frames} frames to {folder / 'CTC'} and "
          f"{sum(numbers.values())} sections to {folder / 'stained'}")  # fmt: skip


def start_afresh(folder, planned):
    """Removes the files of an earlier run and lists the planned ones in the marker."""
    for name in read_marker(folder):
        (folder / name).unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made: {error.strerror}. Name another folder."
        ) from error
    title = "Written by prepare_datasets_phantom.py, which replaces these files when it runs again:"
    (folder / MARKER).write_text("\n".join([title, *planned]) + "\n")


def drive_names(split, index):
    """Gives the paths of an image, its ground truth and its mask in the folder of the split."""
    number = index + (FIRST_TRAINING_ID if split == "training" else FIRST_TEST_ID)
    return (
        f"images/{number:02d}_{split}.tif",
        f"1st_manual/{number:02d}_manual1.gif",
        f"mask/{number:02d}_{split}_mask.gif",
    )


def drive_files(numbers):
    """Gives the paths of all fundus files, relative to the target folder."""
    return [
        f"DRIVE/{split}/{name}"
        for split, number in numbers.items()
        for index in range(number)
        for name in drive_names(split, index)
    ]


def isbi_files():
    """Gives the paths of the membrane stacks, relative to the target folder."""
    return [f"ISBI/{name}.tif" for name in ("train-volume", "train-labels", "test-volume")]


def ctc_names(sequence, number):
    """Gives the paths of a frame and its gold truth, relative to the folder CTC."""
    return f"{sequence}/t{number:03d}.tif", f"{sequence}_GT/SEG/man_seg{number:03d}.tif"


def ctc_files(num_frames):
    """Gives the paths of all frames and their truth, relative to the target folder."""
    return [
        f"CTC/{name}"
        for sequence in SEQUENCES
        for number in range(num_frames)
        for name in ctc_names(sequence, number)
    ]


def stained_names(split, index):
    """Gives the paths of a section and its label image, relative to the folder stained."""
    return tuple(f"{split}/{kind}/{split}_{index}.png" for kind in ("images", "labels"))


def stained_files(numbers):
    """Gives the paths of all sections, relative to the target folder."""
    names = [n for split in numbers for i in range(numbers[split]) for n in stained_names(split, i)]
    return [f"stained/{name}" for name in ("classes.txt", *names)]


def write_drive_split(folder, split, seeds, size):
    """Writes one fundus image for each seed, with its ground truth and its mask."""
    for name in ("images", "1st_manual", "mask"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(seeds):
        image, vessels, fov = phantom.fundus(seed, *size)
        image_name, vessels_name, fov_name = drive_names(split, index)
        Image.fromarray(image).save(folder / image_name, compression="tiff_lzw")
        write_mask(folder / vessels_name, vessels)
        write_mask(folder / fov_name, fov)


def write_mask(path, mask):
    """Writes a mask of {0, 1} as a GIF of 0 and 255 with the grey palette, like DRIVE's."""
    Image.fromarray(mask * np.uint8(255)).save(path, optimize=False)


def write_isbi(folder, seeds, num_slices, size):
    """Writes a training stack with its labels and a test stack without."""
    folder.mkdir(parents=True, exist_ok=True)
    slices, labels = phantom.membranes(seeds[0], *size, num_slices)
    write_stack(folder / "train-volume.tif", slices)
    write_stack(folder / "train-labels.tif", labels)
    write_stack(folder / "test-volume.tif", phantom.membranes(seeds[1], *size, num_slices)[0])


def write_ctc(folder, sequence, seed, num_frames, size):
    """Writes a sequence of touching cells in the challenge's layout."""
    for number, pair in enumerate(zip(*phantom.touching_cells(seed, *size, num_frames))):
        for name, picture in zip(ctc_names(sequence, number), pair):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / name, compression="tiff_lzw")


def write_stained(folder, numbers, seeds):
    """Writes sections in colour with label images of class numbers, in two sizes."""
    for (split, number), seed in zip(numbers.items(), seeds):
        for index, one in enumerate(seed.spawn(number)):
            pair = phantom.stained(one, *STAINED_SIZES[index % len(STAINED_SIZES)])
            for name, picture in zip(stained_names(split, index), pair):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(folder / name)
    lines = [f"{name} {colour}\n" for name, colour in phantom.CLASSES.items()]
    (folder / "classes.txt").write_text("".join(lines))


def write_stack(path, slices):
    """Writes (num_slices, height, width) uint8 as a multi-page 8-bit TIFF."""
    first, *others = [Image.fromarray(one) for one in slices]
    first.save(path, save_all=True, append_images=others, compression="tiff_adobe_deflate")


if __name__ == "__main__":
    sys.exit(run_script(main))
