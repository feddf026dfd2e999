"""Trains the paper's unpadded U-Net on cells that touch.

    python -m src.cellsNN_training [configuration_CTC.txt]

The same as `python run_training.py configuration_CTC.txt`, without a log file. Expected result: a
folder <name>/ with the best and the last weights, a log, loss curves and sample pictures: the
deformed tiles, their labels with the borders between cells, their weights. docs/RESULTS.md gives
scores and times.
"""

import sys

from lib import unpadded
from lib.slices import load_labelled
from lib.training import training_run


def main(configuration, experiment, overwrite=False):
    """Trains as a configuration says.

    Ronneberger, Fischer, Brox 2015, section 4, table 2. Cells and background are its two classes;
    a border of background keeps cells apart, and the weight map makes the network learn it.

    Arguments and errors as in src.retinaNN_training.main.
    """
    with training_run(configuration, experiment, overwrite) as run:
        # 1. The annotated frames: labels with carved borders, weight maps of the cells as they are.
        frames = load_labelled(configuration, run.scaling)

        # 2. The training, as of the membranes.
        unpadded.train_on_tiles(run, frames, word="frame")


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("training", "cells"))
