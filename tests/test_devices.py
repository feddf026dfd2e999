"""Tests of what is said about devices, with and without a GPU."""

import os
from pathlib import Path

import keras
import pytest

from lib import devices

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one GPU."""
    monkeypatch.setattr(devices, "list_gpus", lambda: ["NVIDIA H200"])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "list_gpus", lambda: [])


@pytest.fixture
def global_state():
    """Puts back what start_computing sets for the whole process."""
    policy, epsilon = keras.config.dtype_policy(), keras.config.epsilon()
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_epsilon(epsilon)
    keras.config.set_floatx("float32")


def test_gpu_is_named_without_advice(gpu):
    said = devices.describe_devices()
    backend = keras.backend.backend()
    assert said.startswith(f"Keras {keras.__version__} on {backend} ")
    assert said.endswith(", computing on: NVIDIA H200.")
    assert len(said.splitlines()) == 1


def test_without_a_gpu_the_cores_are_counted_and_advice_is_given(no_gpu, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, *advice = devices.describe_devices().splitlines()
    assert f"computing on: CPU with {devices.num_cores()} cores." in first
    assert 1 <= devices.num_cores() <= os.cpu_count()
    advice = "\n".join(advice)
    assert "nvidia-smi must list it" in advice
    assert "(it is not set)" in advice
    assert 'pip install "tensorflow[and-cuda]"' in advice


def test_hidden_gpu_is_told_of(no_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "must not hide it (it is '')" in devices.describe_devices()


def test_layout_is_channels_first_on_a_gpu(gpu):
    assert devices.inner_data_format() == "channels_first"


def test_layout_is_channels_last_on_a_cpu(no_gpu):
    assert devices.inner_data_format() == "channels_last"


@pytest.mark.parametrize(("mixed", "policy"), [(False, "float32"), (True, "mixed_bfloat16")])
def test_start_sets_seed_and_precision_whatever_keras_json_says(
    global_state, capsys, mixed, policy
):
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.1)
    devices.start_computing(3, mixed)
    first = keras.random.uniform((4,)), keras.layers.Dense(3)
    assert keras.config.dtype_policy().name == policy
    assert (keras.config.floatx(), keras.config.epsilon()) == ("float32", 1e-7)
    assert first[1].variable_dtype == "float32"
    assert first[1].compute_dtype == ("bfloat16" if mixed else "float32")
    assert "computing on" in capsys.readouterr().out


def test_same_seed_gives_the_same_first_weights(global_state):
    kernels = []
    for seed in (3, 3, 4):
        devices.start_computing(seed, mixed_precision=False)
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        kernels.append(layer.get_weights()[0].tolist())
    assert kernels[0] == kernels[1] != kernels[2]


def test_backend_that_names_no_gpus_is_taken_for_a_cpu(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    assert devices.list_gpus() == []
    assert devices.set_up_devices() == devices.ONE_DEVICE


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow")
def test_gpus_of_tensorflow_are_named_and_share_their_memory(monkeypatch):
    import tensorflow as tf

    class Gpu:
        name = "/physical_device:GPU:0"

    grown = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [Gpu] * (kind == "GPU"))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {})
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda *arguments: grown.append(arguments)
    )
    assert devices.list_gpus() == ["/physical_device:GPU:0"]
    devices.set_up_devices()
    assert grown == [(Gpu, True)]


def test_one_file_alone_names_tensorflow():
    # Everything else is written against Keras 3, whatever its backend.
    files = [path for folder in ("lib", "src") for path in (PROJECT / folder).glob("*.py")]
    importing = [path.name for path in files if "import tensorflow" in path.read_text("utf-8")]
    assert importing == ["devices.py"]
