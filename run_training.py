"""Trains the experiment that configuration.txt describes.

    python run_training.py [configuration file or experiment's folder] [--data folder] [--overwrite]

Makes the folder <name>/, copies the configuration into it and starts the training script of src/.
Started again after an interruption, it resumes where it was; a shipped experiment in a copy,
results/<name>/.
"""

import sys

from lib.errors import tell_missing_packages

with tell_missing_packages():
    from src.launch import launch

if __name__ == "__main__":
    sys.exit(launch("training"))
