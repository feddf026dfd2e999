"""Tests of what happens during a training: saving, stopping, telling."""

import math
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from lib import callbacks
from lib.callbacks import PlateauDetector, ProgressLines, StopRequest, TrainingRecorder, write_log
from lib.errors import Stopped, UserError
from lib.weights import read_weights
from tests.tiny_training import configure, experiment_in, layer_weights, tiny_network

SHARES = (0.75, 0.25)
# -0.75 ln 0.75 - 0.25 ln 0.25 = 0.21576 + 0.34657
ENTROPY = 0.56234


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, which a test sets."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def experiment(in_tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "draw_loss_curves", lambda *arguments: None)
    return experiment_in("run")


@pytest.fixture(scope="module")
def model():
    model = tiny_network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


class Data:
    """Stands for a TileDataset of 10 batches."""

    num_batches_of_epoch, first_batch = 10, 0

    def start_epoch(self, epoch, first_batch=0):
        self.epoch, self.first_batch = epoch, first_batch


@pytest.fixture
def record(experiment, model):
    """A function that makes a recorder of a training of 3 epochs in the middle of its first."""

    def make(history=(), progress=None, **settings):
        run = SimpleNamespace(
            configuration=configure(num_epochs=3, **settings),
            experiment=experiment,
            history=list(history),
            num_epochs=3,
            take_progress=lambda: progress,
        )
        recorder = TrainingRecorder(run, Data(), {"settings": {}})
        recorder.set_model(model)
        recorder.on_epoch_begin(len(run.history))
        return recorder

    return make


def end_epoch(recorder, epoch, **losses):
    recorder.on_epoch_begin(epoch)
    recorder.on_epoch_end(epoch, {"loss": 9.0, **losses})


def stopped(function, *arguments):
    """Calls what must stop the training; gives exit status and message."""
    with pytest.raises(Stopped) as error:
        function(*arguments)
    return error.value.status, str(error.value)


# ---------------------------------------------------------------- after each epoch


def test_best_weights_are_those_of_the_lowest_validation_loss(record, experiment, model):
    recorder = record()
    original = model.get_weights()
    for epoch, loss in enumerate((3.0, 1.0, 2.0, 1.0)):
        model.set_weights([np.full_like(weights, epoch) for weights in original])
        end_epoch(recorder, epoch, val_loss=loss)
    model.set_weights(original)
    assert [row["val_loss"] for row in recorder.history] == [3, 1, 2, 1]
    for kind, epoch in (("best", 1), ("last", 3)):
        fresh = tiny_network()
        read_weights(experiment.weights(kind)).load_into(fresh)
        assert set(layer_weights(fresh)) == {epoch}


def test_weights_that_are_no_better_than_before_a_resumption_are_not_the_best(record, experiment):
    recorder = record(history=[{"epoch": 1, "loss": 0.5, "val_loss": 0.1, "seconds": 1.0}])
    end_epoch(recorder, 1, val_loss=0.2)
    assert not experiment.weights("best").exists()
    assert [row["epoch"] for row in read_weights(experiment.weights("last")).history] == [1, 2]


def test_training_without_validation_has_no_best_weights(record, experiment):
    end_epoch(record(), 0)
    assert not experiment.weights("best").exists()
    assert experiment.weights("last").exists()


def test_files_are_written_in_an_order_that_lets_no_kill_lose_an_epoch(record, monkeypatch):
    written = []
    monkeypatch.setattr(callbacks, "save_weights", lambda m, path, *a: written.append(path.name))
    end_epoch(record(), 0, val_loss=0.2)
    assert written == ["run_best.weights.h5", "run_last.weights.h5"]


def test_of_several_hosts_only_the_first_writes(record, experiment):
    recorder = record(saving_interval=1e-9)
    experiment.is_first_host = False
    recorder.on_train_batch_end(0)
    end_epoch(recorder, 0, val_loss=0.2)
    assert [name for name in os.listdir("run") if name != ".training.lock"] == []


