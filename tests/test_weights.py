"""Tests of weights files: what they hold, what they tell, and what is refused."""

import io
import json
import os
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from lib.configuration import NETWORK, SPLIT, read_configuration
from lib.errors import UserError
from lib.weights import FIRST_SCALING, TrainedWeights, read_weights, save_weights, settings_record
from src.tasks import TASKS
from tests.fuzz.inputs import spoil
from tests.small_data import problem_of, write_configuration
from tests.tiny_training import IMAGE_IDS, NUM_PARAMETERS, configure, layer_weights, tiny_network


@pytest.fixture(scope="module")
def model():
    """A network with an optimiser that keeps two numbers for each parameter."""
    model = tiny_network()
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def path(in_tmp_path):
    return in_tmp_path / "a.weights.h5"


@pytest.fixture
def saved(model, path):
    """A function that saves the network with a record and reads the file."""

    def save(**record):
        save_weights(model, path, record)
        return read_weights(path)

    return save


# ---------------------------------------------------------------- saving and loading


def test_weights_come_back_without_the_optimisers_variables(model, path, saved):
    weights = saved(settings={})
    fresh = tiny_network()
    weights.load_into(fresh)
    np.testing.assert_array_equal(layer_weights(fresh), layer_weights(model))
    assert sum(weights.parameters.values()) == NUM_PARAMETERS
    assert not weights.is_legacy
    assert os.listdir(path.parent) == [path.name]
    # What another training writes there meanwhile is not what was read.
    save_weights(tiny_network(), path)
    other = tiny_network()
    weights.load_into(other)
    np.testing.assert_array_equal(layer_weights(other), layer_weights(model))
    problem = problem_of(weights.require_optimizer)
    assert f"{path} holds weights without the optimiser, so no epochs can follow." in problem
    save_weights(model, path, {}, with_optimizer=True)
    assert read_weights(path).require_optimizer() is None


def test_leaving_the_optimiser_out_makes_the_file_smaller(in_tmp_path):
    large = tiny_network(512)
    large.compile("adam")
    large.optimizer.build(large.trainable_variables)
    sizes = []
    for with_optimizer in (True, False):
        save_weights(large, in_tmp_path / "x.weights.h5", {}, with_optimizer)
        sizes.append((in_tmp_path / "x.weights.h5").stat().st_size)
    # Adam keeps two numbers for each parameter, so the whole is three times as large.
    assert 2.5 * sizes[1] < sizes[0]


def test_only_the_first_saving_makes_layers_to_look_at(model, path, monkeypatch):
    """Keras loses what it found, and each layer that it makes anew some memory."""
    save_weights(model, path)
    made, make = [], keras.layers.Layer.__init__

    def note(layer, **options):
        made.append(layer)
        make(layer, **options)

    monkeypatch.setattr(keras.layers.Layer, "__init__", note)
    save_weights(model, path)
    assert made == []


def test_record_comes_back(saved):
    record = {
        "history": [{"epoch": 1, "loss": 0.25}],
        "settings": {"x": {"y": "ü"}},
        "scaling": "rule",
    }
    weights = saved(**record)
    assert weights.record == record
    assert (weights.history, weights.progress, weights.scaling) == (record["history"], None, "rule")
    before = saved(settings={})
    assert (before.history, before.scaling) == ([], FIRST_SCALING)


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_full_disk_leaves_the_old_weights_and_nothing_beside_them(
    model, path, monkeypatch, with_optimizer
):
    save_weights(model, path)
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    problem = problem_of(save_weights, model, path, {}, with_optimizer)
    assert problem.startswith(f"Cannot write {path}")
    assert "the disk is full" in problem
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == before


