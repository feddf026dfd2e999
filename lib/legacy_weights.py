"""Reads the weights of retina-unet that Keras 1 (2016) and Keras 2 (later edits, forks) wrote.

Keras 3 cannot read the former and reads the latter wrongly without an error. Three things differ:

- Layout. Keras 1: groups `convolution2d_1` and so on, kernels `_W` as (out, in, height, width),
  biases `_b`. Keras 2: the attribute `layer_names`, below `model_weights` in a whole saved network;
  each group names its arrays in `weight_names`, kernels as (height, width, in, out).
- Backend. Theano convolves where the others correlate, so its kernels are turned by 180 degrees.
  Without the turn the network still gives plausible and wrong vessels (AUC .9732, not .9773).
- Joined features. The networks here, and retina-unet's of 2016, join [up-sampled, skip]. The edit
  of later years joins [skip, up-sampled]: the same shapes, and noise where they are mixed up (AUC
  .64). The weights do not tell; the architecture (JSON) does.

No network is built from these files: only arrays and names are read from them.
"""

import itertools
import json
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np

SKIP_ORDERS = {"up_first": "[up-sampled, skip]", "skip_first": "[skip, up-sampled]"}


def is_legacy(file):
    """Tells whether an HDF5 file has the layout of Keras 1 or Keras 2.

    Args:
        file: open h5py.File.
    """
    group = _weights_group(file)
    return bool(_is_keras1(group) or _names(group, "layer_names"))


def load_legacy_weights(model, file, architecture=None, skip_order=None):
    """Puts the weights of a Keras 1 or Keras 2 file into a network of the same convolutions.

    Nothing is put in before all is checked.

    Args:
        model: get_unet(...) or get_gnet(...) in either data format.
        file: open h5py.File for which is_legacy holds.
        architecture: dictionary of the `<name>_architecture.json` beside the weights, or None. A
            whole network saved by Keras 2 holds its own, which then counts. Not read for Keras 1.
        skip_order: "up_first" or "skip_first" decides the order of the joined features; None or
            "auto": up_first for Keras 1, what the architecture says for Keras 2.
    Returns:
        a sentence on what was read and how it was changed.
    Raises:
        ValueError: if the file holds another network, or its order of joined features is unknown.
        KeyError: if the file lacks arrays that it names.
    """
    if skip_order not in (None, "auto", *SKIP_ORDERS):
        expected = ", ".join(["auto", *SKIP_ORDERS])
        raise ValueError(f"skip_order must be one of {expected}. Received: {skip_order}")
    group = _weights_group(file)
    read = _read_keras1(group) if _is_keras1(group) else _read_keras2(group)
    orders, said_by = ["up_first"], ""
    if _is_keras1(group):
        _require_shapes(model, read, file.filename)
    else:
        orders, said_by = _examine_keras2(model, file, read, architecture, skip_order)
    if skip_order in SKIP_ORDERS:
        orders, said_by = [skip_order], "[testing settings] skip_order"
    for layer, kernel_and_bias in zip(_convolutions(model), _up_first(model, read, orders)):
        layer.set_weights(kernel_and_bias)
    return _word_changes(group, orders, said_by)


def _word_changes(group, orders, said_by):
    """Words which weights were read and how: turned, reordered, or as they are."""
    changes = ["kernels turned by 180 degrees"] if _convolves(group) else []
    if said_by:
        done = "put behind" if "skip_first" in orders else "left behind"
        changes.append(
            f"skips {done} the up-sampled features ({said_by}: {', '.join(dict.fromkeys(orders))})"
        )
    told = "Keras 1 (retina-unet, 2016)" if _is_keras1(group) else _written_by(group)
    return f"{group.file.filename} was written by {told}: {', '.join(changes) or 'read as it is'}."


# ---------------------------------------------------------------- files of Keras 1 and Keras 2


def _weights_group(file):
    return file["model_weights"] if "model_weights" in file else file


def _is_keras1(group):
    return "convolution2d_1" in group


def _read_keras1(group):
    """Lists (name, kernel (height, width, in, out), bias) in the order of the numbers."""
    names = [name for name in group if name.startswith("convolution2d_")]
    turn = slice(None, None, -1 if _convolves(group) else 1)
    read = []
    for name in sorted(names, key=lambda name: int(name.rsplit("_", 1)[1])):
        kernel = np.asarray(group[name][f"{name}_W"])[:, :, turn, turn]
        read.append((name, kernel.transpose(2, 3, 1, 0), np.asarray(group[name][f"{name}_b"])))
    return read


