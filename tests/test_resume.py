"""Trainings that are killed, stopped or out of time, and resume as if nothing had happened."""

import shutil
import signal
import time

import h5py
import numpy as np
import pytest

from lib.experiment import PRETRAINED
from lib.files import write_hdf5
from lib.weights import read_weights as read_trained
from tests.processes import Killed, fork, require_refusal, require_success, wait_until
from tests.small_data import DATA_FOLDER, hashes, mentions, read_log, read_weights
from tests.small_experiment import configure, kept

pytest_plugins = ["tests.finished"]

# Two epochs of 48 batches, whose end depends on dropout, order, Adam's moments and the averages.
LONG = {
    "N_subimgs": 420,
    "N_epochs": 2,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "weight_averaging": 0.9,
}
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


def make_folder(folder, finished, **changes):
    """Makes a folder with the data, to be trained in."""
    shutil.copytree(finished.folder / DATA_FOLDER, folder / DATA_FOLDER)
    configure(folder, **LONG, **changes)
    return folder


def last_weights(folder):
    return folder / "small" / "small_last.weights.h5"


def train(folder):
    return fork("run_training.py", cwd=folder, output=folder / "output")


def stop_training(folder, number, wait):
    """Starts a training, and stops it a while after it has saved its weights.

    Args:
        folder: where its configuration lies.
        number: of the signal.
        wait: seconds from the first saving on.
    Returns:
        exit status, and the output; 0 where the training ended before.
    """
    weights = last_weights(folder)
    before = weights.stat().st_mtime_ns if weights.exists() else 0
    process = train(folder)
    latest = time.monotonic() + 120
    while not (weights.exists() and weights.stat().st_mtime_ns > before):
        if process.poll() == 1 and "is complete" in read_output(folder):
            return 0, read_output(folder)  # the kill before came after the last saving
        assert time.monotonic() < latest and process.poll() in (None, 0), read_output(folder)
        time.sleep(0.005)
    time.sleep(wait)
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(), read_output(folder)


def read_output(folder):
    return (folder / "output").read_text()


def require_same_end(folder, undisturbed):
    """Requires the same log and the same weights, bit by bit."""
    expected = undisturbed / "small"
    assert read_log(folder / "small/small_log.csv") == read_log(expected / "small_log.csv")
    for name in ("best", "last"):
        weights, others = (
            read_weights(path / f"small_{name}.weights.h5") for path in (folder / "small", expected)
        )
        assert weights.keys() == others.keys()
        for key, array in weights.items():
            np.testing.assert_array_equal(array, others[key], err_msg=f"{name} {key}")
    hidden = {path.name for path in (folder / "small").glob(".*")}
    assert hidden == {".training.lock"}, "left-overs of a save"


def test_however_a_training_is_stopped_it_resumes_as_if_nothing_had_happened(finished, tmp_path):
    undisturbed = make_folder(tmp_path / "undisturbed", finished)
    reference = train(undisturbed)

    often = {"saving_interval": 0.001}  # after every batch
    folder = make_folder(tmp_path / "stopped", finished, **often)
    rng = np.random.default_rng(0)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        status, output = stop_training(folder, number, rng.uniform(0, 0.15))
        assert status == SIGNALS[number], output
        if number != signal.SIGKILL:
            done = read_trained(last_weights(folder)).progress["batches"]
            reason = f"Stopped by {number.name}: batch {done} of 48 of epoch"
            assert mentions(output, reason, "is saved. Start again to resume there.")
        assert "Traceback" not in output
    (folder / "small" / ".4711_small_last.weights.h5").write_bytes(b"half")  # as if in a save

    configure(folder, **LONG, time_limit=0.0001)
    assert train(folder).wait() == 124
    output = read_output(folder)
    assert mentions(output, "time_limit = 0.0001 hours is reached: batch", "Start again to resume")

    configure(folder, **LONG)
    assert train(folder).wait() == 0
    assert mentions(read_output(folder), "Resuming after epoch", "of 2, batch")
    assert reference.wait() == 0
    require_same_end(folder, undisturbed)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(finished, tmp_path):
    long = {**LONG, "N_subimgs": 12_000, "saving_interval": 1}
    undisturbed = make_folder(tmp_path / "undisturbed", finished)
    configure(undisturbed, **long)
    assert train(undisturbed).wait() == 0
    rng, num_kills, num_rounds = np.random.default_rng(0), 0, 0
    while num_kills < 20:
        folder = make_folder(tmp_path / f"killed{num_rounds}", finished)
        num_rounds += 1
        configure(folder, **long)
        status = -9
        while status == -9:
            status, output = stop_training(folder, signal.SIGKILL, rng.uniform(0, 1.5))
            num_kills += status == -9
        assert status == 0, output
        require_same_end(folder, undisturbed)