@pytest.mark.parametrize(("epoch_takes", "drawn"), [(1, [1, 3]), (60, [1, 2, 3])])
def test_curves_are_not_drawn_for_longer_than_is_trained(
    record, monkeypatch, clock, epoch_takes, drawn
):
    lengths = []

    def draw(history, path, best_by):
        lengths.append(len(history))
        clock.now += 5

    monkeypatch.setattr(callbacks, "draw_loss_curves", draw)
    recorder = record()
    for epoch in range(3):
        clock.now += epoch_takes
        end_epoch(recorder, epoch)
    assert lengths == drawn


@pytest.mark.parametrize(
    ("decay", "kept"), [("none", [True, True, True]), ("cosine", [True, True, False])]
)
def test_the_optimiser_is_kept_as_long_as_epochs_may_follow(record, monkeypatch, decay, kept):
    written = []
    monkeypatch.setattr(callbacks, "save_weights", lambda m, path, r, keep: written.append(keep))
    recorder = record(learning_rate_decay=decay)
    for epoch in range(3):
        end_epoch(recorder, epoch)
    assert written == kept


def test_log_has_a_row_for_each_epoch(tmp_path):
    history = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25, "val_loss": 0.125}]
    write_log(history, tmp_path / "log.csv")
    text = (tmp_path / "log.csv").read_text()
    assert text == "epoch,loss,val_loss\n1,0.5,\n2,0.25,0.125\n"


# ---------------------------------------------------------------- within an epoch


def test_weights_are_saved_by_the_clock(record, experiment, clock):
    last = experiment.weights("last")
    recorder = record(saving_interval=60)
    saved = []
    for batch, clock.now in enumerate((30, 59, 61, 90, 120, 122, 181, 260, 270, 400)):
        recorder.on_train_batch_end(batch)
        if last.exists():
            saved.append((batch, read_weights(last).progress["batches"]))
            last.unlink()
    # At 61, 122, 260 s; after the last batch the end of the epoch saves.
    assert saved == [(2, 3), (5, 6), (7, 8)]


def test_progress_tells_all_that_the_epoch_needs(record, experiment, clock, model):
    history = [{"epoch": 1, "loss": 0.5, "seconds": 1.0}]
    recorder = record(history, saving_interval=60)
    model.metrics[0].reset_state()
    model.metrics[0].update_state(0.5)
    model.metrics[0].update_state(0.25)
    clock.now = 61
    recorder.on_train_batch_end(3)
    weights = read_weights(experiment.weights("last"))
    assert weights.history == history
    assert weights.progress == {"batches": 4, "seconds": 61, "metrics": {"loss": [0.75, 2.0]}}
    weights.require_optimizer()
    assert len(weights.record["dropout_states"]) == 1

    clock.now = 100
    model.metrics[0].reset_state()
    resumed = record(history, weights.progress, saving_interval=60)
    assert (resumed.training_data.epoch, resumed.training_data.first_batch) == (2, 4)
    model.metrics[0].update_state(1.5)  # the first batch that follows
    resumed.on_train_batch_end(0)
    assert float(model.metrics[0].result()) == (0.5 + 0.25 + 1.5) / 3
    clock.now = 110  # 61 s before, 10 s now
    resumed.on_epoch_end(1, {"loss": 0.1})
    assert resumed.history[-1]["seconds"] == 71


def test_batches_before_a_resumption_count(record, experiment, clock):
    progress = {"batches": 4, "seconds": 0, "metrics": {"loss": [0.0, 0.0]}}
    recorder = record(progress=progress, saving_interval=60)
    clock.now = 61
    recorder.on_train_batch_end(1)
    assert read_weights(experiment.weights("last")).progress["batches"] == 6
    experiment.weights("last").unlink()
    clock.now = 200
    recorder.on_train_batch_end(5)  # the 10th
    assert not experiment.weights("last").exists()


