"""What the networks compute on: the backend, its devices, and what to do when no GPU is seen."""

import importlib.metadata
import os

import keras

GPU_ADVICE = """No GPU is used. To have one seen:
  - nvidia-smi must list it (driver installed),
  - the environment variable CUDA_VISIBLE_DEVICES must not hide it (it is {visible}),
  - TensorFlow must be installed with CUDA: pip install "tensorflow[and-cuda]"
    (in this project: make gpu); TF_CPP_MIN_LOG_LEVEL=0 shows what it looks for."""


def set_up_devices():
    """Lets programs share a GPU: TensorFlow takes memory as it needs it, not all at once."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)


def start_computing(seed, mixed_precision):
    """Sets up devices, seed and precision for a script, and says what it computes on.

    Args:
        seed: seeds weights, drop-out and all else that is random.
        mixed_precision: whether to compute in bfloat16, keeping the weights in float32.
    """
    set_up_devices()
    print(describe_devices(), flush=True)
    keras.utils.set_random_seed(seed)
    # What the user's keras.json may say otherwise; losses and metrics follow it.
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")


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
    """Says in a line or two which backend and devices are used, and without a GPU what to check."""
    backend = keras.backend.backend()
    version = importlib.metadata.version(backend)
    gpus = list_gpus()
    devices = ", ".join(gpus) if gpus else f"CPU with {_num_cores()} cores"
    first_line = f"Keras {keras.__version__} on {backend} {version}, computing on: {devices}."
    if gpus:
        return first_line
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = "not set" if visible is None else f"{visible!r}"
    return f"{first_line}\n{GPU_ADVICE.format(visible=visible)}"


def inner_data_format():
    """Gives the layout in which a network computes fastest here: channels_last without a GPU."""
    return "channels_first" if list_gpus() else "channels_last"


def _num_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
