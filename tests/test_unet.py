"""Tests of the networks: sizes, parameter counts, and their output against plain NumPy.

More of the paper's network is in test_unpadded_unet.py.
"""

from functools import partial

import keras
import numpy as np
import pytest

from lib.unet import get_gnet, get_unet, get_unpadded_unet
from tests.networks import answer, convolutions

HEIGHT, WIDTH = 8, 12  # not square
LAYOUTS = ("channels_first", "channels_last")
BUILDERS = {"unet": get_unet, "gnet": get_gnet}


def randomised(model, seed=0):
    """Gives a network random weights and biases, with a head that no ReLU kills; returns it."""
    rng = np.random.default_rng(seed)
    for layer in convolutions(model):
        kernel, bias = layer.get_weights()
        deviation = np.sqrt(2 / kernel[..., 0].size)
        layer.set_weights([rng.normal(0, deviation, kernel.shape), rng.normal(0, 0.3, bias.shape)])
    layer.set_weights([layer.get_weights()[0], np.linspace(1.0, 0.5, layer.filters)])
    return model


@pytest.fixture(scope="module")
def networks():
    """{(network, data_format): model}, the same weights for both layouts of a network."""
    return {
        (name, layout): randomised(build(1, HEIGHT, WIDTH, data_format=layout))
        for name, build in BUILDERS.items()
        for layout in LAYOUTS
    }


@pytest.fixture
def images(rng):
    return rng.random((3, 1, HEIGHT, WIDTH), np.float32)


# ---------------------------------------------------------------- plain NumPy


class PlainNetwork:
    """The same layers in NumPy for one image of (C, H, W), taking kernels one after the other."""

    def __init__(self, model):
        self.weights = [layer.get_weights() for layer in convolutions(model)]

    def convolution(self, x, activation="relu", padding="same"):
        kernel, bias = self.weights.pop(0)
        edge = kernel.shape[0] // 2 if padding == "same" else 0
        padded = np.pad(x, [(0, 0), (edge, edge), (edge, edge)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
        x = np.einsum("chwij,ijco->ohw", windows, kernel) + bias[:, None, None]
        return np.maximum(x, 0) if activation == "relu" else x

    def pair(self, x):
        return self.convolution(self.convolution(x))

    def pool(self, x):
        channels, height, width = x.shape
        return x.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))

    def up(self, x):
        return x.repeat(2, axis=1).repeat(2, axis=2)

    def join(self, x, skip):
        return np.concatenate([self.up(x), skip])

    def softmax(self, x, activation):
        x = self.convolution(x, activation)
        logits = x.reshape(len(x), -1).T  # (H*W, K)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def plain_unet(model, x, activation="relu"):
    net = PlainNetwork(model)
    skip1 = net.pair(x)
    skip2 = net.pair(net.pool(skip1))
    x = net.pair(net.pool(skip2))
    x = net.pair(net.join(x, skip2))
    return net.softmax(net.pair(net.join(x, skip1)), activation)


def plain_gnet(model, x, activation="relu"):
    net = PlainNetwork(model)
    skip1 = net.pair(net.up(net.pair(x)))
    skip2 = net.pair(net.pool(skip1))
    skip3 = net.pair(net.pool(skip2))
    x = net.pair(net.pool(skip3))
    for skip in (skip3, skip2, skip1):
        x = net.pair(net.join(x, skip))
    return net.softmax(net.pair(net.pool(x)), activation)


PLAIN = {"unet": plain_unet, "gnet": plain_gnet}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BUILDERS)
def test_network_equals_plain_numpy(networks, images, name, layout):
    model = networks[name, layout]
    expected = [PLAIN[name](model, image) for image in images]
    assert np.std(expected) > 0.05  # it is no constant that is compared
    np.testing.assert_allclose(answer(model, images), expected, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BUILDERS)
def test_networks_of_five_classes_and_three_channels(rng, name, layout):
    model = BUILDERS[name](3, HEIGHT, WIDTH, num_classes=5, data_format=layout)
    model = randomised(model)
    assert model.output_shape == (None, HEIGHT * WIDTH, 5)
    images = rng.random((2, 3, HEIGHT, WIDTH), np.float32)
    expected = [PLAIN[name](model, image) for image in images]
    assert np.std(expected) > 0.02
    np.testing.assert_allclose(answer(model, images), expected, atol=1e-5)


def test_skips_joined_the_other_way_round_would_give_another_answer(networks, images, monkeypatch):
    model = networks["unet", "channels_last"]
    monkeypatch.setattr(
        PlainNetwork, "join", lambda net, x, skip: np.concatenate([skip, net.up(x)])
    )
    turned = [plain_unet(model, image) for image in images]
    assert np.abs(answer(model, images) - turned).max() > 0.1


