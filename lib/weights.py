"""Weights files: the weights of a network, and the record beside them of what they were trained on.

A weights file is Keras's `.weights.h5` with one more data set, a JSON text that tells the settings,
the images, the history and, in the middle of an epoch, how far that has come. It is read once.
"""

import contextlib
import io
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import h5py

from lib.configuration import FREE, NETWORK, SPLIT
from lib.devices import start_computing, this_host_alone
from lib.errors import UserError, raise_if_any
from lib.files import atomic_write, check_dataset
from lib.history import is_complete
from lib.legacy_weights import explain_not_weights, is_legacy, load_legacy_weights

RECORD = "training_state"
# What h5py and Keras raise when a file is damaged inside.
DAMAGED = (
    *(OSError, RuntimeError, KeyError, ValueError, TypeError),
    *(AttributeError, IndexError, OverflowError, MemoryError, SystemError),
)
# The rule of scaling of weights from before it was recorded.
FIRST_SCALING = "minmax_stack"
_FOREIGN = (
    "weights that Keras 3 wrote for another project: they do not tell whether it joins "
    "[up, skip], as here, or [skip, up]. If it is the former, set [testing settings] skip_order = "
    "up_first; else save its network there as HDF5 (model.save('network.h5')) and name that file"
)


@dataclass(frozen=True)
class TrainedWeights:
    """A weights file that was read, and what it tells.

    Args:
        path: the file.
        content: its bytes.
        record: dictionary: settings, images, scaling, history, progress, dropout_states and
            ancestors as far as they are there; empty for weights of retina-unet.
    """

    path: Path
    content: bytes
    record: dict

    @property
    def history(self):
        """The finished epochs, a dictionary each."""
        return self.record.get("history", [])

    @property
    def progress(self):
        """How far the epoch after the history has come: batches, seconds, metrics; or None."""
        return self.record.get("progress")

    @property
    def scaling(self):
        """The rule by which images are scaled to [0, 1]: see lib.pre_processing.scale_to_unit."""
        return self.record.get("scaling", FIRST_SCALING)

    @property
    def looks(self):
        """How the images of the training look: lib.pre_processing.range_of_looks; or None."""
        return self.record.get("looks")

    @cached_property
    def is_legacy(self):
        """Whether Keras 1 or Keras 2 wrote the file."""
        with self._open() as file:
            return is_legacy(file)

    @cached_property
    def parameters(self):
        """Names and sizes of the floating-point parameters of the network."""
        sizes = {}

        def add(name, item):
            is_layer = not name.startswith("optimizer") and "seed_generator" not in name
            if isinstance(item, h5py.Dataset) and is_layer and name != RECORD:
                sizes[name] = item.size

        with self._open() as file:
            file.visititems(add)
        return sizes

    def _open(self):
        return h5py.File(io.BytesIO(self.content), "r")

    def recorded(self, key):
        """Gives what a setting was in the training: under its name, an earlier one, or unchanged.

        Args:
            key: lib.configuration.Key.
        """
        section = self.record["settings"].get(key.attribute, {})
        names = [name for name in (key.name, *key.old_names) if name in section]
        # What the project did not have yet when the training began was as its default.
        return section[names[0]] if names else key.default

    def require_settings(self, configuration, role):
        """Refuses weights that were trained with other values of the settings of a role.

        Args:
            configuration: lib.configuration.Configuration.
            role: NETWORK or SPLIT of lib.configuration. Weights that tell no settings
                (retina-unet's) are taken as they are.
        Raises:
            UserError: that names every setting which differs.
        """
        if "settings" not in self.record:
            return
        problems = []
        for key in (key for key in configuration.task.keys if key.role == role):
            then = self.recorded(key)
            if then != configuration.value(key):
                expected = f"{then}, with which {self.path} was trained"
                advice = f"Set it to {then}, or choose other weights."
                problems.append(configuration.problem(key.section, key.name, expected, advice))
        raise_if_any(problems)

    def require_same_training(self, configuration):
        """Refuses to resume a training with settings that must not change half-way.

        Raises:
            UserError: that names all of them.
        """
        changed = [
            key
            for key in training_keys(configuration)
            if self.recorded(key) != configuration.value(key)
        ]
        if changed:
            words = "; ".join(
                f"{key.section} {key.name}: {self.recorded(key)} -> {configuration.value(key)}"
                for key in changed
            )
            names = [key.name for key in changed]
            reason = " With learning_rate_decay = cosine the learning rate reaches 0 at N_epochs."
            raise UserError(
                f"{self.path} was trained with other settings ({words})."
                f"{reason if 'N_epochs' in names else ''} Set them back to resume, choose another "
                "[experiment name] name, or start anew with --overwrite."
            )

    def require_images(self, image_ids):
        """Refuses weights that were trained, or validated, on other images than the data hold now.

        Args:
            image_ids: {"training": ids, "validation": ids}, or one of the two. Weights that do not
                tell their images are taken as they are.
        Raises:
            UserError: if the ids differ.
        """
        trained_with = self.record.get("images") or {}
        for use, ids in image_ids.items():
            then = trained_with.get(use, ids)
            if then != list(ids):
                raise UserError(
                    f"{self.path} was trained with other images. For {use} then: "
                    f"{', '.join(then) or 'none'}. Now: {', '.join(ids) or 'none'}. Prepare the "
                    "same data again, correct [data paths], or train anew (another [experiment "
                    "name] name, or --overwrite)."
                )

    def held_out(self, ids, split):
        """Lists the images that these weights never trained on, of all that have labels now.

        Args:
            ids: of all images that have labels.
            split: ids of those that validation_split holds out, for weights that do not tell.
        Returns:
            list of ids: those that validated, and any that came since.
        Raises:
            UserError: if one that validated is missing.
        """
        images = self.record.get("images")
        if not images:
            return list(split)
        if not set(images.get("validation") or ()) <= set(ids):
            self.require_images({"validation": split})
        return [name for name in ids if name not in images["training"]]

    @property
    def data(self):
        """Gives what a network knows of its data, as require_data takes it."""
        return self.record.get("data", {})

    def require_data(self, data):
        """Refuses weights that were trained on data of another kind than the data are now.

        Args:
            data: dictionary that JSON can hold, such as names of classes and number of channels;
                what a record lacks is None. A record of nothing fits all.
        Raises:
            UserError: that names what differs.
        """
        changed = [
            f"{name.replace('_', ' ')}: {_listed(self.data.get(name))} -> {_listed(value)}"
            for name, value in data.items()
            if self.data and self.data.get(name) != value
        ]
        if changed:
            raise UserError(
                f"{self.path} was trained on data of another kind ({'; '.join(changed)}). Prepare "
                "the data as then, correct [data paths], or train anew (another [experiment name] "
                "name, or --overwrite)."
            )

    def require_optimizer(self):
        """Refuses to resume without the optimiser's variables; Keras would start it anew silently.

        Raises:
            UserError: if the file holds none.
        """
        with self._open() as file:
            if "optimizer" not in file:
                raise UserError(
                    f"{self.path} holds weights without the optimiser, so no epochs can follow. "
                    "Name the file in [training settings] initial_weights of another experiment, "
                    "or start anew with --overwrite."
                )

    def describe_origin(self, ids):
        """Words what readers of scores must know: which of the images trained these weights.

        Args:
            ids: of the images that are tested.
        Returns:
            a sentence; "" where none of them did.
        """
        if "settings" not in self.record:
            return f"{self.path} does not tell on which images it was trained: maybe on these."
        sources = [("these weights were", self.record.get("images"))]
        for ancestor in self.ancestors:
            words = f"the weights that they started from ({ancestor['weights']}) were"
            sources.append((words, ancestor.get("images")))
        return " ".join(_overlap(words, images, ids) for words, images in sources).strip()

    def describe_training(self):
        """Words how far their training had come when these weights were saved."""
        total = self._training_settings.get("N_epochs")
        of_all = f" of {total}" if total else ""
        if self.is_best:
            return f"epoch {self.record['epoch']}{of_all}, the best one"
        if not self.history and not self.progress:
            return "not recorded"
        within = f" and {self.progress['batches']} batches" if self.progress else ""
        return f"{len(self.history)}{of_all} epochs{within}"

    @property
    def is_best(self):
        """Tells whether they are the best of a training, saved in the middle of it."""
        return "epoch" in self.record

    @property
    def is_unfinished(self):
        """Tells whether their training goes on, as far as they tell: the best ones do not."""
        if self.is_best:
            return False
        settings = SimpleNamespace(
            **{"N_epochs": 0, "early_stopping": 0, "best_by": "val_loss", **self._training_settings}
        )
        return bool(self.progress) or bool(self.history and not is_complete(self.history, settings))

    @property
    def _training_settings(self):
        return self.record.get("settings", {}).get("training_settings", {})

    def as_ancestors(self, name):
        """Gives the record's ancestors and these weights, for the record of what starts here.

        Args:
            name: the file as the configuration has it; it may be relative.
        """
        return [*self.ancestors, {"weights": name, "images": self.record.get("images")}]

    @property
    def initial_weights(self):
        """The file that their training began from, as its configuration had it; or None."""
        return self._training_settings.get("initial_weights")

    @property
    def ancestors(self):
        """Lists the weights that these started from, one after the other."""
        initial = self.initial_weights
        unknown = [{"weights": initial, "images": None}] if initial else []
        return self.record.get("ancestors", unknown)

    def load_into(self, model, skip_order="auto"):
        """Puts the weights into a network.

        Args:
            model: keras.Model of the same network, in either data format. Once it is compiled, the
                optimiser's variables are loaded too where the file has them.
            skip_order: "auto", "up_first" or "skip_first": for weights of retina-unet's later
                editions that do not tell it themselves.
        Raises:
            UserError: if the file holds another network.
        """
        advice = (
            "Correct the network in [training settings], or choose other weights ([experiment "
            "name] name; initial_weights)."
        )
        try:
            if self.is_legacy:
                with self._open() as file:
                    print(load_legacy_weights(model, file, self._architecture(), skip_order))
                return
            if not self.record and skip_order != "up_first":
                raise ValueError(_FOREIGN)
            found = sum(self.parameters.values())
            if found != model.count_params():
                raise ValueError(f"it holds {found:,} parameters")
            if sorted(self.parameters.values()) != sorted(
                math.prod(w.shape) for w in model.weights
            ):
                raise ValueError("it holds as many parameters in other layers")
            model.load_weights(_Memory(self.content))
        except (ValueError, KeyError, RecursionError) as error:
            raise UserError(
                f"{self.path} must hold the weights of the network {model.name} with "
                f"{model.count_params():,} parameters. Received: {error}. {advice}"
            ) from error
        except DAMAGED as error:
            raise _not_whole(self.path, error) from error

    def _architecture(self):
        """Reads the network's JSON beside the weights, as retina-unet writes it; None without."""
        stem = re.sub(r"_(best|last)[._]weights\.h5$", "", self.path.name)
        file = self.path.with_name(f"{stem}_architecture.json")
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def read_weights(path):
    """Reads a weights file whole.

    Args:
        path: existing file, of this project or of retina-unet.
    Returns:
        TrainedWeights.
    Raises:
        UserError: if it is no weights file (it says what it is), or not whole.
    """
    path = Path(path)
    try:
        explanation = explain_not_weights(path)
        content = b"" if explanation else path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be opened: {error.strerror or error}. Ask its owner for the right to "
            "read it (chmod a+r), or choose other weights."
        ) from error
    if explanation:
        raise UserError(explanation)
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            _require_no_links(path, file)
            record = json.loads(file[RECORD].asstr()[()]) if RECORD in file else {}
            _require_record(record)
    except DAMAGED as error:
        raise _not_whole(path, error) from error
    return TrainedWeights(path, content, record)