# ---------------------------------------------------------------- stopping


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")],
)
def test_a_signal_lets_the_batch_end_saves_and_stops(record, experiment, number, status, name):
    recorder = record()
    with recorder.stop:
        os.kill(os.getpid(), number)
        given = stopped(recorder.on_train_batch_end, 2)
    words = "batch 3 of 10 of epoch 1 is saved. Start again to resume there."
    assert given == (status, f"Stopped by {name}: {words}")
    assert read_weights(experiment.weights("last")).progress["batches"] == 3


def test_training_ends_at_its_time_limit(record, experiment, clock):
    recorder = record(time_limit=0.5, saving_interval=1e6)
    clock.now = 1799
    recorder.on_train_batch_end(0)
    assert not experiment.weights("last").exists()
    clock.now = 1800
    status, message = stopped(recorder.on_train_batch_end, 1)
    assert status == 124
    assert message.startswith(
        "time_limit = 0.5 hours is reached: batch 2 of 10 of epoch 1 is saved"
    )
    assert read_weights(experiment.weights("last")).progress["batches"] == 2


def test_a_signal_in_the_validation_and_at_the_end_of_an_epoch(record, experiment):
    recorder = record()
    recorder.on_test_batch_end(0)
    recorder.stop.received = signal.SIGTERM
    assert stopped(recorder.on_test_batch_end, 0)[0] == 143
    recorder.on_train_batch_end(9)  # the last batch: the end of the epoch saves
    assert not experiment.weights("last").exists()
    assert stopped(end_epoch, recorder, 0) == (
        143,
        "Stopped by SIGTERM: epoch 1 is saved. Start again to resume.",
    )
    assert read_weights(experiment.weights("last")).progress is None


def test_a_training_that_is_done_is_not_stopped(record):
    recorder = record(history=[{"epoch": n, "loss": 0.5, "seconds": 1.0} for n in (1, 2)])
    recorder.stop.received = signal.SIGTERM
    end_epoch(recorder, 2)
    assert len(recorder.history) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
def test_a_second_signal_ends_at_once_and_signals_are_given_back():
    # What runs in the background of a shell ignores SIGINT, as these tests may.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.reason() == "Stopped by SIGINT"
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 60)  # the handler runs before
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_nothing_stops_a_training_that_has_no_limit(clock):
    with StopRequest() as stop:
        clock.now = 1e9
        assert stop.reason() is None


# ---------------------------------------------------------------- telling


def test_duration_is_told_once_after_the_first_batches(clock, capsys):
    lines = ProgressLines(num_epochs=5, num_batches=60, has_bar=False)
    lines.on_epoch_begin(2)
    for batch in range(40):
        clock.now += 100 if batch < 3 else 1  # the first ones compile the network
        lines.on_train_batch_end(batch)
    # 1 s a batch, 60 batches, epochs 3, 4 and 5 to come: 180 s
    said = capsys.readouterr().out
    assert said == "\n1000 ms a batch: about 3 min for the 3 epochs to come.\n"


def test_line_of_an_epoch_tells_scores_best_and_time_left(clock, capsys):
    lines = ProgressLines(num_epochs=3, num_batches=1, has_bar=False)
    for epoch, loss in enumerate((0.5, 0.75)):
        lines.on_epoch_begin(epoch)
        clock.now += 60
        lines.on_epoch_end(epoch, {"loss": 1.0, "val_loss": loss})
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1/3 - 60 s - loss: 1.0000 - val_loss: 0.5000 - best so far - 2 min left",
        "Epoch 2/3 - 60 s - loss: 1.0000 - val_loss: 0.7500 - 60 s left",
    ]


def test_the_rest_of_a_resumed_epoch_tells_the_time_of_whole_ones(clock, capsys):
    lines = ProgressLines(num_epochs=7, num_batches=20, has_bar=False)
    lines.on_epoch_begin(0)
    for batch in range(2):
        clock.now += 3
        lines.on_train_batch_end(batch)
    clock.now += 10  # validation
    lines.on_epoch_end(0, {"loss": 1.0})
    # 20 batches of 3 s and the validation, 6 epochs to come: 420 s
    assert capsys.readouterr().out.splitlines() == ["Epoch 1/7 - 16 s - loss: 1.0000 - 7 min left"]


