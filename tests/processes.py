"""Runs the scripts of the repository, or code, in processes of their own."""

import functools
import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from lib.errors import run_script
from src.tasks import TASKS
from tests.small_data import mentions

REPOSITORY = Path(__file__).resolve().parents[1]
# Longest a script may take before a test calls it stuck; the machine may be busy.
TIMEOUT = 300
ON_THE_CPU = {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}


def start(*words, cwd, output=None, **changes):
    """Starts Python in a folder without waiting, on the CPU.

    Args:
        words: a script of the repository and its arguments, or -c and code, or -m and a module;
            code finds lib, a script must find it by itself.
        cwd: the folder.
        output: file for all that is printed; None keeps it for `finish`.
        changes: of the environment.
    Returns:
        subprocess.Popen.
    """
    first, *others = map(str, words)
    environment = {**os.environ, **ON_THE_CPU, **changes}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # of the tests; a user has none
    if first.endswith(".py"):
        first = str(REPOSITORY / first)
    else:
        environment["PYTHONPATH"] = str(REPOSITORY)

    def popen(stdout):
        return subprocess.Popen(
            [sys.executable, first, *others],
            cwd=cwd,
            env=environment,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    if output is None:
        return popen(subprocess.PIPE)
    with open(output, "w") as file:
        return popen(file)


def finish(process):
    """Waits for a process; gives its returncode and the output, all that it printed."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return SimpleNamespace(returncode=process.returncode, output=output)


def run(*words, cwd, **changes):
    """Runs Python in a folder to its end; see start and finish."""
    return finish(start(*words, cwd=cwd, **changes))


def require_success(done):
    """Requires status 0; gives the output."""
    assert done.returncode == 0, done.output
    return done.output


def require_refusal(done, *words):
    """Requires status 1 and one readable message that holds all words."""
    assert done.returncode == 1, done.output
    assert "Traceback" not in done.output
    assert done.output.count("ERROR: ") == 1, done.output
    assert mentions(done.output.partition("ERROR: ")[2], *words), done.output


# What libraries say of themselves, in small letters.
CHATTER = ("tensorflow/", "absl", "onednn", "cuda", "warning", "freshly", "e0000", "i0000")
LONGEST_START = 12


def require_quiet(lines, first):
    """Requires few lines, the first of them ours, and none of what libraries say of themselves."""
    assert lines[0].startswith(first), lines
    assert len(lines) <= LONGEST_START, lines
    assert not [line for line in lines if any(word in line.lower() for word in CHATTER)], lines


class Killed(BaseException):
    """What a test raises where a process would be killed."""


# ---------------------------------------------------------------- many starts


@functools.cache
def _loaded():
    """Gives what starts processes in which TensorFlow is loaded: they are forks of one that is."""
    loaded = multiprocessing.get_context("forkserver")
    stories = [module for task in TASKS.values() for module in (task.training, task.testing)]
    loaded.set_forkserver_preload(["src.launch", "src.predict_folder", *stories])
    return loaded


def fork(script, *words, cwd, output, fault=None):
    """Starts a script of the repository like `start`, some seconds sooner.

    Args:
        script: its name.
        words: its arguments.
        cwd: the folder.
        output: file for all that is printed.
        fault: function without arguments that is called first in the process.
    Returns:
        Forked.
    """
    return Forked(_loaded().Process(target=_launch, args=(script, words, cwd, output, fault)))


def run_forked(script, *words, cwd):
    """Runs such a script in a folder to its end, as `run` does; the folder keeps its output."""
    output = Path(cwd) / f"{script}.output"
    status = fork(script, *words, cwd=cwd, output=output).wait()
    return SimpleNamespace(returncode=status, output=output.read_text())


class Forked:
    """A process of multiprocessing, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, process):
        self.process = process
        process.start()

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=TIMEOUT):
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.process.exitcode

    def send_signal(self, number):
        os.kill(self.process.pid, number)


def _launch(script, words, folder, output, fault):
    from src import launch, predict_folder

    steps = {
        "run_training.py": partial(launch.launch, "training"),
        "run_testing.py": partial(launch.launch, "testing"),
        "run_prediction.py": predict_folder.main,
    }
    with open(output, "w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update(ON_THE_CPU)
    os.chdir(folder)
    sys.argv = [script, *map(str, words)]
    if fault:
        fault()
    if script in steps:
        sys.exit(steps[script]())
    sys.exit(run_script(importlib.import_module(script.removesuffix(".py")).main))


def wait_until(condition, process):
    """Waits for something that a process brings about; fails if it ends before."""
    latest = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, f"ended with status {process.poll()}"
        assert time.monotonic() < latest, "waited too long"
        time.sleep(0.01)
