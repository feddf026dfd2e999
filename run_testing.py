"""Tests the experiment that configuration.txt describes, after its training.

    python run_testing.py [configuration file or experiment's folder] [--data folder]
                          [--output folder] [--angle degrees]

Starts the testing script of src/, which writes probabilities, pictures and scores into <name>/, or
into results/<name>/ for a shipped experiment such as pretrained/vessels.
"""

import sys

from lib.errors import tell_missing_packages

with tell_missing_packages():
    from src.launch import launch

if __name__ == "__main__":
    sys.exit(launch("testing"))
