"""The same weights on every backend of Keras that can be imported here."""

import functools
import shutil
import subprocess
import sys

import numpy as np
import pytest

from lib.backends import BACKENDS, require_backend
from lib.errors import UserError
from lib.files import load_hdf5
from tests.networks import WITH_ONEDNN
from tests.processes import require_success, run
from tests.small_data import read_log, read_weights
from tests.tiny_experiments import write_cells, write_membrane, write_retina

CONFIGURATIONS = ("configuration.txt", "configuration_membrane.txt", "configuration_cells.txt")
NAMES = ("tiny", "tiny_membrane", "tiny_cells")
PREDICTIONS = tuple(f"{name}/predictions.hdf5" for name in NAMES)

LOSSES = """
import sys
import keras
import numpy as np
from lib.devices import start_computing
from lib.losses import LOSSES, get_loss
from lib.unet import get_unet
start_computing(seed=0, mixed_precision=False, distribute="none")
rng = np.random.default_rng(0)
images, values = rng.random((2, 1, 8, 8), np.float32), []
labels, weights = rng.choice([0, 1, 255], (2, 64)), rng.random((2, 64), np.float32)
for name in LOSSES:
    for class_weights in (None, [0.5, 2.0]):
        model = get_unet(1, 8, 8, dropout=0, output_activation="linear")
        drawn = np.random.default_rng(1)
        model.set_weights([drawn.normal(0, .1, w.shape) for w in model.get_weights()])
        model.compile(keras.optimizers.SGD(0.01), get_loss(name, class_weights=class_weights))
        values += [model.train_on_batch(images, labels, weights) for _ in range(3)]
np.savez(sys.argv[1], values=np.asarray(values, float))
"""

MEAN_IOU = """
import sys
import numpy as np
from lib.devices import start_computing
from lib.losses import segmentation_metrics
start_computing(seed=0, mixed_precision=False, distribute="none")
(mean_iou,) = (metric for metric in segmentation_metrics(2) if metric.name == "mean_iou")
labels, values = np.array([[0, 1, 0]]), np.eye(2, dtype=np.float32)[[[0, 1, 1]]]
mean_iou.update_state(labels, values)
few = float(mean_iou.result())
mean_iou.total_cm.assign(np.asarray(mean_iou.total_cm) * (2**31 - 1))
mean_iou.update_state(labels, values)
np.savez(sys.argv[1], values=[few, float(mean_iou.result())])
"""

NETWORKS = """
import sys
import numpy as np
from lib.devices import start_computing
from lib.unet import get_gnet, get_unet, get_unpadded_unet
start_computing(seed=0, mixed_precision=False, distribute="none")
drawn, answers = np.random.default_rng(0), {}
for build, size in ((get_unet, 32), (get_gnet, 32), (get_unpadded_unet, 60)):
    for data_format in sys.argv[2:]:
        options = {} if build is not get_unpadded_unet else {"base_filters": 4, "depth": 2}
        model = build(1, size, size, data_format=data_format, **options)
        rng = np.random.default_rng(1)
        model.set_weights([rng.normal(0, .1, w.shape) for w in model.get_weights()])
        images = np.random.default_rng(2).random((3, 1, size, size), np.float32)
        answers[f"{model.name}_{data_format}"] = np.asarray(model.predict_on_batch(images))
np.savez(sys.argv[1], **answers)
"""


@functools.cache
def can_import(backend):
    done = subprocess.run([sys.executable, "-c", f"import {backend}"], capture_output=True)
    return done.returncode == 0


def require(backend):
    if not can_import(backend):
        pytest.skip(f"{backend} is not installed, or cannot be imported")


others = pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "tensorflow"])
trainers = pytest.mark.parametrize("backend", ["jax", "torch"])


