"""What reads the files that are tried, as the scripts do; and what counts as a finding."""

import contextlib
import csv
import functools
import io
import resource
import shutil
import traceback
from pathlib import Path

import h5py
import numpy as np
from hypothesis import strategies as st

from lib import image_files, label_images, tiff_files
from lib.configuration import read_configuration
from lib.errors import UserError
from lib.files import load_hdf5, load_hdf5_extra
from lib.image_sets import ImageSet
from src.tasks import TASKS
from tests.fuzz import inputs
from tests.small_data import keras2_architecture, unet_shapes

MOST_MEMORY = 4 * 2**30
CASE, OTHER = "case", "secret.hdf5"


# ---------------------------------------------------------------- one case


class Place:
    """A folder in which cases are tried one after the other.

    Args:
        folder: made anew; holds a file of somebody else, that no case may read or change.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with h5py.File(self.other, "w") as file:
            file["secret"] = [1, 2, 3]
        self.before = _contents(self.folder)
        self.memory = _memory()

    @property
    def other(self):
        return self.folder / OTHER

    @property
    def inputs(self):
        return self.folder / CASE / "in"

    def attempt(self, read, files):
        """Lets a function read files.

        Args:
            read: function of the folder of the files and of one to write to.
            files: {name: content}.
        Returns:
            None, or words that tell the finding.
        """
        shutil.rmtree(self.folder / CASE, ignore_errors=True)
        output = self.folder / CASE / "out"
        output.mkdir(parents=True)
        for name, content in files.items():
            path = self.inputs / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        finding = None
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                read(self.inputs, output)
        except UserError as error:
            finding = _unworded(error)
        except ValueError as error:  # readers of images word all of theirs; scripts print them
            is_worded = isinstance(error, tiff_files.ImageError) or str(self.inputs) in str(error)
            finding = None if is_worded else _traceback(error)
        except Exception as error:
            finding = _traceback(error)
        return finding or self._trace(files)

    def _trace(self, files):
        """Tells what a case left behind that it must not."""
        if _contents(self.inputs) != {name: files[name] for name in files}:
            return "an input was changed"
        outside = {k: v for k, v in _contents(self.folder).items() if not k.startswith(f"{CASE}/")}
        if outside != self.before:
            return "a file was written outside of the output"
        if _memory() - self.memory > MOST_MEMORY:
            self.memory = _memory()
            return "memory over 4 GB"
        return None


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def _memory():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _unworded(error):
    """Tells of a message that says nothing."""
    if not error.problems or not all(str(problem).strip() for problem in error.problems):
        return "a message without words"
    return None


def _traceback(error):
    """Words an exception by its kind and the place of the project where it came up."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        f for f in frames if "/lib/" in f.filename or "/src/" in f.filename or "prepare" in f.name
    ]
    ours = [f for f in ours if "site-packages" not in f.filename] or frames
    return f"{type(error).__name__} in {Path(ours[-1].filename).name}, {ours[-1].name}: {error}"[
        :300
    ]


# ---------------------------------------------------------------- targets


def _configuration(folder, output):
    read_configuration(folder / "configuration.txt", TASKS)


def _pages(path, channels):
    """Reads one page after the other, as a prediction does, and keeps none."""
    for _ in image_files.iterate_images(path, channels):
        pass


def _ways_to_read():
    return {
        "photograph": image_files.read_photograph,
        "mask": image_files.read_binary_mask,
        "channels": image_files.read_channels,
        "stack": image_files.read_stack,
        "label stack": functools.partial(image_files.read_stack, is_label=True),
        "label": lambda path: label_images.content_of(path, label_images.read_label(path)),
        "instances": label_images.read_instances,
        "grey": functools.partial(_pages, channels=1),
        "colours": functools.partial(_pages, channels=3),
    }


def _image(way, folder, output):
    (path,) = folder.iterdir()
    _ways_to_read()[way](path)


