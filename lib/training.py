"""What both trainings share: optimiser, resume, weights, logs, curves, plateau detector."""

import csv
import importlib.util
import json
import math
import shutil
import sys
import time
from pathlib import Path

import h5py
import keras

from lib.devices import this_host_alone
from lib.errors import UserError, raise_if_any
from lib.files import atomic_write
from lib.keras1_weights import is_keras1_file, load_keras1_weights
from lib.plots import draw_loss_curves
from lib.progress import duration

TRAINING_STATE = "training_state"
_SEEN_BEFORE = (
    "Figures on images that those weights had been trained on are too good, even where this "
    "training held the images out."
)
# Settings that may change between the two halves of an interrupted training.
FREE_SETTINGS = ("N_epochs", "nohup", "tensorboard", "distribute", "steps_per_execution")


def get_optimizer(settings, num_steps):
    """Builds the optimiser that the training settings ask for.

    Args:
        settings: with optimizer ("sgd" or "adam"), learning_rate, learning_rate_decay ("none", or
            "cosine" from the learning rate to 0 over the training) and momentum (sgd only).
        num_steps: batches of the whole training.
    Returns:
        keras.optimizers.Optimizer.
    """
    rate = settings.learning_rate
    if settings.learning_rate_decay == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, num_steps)
    if settings.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    return keras.optimizers.SGD(rate, momentum=settings.momentum)


def train(
    model, training_data, validation_data, experiment, configuration, history, plateau, image_ids
):
    """Trains a compiled network, or goes on where an earlier start was stopped.

    After every epoch the experiment's folder holds the last weights, with all that is needed to go
    on as long as epochs may follow (a cosine decay ends at 0), the best weights (lowest validation
    loss), a CSV log and a picture of the loss curves.

    Args:
        model: compiled keras.Model.
        training_data: keras PyDataset that begins with the epoch after the history.
        validation_data: keras PyDataset; None for a training without validation, which has no
            best weights.
        experiment: lib.experiment.Experiment.
        configuration: lib.configuration.Configuration.
        history: as read_history gives it; empty for a training from the start, which then takes
            the place of an earlier one. Grows by a dictionary every epoch.
        plateau: PlateauDetector.
        image_ids: {"training": ids of the images that train, "validation": of those that only
            validate}; kept with the weights.
    Raises:
        UserError: if the weights cannot be read, or the loss is no number any more.
    """
    settings = configuration.training_settings
    num_epochs = settings.N_epochs
    if history:
        last = experiment.weights("last")
        _require_optimizer(last)
        model.optimizer.build(model.trainable_variables)
        load_weights(model, last)
        states = read_training_state(last).get("dropout_states", [])
        for variable, state in zip(_dropout_states(model), states):
            variable.assign(state)
    elif experiment.is_first_host:
        experiment.remove_training()
    if experiment.is_first_host:
        experiment.keep_configuration(configuration.path)
    has_bar = sys.stdout.isatty()  # a log file gets lines
    callbacks = [
        plateau,
        EpochRecorder(experiment, configuration, history, image_ids),
        ProgressLines(num_epochs, len(training_data), has_bar, _lowest_validation_loss(history)),
    ]
    if settings.tensorboard and experiment.is_first_host:
        callbacks.append(
            keras.callbacks.TensorBoard(experiment.file("tensorboard"), write_graph=False)
        )
    model.fit(
        training_data,
        validation_data=validation_data,
        initial_epoch=len(history),
        epochs=num_epochs,
        callbacks=callbacks,
        verbose=1 if has_bar else 0,
        # The data sets order themselves by seed and epoch; Keras's order would forget both.
        shuffle=False,
    )


# ---------------------------------------------------------------- weights and state


