"""One training on several devices, and on several hosts."""

import csv
import json
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lib import devices as devices_module
from lib.backends import is_first_host
from lib.configuration import read_configuration
from lib.devices import Devices, set_up_devices
from lib.errors import UserError
from lib.experiment import Experiment
from lib.patch_dataset import TileDataset, batch_numbers
from lib.training import require_shareable_batches
from lib.weights import read_weights as read_trained
from src.tasks import TASKS
from tests.processes import finish, require_success, run, start, wait_until
from tests.small_data import read_log, read_weights
from tests.test_backends import require
from tests.tiny_experiments import write_membrane, write_retina

TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "KERAS_BACKEND": "jax"}

# 36 tiles in batches of 8 are 5 steps, the last of 4 tiles. Momentum carries every step on.
FIVE_STEPS = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    cpu, one = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [one] * 2)
import keras
import numpy as np
from lib.devices import start_computing
from lib.losses import get_loss
from lib.patch_dataset import TileDataset
from lib.unet import get_unet
rng = np.random.default_rng(0)
images = rng.random((2, 1, 48, 48), np.float32)
labels = (images[:, 0] > 0.7).astype(np.uint8)
places = np.stack([rng.integers(0, high, 36) for high in (2, 33, 33)], axis=-1)
for distribute in ("none", "auto"):
    devices = start_computing(3, mixed_precision=False, distribute=distribute)
    def tiles(chosen, shuffle):
        return TileDataset(list(images), list(labels), None, chosen, input_size=(16, 16),
                           batch_size=8, shuffle=shuffle, devices=devices)
    with devices.scope():
        model = get_unet(1, 16, 16, data_format="channels_last", dropout=float(sys.argv[1]))
        own = get_loss("cross_entropy") if sys.argv[2] == "own" else sys.argv[2]
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), own)
    # As lib.training does: Keras's own shuffling is another one on several devices.
    options = {"validation_data": tiles(places[:12], False), "shuffle": False, "verbose": 0}
    history = model.fit(tiles(places, True), **options)
    print("RESULT", json.dumps([devices.num_devices, history.history]))