def test_a_kill_between_log_and_weights_costs_nothing_and_the_script_of_src_resumes(
    finished, workspace, call, monkeypatch
):
    configure(workspace, N_epochs=4)

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("lib.callbacks.write_log", killed)
        with pytest.raises(Killed):
            call("training", workspace)

    output = require_success(call("src.retinaNN_training", workspace))
    assert "Resuming after epoch 3 of 4" in output
    assert f"Next: python run_testing.py {workspace / 'small'}" in output
    rows = read_log(workspace / "small" / "small_log.csv")
    assert rows[:3] == read_log(finished.experiment / "small_log.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


# ---------------------------------------------------------------- what must not resume


def test_a_finished_training_is_not_overwritten_silently(workspace, call):
    before = kept(workspace)
    done = call("training", workspace)
    require_refusal(done, "small", "3 epochs", "N_epochs", "--overwrite")
    assert kept(workspace) == before


def test_changed_settings_are_refused(workspace, call):
    configure(workspace, N_epochs=6, learning_rate=0.2, patch_width=20)
    before = kept(workspace)
    done = call("training", workspace)
    require_refusal(done, "learning_rate: 0.1 -> 0.2", "patch_width: 16 -> 20", "--overwrite")
    assert kept(workspace) == before


def test_a_second_training_of_the_same_name_is_refused(workspace, call):
    fcntl = pytest.importorskip("fcntl")
    configure(workspace, N_epochs=6)
    with open(workspace / "small" / ".training.lock", "w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = kept(workspace)
        require_refusal(call("training", workspace), "small", "process 4711", "Wait")
        assert kept(workspace) == before


# ---------------------------------------------------------------- shipped experiments


@pytest.fixture
def as_many_as_drive(tmp_path):
    """HDF5 files of as many images as DRIVE has, by its ids, of 64 x 56 pixels."""
    folder = tmp_path / "data"
    rng = np.random.default_rng(0)
    for subset, ids in (("train", range(21, 41)), ("test", range(1, 21))):
        ids = [f"{number:02d}" for number in ids]
        images = rng.integers(100, 200, (len(ids), 3, 64, 56), dtype=np.uint8)
        vessels = np.zeros((len(ids), 1, 64, 56), np.uint8)
        vessels[:, :, ::8] = 255
        stacks = {"imgs": images, "groundTruth": vessels, "borderMasks": np.full_like(vessels, 255)}
        for kind, stack in stacks.items():
            write_hdf5(folder / f"DRIVE_dataset_{kind}_{subset}.hdf5", stack, ids=ids)
    return folder


def test_a_shipped_training_resumes_in_a_copy_and_nothing_shipped_changes(
    as_many_as_drive, tmp_path, call
):
    shipped = hashes(PRETRAINED)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    copy = folder / "results" / "vessels_faithful"
    log, weights = (copy / f"vessels_faithful_{n}" for n in ("training.nohup", "last.weights.h5"))
    words = ("pretrained/vessels_faithful", "--data", "../data")

    def stop_once(condition):
        process = fork("run_training.py", *words, cwd=folder, output=folder / "output")
        wait_until(condition, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143, read_output(folder)
        return log.read_text()

    told = stop_once(lambda: log.exists() and "ms a batch" in log.read_text())
    output = read_output(folder)
    assert f"{PRETRAINED / 'vessels_faithful'} stays as it is: the training is in {copy}" in output
    assert f"Resuming after epoch 3 of 150 from {weights}." in told
    done = read_trained(weights).progress["batches"]
    assert 10 < done < 5000
    assert f"Stopped by SIGTERM: batch {done:,} of 5,344 of epoch 4 is saved" in output
    assert "ERROR" not in told

    resumed = f"Resuming after epoch 3 of 150, batch {done:,} from {weights}."
    stop_once(lambda: resumed in log.read_text())
    assert hashes(PRETRAINED) == shipped

    # It is tested from there too, and that of pretrained/ beside it.
    output = require_success(call("testing", folder, *words))
    assert f"Testing {PRETRAINED / 'vessels_faithful/vessels_faithful_best.weights.h5'}" in output
    with h5py.File(copy / "predictions.hdf5") as file:
        assert file["image"].shape == (20, 1, 64, 56)
    assert hashes(PRETRAINED) == shipped

    # Photographs of other ids are other photographs.
    for kind in ("imgs", "groundTruth", "borderMasks"):
        with h5py.File(as_many_as_drive / f"DRIVE_dataset_{kind}_train.hdf5", "a") as file:
            file["ids"][0] = "20"
    process = fork("run_training.py", *words, cwd=folder, output=folder / "output")
    assert process.wait() == 1
    words = f"{weights} was trained with other images. For training then: 21, 22"
    assert mentions(read_output(folder), words)