def _hdf5(folder, output):
    path = folder / "a.hdf5"
    for read in (load_hdf5, lambda path: load_hdf5_extra(path, "ids"), _read_set):
        with contextlib.suppress(UserError):
            read(path)


def _read_set(path):
    with ImageSet(path) as images:
        for arrays in (images.images, images.labels, images.instances):
            for array in arrays or ():
                array[...]


def _folder(folder, output):
    """Prepares a folder of images, labels and classes."""
    import prepare_datasets_folder

    survey = prepare_datasets_folder.check(folder, has_instances=(folder / "instances").exists())
    prepare_datasets_folder.write(survey, output)


@functools.cache
def _network():
    from lib.unet import get_unet

    return get_unet(1, 16, 16)


def _weights(folder, output):
    from lib.history import best_epoch, is_complete, plateau_rate
    from lib.report import loss_curve
    from lib.weights import read_weights

    text = inputs.templates()[0]
    (output / "configuration.txt").write_text(text, encoding="utf-8")
    configuration = read_configuration(output / "configuration.txt", TASKS)
    weights = read_weights(next(folder.glob("*.h5")))
    best_epoch(weights.history, "val_loss")
    is_complete(weights.history, configuration.training_settings)
    plateau_rate(weights.history, 0.1, best_by="val_loss", factor=0.5, patience=2)
    loss_curve(weights.history)
    weights.describe_origin(["a"])
    weights.as_ancestors("b")
    for check in (
        lambda: weights.require_settings(configuration, "network"),
        lambda: (
            weights.require_same_training(configuration) if weights.record.get("settings") else 0
        ),
        lambda: weights.require_images({"training": ["a"]}),
        lambda: weights.require_data({"class_names": ["a"]}),
        weights.require_optimizer,
    ):
        with contextlib.suppress(UserError):
            check()
    weights.load_into(_network())


def _beside(folder, output):
    """Goes on with results that lie in a folder, as a test and a prediction do."""
    from lib.predictions import ImagePredictor, PredictionFolder
    from lib.results import Results

    for name in ("measurements.csv", ".prediction.json", ".testing_files.txt"):
        if (folder / name).exists():
            shutil.copy(folder / name, output / name)
    for name in ("a_overlay.png", "a_probability.png", "predictions.hdf5"):
        shutil.copy(folder / "a.png", output / name)
    results = Results(output, "small")
    with contextlib.suppress(UserError):
        results.require_room(["a"])
    results.remove()
    predictor = ImagePredictor(None, 3, "cell")
    for overwrite in (False, True):
        with contextlib.suppress(UserError):
            predictions = PredictionFolder(output, {"weights": "x"}, overwrite)
            predictions.done(folder / "a.png")
            for row in predictions.finish([folder / "a.png"]):
                with contextlib.suppress(OSError):  # its pictures may be gone
                    predictions.report_image(row, predictor)


# ---------------------------------------------------------------- what is drawn for them


@st.composite
def _configurations(draw, place):
    text = draw(st.sampled_from(inputs.templates()))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return _configuration, {"configuration.txt": draw(inputs.damaged_text("\n".join(lines)))}


@st.composite
def _pictures(draw, place, seeds):
    name, content = draw(st.sampled_from(seeds()))
    if draw(st.integers(0, 20)) == 0:  # they take long
        name, content = draw(st.sampled_from(inputs.bombs()))
    if draw(st.integers(0, 3)) == 0 and len(content) < 2000:
        content = content[: draw(st.integers(0, len(content)))]
    else:
        content = draw(inputs.damaged(content, [other for _, other in seeds()]))
    if name.endswith(".png") and draw(st.booleans()):
        content = inputs.with_checksums(content)
    way = draw(st.sampled_from(list(_ways_to_read())))
    return functools.partial(_image, way), {name: content}


@st.composite
def _hdf5_files(draw, place):
    content = draw(st.sampled_from(inputs.hdf5_files()))
    return _hdf5, {"a.hdf5": draw(inputs.malicious_hdf5(content, place.other))}


