"""What the environment says of backend and hosts; read before Keras is loaded."""

import importlib.util
import os

from lib.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch", "openvino")


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
            " Mend the environment variable, or unset it for tensorflow."
        )
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"KERAS_BACKEND = {backend} needs the package {backend}, which is not installed: "
            f"pip install {backend}. Or unset KERAS_BACKEND for tensorflow."
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
            f"{number or 'nothing'}. Mend it, or unset it for one host."
        )
    return int(number) == 0