def _read_keras2(group):
    """Lists (name, kernel (height, width, in, out), bias) of the layers that hold arrays."""
    turn = slice(None, None, -1 if _convolves(group) else 1)
    read = []
    for name in _names(group, "layer_names"):
        arrays = [np.asarray(group[name][part]) for part in _names(group[name], "weight_names")]
        if not arrays:
            continue
        if [array.ndim for array in arrays] != [4, 1]:
            raise ValueError(
                f"{group.file.filename}: {name} must hold the kernel (4 axes) and the bias (1 "
                "axis) of a convolution. Received: arrays of the shapes "
                f"{', '.join(str(array.shape) for array in arrays)}, so it is another network"
            )
        read.append((name, arrays[0][turn, turn], arrays[1]))
    return read


def _convolves(group):
    """Tells whether Theano wrote the file; Keras 1 of 2016 did not note it."""
    unknown = "theano" if _is_keras1(group) else ""
    return _attribute(group, "backend", unknown).lower() == "theano"


def _written_by(group):
    backend = _attribute(group, "backend", "an unknown backend")
    return f"Keras {_attribute(group, 'keras_version', '2')} on {backend}"


def _attribute(group, name, default=""):
    return _text(group.attrs.get(name, group.file.attrs.get(name, default)))


def _names(group, attribute):
    """Reads a list of names, which Keras cuts into attribute0, attribute1 ... where it is long."""
    if attribute in group.attrs:
        return [_text(name) for name in group.attrs[attribute]]
    parts = (f"{attribute}{number}" for number in itertools.count())
    parts = itertools.takewhile(lambda part: part in group.attrs, parts)
    return [_text(name) for part in parts for name in group.attrs[part]]


def _text(value):
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


# ---------------------------------------------------------------- does the network fit


def _convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def _require_shapes(model, read, path):
    """Raises a ValueError unless the file's kernels and biases have the network's shapes."""
    layers = _convolutions(model)
    if len(read) != len(layers):
        found = sum(kernel.size + bias.size for _, kernel, bias in read)
        raise ValueError(
            f"{path} must hold {len(layers)} convolutions for the network {model.name} "
            f"({model.count_params():,} parameters). Received: {len(read)} ({found:,} parameters)"
        )
    for layer, (name, kernel, bias) in zip(layers, read):
        expected = tuple(layer.kernel.shape)
        if (kernel.shape, bias.shape) != (expected, expected[-1:]):
            raise ValueError(
                f"{path}: {name} must have a kernel of {expected} and a bias of {expected[-1:]} "
                f"for the network {model.name}. Received: {kernel.shape} and {bias.shape}"
                + _likely_reason(read, name, expected, kernel.shape)
            )


def _likely_reason(read, name, expected, received):
    """Words what is known of a kernel that differs in nothing but the channels it takes."""
    if expected[:2] + expected[3:] != received[:2] + received[3:]:
        return ""
    if name == read[0][0]:
        return f". The network was trained on {received[2]} channels, this one takes {expected[2]}"
    if 2 * received[2] == expected[2]:
        return f". Half the channels: {_WRONG_AXES}"
    return ""


_WRONG_AXES = (
    "the network pooled over channels and rows in place of rows and columns, as retina-unet's edit "
    "of later years does where keras.json says channels_last. It is another, worse network and "
    "cannot be loaded: train anew"
)
# Layers that change nothing in testing, or only arrange the pixels for the softmax.
_NO_STEP = (
    *("InputLayer", "Dropout", "SpatialDropout2D"),
    *("Permute", "Reshape", "Activation", "Softmax"),
)
_STEP_SETTINGS = (
    *("activation", "padding", "strides", "dilation_rate"),
    *("pool_size", "size", "interpolation"),
)


def _require_one_data_format(layers, path):
    """Raises a ValueError where some layers of an architecture take other axes for the channels."""
    told = [(layer["class_name"], layer["config"].get("data_format")) for layer in layers]
    told = sorted({step for step in told if step[1]})
    if len({data_format for _, data_format in told}) > 1:
        raise ValueError(
            f"{path} must be of a network with one data_format. Its architecture says "
            f"{', '.join(' '.join(step) for step in told)}: {_WRONG_AXES}"
        )