def test_keras_writes_to_memory_alone(model, path, monkeypatch):
    """HDF5 crashes, or complains at length, when it closes what does not fit on the disk."""
    opened = []

    class File(h5py.File):
        def __init__(self, name, *arguments, **options):
            opened.append(name)
            super().__init__(name, *arguments, **options)

    monkeypatch.setattr(h5py, "File", File)
    save_weights(model, path, {"history": []}, with_optimizer=True)
    assert opened and all(isinstance(file, io.BytesIO) for file in opened)


# ---------------------------------------------------------------- what is refused


def test_weights_of_another_network(path, model):
    save_weights(tiny_network(num_units=9), path, {"settings": {}})
    # 16 * 9 + 9 + 9 * 32 + 32 = 473 parameters
    assert problem_of(read_weights(path).load_into, model) == (
        f"{path} must hold the weights of the network tiny with 424 parameters. Received: it "
        "holds 473 parameters. Correct the network in [training settings], or choose other weights "
        "([experiment name] name; initial_weights)."
    )


def test_weights_of_as_many_parameters_in_other_shapes(path, model):
    inputs = keras.Input((NUM_PARAMETERS - 1,))
    other = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    save_weights(other, path, {"settings": {}})
    before = layer_weights(model)
    problem = problem_of(read_weights(path).load_into, model)
    assert "must hold the weights of the network tiny with 424 parameters" in problem
    assert "Received: it holds as many parameters in other layers." in problem
    np.testing.assert_array_equal(layer_weights(model), before)


def test_weights_of_another_keras_3_project_are_refused_until_their_order_is_told(path, model):
    model.save_weights(path)
    weights = read_weights(path)
    assert weights.record == {}
    fresh = tiny_network()
    for order in ("auto", "skip_first"):
        problem = problem_of(weights.load_into, fresh, order)
        assert "Received: weights that Keras 3 wrote for another project" in problem
        assert "set [testing settings] skip_order = up_first; else save its network" in problem
    weights.load_into(fresh, "up_first")
    np.testing.assert_array_equal(layer_weights(fresh), layer_weights(model))


@pytest.mark.parametrize("kind", ["external link", "soft link", "virtual", "reference", "huge"])
def test_weights_that_lie_elsewhere_are_not_followed(path, saved, kind):
    saved()
    with h5py.File(path, "a") as file:
        file["secret"] = np.ones(3)
        spoil(file, next(iter(file["layers"].keys())), kind, path.with_name("other.h5"))
        spoil(file, f"layers/{next(iter(file['layers']))}/vars/0", kind, path.with_name("other.h5"))
    with pytest.raises(UserError, match="is not as Keras writes weights: it"):
        read_weights(path)


@pytest.mark.parametrize(
    "record",
    [
        [],
        {"history": {}},
        {"history": [{"epoch": 1}]},
        {"history": [{"epoch": 1, "loss": "0.1"}]},
        {"settings": {"training_settings": 1}},
        {"images": {"training": "abc"}},
        {"images": {"validation": ["a"]}},
        {"ancestors": [{"weights": "a", "images": {}}]},
        {"ancestors": ["a"]},
        {"scaling": None},
    ],
)
def test_a_record_that_no_training_writes_is_called_damaged(path, saved, record):
    saved()
    with h5py.File(path, "a") as file:
        del file["training_state"]
        file["training_state"] = json.dumps(record)
    with pytest.raises(UserError, match="its training_state is not as a training writes it"):
        read_weights(path)


def test_weights_that_may_not_be_read(path, saved, monkeypatch):
    saved()

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lib.weights.explain_not_weights", refuse)
    with pytest.raises(UserError, match="cannot be opened: Permission denied. Ask its owner"):
        read_weights(path)


@pytest.mark.parametrize("kept", [100, 1000, -100])
def test_weights_that_are_cut_off(path, saved, kept):
    saved(history=[])
    path.write_bytes(path.read_bytes()[:kept])
    problem = problem_of(read_weights, path)
    assert problem.startswith(f"{path} is not a whole weights file; it may be cut off or damaged: ")
    assert "train it anew (--overwrite)" in problem


