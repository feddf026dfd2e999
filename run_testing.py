"""Tests the experiment that configuration.txt describes, after its training.

    python run_testing.py [configuration file]

Starts the prediction script of src/, which writes probabilities, pictures and figures into <name>/.
"""

import sys

from lib.errors import tell_missing_packages

with tell_missing_packages():
    from src.launch import launch

if __name__ == "__main__":
    sys.exit(launch("testing"))