@pytest.mark.parametrize("name", BUILDERS)
def test_both_layouts_give_the_same_from_the_same_weights(networks, images, name):
    first, last = (answer(networks[name, layout], images) for layout in LAYOUTS)
    np.testing.assert_allclose(first, last, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_saved_from_one_layout_load_into_the_other(
    networks, images, tmp_path, name, layout
):
    (other,) = set(LAYOUTS) - {layout}
    path = tmp_path / "saved.weights.h5"
    networks[name, layout].save_weights(path)
    fresh = BUILDERS[name](1, HEIGHT, WIDTH, data_format=other)
    fresh.load_weights(path)
    np.testing.assert_allclose(
        answer(fresh, images), answer(networks[name, layout], images), atol=1e-5
    )


# ---------------------------------------------------------------- shapes and counts


def test_unet_has_471010_parameters(networks):
    # A 3 x 3 convolution has 9 * in * out + out, in order (in -> out):
    # 1-32 320, 32-32 9,248; 32-64 18,496, 64-64 36,928; 64-128 73,856, 128-128 147,584;
    # 128+64=192-64 110,656, 64-64 36,928; 64+32=96-32 27,680, 32-32 9,248; 1 x 1 32-2 66.
    assert networks["unet", "channels_first"].count_params() == 471010


def test_gnet_has_514978_parameters(networks):
    # 1-32 320, 32-32 9,248; 32-16 4,624, 16-16 2,320; 16-32 4,640, 32-32 9,248;
    # 32-64 18,496, 64-64 36,928; 64-128 73,856, 128-128 147,584;
    # 128+64=192-64 110,656, 64-64 36,928; 64+32=96-32 27,680, 32-32 9,248;
    # 32+16=48-16 6,928, 16-16 2,320; 16-32 4,640, 32-32 9,248; 1 x 1 32-2 66: 514,978 in all.
    assert networks["gnet", "channels_first"].count_params() == 514978


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        ("unet", [32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 2]),
        ("gnet", [32, 32, 16, 16, 32, 32, 64, 64, 128, 128, 64, 64, 32, 32, 16, 16, 32, 32, 2]),
    ],
)
def test_filters(networks, name, filters):
    assert [layer.filters for layer in convolutions(networks[name, "channels_last"])] == filters


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BUILDERS)
def test_outside_is_channels_first_and_answers_are_probabilities(networks, images, name, layout):
    model = networks[name, layout]
    assert model.input_shape == (None, 1, HEIGHT, WIDTH)
    assert model.output_shape == (None, HEIGHT * WIDTH, 2)
    np.testing.assert_allclose(answer(model, images).sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", BUILDERS)
def test_the_users_keras_json_decides_nothing(networks, images, name, layout):
    before = keras.config.image_data_format()
    (users_choice,) = set(LAYOUTS) - {layout}
    keras.config.set_image_data_format(users_choice)
    try:
        model = BUILDERS[name](1, HEIGHT, WIDTH, data_format=layout)
    finally:
        keras.config.set_image_data_format(before)
    formats = {layer.data_format for layer in model.layers if hasattr(layer, "data_format")}
    assert formats == {layout}
    model.set_weights(networks[name, layout].get_weights())
    np.testing.assert_allclose(
        answer(model, images), answer(networks[name, layout], images), atol=1e-6
    )


def test_more_channels_and_classes_change_the_first_and_the_last_kernel_only():
    # 9 * 2 * 32 = 576 more weights than with one channel; 32 + 1 for each class beyond two.
    model = get_unet(3, HEIGHT, WIDTH, num_classes=4)
    assert model.count_params() == 471010 + 576 + 2 * 33


@pytest.mark.parametrize("name", BUILDERS)
def test_head_is_relu_by_default_and_linear_by_setting(networks, images, name):
    relu = networks[name, "channels_last"]
    assert convolutions(relu)[-1].activation is keras.activations.relu
    linear = BUILDERS[name](
        1, HEIGHT, WIDTH, output_activation="linear", data_format="channels_last"
    )
    linear.set_weights(relu.get_weights())
    expected = [PLAIN[name](linear, image, "linear") for image in images]
    np.testing.assert_allclose(answer(linear, images), expected, atol=1e-5)
    assert np.abs(answer(linear, images) - answer(relu, images)).max() > 0.01


def test_dead_relu_head_answers_the_same_for_every_class_everywhere(images):
    model = get_unet(1, HEIGHT, WIDTH, num_classes=4, data_format="channels_last")
    head = convolutions(model)[-1]
    head.set_weights([np.zeros(head.kernel.shape), np.full(4, -1.0)])
    answers = answer(model, images)
    assert len(np.unique(answers)) == 1
    # Exactly so by oneDNN; else the softmax may be rounded.
    expected = np.full((3, HEIGHT * WIDTH, 4), 1 / 4, np.float32)
    np.testing.assert_array_max_ulp(answers, expected, maxulp=1)


@pytest.mark.parametrize("name", BUILDERS)
def test_dropout_is_between_the_two_convolutions_of_each_pair(networks, name):
    model = networks[name, "channels_last"]
    dropouts = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.rate for layer in dropouts} == {0.2}
    assert len(dropouts) == len(convolutions(model)) // 2
    for layer in dropouts:
        assert isinstance(layer.input._keras_history.operation, keras.layers.Conv2D)


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("build", [get_unet, get_gnet, partial(get_unpadded_unet, depth=1)])
def test_spatial_dropout_drops_whole_channels(build, layout):
    model = build(1, 44, 44, dropout=0.5, dropout_kind="spatial", data_format=layout)
    dropouts = [layer for layer in model.layers if "dropout" in layer.name]
    assert {(type(x), x.data_format) for x in dropouts} == {(keras.layers.SpatialDropout2D, layout)}
    dropped = keras.ops.convert_to_numpy(dropouts[0](np.ones((2, 8, 8, 8)), training=True))
    axes = (2, 3) if layout == "channels_first" else (1, 2)
    assert np.ptp(dropped, axis=axes).max() == 0
    assert set(np.unique(dropped)) == {0, 2}
    with pytest.raises(ValueError, match="dropout_kind must be one of .* Received: channels"):
        build(1, 44, 44, dropout_kind="channels")


