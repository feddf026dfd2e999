"""What the environment says of backend and hosts; read before Keras is loaded."""

import contextlib
import importlib.util
import os
import sys
import tempfile

from lib.errors import BACKENDS, UserError


def require_backend():
    """Checks the environment variable KERAS_BACKEND, which Keras follows when it is loaded.

    Where it is not set it becomes tensorflow, so that no ~/.keras/keras.json decides.

    Raises:
        UserError: if it names no backend that this project runs on, or one that is not installed.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise UserError(
            f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}. Received: {backend or 'nothing'}."
            " Correct the environment variable, or unset it for tensorflow."
        )
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"KERAS_BACKEND = {backend} needs the package {backend}, which is not installed: "
            f"pip install {backend}. Or unset KERAS_BACKEND for tensorflow."
        )


def require_training_backend():
    """Raises a UserError for OpenVINO, which cannot train."""
    if os.environ.get("KERAS_BACKEND") == "openvino":
        raise UserError(
            "OpenVINO predicts and cannot train: run_training.py needs KERAS_BACKEND=tensorflow, "
            "jax or torch. Received: openvino. run_testing.py takes the weights with any of them."
        )


def is_first_host(distribute):
    """Tells whether this process writes the files of a training.

    Of several hosts that train together, the first does. KERAS_DISTRIBUTION_PROCESS_ID numbers
    them, as Keras reads it.

    Args:
        distribute: "none" or "auto", from the training settings.
    Raises:
        UserError: if the variable holds no whole number.
    """
    number = os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")
    if distribute == "none":
        return True
    if not number.isdecimal():
        raise UserError(
            "KERAS_DISTRIBUTION_PROCESS_ID must be the number of this host, from 0. Received: "
            f"{number or 'nothing'}. Correct it, or unset it for one host."
        )
    return int(number) == 0


@contextlib.contextmanager
def quietly():
    """Keeps what libraries write to standard error while they are loaded; shows it if they fail.

    TensorFlow writes about processors and CUDA before it can be told not to; what is to be known
    of it lib.devices.describe_devices says in a line.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
