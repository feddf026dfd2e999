"""Kills, full disks, signals, second processes: a plain restart ends as an undisturbed run.

    make test-faults [KILLS=100] [FILES=all] [SEED=0]

KILLS are shared evenly among preparing, training, testing and prediction; half of each come after a
random time, half at the opening or flushing of a random file. FILES of each step meet a full disk.
The environment variables FAULT_KILLS, FAULT_FILES and FAULT_SEED say the same.
"""

import importlib
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests import faults
from tests.processes import fork, run, wait_until
from tests.small_data import mentions, write_configuration

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FAULT_KILLS", 100))
FILES = os.environ.get("FAULT_FILES", "all")
SEED = int(os.environ.get("FAULT_SEED", 0))
# Some seconds of training: 2 epochs of 150 batches, saved often.
TRAINING = {"N_subimgs": 300, "optimizer": "adam", "learning_rate": 0.001, "saving_interval": 0.3}
# script, arguments, folder of what it writes.
STEPS = {
    "prepare DRIVE": ("prepare_datasets_DRIVE.py", ["DRIVE"], "DRIVE_datasets_training_testing"),
    "prepare ISBI": ("prepare_datasets_ISBI.py", ["ISBI"], "ISBI_datasets_training_testing"),
    "prepare CTC": ("prepare_datasets_CTC.py", ["CTC"], "CTC_datasets_training_testing"),
    "prepare folder": ("prepare_datasets_folder.py", ["stained"], "stained_datasets"),
    "training": ("run_training.py", ["configuration.txt"], "new"),
    "testing": ("run_testing.py", ["small"], "small"),
    "prediction": ("run_prediction.py", ["slices", "--experiment", "small"], "slices_segmented"),
}
# The four that a user sees; preparing takes turns.
GROUPS = {
    "preparing": [name for name in STEPS if name.startswith("prepare")],
    **{name: [name] for name in ("training", "testing", "prediction")},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with synthetic data, prepared slices, and an experiment `small` trained on them."""
    phantom = importlib.import_module("demo.prepare_datasets_phantom")
    folder = tmp_path_factory.mktemp("base")
    words = "--num-training 2 --num-test 2 --num-slices 3 --num-frames 2 --height 64 --width 72"
    phantom.write(folder, phantom.parse_arguments([str(folder), *words.split()]))
    importlib.import_module("prepare_datasets_ISBI").prepare(
        folder / "ISBI", folder / "ISBI_datasets_training_testing"
    )
    (folder / "slices").mkdir()
    for number in range(3):
        shutil.copy(folder / "ISBI" / "test-volume.tif", folder / "slices" / f"{number}.tif")
    write_configuration(folder, task="membrane", name="new", **TRAINING)
    write_configuration(folder, "small.txt", task="membrane", name="small", N_subimgs=20)
    assert fork("run_training.py", "small.txt", cwd=folder, output=folder / "output").wait() == 0
    (folder / "output").unlink()
    return folder


@pytest.fixture
def work(base, tmp_path):
    """A place for copies of the base: always the same path, which results remember."""
    return tmp_path / "work"


class Runs:
    """Runs one step again and again in fresh copies of the base, and knows its undisturbed end."""

    def __init__(self, step, base, work):
        self.step, self.base, self.work = step, base, work
        self.script, self.words, self.results = STEPS[step]
        self.output = work.with_name("output")
        self.renew()
        counted = work.with_name("count")
        counted.write_text("")
        start = time.monotonic()
        count = faults.at_moment(None, None, count_in=counted)
        assert self.start(count).wait() == 0, self.told()
        self.seconds = time.monotonic() - start
        self.moments = counted.read_text()
        self.expected = faults.outcome(self.work / self.results)

    def renew(self):
        if self.work.is_mount():
            for path in self.work.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.base, self.work, dirs_exist_ok=True)

    def start(self, fault=None):
        return fork(self.script, *self.words, cwd=self.work, output=self.output, fault=fault)

    def told(self):
        return self.output.read_text()

    def require_same_end(self):
        """Starts plainly, and requires the end of an undisturbed run."""
        status = self.start().wait()
        is_done = self.step == "training" and "is complete" in self.told()
        assert status == 0 or is_done, self.told()
        found = faults.outcome(self.work / self.results)
        assert faults.differences(found, self.expected) == []


# ---------------------------------------------------------------- kills


@pytest.mark.parametrize("group", GROUPS)
def test_a_kill_at_any_moment_costs_nothing_but_time(group, base, work):
    rng = np.random.default_rng([SEED, list(GROUPS).index(group)])
    steps = [Runs(step, base, work) for step in GROUPS[group]]
    killed, tries = 0, 0
    while killed < KILLS // len(GROUPS):
        runs = steps[tries % len(steps)]
        runs.renew()
        by_time = tries // len(steps) % 2
        moment = None if by_time else int(rng.integers(0, len(runs.moments) + 1))
        process = runs.start(faults.at_moment(moment, faults.send(signal.SIGKILL)))
        if by_time:
            latest = time.monotonic() + rng.uniform(0, runs.seconds)
            while time.monotonic() < latest and process.poll() is None:
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        tries += 1
        faults.require_whole(work)
        runs.require_same_end()
    print(f"{group}: {killed} kills in {tries} starts")


# ---------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(work):
    """A disk of 64 MB in memory at the place of work."""
    work.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield work
    subprocess.run(["umount", str(work)], check=True)


def chosen(number):
    """Lists the numbers of the files at which the disk is full, from 1 on."""
    most = number if FILES == "all" else min(int(FILES), number)
    return sorted({round(n) for n in np.linspace(1, number, most)})


# Keras opens its files of weights by itself: the disk is full since the file before, too.
@pytest.mark.parametrize(
    "step, moment", [*((step, faults.OPEN) for step in STEPS), ("training", faults.FLUSH)]
)
def test_a_full_disk_is_told_and_leaves_what_was_there(step, moment, base, small_disk):
    runs = Runs(step, base, small_disk)
    number = runs.moments.count(moment[0]) - (moment == faults.FLUSH)
    for file in chosen(number):
        runs.renew()
        fault = faults.at_moment(file, faults.fill_disk(small_disk), [moment])
        status = runs.start(fault).wait()
        (small_disk / faults.FILLER).unlink()
        told = f"file {file}, status {status}: {runs.told()}"
        assert status == 1 and "Traceback" not in told and "the disk is full" in told, told
        faults.require_whole(small_disk)
        runs.require_same_end()


@pytest.mark.parametrize("step", STEPS)
def test_a_limit_of_the_size_of_files_is_told(step, base, work):
    runs = Runs(step, base, work)
    runs.renew()
    status = runs.start(faults.limit_files).wait()
    assert (status, "Traceback" in runs.told()) == (1, False), runs.told()
    assert "larger than is allowed here (ulimit -f)" in runs.told()
    runs.require_same_end()


# ---------------------------------------------------------------- signals, and the clock


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", STEPS)
def test_a_signal_ends_a_step_with_its_status_and_leaves_nothing_half_written(
    step, number, base, work
):
    runs = Runs(step, base, work)
    runs.renew()
    middle = len(runs.moments) // 2
    status = runs.start(faults.at_moment(middle, faults.send(number))).wait()
    assert status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], runs.told()
    assert "Traceback" not in runs.told()
    assert list(work.rglob(".[0-9]*_*")) == []
    runs.require_same_end()


@pytest.mark.parametrize("step", ["training", "prediction"])
def test_a_clock_that_is_set_back_changes_nothing(step, base, work):
    runs = Runs(step, base, work)
    runs.renew()
    kill = faults.at_moment(len(runs.moments) // 2, faults.send(signal.SIGKILL))
    assert runs.start(kill).wait() == -signal.SIGKILL
    assert runs.start(faults.turn_clock_back).wait() == 0, runs.told()
    assert faults.differences(faults.outcome(work / runs.results), runs.expected) == []


# ---------------------------------------------------------------- folders, drives, second processes


@pytest.mark.parametrize("step", STEPS)
def test_a_folder_that_is_read_only_is_named(step, base, work):
    runs = Runs(step, base, work)
    runs.renew()
    folder = work / runs.results
    folder.mkdir(exist_ok=True)
    before = faults.outcome(folder)
    command = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no folder can be mounted read-only here: {done.stderr.strip()}")
    try:
        status = runs.start().wait()
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert status == 1 and "Traceback" not in runs.told(), runs.told()
    assert str(folder) in runs.told() and "Read-only file system" in runs.told()
    assert faults.differences(faults.outcome(folder), before) == []


SHIM = """
#include <errno.h>
int flock(int descriptor, int operation) { errno = ENOLCK; return -1; }
"""


def test_a_network_drive_without_locks_is_told_with_the_way_out(base, work):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler: nothing stands in for a drive without locks")
    shutil.copytree(base, work)
    (work / "shim.c").write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", "shim.so", "shim.c"]
    subprocess.run(command, cwd=work, check=True)
    settings = {"LD_PRELOAD": str(work / "shim.so")}
    done = run("run_training.py", "configuration.txt", cwd=work, **settings)
    assert done.returncode == 1 and "Traceback" not in done.output
    assert mentions(done.output, "cannot be locked", "HDF5_USE_FILE_LOCKING=FALSE")
    settings["HDF5_USE_FILE_LOCKING"] = "FALSE"
    done = run("run_training.py", "configuration.txt", cwd=work, **settings)
    assert done.returncode == 0, done.output
    assert f"{work / 'new'} cannot be locked: take care" in done.output


def test_two_trainings_and_a_test_in_one_folder(base, work):
    runs = Runs("training", base, work)
    runs.renew()
    weights = work / "new" / "new_last.weights.h5"
    first = runs.start()
    wait_until(weights.exists, first)
    others = [work.with_name("second"), work.with_name("test")]
    second = fork(runs.script, *runs.words, cwd=work, output=others[0])
    test = fork(
        "run_testing.py", "configuration.txt", "--output", "scores", cwd=work, output=others[1]
    )
    assert second.wait() == 1 and "is being trained by process" in others[0].read_text()
    # Weights of an epoch may be there or not yet; half of them never.
    assert test.wait() in (0, 1) and "Traceback" not in others[1].read_text()
    assert first.wait() == 0, runs.told()
    assert faults.differences(faults.outcome(work / "new"), runs.expected) == []


@pytest.mark.parametrize("step", ["testing", "prediction"])
def test_two_of_one_kind_in_one_folder(step, base, work):
    runs = Runs(step, base, work)
    runs.renew()
    halted = work.with_name("halted")
    first = runs.start(faults.at_moment(1, faults.halt(halted), [faults.FLUSH]))
    wait_until(halted.exists, first)
    other = work.with_name("second")
    second = fork(runs.script, *runs.words, cwd=work, output=other)
    assert second.wait() == 1 and f"Another {step} writes to" in other.read_text()
    first.send_signal(signal.SIGKILL)
    first.wait()
    runs.require_same_end()


@pytest.mark.parametrize("way", ["replaced", "written over"])
def test_data_that_change_while_a_training_runs(way, base, work):
    runs = Runs("training", base, work)
    runs.renew()
    data = work / "ISBI_datasets_training_testing" / "ISBI_dataset_imgs_train.hdf5"
    process = runs.start()
    wait_until((work / "new" / "new_last.weights.h5").exists, process)
    other = work / "ISBI_datasets_training_testing" / "ISBI_dataset_groundTruth_train.hdf5"
    if way == "replaced":
        shutil.copy(other, work / "other")
        os.replace(work / "other", data)
    else:
        data.write_bytes(other.read_bytes())
    assert process.wait() == 0, runs.told()
    assert faults.differences(faults.outcome(work / "new"), runs.expected) == []
