"""Tests of a training: where it starts, what it leaves, and that it resumes as if undisturbed."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from lib import callbacks, devices, training
from lib.devices import ONE_DEVICE
from lib.errors import Stopped, UserError
from lib.experiment import one_at_a_time
from lib.losses import get_loss, segmentation_metrics
from lib.pre_processing import DEFAULT_SCALING
from lib.training import find_begun, find_initial_weights
from lib.weights import RECORD, read_weights, save_weights, settings_record
from tests.small_data import hashes, problem_of, read_log
from tests.tiny_training import (
    IMAGE_IDS,
    NUM_BATCHES,
    NUM_PARAMETERS,
    configure,
    datasets,
    experiment_in,
    layer_weights,
    tiny_network,
    train,
)

HISTORY = [{"epoch": 1, "loss": 0.5, "val_loss": 0.6, "seconds": 1.0}]


@pytest.fixture(autouse=True)
def undrawn(in_tmp_path, monkeypatch):
    """A fresh current folder; pictures, which take longer than these trainings, stay undrawn."""
    monkeypatch.setattr(shutil, "which", lambda program: None)
    monkeypatch.setattr(callbacks, "draw_loss_curves", lambda history, path, best_by: path.touch())


@pytest.fixture
def experiment():
    return experiment_in("run")


@pytest.fixture(scope="module")
def model():
    """A network with an optimiser; its weights are never changed."""
    model = tiny_network()
    model.compile("sgd", loss="sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def begin(experiment, model):
    """A function that leaves a training of which one epoch is done."""

    def leave(configuration, history=HISTORY, **record):
        record = {"history": history, "settings": settings_record(configuration), **record}
        save_weights(model, experiment.weights("last"), record, with_optimizer=True)

    return leave


# ---------------------------------------------------------------- optimiser


def optimizer_of(num_steps=10, **settings):
    return training.get_optimizer(configure(**settings).training_settings, num_steps)


def test_optimizer_is_plain_sgd_by_default():
    optimizer = optimizer_of()
    assert type(optimizer) is keras.optimizers.SGD
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.weight_decay) == (0, False, None)


def test_optimizer_takes_momentum_and_adam():
    assert optimizer_of(momentum=0.9).momentum == 0.9
    adam = optimizer_of(optimizer="adam", learning_rate=0.001)
    assert type(adam) is keras.optimizers.Adam
    assert float(adam.learning_rate) == pytest.approx(0.001)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_cosine_decay_ends_at_0_in_the_last_step(optimizer):
    settings = {"optimizer": optimizer, "learning_rate_decay": "cosine", "learning_rate": 0.2}
    decaying = optimizer_of(num_steps=40, **settings)
    # 0.2 * (1 + cos(pi * step / 40)) / 2
    rates = [float(decaying._learning_rate(step)) for step in (0, 20, 40)]
    assert rates == pytest.approx([0.2, 0.1, 0], abs=1e-7)


# ---------------------------------------------------------------- a whole training


def test_training_leaves_weights_log_curves_and_configuration(experiment, capsys):
    configuration = configure(num_epochs=2)
    model, run = train(configuration, experiment)
    files = {".training.lock", "run_architecture.json", "run_model.txt"}
    files |= {f"run_{name}" for name in ("configuration.txt", "log.csv", "loss_curves.png")}
    files |= {f"run_{kind}.weights.h5" for kind in ("best", "last")}
    assert set(os.listdir("run")) == files
    with open("run/run_log.csv", newline="", encoding="utf-8") as file:
        logged = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert logged == run.history
    assert [row["epoch"] for row in logged] == [1, 2]
    assert set(logged[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"}
    assert Path("run/run_configuration.txt").read_text() == configuration.path.read_text()
    last = read_weights(experiment.weights("last"))
    assert last.history == run.history
    assert last.progress is None
    assert last.record["images"] == IMAGE_IDS
    assert last.scaling == DEFAULT_SCALING
    fresh = tiny_network()
    last.load_into(fresh)
    np.testing.assert_array_equal(layer_weights(fresh), layer_weights(model))
    best = min(run.history, key=lambda row: row["val_loss"])
    of_best = read_weights(experiment.weights("best"))
    assert of_best.history == run.history[: best["epoch"]]
    assert of_best.is_best and not of_best.is_unfinished and not last.is_best
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Trained. Lowest validation loss {best['val_loss']:.4f} in epoch {best['epoch']}: "
        f"{experiment.weights('best')}. Next: python run_testing.py {experiment.folder}"
    )


def test_overwrite_starts_anew_and_removes_the_earlier_training_with_its_results(begin, experiment):
    begin(configure(seed=1), history=HISTORY * 3)
    results = training.Results(experiment.results, experiment.name)
    results.file("performances.txt").touch()
    (experiment.folder / "notes.txt").touch()
    _, run = train(configure(num_epochs=1), experiment, overwrite=True)
    assert [row["epoch"] for row in run.history] == [1]
    assert read_weights(experiment.weights("last")).history == run.history
    assert not (experiment.folder / "performances.txt").exists()
    assert (experiment.folder / "notes.txt").exists()


def test_overwrite_is_refused_while_a_test_runs(begin, experiment):
    pytest.importorskip("fcntl")
    begin(configure())
    before = hashes(experiment.folder)
    with one_at_a_time(experiment.results, "testing"):
        problem = problem_of(training.TrainingRun, configure(), experiment, overwrite=True)
    assert problem == (
        f"Another testing writes to {experiment.results}. Wait until it has ended, or choose "
        "another [experiment name] name."
    )
    assert hashes(experiment.folder) == before


@pytest.mark.parametrize(("scaling", "is_told"), [("image", False), ("auto", True)])
def test_grey_values_of_another_scaling_than_the_initial_ones_are_told(
    experiment, capsys, scaling, is_told
):
    path = Path("initial.weights.h5")
    save_weights(tiny_network(), path, {"data": {"scaling": "image"}})
    run = training.TrainingRun(configure(initial_weights=str(path)), experiment)
    run.require_data({"scaling": scaling})
    note = f"was trained on grey values of the scaling image; these data have {scaling}."
    assert (note in capsys.readouterr().out) == is_told


def test_diverged_training_stops_and_says_so(experiment):
    problem = problem_of(train, configure(num_epochs=3, learning_rate=1e30), experiment)
    assert "it has diverged. Lower [training settings] learning_rate (or momentum)" in problem
    assert not experiment.weights("last").exists()


def test_training_that_cannot_begin_leaves_an_earlier_one_as_it_is(begin, experiment):
    begin(configure())
    configuration = configure(tensorboard=True)
    before = hashes(experiment.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.importlib.util, "find_spec", lambda name: None)
        problem = problem_of(train, configuration, experiment, overwrite=True)
    assert "tensorboard = True needs the package tensorboard: pip install tensorboard" in problem
    assert {k: v for k, v in hashes(experiment.folder).items() if k != ".training.lock"} == before


# ---------------------------------------------------------------- resumed as if undisturbed


def sigterm(monkeypatch, moment, epoch=0, batch=None):
    """Lets SIGTERM come at a moment of the training, as a queue that ends a job sends it."""

    def send(self, index=None, logs=None):
        if self.num_epochs - self.epochs_left == epoch and batch in (None, index):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(callbacks.ProgressLines, moment, send)


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "learning_rate": 0.1},
        {"optimizer": "adam", "learning_rate_decay": "cosine"},
        {"optimizer": "adam", "mixed_precision": True, "steps_per_execution": 2},
        {"optimizer": "adamw", "weight_averaging": 0.8, "learning_rate": 0.1},
    ],
    ids=["momentum", "cosine", "mixed", "averages"],
)
def test_resumed_training_ends_as_an_undisturbed_one(monkeypatch, settings):
    # Also where the device has no bfloat16 and would compute in float32.
    monkeypatch.setattr(devices, "has_bfloat16", lambda: True)
    configuration = configure(num_epochs=2, **settings)
    whole, broken = experiment_in("whole"), experiment_in("broken")
    undisturbed, _ = train(configuration, whole)

    # 1. Within the first epoch, after 2 of 4 batches.
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        sigterm(
            patch, "on_train_batch_begin", batch=1 if "steps_per_execution" not in settings else 0
        )
        train(configuration, broken)
    assert stopped.value.status == 143
    assert str(stopped.value) == (
        f"Stopped by SIGTERM: batch 2 of {NUM_BATCHES} of epoch 1 is saved. Start again to resume "
        "there."
    )
    begun = read_weights(broken.weights("last"))
    assert (begun.history, begun.progress["batches"]) == ([], 2)

    # 2. At its end, in the validation.
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="epoch 1 is saved"):
        sigterm(patch, "on_test_end")
        train(configuration, broken)
    assert len(read_weights(broken.weights("last")).history) == 1

    # 3. To the end.
    resumed, _ = train(configuration, broken)
    assert resumed.dtype_policy.name == (
        "mixed_bfloat16" if "mixed_precision" in settings else "float32"
    )
    np.testing.assert_array_equal(layer_weights(resumed), layer_weights(undisturbed))
    assert read_log(broken.file("log.csv")) == read_log(whole.file("log.csv"))
    for kind in ("best", "last"):  # with averages too: last carries both them and the weights
        assert file_content(broken.weights(kind)) == file_content(whole.weights(kind))
        models = [tiny_network(), tiny_network()]
        for fresh, experiment in zip(models, (whole, broken)):
            read_weights(experiment.weights(kind)).load_into(fresh)
        np.testing.assert_array_equal(*map(layer_weights, models))
    states = [read_weights(e.weights("last")).record["dropout_states"] for e in (whole, broken)]
    assert states[0] == states[1] != []


def file_content(path):
    """All arrays of a weights file but the record."""
    content = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                content.update({name: item[()].tobytes()})
                if isinstance(item, h5py.Dataset) and name != RECORD
                else None
            )
        )
    return content


def test_averages_are_validated_and_saved_as_the_weights(experiment):
    settings = {"weight_averaging": 0.9, "learning_rate": 0.5}
    model, run = train(configure(num_epochs=1, **settings), experiment)
    raw = layer_weights(model)
    (_, validation) = datasets(configure())
    for kind in ("best", "last"):
        fresh = tiny_network()
        read_weights(experiment.weights(kind)).load_into(fresh)
        assert np.abs(layer_weights(fresh) - raw).max() > 1e-3
        fresh.compile(loss="sparse_categorical_crossentropy")
        loss = fresh.evaluate(validation, verbose=0)
        assert loss == pytest.approx(run.history[0]["val_loss"], rel=1e-5)


def network_with_encoder():
    """Labels a patch with what a part of its own, which has dropout too, makes of it."""
    layers = keras.layers
    pixels = keras.Input((16,))
    x = layers.Dropout(0.3)(layers.Dense(8, activation="relu")(pixels))
    encoder = keras.Model(pixels, x, name="encoder")
    inputs = keras.Input((1, 4, 4))
    x = layers.Reshape((16, 2))(layers.Dense(32)(encoder(layers.Flatten()(inputs))))
    return keras.Model(inputs, layers.Softmax(dtype="float32")(x), name="with_encoder")


def test_encoder_learns_slowly_and_resumes_with_losses_and_metrics_of_segmentations(monkeypatch):
    configuration = configure(
        num_epochs=2, optimizer="adamw", weight_averaging=0.5, best_by="val_accuracy"
    )
    options = {
        "network": network_with_encoder,
        "loss": get_loss("dice_cross_entropy"),
        "make_metrics": lambda: segmentation_metrics(2),
        "slow_layer": "encoder",
        "slow_factor": 0.01,
    }
    whole, broken = experiment_in("whole"), experiment_in("broken")
    model, run = train(configuration, whole, **options)
    keras.utils.set_random_seed(configuration.training_settings.seed)
    first = network_with_encoder()
    moved = [np.abs(a - b).max() for a, b in zip(model.get_weights(), first.get_weights())]
    # 8 steps of AdamW of at most 0.01 each, or of 0.0001
    assert max(moved[:2]) < 0.001
    assert min(moved[2:]) > 0.01
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        sigterm(patch, "on_train_batch_begin", epoch=1, batch=1)
        train(configuration, broken, **options)
    train(configuration, broken, **options)
    for kind in ("best", "last"):
        assert file_content(broken.weights(kind)) == file_content(whole.weights(kind))
    assert read_log(broken.file("log.csv")) == read_log(whole.file("log.csv"))
    assert {"accuracy", "cross_entropy", "mean_iou", "val_mean_iou"} <= set(run.history[0])


def plateaued(monkeypatch, accuracies):
    """Lets the validation find what a test says, so that the training comes to a plateau."""
    values = iter(accuracies)
    original = callbacks.TrainingRecorder.on_epoch_end

    def with_value(self, epoch, logs=None):
        original(self, epoch, {**logs, "val_accuracy": next(values)})

    monkeypatch.setattr(callbacks.TrainingRecorder, "on_epoch_end", with_value)


def test_plateau_and_early_end_follow_from_the_history(experiment, monkeypatch, capsys):
    settings = {
        "best_by": "val_accuracy",
        "learning_rate_decay": "plateau",
        "plateau_patience": 1,
        "plateau_factor": 0.5,
    }
    plateaued(monkeypatch, [0.5, 0.75, 0.7, 0.6, 0.9, 0.8])
    early = configure(num_epochs=9, early_stopping=2, **settings)
    _, run = train(early, experiment)
    assert len(run.history) == 4
    ended = "Trained. early_stopping ended it after epoch 4. Best val_accuracy 0.7500 in epoch 2"
    printed = capsys.readouterr().out
    assert ended in printed
    assert "No improvement for long: the learning rate falls to 0.005" in printed
    assert read_weights(experiment.weights("best")).record["epoch"] == 2
    assert problem_of(find_begun, experiment, early) == (
        f"The experiment run is complete: 4 epochs are in {experiment.weights('last')}, "
        "early_stopping = 2 ended it. To resume, raise [training settings] early_stopping. To "
        "start anew, choose another [experiment name] name or add --overwrite."
    )
    # Resumed with more patience: the learning rate is what the history makes of it.
    model, run = train(configure(num_epochs=6, early_stopping=3, **settings), experiment)
    assert len(run.history) == 6
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 / 4)
    assert "Best val_accuracy 0.9000 in epoch 5" in capsys.readouterr().out


def test_an_epoch_that_was_begun_and_ends_the_training_is_the_last(experiment, monkeypatch):
    settings = {"best_by": "val_accuracy", "early_stopping": 1}
    plateaued(monkeypatch, [0.5, 0.4, 0.3])
    configuration = configure(num_epochs=9, **settings)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        sigterm(patch, "on_train_batch_begin", epoch=1, batch=1)
        train(configuration, experiment)
    _, run = train(configuration, experiment)
    assert len(run.history) == 2


def test_more_epochs_may_be_asked_for_and_no_worse_one_is_called_best(begin, experiment, capsys):
    begin(configure(num_epochs=1), history=[{**HISTORY[0], "val_loss": 0.0}])
    experiment.weights("best").write_bytes(b"of epoch 1")
    _, run = train(configure(num_epochs=2), experiment)
    assert [row["epoch"] for row in run.history] == [1, 2]
    printed = capsys.readouterr().out
    assert "Resuming after epoch 1 of 2 from" in printed
    assert "best so far" not in printed
    assert experiment.weights("best").read_bytes() == b"of epoch 1"
    # The first epoch is of a time when the log had no accuracy.
    first, second = experiment.file("log.csv").read_text().splitlines()[1:]
    assert first == "1,0.5,0.0,1.0,,"
    assert second.count(",") == 5


# ---------------------------------------------------------------- what may be resumed


def test_nothing_begun(experiment):
    assert find_begun(experiment, configure()) is None


@pytest.mark.parametrize(("progress", "within"), [(None, ""), ({"batches": 1200}, ", batch 1,200")])
def test_interrupted_training_is_found_and_told(begin, experiment, capsys, progress, within):
    configuration = configure()
    begin(configuration, progress=progress)
    assert find_begun(experiment, configuration).history == HISTORY
    path = experiment.weights("last")
    assert f"Resuming after epoch 1 of 2{within} from {path}." in capsys.readouterr().out


def test_complete_training_is_refused(begin, experiment):
    begin(configure())
    assert problem_of(find_begun, experiment, configure(num_epochs=1)) == (
        f"The experiment run is complete: 1 epochs are in {experiment.weights('last')}, 1 are "
        "asked for. To resume, raise [training settings] N_epochs. To start anew, choose another "
        "[experiment name] name or add --overwrite."
    )


def test_more_epochs_are_not_advised_where_the_learning_rate_has_fallen_to_0(begin, experiment):
    configuration = configure(num_epochs=1, learning_rate_decay="cosine")
    begin(configuration)
    problem = problem_of(find_begun, experiment, configuration)
    assert "are asked for. To start anew" in problem


def test_changed_settings_are_refused_and_named(begin, experiment):
    begin(configure())
    changed = configure(learning_rate=0.5, seed=3, validation_split=1)
    problem = problem_of(find_begun, experiment, changed)
    assert "training settings learning_rate: 0.01 -> 0.5" in problem
    assert "training settings seed: 7 -> 3" in problem
    assert "training settings validation_split: 0.1 -> 1" in problem
    assert problem.count("->") == 3 and "cosine" not in problem
    assert "Set them back to resume, choose another [experiment name] name, or start" in problem


def test_settings_that_do_not_shape_the_training_may_change(begin, experiment):
    begin(configure(initial_weights="./renamed/since.weights.h5"))
    free = {"tensorboard": True, "steps_per_execution": 4, "saving_interval": 1, "time_limit": 2}
    moved = {"path_local": "./moved/", "name": "other", "stride_height": 7, "fov_width": 540}
    changed = configure(num_epochs=9, initial_weights="./missing.weights.h5", **free, **moved)
    assert len(find_begun(experiment, changed).history) == 1


def test_number_of_epochs_shapes_a_training_whose_learning_rate_decays(begin, experiment):
    begin(configure(learning_rate_decay="cosine"), history=[])
    assert find_begun(experiment, configure(learning_rate_decay="cosine")).history == []
    longer = configure(num_epochs=3, learning_rate_decay="cosine")
    problem = problem_of(find_begun, experiment, longer)
    assert "training settings N_epochs: 2 -> 3" in problem
    assert "With learning_rate_decay = cosine the learning rate reaches 0 at N_epochs." in problem


def test_settings_that_a_training_did_not_have_yet_count_as_their_defaults(begin, experiment):
    settings = settings_record(configure())
    del settings["training_settings"]["noise"]
    begin(configure(), settings=settings)
    assert find_begun(experiment, configure()) is not None
    problem = problem_of(find_begun, experiment, configure(noise=0.1))
    assert "training settings noise: 0.0 -> 0.1" in problem


@pytest.mark.parametrize("overwrite", ["--overwrite", "another [experiment name] name"])
def test_weights_that_say_nothing_to_resume_from_are_not_replaced(experiment, model, overwrite):
    save_weights(model, experiment.weights("last"))
    problem = problem_of(find_begun, experiment, configure())
    assert f"{experiment.weights('last')} holds weights, but nothing to resume from." in problem
    assert overwrite in problem
    experiment.weights("last").rename(experiment.weights("best"))
    problem = problem_of(find_begun, experiment, configure())
    assert "run_best.weights.h5 exists, but no run_last.weights.h5 to resume from." in problem
    assert overwrite in problem


@pytest.mark.parametrize("kind", ["best", "last"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"\x89HDF\r\n\x1a\n"])
def test_weights_that_cannot_be_read_can_be_overwritten(experiment, kind, content):
    path = experiment.weights(kind)
    path.write_bytes(content)
    problem = problem_of(find_begun, experiment, configure())
    assert problem.startswith(f"{path} is ") and problem.count("--overwrite") == 1


def test_a_training_killed_between_its_first_best_and_last_weights_starts_anew(
    experiment, model, capsys
):
    save_weights(model, experiment.weights("best"), {"epoch": 1})
    assert find_begun(experiment, configure()) is None
    assert (
        "The first epoch left no run_last.weights.h5: run starts anew." in capsys.readouterr().out
    )
    save_weights(model, experiment.weights("best"), {"epoch": 2})
    assert "no run_last.weights.h5 to resume from" in problem_of(
        find_begun, experiment, configure()
    )


def test_weights_of_retina_unet_in_the_folder_are_told(experiment, capsys):
    experiment.original_weights("best").touch()
    assert find_begun(experiment, configure()) is None
    assert "holds weights that are not of this training (run_best_weights.h5)" in (
        capsys.readouterr().out
    )


def test_a_training_whose_folder_was_renamed_is_not_begun_anew(begin, experiment):
    begin(configure())
    path = experiment.weights("last").rename(experiment.folder / "walk_last.weights.h5")
    problem = problem_of(find_begun, experiment, configure())
    assert f"{path} holds this training under another name." in problem
    assert "walk_last.weights.h5 becomes run_last.weights.h5" in problem
    assert find_begun(experiment, configure(seed=8)) is None
    assert find_begun(experiment, configure(initial_weights=str(path))) is None


def test_resuming_needs_the_optimiser_and_the_same_network_and_images(begin, experiment, model):
    begin(configure(), images={"training": ["21"], "validation": ["23"]})
    assert "For training then: 21. Now: 21, 22." in problem_of(train, configure(), experiment)
    begin(configure())
    problem = problem_of(train, configure(), experiment, network=lambda: tiny_network(9))
    # 16 * 9 + 9 + 9 * 32 + 32
    assert "must hold the weights of the network tiny with 473 parameters" in problem
    assert f"it holds {NUM_PARAMETERS} parameters" in problem
    record = {"history": HISTORY, "settings": settings_record(configure())}
    save_weights(model, experiment.weights("last"), record)
    problem = problem_of(train, configure(), experiment)
    assert f"{experiment.weights('last')} holds weights without the optimiser" in problem


# ---------------------------------------------------------------- weights to start from


@pytest.fixture
def initial(model):
    """Weights of another experiment, of which one image is shared."""
    other = experiment_in("other")
    record = {
        "settings": settings_record(configure()),
        "images": {"training": ["21"], "validation": []},
        "scaling": "minmax_stack",
    }
    save_weights(model, other.weights("last"), record)
    return "./other/other_last.weights.h5"


def problem_with_start(experiment, path):
    return problem_of(find_initial_weights, experiment, configure(initial_weights=path))


def test_training_starts_from_random_weights_or_from_those_that_are_named(
    experiment, model, initial, capsys
):
    assert find_initial_weights(experiment, configure()) is None
    configuration = configure(num_epochs=1, initial_weights=initial, learning_rate=1e-30)
    trained, run = train(configuration, experiment)
    path = Path(initial).absolute()
    assert f"Starting from the weights {path}." in capsys.readouterr().out
    # At this learning rate they stay what they were; the scaling goes with them.
    for ours, theirs in zip(trained.trainable_variables, model.trainable_variables):
        np.testing.assert_allclose(ours, theirs, atol=1e-25)
    assert run.scaling == "minmax_stack"
    record = read_weights(experiment.weights("last")).record
    assert record["scaling"] == "minmax_stack"
    ancestor = {"weights": initial, "images": {"training": ["21"], "validation": []}}
    assert record["ancestors"] == [ancestor]


def test_resumed_training_does_not_open_its_initial_weights_again(begin, experiment, capsys):
    ancestors = [{"weights": "./other/other_last.weights.h5", "images": None}]
    begin(configure(initial_weights="./other/other_last.weights.h5"), ancestors=ancestors)
    train(configure(initial_weights="./renamed.weights.h5"), experiment)
    last = read_weights(experiment.weights("last"))
    assert len(last.history) == 2
    assert last.ancestors == ancestors
    assert last.initial_weights == "./other/other_last.weights.h5"
    words = "initial_weights = ./renamed.weights.h5 is not used: this training goes on, which began"
    assert f"{words} from ./other/other_last.weights.h5. To begin" in capsys.readouterr().out


def test_initial_weights_of_another_keras_project_are_taken_where_their_order_is_told(
    experiment, model
):
    model.save_weights("foreign.weights.h5")
    build = {"make_network": tiny_network, "loss": "mse", "num_batches": NUM_BATCHES}
    configuration = configure(initial_weights="./foreign.weights.h5")
    problem = problem_of(training.TrainingRun(configuration, experiment).build, **build)
    assert "set [testing settings] skip_order = up_first" in problem
    told = configure(initial_weights="./foreign.weights.h5", skip_order="up_first")
    built = training.TrainingRun(told, experiment).build(**build)
    np.testing.assert_array_equal(layer_weights(built), layer_weights(model))


def test_missing_initial_weights_say_where_they_were_looked_for(experiment, tmp_path):
    problem = problem_with_start(experiment, "nowhere.weights.h5")
    assert "[training settings] initial_weights must be a weights file" in problem
    assert f"looked for {tmp_path}/nowhere.weights.h5" in problem
    assert "Received: nowhere.weights.h5." in problem


def test_initial_weights_of_another_network(experiment, model, initial):
    settings = {"training_settings": {"network": "gnet"}}
    save_weights(model, initial, {"settings": settings})
    problem = problem_with_start(experiment, initial)
    assert "[training settings] network must be gnet, with which" in problem
    assert "choose other weights" in problem


@pytest.mark.parametrize("kind", ["best", "last"])
def test_a_training_does_not_start_from_weights_that_it_would_replace(experiment, model, kind):
    save_weights(model, experiment.weights(kind))
    problem = problem_with_start(experiment, f"./run/run_{kind}.weights.h5")
    assert "initial_weights must be of another experiment" in problem
    assert "Choose another [experiment name] name" in problem


# ---------------------------------------------------------------- the rest


def test_batches_must_be_shared_evenly_among_devices():
    two = SimpleNamespace(num_devices=2)
    odd = configure(batch_size=5)
    assert training.require_shareable_batches(odd, ONE_DEVICE) is None
    problem = problem_of(training.require_shareable_batches, odd, two)
    assert "batch_size must be a multiple of the 2 devices" in problem
    assert "Received: 5. Use 6, or distribute = none." in problem


def test_network_is_written_as_json_and_as_a_table_where_dot_is_missing(experiment, model, capsys):
    training.draw_model(model, experiment)
    assert sorted(os.listdir("run")) == ["run_architecture.json", "run_model.txt"]
    table = experiment.file("model.txt").read_text(encoding="utf-8")
    assert "dense" in table
    assert str(NUM_PARAMETERS) in table
    assert "the program dot would draw it" in capsys.readouterr().out
    written = experiment.file("architecture.json").read_text(encoding="utf-8")
    assert json.loads(written)["class_name"] == "Functional"
    assert keras.models.model_from_json(written).count_params() == NUM_PARAMETERS


@pytest.mark.parametrize("kind", [AssertionError, ImportError, OSError, UserError, ValueError])
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


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's program dot is missing")
def test_network_is_drawn_where_dot_exists(experiment, model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    training.draw_model(model, experiment)
    assert experiment.file("model.png").read_bytes().startswith(b"\x89PNG")