def open_weights(configuration, experiment):
    """Starts the device and reads the weights that a test is about.

    Args:
        configuration: lib.configuration.Configuration.
        experiment: lib.experiment.Experiment.
    Returns:
        TrainedWeights.
    Raises:
        UserError: if there are none, or they were trained for another network or, for scores of
            validation images, may have been trained on these.
    """
    testing, training = configuration.testing_settings, configuration.training_settings
    weights = read_weights(experiment.find_weights(testing.best_last))
    weights.require_settings(configuration, NETWORK)
    if getattr(testing, "images", "test") == "validation":
        weights.require_settings(configuration, SPLIT)
    start_computing(training.seed, training.mixed_precision)
    return weights


def save_weights(model, path, record=None, with_optimizer=False):
    """Saves the weights of a network, whole or not at all.

    Args:
        model: keras.Model.
        path: the file; must end in .weights.h5.
        record: dictionary stored beside the weights.
        with_optimizer: whether a training shall resume from the file; with Adam it is then three
            times as large.
    """
    content = _Memory()
    with this_host_alone():
        model.save_weights(content)
        _help_keras_remember()
    with h5py.File(content, "a") as file:
        file[RECORD] = _as_json(record or {})
        if not with_optimizer and "optimizer" in file:
            del file["optimizer"]
    if not with_optimizer:
        content = _repacked(content)
    with atomic_write(path) as beside:
        beside.write_bytes(content.getbuffer())