# ---------------------------------------------------------------- plateau


def told(capsys, losses, shares=SHARES, output_activation="relu"):
    """What the detector prints after each epoch of (training loss, validation loss)."""
    detector = PlateauDetector(shares, shares, output_activation=output_activation)
    printed = []
    for epoch, (loss, validation) in enumerate(losses):
        detector.on_epoch_end(epoch, {"loss": loss, "val_loss": validation})
        printed.append(capsys.readouterr().out)
    return printed


def test_loss_at_ln_2_is_reported_at_once(capsys):
    (said,) = told(capsys, [(math.log(2), math.log(2) + 5e-5)])
    assert "PLATEAU: the loss stays at 0.6931 = ln 2" in said
    assert "With output_activation = relu it may have died, and cannot recover then." in said
    assert "another [training settings] seed, or a lower learning_rate, or output_" in said


@pytest.mark.parametrize("output_activation", [None, "linear"])
def test_no_output_activation_is_advised_where_there_is_none(capsys, output_activation):
    losses = [(math.log(2), math.log(2)), (ENTROPY, ENTROPY), (ENTROPY, ENTROPY)]
    first, _, third = told(capsys, losses, output_activation=output_activation)
    for said in (first, third):
        assert "PLATEAU" in said and "seed" in said and "output_activation" not in said


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
    detector = PlateauDetector((0.8955, 0.1045), (0.904, 0.096))
    for epoch in range(2):
        detector.on_epoch_end(epoch, {"loss": 0.3349, "val_loss": 0.3166})
    assert "PLATEAU" in capsys.readouterr().out


def test_the_cross_entropy_is_watched_where_the_loss_is_another_one(capsys):
    detector = PlateauDetector(SHARES, SHARES)
    losses = {"loss": 1.2, "val_loss": 1.2}
    detector.on_epoch_end(0, {**losses, "cross_entropy": 0.3, "val_cross_entropy": 0.3})
    assert capsys.readouterr().out == ""
    plateau = {"cross_entropy": math.log(2), "val_cross_entropy": math.log(2)}
    detector.on_epoch_end(1, {**losses, **plateau})
    assert "0.6931 = ln 2" in capsys.readouterr().out


def test_epochs_on_the_entropy_must_follow_each_other(capsys):
    losses = [(ENTROPY, ENTROPY), (0.5, 0.5), (ENTROPY, ENTROPY)]
    assert told(capsys, losses) == ["", "", ""]


def test_learning_network_is_left_in_peace(capsys):
    # Falls through the entropy of the classes, as every training does.
    losses = [(0.66, 0.62), (0.60, 0.57), (0.55, 0.52), (0.45, 0.46), (0.30, 0.33)]
    assert told(capsys, losses) == [""] * 5


def test_entropy_of_drives_classes_is_what_the_detector_compares_with():
    # About 10 % vessels: -(0.9 ln 0.9 + 0.1 ln 0.1) = 0.0948 + 0.2303
    assert PlateauDetector((0.9, 0.1), None).entropy == pytest.approx(0.3251, abs=1e-4)
    assert PlateauDetector((1.0, 0.0), None).validation_entropy == 0


@pytest.mark.parametrize(
    ("loss", "validation", "words"),
    [
        (math.nan, 0.5, "The training loss is nan in epoch 8: it has diverged."),
        (math.inf, 0.5, "The training loss is inf in epoch 8: it has diverged."),
        (0.5, math.nan, "The validation loss is nan in epoch 8: it has diverged."),
    ],
)
def test_loss_that_is_no_number_stops_the_training(loss, validation, words):
    with pytest.raises(UserError) as error:
        PlateauDetector(SHARES, None).on_epoch_end(7, {"loss": loss, "val_loss": validation})
    assert words in str(error.value)
    assert "start anew with --overwrite" in str(error.value)
