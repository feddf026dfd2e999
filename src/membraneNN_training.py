"""Trains the paper's unpadded U-Net on membranes.

    python -m src.membraneNN_training [configuration_ISBI.txt]

The same as `python run_training.py configuration_ISBI.txt`, without a log file. Expected result: a
folder <name>/ with the best and the last weights, a log, loss curves and sample pictures that show
the deformed tiles, their labels and their weights. docs/RESULTS.md gives scores and times.
"""

import sys

from lib.slices import load_labelled
from lib.training import training_run
from lib.unpadded import train_on_tiles


def main(configuration, experiment, overwrite=False):
    """Trains as a configuration says.

    Ronneberger, Fischer, Brox 2015, section 3. What the paper leaves open: docs/DIFFERENCES.md.

    Arguments and errors as in src.retinaNN_training.main.
    """
    with training_run(configuration, experiment, overwrite) as run:
        # 1. The labelled slices with their weight maps, scaled as the weights record.
        slices = load_labelled(configuration, run.scaling)

        # 2. Tiles of them, the network, the weighted cross-entropy, and the training itself.
        train_on_tiles(run, slices)


if __name__ == "__main__":
    from src.launch import launch

    sys.exit(launch("training", "membrane"))