def _as_json(record):
    """Writes a record as JSON; its history row by row, as at once it takes three times the room."""
    others = {name: value for name, value in record.items() if name != "history"}
    if others == record:
        return json.dumps(record)
    rows = ", ".join(map(json.dumps, record["history"]))
    return f"{json.dumps({**others, 'history': []})[:-2]}{rows}]}}"


class _Memory(io.BytesIO):
    """A file in memory that Keras takes for weights: HDF5 itself does not withstand a full disk."""

    def __str__(self):
        return "memory.weights.h5"


def _help_keras_remember():
    """Hands Keras what it looked up for the first saving of weights.

    Up to 3.15 it stores that under one name and looks for it under another, so that every saving
    makes layers to look at, and each loses some of the memory: 80 KB a saving.
    """
    with contextlib.suppress(ImportError):
        from keras.src.backend.common import global_state

        for kind in (
            "Operation",
            "Layer",
            "Functional",
            "Sequential",
            "Metric",
            "Optimizer",
            "Loss",
        ):
            found = global_state.get_global_attribute(f"saving_attr_skipset_{kind}")
            if found is not None:
                global_state.set_global_attribute(f"saving_attr_skiplist_{kind}", found)


def settings_record(configuration):
    """Gives the settings that make a training what it is, as the record keeps them."""
    settings = {}
    for key in training_keys(configuration):
        settings.setdefault(key.attribute, {})[key.name] = configuration.value(key)
    training = settings["training_settings"]
    for name in ("N_epochs", "early_stopping", "initial_weights"):
        training[name] = getattr(configuration.training_settings, name)
    return settings


