"""A training: where it starts or resumes, its optimiser, its network and its fit."""

import contextlib
import importlib.util
import shlex
import shutil
import sys
from pathlib import Path

import keras

from lib.backends import require_training_backend
from lib.callbacks import PlateauDetector, ProgressLines, TrainingRecorder
from lib.configuration import NETWORK
from lib.devices import start_computing
from lib.errors import UserError, raise_if_any
from lib.experiment import locate, one_at_a_time
from lib.files import atomic_write
from lib.history import best_epoch, has_stopped_early, is_complete
from lib.optimizers import get_optimizer, swap_averages
from lib.pre_processing import DEFAULT_SCALING, range_of_looks
from lib.results import Results
from lib.weights import (
    can_resume,
    dropout_states,
    read_weights,
    settings_record,
)


@contextlib.contextmanager
def training_run(configuration, experiment, overwrite=False):
    """Opens the folder of an experiment for one training, and says at the end what it gave.

    Args:
        configuration: lib.configuration.Configuration.
        experiment: lib.experiment.Experiment.
        overwrite: whether to start anew where there is an earlier training of the same name.
    Yields:
        TrainingRun.
    Raises:
        UserError: if the training is complete, was begun with other settings, is running, or the
            environment does not fit it.
    """
    with experiment.locked_for_training():
        run = TrainingRun(configuration, experiment, overwrite)
        yield run
        print(run.describe_end())


