"""One experiment that the real scripts prepared, trained and tested, and ways to go on with it.

A test file asks for them by pytest_plugins. What only needs an answer to a mistake runs inside this
process, on a copy of that experiment.
"""

import json
import runpy
import shutil
import signal
import sys
import warnings
from types import SimpleNamespace

import pytest

import prepare_datasets_DRIVE
from lib.errors import run_script
from src import launch, predict_folder
from tests.processes import TIMEOUT, run, start, wait_until
from tests.small_data import write_drive
from tests.small_experiment import configure


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """One experiment, prepared, trained with a log file (nohup) and tested; never changed.

    Its user has a keras.json, which must change nothing.
    """
    folder = tmp_path_factory.mktemp("finished")
    theirs = {"floatx": "float64", "epsilon": 1e-3, "image_data_format": "channels_first"}
    home = folder / "keras_home"
    home.mkdir()
    (home / "keras.json").write_text(json.dumps({**theirs, "backend": "tensorflow"}))
    write_drive(folder / "DRIVE")
    configure(folder, training_settings__nohup=True)
    prepared = run("prepare_datasets_DRIVE.py", cwd=folder)
    output = folder / "training.output"
    process = start("run_training.py", cwd=folder, output=output, KERAS_HOME=str(home))
    wait_until(lambda: "nohup = True" in output.read_text(), process)
    process.send_signal(signal.SIGHUP)  # what a closed terminal sends
    status = process.wait(TIMEOUT)
    tested = run("run_testing.py", cwd=folder, KERAS_HOME=str(home))
    return SimpleNamespace(
        folder=folder,
        experiment=folder / "small",
        prepared=prepared,
        trained=SimpleNamespace(returncode=status, output=output.read_text()),
        tested=tested,
    )


@pytest.fixture
def workspace(finished, tmp_path, request):
    """A copy of the finished experiment and its data, to be spoilt; removed afterwards.

    A test file whose experiment is another one has `finished` and `configure` of its own.
    """
    folder = tmp_path / "workspace"
    shutil.copytree(finished.folder, folder)
    getattr(request.module, "configure", configure)(folder)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def call(monkeypatch, capfd):
    """A function that runs a step inside this process: call(step, folder, *arguments).

    A step is training, testing, prediction, prepare or a script of src: src.retinaNN_training.
    """
    steps = {
        "training": lambda: launch.launch("training"),
        "testing": lambda: launch.launch("testing"),
        "prediction": predict_folder.main,
        "prepare": lambda: run_script(prepare_datasets_DRIVE.main),
    }

    def calling(step, folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [step, *map(str, arguments)])
        capfd.readouterr()
        status = steps[step]() if step in steps else run_module(step)
        return SimpleNamespace(returncode=status, output="".join(capfd.readouterr()))

    return calling


@pytest.fixture
def step(call, workspace, request):
    """A function that runs a step on the copy, with changed values of the configuration."""

    def calling(name, /, **changes):
        request.module.configure(workspace, **changes)
        return call(name, workspace, "configuration.txt")

    calling.folder = workspace
    return calling


def run_module(name):
    """Runs a module as `python -m` does; gives its exit status."""
    with pytest.raises(SystemExit) as end, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it is imported under its name too
        runpy.run_module(name, run_name="__main__")
    return end.value.code
