"""The paper's network: its sizes, parameters, start values and layouts."""

import keras
import numpy as np
import pytest

from lib import unet
from lib.overlap_tile import input_for_output, predict_overlap_tile
from lib.unet import get_unpadded_unet
from tests.networks import answer, convolutions


@pytest.fixture(scope="module")
def paper_network():
    keras.utils.set_random_seed(0)
    return get_unpadded_unet(1, 572, 572, data_format="channels_last")


def test_figure_1_of_the_paper(paper_network):
    assert paper_network.input_shape == (None, 1, 572, 572)
    assert paper_network.output_shape == (None, 388 * 388, 2)
    ups = [layer for layer in paper_network.layers if "Transpose" in type(layer).__name__]
    assert [layer.filters for layer in ups] == [512, 256, 128, 64]
    plain = [layer for layer in convolutions(paper_network) if layer not in ups]
    filters = [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    filters += [512, 512, 256, 256, 128, 128, 64, 64, 2]
    assert [layer.filters for layer in plain] == filters
    assert len(plain) + len(ups) == 23  # "In total the network has 23 convolutional layers."


def test_paper_network_has_31030658_parameters(paper_network):
    # Down: 9 * in * out + out over 1-64-64, -128-128, -256-256, -512-512, -1024-1024: 18,842,048.
    # Up-convolutions 4 * in * out + out over 1024-512, 512-256, 256-128, 128-64: 2,786,240.
    # Up: 1024-512-512, 512-256-256, 256-128-128, 128-64-64: 9,402,240. 1 x 1 64-2: 130.
    assert paper_network.count_params() == 18842048 + 2786240 + 9402240 + 130 == 31030658


def test_skips_are_cropped_by_4_16_40_88_pixels(paper_network):
    crops = [
        layer.cropping
        for layer in paper_network.layers
        if isinstance(layer, keras.layers.Cropping2D)
    ]
    assert crops == [((c, c), (c, c)) for c in (4, 16, 40, 88)]


def test_released_variant_has_31100354_parameters_and_relus(monkeypatch):
    # Its last up-convolution has 128 filters in place of 64: 4 * 128 * 64 + 64 = 32,832 more, and
    # the convolution behind it 128 + 64 channels in place of 128: 9 * 64 * 64 = 36,864 more.
    monkeypatch.setattr(unet, "_he_untruncated", lambda: "zeros")  # drawn in no time
    release = get_unpadded_unet(1, 188, 188, variant="release", data_format="channels_last")
    assert release.count_params() == 31030658 + 32832 + 36864 == 31100354
    ups = [c for c in convolutions(release) if isinstance(c, keras.layers.Conv2DTranspose)]
    assert [up.filters for up in ups] == [512, 256, 128, 128]
    assert {up.activation.__name__ for up in ups} == {"relu"}


def test_more_channels_and_classes_change_the_first_and_the_last_kernel_only():
    # At 4 filters: 9 * 2 * 4 more weights in, 4 + 1 more for each class beyond two.
    options = {"base_filters": 4, "depth": 2}
    few = get_unpadded_unet(1, 44, 44, **options)
    more = get_unpadded_unet(3, 44, 44, num_classes=5, **options)
    assert more.output_shape == (None, 4 * 4, 5)
    assert more.count_params() == few.count_params() + 72 + 3 * 5


def test_up_convolutions_of_the_paper_are_linear(paper_network):
    ups = [c for c in convolutions(paper_network) if isinstance(c, keras.layers.Conv2DTranspose)]
    assert {up.activation.__name__ for up in ups} == {"linear"}


def test_kernels_start_as_untruncated_normals_of_the_right_deviation(paper_network):
    checked = 0
    for layer in convolutions(paper_network):
        kernel = np.asarray(layer.kernel)
        # A convolution's kernel is (h, w, in, out), an up-convolution's (h, w, out, in); as in the
        # release, fan_in counts kernel pixels times the third axis in both.
        expected = np.sqrt(2 / np.prod(kernel.shape[:3]))
        if kernel.size > 30_000:
            assert kernel.std() == pytest.approx(expected, rel=0.03)
            # 4.6 % of a normal distribution lie beyond 2 sigma; of Keras's he_normal none.
            assert np.mean(np.abs(kernel) > 2 * expected) == pytest.approx(0.0455, abs=0.005)
            checked += 1
        assert not np.asarray(layer.bias).any()
    assert checked > 15


def test_dropout_lies_on_the_last_skip_and_the_lowest_level(paper_network):
    dropouts = [x for x in paper_network.layers if isinstance(x, keras.layers.Dropout)]
    assert [d.rate for d in dropouts] == [0.5, 0.5]
    # Figure 1: 64 pixels of 512 channels, which the skip carries, and 28 pixels of 1024.
    assert [d.output.shape[1:] for d in dropouts] == [(64, 64, 512), (28, 28, 1024)]


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_layouts_agree_with_the_same_weights(variant, rng):
    first, last = (
        get_unpadded_unet(1, 92, 108, base_filters=4, depth=2, variant=variant, data_format=layout)
        for layout in ("channels_first", "channels_last")
    )
    last.set_weights(first.get_weights())
    image = rng.random((2, 1, 92, 108), np.float32)
    outputs = [answer(model, image) for model in (first, last)]
    assert outputs[0].shape == (2, 52 * 68, 2)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    np.testing.assert_allclose(outputs[0].sum(-1), 1, atol=1e-6)


def test_skip_joins_behind_the_up_convolution(rng):
    model = get_unpadded_unet(1, 44, 44, base_filters=2, depth=2, data_format="channels_last")
    for layer in model.layers:
        if isinstance(layer, keras.layers.Concatenate):
            up, skip = layer.input
            assert "transpose" in up._keras_history.operation.name
            assert "cropping" in skip._keras_history.operation.name


@pytest.mark.parametrize(
    ("size", "nearest"), [(570, "556 or 572"), (573, "572 or 588"), (100, "188 or 204")]
)
def test_wrong_tile_size_names_the_nearest(size, nearest):
    with pytest.raises(ValueError, match=f"Received: {size}. Use {nearest}"):
        get_unpadded_unet(1, size, 572)


def test_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be paper or release. Received: ronneberger"):
        get_unpadded_unet(1, 572, 572, variant="ronneberger")


def test_tiles_of_any_size_equal_one_pass(rng):
    image = rng.random((1, 300, 517), np.float32)
    depth, weights = 3, None

    def network(*shape):
        nonlocal weights
        model = get_unpadded_unet(
            1, *shape, base_filters=4, depth=depth, data_format="channels_last"
        )
        weights = weights or model.get_weights()
        model.set_weights(weights)

        def predictor(tiles):
            probabilities = np.asarray(model(tiles)).transpose(0, 2, 1)
            return probabilities.reshape(len(tiles), 2, shape[0] - 88, shape[1] - 88)

        return predictor

    # One pass over the smallest input that leaves 300 x 517 pixels, mirrored around.
    shape = [input_for_output(size, depth) for size in image.shape[1:]]
    padding = [(44, total - size - 44) for total, size in zip(shape, image.shape[1:])]
    padded = np.pad(image, [(0, 0), *padding], mode="reflect")
    expected = network(*shape)(padded[np.newaxis])[0, :, :300, :517]
    assert expected.std() > 1e-3, "a constant output would fit any tiling"
    for tile_size in (140, 228, 356):
        predictor = network(tile_size, tile_size)
        predicted = predict_overlap_tile(predictor, image, tile_size, depth)
        np.testing.assert_allclose(predicted, expected, atol=1e-4)