class TrainingRun:
    """One start of a training: what came before it, and the devices it computes on.

    Args: as training_run.

    Attributes:
        looks: how the training images look, or None.
        history: the finished epochs, a dictionary each; grows.
        is_new: whether it starts from random weights, or from those of an encoder.
        scaling: the rule by which the images are scaled: that of the weights it starts from.
        devices: lib.devices.Devices that share a batch.
    """

    def __init__(self, configuration, experiment, overwrite=False):
        settings = configuration.training_settings
        self.configuration = configuration
        self.experiment = experiment
        self.num_epochs = settings.N_epochs
        require_packages(settings)
        if overwrite:
            with self._untested():  # said before anything is replaced
                self.begun = None
        else:
            self.begun = find_begun(experiment, configuration)
        self.initial = None if self.begun else find_initial_weights(experiment, configuration)
        start = self.begun or self.initial
        self.is_new = start is None
        self.history = list(self.begun.history) if self.begun else []
        self.progress = self.begun.progress if self.begun else None
        self.scaling = start.scaling if start else DEFAULT_SCALING
        self.image_ids = None
        self.data = None
        self.looks = None
        self.devices = start_computing(settings.seed, settings.mixed_precision, settings.distribute)
        require_shareable_batches(configuration, self.devices)

    def require_images(self, image_ids):
        """Notes which images train and validate, and refuses to resume with others.

        Args:
            image_ids: {"training": ids of the images that train, "validation": of those that only
                validate}; kept with the weights.
        Raises:
            UserError: if the training was begun with others.
        """
        self.image_ids = {use: list(ids) for use, ids in image_ids.items()}
        if self.begun:
            self.begun.require_images(self.image_ids)

    def require_data(self, data):
        """Notes what the network must know of its data, and refuses to resume with others.

        Args:
            data: dictionary that JSON can hold; kept with the weights.
        Raises:
            UserError: if the training was begun with others.
        """
        self.data = data
        if self.begun:
            self.begun.require_data(data)
        then = self.initial.data.get("scaling") if self.initial else None
        if then and then != data.get("scaling"):
            print(
                f"Note: {self.initial.path} was trained on grey values of the scaling {then}; "
                f"these data have {data.get('scaling')}. Preparing with --scale {then} keeps them "
                "as the network knows them."
            )

    def note_looks(self, looks):
        """Notes how the training images look, so that later ones can be compared with them.

        Args:
            looks: list of what lib.pre_processing.look_of gives for them.
        """
        self.looks = range_of_looks(looks)

    def build(
        self, make_network, loss, num_batches, *, make_metrics=None, slow_layer=None, slow_factor=1
    ):
        """Builds and compiles the network with the weights it starts from.

        Args:
            make_network: function without arguments -> keras.Model.
            loss: as keras.Model.compile takes it.
            num_batches: batches of an epoch.
            make_metrics: function without arguments -> list of metrics; None for the accuracy.
            slow_layer: name of a layer, such as an encoder, that learns slower than the rest; None
                for none.
            slow_factor: by which its learning rate is multiplied.
        Returns:
            keras.Model.
        Raises:
            UserError: if the weights cannot be loaded.
        """
        settings = self.configuration.training_settings
        with self.devices.scope():
            model = make_network()
            if self.initial:
                skip_order = self.configuration.testing_settings.skip_order
                self.initial.load_into(model, skip_order)
            slow = model.get_layer(slow_layer).trainable_variables if slow_layer else ()
            num_steps = settings.N_epochs * num_batches
            model.compile(
                optimizer=get_optimizer(settings, num_steps, slow, slow_factor if slow else 1),
                loss=loss,
                metrics=make_metrics() if make_metrics else ["accuracy"],
                steps_per_execution=settings.steps_per_execution,
            )
            model.optimizer.build(model.trainable_variables)
        print(f"Network {model.name} with {model.count_params():,} parameters.")
        if self.experiment.is_first_host:
            draw_model(model, self.experiment)
        return model

    def fit(self, model, training_data, validation_data, shares):
        """Trains a compiled network, or resumes where an earlier start was stopped.

        After every epoch the experiment's folder holds the last weights, with all that is needed to
        resume as long as epochs may follow (a cosine decay ends at 0), the best weights (by the
        metric best_by), a CSV log and a picture of the loss curves. With weight_averaging the
        weights of both are the averages.

        Args:
            model: as build gives it.
            training_data: lib.patch_dataset.TileDataset.
            validation_data: lib.patch_dataset.TileDataset; None for a training without
                validation, which has no best weights.
            shares: class shares of the training pixels and of the validation pixels (or None).
        Raises:
            UserError: if the loss is no number any more.
            Stopped: after a signal or at the time limit.
        """
        if self.begun:
            self._restore(model)
        elif self.experiment.is_first_host:
            self._remove_earlier()
        if self.experiment.is_first_host:
            self.experiment.keep_configuration(self.configuration.path)
        recorder = TrainingRecorder(self, training_data, self._record())
        activation = getattr(self.configuration.training_settings, "output_activation", None)
        plateau = PlateauDetector(*shares, output_activation=activation)
        callbacks = [plateau, recorder, *self._reporters(len(training_data))]
        with recorder.stop:
            for first, end, batches in self._parts():
                if is_complete(self.history, self.configuration.training_settings):
                    break
                training_data.first_batch = batches
                model.fit(
                    training_data,
                    validation_data=validation_data,
                    initial_epoch=first,
                    epochs=end,
                    callbacks=callbacks,
                    verbose=1 if sys.stdout.isatty() else 0,
                    # The data order themselves by seed and epoch; Keras's order would forget both.
                    shuffle=False,
                )

    def take_progress(self):
        """Gives how far the epoch that begins was done by an earlier start, once; else None."""
        progress, self.progress = self.progress, None
        return progress

    def describe_end(self):
        """Words what the finished training gave and what comes next."""
        given = f"Weights: {self.experiment.weights('last')}."
        best_by = self.configuration.training_settings.best_by
        best = best_epoch(self.history, best_by)
        if best:
            what = "Lowest validation loss" if best_by == "val_loss" else f"Best {best_by}"
            given = (
                f"{what} {best[best_by]:.4f} in epoch {best['epoch']}: "
                f"{self.experiment.weights('best')}."
            )
        if has_stopped_early(self.history, self.configuration.training_settings):
            given = f"early_stopping ended it after epoch {len(self.history)}. {given}"
        folder = shlex.quote(str(self.experiment.folder))
        return f"Trained. {given} Next: python run_testing.py {folder}"

    def _remove_earlier(self):
        """Removes an earlier training of this name, and the results of its tests."""
        if self.experiment.weights("last").exists():  # else they are those of retina-unet's weights
            with self._untested():
                for part in ("", "validation", "training"):
                    Results(self.experiment.results / part, self.experiment.name).remove()
        self.experiment.remove_training()

    def _untested(self):
        """Keeps tests out of the earlier training's results, which go with it."""
        instead = "choose another [experiment name] name"
        return one_at_a_time(self.experiment.results, "testing", instead)

    def _parts(self):
        """Lists what is left to fit: (first epoch, end, batches done): a begun epoch by itself."""
        done = len(self.history)
        if not self.progress:
            return [(done, self.num_epochs, 0)]
        parts = [(done, done + 1, self.progress["batches"]), (done + 1, self.num_epochs, 0)]
        return [part for part in parts if part[0] < part[1]]

    def _restore(self, model):
        self.begun.require_optimizer()
        self.begun.load_into(model)
        states = self.begun.record.get("dropout_states", [])
        for variable, state in zip(dropout_states(model), states):
            variable.assign(state)
        swap_averages(model)  # the file holds the averages as the weights

    def _record(self):
        record = {
            "settings": settings_record(self.configuration),
            "images": self.image_ids,
            "scaling": self.scaling,
            "looks": self.looks,
        }
        if self.data is not None:
            record["data"] = self.data
        if self.begun:
            record["settings"]["training_settings"]["initial_weights"] = self.begun.initial_weights
            record["ancestors"] = self.begun.ancestors
        elif self.initial:
            name = self.configuration.training_settings.initial_weights
            record["ancestors"] = self.initial.as_ancestors(name)
        return record

    def _reporters(self, num_batches):
        has_bar = sys.stdout.isatty()  # a log file gets lines
        settings = self.configuration.training_settings
        reporters = [
            ProgressLines(self.num_epochs, num_batches, has_bar, settings.best_by, self.history)
        ]
        if settings.tensorboard and self.experiment.is_first_host:
            folder = self.experiment.file("tensorboard")
            reporters.append(keras.callbacks.TensorBoard(folder, write_graph=False))
        return reporters