def find_initial_weights(experiment, configuration, network_settings):
    """Finds the weights of another training from which a new one shall start.

    They must be loaded before the network is compiled: its optimiser starts anew.

    Args:
        experiment: lib.experiment.Experiment that is to be trained.
        configuration: lib.configuration.Configuration.
        network_settings: (section, key) of the settings on which the network depends.
    Returns:
        path of an existing file; None where the training starts from random weights.
    Raises:
        UserError: if there is no such file, it is not whole, of another network, or one that the
            new training would replace.
    """
    if configuration.training_settings.initial_weights is None:
        return None
    key = ("training settings", "initial_weights")
    path = Path(configuration.training_settings.initial_weights)
    if not path.is_file():
        advice = "Copy the file there, or use none."
        expected = f"a weights file of an earlier training, or none (looked in {Path.cwd()})"
        raise UserError(configuration.problem(*key, expected, advice))
    own = (experiment.weights(kind) for kind in ("best", "last"))
    if any(weights.exists() and path.samefile(weights) for weights in own):
        advice = "Choose another [experiment name] name: this training would replace the file."
        raise UserError(configuration.problem(*key, "of another experiment", advice))
    require_same_network(path, configuration, network_settings)
    print(f"Starting from the weights {path}. {_SEEN_BEFORE}")
    return path


def describe_origin(path):
    """Says what readers of figures on training images must know of the weights.

    Args:
        path: weights file.
    Returns:
        a sentence: from which weights they were trained on, or that the file tells no settings;
        "" where they started from random weights.
    """
    settings = _read_state(path).get("settings")
    if not settings:
        return f"{path} does not tell on which images it was trained: these may be among them."
    initial = settings.get("training_settings", {}).get("initial_weights")
    return f"Trained from the weights {initial}. {_SEEN_BEFORE}" if initial else ""


def read_history(experiment, configuration):
    """Reads what an interrupted training of this experiment has done so far.

    Args:
        experiment: lib.experiment.Experiment.
        configuration: lib.configuration.Configuration; its training must be the interrupted one.
    Returns:
        list of dictionaries, one for each finished epoch; empty where nothing was begun.
    Raises:
        UserError: if the training is complete or was begun with other settings.
    """
    last, best = experiment.weights("last"), experiment.weights("best")
    num_epochs = configuration.training_settings.N_epochs
    if not last.exists():
        if best.exists():
            raise UserError(
                f"{best} exists, but no {last.name} to go on from. Choose another "
                "[experiment name] name, or start anew with --overwrite."
            )
        others = sorted(path.name for path in experiment.folder.glob("[!.]*weights.h5"))
        if others:
            print(
                f"{experiment.folder} holds weights that are not of this training "
                f"({', '.join(others)}). They stay; it starts anew, and testing will take the new "
                "ones once there are any."
            )
        return []
    state = read_training_state(last)
    _require_same_settings(last, state["settings"], configuration)
    num_done = len(state["history"])
    if num_done >= num_epochs:
        more = "To go on, raise [training settings] N_epochs. "
        raise UserError(
            f"The experiment {experiment.name} is complete: {num_done} epochs are in {last}, "
            f"{num_epochs} are asked for. {more if _can_go_on(configuration, num_done) else ''}"
            "To start anew, choose another [experiment name] name or add --overwrite."
        )
    print(f"Going on after epoch {num_done} of {num_epochs} from {last}.", flush=True)
    return state["history"]


def _can_go_on(configuration, num_done):
    """Tells whether epochs may follow: not once a decaying learning rate has fallen to 0."""
    settings = configuration.training_settings
    return settings.learning_rate_decay == "none" or num_done < settings.N_epochs


def save_weights(model, path, state=None, with_optimizer=False):
    """Saves the weights of a network, whole or not at all.

    Args:
        model: keras.Model.
        path: the file; must end in .weights.h5.
        state: dictionary stored beside the weights.
        with_optimizer: whether a training shall go on from the file; with Adam it is then three
            times as large.
    """
    with atomic_write(path) as beside:
        # Keras demands the ending; the name beside the place keeps it.
        with this_host_alone():
            model.save_weights(beside)
        with h5py.File(beside, "a") as file:
            file[TRAINING_STATE] = json.dumps(state or {})
            if not with_optimizer and "optimizer" in file:
                del file["optimizer"]
        if not with_optimizer:
            _repack(beside)


