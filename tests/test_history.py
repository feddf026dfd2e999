"""Tests of what follows from a history, against Keras's own callbacks."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from lib.history import best_epoch, best_value, is_better, is_complete, plateau_rate

METRICS = ["val_loss", "val_mean_iou"]


def history_of(metric, values):
    return [{"epoch": i, "loss": 1.0, metric: v} for i, v in enumerate(values, 1)]


def drawn_values(seed):
    """A series with equal values, improvements and none for long."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(1, 0.3, 60).cumsum() / np.arange(1, 61), 2).tolist()


def keras_callback(kind, metric, **options):
    """Keras's callback for a network that only has a learning rate."""
    mode = "min" if metric == "val_loss" else "max"
    callback = kind(metric, mode=mode, min_delta=0, **options)
    callback.set_model(
        SimpleNamespace(optimizer=keras.optimizers.SGD(0.5), stop_training=False, get_weights=list)
    )
    callback.on_train_begin()
    return callback


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(3))
def test_plateau_is_that_of_keras(metric, seed):
    values = drawn_values(seed)
    reference = keras_callback(
        keras.callbacks.ReduceLROnPlateau, metric, factor=0.25, patience=3, min_lr=0
    )
    falls = 0
    for epoch, value in enumerate(values):
        reference.on_epoch_end(epoch, {metric: value})
        expected = float(reference.model.optimizer.learning_rate)
        history = history_of(metric, values[: epoch + 1])
        rate = plateau_rate(history, 0.5, best_by=metric, factor=0.25, patience=3)
        falls += rate < 0.5
        assert rate == pytest.approx(expected, rel=1e-6)
    assert falls > 10


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("patience", [1, 4])
def test_early_end_is_that_of_keras(metric, patience):
    for seed in range(5):
        values = drawn_values(seed)
        reference = keras_callback(keras.callbacks.EarlyStopping, metric, patience=patience)
        settings = SimpleNamespace(N_epochs=1000, early_stopping=patience, best_by=metric)
        for epoch, value in enumerate(values):
            reference.on_epoch_end(epoch, {metric: value})
            stopped = reference.model.stop_training
            assert is_complete(history_of(metric, values[: epoch + 1]), settings) == stopped
            if stopped:
                break
        assert stopped


def test_without_validation_the_training_loss_is_watched():
    history = [{"epoch": i, "loss": 1.0} for i in range(1, 5)]
    rate = plateau_rate(history, 1.0, best_by="val_mean_iou", factor=0.5, patience=3)
    assert rate == 0.5
    settings = SimpleNamespace(N_epochs=9, early_stopping=3, best_by="val_loss")
    assert [is_complete(history[:n], settings) for n in range(5)] == [False] * 4 + [True]
    settings.early_stopping = 0
    assert not is_complete(history, settings)
    assert is_complete(history * 3, settings)


def test_what_is_better_depends_on_the_metric():
    assert best_value([], "val_loss") == math.inf
    assert best_value([], "val_accuracy") == -math.inf
    assert is_better("val_cross_entropy", 1, 2) and not is_better("val_cross_entropy", 2, 2)
    assert is_better("val_mean_iou", 2, 1) and not is_better("val_mean_iou", math.nan, 1)
    values = [math.nan, 0.5, 0.7, 0.7, 0.6]
    assert best_epoch(history_of("val_accuracy", values), "val_accuracy")["epoch"] == 3
    assert best_epoch(history_of("val_loss", values), "val_loss")["epoch"] == 2
    assert best_epoch([{"epoch": 1, "loss": 1.0}], "val_loss") is None