def find_initial_weights(experiment, configuration):
    """Finds the weights of another training from which a new one shall start.

    They must be loaded before the network is compiled: its optimiser starts anew.

    Args:
        experiment: lib.experiment.Experiment that is to be trained.
        configuration: lib.configuration.Configuration.
    Returns:
        lib.weights.TrainedWeights; None where the training starts from random weights.
    Raises:
        UserError: if there is no such file, it is not whole, of another network, or one that the
            new training would replace.
    """
    if configuration.training_settings.initial_weights is None:
        return None
    key = ("training settings", "initial_weights")
    path = locate(configuration.training_settings.initial_weights)
    if not path.is_file():
        expected = f"a weights file of an earlier training, or none (looked for {path})"
        raise UserError(configuration.problem(*key, expected))
    own = (experiment.weights(kind) for kind in ("best", "last"))
    if any(weights.exists() and path.samefile(weights) for weights in own):
        advice = "Choose another [experiment name] name: this training would replace the file."
        raise UserError(configuration.problem(*key, "of another experiment", advice))
    weights = read_weights(path)
    weights.require_settings(configuration, NETWORK)
    print(f"Starting from the weights {path}.")
    return weights


def find_begun(experiment, configuration):
    """Finds the training of this experiment that was interrupted.

    Args:
        experiment: lib.experiment.Experiment.
        configuration: lib.configuration.Configuration; its training must be the interrupted one.
    Returns:
        lib.weights.TrainedWeights; None where nothing was begun.
    Raises:
        UserError: if the training is complete, was begun with other settings or under another name.
    """
    last, best = experiment.weights("last"), experiment.weights("best")
    if not last.exists():
        if best.exists():
            if _was_killed_in_epoch_1(best):
                print(f"The first epoch left no {last.name}: {experiment.name} starts anew.")
                return None
            raise UserError(
                f"{best} exists, but no {last.name} to resume from. Choose another "
                "[experiment name] name, or start anew with --overwrite."
            )
        files = experiment.folder.glob("[!.]*weights.h5")
        others = sorted(path.name for path in files if path != best)
        _require_not_renamed(experiment, others, configuration)
        if others:
            print(
                f"{experiment.folder} holds weights that are not of this training "
                f"({', '.join(others)}). They stay; it starts anew, and testing will take the new "
                "ones once there are any."
            )
        return None
    begun = _read_own(last)
    if "history" not in begun.record:
        raise UserError(
            f"{last} holds weights, but nothing to resume from. Choose another [experiment name] "
            "name, or start anew with --overwrite."
        )
    begun.require_same_training(configuration)
    _require_incomplete(begun, experiment, configuration)
    initial = configuration.training_settings.initial_weights
    if initial not in (None, begun.initial_weights):
        print(
            f"NOTE: [training settings] initial_weights = {initial} is not used: this training "
            f"goes on, which began from {begun.initial_weights or 'none'}. To begin from it, "
            "choose another [experiment name] name, or start anew with --overwrite."
        )
    return begun