def test_fresh_network_has_zero_biases_and_glorot_uniform_kernels():
    keras.utils.set_random_seed(0)
    # The widest kernel: 9 * 128 in, 9 * 128 out; uniform in +-sqrt(6 / (2 * 9 * 128)) = +-0.05103.
    layer = convolutions(get_unet(1, HEIGHT, WIDTH))[5]
    kernel, bias = layer.get_weights()
    assert np.count_nonzero(bias) == 0
    assert 0.0509 < np.abs(kernel).max() <= 0.05104
    assert kernel.std() == pytest.approx(0.05103 / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("height", "width", "words"),
    [
        (48, 50, "patch_width must be a multiple of 4, .* Received: 50. Use 48 or 52."),
        (47, 48, "patch_height must be a multiple of 4, .* Received: 47. Use 44 or 48."),
        (0, 48, "patch_height must be a multiple of 4, .* Received: 0. Use 4 or 8."),
        (48, 2, "patch_width must be a multiple of 4, .* Received: 2. Use 4 or 8."),
    ],
)
def test_size_that_cannot_be_pooled_twice(name, height, width, words):
    with pytest.raises(ValueError, match=words):
        BUILDERS[name](1, height, width)


def test_unknown_options():
    with pytest.raises(
        ValueError, match="output_activation must be relu or linear. Received: tanh"
    ):
        get_unet(1, 8, 8, output_activation="tanh")
    with pytest.raises(ValueError, match="data_format must be one of .* Received: NCHW"):
        get_gnet(1, 8, 8, data_format="NCHW")


# ---------------------------------------------------------------- the paper's network


class PlainUnpaddedNetwork(PlainNetwork):
    """Figure 1 of the paper in NumPy, for one image of (C, H, W) and depth 2."""

    def pair(self, x):
        return self.convolution(self.convolution(x, padding="valid"), padding="valid")

    def up(self, x):
        """Every pixel becomes a square of 2 x 2: its channels times a 2 x 2 kernel."""
        kernel, bias = self.weights.pop(0)  # (2, 2, out, in)
        channels, height, width = kernel.shape[2], *x.shape[1:]
        x = np.einsum("chw,ijoc->ohiwj", x, kernel).reshape(channels, 2 * height, 2 * width)
        return self.after_up(x + bias[:, None, None])

    def join(self, x, skip):
        x = self.up(x)
        rows, columns = (np.subtract(skip.shape, x.shape) // 2)[1:]
        centre = skip[:, rows : rows + x.shape[1], columns : columns + x.shape[2]]
        return np.concatenate([x, centre])


def plain_unpadded_unet(model, x, after_up):
    net = PlainUnpaddedNetwork(model)
    net.after_up = after_up
    skip1 = net.pair(x)
    skip2 = net.pair(net.pool(skip1))
    x = net.pair(net.pool(skip2))
    x = net.pair(net.join(x, skip2))
    return net.softmax(net.pair(net.join(x, skip1)), "linear")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("variant", "after_up"), [("paper", lambda x: x), ("release", lambda x: np.maximum(x, 0))]
)
@pytest.mark.parametrize(("num_channels", "num_classes"), [(1, 2), (3, 5)])
def test_unpadded_network_equals_plain_numpy(
    rng, variant, after_up, layout, num_channels, num_classes
):
    # At depth 2 a side loses 12 * 2^2 - 8 = 40 pixels: 44 -> 4 and 48 -> 8.
    options = {"base_filters": 4, "depth": 2, "variant": variant, "data_format": layout}
    model = get_unpadded_unet(num_channels, 44, 48, num_classes=num_classes, **options)
    model = randomised(model)
    assert model.output_shape == (None, 4 * 8, num_classes)
    images = rng.random((2, num_channels, 44, 48), np.float32)
    expected = [plain_unpadded_unet(model, image, after_up) for image in images]
    assert np.std(expected) > 0.01  # it is no constant that is compared
    np.testing.assert_allclose(answer(model, images), expected, atol=1e-5)
