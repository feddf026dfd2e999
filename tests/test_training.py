"""Tests of what both trainings share, with a network of a few hundred parameters."""

import csv
import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from lib import training
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.experiment import Experiment
from lib.patch_dataset import PatchDataset

SIDE = 4
NUM_PATCHES = 30
SHARES = (0.75, 0.25)
# -0.75 ln 0.75 - 0.25 ln 0.25 = 0.21576 + 0.34657
ENTROPY = 0.56234


def tiny_network(num_units=8):
    """Labels the 16 pixels of a 4 x 4 patch; has dropout, as the real networks do."""
    layers = keras.layers
    inputs = keras.Input((1, SIDE, SIDE))
    x = layers.Dense(num_units, activation="relu")(layers.Flatten()(inputs))
    x = layers.Dense(2 * SIDE * SIDE)(layers.Dropout(0.3)(x))
    return keras.Model(inputs, layers.Softmax()(layers.Reshape((-1, 2))(x)), name="tiny")


@pytest.fixture
def configure(write_configuration, in_tmp_path):
    """A function that reads a configuration with further training settings."""

    def read(num_epochs=2, **settings):
        lines = "".join(f"\n{name} = {value}" for name, value in settings.items())
        changes = [("N_epochs = 150", f"N_epochs = {num_epochs}{lines}")]
        return read_configuration(write_configuration(*changes))

    return read


@pytest.fixture
def experiment(in_tmp_path):
    (in_tmp_path / "run").mkdir()
    return Experiment("run")


@pytest.fixture
def model():
    return tiny_network()


IMAGE_IDS = {"training": ["21", "22"], "validation": ["23"]}


def compiled(configuration, network=tiny_network, seed=0):
    """A fresh network of the same first weights every time, as a script's start makes it."""
    keras.utils.set_random_seed(seed)
    network = network()
    optimizer = training.get_optimizer(configuration.training_settings, num_steps=20)
    network.compile(optimizer, loss="sparse_categorical_crossentropy")
    return network


def train(configuration, experiment, model=None, history=()):
    """Trains on patches of one image whose bright pixels are vessels; gives model and history."""
    model = model or compiled(configuration)
    history = list(history)
    rng = np.random.default_rng(1)
    image = rng.random((1, 1, 12, 12), np.float32)
    truth = (image > 0.75).astype(np.uint8)
    positions = np.stack([np.zeros(NUM_PATCHES, int), *rng.integers(0, 9, (2, NUM_PATCHES))], -1)
    options = {"patch_size": (SIDE, SIDE), "batch_size": 6}
    first = PatchDataset(
        image, truth, positions[:24], shuffle_seed=3, epoch=len(history), **options
    )
    second = PatchDataset(image, truth, positions[24:], **options)
    plateau = training.PlateauDetector(SHARES, SHARES)
    training.train(model, first, second, experiment, configuration, history, plateau, IMAGE_IDS)
    return model, history


def without_times(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def layer_weights(model):
    return np.concatenate([weights.ravel() for weights in model.get_weights()])


def problem_of(function, *arguments):
    with pytest.raises(UserError) as error:
        function(*arguments)
    (problem,) = error.value.problems
    return problem


# ---------------------------------------------------------------- optimiser


def settings(**changes):
    defaults = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.0}
    return SimpleNamespace(**{**defaults, "learning_rate_decay": "none", **changes})


def test_optimizer_is_plain_sgd_by_default():
    optimizer = training.get_optimizer(settings(), 10)
    assert type(optimizer) is keras.optimizers.SGD
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0, False, None)


