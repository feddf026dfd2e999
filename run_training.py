"""Trains the experiment that configuration.txt describes.

    python run_training.py [configuration file] [--overwrite]

Makes the folder <name>/, copies the configuration into it and starts the training script of src/.
Started again after an interruption, it goes on from the last finished epoch.
"""

import sys

from lib.errors import tell_missing_packages

with tell_missing_packages():
    from src.launch import launch

if __name__ == "__main__":
    sys.exit(launch("training"))