def _require_same_steps(model, layers, path):
    """Raises a ValueError at the first layer of an architecture that computes something else."""
    ours = [(type(layer).__name__, layer.get_config()) for layer in model.layers]
    theirs = [(layer["class_name"], layer["config"]) for layer in layers]
    ours, theirs = ([s for s in steps if not _is_no_step(*s)] for steps in (ours, theirs))
    for our, their in itertools.zip_longest(ours, theirs, fillvalue=("no layer", {})):
        expected, received = _differences(our, their)
        if expected != received:
            raise ValueError(
                f"The architecture of {path} must be that of the network {model.name}. At "
                f"{their[1].get('name', 'its end')} expected: {expected}. Received: {received}"
            )


def _differences(our, their):
    """Words two layers by their classes and by the settings in which they differ."""
    (our_class, config), (their_class, their_config) = our, their
    config = {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}
    keys = [key for key in _STEP_SETTINGS if key in config and key in their_config]
    keys = [key for key in keys if config[key] != their_config[key]]
    words = [our_class, *(f"{key}={config[key]}" for key in keys)]
    their_words = [their_class, *(f"{key}={their_config[key]}" for key in keys)]
    return " ".join(words), " ".join(their_words)


def _is_no_step(name, config):
    """Tells whether a layer changes nothing in testing; an activation but the softmax does."""
    return name in _NO_STEP and config.get("activation", "softmax") == "softmax"


# ---------------------------------------------------------------- order of the joined features


def _examine_keras2(model, file, read, architecture, skip_order):
    """Checks a file of Keras 2 and finds how its network joined the features.

    Returns:
        "up_first" or "skip_first" for each join, and who says so ("" where nothing is joined).
    """
    group = _weights_group(file)
    layers, missing = _find_layers(file, group, architecture)
    _require_one_data_format(layers, file.filename)
    _require_shapes(model, read, file.filename)
    if layers:
        _require_same_steps(model, layers, file.filename)
    orders = _orders_of(layers)
    if not _joins(model) or skip_order in SKIP_ORDERS:
        return orders, ""
    if None in orders or not orders:
        missing = missing or "and its architecture joins something else than up-sampled features"
        raise ValueError(_ask_for_order(file.filename, _written_by(group), missing))
    return orders, "its architecture"


def _ask_for_order(path, told, missing):
    return (
        f"{path} was written by {told}. How its network joins the up-sampled features and the skip "
        f"is not stored in the weights, {missing}. In the wrong order they load and predict noise. "
        f"retina-unet's edit of later years joins {SKIP_ORDERS['skip_first']} (skip_first), "
        f"retina-unet of 2016 {SKIP_ORDERS['up_first']} (up_first). Set [testing settings] "
        "skip_order to one of them, or put the <name>_architecture.json of the same training "
        "beside the weights"
    )


def _find_layers(file, group, architecture):
    """Finds the layers of the architecture that belongs to the weights.

    Returns:
        list of dictionaries of layers, and "" or, where the list is empty, the reason why.
    """
    stored = file.attrs.get("model_config")
    if stored is not None:
        architecture = json.loads(_text(stored))
    if not isinstance(architecture, dict):
        return [], "and no architecture lies beside them"
    config = architecture.get("config")
    layers = config.get("layers", []) if isinstance(config, dict) else []
    versions = {architecture.get("keras_version"), _attribute(group, "keras_version")} - {None, ""}
    if len(versions) > 1:
        words = " and ".join(f"Keras {version}" for version in sorted(versions))
        return [], f"and the architecture is of another training ({words})"
    if [layer["config"].get("name") for layer in layers] != _names(group, "layer_names"):
        return [], "and the architecture is of another training (its layers have other names)"
    return layers, ""


def _orders_of(layers):
    """Lists "up_first", "skip_first" or None (neither) for each join of an architecture."""
    up = {n["config"]["name"] for n in layers if n["class_name"] == "UpSampling2D"}
    orders = {(True, False): "up_first", (False, True): "skip_first"}
    joins = [layer for layer in layers if layer["class_name"] == "Concatenate"]
    return [
        orders.get(tuple(source in up for source in _sources(join["inbound_nodes"])))
        for join in joins
    ]


def _sources(node):
    """Lists the names of the layers that feed a layer, from nodes as Keras 2 or Keras 3 write them.

    Keras 2: [[["conv2d_4", 0, 0, {}], ["up_sampling2d_1", 0, 0, {}]]]. Keras 3: dictionaries with
    {"keras_history": ["conv2d_4", 0, 0]} somewhere below "args".
    """
    if isinstance(node, dict):
        return _sources([part for part in node.values() if isinstance(part, (list, dict))])
    if not isinstance(node, list):
        return []
    if node and isinstance(node[0], str):
        return node[:1]
    return [name for part in node for name in _sources(part)]


