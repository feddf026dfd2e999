"""What happens during a training, batch after batch and epoch after epoch."""

import csv
import gc
import math
import os
import signal
import time

import keras

from lib.devices import return_free_memory
from lib.errors import Stopped, UserError
from lib.files import atomic_write
from lib.history import best_value, is_better, is_complete, plateau_rate
from lib.optimizers import averages_as_weights, swap_averages
from lib.plots import draw_loss_curves
from lib.progress import duration
from lib.weights import can_resume, dropout_states, save_weights

# Exit status of a training that ended at its time_limit: that of the program `timeout`.
TIME_LIMIT_STATUS = 124
# The curves are drawn again when the last drawing took less than this share of the time since.
MOST_DRAWING = 0.1


class TrainingRecorder(keras.callbacks.Callback):
    """Writes weights, log and curves after each epoch, and the weights within an epoch too.

    Within an epoch the last weights are saved by the clock, when the process is told to stop
    (SIGTERM, Ctrl-C), and at the time limit. Their record says how many batches of the epoch are
    done, and the sums of the metrics so far: the batches that follow are those that would have
    followed, so that a resumed training ends as an undisturbed one. The record carries the history,
    from which log and curves are made: whenever the process is killed, the files tell one story;
    only the curves may be some seconds behind.
    Where weights are averaged, the averages validate and are saved as the weights; the file with
    the optimiser holds the weights in their place there.

    Args:
        run: lib.training.TrainingRun.
        training_data: lib.patch_dataset.TileDataset.
        record: dictionary for the record: settings, images, scaling, ancestors.
    """

    def __init__(self, run, training_data, record):
        super().__init__()
        self.run = run
        self.history = run.history
        self.training_data = training_data
        self.record = record
        self.settings = run.configuration.training_settings
        self.stop = StopRequest(self.settings.time_limit)
        self.interval = self.settings.saving_interval
        self.is_frozen = False
        self.drawn, self.drawing = 0.0, 0.0  # when the curves were drawn last; how long it took

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the data of the epoch and the clock, or takes up an epoch that was begun."""
        progress = self.run.take_progress()
        self.training_data.start_epoch(epoch + 1, progress["batches"] if progress else 0)
        self.start = time.monotonic() - (progress["seconds"] if progress else 0)
        self.saved = time.monotonic()
        self.earlier_sums = progress["metrics"] if progress else None
        if self.settings.learning_rate_decay == "plateau":
            self._set_plateau_rate()

    def on_train_batch_end(self, batch, logs=None):
        """Saves and stops where that is due; after the last batch the epoch's end does."""
        if self.earlier_sums:
            self._add_earlier_sums()
        done = self.training_data.first_batch + batch + 1
        if done >= self.training_data.num_batches_of_epoch:
            return
        reason = self.stop.reason()
        if reason or time.monotonic() - self.saved >= self.interval:
            self._save_progress(done)
        if reason:
            self.stop.leave(
                f"{reason}: batch {done:,} of {self.training_data.num_batches_of_epoch:,} of epoch "
                f"{len(self.history) + 1} is saved. Start again to resume there."
            )

    def on_test_begin(self, logs=None):
        """Validates with the averages of the weights, where they are kept."""
        swap_averages(self.model)

    def on_test_end(self, logs=None):
        """Takes the weights back."""
        swap_averages(self.model)

    def on_test_batch_end(self, batch, logs=None):
        """Stops within a validation, whose epoch is then resumed from its last saving."""
        reason = self.stop.reason()
        if reason:
            self.stop.leave(f"{reason} during the validation. Start again to resume.")

    def on_epoch_end(self, epoch, logs=None):
        """Writes everything, and ends a training that has not improved for long."""
        best_by = self.settings.best_by
        best = best_value(self.history, best_by)
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["seconds"] = round(time.monotonic() - self.start, 2)
        self.history.append(row)
        is_last = is_complete(self.history, self.settings)
        experiment = self.run.experiment
        if experiment.is_first_host:
            if is_better(best_by, row.get(best_by, math.nan), best):
                record = {**self.record, "epoch": len(self.history), "history": self.history}
                with averages_as_weights(self.model):
                    save_weights(self.model, experiment.weights("best"), record)
            write_log(self.history, experiment.file("log.csv"))
            self._draw_curves(is_last or self.stop.reason())
            # Last, because a training whose weights are complete is never started again.
            self._save_last(can_resume(self.run.configuration, len(self.history)))
        self._collect_garbage()
        if is_last:
            self.model.stop_training = True
            return
        reason = self.stop.reason()
        if reason:
            self.stop.leave(f"{reason}: epoch {epoch + 1} is saved. Start again to resume.")

    def _draw_curves(self, is_end):
        """Draws the curves; after short epochs only now and then, and always before an end."""
        start = time.monotonic()
        if is_end or self.drawing <= MOST_DRAWING * (start - self.drawn):
            path = self.run.experiment.file("loss_curves.png")
            draw_loss_curves(self.history, path, self.settings.best_by)
            self.drawn = time.monotonic()
            self.drawing = self.drawn - start

    def _collect_garbage(self):
        """Gives memory back after each epoch; Python alone would wait for hundreds of figures.

        What was there before, most of it TensorFlow's, is not looked through again.
        """
        if not self.is_frozen:
            gc.collect()
            gc.freeze()
            self.is_frozen = True
        gc.collect()
        return_free_memory()

    def on_train_end(self, logs=None):
        """Looks through all of the memory again from now on."""
        gc.unfreeze()
        self.is_frozen = False

    def _save_progress(self, done):
        """Saves the weights in the middle of an epoch."""
        self._sync()
        metrics = {
            metric.name: [keras.ops.convert_to_numpy(v).tolist() for v in metric.variables]
            for metric in self.model.metrics
        }
        seconds = time.monotonic() - self.start
        progress = {"batches": done, "seconds": seconds, "metrics": metrics}
        if self.run.experiment.is_first_host:
            self._save_last(True, progress=progress)
        self.saved = time.monotonic()

    def _add_earlier_sums(self):
        """Adds what the metrics had summed up before the interruption, once they are built."""
        self._sync()
        for metric in self.model.metrics:
            sums = self.earlier_sums[metric.name]
            for variable, earlier in zip(metric.variables, sums, strict=True):
                variable.assign_add(keras.ops.convert_to_tensor(earlier, variable.dtype))
        self.earlier_sums = None

    def _sync(self):
        """Brings the variables up to date: JAX keeps them elsewhere while it trains."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

    def _save_last(self, with_optimizer, **more):
        states = [keras.ops.convert_to_numpy(v).tolist() for v in dropout_states(self.model)]
        record = {**self.record, "history": self.history, "dropout_states": states, **more}
        with averages_as_weights(self.model):
            save_weights(self.model, self.run.experiment.weights("last"), record, with_optimizer)

    def _set_plateau_rate(self):
        rate = plateau_rate(
            self.history,
            self.settings.learning_rate,
            best_by=self.settings.best_by,
            factor=self.settings.plateau_factor,
            patience=self.settings.plateau_patience,
        )
        before = float(self.model.optimizer.learning_rate)
        self.model.optimizer.learning_rate = rate
        if float(self.model.optimizer.learning_rate) < before and self.history:
            print(f"\nNo improvement for long: the learning rate falls to {rate:g}.", flush=True)


class StopRequest:
    """Notes that the training shall stop: a signal came, or its time is over.

    The first signal lets the batch end and its weights be saved; a second one ends at once.

    Args:
        time_limit: hours since this object was made; 0 for no limit.
    """

    SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}

    def __init__(self, time_limit=0.0):
        self.limit = time.monotonic() + 3600 * time_limit if time_limit else math.inf
        self.time_limit = time_limit
        self.received = None
        self.handlers = {}

    def __enter__(self):
        """Takes the signals over."""
        self.handlers = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error):
        """Gives the signals back."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.received:
            self.__exit__()
            os.kill(os.getpid(), number)
        self.received = number

    def reason(self):
        """Gives why to stop, in words; None to go on."""
        if self.received:
            return f"Stopped by {signal.Signals(self.received).name}"
        if time.monotonic() >= self.limit:
            return f"time_limit = {self.time_limit:g} hours is reached"
        return None

    def leave(self, message):
        """Raises what ends the script with the status of the signal, or of the time limit."""
        raise Stopped(message, self.SIGNALS.get(self.received, TIME_LIMIT_STATUS))


