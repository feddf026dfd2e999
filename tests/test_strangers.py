"""Data, weights and configurations of strangers are read, never run, and lead nowhere else.

Links out of HDF5 files: test_files.py, test_image_sets.py and test_weights.py; file names in a
report: test_report.py; ids that climb: test_results.py and test_run_prediction.py.
"""

import ast
import json
import pickle
import re
import zipfile

import h5py
import keras
import pytest

from lib.configuration import read_configuration
from lib.errors import UserError
from lib.experiment import PROJECT
from lib.files import load_hdf5
from lib.image_files import read_picture
from lib.legacy_weights import explain_not_weights
from lib.weights import read_weights
from src.tasks import TASKS
from tests.small_data import hashes
from tests.tiny_training import tiny_network

SOURCES = [
    path
    for pattern in ("*.py", "lib/*.py", "src/*.py", "demo/*.py")
    for path in sorted(PROJECT.glob(pattern))
]
# What makes code of data, or files of an archive.
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "pickle", "cPickle", "dill", "joblib", "marshal"),
    *("shelve", "load_model", "model_from_json", "from_config", "enable_unsafe_deserialization"),
    *("Lambda", "extractall", "extract", "unpack_archive", "system", "popen", "run_path", "yaml"),
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_of_the_project_runs_what_it_reads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {part for alias in node.names for part in alias.name.split(".")}
            names |= set((getattr(node, "module", None) or "").split("."))
    # re.compile makes no code, and Keras's compile readies a network for its training.
    found = (names & FORBIDDEN) - ({"compile"} if "compile(" in path.read_text() else set())
    calls = [n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and hasattr(n.func, "id")]
    assert "compile" not in calls
    assert found == set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            assert isinstance(node.value, ast.Constant) and node.value.value is False


class Trap:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return open, ("sprung", "w")


def test_a_pickle_is_named_and_not_opened(in_tmp_path):
    path = in_tmp_path / "a.weights.h5"
    path.write_bytes(pickle.dumps(Trap()))
    for read in (read_weights, load_hdf5):
        with pytest.raises(UserError):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Trap()))
    with pytest.raises(UserError, match="may run code of their author, so it is not done"):
        read_weights(path)
    assert [name.name for name in in_tmp_path.iterdir()] == ["a.weights.h5"]


def test_a_network_in_a_file_is_not_built(in_tmp_path):
    """A Lambda layer is code; of a whole network only the weights are read."""
    inputs = keras.Input((1, 4, 4))
    code = keras.layers.Lambda(lambda x: open("sprung", "w") and x)
    outputs = keras.layers.Flatten()(inputs)
    network = keras.Model(inputs, outputs)
    network.save(in_tmp_path / "a.keras")
    assert "may run code of its author" in explain_not_weights(in_tmp_path / "a.keras")
    path = in_tmp_path / "small_best_weights.h5"
    layers = [{"class_name": "Lambda", "config": {"name": "code", **code.get_config()}}]
    architecture = {"class_name": "Model", "config": {"layers": layers}}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(architecture, default=str)
        file.attrs["layer_names"] = [b"code"]
        file.create_group("model_weights").attrs["layer_names"] = [b"code"]
    with pytest.raises(UserError):
        read_weights(path).load_into(tiny_network())
    assert not (in_tmp_path / "sprung").exists()


def test_archives_stay_packed(in_tmp_path):
    path = in_tmp_path / "eyes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../climbed.txt", "x")
    path.rename(path := in_tmp_path / "eyes.png")
    before = hashes(in_tmp_path)
    with pytest.raises(ValueError, match="is not an image that can be read"):
        read_picture(path)
    assert "Unpack it and name the file inside" in explain_not_weights(path)
    assert hashes(in_tmp_path) == before
    assert not (in_tmp_path.parent / "climbed.txt").exists()


@pytest.mark.parametrize("value", ["%(name)s", "${HOME}", "__import__('os').abort()", "{{7+7}}"])
def test_a_configuration_is_text(write_configuration, value):
    """Only $VARIABLES of paths are looked up; nothing is computed."""
    read = read_configuration(write_configuration(("name = test", f"name = {value}")), TASKS)
    assert read.experiment_name.name == value


def test_names_of_classes_name_no_file():
    """They stand in pictures, tables and reports; files carry numbers and names made safe."""
    for path in (*PROJECT.glob("lib/*.py"), *PROJECT.glob("src/*.py")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"\.file\(|/ f\"", line):
                assert not re.search(r"\{(class|label)[^}]*\}", line), f"{path}: {line}"