def _joins(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Concatenate)]


def _up_first(model, read, orders):
    """Reorders the input channels of the kernels behind each join to [up-sampled, skip].

    Example: 64 channels of the skip before 128 up-sampled ones, k[:, :, :64] and k[:, :, 64:],
    become k[:, :, 64:] before k[:, :, :64]: rolled by -64.

    Returns:
        [kernel, bias] for each convolution, in the order of the network.
    """
    orders = iter(orders * len(_joins(model)) if len(orders) == 1 else orders)
    skip_channels, reordered, read = 0, [], iter(read)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Concatenate):
            skip = layer.input[1].shape[layer.axis]
            skip_channels = skip if next(orders) == "skip_first" else 0
        elif isinstance(layer, keras.layers.Conv2D):
            _, kernel, bias = next(read)
            reordered.append([np.roll(kernel, -skip_channels, axis=2), bias])
            skip_channels = 0
    return reordered


# ---------------------------------------------------------------- files that hold no weights


def explain_not_weights(path):
    """Words what a file is that is given as weights and is no HDF5 file.

    Only its name and its first and last bytes are read; nothing of it is unpacked or run.

    Args:
        path: existing file or folder.
    Returns:
        whole sentences with what to do; None for an HDF5 file, whole or not.
    """
    path = Path(path)
    if path.is_dir():
        return f"{path} is {_word_folder(path)} {_EXPECTED}"
    with open(path, "rb") as file:
        head = file.read(512)
    if head.startswith(b"\x89HDF\r\n\x1a\n") or h5py.is_hdf5(path):
        return None
    return f"{path} is {_word_zip(path) or _word_head(path, head)} {_EXPECTED}"


_EXPECTED = "Expected: weights in HDF5, such as <name>_best.weights.h5."
_TORCH = (
    "a pickle, as PyTorch writes its weights (.pt, .pth). They are of a network of PyTorch's, and "
    "opening them may run code of their author, so it is not done here. Choose other weights, or "
    "train anew."
)
_CHECKPOINT = (
    "a checkpoint or a SavedModel of TensorFlow, not opened here. Its author can load it there and "
    'write an HDF5 file: model.save("<name>_best_weights.h5").'
)
_HEADS = (
    (
        b"version https://git-lfs",
        "a pointer of Git LFS that stands for the file. Run `git lfs pull` in the folder it was "
        "cloned to, then copy the file again.",
    ),
    (b"<!doctype html", "a page of the web, not the file itself. Download the raw file."),
    (b"<html", "a page of the web, not the file itself. Download the raw file."),
    (b"model_checkpoint_path:", _CHECKPOINT),
    *((bytes([0x80, protocol]), _TORCH) for protocol in range(2, 6)),  # pickle, before PyTorch 1.6
    (b"pk\x03\x04", "a zip archive that is cut off or damaged. Copy it again."),
    (b"\x1f\x8b", "packed by gzip. Unpack it (gunzip; tar xzf) and name the file inside."),
    (b"\x93numpy", "an array of NumPy. Choose other weights."),
)


def _word_folder(path):
    if (path / "saved_model.pb").exists():
        return f"a folder: {_CHECKPOINT}"
    return "a folder. Name the file inside."


def _word_zip(path):
    """Words what a zip archive is; "" where the file is none."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return ""
    if "model.weights.h5" in names:
        return (
            "a whole network of Keras (.keras). To load one may run code of its author, so it is "
            "not done here. Its author can write it as HDF5, with the order of its layers: "
            f'keras.models.load_model("{path.name}").save("{path.stem}.h5").'
        )
    if any(name.endswith("data.pkl") for name in names):
        return _TORCH
    return f"a zip archive (of {', '.join(names[:3])}). Unpack it and name the file inside."


def _word_head(path, head):
    """Words what a file is from its name and its first bytes."""
    if not head:
        return "empty. Copy it again."
    # Bytes that look like letters are compared in lower case.
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, words in _HEADS:
        if start.startswith(magic):
            return words
    if path.suffix == ".onnx":
        return "a network in ONNX. Choose other weights, or train anew."
    if path.suffix == ".index" or ".data-0" in path.name or path.name == "saved_model.pb":
        return _CHECKPOINT
    if b"\0" not in head:
        first_line = head.decode("utf-8", "replace").strip().partition("\n")[0][:60]
        return f'text that begins with "{first_line}". Choose the weights, or copy them again.'
    return f"of an unknown kind (first bytes {head[:8]!r}). Copy it again, or choose other weights."