def test_a_record_that_is_damaged(path, model):
    save_weights(model, path)
    with h5py.File(path, "a") as file:
        del file["training_state"]
        file["training_state"] = '{"history": ['
    assert "is not a whole weights file" in problem_of(read_weights, path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x80\x02}q\x00.", "a pickle, as PyTorch writes its weights"),
        (b"", "empty. Copy it again."),
    ],
)
def test_what_holds_no_weights_is_told_by_what_it_is(path, content, words):
    path.write_bytes(content)
    problem = problem_of(read_weights, path)
    assert problem.startswith(f"{path} is {words}")
    assert problem.endswith("Expected: weights in HDF5, such as <name>_best.weights.h5.")


# ---------------------------------------------------------------- settings


def told(configuration):
    """Weights that tell the settings of a configuration."""
    return TrainedWeights("run_last.weights.h5", b"", {"settings": settings_record(configuration)})


def test_record_keeps_what_shapes_a_training(in_tmp_path):
    settings = settings_record(configure(num_epochs=3, fov_width=540, initial_weights="./a.h5"))
    assert set(settings) == {"data_paths", "data_attributes", "training_settings"}
    assert set(settings["data_paths"]) == {
        f"train_{kind}" for kind in ("imgs_original", "groundTruth", "border_masks")
    }
    assert "fov_width" not in settings["data_attributes"]
    training = settings["training_settings"]
    assert (training["seed"], training["N_epochs"], training["early_stopping"]) == (7, 3, 0)
    assert training["initial_weights"] == "./a.h5"
    assert {"nohup", "tensorboard", "saving_interval"}.isdisjoint(training)


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        (NETWORK, {"network": "gnet", "output_activation": "linear"}),
        (SPLIT, {"N_subimgs": 90, "validation_split": 1}),
    ],
)
def test_weights_of_other_settings_of_a_role_are_refused(in_tmp_path, role, changes):
    weights, changed = told(configure()), configure(**changes)
    weights.require_settings(configure(learning_rate=5, seed=1), role)
    weights.require_settings(changed, {NETWORK: SPLIT, SPLIT: NETWORK}[role])
    with pytest.raises(UserError) as error:
        weights.require_settings(changed, role)
    assert len(error.value.problems) == 2
    for problem, (name, value) in zip(sorted(error.value.problems), sorted(changes.items())):
        then = getattr(configure().training_settings, name)
        assert f"[training settings] {name} must be {then}, with which run_last" in problem
        assert f"Received: {value}. Set it to {then}, or choose other weights." in problem


def test_settings_are_found_under_their_names_of_before(in_tmp_path):
    path = write_configuration(".", task="membrane")
    configuration = read_configuration(path, TASKS)
    weights = told(configuration)
    training = weights.record["settings"]["training_settings"]
    for old, new in (("N_tiles", "N_subimgs"), ("validation_images", "validation_split")):
        training[old] = training.pop(new)
    weights.require_same_training(configuration)
    training["N_tiles"] = 500
    problem = problem_of(weights.require_same_training, configuration)
    assert "training settings N_subimgs: 500 -> 6" in problem


def test_weights_that_tell_nothing_are_taken(in_tmp_path):
    weights = TrainedWeights("retina-unet_best_weights.h5", b"", {})
    weights.require_settings(configure(), NETWORK)
    weights.require_images(IMAGE_IDS)


# ---------------------------------------------------------------- images and ancestors


def test_weights_trained_with_other_images_are_refused():
    weights = TrainedWeights("run_last.weights.h5", b"", {"images": IMAGE_IDS})
    weights.require_images(IMAGE_IDS)
    weights.require_images({"validation": ["23"]})
    TrainedWeights("run_last.weights.h5", b"", {"images": None}).require_images(IMAGE_IDS)
    three = {"training": ["21", "22", "23"]}
    problem = problem_of(weights.require_images, three)
    assert "For training then: 21, 22. Now: 21, 22, 23." in problem
    problem = problem_of(weights.require_images, {**IMAGE_IDS, "validation": []})
    assert "For validation then: 23. Now: none." in problem


