"""The networks. They know arrays of (N, C, H, W) and no data set.

The outside of every network is channels_first whatever it computes inside: convolution kernels are
stored alike in both layouts, so the same weights serve both. On a CPU channels_last is faster.
Every layer gets its data_format, so that the user's keras.json decides nothing.
"""

import random
from dataclasses import dataclass

import keras
from keras import layers

from lib.overlap_tile import output_size

DATA_FORMATS = ("channels_first", "channels_last")
DROPOUT_KINDS = ("plain", "spatial")


def get_unet(
    num_channels,
    patch_height,
    patch_width,
    *,
    num_classes=2,
    output_activation="relu",
    data_format="channels_first",
    dropout=0.2,
    dropout_kind="plain",
):
    """Builds the U-Net of retina-unet: 471,010 parameters, two poolings, 'same' convolutions.

    retina-unet src/retinaNN_training.py, get_unet. The skips are joined as [up-sampled, skip]: the
    published weights were trained so; a later edit of the original turned them round. A "relu"
    before the softmax is the original's and can die (both logits 0 everywhere); "linear" cannot.

    Args:
        num_channels: channels of the input, 1 for grey images.
        patch_height: height of the input in pixels, a multiple of 4; None for any of them.
        patch_width: width of the input in pixels, alike.
        num_classes: channels of the output.
        output_activation: "relu" or "linear", before the softmax.
        data_format: what the layers compute in; the input stays (N, C, H, W).
        dropout: share of the features that is dropped between two convolutions.
        dropout_kind: "plain", or "spatial": whole channels are dropped (Tompson et al. 2015).
    Returns:
        keras.Model: (N, C, H, W) -> (N, H * W, num_classes), probabilities of the classes.
    Raises:
        ValueError: if a size is not a multiple of 4 or an option is unknown.
    """
    net = _Network(num_classes, data_format, dropout, dropout_kind)
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
    num_classes=2,
    output_activation="relu",
    data_format="channels_first",
    dropout=0.2,
    dropout_kind="plain",
):
    """Builds the second network of retina-unet, which first looks at the patch at twice its size.

    retina-unet src/retinaNN_training.py, get_gnet, which cannot be built there since Keras 2.
    Arguments, result and errors as in get_unet.
    """
    net = _Network(num_classes, data_format, dropout, dropout_kind)
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


def get_unpadded_unet(
    num_channels,
    tile_height,
    tile_width,
    *,
    num_classes=2,
    base_filters=64,
    depth=4,
    variant="paper",
    data_format="channels_first",
    dropout=0.5,
    dropout_kind="plain",
):
    """Builds the U-Net of the paper: unpadded convolutions, centre-cropped skips.

    Ronneberger, Fischer, Brox 2015, figure 1: 572 -> 388 pixels, 23 convolutions, 31,030,658
    parameters for 64 base filters and depth 4. Dropout "at the end of the contracting path"
    (section 3.1) is on the last level with a skip, which carries it, and on the lowest. Kernels are
    drawn from N(0, sqrt(2 / fan_in)) (section 3), not truncated, as released.

    Args:
        num_channels: channels of the input, 1 for grey images.
        tile_height: height of the input in pixels, 2^depth * k + 4 * (2^depth - 1).
        tile_width: width of the input in pixels, alike.
        num_classes: channels of the output.
        base_filters: filters of the first level; doubled at each level below.
        depth: number of poolings.
        variant: "paper", as figure 1 is drawn; or "release", as the authors published it: a ReLU
            after each up-convolution, and twice the base filters out of the last (31,100,354).
        data_format: what the layers compute in; the input stays (N, C, H, W).
        dropout: share of the features that is dropped.
        dropout_kind: "plain" or "spatial", as in get_unet.
    Returns:
        keras.Model: (N, C, H, W) -> (N, H' * W', num_classes), probabilities of the classes on the
        pixels with full context, H' = H - (12 * 2^depth - 8).
    Raises:
        ValueError: if a size does not fit (the two nearest that do are named), or an option is
            unknown.
    """
    if variant not in ("paper", "release"):
        raise ValueError(f"variant must be paper or release. Received: {variant}")
    net = _UnpaddedNetwork(
        num_classes, data_format, dropout, dropout_kind, (tile_height, tile_width), depth
    )
    inputs, x = net.input(num_channels)
    skips = []
    for level in range(depth):
        x = net.double_convolution(x, base_filters * 2**level)
        if level == depth - 1:
            x = net.drop(x)
        skips.append(x)
        x = net.pool(x)
    x = net.double_convolution(x, base_filters * 2**depth)
    x = net.drop(x)
    for level in reversed(range(depth)):
        filters = base_filters * 2**level
        up_filters = 2 * filters if variant == "release" and level == 0 else filters
        x = net.up_convolution(x, up_filters, "relu" if variant == "release" else None)
        x = net.crop_and_join(x, skips[level])
        x = net.double_convolution(x, filters)
    return keras.Model(inputs, net.pixel_softmax(x), name="unpadded_unet")


