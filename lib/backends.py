"""What the environment says of backend and hosts; read before Keras is loaded."""

import importlib.util
import json
import os

from lib.errors import UserError

BACKENDS = ("tensorflow", "jax", "torch", "openvino")


def require_backend():
    """Checks the environment variable KERAS_BACKEND, which Keras follows when it is loaded.

    Raises:
        UserError: if it names no backend that this project runs on, or one that is not installed.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
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

    Several hosts are described as the backend's own engine reads it: TF_CONFIG for TensorFlow,
    KERAS_DISTRIBUTION_PROCESS_ID for JAX.

    Args:
        distribute: "none" or "auto", from the training settings.
    Returns:
        True for one host alone and for the first of several.
    Raises:
        UserError: if a variable cannot be read.
    """
    if distribute == "none":
        return True
    try:
        configuration = json.loads(os.environ.get("TF_CONFIG") or "{}")
        task, cluster = configuration.get("task", {}), configuration.get("cluster", {})
        # The first worker is the chief where none is named.
        is_chief = task.get("type") == "chief" or "chief" not in cluster
        index = int(task.get("index", 0))
        return is_chief and index == int(os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", 0)) == 0
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG or KERAS_DISTRIBUTION_PROCESS_ID cannot be read: {error}. README.md, "
            "section 'Several GPUs, several hosts', has examples; unset it for one host."
        ) from error
