"""Small pictures in DRIVE's layout, configurations for them, and ways to look at what came out."""

import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from lib.errors import UserError
from src.tasks import TASKS

HEIGHT, WIDTH = 64, 80
IDS = {"training": ("21", "22", "23"), "test": ("01", "02")}
DATA_FOLDER = "DRIVE_datasets_training_testing"

# The one configuration of each task that tests vary: what has no default, what makes it quick, and
# what its tests take for granted.
CONFIGURATIONS = {
    "retina": f"""\
[data paths]
path_local = ./{DATA_FOLDER}/
[experiment name]
name = small
[data attributes]
patch_height = 16
patch_width = 16
[training settings]
N_subimgs = 60
N_epochs = 5
batch_size = 8
seed = 7
learning_rate = 0.1
[testing settings]
stride_height = 8
stride_width = 8
""",
    "membrane": """\
[data paths]
path_local = ./ISBI_datasets_training_testing/
[experiment name]
name = small
task = membrane
[data attributes]
tile_size = 44
[training settings]
N_subimgs = 6
validation_split = 1
N_epochs = 2
batch_size = 2
learning_rate = 0.01
base_filters = 2
depth = 2
flip = True
[testing settings]
best_last = best
tile_size = 44
average_flips = False
N_group_visual = 1
""",
}
CONFIGURATIONS["segmentation"] = """\
[data paths]
path_local = ./mine_datasets/
[experiment name]
name = small
task = segmentation
[data attributes]
tile_size = 32
[training settings]
N_subimgs = 8
N_epochs = 1
optimizer = sgd
learning_rate = 0.01
learning_rate_decay = none
mixed_precision = False
flip = False
brightness = 0
contrast = 0
[testing settings]
N_group_visual = 1
"""
CONFIGURATIONS["cells"] = (
    CONFIGURATIONS["membrane"].replace("ISBI_", "CTC_").replace("task = membrane", "task = cells")
)


# ---------------------------------------------------------------- pictures


def draw_fundus(rng, num_vessels=6):
    """Draws dark curved lines on a bright disc.

    Returns:
        photograph (HEIGHT, WIDTH, 3), vessels and FOV (HEIGHT, WIDTH), uint8; masks are 0 or 255.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    fov = (rows - HEIGHT / 2) ** 2 + (columns - WIDTH / 2) ** 2 < (HEIGHT / 2 - 2) ** 2
    vessels = np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(num_vessels):
        angle, offset, bend = rng.uniform(0, np.pi), rng.uniform(-20, 20), rng.uniform(-8, 8)
        along = (columns - WIDTH / 2) * np.cos(angle) + (rows - HEIGHT / 2) * np.sin(angle)
        across = (rows - HEIGHT / 2) * np.cos(angle) - (columns - WIDTH / 2) * np.sin(angle)
        vessels |= abs(across - offset - bend * np.sin(along / 12)) < 1.2
    vessels &= fov
    bright = 150 + 30 * np.cos(columns / 30) - 70.0 * vessels + rng.normal(0, 6, vessels.shape)
    photograph = np.stack([bright + 50, bright, bright / 2], axis=-1) * fov[..., np.newaxis]
    photograph = np.clip(photograph, 0, 255).astype(np.uint8)
    return photograph, vessels * np.uint8(255), fov * np.uint8(255)


def write_drive(folder, seed=0):
    """Writes 3 training and 2 test pictures as DRIVE is given out: TIFF and GIF, by these names."""
    rng = np.random.default_rng(seed)
    for subset, ids in IDS.items():
        for kind in ("images", "1st_manual", "mask"):
            (folder / subset / kind).mkdir(parents=True)
        for name in ids:
            photograph, vessels, fov = draw_fundus(rng)
            Image.fromarray(photograph).save(folder / subset / "images" / f"{name}_{subset}.tif")
            Image.fromarray(vessels).save(folder / subset / "1st_manual" / f"{name}_manual1.gif")
            Image.fromarray(fov).save(folder / subset / "mask" / f"{name}_{subset}_mask.gif")


# ---------------------------------------------------------------- configuration


def write_configuration(folder, file_name="configuration.txt", task="retina", **changes):
    """Writes a task's configuration with changed values; further keys are added to their section.

    Args:
        folder: where the file goes.
        file_name: its name.
        task: its name.
        changes: values by key; a key that two sections have is written section__key (nohup).
    """
    lines = CONFIGURATIONS[task].splitlines()
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        section = section or _section_of(name, TASKS[task].keys)
        start = lines.index(f"[{section.replace('_', ' ')}]") + 1
        end = next((i for i in range(start, len(lines)) if lines[i][:1] == "["), len(lines))
        old = [i for i in range(start, end) if lines[i].partition("=")[0].strip() == name]
        lines[slice(old[0], old[0] + 1) if old else slice(start, start)] = [f"{name} = {value}"]
    path = Path(folder) / file_name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _section_of(name, keys):
    """Finds the section of a key, under an earlier name too; unknown ones are of the training."""
    sections = (key.section for key in keys if name in (key.name, *key.old_names))
    return next(sections, "training settings")


# ---------------------------------------------------------------- weights of Keras 1 and Keras 2


def unet_shapes(filters=(32, 64, 128)):
    """Gives the kernel shapes (out, in, height, width) of get_unet, from the specification."""
    a, b, c = filters
    pairs = [(a, 1), (a, a), (b, a), (b, b), (c, b), (c, c)]
    pairs += [(b, c + b), (b, b), (a, b + a), (a, a)]
    return [(*pair, 3, 3) for pair in pairs] + [(2, a, 1, 1)]


def write_keras1_weights(path, shapes, seed=0, scale=1):
    """Writes a weights file as Keras 1 did: groups convolution2d_1 ... with _W and _b."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for number, shape in enumerate(shapes, start=1):
            name = f"convolution2d_{number}"
            fan_in = np.prod(shape[1:])
            kernel = rng.normal(0, scale * np.sqrt(2 / fan_in), shape)
            file[f"{name}/{name}_W"] = kernel.astype(np.float32)
            file[f"{name}/{name}_b"] = np.full(shape[0], 0.01, np.float32)
        for name in ("input_1", "dropout_1", "maxpooling2d_1", "activation_1"):
            file.create_group(name)