def get_padded_unet(
    num_channels,
    height,
    width,
    *,
    num_classes=2,
    base_filters=32,
    depth=4,
    batch_normalization=False,
    dropout=0.0,
    dropout_kind="plain",
    output_activation="softmax",
    encoder=None,
    data_format="channels_first",
):
    """Builds a U-Net with padded convolutions for any number of channels and classes.

    The U-Net paper's network with 'same' convolutions, as most Keras versions of it have them, so
    that the output is as large as the input.

    Args:
        num_channels: channels of the input.
        height: height of the input in pixels, a multiple of 2^depth (32 with an encoder); None for
            any of them.
        width: width of the input in pixels, alike.
        num_classes: channels of the output.
        base_filters: filters of the first level; doubled at each level below.
        depth: number of poolings; an encoder has its own 5.
        batch_normalization: whether each convolution is normalised before its ReLU.
        dropout: share of the features that is dropped behind each block of two convolutions.
        dropout_kind: "plain" or "spatial", as in get_unet.
        output_activation: "softmax", or "sigmoid" for two classes: one logit.
        encoder: lib.encoders.Encoder that takes the place of the contracting path; None for none.
        data_format: what the layers compute in; the input stays (N, C, H, W). With an encoder it is
            channels_last.
    Returns:
        keras.Model: (N, C, H, W) -> (N, H * W, num_classes), probabilities of the classes.
    Raises:
        ValueError: if a size does not fit or an option is unknown.
    """
    net = _PaddedNetwork(
        num_classes, "channels_last" if encoder else data_format, dropout, dropout_kind
    )
    net.batch_normalization = batch_normalization
    inputs, features = net.features(num_channels, height, width, base_filters, depth, encoder)
    x = features[-1]
    for level in reversed(range(len(features) - 1)):
        filters = base_filters * 2**level
        x = net.block(net.join_all(net.up_convolution(x, filters), [features[level]]), filters)
    return keras.Model(inputs, net.classify([x], output_activation), name="padded_unet")


def get_unet_plus_plus(
    num_channels,
    height,
    width,
    *,
    num_classes=2,
    base_filters=32,
    depth=4,
    batch_normalization=False,
    dropout=0.0,
    dropout_kind="plain",
    output_activation="softmax",
    encoder=None,
    deep_supervision=False,
    data_format="channels_first",
):
    """Builds a U-Net++: skips that pass through convolutions, each joined with all before it.

    Zhou et al. 2018, figure 1: node X(i, j) convolves [X(i, 0), ..., X(i, j - 1), up(X(i + 1, j -
    1))]. Differs: with deep_supervision the output is the mean of the heads' probabilities (their
    "accurate mode"), and the loss is that of the mean, not the mean of the heads' losses.
    Arguments, result and errors as in get_padded_unet; deep_supervision: whether every node of the
    first row has a head.
    """
    net = _PaddedNetwork(
        num_classes, "channels_last" if encoder else data_format, dropout, dropout_kind
    )
    net.batch_normalization = batch_normalization
    inputs, features = net.features(num_channels, height, width, base_filters, depth, encoder)
    rows = [[feature] for feature in features]
    for column in range(1, len(rows)):
        for level in range(len(rows) - column):
            filters = base_filters * 2**level
            up = net.up_convolution(rows[level + 1][column - 1], filters)
            rows[level].append(net.block(net.join_all(up, rows[level]), filters))
    heads = rows[0][1:] if deep_supervision else rows[0][-1:]
    return keras.Model(inputs, net.classify(heads, output_activation), name="unet_plus_plus")


