"""Tests of what is said about devices, with and without a GPU."""

import os
from pathlib import Path

import keras
import pytest

from lib import devices, unpadded
from lib.configuration import read_configuration
from src import retinaNN_training, segmentationNN_training
from src.tasks import TASKS
from tests.processes import run
from tests.small_data import write_configuration

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one GPU."""
    monkeypatch.setattr(devices, "list_gpus", lambda: ["NVIDIA H200"])


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "list_gpus", lambda: [])


def test_gpu_is_named_without_advice(gpu):
    said = devices.describe_devices()
    backend = keras.backend.backend()
    assert said.startswith(f"Keras {keras.__version__} on {backend} ")
    assert said.endswith(", computing on: NVIDIA H200.")
    assert len(said.splitlines()) == 1


def test_without_a_gpu_one_line_counts_the_cores_and_names_the_page(no_gpu):
    (said,) = devices.describe_devices().splitlines()
    assert f"computing on: CPU with {devices.num_cores()} cores (no GPU found; for one see" in said
    assert (PROJECT / "docs" / "SERVERS.md").is_file() and "docs/SERVERS.md" in said
    assert 1 <= devices.num_cores() <= os.cpu_count()


@pytest.fixture
def any_layout(monkeypatch):
    """A processor on which TensorFlow convolves in both layouts."""
    monkeypatch.setattr(devices, "convolves_channels_first", lambda: True)


def test_layout_can_be_chosen(no_gpu, any_layout):
    assert devices.inner_data_format("channels_first") == "channels_first"


CONVOLVE_CHANNELS_FIRST = """
import keras
from lib.devices import inner_data_format
data_format = inner_data_format("channels_first")
layer = keras.layers.Conv2D(1, 1, data_format=data_format)
print(layer(keras.ops.ones((1, 2, 3, 4))).shape)
"""


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_a_layout_that_the_processor_cannot_compute_is_refused(tmp_path, onednn):
    changes = {"TF_ENABLE_ONEDNN_OPTS": onednn, "CUDA_VISIBLE_DEVICES": ""}
    said = run("-c", CONVOLVE_CHANNELS_FIRST, cwd=tmp_path, **changes).output
    is_refused = "Set data_format = auto: the weights are the same" in said
    assert is_refused != said.strip().endswith("(1, 1, 3, 4)"), said
    assert is_refused or onednn == "1"


@pytest.mark.parametrize(("flags", "has"), [("avx2 avx512_bf16", True), ("avx2 fma", False)])
def test_bfloat16_is_read_from_the_processors_flags(no_gpu, monkeypatch, flags, has):
    monkeypatch.setattr(Path, "read_text", lambda path, **options: f"flags : fpu {flags} sse\n")
    assert devices.has_bfloat16() == has


def test_a_gpu_has_bfloat16(gpu):
    assert devices.has_bfloat16()


def test_a_training_without_bfloat16_computes_in_float32_and_says_so(no_gpu, monkeypatch, capsys):
    monkeypatch.setattr(devices, "has_bfloat16", lambda: False)
    devices.start_computing(0, True, "none")
    assert "this processor has no bfloat16: training in float32" in capsys.readouterr().out
    assert keras.config.dtype_policy().name == "float32"
    devices.start_computing(0, True)  # a test
    assert "bfloat16" not in capsys.readouterr().out
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


DATA = {"num_channels": 1, "class_names": ["ground", "disc"]}


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize(
    ("task", "build", "arguments"),
    [
        ("retina", retinaNN_training.build_network, (16, 16)),
        ("membrane", unpadded.build_network, (44,)),
        ("cells", unpadded.build_network, (44,)),
        ("segmentation", segmentationNN_training.build_network, (DATA, 32, 32)),
    ],
)
def test_the_key_data_format_decides_for_the_networks_of_every_task(
    tmp_path, any_layout, task, build, arguments, layout
):
    path = write_configuration(tmp_path, task=task, data_format=layout)
    model = build(read_configuration(path, TASKS), *arguments)
    used = {x.data_format for x in model.layers if isinstance(x, keras.layers.Conv2D)}
    assert used == {layout}


def test_layout_is_channels_first_on_a_gpu(gpu):
    assert devices.inner_data_format() == "channels_first"


def test_layout_is_channels_last_on_a_cpu(no_gpu):
    assert devices.inner_data_format() == "channels_last"


@pytest.mark.parametrize(("mixed", "policy"), [(False, "float32"), (True, "mixed_bfloat16")])
def test_start_sets_seed_and_precision_whatever_keras_json_says(capsys, mixed, policy):
    keras.config.set_floatx("float64")
    keras.config.set_epsilon(0.1)
    devices.start_computing(3, mixed)
    first = keras.random.uniform((4,)), keras.layers.Dense(3)
    assert keras.config.dtype_policy().name == policy
    assert (keras.config.floatx(), keras.config.epsilon()) == ("float32", 1e-7)
    assert first[1].variable_dtype == "float32"
    assert first[1].compute_dtype == ("bfloat16" if mixed else "float32")
    assert "computing on" in capsys.readouterr().out


def test_same_seed_gives_the_same_first_weights():
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