def write_keras2_weights(path, arrays, names=(), *, backend="tensorflow", architecture=None):
    """Writes a weights file as Keras 2 did: layer_names, weight_names, (height, width, in, out).

    Args:
        path: the file.
        arrays: (kernel, bias) of each convolution.
        names: of all layers in order; those with "conv" hold the arrays. Default: conv2d_1 ...
        backend: with "theano" the caller turns the kernels.
        architecture: dictionary; then the file holds the whole network, as model.save wrote it.
    """
    names = names or ["input_1", *(f"conv2d_{n}" for n, _ in enumerate(arrays, start=1))]
    arrays = iter(arrays)
    with h5py.File(path, "w") as file:
        group = file
        if architecture is not None:
            file.attrs["model_config"] = json.dumps(architecture).encode()
            group = file.create_group("model_weights")
        group.attrs.update(backend=backend.encode(), keras_version=b"2.2.4")
        group.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            parts = [f"{name}/kernel:0", f"{name}/bias:0"] if "conv" in name else []
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [part.encode() for part in parts]
            for part, array in zip(parts, next(arrays) if parts else ()):
                layer[part] = array


def keras2_architecture(skip_order="skip_first", resize_format="channels_first", **head):
    """Describes get_unet as Keras 2 wrote the edit of later years to <name>_architecture.json."""
    layers = []

    def add(kind, *sources, **config):
        stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower().replace("_layer", "")
        name = f"{stem}_{1 + sum(layer['class_name'] == kind for layer in layers)}"
        nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
        config = {"name": name, **config}
        layers.append({"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes})
        return name

    def convolution(x, **changes):
        settings = {"activation": "relu", "padding": "same", "strides": [1, 1]}
        return add("Conv2D", x, data_format="channels_first", **{**settings, **changes})

    def double_convolution(x):
        return convolution(add("Dropout", convolution(x), rate=0.2))

    def pool(x):
        return add("MaxPooling2D", x, pool_size=[2, 2], data_format=resize_format)

    def up_and_join(x, skip):
        up = add("UpSampling2D", x, size=[2, 2], data_format=resize_format)
        return add(
            "Concatenate", *((skip, up) if skip_order == "skip_first" else (up, skip)), axis=1
        )

    skip1 = double_convolution(add("InputLayer"))
    skip2 = double_convolution(pool(skip1))
    x = double_convolution(pool(skip2))
    x = double_convolution(up_and_join(x, skip2))
    x = convolution(double_convolution(up_and_join(x, skip1)), **head)
    x = add("Permute", add("Reshape", x, target_shape=[2, 64]), dims=[2, 1])
    add("Activation", x, activation="softmax")
    return {"class_name": "Model", "keras_version": "2.2.4", "config": {"layers": layers}}


# ---------------------------------------------------------------- looking


def hashes(folder):
    """Gives {path: hash} of every file in a folder, hidden ones too, and the folders with None."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else None
        for path in sorted(Path(folder).rglob("*"))
    }


def read_log(path):
    """Reads a CSV log as a list of dictionaries, without the seconds, which differ each time."""
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    rows = [dict(zip(header, map(float, row))) for row in rows]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def read_weights(path):
    """Reads all arrays of a weights file but the training state: {name: array}."""
    arrays = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fui":
            arrays[name] = item[...]

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return arrays


def picture(path):
    """Reads a picture as an array."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode == "P" else image)


def problems_of(function, *arguments, **options):
    """Calls what must be refused; gives its problems."""
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    return error.value.problems


def problem_of(function, *arguments, **options):
    """Calls what must be refused for one reason; gives that."""
    (problem,) = problems_of(function, *arguments, **options)
    return problem


def mentions(text, *words):
    """Tells whether a text holds all words, wherever its lines break."""
    text = re.sub(r"\s+", " ", text)
    return all(word in text for word in words)
