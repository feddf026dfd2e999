"""Tests the same weights under every backend of Keras and compares the confusion matrices.

    python -m benchmarks.backends [--output benchmarks/backends.md] [--python torch=/path/python]

With UNET_TEST_DATA (a folder with DRIVE/ and orobix_test/) retina-unet's weights on DRIVE, else an
untrained network on synthetic photographs; `inference = full_image`, float32. A backend that is not
installed is named as such; --python gives one another interpreter. Expected: no backend differs
from TensorFlow by more than 0.05 % of the pixels; under 3 minutes on two CPU cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.run import REPOSITORY, describe_place, environment, write_untrained
from benchmarks.tables import table
from lib.backends import BACKENDS

LARGEST_SHARE = 0.0005
FAILED, MORE = "failed: ", "MORE THAN"


def main():
    """Reads the command line, tests under each backend, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "backends.md")
    parser.add_argument(
        "--python", action="append", default=[], help="BACKEND=INTERPRETER, any number of times"
    )
    arguments = parser.parse_args()
    interpreters = dict(word.split("=", 1) for word in arguments.python)

    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        tested = {
            backend: test(Path(folder), backend, interpreters.get(backend, sys.executable))
            for backend in BACKENDS
        }
    text = "# The same weights under every backend\n\n"
    text += f"`python -m benchmarks.backends` {describe_place()}.\n\n"
    text += f"Data: {data}. One pass over each image.\n\n"
    text += table(("backend", "confusion matrix inside the FOV", "pixels that moved"), rows(tested))
    arguments.output.write_text(text + "\n")
    print(text)
    if any(word in text for word in (FAILED, MORE)):
        raise SystemExit("Not every backend gave TensorFlow's confusion matrix.")


def prepare(folder):
    """Writes data, weights and configuration.txt; says which data they are."""
    real = os.environ.get("UNET_TEST_DATA")
    if real:
        source, weights = Path(real) / "DRIVE", Path(real) / "orobix_test" / "test_best_weights.h5"
        prepared = _run(["prepare_datasets_DRIVE.py", source, "--only", "test"], folder)
    else:
        prepared = _run(
            ["demo/prepare_datasets_phantom.py", "phantom", "--num-training", "1"], folder
        )
        weights = write_untrained(folder / "untrained.h5")
    if prepared.returncode or not weights.is_file():
        raise SystemExit(prepared.stdout if prepared.returncode else f"{weights} does not exist.")
    text = (REPOSITORY / "configuration.txt").read_text()
    changes = [("inference = patches", "inference = full_image")]
    if not real:
        changes += [
            ("path_local = .", "path_local = ./phantom"),
            ("full_images_to_test = 20", "full_images_to_test = 4"),
        ]
    for old, new in changes:
        text = text.replace(f"\n{old}", f"\n{new}")
    (folder / "configuration.txt").write_text(text)
    (folder / "test").mkdir()
    (folder / "test" / "test_best_weights.h5").write_bytes(weights.read_bytes())
    return "DRIVE, retina-unet's weights" if real else "synthetic photographs, untrained network"


def test(folder, backend, python):
    """Runs run_testing.py under a backend; gives the confusion matrix, or why there is none."""
    installed = subprocess.run([python, "-c", f"import {backend}"], capture_output=True)
    if installed.returncode:
        return "not installed here"
    done = _run(["run_testing.py"], folder, backend, python)
    if done.returncode:
        return FAILED + (done.stdout.strip().splitlines() or ["no output"])[-1]
    performances = json.loads((folder / "test" / "performances.json").read_text())
    return performances["inside_FOV"]["confusion_matrix"]


def _run(words, folder, backend="tensorflow", python=sys.executable):
    return subprocess.run(
        [python, REPOSITORY / words[0], *words[1:]],
        cwd=folder,
        env=environment(backend),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(tested):
    """Compares each confusion matrix with TensorFlow's."""
    reference = tested["tensorflow"]
    compared = []
    for backend, matrix in tested.items():
        if isinstance(matrix, str) or isinstance(reference, str):
            compared.append([backend, matrix, ""])
            continue
        # A pixel that moves from one cell to another changes two.
        pairs = [pair for lines in zip(matrix, reference) for pair in zip(*lines)]
        share = sum(abs(a - b) for a, b in pairs) / 2 / sum(map(sum, reference))
        verdict = "at most" if share <= LARGEST_SHARE else MORE
        compared.append([backend, matrix, f"{share:.4%}, {verdict} {LARGEST_SHARE:.2%}"])
    return compared


if __name__ == "__main__":
    main()