@dataclass(frozen=True)
class Network:
    """A padded network, and what the code that cuts its input must know.

    Args:
        build: function num_channels, height, width, options -> keras.Model.
        multiple: of which height and width of the input must be: 2 for each pooling.
        reach: how many pixels far an output looks at most, rounded up to the multiple.
    """

    build: object
    multiple: int
    reach: int


# get_unet: two convolutions of radius 1 on pixels of size 1, 2, 4, 2 and 1 give 20, and pixels that
# are pooled together 3 more. get_gnet: 26 + 3, of sizes 1, 1/2, 1, 2, 4, 2, 1, 1/2 and 1.
NETWORKS = {"unet": Network(get_unet, 4, 24), "gnet": Network(get_gnet, 4, 32)}


PADDED_NETWORKS = {"unet": get_padded_unet, "unet_plus_plus": get_unet_plus_plus}


class _Layers:
    """What all networks are made of, in one data format."""

    def __init__(self, num_classes, data_format, dropout, dropout_kind="plain"):
        if data_format not in DATA_FORMATS:
            raise ValueError(f"data_format must be one of {DATA_FORMATS}. Received: {data_format}")
        if dropout_kind not in DROPOUT_KINDS:
            raise ValueError(
                f"dropout_kind must be one of {DROPOUT_KINDS}. Received: {dropout_kind}"
            )
        self.num_classes = num_classes
        self.data_format = data_format
        self.dropout = dropout
        self.dropout_kind = dropout_kind
        self.channel_axis = 1 if data_format == "channels_first" else -1

    def channels_first_input(self, num_channels, height, width):
        inputs = keras.Input((num_channels, height, width))
        if self.data_format == "channels_first":
            return inputs, inputs
        return inputs, layers.Permute((2, 3, 1))(inputs)  # (B, H, W, C)

    def drop(self, x):
        # As Keras draws it; but one that it drew itself PyTorch does not use, so it cannot resume.
        seed = random.randint(1, 1_000_000_000) if self.dropout else None
        if self.dropout_kind == "plain":
            return layers.Dropout(self.dropout, seed=seed)(x)
        return layers.SpatialDropout2D(self.dropout, data_format=self.data_format, seed=seed)(x)

    def pool(self, x):
        return layers.MaxPooling2D(2, data_format=self.data_format)(x)

    def join(self, up, skip):
        # The published weights of both projects were trained with this order.
        return layers.Concatenate(axis=self.channel_axis)([up, skip])

    def softmax_over_pixels(self, x):
        if self.data_format == "channels_first":
            x = layers.Reshape((self.num_classes, -1))(x)  # (B, K, H*W)
            x = layers.Permute((2, 1))(x)
        else:
            x = layers.Reshape((-1, self.num_classes))(x)
        # (B, H*W, K). The softmax stays in float32 under mixed precision.
        return layers.Activation("softmax", dtype="float32")(x)