def test_optimizer_takes_momentum_and_adam():
    assert training.get_optimizer(settings(momentum=0.9), 10).momentum == 0.9
    adam = training.get_optimizer(settings(optimizer="adam", learning_rate=0.001), 10)
    assert type(adam) is keras.optimizers.Adam
    assert float(adam.learning_rate) == pytest.approx(0.001)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_cosine_decay_ends_at_0_in_the_last_step(optimizer):
    optimizer = training.get_optimizer(
        settings(optimizer=optimizer, learning_rate_decay="cosine", learning_rate=0.2), 40
    )
    # 0.2 * (1 + cos(pi * step / 40)) / 2
    rates = [float(optimizer._learning_rate(step)) for step in (0, 20, 40)]
    assert rates == pytest.approx([0.2, 0.1, 0], abs=1e-7)


# ---------------------------------------------------------------- training


def test_training_leaves_weights_log_curves_and_configuration(configure, experiment):
    configuration = configure(num_epochs=2)
    _, history = train(configuration, experiment)
    assert sorted(os.listdir("run")) == [
        "run_best.weights.h5",
        "run_configuration.txt",
        "run_last.weights.h5",
        "run_log.csv",
        "run_loss_curves.png",
    ]
    with open("run/run_log.csv", newline="", encoding="utf-8") as file:
        logged = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert logged == history
    assert [row["epoch"] for row in history] == [1, 2]
    assert set(history[0]) == {"epoch", "loss", "val_loss", "seconds"}
    assert Path("run/run_configuration.txt").read_text() == configuration.path.read_text()