"""


# TensorFlow's devices draw the same drop-out for their parts; JAX draws as one device does.
@pytest.mark.parametrize("backend, dropout", [("tensorflow", 0.0), ("jax", 0.2)])
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "own"])
def test_two_devices_lose_the_same_as_one_after_five_steps(backend, dropout, loss, tmp_path):
    require(backend)
    environment = {**TWO_DEVICES, "KERAS_BACKEND": backend}
    output = require_success(run("-c", FIVE_STEPS, dropout, loss, cwd=tmp_path, **environment))
    lines = [line for line in output.splitlines() if line.startswith("RESULT")]
    numbers, (one, two) = zip(*(json.loads(line.removeprefix("RESULT")) for line in lines))
    assert numbers == (1, 2)
    for name in ("loss", "val_loss"):
        assert two[name] == pytest.approx(one[name], abs=1e-4)


# ---------------------------------------------------------------- who cuts what


def test_batches_of_the_example():
    hosts = [Devices(2, host, 2) for host in (0, 1)]
    assert [batch_numbers(1, 4, 10, host).tolist() for host in hosts] == [[4, 5], [6, 7]]
    assert [batch_numbers(2, 4, 10, host).tolist() for host in hosts] == [[8], [9]]
    assert [batch_numbers(2, 4, 9, host).tolist() for host in hosts] == [[8], [0]]


def test_one_device_gets_what_is_there():
    assert batch_numbers(2, 4, 9).tolist() == [8]
    assert batch_numbers(0, 4, 9).tolist() == [0, 1, 2, 3]


def test_fewer_tiles_than_devices_are_repeated():
    assert batch_numbers(0, 8, 3, Devices(8)).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_the_parts_of_all_hosts_are_the_batch():
    rng = np.random.default_rng(0)
    images = rng.random((2, 1, 20, 20), np.float32)
    labels = rng.integers(0, 2, (2, 20, 20), np.uint8)
    positions = np.stack([rng.integers(0, high, 12) for high in (2, 5, 5)], axis=-1)

    def batch(devices):
        tiles = TileDataset(
            list(images),
            list(labels),
            None,
            positions,
            input_size=(16, 16),
            batch_size=8,
            seed=1,
            shuffle=True,
            devices=devices,
        )
        return tiles[0]

    parts = [batch(Devices(4, host, 2)) for host in (0, 1)]
    for kind, whole in enumerate(batch(Devices())):
        assert len(whole) == 8
        np.testing.assert_array_equal(np.concatenate([part[kind] for part in parts]), whole)


# ---------------------------------------------------------------- the scripts


def read_losses(path):
    return [
        [float(row[name]) for name in ("loss", "val_loss")]
        for row in csv.DictReader(path.read_text().splitlines())
    ]


@pytest.mark.slow
def test_a_training_on_two_devices_goes_on_where_it_stopped(tmp_path):
    require("jax")
    losses = []
    for name, starts in (("whole", [2]), ("halves", [1, 2])):
        folder = tmp_path / name
        for num_epochs in starts:
            write_retina(folder, "distribute = auto", num_epochs=num_epochs)
            done = run("run_training.py", cwd=folder, **TWO_DEVICES)
            assert "shared by 2 devices" in require_success(done)
        losses.append(read_losses(folder / "tiny/tiny_log.csv"))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_training_on_jax_that_is_stopped_within_an_epoch_resumes_as_if_nothing_had_happened(
    number, tmp_path
):
    require("jax")
    devices = TWO_DEVICES if number == 2 else {"KERAS_BACKEND": "jax"}
    settings = "distribute = auto\noptimizer = adam\nN_subimgs = 1600\n"
    folders = [tmp_path / name for name in ("undisturbed", "stopped")]
    for folder in folders:
        write_retina(folder, settings, num_epochs=2)
    undisturbed, stopped = (folder / "tiny" for folder in folders)
    require_success(run("run_training.py", cwd=folders[0], **devices))

    write_retina(folders[1], settings + "saving_interval = 0.001", num_epochs=2)  # every batch
    process = start("run_training.py", cwd=folders[1], **devices)
    wait_until((stopped / "tiny_last.weights.h5").exists, process)
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.returncode == 143, done.output
    progress = read_trained(stopped / "tiny_last.weights.h5").progress
    assert f"batch {progress['batches']} of 180 of epoch 1 is saved" in done.output
    assert ("shared by 2 devices" in done.output) == (number == 2)

    write_retina(folders[1], settings, num_epochs=2)
    resumed = require_success(run("run_training.py", cwd=folders[1], **devices))
    assert f"Resuming after epoch 0 of 2, batch {progress['batches']} from" in resumed
    assert read_log(stopped / "tiny_log.csv") == read_log(undisturbed / "tiny_log.csv")
    for name in ("best", "last"):
        weights, expected = (
            read_weights(folder / f"tiny_{name}.weights.h5") for folder in (stopped, undisturbed)
        )
        assert weights.keys() == expected.keys()
        for key, array in weights.items():
            np.testing.assert_array_equal(array, expected[key], err_msg=f"{name} {key}")


@pytest.mark.slow
def test_two_hosts_train_together_and_the_first_writes(tmp_path):
    require("jax")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = []
    for host in (0, 1):
        folder = tmp_path / f"host{host}"
        write_membrane(folder, "distribute = auto")
        cluster = {"JOB_ADDRESSES": address, "NUM_PROCESSES": "2", "PROCESS_ID": str(host)}
        variables = {f"KERAS_DISTRIBUTION_{name}": value for name, value in cluster.items()}
        words = ("run_training.py", "configuration_membrane.txt")
        processes.append(start(*words, cwd=folder, KERAS_BACKEND="jax", **variables))
    for process in processes:
        assert "shared by 2 devices" in require_success(finish(process))
    assert (tmp_path / "host0/tiny_membrane/tiny_membrane_last.weights.h5").exists()
    assert not (tmp_path / "host1/tiny_membrane").exists()


@pytest.mark.slow
def test_several_steps_an_execution_train_the_same(tmp_path):
    losses = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        write_retina(folder, f"steps_per_execution = {number}")
        require_success(run("run_training.py", cwd=folder, KERAS_BACKEND="tensorflow"))
        losses.append(read_losses(folder / "tiny/tiny_log.csv"))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0, atol=1e-6)


# ---------------------------------------------------------------- who writes


def test_the_first_host_writes(monkeypatch):
    assert is_first_host("auto")
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
    assert not is_first_host("auto")
    assert is_first_host("none")
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "0")
    assert is_first_host("auto")


def test_a_host_without_a_number_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "first")
    with pytest.raises(UserError, match="must be the number of this host.*Received: first"):
        is_first_host("auto")


def test_other_hosts_make_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Experiment("shared", is_first_host=False)
    with other.locked_for_training():
        assert not Path("shared").exists()


# ---------------------------------------------------------------- what cannot be shared


def configured(folder, training):
    return read_configuration(write_retina(folder, training), TASKS)


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        require_shareable_batches(configured(tmp_path, ""), Devices(3))
    assert "batch_size must be a multiple of the 3 devices" in str(caught.value)
    assert "Received: 8. Use 9, or distribute = none." in str(caught.value)
    require_shareable_batches(configured(tmp_path, ""), Devices(4))


def test_several_steps_on_several_devices_are_refused(tmp_path, monkeypatch):
    configuration = configured(tmp_path, "steps_per_execution = 2")
    require_shareable_batches(configuration, Devices(1))
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    with pytest.raises(UserError, match="steps_per_execution must be 1 where TensorFlow shares"):
        require_shareable_batches(configuration, Devices(2))


def test_several_hosts_on_tensorflow_are_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}}')
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    with pytest.raises(UserError, match="on several hosts with KERAS_BACKEND=jax only"):
        set_up_devices(distribute="auto")


def test_several_gpus_on_torch_are_refused(monkeypatch):
    fake = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setattr(devices_module, "keras", fake)
    monkeypatch.setattr(devices_module, "list_gpus", lambda: ["a", "b"])
    with pytest.raises(
        UserError, match="works with KERAS_BACKEND=tensorflow or jax. Received: tor"
    ):
        set_up_devices(distribute="auto")
    monkeypatch.setattr(devices_module, "list_gpus", lambda: ["a"])
    assert set_up_devices(distribute="auto") == Devices()


@pytest.mark.parametrize(
    "line, words",
    [
        ("distribute = all", "distribute must be none or auto. Received: all"),
        ("steps_per_execution = 0", "steps_per_execution must be a whole number of at least 1"),
    ],
)
def test_values_out_of_range(tmp_path, line, words):
    with pytest.raises(UserError, match=words):
        configured(tmp_path, line)