class _Network(_Layers):
    """The layers of get_unet and get_gnet: 'same' convolutions, nearest up-sampling."""

    def input(self, num_channels, height, width):
        for name, size in (("patch_height", height), ("patch_width", width)):
            if size is not None and (size <= 0 or size % 4):
                lower = max(4, size // 4 * 4)
                raise ValueError(
                    f"{name} must be a multiple of 4, because the network pools twice. "
                    f"Received: {size}. Use {lower} or {lower + 4}."
                )
        return self.channels_first_input(num_channels, height, width)

    def double_convolution(self, x, filters):
        x = self.convolution(x, filters, 3, "relu")
        x = self.drop(x)
        return self.convolution(x, filters, 3, "relu")

    def convolution(self, x, filters, size, activation):
        return layers.Conv2D(
            filters, size, padding="same", activation=activation, data_format=self.data_format
        )(x)

    def up(self, x):
        return layers.UpSampling2D(2, data_format=self.data_format, interpolation="nearest")(x)

    def up_and_join(self, x, skip):
        return self.join(self.up(x), skip)

    def pixel_softmax(self, x, output_activation):
        if output_activation not in ("relu", "linear"):
            raise ValueError(
                f"output_activation must be relu or linear. Received: {output_activation}"
            )
        return self.softmax_over_pixels(self.convolution(x, self.num_classes, 1, output_activation))


class _PaddedNetwork(_Layers):
    """The layers of get_padded_unet and get_unet_plus_plus."""

    batch_normalization = False

    def features(self, num_channels, height, width, base_filters, depth, encoder):
        """Gives the input and the features of the contracting path, the finest first.

        Where an encoder has none of the input's size, None stands there.
        """
        multiple = encoder.multiple if encoder else 2**depth
        for name, size in (("height", height), ("width", width)):
            if size is not None and (size <= 0 or size % multiple):
                lower = max(multiple, size // multiple * multiple)
                raise ValueError(
                    f"The {name} of the input must be a multiple of {multiple}. Received: {size}. "
                    f"Use {lower} or {lower + multiple}."
                )
        inputs, x = self.channels_first_input(num_channels, height, width)
        if encoder:
            return inputs, encoder.features(x)
        features = [self.block(x, base_filters)]
        for level in range(1, depth + 1):
            features.append(self.block(self.pool(features[-1]), base_filters * 2**level))
        return inputs, features

    def block(self, x, filters):
        x = self.convolution(self.convolution(x, filters), filters)
        return self.drop(x) if self.dropout else x

    def convolution(self, x, filters):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=not self.batch_normalization,
            data_format=self.data_format,
            kernel_initializer="he_normal",
        )(x)
        if self.batch_normalization:
            x = layers.BatchNormalization(axis=self.channel_axis)(x)
        return layers.Activation("relu")(x)

    def up_convolution(self, x, filters):
        return layers.Conv2DTranspose(filters, 2, strides=2, data_format=self.data_format)(x)

    def join_all(self, up, skips):
        skips = [skip for skip in skips if skip is not None]
        return layers.Concatenate(axis=self.channel_axis)([up, *skips]) if skips else up

    def classify(self, heads, output_activation):
        """Gives the mean probability of the heads: (B, H*W, K)."""
        if output_activation not in ("softmax", "sigmoid"):
            raise ValueError(
                f"output_activation must be softmax or sigmoid. Received: {output_activation}"
            )
        is_binary = output_activation == "sigmoid"
        if is_binary and self.num_classes != 2:
            raise ValueError(
                f"output_activation = sigmoid is for 2 classes. Received: {self.num_classes}"
            )
        outputs = [self._classify(head, is_binary) for head in heads]
        return layers.Average(dtype="float32")(outputs) if len(outputs) > 1 else outputs[0]

    def _classify(self, x, is_binary):
        logits = layers.Conv2D(
            1 if is_binary else self.num_classes, 1, data_format=self.data_format
        )(x)
        if not is_binary:
            return self.softmax_over_pixels(logits)
        # One logit z as two, 0 and z: their softmax is the sigmoid of z.
        zeros = layers.Rescaling(0.0)(logits)
        return self.softmax_over_pixels(layers.Concatenate(axis=self.channel_axis)([zeros, logits]))


class _UnpaddedNetwork(_Layers):
    """The layers of get_unpadded_unet: unpadded convolutions, up-convolutions, cropped skips."""

    def __init__(self, num_classes, data_format, dropout, dropout_kind, size, depth):
        super().__init__(num_classes, data_format, dropout, dropout_kind)
        self.size = size
        for size in self.size:
            output_size(size, depth)  # raises for a size that does not fit

    def input(self, num_channels):
        return self.channels_first_input(num_channels, *self.size)

    def double_convolution(self, x, filters):
        return self.convolution(self.convolution(x, filters, 3, "relu"), filters, 3, "relu")

    def convolution(self, x, filters, size, activation):
        return layers.Conv2D(
            filters,
            size,
            padding="valid",
            activation=activation,
            data_format=self.data_format,
            kernel_initializer=_he_untruncated(),
        )(x)

    def up_convolution(self, x, filters, activation):
        return layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            activation=activation,
            data_format=self.data_format,
            kernel_initializer=_he_untruncated(),
        )(x)

    def crop_and_join(self, x, skip):
        crops = [(s - u) // 2 for s, u in zip(self._height_width(skip), self._height_width(x))]
        cropped = layers.Cropping2D(tuple(crops), data_format=self.data_format)(skip)
        return self.join(x, cropped)

    def pixel_softmax(self, x):
        return self.softmax_over_pixels(self.convolution(x, self.num_classes, 1, None))

    def _height_width(self, x):
        return x.shape[2:4] if self.data_format == "channels_first" else x.shape[1:3]


def _he_untruncated():
    """N(0, sqrt(2 / fan_in)); Keras's he_normal cuts the normal distribution at 2 sigma."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