class ProgressLines(keras.callbacks.Callback):
    """Says early how long the training will take, and one line after each epoch.

    Args:
        num_epochs: epochs in all.
        num_batches: batches of an epoch.
        has_bar: whether Keras's progress bar shows the scores of an epoch.
        best_by: the metric that chooses the best weights.
        history: the epochs before.
    """

    # The first batches compile the network and say nothing about speed.
    WARM_UP, MEASURED = 3, 10

    def __init__(self, num_epochs, num_batches, has_bar, best_by="val_loss", history=()):
        super().__init__()
        self.num_epochs = num_epochs
        self.num_batches = num_batches
        self.has_bar = has_bar
        self.is_estimated = False
        self.measured_from = None
        self.best_by = best_by
        self.best = best_value(history, best_by)

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = self.trained = time.monotonic()
        self.done = self.num_batches
        self.epochs_left = self.num_epochs - epoch

    def on_train_batch_end(self, batch, logs=None):
        """Estimates the duration once, from the first batches after the warm-up."""
        self.done, self.trained = batch + 1, time.monotonic()
        if self.is_estimated or batch + 1 < self.WARM_UP:
            return
        if self.measured_from is None:
            self.measured_from = (batch, time.monotonic())
        measured = batch - self.measured_from[0]
        if measured >= self.MEASURED:
            self.is_estimated = True
            per_batch = (time.monotonic() - self.measured_from[1]) / measured
            whole = per_batch * self.num_batches * self.epochs_left
            print(
                f"\n{per_batch * 1000:.0f} ms a batch: about {duration(whole)} for the "
                f"{self.epochs_left} epochs to come.",
                flush=True,
            )

    def on_epoch_end(self, epoch, logs=None):
        """Prints the epoch's scores and how long the rest will take."""
        seconds = time.monotonic() - self.start
        training = self.trained - self.start
        # Of an epoch that was resumed this start has done a part alone.
        whole = training * self.num_batches / self.done + seconds - training
        left = duration(whole * (self.epochs_left - 1))
        value = logs.get(self.best_by, math.nan)
        is_best = is_better(self.best_by, value, self.best)
        self.best = value if is_best else self.best
        scores = "" if self.has_bar else "".join(f" - {k}: {v:.4f}" for k, v in logs.items())
        best = " - best so far" if is_best else ""
        print(
            f"{chr(10) if self.has_bar else ''}Epoch {epoch + 1}/{self.num_epochs} - "
            f"{duration(seconds)}{scores}{best} - {left} left",
            flush=True,
        )


