"""Exported networks give in ONNX Runtime what they give in Keras: make test-export."""

import importlib
import importlib.util
import sys

import numpy as np
import pytest

from lib.configuration import read_configuration
from lib.experiment import PRETRAINED, Experiment
from lib.weights import read_weights
from src import predict_folder
from src.tasks import TASKS

SHIPPED = sorted({path.parent.name for path in PRETRAINED.glob("*/*.h5")})


def require_onnx():
    for name in ("onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"needs {name}: make test-export installs it")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_the_same_in_onnx(name, tmp_path):
    require_onnx()
    import onnxruntime

    from lib.export import export_onnx

    configuration = read_configuration(PRETRAINED / name / f"{name}_configuration.txt", TASKS)
    small = {"membrane": 220, "cells": 220, "segmentation": 128}.get(configuration.task.name)
    if small:
        configuration = configuration.with_values("testing_settings", tile_size=small)
    experiment = Experiment(f"pretrained/{name}")
    weights = read_weights(experiment.find_weights(configuration.testing_settings.best_last))
    script = importlib.import_module(configuration.task.prediction)
    predictor = script.make_predictor(configuration, weights)
    network, metadata = predictor.export()
    export_onnx(network, tmp_path / "network.onnx", metadata)
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert [i.name for i in session.get_inputs()] == ["image"]
    assert session.get_modelmeta().custom_metadata_map["classes"] in (
        '["background", "vessel"]',
        '["membrane", "cell"]',
        '["background", "cell"]',
        '["background", "object", "border"]',
        '["background", "foreground"]',
    )
    rng = np.random.default_rng(0)
    for number in (1, 3):  # any number at a time
        images = rng.random((number, *network.input_shape[1:]), np.float32)
        (found,) = session.run(["probabilities"], {"image": images})
        assert found == pytest.approx(network.predict_on_batch(images), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("vessels", ("camera_scales", "camera_flips")),
        ("membranes", ("scales", "divide")),
        ("cells", ("scales", "divide", "smallest_object", "grow")),
        ("nuclei", ("object_threshold", "smallest_object")),
    ],
)
def test_the_metadata_tell_what_is_not_part_of_the_network(name, keys):
    configuration = read_configuration(PRETRAINED / name / f"{name}_configuration.txt", TASKS)
    settings = configuration.testing_settings
    weights = read_weights(Experiment(f"pretrained/{name}").find_weights(settings.best_last))
    script = importlib.import_module(configuration.task.prediction)
    _, metadata = script.make_predictor(configuration, weights).export()
    assert ("objects" in metadata) == (name != "vessels")
    every = {"scales", "divide", "smallest_object", "grow", "object_threshold"}
    said = metadata.get("objects", "")
    assert [key for key in ("divide", "smallest_object", "grow") if key in said] == [
        key for key in ("divide", "smallest_object", "grow") if key in keys
    ]
    every |= {"average_flips", "camera_scales", "camera_flips"}
    assert {key: metadata[key] for key in every & set(metadata)} == {
        key: getattr(settings, key) for key in ("average_flips", *keys)
    }


def test_missing_packages_are_named(in_tmp_path, monkeypatch, capfd):
    find = importlib.util.find_spec
    without = lambda name, *more: None if "onnx" in name else find(name, *more)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", without)
    monkeypatch.setattr(sys, "argv", ["run_prediction.py", "--export", "network.onnx"])
    assert predict_folder.main() == 1
    assert "needs the packages onnx and tf2onnx: pip install" in capfd.readouterr().err
    assert not list(in_tmp_path.iterdir())
