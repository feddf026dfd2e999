"""Trains the padded U-Net with a sigmoid on membranes for 5 epochs, as a Keras tutorial has it.

    python -m benchmarks.padded_membranes ISBI

ISBI holds train-volume.tif and train-labels.tif. Their slices become images of 256 x 256, the last
five of them test images; benchmarks/padded_membranes.txt has the settings. Expected result: the
folder padded_membranes/ in the current one, with a report for the slices that trained and one for
those held out, and their accuracies; 52 minutes on a busy CPU core with bfloat16.
Started again it goes on where it was.

The well-known Keras U-Net for these slices scales them to 256 x 256, ends in a sigmoid, trains for
5 epochs and reports an accuracy of about .97, on the slices that it trained on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.run import REPOSITORY
from lib.configuration import read_configuration
from lib.errors import run_script
from lib.experiment import locate
from lib.image_files import read_stack
from src.tasks import TASKS

FOLDER = Path("padded_membranes")
# Where run_testing.py writes, for the slices that trained and for those held out.
PLACES = {"training": FOLDER / "results" / "training", "test": FOLDER / "results"}
HELD_OUT = 5
CONFIGURATION = REPOSITORY / "benchmarks" / "padded_membranes.txt"


def main():
    """Prepares, trains, tests on both parts, prints the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="holds train-volume.tif and train-labels.tif")
    save_slices(locate(parser.parse_args().folder), FOLDER / "slices")
    _script(
        "prepare_datasets_folder.py",
        FOLDER / "slices",
        *("--output", FOLDER / "datasets", "--size", "256x256", "--test", f"last:{HELD_OUT}"),
    )
    log = FOLDER / "experiment" / "experiment_log.csv"
    num_epochs = read_configuration(CONFIGURATION, TASKS).training_settings.N_epochs
    if not log.is_file() or len(log.read_text().splitlines()) <= num_epochs:
        _script("run_training.py", CONFIGURATION)
    for part, folder in PLACES.items():
        text = CONFIGURATION.read_text().replace("images = test", f"images = {part}")
        configuration = FOLDER / f"{part}.txt"
        configuration.write_text(text)
        _script("run_testing.py", configuration, "--output", FOLDER / "results")
        scores = json.loads((folder / "performances.json").read_text())
        print(f"Accuracy on the {part} slices: {scores['pixel_accuracy']:.4f}")


def save_slices(source, folder):
    """Writes each labelled slice of ISBI 2012 as an image, and its label beside it.

    Args:
        source: folder with train-volume.tif and train-labels.tif.
        folder: gets images/<number>.png and labels/<number>.png.
    Raises:
        UserError: if a stack cannot be read.
    """
    for kind, name in (("images", "train-volume.tif"), ("labels", "train-labels.tif")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(read_stack(source / name, is_label=kind == "labels")):
            Image.fromarray(pixels).save(folder / kind / f"{number:02}.png")


def _script(name, *arguments):
    subprocess.run([sys.executable, REPOSITORY / name, *arguments], check=True)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
