"""What the networks compute on: the backend, its devices, and what to do when no GPU is seen."""

import contextlib
import ctypes
import functools
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import keras

from lib.errors import UserError


@dataclass(frozen=True)
class Devices:
    """The devices that share the batches of a training.

    Args:
        num_devices: on all hosts together; each takes an equal part of every batch.
        host: number of this host, which cuts its own part of every batch.
        num_hosts: number of hosts.
        scope: gives the context in which a network and its optimiser are built.
    """

    num_devices: int = 1
    host: int = 0
    num_hosts: int = 1
    scope: object = contextlib.nullcontext


ONE_DEVICE = Devices()


def set_up_devices(mixed_precision=False, distribute="none"):
    """Prepares the backend's devices before anything is computed.

    TensorFlow takes the memory of a GPU as it needs it, not all at once. OpenVINO computes in
    float32 unless mixed precision is asked for: left alone it takes bfloat16 where the processor
    can (differences of 2e-4), and Keras passes it no option.

    Args:
        mixed_precision: whether to compute in bfloat16.
        distribute: "none", or "auto" for all devices of this host and of the hosts that the
            environment names.
    Returns:
        Devices.
    Raises:
        UserError: if the backend cannot distribute as asked.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    if backend == "openvino":
        import openvino

        hint = {"INFERENCE_PRECISION_HINT": "bf16" if mixed_precision else "f32"}
        original = getattr(openvino.compile_model, "func", openvino.compile_model)
        openvino.compile_model = functools.partial(original, config=hint)
    if distribute == "none":
        return ONE_DEVICE
    return {"tensorflow": _distribute_tensorflow, "jax": _distribute_jax}.get(
        backend, _distribute_nothing
    )()


def _distribute_tensorflow():
    """Mirrors the network on all GPUs of this host with tf.distribute."""
    import tensorflow as tf

    if os.environ.get("TF_CONFIG") or "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        # MultiWorkerMirroredStrategy fails in Keras 3.15's fit: it reduces scalars along an axis.
        raise UserError(
            "[training settings] distribute = auto trains on several hosts with KERAS_BACKEND=jax "
            "only. Received: tensorflow, and TF_CONFIG or KERAS_DISTRIBUTION_JOB_ADDRESSES is set. "
            "Set KERAS_BACKEND=jax (docs/SERVERS.md), or unset both."
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return ONE_DEVICE
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Devices(len(devices), scope=strategy.scope)


def _distribute_jax():
    """Splits batches with Keras's DataParallel, over hosts where KERAS_DISTRIBUTION_* name some."""
    import jax

    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()
    devices = keras.distribution.list_devices()
    if len(devices) == 1:
        return ONE_DEVICE
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
    )
    return Devices(len(devices), jax.process_index(), jax.process_count())


@contextlib.contextmanager
def this_host_alone():
    """Keeps the other hosts out of what one does by itself.

    Keras makes variables of its own when it saves weights (an optimiser to compare with); under
    DataParallel a variable is made by all hosts together, and those that do not save are missing.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def _distribute_nothing():
    """Refuses several GPUs on a backend for which Keras has no distribution."""
    if len(list_gpus()) > 1:
        raise UserError(
            "[training settings] distribute = auto works with KERAS_BACKEND=tensorflow or jax. "
            f"Received: {keras.backend.backend()}. Change one of the two, or show one GPU only "
            "(CUDA_VISIBLE_DEVICES=0)."
        )
    return ONE_DEVICE


def start_computing(seed, mixed_precision, distribute=None):
    """Sets up devices, seed and precision for a script, and says what it computes on.

    Args:
        seed: seeds weights, dropout and all else that is random.
        mixed_precision: whether to compute in bfloat16, keeping the weights in float32. A training
            on a processor without it computes in float32, and says so: emulated, the gradients
            take 50 times as long. A test emulates it in nearly the same time, for the same scores.
        distribute: as in set_up_devices, for a training; None for a test.
    Returns:
        Devices.
    """
    is_training = distribute is not None
    is_mixed = mixed_precision and (has_bfloat16() or not is_training)
    devices = set_up_devices(is_mixed, distribute or "none")
    print(describe_devices(), flush=True)
    if mixed_precision and not is_mixed:
        print("mixed_precision = True, but this processor has no bfloat16: training in float32.")
    if devices.num_devices > 1:
        print(f"Every batch is shared by {devices.num_devices} devices.", flush=True)
    keras.utils.set_random_seed(seed)
    # What the user's keras.json may say otherwise; losses and metrics follow it.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    # OpenVINO takes its precision from set_up_devices.
    is_policy = is_mixed and keras.backend.backend() != "openvino"
    keras.config.set_dtype_policy("mixed_bfloat16" if is_policy else "float32")
    return devices


def has_bfloat16():
    """Tells whether the device computes in bfloat16: GPUs do, processors from AVX512_BF16 on.

    Where the operating system does not tell (no /proc/cpuinfo), the answer is yes.
    """
    if list_gpus():
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def list_gpus():
    """Names the GPUs that the backend sees, for example ["NVIDIA H200"]; empty without one."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        details = tf.config.experimental.get_device_details
        gpus = tf.config.list_physical_devices("GPU")
        return [details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return []


def describe_devices():
    """Says in a line which backend and devices are used."""
    backend = keras.backend.backend()
    version = importlib.import_module(backend).__version__
    devices = ", ".join(list_gpus())
    if not devices:
        devices = f"CPU with {num_cores()} cores (no GPU found; for one see docs/SERVERS.md)"
    return f"Keras {keras.__version__} on {backend} {version}, computing on: {devices}."


def inner_data_format(data_format="auto"):
    """Gives the layout in which a network computes.

    Args:
        data_format: channels_first, channels_last, or auto: what is fastest here, channels_last
            without a GPU.
    Raises:
        UserError: if it is channels_first and TensorFlow cannot convolve so on this processor.
    """
    if data_format == "auto":
        return "channels_first" if list_gpus() else "channels_last"
    if data_format == "channels_first" and not convolves_channels_first():
        raise UserError(
            "[training settings] data_format = channels_first: on this processor TensorFlow "
            "convolves channels_last only. Set data_format = auto: the weights are the same, and "
            "the results differ by rounding."
        )
    return data_format


@functools.cache
def convolves_channels_first():
    """Tells whether the backend convolves channels_first here.

    TensorFlow does so on GPUs, and on processors where it uses oneDNN: from AVX512_VNNI on. XLA is
    no way round: TensorFlow 2.21 compiled the unpadded U-Net to wrong outputs on a processor.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    try:
        tf.nn.conv2d(tf.zeros((1, 1, 1, 1)), tf.zeros((1, 1, 1, 1)), 1, "VALID", "NCHW")
    except tf.errors.UnimplementedError:
        return False
    return True


def num_cores():
    """Counts the processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def return_free_memory():
    """Returns to the system what is free in the heap of glibc; does nothing where there is none.

    The heap of a long training would grow by some 15 kB an epoch, as files are made in memory.
    """
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
