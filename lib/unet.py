"""The networks. They know arrays of (N, C, H, W) and no data set.

The outside of every network is channels_first whatever it computes inside: convolution kernels are
stored alike in both layouts, so the same weights serve both. On a CPU channels_last is faster.
Every layer gets its data_format, so that the user's keras.json decides nothing.
"""

import keras
from keras import layers

DATA_FORMATS = ("channels_first", "channels_last")


def get_unet(
    num_channels,
    patch_height,
    patch_width,
    *,
    output_activation="relu",
    data_format="channels_first",
    dropout=0.2,
):
    """Builds the U-Net of retina-unet: 471,010 parameters, two poolings, 'same' convolutions.

    retina-unet src/retinaNN_training.py, get_unet. The skips are joined as [up-sampled, skip]: the
    published weights were trained so; a later edit of the original turned them round. A "relu"
    before the softmax is the original's and can die (both logits 0 everywhere); "linear" cannot.

    Args:
        num_channels: channels of the input, 1 for grey images.
        patch_height: height of the input in pixels, a multiple of 4.
        patch_width: width of the input in pixels, a multiple of 4.
        output_activation: "relu" or "linear", before the softmax.
        data_format: what the layers compute in; the input stays (N, C, H, W).
        dropout: share of the features that is dropped between two convolutions.
    Returns:
        keras.Model: (N, C, H, W) -> (N, H * W, 2), probabilities of background and vessel.
    Raises:
        ValueError: if a size is not a multiple of 4 or an option is unknown.
    """
    net = _Network(data_format, dropout)
    inputs, x = net.input(num_channels, patch_height, patch_width)
    skip1 = net.double_convolution(x, 32)
    skip2 = net.double_convolution(net.pool(skip1), 64)
    x = net.double_convolution(net.pool(skip2), 128)
    x = net.double_convolution(net.up_and_join(x, skip2), 64)
    x = net.double_convolution(net.up_and_join(x, skip1), 32)
    return keras.Model(inputs, net.pixel_softmax(x, output_activation), name="unet")


def get_gnet(
    num_channels,
    patch_height,
    patch_width,
    *,
    output_activation="relu",
    data_format="channels_first",
    dropout=0.2,
):
    """Builds the second network of retina-unet, which first looks at the patch at twice its size.

    retina-unet src/retinaNN_training.py, get_gnet, which cannot be built there since Keras 2.
    Arguments, result and errors as in get_unet.
    """
    net = _Network(data_format, dropout)
    inputs, x = net.input(num_channels, patch_height, patch_width)
    x = net.double_convolution(x, 32)
    skip1 = net.double_convolution(net.up(x), 16)
    skip2 = net.double_convolution(net.pool(skip1), 32)
    skip3 = net.double_convolution(net.pool(skip2), 64)
    x = net.double_convolution(net.pool(skip3), 128)
    x = net.double_convolution(net.up_and_join(x, skip3), 64)
    x = net.double_convolution(net.up_and_join(x, skip2), 32)
    x = net.double_convolution(net.up_and_join(x, skip1), 16)
    x = net.double_convolution(net.pool(x), 32)
    return keras.Model(inputs, net.pixel_softmax(x, output_activation), name="gnet")


NETWORKS = {"unet": get_unet, "gnet": get_gnet}


class _Network:
    """The layers that get_unet and get_gnet are made of, all in one data format."""

    def __init__(self, data_format, dropout):
        if data_format not in DATA_FORMATS:
            raise ValueError(f"data_format must be one of {DATA_FORMATS}. Received: {data_format}")
        self.data_format = data_format
        self.dropout = dropout
        self.channel_axis = 1 if data_format == "channels_first" else -1

    def input(self, num_channels, height, width):
        for name, size in (("patch_height", height), ("patch_width", width)):
            if size <= 0 or size % 4:
                raise ValueError(
                    f"{name} must be a multiple of 4, because the network pools twice. "
                    f"Received: {size}. Use {max(4, size // 4 * 4)} or {max(4, size // 4 * 4) + 4}."
                )
        inputs = keras.Input((num_channels, height, width))
        if self.data_format == "channels_first":
            return inputs, inputs
        return inputs, layers.Permute((2, 3, 1))(inputs)  # (B, H, W, C)

    def double_convolution(self, x, filters):
        x = self.convolution(x, filters, 3, "relu")
        x = layers.Dropout(self.dropout)(x)
        return self.convolution(x, filters, 3, "relu")

    def convolution(self, x, filters, size, activation):
        return layers.Conv2D(
            filters, size, padding="same", activation=activation, data_format=self.data_format
        )(x)

    def pool(self, x):
        return layers.MaxPooling2D(2, data_format=self.data_format)(x)

    def up(self, x):
        return layers.UpSampling2D(2, data_format=self.data_format, interpolation="nearest")(x)

    def up_and_join(self, x, skip):
        return layers.Concatenate(axis=self.channel_axis)([self.up(x), skip])

    def pixel_softmax(self, x, output_activation):
        if output_activation not in ("relu", "linear"):
            raise ValueError(
                f"output_activation must be relu or linear. Received: {output_activation}"
            )
        x = self.convolution(x, 2, 1, output_activation)
        if self.data_format == "channels_first":
            x = layers.Reshape((2, -1))(x)  # (B, 2, H*W)
            x = layers.Permute((2, 1))(x)
        else:
            x = layers.Reshape((-1, 2))(x)
        # (B, H*W, 2). The softmax stays in float32 under mixed precision.
        return layers.Activation("softmax", dtype="float32")(x)