def stop_after(epochs, monkeypatch):
    """Lets Ctrl-C come when an epoch is over and its files are written."""
    on_epoch_end = training.ProgressLines.on_epoch_end

    def stopping(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        if epoch + 1 == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.ProgressLines, "on_epoch_end", stopping)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1},
        {"optimizer": "adam", "learning_rate": 0.01, "learning_rate_decay": "cosine"},
    ],
)
def test_resumed_training_ends_as_an_uninterrupted_one(
    configure, in_tmp_path, monkeypatch, settings
):
    configuration = configure(num_epochs=4, **settings)
    for name in ("whole", "broken"):
        Path(name).mkdir()
    whole, history = train(configuration, Experiment("whole"))

    broken = Experiment("broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(2, patch)
        train(configuration, broken)
    kept = training.read_history(broken, configuration)
    assert without_times(kept) == without_times(history[:2])
    resumed, resumed_history = train(configuration, broken, history=kept)

    assert without_times(resumed_history) == without_times(history)
    np.testing.assert_array_equal(layer_weights(resumed), layer_weights(whole))
    best = [compiled(configuration, seed=5), compiled(configuration, seed=6)]
    for model, experiment in zip(best, (Experiment("whole"), broken)):
        training.load_weights(model, experiment.weights("best"))
    np.testing.assert_array_equal(*map(layer_weights, best))


def test_more_epochs_may_be_asked_for(configure, experiment):
    train(configure(num_epochs=1), experiment)
    longer = configure(num_epochs=2)
    history = training.read_history(experiment, longer)
    assert len(history) == 1
    _, history = train(longer, experiment, history=history)
    assert [row["epoch"] for row in history] == [1, 2]


def test_new_training_takes_the_place_of_an_earlier_one(configure, experiment):
    train(configure(num_epochs=2), experiment)
    _, history = train(configure(num_epochs=1), experiment)
    assert [row["epoch"] for row in history] == [1]
    state = training.read_training_state(experiment.weights("last"))
    assert len(state["history"]) == 1


def test_diverged_training_stops_and_says_so(configure, experiment):
    configuration = configure(num_epochs=3, learning_rate=1e30)
    problem = problem_of(train, configuration, experiment)
    assert "it has diverged. Lower [training settings] learning_rate (or momentum)" in problem
    assert not experiment.weights("last").exists()


def test_dead_network_is_reported_while_it_trains(configure, experiment, capsys):
    configuration = configure(num_epochs=1)
    model = compiled(configuration)
    head = model.layers[-3]
    # With all logits alike and no learning rate to speak of, the loss is ln 2.
    head.set_weights([np.zeros(head.kernel.shape), np.zeros(head.bias.shape)])
    model.optimizer.learning_rate = 1e-9
    train(configuration, experiment, model)
    assert "PLATEAU: the loss stays at 0.6931 = ln 2" in capsys.readouterr().out


# ---------------------------------------------------------------- weights


def test_weights_come_back_without_the_optimisers_variables(configure, tmp_path):
    model = compiled(configure(optimizer="adam"))
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "a.weights.h5"
    training.save_weights(model, path)
    with h5py.File(path) as file:
        assert "optimizer" not in file
    fresh = tiny_network()
    training.load_weights(fresh, path)
    np.testing.assert_array_equal(layer_weights(fresh), layer_weights(model))
    assert sorted(os.listdir(tmp_path)) == ["a.weights.h5", "configuration.txt"]


def test_leaving_the_optimiser_out_makes_the_file_smaller(configure, tmp_path):
    model = compiled(configure(optimizer="adam"), network=lambda: tiny_network(512))
    model.optimizer.build(model.trainable_variables)
    training.save_weights(model, tmp_path / "with.weights.h5", with_optimizer=True)
    training.save_weights(model, tmp_path / "without.weights.h5")
    # Adam keeps two numbers for each parameter, so the whole is three times as large.
    with_optimizer, without = (
        (tmp_path / f"{name}.weights.h5").stat().st_size for name in ("with", "without")
    )
    assert 2.5 * without < with_optimizer


@pytest.mark.parametrize("decay, kept", [("none", [True, True]), ("cosine", [True, False])])
def test_the_optimiser_is_kept_as_long_as_epochs_may_follow(
    configure, experiment, monkeypatch, decay, kept
):
    written = []
    save_weights = training.save_weights

    def save_and_look(model, path, *arguments, **options):
        save_weights(model, path, *arguments, **options)
        if path == experiment.weights("last"):
            with h5py.File(path) as file:
                written.append("optimizer" in file)

    monkeypatch.setattr(training, "save_weights", save_and_look)
    configuration = configure(num_epochs=2, optimizer="adam", learning_rate_decay=decay)
    train(configuration, experiment)
    assert written == kept
    assert "is complete" in problem_of(training.read_history, experiment, configuration)


def test_state_comes_back(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    state = {"history": [{"epoch": 1, "loss": 0.25}], "settings": {"x": "ü"}}
    training.save_weights(model, path, state)
    assert training.read_training_state(path) == state


@pytest.mark.parametrize("state", [None, {"history": []}])
def test_full_disk_leaves_the_old_weights_and_nothing_beside_them(
    model, tmp_path, monkeypatch, state
):
    path = tmp_path / "a.weights.h5"
    training.save_weights(model, path)
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(h5py.Group, "copy" if state is None else "__setitem__", full)
    problem = problem_of(training.save_weights, model, path, state)
    assert problem.startswith("Cannot write ")
    assert "the disk is full" in problem
    assert os.listdir(tmp_path) == ["a.weights.h5"]
    assert path.read_bytes() == before


def test_weights_of_another_network(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    training.save_weights(tiny_network(num_units=9), path)
    # 16 * 9 + 9 + 9 * 32 + 32 = 473 parameters; with 8 units 16 * 8 + 8 + 8 * 32 + 32 = 424
    assert problem_of(training.load_weights, model, path) == (
        f"{path} must hold the weights of the network tiny with 424 parameters. Received: it "
        "holds 473 parameters. Mend the network in [training settings], or choose other weights "
        "([experiment name] name; initial_weights)."
    )


def test_weights_of_as_many_parameters_in_other_shapes(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    inputs = keras.Input((423,))
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save_weights(path)
    before = layer_weights(model)
    problem = problem_of(training.load_weights, model, path)
    assert "must hold the weights of the network tiny with 424 parameters" in problem
    np.testing.assert_array_equal(layer_weights(model), before)


def test_truncated_weights(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    training.save_weights(model, path, {"history": []})
    path.write_bytes(path.read_bytes()[:-100])
    words = f"{path} is not a whole weights file; it may be cut off: "
    assert problem_of(training.load_weights, model, path).startswith(words)
    assert problem_of(training.read_training_state, path).startswith(words)


def test_text_in_place_of_weights(model, tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_text("version https://git-lfs.github.com/spec/v1")
    assert "is not a whole weights file" in problem_of(training.load_weights, model, path)


# ---------------------------------------------------------------- weights to start from

NETWORK_SETTINGS = [("training settings", "network")]


def test_without_initial_weights_a_training_starts_from_random_ones(configure, experiment):
    assert training.find_initial_weights(experiment, configure(), NETWORK_SETTINGS) is None


def test_initial_weights_are_found_and_told(configure, experiment, model, tmp_path, capsys):
    path = tmp_path / "a.weights.h5"
    training.save_weights(model, path)
    configuration = configure(initial_weights=path)
    assert training.find_initial_weights(experiment, configuration, NETWORK_SETTINGS) == path
    assert f"Starting from the weights {path}." in capsys.readouterr().out


def problem_with_start(configure, experiment, path):
    arguments = (experiment, configure(initial_weights=path), NETWORK_SETTINGS)
    return problem_of(training.find_initial_weights, *arguments)


def test_missing_initial_weights(configure, experiment, tmp_path):
    problem = problem_with_start(configure, experiment, "nowhere.weights.h5")
    assert "[training settings] initial_weights must be a weights file" in problem
    assert f"looked in {tmp_path}" in problem
    assert "Received: nowhere.weights.h5. Copy the file there, or use none." in problem


def test_initial_weights_of_another_network(configure, experiment, model, tmp_path):
    path = tmp_path / "a.weights.h5"
    settings = {"training_settings": {"network": "gnet"}}
    training.save_weights(model, path, {"settings": settings})
    problem = problem_with_start(configure, experiment, path)
    assert "[training settings] network must be gnet, with which" in problem
    assert "choose other weights" in problem


def test_initial_weights_that_are_cut_off(configure, experiment, model, tmp_path):
    path = tmp_path / "a.weights.h5"
    training.save_weights(model, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "is not a whole weights file" in problem_with_start(configure, experiment, path)


@pytest.mark.parametrize("kind", ["best", "last"])
def test_a_training_does_not_start_from_weights_that_it_would_replace(
    configure, experiment, model, kind
):
    training.save_weights(model, experiment.weights(kind))
    problem = problem_with_start(configure, experiment, f"./run/run_{kind}.weights.h5")
    assert "initial_weights must be of another experiment" in problem
    assert "Choose another [experiment name] name" in problem


def test_weights_tell_from_which_they_were_trained(configure, experiment):
    train(configure(num_epochs=1, initial_weights="./other/other_last.weights.h5"), experiment)
    told = training.describe_origin(experiment.weights("last"))
    assert told.startswith("Trained from the weights ./other/other_last.weights.h5. Figures on")


def test_weights_from_random_ones_tell_nothing(configure, experiment):
    train(configure(num_epochs=1), experiment)
    assert training.describe_origin(experiment.weights("last")) == ""


# ---------------------------------------------------------------- going on


@pytest.fixture
def interrupted(configure, experiment):
    """An experiment of which one of two epochs is done."""
    history = [{"epoch": 1, "loss": 0.5, "val_loss": 0.6, "seconds": 1.0}]
    state = {
        "history": history,
        "settings": training._training_settings(configure(num_epochs=2)),
    }
    begun = compiled(configure())
    training.save_weights(begun, experiment.weights("last"), state, with_optimizer=True)
    return experiment


def test_nothing_begun_gives_an_empty_history(configure, experiment):
    assert training.read_history(experiment, configure()) == []


def test_interrupted_training_goes_on(configure, interrupted, capsys):
    history = training.read_history(interrupted, configure(num_epochs=2))
    assert [row["val_loss"] for row in history] == [0.6]
    assert "Going on after epoch 1 of 2 from run/run_last.weights.h5." in capsys.readouterr().out


def test_complete_training_is_refused(configure, interrupted):
    assert problem_of(training.read_history, interrupted, configure(num_epochs=1)) == (
        "The experiment run is complete: 1 epochs are in run/run_last.weights.h5, 1 are asked for. "
        "To go on, raise [training settings] N_epochs. To start anew, choose another "
        "[experiment name] name or add --overwrite."
    )


def test_changed_settings_are_refused_and_named(configure, interrupted):
    changed = configure(num_epochs=2, learning_rate=0.5, seed=3)
    problem = problem_of(training.read_history, interrupted, changed)
    assert "training_settings learning_rate: 0.01 -> 0.5" in problem
    assert "training_settings seed: 0 -> 3" in problem
    assert problem.count("->") == 2
    assert "Set them back to go on, choose another [experiment name] name, or start" in problem


def test_settings_that_do_not_shape_the_training_may_change(
    interrupted, write_configuration, in_tmp_path
):
    path = write_configuration(
        ("N_epochs = 150", "N_epochs = 9\ntensorboard = True"),
        ("nohup = True", "nohup = False"),
        ("stride_height = 5", "stride_height = 7"),
        ("name = test", "name = other"),
    )
    assert len(training.read_history(interrupted, read_configuration(path))) == 1


def test_number_of_epochs_shapes_a_training_whose_learning_rate_decays(
    configure, experiment, model
):
    begun = configure(num_epochs=2, learning_rate_decay="cosine")
    state = {"history": [], "settings": training._training_settings(begun)}
    training.save_weights(model, experiment.weights("last"), state)
    assert training.read_history(experiment, begun) == []
    longer = configure(num_epochs=3, learning_rate_decay="cosine")
    problem = problem_of(training.read_history, experiment, longer)
    assert "training_settings N_epochs: 2 -> 3" in problem


def test_settings_that_a_training_did_not_have_yet_count_as_their_defaults(
    configure, experiment, model
):
    begun_with = training._training_settings(configure())
    for name in ("noise", "initial_weights"):
        del begun_with["training_settings"][name]
    state = {"history": [], "settings": begun_with}
    training.save_weights(model, experiment.weights("last"), state)
    assert training.read_history(experiment, configure()) == []
    problem = problem_of(training.read_history, experiment, configure(noise=0.1))
    assert "training_settings noise: 0.0 -> 0.1" in problem


def test_weights_without_state_are_not_overwritten(configure, experiment, model):
    training.save_weights(model, experiment.weights("last"))
    problem = problem_of(training.read_history, experiment, configure())
    assert "run/run_last.weights.h5 holds weights, but nothing to go on from." in problem


def test_best_weights_alone_are_not_overwritten(configure, experiment):
    experiment.weights("best").touch()
    problem = problem_of(training.read_history, experiment, configure())
    assert "run/run_best.weights.h5 exists, but no run_last.weights.h5 to go on from." in problem
    assert "--overwrite" in problem


def test_truncated_last_weights_are_named(configure, interrupted):
    path = interrupted.weights("last")
    path.write_bytes(path.read_bytes()[:1000])
    problem = problem_of(training.read_history, interrupted, configure())
    assert f"{path} is not a whole weights file; it may be cut off" in problem
    assert "train it anew (--overwrite)" in problem


def test_interrupted_weights_of_another_network(configure, interrupted):
    configuration = configure(num_epochs=2)
    history = training.read_history(interrupted, configuration)
    other = compiled(configuration, network=lambda: tiny_network(9))
    problem = problem_of(train, configuration, interrupted, other, history)
    assert "must hold the weights of the network tiny with 473 parameters" in problem
    assert "it holds 424 parameters" in problem


def test_weights_tell_their_images_and_others_are_refused(configure, experiment):
    train(configure(num_epochs=1), experiment)
    for kind in ("best", "last"):
        path = experiment.weights(kind)
        training.require_same_images(path, IMAGE_IDS)
        with pytest.raises(UserError, match="For training then: 21, 22. Now: 21, 22, 23."):
            training.require_same_images(path, {"training": ["21", "22", "23"]})
        with pytest.raises(UserError, match="For validation then: 23. Now: none."):
            training.require_same_images(path, {**IMAGE_IDS, "validation": []})


def test_weights_that_do_not_tell_their_images_are_taken(experiment, model):
    training.save_weights(model, experiment.weights("last"), {"settings": {}})
    training.require_same_images(experiment.weights("last"), IMAGE_IDS)


# ---------------------------------------------------------------- after each epoch


def test_best_weights_are_those_of_the_lowest_validation_loss(configure, experiment, model):
    recorder = training.EpochRecorder(experiment, configure(), history := [], IMAGE_IDS)
    recorder.set_model(model)
    for epoch, loss in enumerate((3.0, 1.0, 2.0, 1.0)):
        model.set_weights([np.full_like(weights, epoch) for weights in model.get_weights()])
        recorder.on_epoch_begin(epoch)
        recorder.on_epoch_end(epoch, {"loss": 9.0, "val_loss": loss})
    assert [row["val_loss"] for row in history] == [3, 1, 2, 1]
    for name, epoch in (("best", 1), ("last", 3)):
        fresh = tiny_network()
        training.load_weights(fresh, experiment.weights(name))
        assert set(layer_weights(fresh)) == {epoch}


def test_recorder_remembers_the_best_of_the_epochs_before(configure, experiment, model):
    earlier = [{"epoch": 1, "loss": 0.5, "val_loss": 0.1, "seconds": 1.0}]
    recorder = training.EpochRecorder(experiment, configure(), earlier, IMAGE_IDS)
    recorder.set_model(model)
    recorder.on_epoch_begin(1)
    recorder.on_epoch_end(1, {"loss": 0.5, "val_loss": 0.2})
    assert not experiment.weights("best").exists()
    assert experiment.weights("last").exists()


def test_files_of_an_epoch_are_written_in_an_order_that_lets_no_kill_lose_it(
    configure, experiment, model, monkeypatch
):
    written = []
    monkeypatch.setattr(
        training, "save_weights", lambda m, path, *a, **k: written.append(path.name)
    )
    recorder = training.EpochRecorder(experiment, configure(), [], IMAGE_IDS)
    recorder.set_model(model)
    recorder.on_epoch_begin(0)
    recorder.on_epoch_end(0, {"loss": 0.5, "val_loss": 0.2})
    assert written == ["run_best.weights.h5", "run_last.weights.h5"]


def test_duration_is_told_once_after_the_first_batches(monkeypatch, capsys):
    clock = iter([0, 100, 110])  # epoch begins, warm-up over, ten batches later
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    lines = training.ProgressLines(num_epochs=5, num_batches=60, has_bar=False)
    lines.on_epoch_begin(2)
    for batch in range(40):
        lines.on_train_batch_end(batch)
    # 1 s a batch, 60 batches, epochs 3, 4 and 5 to come: 180 s
    said = capsys.readouterr().out
    assert said == "\n1000 ms a batch: about 3 min for the 3 epochs to come.\n"


def test_line_of_an_epoch_tells_figures_best_and_time_left(monkeypatch, capsys):
    clock = iter([0, 60, 60, 120])
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    lines = training.ProgressLines(num_epochs=3, num_batches=1, has_bar=False)
    for epoch, loss in enumerate((0.5, 0.75)):
        lines.on_epoch_begin(epoch)
        lines.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1/3 - 60 s - loss: 1.0000 - val_loss: 0.5000 - best so far - 2 min left",
        "Epoch 2/3 - 60 s - loss: 1.0000 - val_loss: 0.7500 - 60 s left",
    ]


def test_resumed_training_calls_nothing_best_that_is_worse_than_before(
    configure, experiment, capsys
):
    history = [{"epoch": 1, "loss": 0.0, "val_loss": 0.0, "seconds": 1.0}]
    configuration = configure(num_epochs=2)
    state = {"history": history, "settings": {}}
    begun = compiled(configuration)
    training.save_weights(begun, experiment.weights("last"), state, with_optimizer=True)
    train(configuration, experiment, history=history)
    said = capsys.readouterr().out
    assert "Epoch 2/2" in said
    assert "best so far" not in said


def test_no_epochs_follow_weights_without_the_optimiser(configure, experiment, model):
    history = [{"epoch": 1, "loss": 0.5, "val_loss": 0.6, "seconds": 1.0}]
    training.save_weights(model, experiment.weights("last"), {"history": history, "settings": {}})
    problem = problem_of(train, configure(num_epochs=2), experiment, None, history)
    assert "run/run_last.weights.h5 holds weights without the optimiser" in problem
    assert experiment.weights("last").exists()


# ---------------------------------------------------------------- plateau


def told(capsys, losses, shares=SHARES):
    """What the detector prints after each epoch of (training loss, validation loss)."""
    detector = training.PlateauDetector(shares, shares)
    printed = []
    for epoch, (loss, validation) in enumerate(losses):
        detector.on_epoch_end(epoch, {"loss": loss, "val_loss": validation})
        printed.append(capsys.readouterr().out)
    return printed


def test_loss_at_ln_2_is_reported_at_once(capsys):
    (said,) = told(capsys, [(math.log(2), math.log(2) + 5e-5)])
    assert "PLATEAU: the loss stays at 0.6931 = ln 2" in said
    assert "With output_activation = relu it has died and cannot recover." in said
    assert "another [training settings] seed, or with output_activation = linear" in said


def test_loss_at_ln_3_for_three_classes(capsys):
    (said,) = told(capsys, [(math.log(3), math.log(3))], shares=(0.5, 0.3, 0.2))
    assert "the loss stays at 1.0986 = ln 3" in said


@pytest.mark.parametrize("loss", [(0.6931, 0.6900), (0.6900, 0.6931), (0.70, 0.70)])
def test_loss_near_ln_2_is_silent(capsys, loss):
    assert told(capsys, [loss]) == [""]


def test_loss_at_the_entropy_of_the_classes_is_reported_once_after_two_epochs(capsys):
    first, second, third = told(capsys, [(ENTROPY, ENTROPY)] * 3)
    assert (first, third) == ("", "")
    assert "PLATEAU: for 2 epochs the loss has stayed at 0.5623, the entropy" in second
    assert "(0.5623)" in second
    for advice in ("learning_rate", "optimizer = adam", "seed", "output_activation = linear"):
        assert advice in second


def test_constant_answer_is_recognised_where_validation_has_fewer_vessels(capsys):
    # As on DRIVE: 10.45 % vessel in training, 9.6 % in validation. The constant answer 0.1045
    # costs -(.8955 ln .8955 + .1045 ln .1045) = 0.3349 and
    # -(.9040 ln .8955 + .0960 ln .1045) = 0.3166, 5 % less.
    detector = training.PlateauDetector((0.8955, 0.1045), (0.904, 0.096))
    for epoch in range(2):
        detector.on_epoch_end(epoch, {"loss": 0.3349, "val_loss": 0.3166})
    assert "PLATEAU" in capsys.readouterr().out


def test_epochs_on_the_entropy_must_follow_each_other(capsys):
    losses = [(ENTROPY, ENTROPY), (0.5, 0.5), (ENTROPY, ENTROPY)]
    assert told(capsys, losses) == ["", "", ""]


def test_learning_network_is_left_in_peace(capsys):
    # Falls through the entropy of the classes, as every training does.
    losses = [(0.66, 0.62), (0.60, 0.57), (0.55, 0.52), (0.45, 0.46), (0.30, 0.33)]
    assert told(capsys, losses) == [""] * 5


def test_entropy_of_drives_classes_is_what_the_detector_compares_with():
    # About 10 % vessels: -(0.9 ln 0.9 + 0.1 ln 0.1) = 0.0948 + 0.2303
    drive = (0.9, 0.1)
    assert training.PlateauDetector(drive, drive).entropy == pytest.approx(0.3251, abs=1e-4)
    assert training.PlateauDetector((1.0, 0.0), (1.0, 0.0)).entropy == 0


@pytest.mark.parametrize(
    ("loss", "validation", "words"),
    [
        (math.nan, 0.5, "The training loss is nan in epoch 8: it has diverged."),
        (math.inf, 0.5, "The training loss is inf in epoch 8: it has diverged."),
        (0.5, math.nan, "The validation loss is nan in epoch 8: it has diverged."),
    ],
)
def test_loss_that_is_no_number_stops_the_training(loss, validation, words):
    detector = training.PlateauDetector(SHARES, SHARES)
    problem = problem_of(detector.on_epoch_end, 7, {"loss": loss, "val_loss": validation})
    assert words in problem
    assert "start anew with --overwrite" in problem


# ---------------------------------------------------------------- the rest


def test_tensorboard_is_asked_for_only_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    assert training.require_packages(SimpleNamespace(tensorboard=False)) is None
    problem = problem_of(training.require_packages, SimpleNamespace(tensorboard=True))
    assert "tensorboard = True needs the package tensorboard: pip install tensorboard" in problem


def test_network_is_written_as_a_table_where_dot_is_missing(experiment, model, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    training.draw_model(model, experiment)
    assert sorted(os.listdir("run")) == ["run_architecture.json", "run_model.txt"]
    table = Path("run/run_model.txt").read_text(encoding="utf-8")
    assert "dense" in table
    assert "424" in table
    assert "the program dot would draw it" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [AssertionError, ImportError, OSError, UserError])
def test_a_picture_that_cannot_be_drawn_stops_no_training(
    experiment, model, monkeypatch, capsys, kind
):
    def fail(*arguments, **options):
        raise kind('"dot" with args [...] returned code: 1')

    monkeypatch.setattr(shutil, "which", lambda program: "/usr/bin/dot")
    monkeypatch.setattr(keras.utils, "plot_model", fail)
    training.draw_model(model, experiment)
    assert sorted(os.listdir("run")) == ["run_architecture.json", "run_model.txt"]
    assert "The program dot failed" in capsys.readouterr().out


def test_weights_of_other_settings_are_refused(configure, experiment, model):
    path = experiment.weights("best")
    settings = {"training_settings": {"output_activation": "linear", "network": "unet"}}
    training.save_weights(model, path, {"settings": settings})
    keys = [("training settings", "output_activation"), ("training settings", "network")]
    problem = problem_of(training.require_same_network, path, configure(), keys)
    assert "[training settings] output_activation must be linear, with which" in problem
    assert "Received: relu. Set it to linear" in problem
    assert "network" not in problem.replace("[training settings] output_activation", "")


def test_weights_that_tell_no_settings_are_taken(configure, experiment, model):
    training.save_weights(model, experiment.weights("best"))
    keys = [("training settings", "network")]
    training.require_same_network(experiment.weights("best"), configure(), keys)


def test_architecture_file_builds_the_same_network(experiment, model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    training.draw_model(model, experiment)
    written = Path("run/run_architecture.json").read_text(encoding="utf-8")
    assert json.loads(written)["class_name"] == "Functional"
    assert keras.models.model_from_json(written).count_params() == 424


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's program dot is missing")
def test_network_is_drawn_where_dot_exists(experiment, model):
    training.draw_model(model, experiment)
    assert Path("run/run_model.png").read_bytes().startswith(b"\x89PNG")