def load_weights(model, path):
    """Loads weights that save_weights wrote, or retina-unet in 2016, whichever the file holds.

    Args:
        model: keras.Model of the same network, in either data format. Once it is compiled, the
            optimiser's variables are loaded too where the file has them.
        path: existing file.
    Raises:
        UserError: if the file is not whole or holds another network.
    """
    advice = (
        "Mend the network in [training settings], or choose other weights ([experiment name] name; "
        "initial_weights)."
    )
    try:
        if is_keras1_file(path):
            _load_keras1_weights(model, path, advice)
            return
        found = _count_parameters(path)
        if found != model.count_params():
            raise ValueError(f"it holds {found:,} parameters")
        model.load_weights(path)
    except (OSError, RuntimeError) as error:  # h5py: cut off, or damaged inside
        raise UserError(
            f"{path} is not a whole weights file; it may be cut off: {error}. Copy it again, or "
            "delete it and train again."
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(
            f"{path} must hold the weights of the network {model.name} with "
            f"{model.count_params():,} parameters. Received: {error}. {advice}"
        ) from error


def _load_keras1_weights(model, path, advice):
    try:
        load_keras1_weights(model, path)
    except (ValueError, KeyError) as error:
        raise UserError(f"{error}. {advice}") from error
    print(f"{path} was written by Keras 1 (retina-unet, 2016): kernels turned by 180 degrees.")


def require_same_network(path, configuration, keys):
    """Refuses weights that were trained with other values of settings that must stay.

    Args:
        path: weights file; those that tell no settings (retina-unet's) are taken as they are. A
            setting that is younger than the weights had its default.
        configuration: lib.configuration.Configuration.
        keys: (section, key) of the settings that must be the same.
    Raises:
        UserError: that names every setting which differs.
    """
    trained_with = _read_state(path).get("settings")
    if not trained_with:
        return
    problems = []
    for section, key in keys:
        attribute = section.replace(" ", "_")
        now = getattr(configuration.sections[attribute], key)
        then = trained_with.get(attribute, {}).get(key, configuration.default(attribute, key))
        if then != now:
            advice = f"Set it to {then}, or choose other weights."
            expected = f"{then}, with which {path} was trained"
            problems.append(configuration.problem(section, key, expected, advice))
    raise_if_any(problems)


def require_same_images(path, image_ids):
    """Refuses weights that were trained, or validated, on other images than the data hold now.

    Args:
        path: weights file; one that does not tell its images is taken as it is.
        image_ids: {"training": ids, "validation": ids}, or one of the two.
    Raises:
        UserError: if the ids differ.
    """
    trained_with = _read_state(path).get("images", {})
    for use, ids in image_ids.items():
        then = trained_with.get(use, ids)
        if then != list(ids):
            raise UserError(
                f"{path} was trained with other images. For {use} then: "
                f"{', '.join(then) or 'none'}. Now: {', '.join(ids) or 'none'}. Prepare the same "
                "data again, mend [data paths], or train anew (another [experiment name] name, or "
                "--overwrite)."
            )


def read_training_state(path):
    """Reads what save_weights stored beside the last weights.

    Args:
        path: weights file.
    Returns:
        dictionary with history, settings, dropout_states and images (their ids).
    Raises:
        UserError: if the file is not whole, or holds weights only.
    """
    state = _read_state(path)
    if "history" not in state:
        raise UserError(
            f"{path} holds weights, but nothing to go on from. Choose another [experiment name] "
            "name, or start anew with --overwrite."
        )
    return state


def _require_optimizer(path):
    """Refuses to go on without the optimiser's variables; Keras would start it anew silently."""
    with h5py.File(path, "r") as file:
        if "optimizer" not in file:
            raise UserError(
                f"{path} holds weights without the optimiser, so no epochs can follow. Name the "
                "file in [training settings] initial_weights of another experiment, or start anew "
                "with --overwrite."
            )


def _read_state(path):
    """Reads the dictionary beside the weights; an empty one where there is none."""
    try:
        with h5py.File(path, "r") as file:
            return json.loads(file[TRAINING_STATE].asstr()[()]) if TRAINING_STATE in file else {}
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} is not a whole weights file; it may be cut off: {error}. Copy it again, or "
            "train it anew (--overwrite)."
        ) from error


