"""Measures our way against the plain way and against the machine's limit, in one run.

    make bench        or        python -m benchmarks.run [--quick] [--output benchmarks]

Expected result: results.md, results.json and profile.md in the output folder, after about 11
minutes on two quiet CPU cores. With the environment variable UNET_TEST_DATA (a folder with DRIVE/
and orobix_test/) on DRIVE and retina-unet's weights, else on synthetic photographs of DRIVE's size.
--quick measures everything on tiny images in seconds: it tests the benchmark, not the code.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from benchmarks import tables
from lib import phantom
from lib.devices import num_cores
from lib.extract_patches import crop_to_square
from lib.pre_processing import preprocess

REPOSITORY = Path(__file__).resolve().parents[1]
# way: backend, precision
WAYS = {
    "plain": ("tensorflow", "float32"),
    "tensorflow float32": ("tensorflow", "float32"),
    "tensorflow bfloat16": ("tensorflow", "bfloat16"),
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
    "numpy": ("tensorflow", "float32"),
}
TENSORFLOW = ["tensorflow float32", "tensorflow bfloat16"]
OPENVINO = ["openvino float32", "openvino bfloat16"]
CURVES = ("images", "pixels", "stride", "batch", "patches")
DISTINCT_PHANTOMS = 4


def main():
    """Reads the command line, measures, writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, seconds in all")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks")
    arguments = parser.parse_args()

    # 1. The data, written once for all processes.
    with tempfile.TemporaryDirectory() as folder:
        task = write_data(Path(folder), arguments.quick)
        run = describe_run(task)

        # 2. The measurements, one after another.
        measured = measure_all(task)

    # 3. The tables.
    measured["run"] = {**run, "load": os.getloadavg()[0]}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "results.json").write_text(json.dumps(measured, indent=1) + "\n")
    (arguments.output / "results.md").write_text(tables.results(measured))
    (arguments.output / "profile.md").write_text(tables.profile(measured))
    print(tables.results(measured))
    print(f"Written to {arguments.output}: results.md, results.json, profile.md")


# ---------------------------------------------------------------- data


def write_data(folder, quick):
    """Writes images and weights for all measurements.

    Returns:
        dictionary that every measurement gets: paths of both, and whether they are real.
    """
    real = None if quick else os.environ.get("UNET_TEST_DATA")
    weights = real and Path(real) / "orobix_test" / "test_best_weights.h5"
    if real and not (weights.is_file() and (Path(real) / "DRIVE").is_dir()):
        raise SystemExit(
            f"UNET_TEST_DATA = {real} must hold DRIVE/ and {weights.name} in orobix_test/."
        )
    subsets = {
        name: _read_drive(Path(real), name) if real else _phantoms(name, quick)
        for name in ("training", "test")
    }
    photographs, truth, masks = subsets["test"]
    train_photographs, train_truth, _ = subsets["training"]
    np.savez(
        folder / "data.npz",
        photographs=photographs,
        images=preprocess(photographs),
        ground_truth=truth,
        fov_masks=masks,
        train_images=crop_to_square(preprocess(train_photographs)),
        train_ground_truth=crop_to_square(train_truth),
    )
    return {
        "data": str(folder / "data.npz"),
        "weights": str(weights or write_untrained(folder / "untrained.h5")),
        "quick": quick,
        "real": bool(real),
    }


def _read_drive(folder, subset):
    from prepare_datasets_DRIVE import read_subset

    arrays, problems = read_subset(folder / "DRIVE" / subset)
    if problems:
        raise SystemExit("\n".join(problems))
    return arrays["images"], *(
        (arrays[name] > 0).astype(np.uint8) for name in ("1st_manual", "mask")
    )


def _phantoms(subset, quick):
    """Draws a few photographs and repeats them to as many as DRIVE has."""
    size = (96, 88) if quick else (584, 565)
    seeds = range(DISTINCT_PHANTOMS) if subset == "test" else range(10, 10 + DISTINCT_PHANTOMS)
    drawn = [phantom.fundus(seed, *size) for seed in seeds]
    number = DISTINCT_PHANTOMS if quick else 20
    photographs, truth, masks = (
        np.stack([np.asarray(part) for part in parts] * (number // DISTINCT_PHANTOMS))
        for parts in zip(*drawn)
    )
    return photographs.transpose(0, 3, 1, 2), truth[:, np.newaxis], masks[:, np.newaxis]


def write_untrained(path):
    """Writes random weights of get_unet as Keras 1 did, so that every way reads the same."""
    filters = [1, 32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 2]
    joined = {6: 128 + 64, 8: 64 + 32}  # convolutions that see an up-sampled map and a skip
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for i in range(11):
            inputs, size = joined.get(i, filters[i]), 1 if i == 10 else 3
            name = f"convolution2d_{i + 1}"
            deviation = np.sqrt(2 / (inputs * size * size))
            kernel = rng.normal(0, deviation, (filters[i + 1], inputs, size, size))
            file[f"{name}/{name}_W"] = kernel.astype(np.float32)
            file[f"{name}/{name}_b"] = np.zeros(filters[i + 1], np.float32)
    return path


# ---------------------------------------------------------------- measurements


class Worker:
    """A process that measures on one engine and in one precision, whenever it is asked."""

    def __init__(self, task, way):
        backend, precision = WAYS[way]
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8")
        words = {**task, "backend": backend, "precision": precision}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measure", json.dumps(words)],
            cwd=REPOSITORY,
            env=environment(backend),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
        )
        self.is_ready = False

    def measure(self, **words):
        """Sets a measurement up when it is first asked for, later measures -> dictionary."""
        if not self.is_ready:
            self._answer(words)
            self.is_ready = True
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self._answer(words)

    def _answer(self, words):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"The measurement {words} failed:\n{self.log.read()}")
        return json.loads(line)

    def close(self):
        """Ends the process."""
        self.process.communicate()
        self.log.close()


