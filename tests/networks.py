"""Ways to look into a network, and to compute with it in either layout."""

import functools
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest.mock import patch

import keras
import numpy as np

from lib.devices import convolves_channels_first

# By oneDNN TensorFlow convolves channels_first on every x86 processor; on older ones it switches it
# on only where it is told to, once, when it is loaded.
WITH_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def convolutions(model):
    kinds = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    return [layer for layer in model.layers if isinstance(layer, kinds)]


def answer(model, images):
    """Gives the outputs; from a process with oneDNN where this one cannot compute the layout."""
    if convolutions(model)[0].data_format == "channels_first" and not convolves_channels_first():
        given = model.to_json(), model.get_weights(), images
        return _process_with_onednn().submit(_answer, *given).result()
    return np.asarray(model.predict_on_batch(images))


@functools.cache
def _process_with_onednn():
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with patch.dict(os.environ, WITH_ONEDNN):
        pool.submit(int).result()  # it starts, and reads the environment
    return pool


def _answer(architecture, weights, images):
    model = keras.models.model_from_json(architecture)
    model.set_weights(weights)
    return np.asarray(model.predict_on_batch(images))
