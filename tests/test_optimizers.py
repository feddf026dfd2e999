"""Tests of the optimisers: slow variables, averages, saving."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from lib.optimizers import averages_as_weights, get_optimizer, swap_averages

NUM_STEPS = 4


def settings(**changes):
    values = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "learning_rate_decay": "none",
        "momentum": 0.9,
        "weight_decay": 0.1,
        "weight_averaging": 0.0,
    }
    return SimpleNamespace(**{**values, **changes})


def two_layers():
    layers = [keras.layers.Dense(3, name=name) for name in ("encoder", "head")]
    return keras.Sequential([keras.Input((3,)), *layers])


def trained(optimizer, model):
    """The weights after each of some steps whose gradients do not depend on the weights."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.normal(size=(3, 3)), rng.normal(size=3)])
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    steps = []
    for _ in range(NUM_STEPS):
        gradients = [
            keras.ops.convert_to_tensor(rng.normal(size=v.shape), "float32")
            for v in model.trainable_variables
        ]
        optimizer.apply(gradients)
        steps.append([keras.ops.convert_to_numpy(v) for v in model.trainable_variables])
    return steps


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_slow_variables_learn_as_at_a_lower_rate_and_the_others_as_before(name):
    model = two_layers()
    slow = model.get_layer("encoder").trainable_variables
    both = trained(get_optimizer(settings(optimizer=name), 1, slow, 0.25), model)[-1]
    fast, slower = (
        trained(get_optimizer(settings(optimizer=name, learning_rate=rate), 1), two_layers())[-1]
        for rate in (0.1, 0.025)
    )
    for given, expected in zip(both, [*slower[:2], *fast[2:]]):
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(fast[0] - slower[0]).max() > 0.01


def test_adamw_decays_kernels_alone():
    steps = [
        trained(get_optimizer(settings(optimizer=name), 1), two_layers())[-1]
        for name in ("adam", "adamw")
    ]
    for adam, adamw in zip(*steps):
        assert np.allclose(adam, adamw) == (adam.ndim == 1)


def test_averages_stay_beside_the_weights_and_are_those_of_the_definition():
    model = two_layers()
    optimizer = get_optimizer(settings(weight_averaging=0.75), 1)
    steps = trained(optimizer, model)
    expected = steps[0]
    for step in steps[1:]:
        expected = [0.75 * average + 0.25 * now for average, now in zip(expected, step)]
    optimizer.finalize_variable_values(model.trainable_variables)  # as keras.Model.fit ends
    with averages_as_weights(model):
        for given, average in zip(model.get_weights(), expected):
            np.testing.assert_allclose(given, average, rtol=1e-5, atol=1e-6)
    for given, weights in zip(model.get_weights(), steps[-1]):
        np.testing.assert_array_equal(given, weights)


def test_without_averages_nothing_is_swapped():
    model = two_layers()
    (*_, last) = trained(get_optimizer(settings(), 1), model)
    swap_averages(model)
    np.testing.assert_array_equal(model.get_weights()[0], last[0])


def test_optimiser_is_keras_own_where_nothing_is_added_and_survives_saving():
    assert type(get_optimizer(settings(optimizer="adamw"), 1)) is keras.optimizers.AdamW
    model = two_layers()
    slow = model.get_layer("encoder").trainable_variables
    optimizer = get_optimizer(settings(optimizer="adamw", weight_averaging=0.5), 1, slow, 0.25)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert again.get_config() == optimizer.get_config()
    assert (again.slow_factor, again.slow_paths) == (0.25, tuple(v.path for v in slow))
    with pytest.raises(ValueError, match="slow_paths must be paths of trainable variables"):
        again.build(keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]).variables)