def training_keys(configuration):
    """Lists the keys that must not change when a training resumes."""
    decays = configuration.training_settings.learning_rate_decay == "cosine"
    return [
        key
        for key in configuration.task.keys
        # The number of epochs shapes a decaying learning rate from its first step.
        if key.role != FREE or (key.name == "N_epochs" and decays)
    ]


def can_resume(configuration, num_done):
    """Tells whether epochs may follow: not once a decaying learning rate has fallen to 0."""
    settings = configuration.training_settings
    return settings.learning_rate_decay != "cosine" or num_done < settings.N_epochs


def dropout_states(model):
    """Lists the variables from which dropout draws; Keras does not save them with the weights."""
    return [v for v in model.variables if v.name == "seed_generator_state"]


def _listed(value):
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _overlap(words, images, ids):
    if images is None:
        return f"Note: {words} trained on images that are not recorded: maybe on these."
    shared = [name for name in ids if name in images["training"]]
    if not shared:
        return ""
    return (
        f"Note: {words} trained on images with the ids {', '.join(shared)}. Where they are the "
        "same images, these scores are too good."
    )


def _require_no_links(path, file):
    """Refuses weights that lie elsewhere, or that lie about their size: Keras would follow them."""
    links = []
    file.visititems_links(lambda *name_and_link: links.append(name_and_link))
    try:
        for name, link in links:
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"leads elsewhere by a link: {name}")
            if isinstance(item := file[name], h5py.Dataset) and item.size is not None:
                check_dataset(item, name)
    except ValueError as error:
        raise UserError(
            f"{path} is not as Keras writes weights: it {error}. It is not read; choose other "
            "weights, or train anew."
        ) from error


def _require_record(record):
    """Raises a ValueError for a record of other types than save_weights is given."""
    kinds = {"data": dict, "settings": dict, "scaling": str}
    kinds |= {"history": list, "ancestors": list, "dropout_states": list}
    kinds |= dict.fromkeys(("images", "looks", "progress"), (dict, type(None)))
    is_right = isinstance(record, dict) and all(
        isinstance(record[name], kind) for name, kind in kinds.items() if name in record
    )
    if is_right:
        rows = record.get("history") or ()
        is_right = all(
            isinstance(row, dict)
            and {"epoch", "loss"} <= row.keys()
            and all(isinstance(value, int | float) for value in row.values())
            for row in rows
        )
        is_right &= all(isinstance(part, dict) for part in record.get("settings", {}).values())
        ancestors = record.get("ancestors", ())
        is_right &= all(isinstance(one, dict) and "weights" in one for one in ancestors)
    is_right = is_right and all(
        images is None
        or isinstance(images, dict)
        and "training" in images
        and all(
            isinstance(of, list) and all(isinstance(i, str) for i in of) for of in images.values()
        )
        for images in (one.get("images") for one in (record, *ancestors))
    )
    if not is_right:
        raise ValueError(f"its {RECORD} is not as a training writes it")


def _not_whole(path, error):
    return UserError(
        f"{path} is not a whole weights file; it may be cut off or damaged: {error}. Copy it "
        "again, or train it anew (--overwrite)."
    )


def _repacked(content):
    """Copies an HDF5 file in memory: what was deleted in it gives its space back."""
    packed = io.BytesIO()
    with h5py.File(content, "r") as source, h5py.File(packed, "w") as target:
        target.attrs.update(source.attrs)
        for name in source:
            source.copy(name, target)
    return packed