def _dropout_states(model):
    """Lists the variables from which dropout draws; Keras does not save them with the weights."""
    return [v for v in model.variables if v.name == "seed_generator_state"]


def _require_same_settings(path, begun_with, configuration):
    changed = []
    for section, values in _training_settings(configuration).items():
        for key, value in values.items():
            # What the project did not have yet when the training began was as its default.
            then = begun_with.get(section, {}).get(key, configuration.default(section, key))
            if then != value:
                changed.append(f"{section} {key}: {then} -> {value}")
    if changed:
        raise UserError(
            f"{path} was trained with other settings ({'; '.join(changed)}). Set them back to go "
            "on, choose another [experiment name] name, or start anew with --overwrite."
        )


def _training_settings(configuration):
    """Gives the settings that make a training what it is: those that must not change half-way."""
    settings = configuration.as_dict()
    settings.pop("testing_settings")
    settings.pop("experiment_name")
    # Data may be moved, and other images tested.
    paths = settings["data_paths"].items()
    settings["data_paths"] = {k: v for k, v in paths if k.startswith("train_")}
    training = settings["training_settings"]
    # The number of epochs shapes a decaying learning rate from its first step.
    free = FREE_SETTINGS if training["learning_rate_decay"] == "none" else FREE_SETTINGS[1:]
    settings["training_settings"] = {k: v for k, v in training.items() if k not in free}
    return settings


def _count_parameters(path):
    """Counts the floating-point parameters of the layers in a weights file."""
    sizes = []

    def count(name, item):
        is_layer = not name.startswith("optimizer") and "seed_generator" not in name
        if isinstance(item, h5py.Dataset) and is_layer and name != TRAINING_STATE:
            sizes.append(item.size)

    with h5py.File(path, "r") as file:
        file.visititems(count)
    return sum(sizes)


def _repack(path):
    """Copies an HDF5 file onto itself: what was deleted in it gives its space back."""
    with (
        atomic_write(path) as beside,
        h5py.File(path, "r") as source,
        h5py.File(beside, "w") as target,
    ):
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)


# ---------------------------------------------------------------- what happens after each epoch


class EpochRecorder(keras.callbacks.Callback):
    """Writes best and last weights, the CSV log and the curves after each epoch.

    The last weights are written after the best and carry the history, from which log and curves are
    made. Whenever the process is killed, the files tell one story.

    Args:
        experiment: lib.experiment.Experiment.
        configuration: lib.configuration.Configuration.
        history: dictionaries of the epochs so far; each new one is appended.
        image_ids: of the images that train and that validate.
    """

    def __init__(self, experiment, configuration, history, image_ids):
        super().__init__()
        self.experiment = experiment
        self.configuration = configuration
        self.told = {"settings": _training_settings(configuration), "images": image_ids}
        self.history = history

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        """Writes everything."""
        best = _lowest_validation_loss(self.history)
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        row["seconds"] = round(time.monotonic() - self.start, 2)
        self.history.append(row)
        if not self.experiment.is_first_host:
            return
        if _validation_loss(row) < best:
            best_weights = self.experiment.weights("best")
            save_weights(self.model, best_weights, self.told)
        state = {"history": self.history, **self.told}
        state["dropout_states"] = [
            keras.ops.convert_to_numpy(variable).tolist()
            for variable in _dropout_states(self.model)
        ]
        save_weights(
            self.model,
            self.experiment.weights("last"),
            state,
            with_optimizer=_can_go_on(self.configuration, len(self.history)),
        )
        _write_log(self.history, self.experiment.file("log.csv"))
        draw_loss_curves(self.history, self.experiment.file("loss_curves.png"))