def _require_not_renamed(experiment, names, configuration):
    """Refuses to start anew where the same training was begun, and the folder renamed since."""
    initial = configuration.training_settings.initial_weights
    for name in names:
        path = experiment.folder / name
        if not name.endswith("_last.weights.h5") or Path(initial or "").name == name:
            continue
        try:
            begun = read_weights(path)
            if "history" not in begun.record:
                continue
            begun.require_same_training(configuration)
        except UserError:
            continue
        raise UserError(
            f"{path} holds this training under another name. To resume, rename the folder as it "
            f"was, or what lies in it: {name} becomes {experiment.weights('last').name}, and the "
            "best weights alike. Or start anew with --overwrite."
        )


def _was_killed_in_epoch_1(best):
    """Tells whether a training was killed between its first best and its first last weights."""
    return _read_own(best).record.get("epoch") == 1


def _read_own(path):
    """Reads weights of this training; where they cannot be read, it can also start anew."""
    try:
        return read_weights(path)
    except UserError as error:
        if "--overwrite" in str(error):
            raise
        raise UserError(f"{error} Or start anew with --overwrite.") from error


def _require_incomplete(begun, experiment, configuration):
    """Refuses a training that is done; says where another one resumes."""
    settings, num_done = configuration.training_settings, len(begun.history)
    if is_complete(begun.history, settings):
        asked, key = f"{settings.N_epochs} are asked for", "N_epochs"
        if num_done < settings.N_epochs:
            asked, key = f"early_stopping = {settings.early_stopping} ended it", "early_stopping"
        more = f"To resume, raise [training settings] {key}. "
        raise UserError(
            f"The experiment {experiment.name} is complete: {num_done} epochs are in {begun.path}, "
            f"{asked}. {more if can_resume(configuration, num_done) else ''}"
            "To start anew, choose another [experiment name] name or add --overwrite."
        )
    within = f", batch {begun.progress['batches']:,}" if begun.progress else ""
    print(
        f"Resuming after epoch {num_done} of {settings.N_epochs}{within} from {begun.path}.",
        flush=True,
    )


def require_packages(settings):
    """Raises a UserError where the training settings ask for a package that is not installed."""
    if settings.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "[training settings] tensorboard = True needs the package tensorboard: "
            "pip install tensorboard, or set it to False."
        )
    require_training_backend()


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