def origin(ids, **record):
    return TrainedWeights("run.h5", b"", {"settings": {}, **record}).describe_origin(ids)


def ancestor(name, *training):
    return {"weights": name, "images": {"training": list(training), "validation": []}}


SHARED = "Where they are the same images, these scores are too good."
UNKNOWN = "trained on images that are not recorded: maybe on these."


@pytest.mark.parametrize(
    ("record", "note"),
    [
        ({"images": IMAGE_IDS}, ""),
        ({"images": IMAGE_IDS, "ancestors": [ancestor("a.h5", "22"), ancestor("b.h5")]}, ""),
        (
            {"images": {"training": ["22", "24", "23"], "validation": []}},
            f"Note: these weights were trained on images with the ids 23, 24. {SHARED}",
        ),
        (
            {"images": IMAGE_IDS, "ancestors": [ancestor("a.h5"), ancestor("b.h5", "24")]},
            "Note: the weights that they started from (b.h5) were trained on images with the ids "
            f"24. {SHARED}",
        ),
        (
            {"images": IMAGE_IDS, "ancestors": [{"weights": "a.h5", "images": None}]},
            f"Note: the weights that they started from (a.h5) were {UNKNOWN}",
        ),
        (
            {"images": IMAGE_IDS, "settings": {"training_settings": {"initial_weights": "a.h5"}}},
            f"Note: the weights that they started from (a.h5) were {UNKNOWN}",
        ),
        ({}, f"Note: these weights were {UNKNOWN}"),
    ],
    ids=["held out", "held out everywhere", "own", "ancestor", "unknown", "before", "not told"],
)
def test_images_that_trained_the_weights_are_named(record, note):
    assert origin(["23", "24"], **record) == note


def test_weights_of_retina_unet_do_not_tell_their_images():
    weights = TrainedWeights("test_best_weights.h5", b"", {})
    assert weights.describe_origin(["01"]) == (
        "test_best_weights.h5 does not tell on which images it was trained: maybe on these."
    )


def test_ancestors_are_carried_on():
    first, second = ancestor("first.h5", "21"), {"weights": "./b.h5", "images": IMAGE_IDS}
    weights = TrainedWeights("/x/b.h5", b"", {"images": IMAGE_IDS, "ancestors": [first]})
    assert weights.as_ancestors("./b.h5") == [first, second]


FELL = [{"val_loss": 0.3}, {"val_loss": 0.2}]
ROSE = FELL[::-1]


def of_epochs(number, **more):
    return {"training_settings": {"N_epochs": number, **more}}


@pytest.mark.parametrize(
    ("record", "words", "is_unfinished"),
    [
        ({}, "not recorded", False),
        ({"history": [{}] * 3}, "3 epochs", False),
        ({"history": [{}] * 3, "settings": of_epochs(3)}, "3 of 3 epochs", False),
        ({"history": [{}] * 2, "settings": of_epochs(3)}, "2 of 3 epochs", True),
        ({"history": FELL, "settings": of_epochs(3, early_stopping=1)}, "2 of 3 epochs", True),
        ({"history": ROSE, "settings": of_epochs(3, early_stopping=1)}, "2 of 3 epochs", False),
        (
            {"history": [], "settings": of_epochs(3), "progress": {"batches": 7}},
            "0 of 3 epochs and 7 batches",
            True,
        ),
        ({"epoch": 2, "settings": of_epochs(3)}, "epoch 2 of 3, the best one", False),
    ],
)
def test_weights_tell_how_far_their_training_had_come(record, words, is_unfinished):
    weights = TrainedWeights(Path("a"), b"", record)
    assert (weights.describe_training(), weights.is_unfinished) == (words, is_unfinished)