@st.composite
def _folders(draw, place):
    pictures = inputs.images() + inputs.tiffs()
    files = {"classes.txt": draw(inputs.damaged_text("a #000000\nb #ff0000\nc #00ff00"))}
    if draw(st.booleans()):
        files = {}
    elif draw(st.integers(0, 4)) == 0:
        files = {"instances": b""}
    for number in range(draw(st.integers(1, 2))):
        for kind in ("images", "labels"):
            name, content = draw(st.sampled_from(pictures))
            content = draw(inputs.damaged(content)) if draw(st.booleans()) else content
            stem = draw(st.sampled_from([str(number), f"{number}", "<img src=x>", "a b"]))
            files[f"training/{kind}/{stem}.{name.rpartition('.')[2]}"] = content
    return _folder, files


@functools.cache
def _seeds_of_weights(folder):
    from lib.weights import save_weights
    from tests.small_data import write_keras1_weights, write_keras2_weights

    path = Path(folder) / "a.weights.h5"
    save_weights(_network(), path, inputs.RECORD)
    write_keras1_weights(Path(folder) / "b.h5", unet_shapes())
    arrays = [(np.ones((*s[2:], s[1], s[0]), "f4"), np.ones(s[0], "f4")) for s in unet_shapes()]
    write_keras2_weights(Path(folder) / "c.h5", arrays)
    contents = [path.read_bytes(), *((Path(folder) / f"{n}.h5").read_bytes() for n in "bc")]
    for name in ("a.weights.h5", "b.h5", "c.h5"):
        (Path(folder) / name).unlink()
    return contents


@st.composite
def _weights_files(draw, place):
    contents = _seeds_of_weights(str(place.folder))
    content = draw(st.sampled_from(contents))
    if content is contents[0] and draw(st.booleans()):
        file = io.BytesIO(content)
        with h5py.File(file, "a") as opened:
            del opened["training_state"]
            opened["training_state"] = draw(inputs.damaged_json(inputs.RECORD)).replace("\0", "")
        content = file.getvalue()
    else:
        content = draw(inputs.malicious_hdf5(content, place.other))
    files = {"small_best.weights.h5": content}
    if draw(st.booleans()):
        text = draw(inputs.damaged_json(keras2_architecture()))
        files["small_architecture.json"] = text.encode("utf-8", "surrogatepass")
    return _weights, files


@st.composite
def _results_beside(draw, place):
    row = {"id": "a", "file": str(place.inputs / "a.png"), "page": "", "width [pixels]": 14}
    row |= {"height [pixels]": 12, "area": 3.5, "notes": ""}
    table = io.StringIO()
    writer = csv.DictWriter(table, row, lineterminator="\n")
    writer.writeheader()
    for identity in draw(st.lists(st.sampled_from(["a", *inputs.WORDS]), max_size=3)):
        writer.writerow({**row, "id": identity})
    names = "predictions.hdf5\nsegmentations/a.png\n../../secret.hdf5\n../secret.hdf5\nROC.png\n"
    words = ["../../../secret.hdf5", str(place.other)]
    _, png = inputs.images()[0]
    return _beside, {
        "measurements.csv": draw(inputs.damaged_text(table.getvalue(), words)),
        ".prediction.json": draw(inputs.damaged_json({"weights": "x"})).encode(errors="replace"),
        ".testing_files.txt": draw(inputs.damaged_text(names, words)),
        "a.png": png,
    }


# Each draws (function that reads, {name of file: content}) for a Place.
TARGETS = {
    "configurations": _configurations,
    "images": functools.partial(_pictures, seeds=inputs.images),
    "TIFF": functools.partial(_pictures, seeds=inputs.tiffs),
    "HDF5": _hdf5_files,
    "folders": _folders,
    "weights": _weights_files,
    "beside": _results_beside,
}