class Measurer:
    """Runs measurements one after another.

    Each gets fresh processes, whose peak memory is its own; in a quick run, which only shows that
    everything works, all share one process an engine.
    """

    def __init__(self, task):
        self.task = task
        self.shared = {}
        few = ("plain", "numpy", TENSORFLOW[0], OPENVINO[1])
        is_chosen = few if task["quick"] else WAYS
        self.ways = [way for way in WAYS if way in is_chosen and is_installed(WAYS[way][0])]

    def take_turns(self, name, ways, rounds, **options):
        """Measures all ways in turn, several rounds -> {way: [answer of each round]}."""
        print(f"{datetime.datetime.now():%H:%M:%S} {name} {options or ''}", file=sys.stderr)
        workers = self._start([way for way in ways if way in self.ways])
        for way, worker in workers.items():
            worker.measure(name=name, way=way, **options)
        answers = {way: [] for way in workers}
        # A quick run measures once, and a curve's two points.
        most = 2 if name == "curve" else 1
        for _ in range(min(rounds, most) if self.task["quick"] else rounds):
            for way, worker in workers.items():
                answers[way].append(worker.measure(name=name, way=way, **options))
        if not self.task["quick"]:
            for worker in workers.values():
                worker.close()
        return answers

    def _start(self, ways):
        if not self.task["quick"]:
            return {way: Worker(self.task, way) for way in ways}
        for way in self.ways:
            if WAYS[way] not in self.shared:
                self.shared[WAYS[way]] = Worker(self.task, way)
        return {way: self.shared[WAYS[way]] for way in ways}

    def close(self):
        """Ends the processes that are left."""
        for worker in self.shared.values():
            worker.close()


def environment(backend):
    """Gives the environment of a process on a backend, without a GPU."""
    own = {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return {**os.environ, **own}


def best_way(stride5):
    """Gives the setting that predicted fastest in this run."""
    ours = {way: answers for way, answers in stride5.items() if way != "plain"}
    return min(ours, key=lambda way: min(answer["seconds"] for answer in ours[way]))


def is_installed(backend):
    """Tells whether a package can be imported."""
    return importlib.util.find_spec(backend) is not None


def measure_all(task):
    """Measures everything -> {name: {way: [answers]}}."""
    measurer = Measurer(task)
    measure, ours = measurer.take_turns, TENSORFLOW[0]
    networks = [*TENSORFLOW, *OPENVINO]
    stride5 = measure("stride5", ["plain", *networks], 3)
    best = best_way(stride5)
    measured = {
        "best": best,
        "ours": ours,
        "matrix_product": measure("matrix_product", ["numpy", *networks], 2),
        "training": measure("training", ["plain", *TENSORFLOW], 5),
        "stride5": stride5,
        "image": measure("image", ["plain", best], 3),
        "whole_images": measure("whole_images", dict.fromkeys([ours, best]), 2),
        "preparation": {
            **measure("preparation", ["plain"], 2, num_patches=2000),
            **measure("preparation", [ours], 4, num_patches=190_000),
        },
        "figures": measure("figures", ["plain", ours], 4),
        "curves": {
            along: [answer for answer in measure("curve", [ours], 5, along=along)[ours]
                    if "x" in answer]
            for along in CURVES
        },
        "profile_stride5": measure("profile_stride5", networks, 2),
    }  # fmt: skip
    measurer.close()
    return measured


def describe_run(task):
    """Says what ran where, for the first line of the tables."""
    return {
        "command": "make bench" + (" (--quick)" if task["quick"] else ""),
        "where": describe_place(),
        "real": task["real"],
        "quick": task["quick"],
        # 584 x 565 pixels padded to 588 x 568, patches of 48 x 48 at stride 5
        "patches_per_image": 109 * 105,
    }


def describe_place():
    """Says at which commit, when, on what hardware and with which packages."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True
    )
    packages = [name for name in ("tensorflow", "keras", "openvino", "numpy") if is_installed(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return (
        f"at commit {commit.stdout.strip() or 'unknown'}, {datetime.date.today()}, on "
        f"{_processor()}, cores used: {num_cores()}; {versions}"
    )


def _processor():
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    extras = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{names[0] if names else 'unknown processor'} ({', '.join(extras)})"


if __name__ == "__main__":
    main()