class ProgressLines(keras.callbacks.Callback):
    """Says early how long the training will take, and one line after each epoch.

    Args:
        num_epochs: epochs in all.
        num_batches: batches of an epoch.
        has_bar: whether Keras's progress bar shows the figures of an epoch.
        best: lowest validation loss of the epochs before.
    """

    # The first batches compile the network and say nothing about speed.
    WARM_UP, MEASURED = 3, 10

    def __init__(self, num_epochs, num_batches, has_bar, best=math.inf):
        super().__init__()
        self.num_epochs = num_epochs
        self.num_batches = num_batches
        self.has_bar = has_bar
        self.told = False
        self.measured_from = None
        self.best = best

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.start = time.monotonic()
        self.epochs_left = self.num_epochs - epoch

    def on_train_batch_end(self, batch, logs=None):
        """Estimates the duration once, from the first batches after the warm-up."""
        if self.told or batch + 1 < self.WARM_UP:
            return
        if self.measured_from is None:
            self.measured_from = (batch, time.monotonic())
        measured = batch - self.measured_from[0]
        if measured >= self.MEASURED:
            self.told = True
            per_batch = (time.monotonic() - self.measured_from[1]) / measured
            whole = per_batch * self.num_batches * self.epochs_left
            print(
                f"\n{per_batch * 1000:.0f} ms a batch: about {duration(whole)} for the "
                f"{self.epochs_left} epochs to come.",
                flush=True,
            )

    def on_epoch_end(self, epoch, logs=None):
        """Tells what the epoch gave and how long the rest will take."""
        seconds = time.monotonic() - self.start
        left = duration(seconds * (self.epochs_left - 1))
        is_best = _validation_loss(logs) < self.best
        self.best = min(self.best, _validation_loss(logs))
        figures = "" if self.has_bar else "".join(f" - {k}: {v:.4f}" for k, v in logs.items())
        best = " - best so far" if is_best else ""
        print(
            f"{chr(10) if self.has_bar else ''}Epoch {epoch + 1}/{self.num_epochs} - "
            f"{duration(seconds)}{figures}{best} - {left} left",
            flush=True,
        )


class PlateauDetector(keras.callbacks.Callback):
    """Says in plain words when a network has learnt nothing, and stops it when the loss is NaN.

    Two losses tell of it. ln(number of classes): the network answers the same probability for all
    classes; with a ReLU before the softmax it may have died, and then has no gradient to recover
    by. The entropy of the class shares (about .32 on DRIVE): it answers the share of each class
    everywhere, whatever the image. On the validation pixels, whose shares differ, that answer has
    the cross-entropy of the training shares with theirs.

    Args:
        training_shares: share of the training pixels of each class, summing to 1.
        validation_shares: the same of the validation pixels; None without validation.
        patience: epochs in a row on the entropy before it is reported.
    """

    def __init__(self, training_shares, validation_shares, patience=2):
        super().__init__()
        self.uniform = math.log(len(training_shares))
        self.entropy = _cross_entropy(training_shares, training_shares)
        self.validation_entropy = _cross_entropy(
            validation_shares or training_shares, training_shares
        )
        self.patience = patience
        self.epochs_on_entropy = 0

    def on_epoch_end(self, epoch, logs=None):
        """Compares the losses with those of an answer that does not look at the image."""
        loss = logs["loss"]
        validation = logs.get("val_loss", loss)
        for name, value in (("training", loss), ("validation", validation)):
            if not math.isfinite(value):
                raise UserError(
                    f"The {name} loss is {value} in epoch {epoch + 1}: it has diverged. Lower "
                    "[training settings] learning_rate (or momentum) and start anew with "
                    "--overwrite."
                )
        if max(abs(loss - self.uniform), abs(validation - self.uniform)) < 1e-4:
            num_classes = round(math.exp(self.uniform))
            print(
                f"\nPLATEAU: the loss stays at {self.uniform:.4f} = ln {num_classes}: the network "
                "answers the same probability for every class everywhere. With "
                "output_activation = relu it has died and cannot recover. Start anew with another "
                "[training settings] seed, or with output_activation = linear.",
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
                "another seed, or output_activation = linear.",
                flush=True,
            )


