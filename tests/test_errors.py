"""Tests of how a script ends: done, stopped, or with its user's mistake in words."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lib.errors import (
    Stopped,
    UserError,
    missing_package,
    raise_if_any,
    run_script,
    tell_missing_packages,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_signals():
    """run_script takes SIGTERM over for the rest of the process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raising(error):
    def main():
        raise error

    return main


def test_one_problem_is_printed_without_a_traceback_and_gives_status_1(capsys):
    assert run_script(raising(UserError("The folder is missing."))) == 1
    assert capsys.readouterr().err == "\nERROR: The folder is missing.\n"


def test_several_problems_are_numbered(capsys):
    assert run_script(raising(UserError(["One thing.", "Another."]))) == 1
    assert capsys.readouterr().err == "\nERROR: 2 problems:\n  1. One thing.\n  2. Another.\n"


def test_a_file_without_rights_is_named(capsys):
    error = PermissionError(13, "Permission denied", "/data/training")
    assert run_script(raising(error)) == 1
    assert capsys.readouterr().err == (
        "\nERROR: /data/training may not be read or written: Permission denied. Ask for the rights "
        "to it, or take a copy of your own.\n"
    )
    with pytest.raises(PermissionError):  # of a signal, say: no file's
        run_script(raising(PermissionError(1, "Operation not permitted")))


def test_success_gives_status_0(capsys):
    assert run_script(lambda: print("done")) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_gives_the_shells_status(capsys):
    assert run_script(raising(KeyboardInterrupt())) == 130
    assert "Stopped by Ctrl-C." in capsys.readouterr().err


@pytest.mark.parametrize("status", [130, 143, 124])
def test_a_script_that_saved_and_stopped_says_so_and_gives_its_status(capsys, status):
    error = Stopped("Batch 3 of 9 is saved. Start again to resume there.", status)
    assert run_script(raising(error)) == status
    printed = capsys.readouterr()
    assert printed.out == "\nBatch 3 of 9 is saved. Start again to resume there.\n"
    assert printed.err == ""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a signal")
def test_sigterm_ends_a_script_like_an_exception_with_the_shells_status():
    cleaned = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 60)  # the handler runs before
        finally:
            cleaned.append("half-written file")

    with pytest.raises(SystemExit) as error:
        run_script(main)
    assert error.value.code == 143
    assert cleaned == ["half-written file"]


def test_missing_package_is_named_with_the_python_that_lacks_it():
    (problem,) = missing_package(ModuleNotFoundError(name="cv2")).problems
    assert problem.startswith(f"{sys.executable} lacks cv2. Start the scripts with the Python")
    assert "make demo" in problem


def test_defect_of_the_project_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_script(raising(ZeroDivisionError()))


def test_problems_are_kept_one_by_one_and_joined_by_lines():
    assert UserError("one").problems == ["one"]
    assert str(UserError(["one", "two"])) == "one\ntwo"


def test_no_problem_raises_nothing():
    assert raise_if_any([]) is None
    with pytest.raises(UserError, match="^one\ntwo$"):
        raise_if_any(["one", "two"])


# ---------------------------------------------------------------- packages


def test_missing_package_names_the_python_and_what_it_lacks(monkeypatch):
    error = ModuleNotFoundError("No module named 'numpy.linalg'", name="numpy.linalg")
    (problem,) = missing_package(error).problems
    assert problem.startswith(f"{sys.executable} lacks numpy. Start the scripts with the Python")
    assert "KERAS_BACKEND" not in problem


@pytest.mark.parametrize("name", ["jax", "torch.nn"])
def test_missing_backend_may_be_replaced(name):
    (problem,) = missing_package(ModuleNotFoundError(name=name)).problems
    assert f"lacks {name[:5].rstrip('.')}. Start" in problem
    assert "choose a backend of Keras that is there: KERAS_BACKEND=tensorflow." in problem


def test_package_that_is_missed_later_ends_the_script_with_status_1(capsys):
    assert run_script(raising(ModuleNotFoundError(name="jax"))) == 1
    assert run_script(raising(MemoryError("Unable to allocate 9 TiB"))) == 1
    assert " lacks jax. Start the scripts" in capsys.readouterr().err


def test_missing_module_of_the_project_is_a_defect():
    with pytest.raises(ModuleNotFoundError), tell_missing_packages():
        raise ModuleNotFoundError(name="lib.gone")


@pytest.mark.parametrize(
    "script",
    [
        "prepare_datasets_DRIVE.py",
        "prepare_datasets_ISBI.py",
        "prepare_datasets_folder.py",
        "run_training.py",
        "run_testing.py",
        "demo/prepare_datasets_phantom.py",
    ],
)
def test_python_without_the_packages_gets_the_same_message_from_every_script(tmp_path, script):
    # -S: no site-packages, so that nothing but the standard library is there.
    command = [sys.executable, "-S", str(ROOT / script)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    expected = f"ERROR: {sys.executable} lacks numpy, h5py, keras, PIL, cv2, scipy, skimage, tiff"
    assert ended.stderr.strip().startswith(expected)
    assert "Traceback" not in ended.stderr


def test_names_that_are_not_utf_8_can_be_printed(tmp_path):
    code = "from lib.errors import run_script; run_script(lambda: print('M\\udcfcller'))"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout == "M\\udcfcller\n"