# ---------------------------------------------------------------- predictions


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All experiments, trained and tested with TensorFlow; never changed."""
    folder = tmp_path_factory.mktemp("trained")
    write_retina(folder, testing="average_flips = True")
    write_membrane(folder, testing="average_flips = 8")
    write_cells(folder, testing="average_flips = True")
    for script in ("run_training.py", "run_testing.py"):
        for configuration in CONFIGURATIONS:
            require_success(run(script, configuration, cwd=folder, KERAS_BACKEND="tensorflow"))
    return folder


@pytest.mark.slow
@others
def test_the_weights_of_tensorflow_predict_the_same(backend, trained, tmp_path):
    require(backend)
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    for configuration, predictions in zip(CONFIGURATIONS, PREDICTIONS):
        assert f" on {backend} " in require_success(
            run("run_testing.py", configuration, cwd=folder, KERAS_BACKEND=backend)
        )
        expected, predicted = load_hdf5(trained / predictions), load_hdf5(folder / predictions)
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-4)


@others
def test_all_networks_agree(backend, tmp_path):
    require(backend)
    # On a CPU, OpenVINO and TensorFlow compute in either layout; so do the others.
    layouts = ("channels_last", "channels_first")
    for name in ("tensorflow", backend):
        path = str(tmp_path / f"{name}.npz")
        changes = {"KERAS_BACKEND": name, **WITH_ONEDNN}
        require_success(run("-c", NETWORKS, path, *layouts, cwd=tmp_path, **changes))
    with np.load(tmp_path / "tensorflow.npz") as a, np.load(tmp_path / f"{backend}.npz") as b:
        assert len(a.files) == 6
        for network in a.files:
            assert np.ptp(a[network]) > 1e-3
            np.testing.assert_allclose(b[network], a[network], rtol=0, atol=1e-4, err_msg=network)


# ---------------------------------------------------------------- training


@pytest.mark.slow
@trainers
def test_training_and_testing_with_the_weights_in_tensorflow(backend, tmp_path):
    require(backend)
    write_retina(tmp_path)
    write_membrane(tmp_path)
    write_cells(tmp_path)
    for configuration in CONFIGURATIONS:
        assert f" on {backend} " in require_success(
            run("run_training.py", configuration, cwd=tmp_path, KERAS_BACKEND=backend)
        )
        require_success(
            run("run_testing.py", configuration, cwd=tmp_path, KERAS_BACKEND="tensorflow")
        )


@trainers
def test_losses_train_alike(backend, tmp_path):
    require(backend)
    paths = [tmp_path / f"{name}.npz" for name in ("tensorflow", backend)]
    for path in paths:
        changes = {"KERAS_BACKEND": path.stem, **WITH_ONEDNN}
        require_success(run("-c", LOSSES, path, cwd=tmp_path, **changes))
    expected, values = (np.load(path)["values"] for path in paths)
    assert len(np.unique(expected.round(6))) == 15, "three steps of five; Dice is not balanced"
    np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_mean_iou_counts_more_pixels_than_int32_holds(backend, tmp_path):
    require(backend)
    path = tmp_path / "mean_iou.npz"
    require_success(run("-c", MEAN_IOU, path, cwd=tmp_path, KERAS_BACKEND=backend))
    np.testing.assert_allclose(np.load(path)["values"], 0.5)


@pytest.mark.slow
@trainers
@pytest.mark.parametrize("kind", ["plain", "spatial"])
def test_a_stopped_training_resumes_as_if_nothing_had_happened(backend, kind, tmp_path):
    require(backend)
    settings = f"dropout = 0.2\ndropout_kind = {kind}\nbatch_size = 4\nweight_averaging = 0.9"
    logs = {}
    for name in ("undisturbed", "stopped"):
        folder = tmp_path / name
        if name == "stopped":
            write_retina(folder, f"{settings}\ntime_limit = 0.0000001", num_epochs=2)
            stopped = run("run_training.py", cwd=folder, KERAS_BACKEND=backend)
            assert stopped.returncode == 124, stopped.output
        write_retina(folder, settings, num_epochs=2)
        done = run("run_training.py", cwd=folder, KERAS_BACKEND=backend)
        assert ("Resuming after" in require_success(done)) == (name == "stopped")
        weights = read_weights(folder / "tiny" / "tiny_last.weights.h5")
        logs[name] = read_log(folder / "tiny" / "tiny_log.csv"), weights
    (log, weights), (other_log, others) = logs.values()
    assert log == other_log and weights.keys() == others.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(array, others[key], err_msg=key)


def test_training_with_openvino_is_refused(tmp_path):
    require("openvino")
    write_retina(tmp_path)
    done = run("run_training.py", cwd=tmp_path, KERAS_BACKEND="openvino")
    assert done.returncode == 1 and "Traceback" not in done.output
    assert "OpenVINO predicts and cannot train" in done.output
    assert "KERAS_BACKEND=tensorflow" in done.output
    assert not (tmp_path / "tiny").exists()


# ---------------------------------------------------------------- the environment variable


@pytest.mark.parametrize("name", ["theano", ""])
def test_an_unknown_backend_is_named(name, tmp_path):
    write_retina(tmp_path)
    done = run("run_training.py", cwd=tmp_path, KERAS_BACKEND=name)
    assert done.returncode == 1 and "Traceback" not in done.output
    assert "KERAS_BACKEND must be one of tensorflow, jax, torch, openvino" in done.output
    assert f"Received: {name or 'nothing'}" in done.output


def test_a_backend_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("lib.backends.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package jax, which is not installed"):
        require_backend()


def test_a_backend_that_is_installed_is_taken(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    require_backend()
    monkeypatch.delenv("KERAS_BACKEND")
    require_backend()