def _cross_entropy(shares, answered):
    """Gives the loss of the answer `answered` on pixels of the given class shares."""
    pairs = zip(shares, answered)
    return -sum(share * math.log(answer) for share, answer in pairs if answer > 0)


def _lowest_validation_loss(history):
    return min(map(_validation_loss, history), default=math.inf)


def _validation_loss(row):
    """Reads the validation loss of an epoch; without validation no epoch is the best."""
    return row.get("val_loss", math.inf)


def describe_end(history, experiment, configuration):
    """Words what a finished training gave and what comes next.

    Args:
        history: dictionaries of all epochs.
        experiment: lib.experiment.Experiment.
        configuration: lib.configuration.Configuration.
    """
    best = min(history, key=_validation_loss)
    given = f"Weights: {experiment.weights('last')}."
    if "val_loss" in best:
        loss, weights = best["val_loss"], experiment.weights("best")
        given = f"Lowest validation loss {loss:.4f} in epoch {best['epoch']}: {weights}."
    return f"Trained. {given} Next: python run_testing.py {configuration.path}"


def _write_log(history, path):
    with atomic_write(path) as beside, open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def require_packages(settings):
    """Raises a UserError where the training settings ask for a package that is not installed."""
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "[training settings] tensorboard = True needs the package tensorboard: "
            "pip install tensorboard, or set it to False."
        )
    if keras.backend.backend() == "openvino":
        raise UserError(
            "OpenVINO predicts and cannot train: run_training.py needs KERAS_BACKEND=tensorflow, "
            "jax or torch. Received: openvino. run_testing.py takes the weights with any of them."
        )


def require_shareable_batches(configuration, devices):
    """Raises a UserError where the devices cannot share the batches that the settings ask for."""
    number, settings = devices.num_devices, configuration.training_settings
    problems = []
    if settings.batch_size % number:
        multiple = -(-settings.batch_size // number) * number
        problems.append(
            configuration.problem(
                "training settings",
                "batch_size",
                f"a multiple of the {number} devices that distribute = auto shares a batch among",
                f"Use {multiple}, or distribute = none.",
            )
        )
    # Keras 3.15 fails there with "You must feed a value for placeholder tensor".
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if is_tensorflow and number > 1 and settings.steps_per_execution > 1:
        problems.append(
            configuration.problem(
                "training settings",
                "steps_per_execution",
                f"1 where TensorFlow shares batches among {number} devices",
                "Use 1, or KERAS_BACKEND=jax, or distribute = none.",
            )
        )
    raise_if_any(problems)


def draw_model(model, experiment):
    """Draws the network where graphviz's program `dot` exists; else writes it as a table.

    Args:
        model: keras.Model.
        experiment: lib.experiment.Experiment; gets <name>_model.png or <name>_model.txt, and
            <name>_architecture.json.
    """
    if not experiment.is_first_host:
        return
    with atomic_write(experiment.file("architecture.json")) as beside:
        beside.write_text(model.to_json(indent=1), encoding="utf-8")
    if shutil.which("dot"):
        try:
            with atomic_write(experiment.file("model.png")) as beside:
                keras.utils.plot_model(model, beside, show_shapes=True, show_layer_names=True)
            return
        except (AssertionError, ImportError, OSError, UserError, ValueError) as error:
            # A picture is worth no training.
            print(f"The program dot failed ({str(error).strip() or 'without a reason'}).")
    lines = []
    model.summary(print_fn=lambda line, line_break=True: lines.append(line), line_length=100)
    with atomic_write(experiment.file("model.txt")) as beside:
        beside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(
        f"The network is written as a table to {experiment.file('model.txt')}; the program dot "
        "would draw it as a picture (Debian: apt install graphviz)."
    )