class PlateauDetector(keras.callbacks.Callback):
    """Says in plain words when a network has learnt nothing, and stops it when the loss is NaN.

    Two losses show it. ln(number of classes): the network answers the same probability for all
    classes; with a ReLU before the softmax it may have died, and then has no gradient to recover
    by. The entropy of the class shares (about .32 on DRIVE): it answers the share of each class
    everywhere, whatever the image. On the validation pixels, whose shares differ, that answer has
    the cross-entropy of the training shares with theirs. Where the loss is another one, the metric
    cross_entropy is watched.

    Args:
        training_shares: share of the training pixels of each class, summing to 1.
        validation_shares: the same of the validation pixels; None without validation.
        patience: epochs in a row on the entropy before it is reported.
        output_activation: of the configuration, None where a task has no such key; a network with
            "relu" before the softmax may die, and the message says so.
    """

    def __init__(self, training_shares, validation_shares, patience=2, output_activation=None):
        super().__init__()
        self.died = self.otherwise = ""
        if output_activation == "relu":
            self.died = " With output_activation = relu it may have died, and cannot recover then."
            self.otherwise = ", or output_activation = linear"
        self.uniform = math.log(len(training_shares))
        self.entropy = _cross_entropy(training_shares, training_shares)
        self.validation_entropy = _cross_entropy(
            validation_shares or training_shares, training_shares
        )
        self.patience = patience
        self.epochs_on_entropy = 0

    def on_epoch_end(self, epoch, logs=None):
        """Compares the losses with those of an answer that does not look at the image."""
        for name, value in (("training", logs["loss"]), ("validation", logs.get("val_loss", 0))):
            if not math.isfinite(value):
                raise UserError(
                    f"The {name} loss is {value} in epoch {epoch + 1}: it has diverged. Lower "
                    "[training settings] learning_rate (or momentum) and start anew with "
                    "--overwrite."
                )
        loss = logs.get("cross_entropy", logs["loss"])
        validation = logs.get("val_cross_entropy", logs.get("val_loss", loss))
        if max(abs(loss - self.uniform), abs(validation - self.uniform)) < 1e-4:
            num_classes = round(math.exp(self.uniform))
            print(
                f"\nPLATEAU: the loss stays at {self.uniform:.4f} = ln {num_classes}: the network "
                f"answers the same probability for every class everywhere.{self.died} Start anew "
                "with another [training settings] seed, or a lower learning_rate"
                f"{self.otherwise}.",
                flush=True,
            )
            return
        no_better = validation > 0.98 * self.validation_entropy
        on_entropy = no_better and 0.98 * self.entropy < loss < 1.05 * self.entropy
        self.epochs_on_entropy = self.epochs_on_entropy + 1 if on_entropy else 0
        if self.epochs_on_entropy == self.patience:
            print(
                f"\nPLATEAU: for {self.patience} epochs the loss has stayed at {loss:.4f}, the "
                f"entropy of the class shares ({self.entropy:.4f}): the network answers the same "
                "everywhere, whatever the image. Look at the sample pictures: do images and "
                "masks fit? Then try a higher [training settings] learning_rate, optimizer = adam, "
                f"another seed{self.otherwise}.",
                flush=True,
            )


def write_log(history, path):
    """Writes the epochs as CSV; a column that earlier epochs did not have is empty there."""
    columns = dict.fromkeys(name for row in history for name in row)
    with atomic_write(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _cross_entropy(shares, answered):
    """Gives the loss of the answer `answered` on pixels of the given class shares."""
    pairs = zip(shares, answered)
    return -sum(share * math.log(answer) for share, answer in pairs if answer > 0)
