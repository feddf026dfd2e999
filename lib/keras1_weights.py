"""Reads the weights that retina-unet published in 2016, written by Keras 1 on Theano.

Keras 3 cannot read such a file. It holds a group for each layer, `convolution2d_1` and so on in the
order of the network, with the kernel `_W` as (out, in, height, width) and the bias `_b`. Theano
convolves where today's backends correlate, so each kernel is turned by 180 degrees. Without the
turn the network still gives plausible and wrong vessels (AUC .9732 in place of .9773).
"""

import h5py
import keras
import numpy as np


def is_keras1_file(path):
    """Tells whether an HDF5 file holds the weights of a Keras 1 network."""
    with h5py.File(path, "r") as file:
        return "convolution2d_1" in file


def load_keras1_weights(model, path):
    """Puts the weights of a Keras 1 file into a network of the same convolutions.

    Args:
        model: get_unet(...) in either data format.
        path: HDF5 file such as test_best_weights.h5.
    Raises:
        ValueError: if the number or the shape of the convolutions differs.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    with h5py.File(path, "r") as file:
        names = sorted((n for n in file if n.startswith("convolution2d_")), key=_number)
        if len(names) != len(layers):
            raise ValueError(
                f"{path} must hold {len(layers)} convolutions for the network {model.name}. "
                f"Received: {len(names)}"
            )
        for layer, name in zip(layers, names):
            kernel = _turned(np.asarray(file[name][f"{name}_W"]))
            if kernel.shape != tuple(layer.kernel.shape):
                raise ValueError(
                    f"{path}: {name} must have a kernel of {tuple(layer.kernel.shape)} for the "
                    f"network {model.name}. Received: {kernel.shape}"
                )
            layer.set_weights([kernel, np.asarray(file[name][f"{name}_b"])])


def _turned(kernel):
    """Turns (out, in, height, width) by 180 degrees into (height, width, in, out)."""
    return kernel[:, :, ::-1, ::-1].transpose(2, 3, 1, 0)


def _number(name):
    return int(name.rsplit("_", 1)[1])
